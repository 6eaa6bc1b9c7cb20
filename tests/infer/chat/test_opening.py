"""Who takes turns and who continues text, and what is said about it."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest

from jielong.errors import InputError, TokenizerError
from jielong.infer.chat.opening import Opened, decide, open_all, speakers, stage_of, usable_template
from jielong.infer.config import Config
from jielong.tokenizer.folder import open_folder

CPU = Config(device="cpu")


def opened(*folders: Path) -> list[Opened]:
    return open_all([str(folder) for folder in folders], Path("nowhere"), [CPU] * len(folders))


def checkpoint(folder: Path, run: Path, stage: str) -> Path:
    """A copy of a model folder as a checkpoint of a stage."""
    found = run / stage / "checkpoints" / "step-00000005"
    shutil.copytree(folder, found)
    return found


@pytest.fixture
def without_template(chat_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    shutil.copytree(chat_folder, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = orjson.loads((folder / "tokenizer_config.json").read_bytes())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(config))
    return folder


@pytest.fixture
def without_tokens(chat_folder: Path, tmp_path: Path) -> Path:
    """The vocabulary does not have the tokens that the template writes."""
    folder = tmp_path / "lost"
    shutil.copytree(chat_folder, folder)
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    for number, mark in enumerate(("<|im_start|>", "<|im_end|>")):
        text = text.replace(mark, f"<|reserved_{number}|>")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return folder


def test_the_stage_of_a_checkpoint(tmp_path: Path) -> None:
    assert stage_of(tmp_path / "mine" / "tune" / "checkpoints" / "step-00000005") == "tune"
    assert stage_of(tmp_path / "mine" / "model") is None


def test_by_default_what_was_tuned_takes_turns(chat_folder: Path, tmp_path: Path) -> None:
    trained, tuned = checkpoint(chat_folder, tmp_path, "train"), checkpoint(chat_folder, tmp_path, "tune")
    for folders, turns in (
        ([trained], False),
        ([tuned], True),
        ([chat_folder], True),
        ([trained, tuned], True),  # before and after, with the same turns
        ([tuned, trained], True),
        ([trained, trained], False),
    ):
        templates, reason = decide(opened(*folders), None)
        assert (templates is not None) == turns
        assert (
            "--continue would continue text" if turns else "it is trained but not tuned, so it continues text: --chat"
        ) in reason
    assert decide(opened(trained), True)[0] is not None
    assert decide(opened(tuned), False) == (None, "--chat would take turns")


def test_a_tokenizer_without_a_template(without_template: Path, chat_folder: Path) -> None:
    templates, reason = decide(opened(without_template), None)
    assert (
        templates is None
        and reason == f"it continues text: chat_template: {without_template} has none, so it knows no turns"
    )
    with pytest.raises(
        TokenizerError, match=r"chat_template: .* has none, so it knows no turns; tune the model, or .* --continue"
    ):
        decide(opened(without_template), True)
    with pytest.raises(TokenizerError, match="has none"):  # the other one takes turns
        decide(opened(chat_folder, without_template), None)


def test_a_template_whose_tokens_the_vocabulary_does_not_have(without_tokens: Path) -> None:
    assert open_folder(without_tokens).backend.token_to_id("<|im_end|>") is None
    [one] = opened(without_tokens)
    with pytest.raises(
        TokenizerError,
        match=r"chat_template: ends answers with what is no token, got <\|im_start\|>, <\|im_end\|>, which .* no answer would end; .* --continue",
    ):
        usable_template(one)
    templates, reason = decide([one], None)
    assert templates is None and "it continues text: chat_template: ends answers with what is no token" in reason


def test_marks_of_questions_need_not_be_tokens(chat_folder: Path, tmp_path: Path) -> None:
    """As Zephyr's: roles are plain text, an answer ends with the end of text."""
    folder = tmp_path / "zephyr"
    shutil.copytree(chat_folder, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|endoftext|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        encoding="utf-8",
    )
    assert usable_template(opened(folder)[0]).stops == (open_folder(folder).end_id,)


def test_speakers_and_the_first_line(chat_folder: Path, tmp_path: Path) -> None:
    [one], line = speakers(opened(chat_folder), None, "简短")
    assert one.name == str(chat_folder) and one.template is not None
    assert line == (
        f"{chat_folder}: write a message, press Enter; /help lists commands; empty line or Ctrl-D to leave; "
        "--continue would continue text"
    )
    trained = checkpoint(chat_folder, tmp_path, "train")
    [one], line = speakers(opened(trained), None, "")
    assert one.template is None and line.startswith(f"{trained}: write the start of a text, press Enter; ")
    both, line = speakers(opened(trained, trained), None, "")
    assert [one.name for one in both] == [f"{trained} (1)", f"{trained} (2)"] and line.startswith(
        f"{trained} and {trained}: "
    )
    with pytest.raises(
        InputError, match="--system: only where turns are taken, got '简短'; leave it out, or add --chat"
    ):
        speakers(opened(trained), None, "简短")
