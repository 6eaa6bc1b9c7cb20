"""jielong (接龙): from a folder of raw Chinese text to a language model that continues it.

STAGES states the order of the house once, left to right. The CLI's help, the README's tree, the recipe's sections and
the import test all read it. This module imports nothing.
"""

__version__ = "0.1.0"

STAGES = {
    "data": "read, clean, measure, deduplicate and split the raw text into documents",
    "tokenizer": "train or import a tokenizer, and turn the documents into token shards",
    "model": "shape and initialise the transformer, as a Hugging Face model folder",
    "train": "train it on the shards, with exact resume",
    "tune": "teach it to answer, from conversations",
    "align": "let it prefer: reward models, DPO, PPO, GRPO",
    "quantize": "the same model in fewer bits, and what that costs",
    "infer": "continue the recipe's prompts",
    "evaluate": "measure bits per byte on the validation documents",
}
