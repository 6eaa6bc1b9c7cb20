"""GGUF files of our models, for llama.cpp, Ollama and whatever reads them: tensors, tokenizer and settings in one file."""
