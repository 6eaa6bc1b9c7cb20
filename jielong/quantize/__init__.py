"""The quantize stage: the same model in fewer bits."""
