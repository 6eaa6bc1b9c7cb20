"""`jielong tokenizer report`, beside the stage command of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.main

from jielong.__main__ import app, reports
from tests.corpus import texts, write_jsonl, write_recipe
from tests.test_cli import as_json, jielong
from tests.tokenizer.reporting.folders import both


def test_tables_json_and_the_page(tmp_path: Path) -> None:
    names = both(tmp_path)
    write_jsonl(tmp_path / "my" / "新闻.jsonl", texts(30))
    out, _ = jielong("tokenizer", "report", *names, "--text", "my", "--hidden", "512", cwd=tmp_path)
    assert "chars/token" in out and "新闻" in out and "26M, width 512" in out and "tokenizers.html" in out
    page = (tmp_path / "tokenizers.html").read_text(encoding="utf-8")
    assert "分词器报告" in page and 'title="' in page
    out, _ = jielong(
        "tokenizer", "report", names[0], "--text", "my/*.jsonl", "--out", "a/b.html", "--json", cwd=tmp_path
    )
    result = as_json(out)
    assert result["ok"] and result["page"] == "a/b.html" and (tmp_path / "a" / "b.html").is_file()
    assert result["tokenizers"][0]["total"]["documents"] == 30 and len(out.splitlines()) == 1


def test_the_stage_command_is_what_it_was_and_its_run_can_be_reported(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    result = as_json(jielong("tokenizer", "mini.toml", "--set", "tokenizer.vocab_size=300", "--json", cwd=tmp_path)[0])
    assert result["stages"]["tokenizer"]["counts"]["vocab_size"] == 300
    found = as_json(jielong("tokenizer", "report", "mini", "--json", cwd=tmp_path)[0])
    assert [one["name"] for one in found["tokenizers"]] == ["mini"] and found["tokenizers"][0]["vocab_size"] == 300
    assert found["texts"][0]["name"] == "demonstration" and found["tokenizers"][0]["total"]["different"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "TOKENIZER: neither a folder or file nor a run in runs, got 'nowhere'"),
        (["bytes", "--hidden", "wide"], "--hidden: not a width, got 'wide'"),
        (["bytes", "--text", "none.jsonl"], "nothing found at"),
        (["bytes", "--out", "."], "--out: a folder, got ."),
        (["bytes", "--max-megabytes", "inf"], "--max-megabytes: not a size, got inf"),
    ],
)
def test_one_sentence_and_status_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    both(tmp_path)
    out, err = jielong("tokenizer", "report", *arguments, "--json", cwd=tmp_path, status=2)
    assert message in err and as_json(out)["ok"] is False
    assert not (tmp_path / "tokenizers.html").exists()


def test_every_option_has_help_and_the_stage_names_the_report() -> None:
    command = typer.main.get_command(reports)
    assert command.help and all(getattr(parameter, "help", None) for parameter in command.params)
    stage = typer.main.get_command(app).commands["tokenizer"]  # type: ignore[attr-defined]
    assert "tokenizer report" in stage.help
    assert stage.make_context("tokenizer", ["report", "a", "b"]).params["tokenizers"] == ["a", "b"]
    assert stage.make_context("tokenizer", ["report.toml"]).params["recipe"] == "report.toml"
