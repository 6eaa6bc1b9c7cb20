"""Models whose matrices are held in few bits: their layers, the files they come from, and how both are packed."""
