"""Open a tokenizer, ours or anybody's, with one small interface.

What is given is a folder or a file. A folder is looked through for, in this order: `tokenizer.json`, read by the `tokenizers`
library directly; a sentencepiece `*.model` or a tiktoken rank file (told apart by their content, as Llama 3 names its ranks
`tokenizer.model`), built into a native tokenizer by `importing/`; and last what only `transformers` can convert (`vocab.json`
with `merges.txt`), which takes seconds to import. Code that lies in the folder is never run.

A tokenizer that was built here is written down once as tokenizer.json (`copy_folder`), with a configuration that lets
`AutoTokenizer` take it as it is, so that shards, our own generation and every tool downstream cut alike.

Text that happens to contain a special token's spelling ("<|endoftext|>" in a page about language models) is encoded as
ordinary text: a document can not end itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import tokenizers
from tokenizers import processors

from jielong.errors import InputError, TokenizerError
from jielong.runs import write_json
from jielong.tokenizer.importing import sentencepiece_model, specials, tiktoken_file
from jielong.tokenizer.importing.specials import Specials

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
TABLES = ("special_tokens_map.json", "tokenizer_config.json", "generation_config.json")  # that name special tokens
MODEL_NAMES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")  # if there are several, these are meant
# what a configuration may keep of a tokenizer that was built here; the rest is about the code it had before
KEPT_SETTINGS = ("chat_template", "model_max_length", "padding_side", "add_bos_token", "additional_special_tokens")


@dataclass(frozen=True)
class TokenizerFolder:
    """An opened tokenizer. `size` counts every id, added tokens included (largest id + 1)."""

    path: Path  # as it was given: a folder or a file
    backend: tokenizers.Tokenizer
    size: int
    end_token: str
    end_id: int
    start_id: int | None  # bos, where the folder names one; a model's config.json has the last word (infer/models.py)
    stop_ids: frozenset[int] = frozenset()  # further ids that end a text, from a model's generation_config.json
    file: Path | None = None  # where the vocabulary was read; None: by transformers
    specials: Specials = field(default_factory=Specials)  # which special tokens were found, and which are missing

    @property
    def home(self) -> Path:
        """The folder that holds the tokenizer's files."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def built(self) -> bool:
        """Whether the tokenizer was built here from another format."""
        return self.file is not None and self.file.suffix != ".json"

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens, on all cores."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt with the special tokens that this tokenizer itself adds (a Llama's <s>, say)."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(f"prompt: not valid text, got {text!r}; give it in UTF-8") from None
        ids = list(self.backend.encode(text, add_special_tokens=True).ids)
        return ids or [self.start_id if self.start_id is not None else self.end_id]

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, special tokens left out; bytes that are no UTF-8 show as U+FFFD."""
        return str(self.backend.decode(ids, skip_special_tokens=True))

    def cut(self, text: str) -> list[str]:
        """The pieces a text is cut into, for people; a piece that is no whole character shows its bytes as <E4><B8>."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        pieces = []
        for token_id, token in zip(encoding.ids, encoding.tokens, strict=True):
            piece = str(self.backend.decode([token_id], skip_special_tokens=False))
            if token.startswith(sentencepiece_model.SPACE) and not piece.startswith(" "):
                piece = f" {piece}"  # a decoder drops the space that every text of a sentencepiece model begins with
            pieces.append(show_bytes(token) if "\ufffd" in piece else piece)
        return pieces


def show_bytes(token: str) -> str:
    """A token in the byte alphabet for people: <E4><B8>."""
    table = {char: byte for byte, char in enumerate(tiktoken_file.byte_characters())}
    return "".join(f"<{table[c]:02X}>" if c in table else c for c in token)


@dataclass(frozen=True)
class IdentityLoss:
    """How many texts come back changed from encode and decode, and the first place where one does."""

    texts: int = 0
    changed: int = 0
    before: str = ""  # around the first difference: the text ...
    after: str = ""  # ... and what came back


