"""A GGUF file beside the model that it was made of, in llama.cpp itself, where its Python binding is installed.

A few beginnings are continued with the likeliest tokens on both sides. Full and 16-bit files say the same until two tokens are nearly equally
likely; files of few bits say something else sooner, as any quantized model does.
"""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import torch

from jielong.model.hf import load_folder
from jielong.tokenizer.folder import open_folder

BEGINNINGS = ("中国的首都是", "春天来了，", "The quick brown fox")
TOKENS = 16


@torch.no_grad()
def parity(source: Path, file: Path) -> dict[str, Any] | None:
    """How far llama.cpp agrees: texts cut into the same ids, of how many, and of each continuation the tokens before the first that differs, of
    TOKENS. None: there is no binding (llama_cpp).
    """
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    import llama_cpp

    tokenizer, ours = open_folder(source), load_folder(source).eval()
    theirs = llama_cpp.Llama(str(file), n_ctx=128, verbose=False)
    cuts, agreed = 0, []
    for text in BEGINNINGS:
        ids = tokenizer.encode([text])[0]
        cuts += theirs.tokenize(text.encode("utf-8"), add_bos=False, special=False) == ids
        said = list(itertools.islice(theirs.generate(ids, temp=0.0, repeat_penalty=1.0), TOKENS))
        row = torch.tensor([ids])
        for _ in range(TOKENS):
            row = torch.cat([row, ours(row)[:, -1:].argmax(dim=-1)], dim=1)
        pairs = zip(said, row[0, len(ids) :].tolist(), strict=False)
        agreed.append(sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return {"texts": len(BEGINNINGS), "same_ids": cuts, "tokens": TOKENS, "same_tokens": agreed}
