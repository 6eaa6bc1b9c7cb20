"""Engines: what carries out a training step, on one device or on many. `interface.py` says what the loop needs of one."""