def identity_loss(tokenizer: TokenizerFolder, texts: Iterable[str], around: int = 20) -> IdentityLoss:
    """Whether decode(encode(text)) is the text. Ours and other byte-level tokenizers lose nothing; a sentencepiece model may
    (normalization, spaces run together, U+2581 read as a space, no byte fallback), as does one with a normalizer (Qwen's NFC).
    """
    count = changed = 0
    before = after = ""
    for text in texts:
        count += 1
        [ids] = tokenizer.encode([text])
        back = tokenizer.decode(ids)
        if back == text:
            continue
        changed += 1
        if changed == 1:
            same = next((n for n, pair in enumerate(zip(text, back, strict=False)) if pair[0] != pair[1]), None)
            at = min(len(text), len(back)) if same is None else same
            before, after = (x[max(0, at - around) : at + around] for x in (text, back))
    return IdentityLoss(count, changed, before, after)


# --------------------------------------------------------------------------------------------------------- opening


def vocabulary_file(path: Path) -> Path | None:
    """The file that holds the vocabulary of a folder or is itself given; None where only transformers may find one.

    Raises TokenizerError for a path that is not there and for a folder with several candidates.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise TokenizerError(
            f"tokenizer.path: no such folder or file, got {path}; give a folder that holds tokenizer.json, a .model or a "
            ".tiktoken file, or such a file"
        )
    for name in ("tokenizer.json", *MODEL_NAMES):
        if (path / name).is_file():
            return path / name
    others = sorted([*path.glob("*.model"), *path.glob("*.tiktoken")])
    if len(others) > 1:
        raise TokenizerError(
            f"{path}: several tokenizers, got {', '.join(x.name for x in others)}; give one of the files"
        )
    return others[0] if others else None


def input_files(path: Path) -> list[tuple[str, Path]]:
    """(name, path) of every file that determines what `open_folder(path)` gives. Raises TokenizerError as it does."""
    file = vocabulary_file(path)
    home = path if path.is_dir() else path.parent
    given = [] if file is None else [(file.name, file)]
    # beside a file that is given, only the tables that name special tokens count
    beside = dict.fromkeys((*FILES, *TABLES)) if path.is_dir() else (*TABLES, "added_tokens.json")
    return given + [(name, home / name) for name in beside if (home / name).is_file() and home / name != file]


def open_folder(path: Path, end_token: str | None = None, pattern: str | None = None) -> TokenizerFolder:
    """Open a tokenizer folder or file. `pattern`: the first cut of a tiktoken file that is not a known one. Raises
    TokenizerError naming what is missing."""
    file = vocabulary_file(path)
    home = path if path.is_dir() else path.parent
    tables = {name: _read_json(home / name) for name in TABLES}
    backend, roles, prefix = _backend(path, file, tables["tokenizer_config.json"], pattern)
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    found = specials.find(backend, tables, roles, end_token)
    if "end" not in found.found:
        if specials.ABSENT not in found.missing["end"]:
            raise TokenizerError(
                f"{path}: the tokenizer names no end-of-text token (eos_token) and has no well-known one; name one of its "
                "tokens with tokenizer.end_token"
            )
        raise TokenizerError(f"{path}: the end-of-text token is {found.missing['end']}; correct it")
    start = [found.found["start"].token] if "start" in found.found else []
    if starts := start if prefix == ("start",) else list(prefix):
        backend.post_processor = processors.TemplateProcessing(
            single=" ".join([*starts, "$A"]), special_tokens=[(token, backend.token_to_id(token)) for token in starts]
        )
    end = found.found["end"]
    size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
    return TokenizerFolder(path, backend, size, end.token, end.id, found.id_of("start"), file=file, specials=found)


def _backend(
    path: Path, file: Path | None, config: dict[str, Any], pattern: str | None
) -> tuple[tokenizers.Tokenizer, dict[str, str], tuple[str, ...]]:
    """The tokenizer, what its file says of roles, and what prompts begin with: tokens, or the role `start`."""
    if file is None:
        return _converted(path), {}, ()
    with file.open("rb") as opened:
        head = opened.read(200)
    if file.suffix == ".json":
        try:
            return tokenizers.Tokenizer.from_file(str(file)), {}, ()
        except Exception as error:  # the library raises bare Exception for a damaged file
            raise TokenizerError(f"{file}: cannot be read as a tokenizer ({error}); get the file again") from None
    name = str(config.get("tokenizer_class", ""))
    if tiktoken_file.looks_like(head):
        tokens = tiktoken_file.read(file)
        kind = tiktoken_file.kind_of(len(tokens), file, pattern)
        backend, roles = tiktoken_file.build(tokens, kind), dict(kind.roles)
        starts = kind.starts_prompts
    else:
        model = sentencepiece_model.read(file)
        backend, roles = sentencepiece_model.build(model, file), model.specials
        starts = name.startswith(("Llama", "CodeLlama"))
        if name == "ChatGLMTokenizer":
            backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in specials.CHATGLM_TOKENS])
            return _with_added(backend, file, config), roles, specials.CHATGLM_PREFIX
    starts = bool(config.get("add_bos_token", starts)) and ("start" in roles or "bos_token" in config)
    return _with_added(backend, file, config), roles, ("start",) if starts else ()


def _with_added(backend: tokenizers.Tokenizer, file: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokens that the folder's tables add after those of the vocabulary's file, at their ids. Raises TokenizerError for an
    id that cannot be given."""
    table: dict[int, dict[str, Any]] = {
        int(value): {"content": key} for key, value in _read_json(file.parent / "added_tokens.json").items()
    }
    table |= {int(key): value for key, value in dict(config.get("added_tokens_decoder") or {}).items()}
    for token_id, entry in sorted(table.items()):
        text, special = specials.content(entry), bool(entry.get("special", True))
        if text is None:
            continue
        token = tokenizers.AddedToken(text, normalized=False, special=special)
        if special:
            backend.add_special_tokens([token])
        else:
            backend.add_tokens([token])
        if backend.token_to_id(text) != token_id:
            raise TokenizerError(
                f"{file.parent}: the added token {text!r} cannot have its id, got {token_id}; the vocabulary's next is "
                f"{backend.token_to_id(text)}; give a tokenizer.json"
            )
    return backend


