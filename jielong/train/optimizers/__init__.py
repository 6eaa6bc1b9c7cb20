"""Optimizers: which parameters, by which rule, what is remembered, and an average of the weights."""
