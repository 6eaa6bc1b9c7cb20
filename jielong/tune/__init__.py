"""Tune a trained model on conversations."""
