"""Recipes: what is accepted, what is refused and in which words, overrides, and the way back to TOML."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong import STAGES
from jielong.data.config import Config as DataConfig
from jielong.data.reading.readers import expand
from jielong.errors import RecipeError
from jielong.infer.config import Config as InferConfig
from jielong.model.config import Config as ModelConfig
from jielong.recipe import find, load, parse, parse_section, section_class, shipped, to_toml, write_new
from jielong.train.config import Config as TrainConfig
from jielong.tune.config import Config as TuneConfig
from tests.corpus import write_recipe


def test_tiny_is_shipped_and_names_every_stage_of_a_base_model() -> None:
    assert "tiny" in shipped()
    assert list(load("tiny").sections) == [stage for stage in STAGES if stage not in ("tune", "align", "quantize")]


def test_data_of_a_recipe_that_only_tunes_are_conversations(tmp_path: Path) -> None:
    recipe = load("sft-zh", data=[str(tmp_path / "talks" / "*.jsonl")])
    [source] = recipe.section("tune", TuneConfig).sources
    assert source.path == str(tmp_path / "talks" / "*.jsonl") and "data" not in recipe.sections


def test_a_rival_that_is_off_takes_nothing_away() -> None:
    train = load("tiny", ["train.tokens=4096", "train.epochs=none"]).section("train", TrainConfig)
    assert train.tokens == 4096 and train.epochs is None
    train = load("tiny", ["train.tokens=4096", "train.epochs=2"]).section("train", TrainConfig)
    assert train.tokens is None and train.epochs == 2


def test_all_problems_at_once() -> None:
    table = {
        "nme": "x",
        "seed": -1,
        "data": {"sources": [{"name": "a", "pth": "x"}], "chunk_megabyte": 3, "keep_work": "yes"},
        "model": {"hidden_size": "512"},
        "train": 5,
    }
    with pytest.raises(RecipeError) as caught:
        parse(table, Path())
    lines = str(caught.value).splitlines()
    assert lines == [
        "nme: unknown key; did you mean name?",
        "seed: must be a whole number from 0 to 2147483647, got -1; choose one in that range",
        "data.sources.0.path: missing; add it to the recipe's [data] table",
        "data.sources.0.pth: unknown key; did you mean path?",
        'data.keep_work: wrong type or value, got "yes"; must be true or false; change it',
        "data.chunk_megabyte: unknown key; did you mean chunk_megabytes?",
        'model.hidden_size: wrong type or value, got "512"; must be a whole number; change it',
        "train: must be a table, got 5; write [train] on a line of its own",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data", "not valid TOML"),
        (
            "[train]\nphases = []\n[[train.phases]]\nshare = 1.0",
            r"train\.phases is there as a value and as a table at line 3",
        ),
        ("name = 'a/b'", "name: must name a folder, got 'a/b'"),
        ("", "recipe: names no stage"),
        ("[data]\nsources = []", "data.sources: too short, got \\[\\]; must have at least 1 item"),
        ("[data]\nsources = [{name='a', path='x'}, {name='a', path='y'}]", "two sources have the same name, got a"),
        ("description = 3", "description: must be a string"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        load(str(path))


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "gbk.toml"
    path.write_bytes('description = "中文"'.encode("gbk"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        load(str(path))


def test_what_is_not_there() -> None:
    with pytest.raises(RecipeError, match=r"no such file, got nowhere\.toml"):
        find("nowhere.toml")
    with pytest.raises(RecipeError, match="neither a file nor a shipped recipe, got 'nowhere'; shipped: "):
        find("nowhere")


def test_overrides(tmp_path: Path) -> None:
    path = str(write_recipe(tmp_path))
    recipe = load(path, ["train.learning_rate=2e-4", "model.qk_norm=true", 'infer.prompts=["你好"]', "seed=7",
                         "description=一句话", "train.device=cpu"])  # fmt: skip
    assert recipe.section("train", TrainConfig).learning_rate == 2e-4
    assert recipe.section("model", ModelConfig).qk_norm is True
    assert recipe.section("infer", InferConfig).prompts == ("你好",)
    assert (recipe.seed, recipe.description) == (7, "一句话")


def test_an_override_of_one_budget_drops_the_other(tmp_path: Path) -> None:
    recipe = load(str(write_recipe(tmp_path)), ["train.epochs=2"])
    assert (recipe.section("train", TrainConfig).epochs, recipe.section("train", TrainConfig).tokens) == (2.0, None)


@pytest.mark.parametrize("override", ["train.learning_rate", "=3", "train.=3", "name.x=3"])
def test_bad_overrides(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        load(str(write_recipe(tmp_path)), [override])


def test_override_of_an_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.learning_rat: unknown key; did you mean learning_rate\?"):
        load(str(write_recipe(tmp_path)), ["train.learning_rat=1"])


def test_data_replaces_the_sources(tmp_path: Path) -> None:
    recipe = load(str(write_recipe(tmp_path)), data=["a/x.jsonl", "b/x.jsonl.zst", "*.txt"])
    sources = recipe.section("data", DataConfig).sources
    assert [source.name for source in sources] == ["x", "x-2", "data"]
    assert all(Path(source.path).is_absolute() for source in sources)
    assert recipe.section("data", DataConfig).validation_fraction == 0.1  # the rest stays


def test_toml_round_trip(tmp_path: Path) -> None:
    for name in ["tiny", str(write_recipe(tmp_path))]:
        recipe = load(name)
        for comments in (False, True):
            again = tmp_path / "again.toml"
            again.write_text(to_toml(recipe, comments), encoding="utf-8")
            assert load(str(again)).sections == recipe.sections
            assert (load(str(again)).name, load(str(again)).seed) == (recipe.name, recipe.seed)


def test_new_writes_an_explained_recipe_once(tmp_path: Path) -> None:
    file = write_new(str(tmp_path / "mine"), "tiny", ["my/*.txt"])
    text = file.read_text(encoding="utf-8")
    assert file.name == "mine.toml" and load(str(file)).name == "mine"
    for kind in map(section_class, load("tiny").sections):
        for field, info in kind.model_fields.items():
            assert field in text and info.description and info.description in text
    with pytest.raises(RecipeError, match="exists already"):
        write_new(str(file), "tiny", None)
    with pytest.raises(RecipeError, match="folder does not exist"):
        write_new(str(tmp_path / "no" / "mine"), "tiny", None)


def test_paths_of_a_shipped_recipe_start_where_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a user's lies beside a shipped recipe; a recipe of his own has its paths beside it."""
    monkeypatch.chdir(tmp_path)
    wanted = str(tmp_path / "tokenizers" / "chatglm2")
    assert load("baby-llama2").sections["tokenizer"].model_dump()["path"] == wanted
    file = write_new("mine", "baby-llama2", None)
    monkeypatch.chdir("/")
    assert load(str(tmp_path / file)).sections["tokenizer"].model_dump()["path"] == wanted


