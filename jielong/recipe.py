"""TOML -> a validated recipe. One recipe is one model, from raw text to its continuations.

A recipe has a few keys of its own (`name`, `description`, `seed`) and one table a stage. The tables that are present are
the stages that `jielong run` runs. Each table's keys, with meaning, unit, default and bounds, are the fields of the
`Section` class in `jielong/<stage>/config.py`; this module finds them by way of `STAGES` and imports nothing else.

TOML rather than YAML, because YAML reads `1e-4` as a string and `no` as False. Validation is strict: "512" is not a
number. All problems are reported at once, and an unknown key suggests the nearest known one.
"""

from __future__ import annotations

import difflib
import glob
import importlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jielong import STAGES
from jielong.errors import RecipeError
from jielong.runs import NAME_PATTERN, write_text

SUGGESTION_CUTOFF = 0.6  # difflib similarity above which a known key is suggested for an unknown one
MAX_SEED = 2**31 - 1


class Section(BaseModel):
    """Base of every stage's recipe table: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False)
    aliases: ClassVar[dict[str, str]] = {}  # other names accepted for a field: alias -> field
    rivals: ClassVar[tuple[frozenset[str], ...]] = ()  # fields of which one is given; --set of one drops the others

    @model_validator(mode="before")
    @classmethod
    def _none_is_off(cls, table: Any) -> Any:
        """TOML has no null: "none" stands for it where a field may be off."""
        if not isinstance(table, dict):
            return table
        may = {name for name, info in cls.model_fields.items() if type(None) in _types_in(info.annotation)}
        return {key: None if value == "none" and key in may else value for key, value in table.items()}

    def placed(self, folder: Path) -> Self:
        """The same with relative paths made absolute, starting at the recipe's folder. Sections without paths: itself."""
        return self

    def result_fields(self) -> dict[str, Any]:
        """The fields that determine the stage's result: all but those declared with `harmless`."""
        values = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("harmless"):
                values.pop(name, None)
        return values


def harmless(default: Any, description: str, **bounds: Any) -> Any:
    """A field that changes how a stage works (how often it saves, say) but nothing in its result."""
    return Field(default, description=description, json_schema_extra={"harmless": True}, **bounds)


S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Recipe:
    """A validated recipe. `sections` holds the tables that the file names, in the order of STAGES."""

    name: str
    description: str
    seed: int
    sections: dict[str, Section]
    folder: Path  # relative paths in the recipe start here

    def section(self, stage: str, kind: type[S]) -> S:
        """The table of a stage, as its own class."""
        value = self.sections[stage]
        assert isinstance(value, kind)
        return value


def section_class(stage: str) -> type[Section]:
    """The Section class of a stage: the `Config` of `jielong/<stage>/config.py`."""
    kind: type[Section] = importlib.import_module(f"jielong.{stage}.config").Config
    assert issubclass(kind, Section)
    return kind


# ------------------------------------------------------------------------------------------------------ finding


def recipes_folder() -> Path:
    """Where the shipped recipes are: beside the code in an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped() -> dict[str, Path]:
    """Name -> path of every shipped recipe."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.toml"))}


def find(recipe: str) -> Path:
    """The file of a recipe given as a path or as a shipped recipe's name."""
    path = Path(recipe).expanduser()
    if path.is_file():
        return path
    known = shipped()
    if recipe in known:
        return known[recipe]
    if path.name and path.with_name(path.name + ".toml").is_file():  # what `jielong new mine` wrote
        return path.with_name(path.name + ".toml")
    looks_like_path = path.suffix == ".toml" or len(path.parts) > 1
    if looks_like_path:
        raise RecipeError(
            f"recipe: no such file, got {recipe}; give the path of a TOML file or one of {', '.join(known)}"
        )
    raise RecipeError(
        f"recipe: neither a file nor a shipped recipe, got {recipe!r}; shipped: {', '.join(known)}; "
        f"make your own with: jielong new {recipe}"
    )


# ------------------------------------------------------------------------------------------------------ loading


