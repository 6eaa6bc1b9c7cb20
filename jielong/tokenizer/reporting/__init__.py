"""`jielong tokenizer report`: tokenizers beside each other, on the same texts, as tables, JSON and one page."""