def _converted(path: Path) -> tokenizers.Tokenizer:
    from transformers import AutoTokenizer

    try:
        # code that lies in the folder is never run
        opened = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        backend = opened.backend_tokenizer
    except Exception as error:  # any of dozens, depending on the tokenizer's class
        reason = " ".join(str(error).split())[:200]
        raise TokenizerError(
            f"{path}: holds no tokenizer.json, no *.model and no *.tiktoken, and transformers cannot convert it ({reason}); "
            "give another tokenizer"
        ) from None
    assert isinstance(backend, tokenizers.Tokenizer)
    return backend


# --------------------------------------------------------------------------------------------------------- copying


def copy_folder(source: TokenizerFolder, target: Path) -> None:
    """Copy a tokenizer's files (nothing else that may lie in its folder) and make sure tokenizer.json is among them.

    Of a tokenizer that was built here the old files stay behind: a library that finds them would build it another way.
    """
    target.mkdir(parents=True, exist_ok=True)
    if source.built:
        _write_built(source, target)
        return
    for name in FILES if source.path.is_dir() else TABLES[:2]:
        if (source.home / name).is_file():
            shutil.copyfile(source.home / name, target / name)
    if source.file is not None and source.file != source.home / "tokenizer.json":
        shutil.copyfile(source.file, target / "tokenizer.json")
    if not (target / "tokenizer.json").is_file():
        source.backend.save(str(target / "tokenizer.json"))
    # the end token was told by the recipe, perhaps; every later reader finds it in the copy
    if (target / "special_tokens_map.json").is_file():
        table = _read_json(target / "special_tokens_map.json")
        write_json(target / "special_tokens_map.json", table | {"eos_token": source.end_token})
    config = _read_json(target / "tokenizer_config.json")
    config["eos_token"] = source.end_token
    config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    write_json(target / "tokenizer_config.json", config)


def _write_built(source: TokenizerFolder, target: Path) -> None:
    """tokenizer.json and a configuration that has nothing of the former class."""
    source.backend.save(str(target / "tokenizer.json"))
    before = _read_json(source.home / "tokenizer_config.json")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{key: before[key] for key in KEPT_SETTINGS if key in before},
    }
    for role, (key, _) in specials.FIELDS.items():
        if key is not None:
            special = source.specials.found.get(role)
            config[key] = None if special is None else special.token
    write_json(target / "tokenizer_config.json", config)
    template = source.home / "chat_template.jinja"
    if template.is_file():
        shutil.copyfile(template, target / template.name)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise TokenizerError(f"{path}: not valid JSON ({error}); get the file again") from None
    return value if isinstance(value, dict) else {}
