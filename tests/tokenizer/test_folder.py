"""Opening anybody's tokenizer folder, and what is said when it can not be used."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from jielong.errors import InputError, TokenizerError
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config
from jielong.tokenizer.folder import copy_folder, identity_loss, input_files, open_folder, vocabulary_file
from tests.tokenizer.importing.test_sentencepiece_model import SETTINGS, train
from tests.tokenizer.importing.test_tiktoken_file import KIND, small_tokens, write

REAL = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"


def make(path: Path) -> Path:
    bpe.save(bpe.train(["中国人民很高兴"] * 5, 300, Config().specials, 2, True), path)
    return path


def edit(path: Path, **changes: object) -> None:
    file = path / "tokenizer_config.json"
    file.write_bytes(orjson.dumps(orjson.loads(file.read_bytes()) | changes))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.path: no such folder or file"):
        open_folder(tmp_path / "nowhere")


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json"):
        open_folder(tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(TokenizerError, match="not valid JSON"):
        open_folder(folder)
    make(folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TokenizerError, match="cannot be read as a tokenizer"):
        open_folder(folder)


def test_end_token_missing_unknown_or_told(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    edit(folder, eos_token=None)
    assert open_folder(folder).end_token == "<|endoftext|>"  # a well-known name
    told = open_folder(folder, end_token="<|im_end|>")
    assert told.end_id == 2
    copy_folder(told, tmp_path / "b")
    assert open_folder(tmp_path / "b").end_token == "<|im_end|>"  # the copy says it itself
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}', encoding="utf-8")
    copy_folder(open_folder(folder, end_token="<|im_end|>"), tmp_path / "c")
    assert open_folder(tmp_path / "c").end_token == "<|im_end|>"  # whatever the map said
    (folder / "special_tokens_map.json").unlink()
    edit(folder, eos_token="</s>")
    with pytest.raises(TokenizerError, match="not in the vocabulary, got '</s>'"):
        open_folder(folder)


def test_special_tokens_as_tables_and_in_the_map(tmp_path: Path) -> None:
    folder = make(tmp_path)
    edit(folder, eos_token={"content": "<|im_end|>", "lstrip": False})
    assert open_folder(folder).end_id == 2
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|im_start|>"}', encoding="utf-8")
    assert open_folder(folder).end_id == 1


def test_an_empty_prompt_starts_a_fresh_text(tmp_path: Path) -> None:
    opened = open_folder(make(tmp_path))
    assert opened.encode_prompt("") == [opened.end_id]
    assert opened.encode_prompt("中国") == opened.encode(["中国"])[0]
    with pytest.raises(InputError, match="prompt: not valid text"):
        opened.encode_prompt("\udcff")


def test_a_tokenizer_without_an_end_token(tmp_path: Path) -> None:
    bpe.save(bpe.train(["中国</s>"] * 5, 300, ("<x>",), 2, True), tmp_path)
    edit(tmp_path, eos_token=None)
    with pytest.raises(TokenizerError, match="names no end-of-text token"):
        open_folder(tmp_path)
    with pytest.raises(TokenizerError, match=r"not in the vocabulary, got '<y>' in tokenizer\.end_token"):
        open_folder(tmp_path, end_token="<y>")
    assert open_folder(tmp_path, end_token="<x>").end_id == 0


def sentencepiece_folder(path: Path, name: str = "tokenizer.model") -> Path:
    path.mkdir(exist_ok=True)
    (path / name).write_bytes(train(**SETTINGS["bpe, bytes"]))
    return path


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "mine.model"])
def test_a_sentencepiece_folder(name: str, tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path / "a", name)
    opened, alone = open_folder(folder), open_folder(folder / name)
    assert (opened.end_token, opened.end_id, opened.start_id) == ("</s>", 2, 1) == (
        alone.end_token, alone.end_id, alone.start_id,
    )  # fmt: skip
    text = "北京的教育工作 the news\n 12%"
    [ids] = opened.encode([text])
    assert opened.decode(ids) == text and alone.encode([text]) == [ids]
    assert "".join(opened.cut(text)) == " " + text  # the space that begins every text is shown
    assert opened.encode_prompt("北京") == opened.encode(["北京"])[0]
    edit_to = {
        "tokenizer_class": "LlamaTokenizer",
        "chat_template": "{{ messages }}",
        "auto_map": {"AutoTokenizer": ["x", None]},
    }
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(edit_to))
    assert open_folder(folder).encode_prompt("北京") == [1, *opened.encode(["北京"])[0]]
    (folder / "special_tokens_map.json").write_bytes(orjson.dumps({"bos_token": "<gone>"}))
    assert open_folder(folder).encode_prompt("北京")[0] == 1  # the file's own
    (folder / "special_tokens_map.json").unlink()
    copy_folder(open_folder(folder), tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    copied = open_folder(tmp_path / "b")
    assert copied.encode([text]) == [ids] and copied.encode_prompt("北京")[0] == 1
    assert {role: x.token for role, x in copied.specials.found.items()} == {
        role: x.token for role, x in opened.specials.found.items()
    }
    table = orjson.loads((tmp_path / "b" / "tokenizer_config.json").read_bytes())
    assert table["tokenizer_class"] == "PreTrainedTokenizerFast" and "auto_map" not in table and table["chat_template"]


def test_hugging_face_reads_a_copy_alike(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    opened = open_folder(sentencepiece_folder(tmp_path / "a"))
    copy_folder(opened, tmp_path / "b")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "b")
    for text in ("北京  的\n教育", " the news", "</s>x"[4:]):
        assert theirs(text)["input_ids"] == opened.encode([text])[0]
        assert theirs.decode(opened.encode([text])[0]) == text
    assert (theirs.eos_token_id, theirs.bos_token_id) == (2, 1)


def test_tokens_that_the_tables_add(tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path / "a")
    size = open_folder(folder).size
    (folder / "added_tokens.json").write_bytes(orjson.dumps({"<pad>": size}))
    table = {
        "added_tokens_decoder": {"2": {"content": "</s>"}, str(size + 1): {"content": "<|im_end|>"}},
        "pad_token": "<pad>",
    }
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(table))
    opened = open_folder(folder)
    assert opened.size == size + 2
    assert (opened.specials.id_of("padding"), opened.specials.id_of("turn_end")) == (size, size + 1)
    assert size + 1 not in opened.encode(["a<|im_end|>"])[0]
    (folder / "added_tokens.json").write_bytes(orjson.dumps({"<pad>": size + 5}))
    with pytest.raises(TokenizerError, match=r"the added token '<.*>' cannot have its id"):
        open_folder(folder)


def test_chatglm_adds_its_own_tokens(tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path)
    size = open_folder(folder).size
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps({"tokenizer_class": "ChatGLMTokenizer"}))
    opened = open_folder(folder)
    assert opened.size == size + 5
    assert opened.encode_prompt("北京")[:2] == [opened.backend.token_to_id(token) for token in ("[gMASK]", "sop")]
    assert not set(range(size, size + 5)) & set(opened.encode(["[gMASK]sop eop"])[0])


def test_a_tiktoken_file(tmp_path: Path) -> None:
    write(tmp_path / "x.tiktoken", small_tokens())
    with pytest.raises(TokenizerError, match="its first cut is not known"):
        open_folder(tmp_path)
    with pytest.raises(TokenizerError, match="names no end-of-text token"):
        open_folder(tmp_path, pattern=KIND.pattern)
    (tmp_path / "tokenizer_config.json").write_bytes(
        orjson.dumps({"added_tokens_decoder": {str(len(small_tokens())): {"content": "<|endoftext|>"}}})
    )
    for path in (tmp_path, tmp_path / "x.tiktoken"):
        opened = open_folder(path, pattern=KIND.pattern)
        assert opened.end_id == len(small_tokens())
        assert opened.decode(opened.encode(["中国人民 \n12"])[0]) == "中国人民 \n12"


def test_a_file_where_a_folder_is_expected(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    opened = open_folder(folder / "tokenizer.json")
    assert opened.end_token == "<|endoftext|>" and opened.encode(["中国"]) == open_folder(folder).encode(["中国"])
    (folder / "tokenizer.json").rename(folder / "other.json")
    renamed = open_folder(folder / "other.json")
    copy_folder(renamed, tmp_path / "b")
    assert (tmp_path / "b" / "tokenizer.json").read_bytes() == (folder / "other.json").read_bytes()
    assert open_folder(tmp_path / "b").encode(["中国"]) == opened.encode(["中国"])


def test_which_files_count(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    assert [name for name, _ in input_files(folder)] == ["tokenizer.json", "tokenizer_config.json"]
    assert [name for name, _ in input_files(folder / "tokenizer.json")] == ["tokenizer.json", "tokenizer_config.json"]
    models = sentencepiece_folder(sentencepiece_folder(tmp_path / "b", "one.model"), "two.model")
    with pytest.raises(TokenizerError, match=r"several tokenizers, got one\.model, two\.model; give one of the files"):
        vocabulary_file(models)
    assert [name for name, _ in input_files(models / "one.model")] == ["one.model"]
    assert vocabulary_file(tmp_path) is None


def test_identity_loss(tmp_path: Path) -> None:
    assert identity_loss(open_folder(make(tmp_path / "a")), ["中国 ▁", "", " x  "]).changed == 0
    lossy = identity_loss(open_folder(sentencepiece_folder(tmp_path / "b")), ["北京", "写作▁号", "▁"])
    assert (lossy.texts, lossy.changed, lossy.before, lossy.after) == (3, 2, "写作▁号", "写作 号")


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    table = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_bytes(orjson.dumps(table))
    (tmp_path / "mine.py").write_text("raise SystemExit('the code ran')", encoding="utf-8")
    with pytest.raises(TokenizerError, match="transformers cannot convert it"):
        open_folder(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tokenizers lie outside the project, in ../shared/data")
@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("minimind", "<|im_end|>"),
        ("deepseek", "<｜end▁of▁sentence｜>"),
        ("chinese_llama2", "</s>"),
        ("chatglm2", "</s>"),
        ("chinese_llama_sp20k/chinese_sp.model", "</s>"),
        ("llama3", "<|end_of_text|>"),
        ("qwen1", "<|endoftext|>"),
        ("qwen1/qwen.tiktoken", "<|endoftext|>"),
    ],
)
def test_real_tokenizers_open(name: str, end: str) -> None:
    opened = open_folder(REAL / name)
    assert opened.end_token == end
    text = "中国人民银行今天宣布，下调存款准备金率0.5个百分点。"
    [ids] = opened.encode([text])
    assert max(ids) < opened.size
    # this one's normalizer writes full-width punctuation as ASCII
    assert opened.decode(ids) == (text.replace("，", ",") if "sp20k" in name else text)
