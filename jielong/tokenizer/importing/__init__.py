"""Tokenizers that others made: sentencepiece models, tiktoken files, their special tokens; and new words for any of them."""
