"""Encode text into token ids in compiled code, equal to the `tokenizers` library token by token."""
