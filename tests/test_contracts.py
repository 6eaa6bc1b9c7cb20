"""What must stay true of the whole house: who imports whom, every module tested, every recipe parsed, every command helped."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main

from jielong import STAGES
from jielong.__main__ import app
from jielong.errors import RecipeError
from jielong.recipe import load, shipped
from jielong.workflow import UPSTREAM

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jielong"
MODULES = sorted(PACKAGE.rglob("*.py"))
GROUND = {
    "errors",
    "recipe",
    "runs",
    "metrics",
    "runtime",
    "progress",
    "pieces",
    "storage",
    "uploads",
    "console",
    "world",
    "launch",
    "trackers",
    "threads",
}  # files at the root that any stage may import
TOP = {
    "__main__",
    "workflow",
    "hooks",
    "show",
    "report",
    "report_training",
    "running",
    "model_commands",
}  # files at the root that may import every stage
APART = {"charts"}  # pure functions, for the ground floor too
HEAVY = {
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "peft",
    "trl",
    "ray",
    "gradio",
    "fastapi",
    "gptqmodel",
    "torchao",
    "bitsandbytes",
    "gguf",
}
ORDER = list(STAGES)


def name_of(path: Path) -> str:
    """jielong/data/stage.py -> data.stage"""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Modules that a file imports, outside of `if TYPE_CHECKING`."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        or (top_level_only and isinstance(node, ast.FunctionDef))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def ours(path: Path) -> set[str]:
    """First names below jielong that a file imports: stages and root files."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("jielong.")} - {"STAGES", "__version__"}


def test_stages_are_the_folders() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    assert folders == set(STAGES)
    assert list(UPSTREAM) == ORDER
    assert all(ORDER.index(before) < ORDER.index(stage) for stage, befores in UPSTREAM.items() for before in befores)


def test_root_files_are_known() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert files == GROUND | TOP | APART


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_stage_imports_only_the_ground_floor_and_stages_to_its_left(path: Path) -> None:
    stage = path.relative_to(PACKAGE).parts[0]
    if stage in STAGES:
        allowed = GROUND | APART | set(ORDER[: ORDER.index(stage) + 1])
    elif path.stem in TOP:
        return
    else:
        allowed = GROUND | APART  # the ground floor imports no stage
    assert ours(path) <= allowed, f"{name_of(path)} imports {ours(path) - allowed}"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.relative_to(PACKAGE).parts[0] in ("data", "tokenizer")], ids=name_of
)
def test_data_and_tokenizer_never_import_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "safetensors"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_packages_are_imported_inside_functions(path: Path) -> None:
    stage = path.relative_to(PACKAGE).parts[0]
    heavy = {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY
    # the files that are about tensors import torch; nothing reaches them before it is needed
    tensors = stage in ("model", "train", "align", "quantize", "infer", "evaluate") and path.stem not in (
        "config",
        "stage",
        "__init__",
        "cost",
        "devices",
        "memory",
        "commands",
    )
    assert heavy <= ({"torch"} if tensors else set())


def test_parsing_a_recipe_imports_nothing_heavy() -> None:
    code = "import sys, jielong.recipe as r; r.load('tiny'); print(sorted(m for m in sys.modules if '.' not in m))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(ast.literal_eval(result.stdout))
    assert not loaded & (HEAVY | {"pyarrow", "tokenizers", "numpy"})


def test_the_package_itself_imports_nothing() -> None:
    assert imports(PACKAGE / "__init__.py") == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_has_a_test_file(path: Path) -> None:
    if path.stem == "__init__":
        return
    place = ROOT / "tests" / path.relative_to(PACKAGE).parent
    stem = "cli" if path.stem == "__main__" else path.stem
    assert (place / f"test_{stem}.py").is_file()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_are_short_and_open_with_an_essay(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    assert ast.get_docstring(ast.parse(text)), "no docstring"


def test_public_functions_have_docstrings() -> None:
    missing = [
        f"{name_of(path)}.{node.name}"
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        and name_of(path) != "__main__" and not ast.get_docstring(node)
    ]  # fmt: skip
    assert not missing


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_parses(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name and recipe.sections


def test_recipe_sections_are_stages() -> None:
    with pytest.raises(RecipeError, match="datas: unknown key; did you mean data"):
        from jielong.recipe import parse

        parse({"datas": {}}, Path())


def commands() -> dict[str, click.Command]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_one_command_a_stage_and_the_others() -> None:
    assert set(commands()) == set(STAGES) | {
        "run", "status", "new", "check", "shards", "generate", "chat", "merge", "judge", "plan", "watch", "control"
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_and_option_has_help(name: str) -> None:
    command = commands()[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_no_pickle_and_no_network_in_the_package() -> None:
    forbidden = {"pickle", "marshal", "shelve", "requests", "urllib.request", "httpx", "socket"}
    for path in MODULES:
        allowed = {"socket"} if name_of(path) == "launch" else set()  # asks the system for a free port
        assert not imports(path) & (forbidden - allowed), path
        assert "torch.load" not in path.read_text(encoding="utf-8"), path