def load(recipe: str, overrides: list[str] | None = None, data: list[str] | None = None, name: str = "") -> Recipe:
    """Read, override and validate a recipe.

    overrides: `section.key=value` strings, values in TOML form (a bare word is taken as a string).
    data: paths or globs that replace `data.sources`, or `tune.sources`, or `align.sources`, of a recipe without the table before
    (relative to the current folder).
    Relative paths in it start at its own folder, those of a shipped recipe at the current one. name: replaces the recipe's name. Raises RecipeError listing every problem.
    """
    path = find(recipe)
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        twice = re.search(
            r"immutable namespace \((.*)\) \((.*)\)", str(error)
        )  # `phases = []`, and later [[train.phases]]
        if twice:
            field = ".".join(re.findall(r"'([^']*)'", twice[1]))
            raise RecipeError(
                f"{path}: {field} is there as a value and as a table {twice[2]}; remove the value"
            ) from None
        raise RecipeError(f"{path}: not valid TOML: {error}; correct that line") from None
    for override in overrides or []:
        _apply_override(table, override)
    if name:
        table["name"] = name
    table.setdefault("name", path.stem)
    if data:
        # a recipe that only tunes has conversations, one that only aligns has preferences
        stage = next((name for name in ("data", "tune", "align") if name in table), "data")
        if not isinstance(table.setdefault(stage, {}), dict):
            raise RecipeError(f"{stage}: must be a table; write [{stage}] in the recipe")
        table[stage]["sources"] = _sources_from_globs(data)
    # nothing of a user's lies beside a shipped recipe
    return parse(table, folder=Path.cwd() if path in shipped().values() else path.resolve().parent)


def is_elsewhere(path: str) -> bool:
    """Whether a path is no local one: builtin:NAME, a dataset on a hub (hf:, modelscope:), a URL."""
    return (
        path.startswith(("builtin:", "hf:", "modelscope:")) or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None
    )


def absolute(path: str, folder: Path) -> str:
    """A path, glob or builtin:NAME, from `folder` on. Before a glob the folder's name is escaped: it may hold [ or *."""
    place = Path(path).expanduser()
    if is_elsewhere(path) or place.is_absolute():
        return path if is_elsewhere(path) else str(place)
    is_pattern = glob.has_magic(path) and not (folder / place).exists()
    return str(Path(glob.escape(str(folder)) if is_pattern else folder, place))


def _sources_from_globs(data: list[str]) -> list[dict[str, Any]]:
    names: set[str] = set()
    sources = []
    for pattern in data:
        if not pattern.strip():
            raise RecipeError("--data: an empty path was given; give a file, a folder, a glob or builtin:NAME")
        stem = Path(pattern).name.split(".")[0].strip("*?[]") or "data"
        unique, number = stem, 2
        while unique in names:
            unique, number = f"{stem}-{number}", number + 1
        names.add(unique)
        sources.append({"name": unique, "path": absolute(pattern, Path.cwd())})
    return sources


def _apply_override(table: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise RecipeError(f"--set: must be section.key=value, got {override!r}; for example --set train.epochs=2")
    value: Any = text.strip()
    try:
        parsed = tomllib.loads(f"value = {text}")
        value = parsed["value"] if len(parsed) == 1 else value
    except tomllib.TOMLDecodeError as error:
        if value[:1] in ("[", "{"):  # a bare word is a string, a list or table that does not parse is a slip
            raise RecipeError(f"--set {key.strip()}: not valid TOML: {error}; got {value[:80]}; correct it") from None
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set: {part} in {key} is not a table; write --set section.key=value")
    table[parts[-1]] = value
    if len(parts) == 2 and parts[0] in STAGES:
        kind, key = section_class(parts[0]), parts[1]
        same = kind.aliases.get(key, key)  # another name of the same field, or a rival field, gives way
        names = {same, *(alias for alias, field in kind.aliases.items() if field == same)}
        for group in (names, *(kind.rivals if value != "none" else ())):  # what is off rivals nothing
            for other in group - {key} if key in group else ():
                table.pop(other, None)


def parse(table: dict[str, Any], folder: Path) -> Recipe:
    """Validate a recipe given as a plain dictionary. Raises RecipeError listing every problem, one a line."""
    problems = [
        f"{place}: too large for a 64-bit number, got {value}; write a smaller one" for place, value in _huge(table)
    ]
    known = ["name", "description", "seed", *STAGES]
    for key in table:
        if key not in known:
            problems.append(f"{key}: unknown key; {_suggest(key, known)}")
    name, description, seed = table.get("name", "run"), table.get("description", ""), table.get("seed", 1)
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        problems.append(f"name: must name a folder, got {name!r}; use letters, digits, '.', '_' and '-'")
    if not isinstance(description, str):
        problems.append(f"description: must be a string, got {description!r}; put it in quotes")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        problems.append(f"seed: must be a whole number from 0 to {MAX_SEED}, got {seed!r}; choose one in that range")
    sections: dict[str, Section] = {}
    for stage in STAGES:
        if stage in table:
            if not isinstance(table[stage], dict):
                problems.append(f"{stage}: must be a table, got {table[stage]!r}; write [{stage}] on a line of its own")
                continue
            kind = section_class(stage)
            try:
                sections[stage] = kind.model_validate(table[stage]).placed(folder)
            except ValidationError as error:
                problems += _explain_all(stage, kind, error, table[stage])
    if not problems:
        problems = check_together(sections)
    if problems:
        raise RecipeError("\n".join(problems))
    if not sections:
        raise RecipeError(
            f"recipe: names no stage; write at least one of the tables {', '.join(f'[{s}]' for s in STAGES)}"
        )
    return Recipe(name, description, seed, sections, folder)


def parse_section(stage: str, kind: type[S], table: dict[str, Any]) -> S:
    """Validate one stage's table alone. Raises RecipeError listing every problem."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain_all(stage, kind, error, table))) from None


def overrides_of(stage: str, overrides: list[str]) -> dict[str, Any]:
    """What `stage.key=value` overrides say of one stage's table."""
    table: dict[str, Any] = {}
    for override in overrides:
        _apply_override(table, override)
    found: dict[str, Any] = table.get(stage, {})
    return found


def parse_overrides(stage: str, kind: type[S], overrides: list[str]) -> S:
    """One stage's table from `stage.key=value` overrides alone."""
    return parse_section(stage, kind, overrides_of(stage, overrides))


Check = Callable[[dict[str, Section]], list[str]]


def check_together(sections: dict[str, Section]) -> list[str]:
    """Problems between tables: every stage's `config.py` may define `check_together(sections) -> list of problems`."""
    problems: list[str] = []
    for stage in sections:
        check: Check | None = getattr(importlib.import_module(f"jielong.{stage}.config"), "check_together", None)
        if check is not None:
            problems += check(sections)
    return problems


# ------------------------------------------------------------------------------------------------- explanations


def _suggest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=SUGGESTION_CUTOFF)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"


