"""The prose that a user follows is checked against the program: commands, options, recipes, tables, trees and links."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import tomllib
import typing
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import TypeAdapter

import jielong
from jielong import STAGES, trackers
from jielong.__main__ import app
from jielong.data.cleaning.personal import MASKS
from jielong.data.config import Config
from jielong.data.deduplicating import near
from jielong.data.documents import DOCUMENT_SCHEMA, REJECT_SCHEMA
from jielong.data.measuring.columns import COLUMNS
from jielong.data.pipeline.setup import make_cleaner
from jielong.data.reading.records import REASONS, TEXT_FIELDS
from jielong.data.reporting.page import SECTIONS
from jielong.data.reporting.summary import Summary
from jielong.data.steps import STANDARD, AnyStep, Near
from jielong.infer import stepping
from jielong.infer.config import Config as InferConfig
from jielong.model.config import ALIASES, SCALED
from jielong.model.config import Config as ModelConfig
from jielong.model.cost import active_parameters, parameters
from jielong.model.devices import NAMES, find_device
from jielong.model.hf_config import CLASSES, OWN
from jielong.recipe import load, parse, shipped
from jielong.train import loader
from jielong.train.config import Config as TrainConfig
from jielong.train.control import asking, desk
from jielong.train.phases import OptimizerName, ScheduleName
from jielong.train.plan_tables import plan_tables
from jielong.train.planning import plan_run

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README_zh.md")
GUIDES = ("docs/en/guide.md", "docs/zh/guide.md")
DATA = ("docs/en/data.md", "docs/zh/data.md")
MODEL = ("docs/en/model.md", "docs/zh/model.md")
TRAIN = ("docs/en/train.md", "docs/zh/train.md")
TUNE = ("docs/en/tune.md", "docs/zh/tune.md")
ALIGN = ("docs/en/align.md", "docs/zh/align.md")
QUANTIZE = ("docs/en/quantize.md", "docs/zh/quantize.md")
PAIRS = (READMES, GUIDES, DATA, MODEL, TRAIN, TUNE, ALIGN, QUANTIZE)
PAGES = ("README.md", "README_zh.md", "CHANGELOG.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")))
RULES_OF_THE_STAGE = ("empty", *MASKS, "flagged_words", "duplicate", "near_duplicate")  # and the names of columns
STEPS: TypeAdapter[AnyStep] = TypeAdapter(AnyStep)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str | None = None) -> list[str]:
    """The code blocks of a page, of one language or of all."""
    return [body for kind, body in FENCE.findall(read(page)) if language in (None, kind)]


def prose(page: str) -> str:
    return FENCE.sub("", read(page))


def headings(page: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(page), re.MULTILINE)]


def code(page: str) -> list[tuple[str, str]]:
    """The code blocks of a page; of TOML without comments, which are in the page's language."""
    found = FENCE.findall(read(page))
    return [(kind, re.sub(r"(?m)^# .*\n|  # .*$", "", body) if kind == "toml" else body) for kind, body in found]


def rows(page: str, first_cell: str) -> list[str]:
    """First cells, without backticks, of the tables on a page whose first cell matches a pattern."""
    return re.findall(rf"^\| `({first_cell})` \|", prose(page), re.MULTILINE)


def command_lines(page: str) -> list[str]:
    return [line for body in blocks(page, "bash") for line in body.splitlines() if line.startswith("jielong ")]


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


# ------------------------------------------------------------------------------------------------------ mirrors


@pytest.mark.parametrize("pair", PAIRS)
def test_the_languages_have_the_same_headings(pair: tuple[str, str]) -> None:
    assert headings(pair[0]) == headings(pair[1])


@pytest.mark.parametrize("pair", PAIRS)
def test_the_languages_have_the_same_code(pair: tuple[str, str]) -> None:
    assert code(pair[0]) == code(pair[1])


