"""Two small tokenizers of the two ways of writing tokens, and what `compare` makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    "中国人民很高兴，今天天气很好。",
    "人工智能是研究智能的科学，\n用 GPT 生成 2024 个字。",
    "def f(x):\n\treturn x + 1  # 加一",
    "天气好，人民高兴。\r\n\x00 𠮷野家 👍 臺灣",
]


def save(backend: tokenizers.Tokenizer, folder: Path, end: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    table = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "bos_token": end}
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(table))
    return folder


def byte_level(folder: Path, size: int = 320) -> Path:
    """A byte-level BPE: every text comes back."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    backend.train_from_iterator(["中国人民很高兴", "天气很好", "人工智能"] * 5, trainer=trainer)
    return save(backend, folder, "<|endoftext|>")


def sentencepiece_like(folder: Path) -> Path:
    """Pieces with byte fallback and a space before the text, which is taken away again: a text that begins with one changes."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)] + [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    words = [
        "▁",
        "中国",
        "中",
        "国",
        "人民",
        "人",
        "民",
        "很",
        "高兴",
        "▁GPT",
        "，",
        "。",
        "中国人民很高兴啊啊啊",
        "点击免费下载",
    ]
    pieces += [(word, -2.0) for word in words]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Replace(tokenizers.Regex(r"\A "), ""), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return save(backend, folder, "</s>")


def both(folder: Path) -> list[str]:
    """The paths of one of each."""
    return [str(byte_level(folder / "bytes")), str(sentencepiece_like(folder / "pieces"))]


def report(folder: Path, **more: Any) -> dict[str, Any]:
    """What `compare` says of both, on TEXTS."""
    from jielong.tokenizer.reporting.comparing import compare

    rows = b"".join(orjson.dumps({"text": text.replace("\x00", "")}) + b"\n" for text in (*TEXTS, " 中国"))
    (folder / "新闻<b>.jsonl").write_bytes(rows)
    return compare(both(folder), [str(folder / "新闻<b>.jsonl")], folder / "runs", 1, more.pop("hidden", None))
