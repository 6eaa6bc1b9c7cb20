"""Token shards: written on all cores, read as memory maps, checked, viewed as rows and shown as text."""
