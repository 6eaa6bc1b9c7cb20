"""Train vocabularies: merges of byte-level BPE, Unigram pieces."""
