"""The trained tokenizer: identity on any text, a Hugging Face folder, the Chinese-aware first cut."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from jielong.errors import TokenizerError
from jielong.tokenizer import bpe
from jielong.tokenizer.config import CHAT_TOKENS, END_OF_TEXT, Config
from jielong.tokenizer.folder import TokenizerFolder, open_folder

TEXTS = [
    "中国人民银行今天宣布下调存款准备金率。",
    "美国总统特朗普今天发表讲话，中国人民很高兴。",
    "１９９８年，中国改革开放２０周年。2024年 GDP growth was 5.2%.",
    "人工智能是研究、开发用于模拟人的智能的科学。",
] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    config = Config(vocab_size=400)
    bpe.save(bpe.train(TEXTS, 400, config.specials, 2, True), path)
    return path


@pytest.fixture(scope="module")
def opened(folder: Path) -> TokenizerFolder:
    return open_folder(folder)


def test_ids_and_specials(opened: TokenizerFolder) -> None:
    assert opened.size <= 400
    assert (opened.end_token, opened.end_id, opened.start_id) == (END_OF_TEXT, 0, 0)
    assert [opened.backend.token_to_id(token) for token in CHAT_TOKENS] == [1, 2]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=300, deadline=None)
def test_identity_on_any_text(opened: TokenizerFolder, text: str) -> None:
    [ids] = opened.encode([text])
    assert opened.decode(ids) == text
    assert all(0 <= token < opened.size for token in ids)


def test_special_spellings_in_text_stay_text(opened: TokenizerFolder) -> None:
    text = "文档里写着<|endoftext|>和<|im_start|>，仍是文字"
    [ids] = opened.encode([text])
    assert opened.end_id not in ids
    assert opened.decode(ids) == text


def test_hugging_face_gives_the_same_ids(folder: Path, opened: TokenizerFolder) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in ["中国人民 hello 1998！", "  两个空格\n\n换行", "🀄️龘"]:
        assert theirs(text)["input_ids"] == opened.encode([text])[0]
        assert theirs.decode(theirs(text)["input_ids"]) == text
    assert theirs.eos_token == theirs.bos_token == theirs.pad_token == END_OF_TEXT
    rendered = theirs.apply_chat_template(
        [{"role": "user", "content": "你好"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"


def pieces(text: str, split_digits: bool = True) -> list[str]:
    from tokenizers import Regex, pre_tokenizers

    cut = pre_tokenizers.Split(Regex(bpe.pre_split(split_digits)), behavior="isolated")
    return [piece for piece, _ in cut.pre_tokenize_str(text)]


def test_first_cut_knows_chinese() -> None:
    assert pieces("用GPT生成，再见。") == ["用", "GPT", "生成", "，再见", "。"]
    assert pieces("二〇二四年2024年") == ["二〇二四年", "2", "0", "2", "4", "年"]
    assert pieces("2024年", split_digits=False) == ["2024", "年"]
    assert pieces("print(x) # 注释\n\n好") == ["print", "(x", ")", " #", " 注释", "\n\n", "好"]


def test_no_token_crosses_a_cut(opened: TokenizerFolder) -> None:
    assert not any(mark in token[1:] for token in opened.cut("很高兴，中国人民。") for mark in "，。")
    assert opened.cut("1998") == ["1", "9", "9", "8"]


def test_cut_shows_bytes_of_broken_characters(opened: TokenizerFolder) -> None:
    shown = "".join(opened.cut("龘"))  # not in the training text: bytes E9 BE 98
    assert shown == "<E9><BE><98>"


def test_sample_is_spread_evenly() -> None:
    batches = [[f"{n:03d}" for n in range(start, start + 10)] for start in range(0, 100, 10)]
    assert list(bpe.sample(batches, total_bytes=300, max_bytes=60)) == [f"{n:03d}" for n in range(4, 100, 5)]
    assert len(list(bpe.sample(batches, total_bytes=300, max_bytes=297))) == 99
    assert len(list(bpe.sample(batches, total_bytes=300, max_bytes=1000))) == 100


def test_training_is_deterministic() -> None:
    one, two = (bpe.train(TEXTS, 380, Config().specials, 2, True).to_str() for _ in range(2))
    assert one == two


def test_latin_letters_one_by_one() -> None:
    from tokenizers import Regex, pre_tokenizers

    cut = pre_tokenizers.Split(Regex(bpe.pre_split(True, split_letters=True)), behavior="isolated")
    found = [piece for piece, _ in cut.pre_tokenize_str("用GPT-4，Привет мир")]
    assert found == ["用", "G", "P", "T", "-", "4", "，Привет", " мир"]


@pytest.mark.parametrize("split_letters", [False, True])
def test_the_tokenizer_of_the_library(split_letters: bool) -> None:
    texts = [*TEXTS, "don't stop; print(x)\n\n  return 'ok'  # 注释，再见", "", "🀄️é\u0301 Ελλάδα"] * 3
    specials = ("<|endoftext|>", "<|x|>", "中国", "GDP")
    ours = bpe.train(texts, 420, specials, 2, True, split_letters)
    theirs = bpe.train_plain(texts, 420, specials, 2, True, split_letters)
    assert orjson.loads(ours.to_str()) == orjson.loads(theirs.to_str())


def test_user_words_are_kept_whole() -> None:
    words = ("改革开放", "GDP growth", "国人", "改革开放")
    tokenizer = bpe.train(TEXTS, 400, Config().specials, 2, True, user_words=words)
    assert tokenizer.get_vocab_size() <= 400 and "改革开放" not in Config().specials
    encoding = tokenizer.encode("中国改革开放，GDP growth")
    assert {"改革开放", "GDP growth"} <= set(encoding.tokens)
    assert tokenizer.decode(encoding.ids) == "中国改革开放，GDP growth"
    learned = {tokenizer.decode([number]) for number in range(3 + 256, tokenizer.get_vocab_size() - 3)}
    assert not any("改革" in token or "growth" in token for token in learned)


def test_a_user_word_that_cannot_be_kept_whole() -> None:
    with pytest.raises(TokenizerError, match=r"user_words: cannot be kept whole, got 'café'"):
        bpe.train(TEXTS, 400, Config().specials, 2, True, user_words=("café",))