def _explain_all(stage: str, kind: type[Section], error: ValidationError, table: dict[str, Any]) -> list[str]:
    items: list[dict[str, Any]] = [dict(item) for item in error.errors()]
    inner = {tuple(item["loc"])[:n] for item in items for n in range(len(item["loc"]))}
    # a list whose items are wrong is also reported as too short: only the items are worth a line
    found = [_explain(stage, kind, item) for item in items if item["loc"] not in inner or not item["loc"]]
    # what fields say to each other is looked at only when each is right by itself: look once more, without the wrong ones
    wrong = {item["loc"][0] for item in items if item["loc"]}
    if wrong and (rest := {key: value for key, value in table.items() if key not in wrong}) != table:
        try:
            kind.model_validate(rest)
        except ValidationError as further:
            again = [dict(item) for item in further.errors() if not item["loc"]]
            found += [text for item in again if (text := _explain(stage, kind, item)) not in found]
    return found


def _explain(stage: str, kind: type[Section], item: dict[str, Any]) -> str:
    """One pydantic error as `<field>: <what is wrong>, got <value>; <bound>; <what to do>`."""
    place = [str(part) for part in item["loc"]]
    field = ".".join([stage, *place])
    value = item.get("input")
    got = json.dumps(value, ensure_ascii=False, default=str)
    got = got if len(got) <= 80 else got[:77] + "..."
    sort, context = item["type"], item.get("ctx", {})
    if sort == "extra_forbidden":
        known = _known_keys(kind, place[:-1])
        return f"{field}: unknown key; {_suggest(place[-1], known)}"
    if sort in ("union_tag_invalid", "union_tag_not_found"):
        key, known = context["discriminator"].strip("'"), context.get("expected_tags", "one of the kinds")
        if sort == "union_tag_not_found":
            return f"{field}: has no {key}, got {got}; say which kind it is with {key} = ...; see docs/recipe.md"
        return f"{field}.{key}: unknown kind, got {context['tag']!r}; must be one of {known}; correct it"
    if sort == "missing":
        return f"{field}: missing; add it to the recipe's [{stage}] table"
    if sort == "value_error":  # raised by our own validators, already in form
        said = str(context.get("error", item["msg"]))
        inside = re.match(r"[a-z_][a-z0-9_]*(?=(\.[a-z0-9_]+)*: )", said)  # a field of the table: "phases.1: ..."
        return f"{field}{'.' if inside and inside[0] in _known_keys(kind, place) else ': '}{said}"
    bounds = {"greater_than": ("gt", "above"), "greater_than_equal": ("ge", "at least"), "less_than": ("lt", "below"),
              "less_than_equal": ("le", "at most")}  # fmt: skip
    if sort in bounds:
        name, word = bounds[sort]
        return f"{field}: out of bounds, got {got}; must be {word} {context[name]}; change it"
    if sort == "too_short" or sort == "string_too_short":
        return f"{field}: too short, got {got}; must have at least {context['min_length']} item or character; add one"
    if sort == "literal_error":
        return f"{field}: not one of the choices, got {got}; must be {context['expected']}; change it"
    wanted = {"int_type": "a whole number", "float_type": "a number", "string_type": "a string in quotes",
              "bool_type": "true or false", "list_type": "a list", "tuple_type": "a list", "dict_type": "a table",
              "int_from_float": "a whole number", "finite_number": "a finite number", "model_type": "a table",
              "model_attributes_type": "a table"}  # fmt: skip
    return f"{field}: wrong type or value, got {got}; must be {wanted.get(sort, item['msg'])}; change it"