@pytest.mark.parametrize("pair", PAIRS)
def test_the_languages_have_the_same_tables(pair: tuple[str, str]) -> None:
    anything = r"[^`|]+"
    assert rows(pair[0], anything) == rows(pair[1], anything)


@pytest.mark.parametrize("pair", PAIRS)
def test_each_language_links_to_the_other_in_its_first_lines(pair: tuple[str, str]) -> None:
    for page, other in (pair, pair[::-1]):
        top = "\n".join(read(page).splitlines()[:5])
        assert any((ROOT / page).parent.joinpath(link).resolve() == ROOT / other for link in links(top))


# ------------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("page", READMES)
def test_the_command_table_is_the_command_line(page: str) -> None:
    listed = [cell.split()[1] for cell in rows(page, r"jielong [^`]+")]
    assert listed == list(commands())


@pytest.mark.parametrize(
    ("page", "line"),
    [
        (page, line)
        for page in (*READMES, *GUIDES, *DATA, *MODEL, *TRAIN, *ALIGN, *QUANTIZE)
        for line in command_lines(page)
    ],
)
def test_every_command_line_parses(page: str, line: str, tmp_path: Path) -> None:
    name, *arguments = shlex.split(line, comments=True)[1:]
    assert name in commands(), line
    values = commands()[name].make_context(name, arguments).params  # raises for an unknown option
    recipe = values.get("recipe")
    if recipe == "trusted.toml":  # the whole recipe of the page
        recipe = tmp_path / recipe
        recipe.write_text(blocks(page, "toml")[0], encoding="utf-8")
    if recipe in shipped() or isinstance(recipe, Path):
        load(str(recipe), list(values["settings"] or ()), list(values.get("data") or ()), values["name"])
    if name == "new":
        assert values["base"] in shipped() or values["base"].endswith(".toml"), line


def test_there_are_command_lines_to_check() -> None:
    assert {
        line.split()[1] for page in (*READMES, *GUIDES, *TUNE, *ALIGN, *QUANTIZE) for line in command_lines(page)
    } == set(commands())


@pytest.mark.parametrize("page", READMES)
def test_the_quick_start_is_in_the_makefile(page: str) -> None:
    assert blocks(page)[0] == "make demo\nmake test\n"
    makefile = read("Makefile")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in ("demo", "test"))
    assert "make demo PYTHON=" in prose(page) and re.search(r"^PYTHON \?=", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", GUIDES)
def test_sampling_options_are_those_of_generate(page: str) -> None:
    context = commands()["generate"].make_context("generate", ["tiny"])
    not_sampling = {"model", "prompt", "prompts_file", "runs_dir", "json"}
    listed = [cell.removeprefix("--").replace("-", "_") for cell in rows(page, r"--[a-z-]+")]
    assert sorted(listed) == sorted(context.params.keys() - not_sampling)


# ------------------------------------------------------------------------------------------------ recipes and tables


@pytest.mark.parametrize("page", GUIDES)
def test_every_recipe_in_the_guide_is_valid(page: str) -> None:
    found = blocks(page, "toml")
    assert found
    sources = [{"name": name, "path": name} for name in ("web", "books", "law")]
    rest: dict[str, Any] = {
        "data": {"sources": sources},
        "tokenizer": {},
        "model": {},
    }  # a piece of a recipe needs them
    for body in found:
        parse(rest | tomllib.loads(body), ROOT)


@pytest.mark.parametrize("page", DATA)
def test_every_recipe_of_the_data_page_is_valid(page: str) -> None:
    found = [tomllib.loads(body) for body in blocks(page, "toml")]
    assert len(found) == 6
    for body in found:
        parse(body, ROOT)
    assert {row["step"] for row in found[0]["data"]["steps"]} == set(step_names()), "the whole recipe shows every step"


@pytest.mark.parametrize("page", [*READMES, *GUIDES, *DATA, *MODEL, *TRAIN])
def test_every_python_block_compiles(page: str) -> None:
    for body in blocks(page, "python"):
        compile(body, page, "exec")


@pytest.mark.parametrize("page", GUIDES)
def test_every_reject_rule_is_in_the_guide(page: str) -> None:
    head = re.search(r"^\| (?:rule \| step|规则 \| 步骤) \|.*\n", prose(page), re.MULTILINE)
    assert head is not None
    table = prose(page)[head.end() :].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*REASONS, *RULES_OF_THE_STAGE]
    columns = re.findall(r"^\| [^`|]+ `(\w+)` \| filter \|", table, re.MULTILINE)
    assert len(columns) == 1 and columns[0] in COLUMNS