def test_every_field_has_a_meaning() -> None:
    for stage in STAGES:
        for field, info in section_class(stage).model_fields.items():
            assert info.description, f"{stage}.{field}"


def test_a_section_alone() -> None:
    with pytest.raises(RecipeError, match=r"infer\.temperature: out of bounds, got -1; must be at least 0"):
        parse_section("infer", InferConfig, {"temperature": -1})


def test_any_string_survives_the_way_to_toml_and_back(tmp_path: Path) -> None:
    odd = 'a"\\\x7f\n\t中"\U0001f004\x01'
    path = tmp_path / "odd.toml"
    path.write_text(
        to_toml(parse({"description": odd, "data": {"sources": [{"name": odd, "path": "x"}]}}, tmp_path)), "utf-8"
    )
    again = load(str(path))
    assert again.description == odd
    assert again.section("data", DataConfig).sources[0].name == odd


def test_none_switches_off(tmp_path: Path) -> None:
    recipe = load(str(write_recipe(tmp_path)), ["train.grad_clip=none", "infer.top_p=none"])
    assert recipe.section("train", TrainConfig).grad_clip is None
    assert 'grad_clip = "none"' in to_toml(recipe)
    with pytest.raises(RecipeError, match=r"train\.learning_rate: wrong type"):
        load(str(write_recipe(tmp_path)), ["train.learning_rate=none"])


def test_a_new_recipe_is_found_without_its_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load("mini").name == "mini"


def test_set_takes_either_name_of_a_field(tmp_path: Path) -> None:
    recipe = load(str(write_recipe(tmp_path)), ["model.dim=32"])
    assert recipe.section("model", ModelConfig).hidden_size == 32


def test_globs_below_a_folder_with_brackets(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]"
    folder.mkdir()
    path = write_recipe(folder)
    path.write_text(path.read_text(encoding="utf-8").replace("news.jsonl", "*.jsonl"), encoding="utf-8")
    [source] = load(str(path)).section("data", DataConfig).sources
    assert [file.name for file in expand(source.path, folder)] == ["news.jsonl"]