def _known_keys(kind: type[Section], place: list[str]) -> list[str]:
    """Field names (and aliases) of a section, or of a Section nested in its lists."""
    current: type[Section] = kind
    nested: list[type[Section]] = []
    for part in place:
        info = current.model_fields.get(part)
        if info is None:  # a list index, or in a list of several kinds the kind
            current = next((t for t in nested if part in _choices(t)), current)
            continue
        nested = [t for t in _types_in(info.annotation) if isinstance(t, type) and issubclass(t, Section)]
        if nested:
            current = nested[0]
    return [*current.model_fields, *current.aliases]


def _choices(kind: type[Section]) -> set[Any]:
    """The values of the literal fields of a section: its kind, in a list of several kinds."""
    found = {name: info.annotation for name, info in kind.model_fields.items() if info.is_required()}
    return {value for annotation in found.values() for value in getattr(annotation, "__args__", ())}


def _huge(table: dict[str, Any], place: str = "") -> Iterator[tuple[str, int]]:
    """Whole numbers that no 64-bit field can hold, with where they stand."""
    for key, value in table.items():
        here = f"{place}.{key}" if place else key
        if isinstance(value, dict):
            yield from _huge(value, here)
        elif isinstance(value, int) and abs(value) >= 1 << 63:
            yield here, value


def _types_in(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _types_in(argument)


# ------------------------------------------------------------------------------------------------------ writing


def to_toml(recipe: Recipe, comments: bool = False) -> str:
    """The recipe as TOML, every key written out; with `comments`, each key's meaning and unit above it."""
    lines = [f"name = {_toml_value(recipe.name)}"]
    if recipe.description:
        lines.append(f"description = {_toml_value(recipe.description)}")
    lines.append(f"seed = {recipe.seed}")
    for stage, section in recipe.sections.items():
        lines += ["", f"[{stage}]  # {STAGES[stage]}" if comments else f"[{stage}]"]
        for key, info in type(section).model_fields.items():
            value = getattr(section, key)
            if comments and info.description:
                lines.append(f"# {info.description}")
            if value is None:
                if info.default is not None:
                    lines.append(f'{key} = "none"')
                elif comments:
                    lines.append(f'# {key} = "none"')
                continue
            lines.append(f"{key} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, Section):
        fields = sorted(type(value).model_fields.items(), key=lambda item: not item[1].is_required())
        rows = [(key, getattr(value, key), info.default) for key, info in fields]
        # in a row of a list, what is empty by default stays away
        shown = [(key, item) for key, item, default in rows if item is not None and (item or item != default)]
        return "{" + ", ".join(f"{key} = {_toml_value(item)}" for key, item in shown) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        items = [_toml_value(item) for item in value]
        if sum(map(len, items)) > 80:
            return "[\n" + "".join(f"  {item},\n" for item in items) + "]"
        return "[" + ", ".join(items) + "]"
    return json.dumps(str(value), ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )  # TOML wants DEL escaped, JSON does not


def write_new(path: str, base: str, data: list[str] | None) -> Path:
    """Write a recipe with every key explained, started from another one. Never overwrites. Returns the file."""
    file = Path(path).expanduser()
    if not NAME_PATTERN.fullmatch(file.name.removesuffix(".toml")):
        raise RecipeError(f"NAME: not usable as a file name, got {path!r}; use letters, digits, '.', '_' and '-'")
    file = file if file.suffix == ".toml" else file.with_name(file.name + ".toml")
    if file.exists():
        raise RecipeError(f"NAME: the file exists already, got {file}; choose another name or delete it")
    if not file.parent.is_dir():
        raise RecipeError(f"NAME: the folder does not exist, got {file.parent}; make it first")
    recipe = load(base, data=data, name=file.stem)
    write_text(file, to_toml(recipe, comments=True))
    return file