def test_the_rules_of_the_stage_are_those_of_the_code() -> None:
    """Rules that stand in the code as they are; a reader's reasons, kinds of personal data and columns are tables of their own."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "jielong" / "data").rglob("*.py")))
    written = set(re.findall(r"(?:\blabel,|\bDropDocument\()\s*\"(\w+)\"(?!:)", code))
    assert written == set(RULES_OF_THE_STAGE) - set(MASKS)


@pytest.mark.parametrize("page", GUIDES)
def test_every_text_field_is_in_the_guide_in_order(page: str) -> None:
    text = prose(page)
    places = [text.index(f"`{name}`", text.index("`text_field`")) for name in TEXT_FIELDS]
    assert places == sorted(places)


@pytest.mark.parametrize("page", GUIDES)
def test_every_alias_is_in_the_guide(page: str) -> None:
    listed = re.findall(r"^\| `(\w+)` \| `(\w+)`", prose(page), re.MULTILINE)
    assert [pair for pair in listed if pair[0] in ALIASES] == list(ALIASES.items())


@pytest.mark.parametrize("page", GUIDES)
def test_the_figure_of_packed_rows_is_the_loader_s(page: str) -> None:
    figure = next(body for body in blocks(page, "text") if body.startswith("inputs"))
    assert loader.__doc__ is not None
    ours = [line.strip() for line in loader.__doc__.splitlines()]
    start = next(number for number, line in enumerate(ours) if line.startswith("inputs "))
    assert ours[start : start + 4] == figure.splitlines()


# ------------------------------------------------------------------------------------------------- the page on data


def step_names() -> list[str]:
    """The kinds of steps, in the order of steps.py."""
    union = typing.get_args(typing.get_args(AnyStep)[0])
    return [typing.get_args(kind.model_fields["step"].annotation)[0] for kind in union]


def section(page: str, number: int) -> str:
    """A chapter of a page, counted from 1."""
    return prose(page).split("\n## ")[number]


@pytest.mark.parametrize("page", DATA)
def test_every_step_has_a_section(page: str) -> None:
    titles = re.findall(r"^### (\w+)$", prose(page), re.MULTILINE)
    names = step_names()
    assert len(names) >= len(STANDARD) and [title for title in titles if title in names] == names


@pytest.mark.parametrize("page", DATA)
def test_every_step_is_named_in_the_idea(page: str) -> None:
    assert set(step_names()) <= set(re.findall(r"`(\w+)`", section(page, 1)))


EXAMPLE = re.compile(r"^\| `(\w+)` \| (?:`([^`]+)`)? ?\| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)


@pytest.mark.parametrize("page", DATA)
def test_every_example_is_what_the_step_does(page: str) -> None:
    found = EXAMPLE.findall(prose(page))
    assert len(found) == len(re.findall(r"^\| `\w+` \|.*\|.*\|.*\|$", section(page, 3), re.MULTILINE)) >= 10
    for step, options, before, after in found:
        cleaner = make_cleaner(STEPS.validate_python({"step": step} | tomllib.loads(options)))
        assert cleaner is not None
        text, expected = (side.replace("⏎", "\n").replace("\\u200b", "\u200b") for side in (before, after))
        assert cleaner(text, Counter()) == expected, (step, options)


@pytest.mark.parametrize("page", DATA)
def test_the_s_curve_is_that_of_the_defaults(page: str) -> None:
    step = Near(step="near")
    plan = near.layout(step.similarity, step.permutations)
    chances = dict(near.curve(plan))
    listed = re.findall(r"^\| `(0\.\d\d)` \| ([\d.]+) % \|$", prose(page), re.MULTILINE)
    assert len(listed) == 6
    assert [(s, f"{100 * chances[float(s)]:.1f}") for s, _ in listed] == listed
    numbers = re.search(r"(\d+) (?:bands of|段、每段) (\d+) ", prose(page))
    assert numbers is not None and (int(numbers[1]), int(numbers[2])) == (plan.bands, plan.rows)


@pytest.mark.parametrize("page", DATA)
def test_the_keys_of_the_files_are_those_of_the_code(page: str) -> None:
    tables = re.findall(
        r"^\| (column|列|key|键|field|字段) \| [^|]+ \|\n\|---\|---\|\n((?:\|.*\n)+)", prose(page), re.MULTILINE
    )
    documents, rejects, report = (re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE) for _, body in tables)
    assert documents == DOCUMENT_SCHEMA.names
    assert rejects == REJECT_SCHEMA.names
    assert report == re.findall(r"^            \"(\w+)\": ", inspect.getsource(Summary.report), re.MULTILINE)


@pytest.mark.parametrize("page", DATA)
def test_sections_of_the_report_have_their_titles(page: str) -> None:
    for key in ("distributions", "rules"):
        title = SECTIONS[key][0]
        assert (f"“{title.zh}”" if "zh" in page else f"*{title.en}*") in prose(page)


# ------------------------------------------------------------------------------------------------ the page on the model


def cells(page: str, first_head: str) -> list[list[str]]:
    """The rows below the table head whose first cell this is, as cells without backticks."""
    table = re.search(rf"^\| {re.escape(first_head)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", prose(page), re.MULTILINE)
    assert table is not None, first_head
    return [
        [cell.strip().strip("`") for cell in row.split(" | ")]
        for row in re.findall(r"^\| (.*) \|$", table[1], re.MULTILINE)
    ]


@pytest.mark.parametrize("page", MODEL)
def test_every_recipe_of_the_page_on_the_model_is_valid(page: str) -> None:
    found = blocks(page, "toml")
    assert len(found) == 3
    rest: dict[str, Any] = {
        "data": {"sources": [{"name": "web", "path": "web"}]},
        "tokenizer": {},
        "model": {},
        "train": {},
    }
    for body in found:
        parse(rest | tomllib.loads(body), ROOT)


@pytest.mark.parametrize("page", MODEL)
def test_classes_scalings_kernels_and_caches_are_those_of_the_code(page: str) -> None:
    architectures = [one.architecture for one in CLASSES] + [OWN[1]]
    assert sorted(rows(page, r"\w+ForCausalLM")) == sorted(architectures)
    assert [row[0] for row in cells(page, "`rope_type`")] == list(SCALED)
    kernels = typing.get_args(ModelConfig.model_fields["attention"].annotation)
    assert ["auto", *(row[0] for row in cells(page, "内核" if "zh" in page else "kernel"))] == list(kernels)
    caches = typing.get_args(InferConfig.model_fields["cache"].annotation)
    assert sorted(row[0] for row in cells(page, "缓存" if "zh" in page else "cache")) == sorted(caches)


@pytest.mark.parametrize("page", MODEL)
def test_the_bounds_of_the_compiled_step_are_those_of_the_code(page: str) -> None:
    numbers = (
        (r"至多 (\d+) 行", r"不少于 (\d+) 个") if "zh" in page else (r"up to (\d+) rows", r"from (\d+) new tokens")
    )
    found = [re.search(number, prose(page)) for number in numbers]
    assert [int(one[1]) for one in found if one is not None] == [stepping.MOST_ROWS, stepping.FEWEST_TOKENS]


@pytest.mark.parametrize("page", MODEL)
def test_the_table_of_caches_is_arithmetic(page: str) -> None:
    found = cells(page, "`hidden_size`")
    assert len(found) == 4
    for width, heads, groups, size, keys, hidden, ratio in found:
        assert int(heads) % int(groups) == 0
        assert (int(keys.replace(",", "")), int(hidden)) == (2 * int(groups) * int(size), int(width))
        assert Fraction(ratio) == Fraction(int(width), 2 * int(groups) * int(size))


@pytest.mark.parametrize("page", MODEL)
def test_devices_and_tables_of_a_plan_are_those_of_the_command(page: str) -> None:
    text = prose(page)
    places = [text.index(f"`{name}`") for name in NAMES]
    assert places == sorted(places)
    titles = [title for title, _, _ in plan_tables(plan_run(load("mateconv").sections, find_device("rtx-4090")))]
    named = [row[0] for row in cells(page, "表" if "zh" in page else "table")]
    assert len(named) == len(titles) and all(title.startswith(name) for title, name in zip(titles, named, strict=True))


@pytest.mark.parametrize("page", MODEL)
def test_the_table_of_recipes_is_that_of_the_recipes(page: str) -> None:
    found = cells(page, "配方" if "zh" in page else "recipe")
    assert {row[0] for row in found} == set(shipped()) - {
        "tiny",
        "domain-medical",
        "sft-zh",
        "llama-qlora",
        "dpo-zh",
        "rlhf-zh",
        "grpo-arithmetic-zh",
    }
    for name, shape, heads, context, vocabulary, weights in found:
        recipe = load(name)
        config = recipe.section("model", ModelConfig)
        config = config.with_vocab(getattr(recipe.sections["tokenizer"], "vocab_size", 0))
        numbers = [
            [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", cell)]
            for cell in (shape, heads, context, vocabulary)
        ]
        assert numbers[0][:2] == [config.hidden_size, config.num_hidden_layers]
        assert numbers[1][0] == config.num_attention_heads
        assert (numbers[2][0], numbers[3][0]) == (config.max_position_embeddings, config.vocabulary)
        sizes = {f"{count(config) / 1e6:.1f}" for count in (parameters, active_parameters)}
        assert set(re.findall(r"([\d.]+) M", weights)) == sizes


# --------------------------------------------------------------------------------------------- the page on training


@pytest.mark.parametrize("page", TRAIN)
def test_every_recipe_of_the_page_on_training_is_valid(page: str) -> None:
    found = blocks(page, "toml")
    assert len(found) == 4
    rest: dict[str, Any] = {"data": {"sources": [{"name": "web", "path": "web"}]}, "tokenizer": {}, "model": {}}
    configs = [parse(rest | tomllib.loads(body), ROOT).section("train", TrainConfig) for body in found]
    phases = next(config.phases for config in configs if config.phases)
    assert [phase.sequence_length for phase in phases] == [128, 256, 512]


@pytest.mark.parametrize("page", TRAIN)
def test_optimizers_and_schedules_of_the_page_are_those_of_the_code(page: str) -> None:
    assert [row[0] for row in cells(page, "`optimizer`")] == list(typing.get_args(OptimizerName))
    assert [row[0] for row in cells(page, "`schedule`")] == list(typing.get_args(ScheduleName))


@pytest.mark.parametrize("page", TRAIN)
def test_commands_and_keys_of_the_page_are_those_of_the_code(page: str) -> None:
    found = cells(page, "命令" if "zh" in page else "command")
    assert [row[0] for row in found] == list(asking.COMMANDS)
    keys = {row[1][0]: row[0] for row in found if row[1] != "-"}
    assert {key: name for key, name in keys.items() if key in desk.PLAIN} == desk.PLAIN
    assert set(keys) - set(desk.PLAIN) == set(desk.QUESTIONS)
    sent = [json.loads(line) for line in re.findall(r"^echo '(.+)' >", read(page), re.MULTILINE)]
    for command in sent:
        asking.check(command)
    assert sent


@pytest.mark.parametrize("page", TRAIN)
def test_trackers_of_the_page_are_those_of_the_code(page: str) -> None:
    (table,) = [tomllib.loads(body)["train"] for body in blocks(page, "toml") if "trackers" in body]
    names = typing.get_args(typing.get_args(TrainConfig.model_fields["trackers"].annotation)[0])
    assert tuple(table["trackers"]) == names == trackers.NAMES
    assert ("十秒" if "zh" in page else "ten seconds") in prose(page) and trackers.CLOSE_SECONDS == 10


@pytest.mark.parametrize("page", READMES)
def test_the_readme_names_every_shipped_recipe(page: str) -> None:
    assert all(f"`{name}`" in prose(page) for name in shipped())


@pytest.mark.parametrize("page", ["CHANGELOG.md"])
def test_removed_keys_are_gone_and_what_replaces_them_is_there(page: str) -> None:
    removed = re.findall(r"^- `data\.(\w+)`: ", read(page), re.MULTILINE)
    assert removed and not set(removed) & set(Config.model_fields)
    assert "chunk_megabytes" in Config.model_fields


def test_the_reference_of_the_recipe_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_recipe_reference", ROOT / "docs" / "make_recipe_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    again = "make it again: python docs/make_recipe_reference.py > docs/recipe.md"
    assert read("docs/recipe.md") == module.reference(), again


# ------------------------------------------------------------------------------------------------- trees and links


@pytest.mark.parametrize("page", READMES)
def test_the_tree_is_the_package(page: str) -> None:
    tree = next(body for body in blocks(page, "text") if body.startswith("jielong/\n"))
    assert re.findall(r"^  (\w+)/ +(.+)$", tree, re.MULTILINE) == list(STAGES.items())
    assert tree.count("\n") == 1 + len(STAGES)


def test_the_stages_are_the_folders_of_the_package() -> None:
    assert {path.parent.name for path in (ROOT / "jielong").glob("*/stage.py")} == set(STAGES)


@pytest.mark.parametrize("page", GUIDES)
def test_the_run_folder_has_every_stage(page: str) -> None:
    tree = next(body for body in blocks(page, "text") if body.startswith("runs/"))
    folders = re.findall(r"^  (\w+)/$", tree, re.MULTILINE)
    assert folders == [*STAGES, "replaced"]


def links(text: str) -> list[str]:
    """Relative links, without their anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link.partition("#")[0] for link in found if "://" not in link and not link.startswith("#")]


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_exists(page: str) -> None:
    missing = [link for link in links(prose(page)) if not (ROOT / page).parent.joinpath(link).exists()]
    assert missing == []


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*READMES, *GUIDES, *DATA, *MODEL, *TRAIN])
def test_every_anchor_is_a_heading(page: str) -> None:
    for target in re.findall(r"\]\(((?!https?:)[^)\s]*#[^)\s]+)\)", prose(page)):
        file, _, anchor = target.partition("#")
        other = (ROOT / page).parent / file if file else ROOT / page
        titles = re.findall(r"^#+ (.+)$", FENCE.sub("", other.read_text(encoding="utf-8")), re.MULTILINE)
        assert anchor in map(slug, titles), target


@pytest.mark.parametrize("page", [*READMES, *GUIDES])
@pytest.mark.parametrize("about", ["data.md", "model.md", "train.md"])
def test_the_pages_on_data_and_model_are_linked(page: str, about: str) -> None:
    language = "zh" if "zh" in page else "en"
    targets = [(ROOT / page).parent.joinpath(link).resolve() for link in links(prose(page))]
    assert ROOT / "docs" / language / about in targets


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    versions = re.findall(r"^## \[([^]]+)\] - \d{4}-\d\d-\d\d$", read("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == jielong.__version__
