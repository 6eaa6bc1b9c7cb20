"""One decoding step of a dense model as one compiled function, for the CPU."""
