"""What answers are worth: the user's functions, reward models, and four rewards that are built in.

A function is called once for all answers of a step, by keywords, and is given those of these that its signature names (all of
them, if it takes **kwargs):

    completions   list[str]: the answers
    prompts       list[str]: of each, the text of the last turn of the user
    messages      list[list[dict]]: of each, the whole conversation as {"role", "content"}, the system message included
    ended         list[bool]: of each, whether the model ended it; False where it was cut off at its longest
    <field>       list: of each, that field of its record, None where the record has none; the four above win over fields of
                  the same name

It returns a number for each: a list, a tuple, an array or a tensor of one dimension. `module:NAME` is imported as any module is.
`FILE.py:NAME` is executed from the file's text, without a .pyc beside it (two edits within a second would share one), with the
file's folder in front of sys.path while it is loaded, so that it can import its neighbours; the same file is loaded once.

A recipe's mistake that can be seen before training is an InputError. What goes wrong while answers are scored is a
TrainingError, so that the run is saved and stops. Both name the reward and the user's file with its line.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import math
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from importlib.machinery import SourceFileLoader
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from jielong.align.config import Reward
from jielong.align.numerals import number_of, numbers
from jielong.errors import InputError, JielongError, TrainingError
from jielong.tokenizer.chat.conversations import Unfit

Messages = list[dict[str, Any]]
Columns = dict[str, list[Any]]
Score = Callable[[list[Messages], list[str]], list[float]]  # a reward model: conversations and answers -> rewards
Worth = Callable[[list[Messages], list[str], list[bool], Columns], list[float]]
AGAIN = "and run the same command again"
QUOTED = 40  # characters of an answer that a sentence quotes
LONGEST_REASON = 200  # characters of an exception's message that a sentence quotes
_BREAKS = re.compile(r"[。!?;,\n]|\.(?:\s|$)")  # between statements, of text that is folded
_MARKS = " \n。.!?;,:\"')]}>》】*$"  # that may stand behind an answer
_QUOTES = str.maketrans("“”‘’", "\"\"''")


@dataclass(frozen=True)
class OpenedReward:
    """A reward that is ready. label: its name in metrics; weight: what it is multiplied by; needs: fields that all records must have."""

    label: str
    weight: float
    needs: tuple[str, ...]
    worth: Worth

    def __call__(
        self, prompts: list[Messages], completions: list[str], ended: list[bool], columns: Columns
    ) -> list[float]:
        """What each answer is worth, not yet multiplied by the weight. Raises TrainingError."""
        assert len(prompts) == len(completions) == len(ended)
        assert all(len(column) == len(completions) for column in columns.values())
        return self.worth(prompts, completions, ended, columns) if completions else []


def open_rewards(rewards: Sequence[Reward], score: Callable[[str], Score] | None) -> list[OpenedReward]:
    """The rewards of a recipe, their functions loaded and their models opened.

    score: opens a reward model; it is given the reward's `model` as the recipe has it (a folder, or "reward"). Raises InputError
    for a function that cannot be loaded, and what `score` raises.
    """
    return [_open(reward, score) for reward in rewards]


def _open(reward: Reward, score: Callable[[str], Score] | None) -> OpenedReward:
    field = f"align.rewards: {reward.label}"
    worth, needs = _worth_of(reward, score, field)
    return OpenedReward(reward.label, reward.weight, needs, worth)


def _worth_of(reward: Reward, score: Callable[[str], Score] | None, field: str) -> tuple[Worth, tuple[str, ...]]:
    """What it says of answers, and the fields that records must have for it."""
    if reward.function is not None:
        return open_function(reward.function, field).worth, ()
    if reward.model is None:
        return _built_in(reward, field)
    if score is None:
        raise InputError(
            f"{field}: a reward model cannot be used here, got {reward.model}; use a function or a built-in reward"
        )
    return worth_by(score(reward.model), f"{field} ({reward.model})"), ()


def combined(
    opened: Sequence[OpenedReward],
    prompts: list[Messages],
    completions: list[str],
    ended: list[bool],
    columns: Columns,
) -> tuple[list[float], dict[str, list[float]]]:
    """Of each answer the sum of all rewards, each times its weight; and by label each reward alone, without its weight.

    Raises TrainingError.
    """
    by_label = {one.label: one(prompts, completions, ended, columns) for one in opened}
    total = [
        math.fsum(one.weight * by_label[one.label][number] for one in opened) for number in range(len(completions))
    ]
    return total, by_label


def asked(messages: Messages) -> str:
    """The text of a conversation's last turn of the user; of one without, that of its last turn."""
    texts = [str(message["content"]) for message in messages if message.get("role") == "user"]
    return (texts or [str(message["content"]) for message in messages] or [""])[-1]


def worth_by(score: Score, field: str) -> Worth:
    """A reward model as a reward. field: how messages name it."""

    def worth(prompts: list[Messages], completions: list[str], ended: list[bool], columns: Columns) -> list[float]:
        try:
            return checked(score(prompts, completions), completions, field)
        except Unfit as unfit:
            raise TrainingError(
                f"{field}: cannot be asked about a prompt, got {unfit.detail}; write the prompt another way, {AGAIN}"
            ) from None

    return worth


# ----------------------------------------------------------------------------------------------- functions


@dataclass(frozen=True)
class UserFunction:
    """A function of the user's. field: how messages name it; place: its file; names: of its parameters; takes_any: it has **kwargs."""

    field: str
    place: str
    call: Callable[..., Any]
    names: frozenset[str]
    takes_any: bool
    required: tuple[str, ...]  # parameters without a default

    def __call__(self, offered: dict[str, Any], completions: list[str]) -> list[float]:
        """A number for each of the completions. offered: what it may be given, by name. Raises TrainingError."""
        lacking = [name for name in self.required if name not in offered]
        if lacking:
            raise TrainingError(
                f"{self.field}: asks for {', '.join(lacking)}, and the records have no such field, got "
                f"{', '.join(offered)}; add the field to the records, or give the argument a default in {self.place}"
            )
        given = {name: value for name, value in offered.items() if self.takes_any or name in self.names}
        try:
            found = self.call(**given)
        except JielongError:
            raise
        except (Exception, SystemExit) as error:
            raise TrainingError(
                f"{self.field}: the function failed{_at(error, self.place)}, got {_named(error)}; correct it, {AGAIN}"
            ) from None
        return checked(found, completions, f"{self.field} ({self.place})")

    def worth(
        self, prompts: list[Messages], completions: list[str], ended: list[bool], columns: Columns
    ) -> list[float]:
        """As a reward."""
        offered = {"prompts": [asked(prompt) for prompt in prompts], "completions": completions, "messages": prompts}
        return self({**columns, **offered, "ended": ended}, completions)


def open_function(given: str, field: str, wanted: tuple[tuple[str, ...], ...] = (("completions",),)) -> UserFunction:
    """Load FILE.py:NAME or module:NAME.

    field: how messages name it. wanted: sets of arguments of which it must take all of one. Raises InputError.
    """
    source, _, name = given.rpartition(":")
    module = _from_file(Path(source), field) if source.endswith(".py") else _from_module(source, field)
    place = str(getattr(module, "__file__", None) or source)
    call = getattr(module, name, None)
    if not callable(call) or inspect.iscoroutinefunction(call):
        own = [(key, value) for key, value in vars(module).items() if inspect.isfunction(value)]
        there = [key for key, value in own if value.__module__ == module.__name__ and not key.startswith("_")]
        what = "no function of this name" if call is None else "async" if callable(call) else "no function"
        raise InputError(
            f"{field}: {what} in {place}, got {name!r}; there are: {', '.join(there) or 'none'}; correct the name, or write "
            "the function"
        )
    function = UserFunction(field, place, call, *_signature(call))
    if not function.takes_any and not any(function.names.issuperset(names) for names in wanted):
        needed = " or ".join(" and ".join(names) for names in wanted)
        raise InputError(
            f"{field}: the function in {place} does not take what is judged, got the arguments "
            f"{', '.join(sorted(function.names)) or 'none'}; it must take {needed}; write def {name}({', '.join(wanted[0])}, **columns)"
        )
    return function


def _signature(call: Callable[..., Any]) -> tuple[frozenset[str], bool, tuple[str, ...]]:
    """Names that it may be called by, whether it takes any other, and those that must be given."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # of some that are written in C
        return frozenset(), True, ()
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    required = tuple(one.name for one in named if one.default is one.empty)
    return frozenset(one.name for one in named), any(one.kind is one.VAR_KEYWORD for one in parameters), required


def _from_file(path: Path, field: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{field}: no such file, got {path}; give FILE.py:NAME, where the file is there")
    place = str(path.resolve())
    try:
        data = path.read_bytes()
        name = f"jielong_user_{path.stem}_{hashlib.sha256(place.encode() + data).hexdigest()[:16]}"
        if name in sys.modules:
            return sys.modules[name]
        loader = SourceFileLoader(name, place)
        spec = importlib.util.spec_from_loader(name, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        sys.path.insert(0, str(Path(place).parent))
        try:
            exec(loader.source_to_code(data, place), vars(module))
        except BaseException:
            del sys.modules[name]
            raise
        finally:
            with contextlib.suppress(ValueError):
                sys.path.remove(str(Path(place).parent))
    except (Exception, SystemExit) as error:
        _cannot_be_loaded(error, place, field)
    return module


def _from_module(name: str, field: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"{field}: no such module, got {name!r}; install it, or write FILE.py:NAME for a file"
            ) from None
        spec = None
        with contextlib.suppress(Exception):
            spec = importlib.util.find_spec(name)
        _cannot_be_loaded(error, (spec.origin if spec is not None else None) or repr(name), field)


def _cannot_be_loaded(error: BaseException, place: str, field: str) -> NoReturn:
    raise InputError(
        f"{field}: cannot be loaded{_at(error, place)}, got {_named(error)}; correct the file, or install what it needs"
    ) from None


def _named(error: BaseException) -> str:
    """The exception's type and message, on one line."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    told = " ".join(str(message).split())
    cut = told if len(told) <= LONGEST_REASON else told[: LONGEST_REASON - 1] + "…"
    return f"{type(error).__name__}: {cut}" if cut else type(error).__name__


def _at(error: BaseException, place: str) -> str:
    """Where in the user's file it was raised; where the file took no part, the file alone."""
    if isinstance(error, SyntaxError) and error.filename == place:
        return f" at line {error.lineno} of {place}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place]
    return f" at line {lines[-1]} of {place}" if lines else f" in {place}"


def checked(found: Any, completions: list[str], field: str) -> list[float]:
    """Finite numbers, one for each completion. Raises TrainingError that says which one is not."""
    count = len(completions)
    listed = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(listed, Sequence) or isinstance(listed, (str, bytes)):
        what = type(found).__name__
        raise TrainingError(
            f"{field}: returns no list, got {what}; must be a list of {count} numbers, one for each completion; correct "
            f"it, {AGAIN}"
        )
    if len(listed) != count:
        raise TrainingError(
            f"{field}: returns a list of the wrong length, got {len(listed)}; must be {count}, a number for each "
            f"completion; correct it, {AGAIN}"
        )
    return [_finite(value, number, completions, field) for number, value in enumerate(listed)]


def _finite(value: Any, number: int, completions: list[str], field: str) -> float:
    if not isinstance(value, (Real, Decimal)) and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # a tensor
    try:
        found = float(value) if isinstance(value, (Real, Decimal)) else None
    except (OverflowError, ValueError):  # a whole number beyond all floats; a signalling NaN
        found = math.inf
    if found is not None and math.isfinite(found):
        return found
    what, told = ("no number", repr(value)) if found is None else ("not finite", str(found))
    raise TrainingError(
        f"{field}: the reward of completion {number + 1} of {len(completions):,} ({quoted(completions[number])}) is {what}, got "
        f"{told[:QUOTED]}; must be a finite number; correct it, {AGAIN}"
    )


def quoted(text: str) -> str:
    """The beginning of a text, on one line, for a sentence."""
    line = " ".join(text.split())
    return repr(line if len(line) <= QUOTED else line[:QUOTED] + "…")


# ------------------------------------------------------------------------------------------------ built in


def _built_in(reward: Reward, field: str) -> tuple[Worth, tuple[str, ...]]:
    """One of config.BUILT_IN, and the fields that it needs."""
    if reward.built_in == "answer":
        return _answer(field), ("answer",)
    pattern = re.compile(reward.pattern)

    def holds(text: str, end: bool) -> bool:
        if reward.built_in == "length":
            return reward.min_characters <= len(text.strip()) <= reward.max_characters
        if reward.built_in == "ends":
            return end and text.rstrip().endswith(reward.endings)
        return pattern.search(text) is not None

    def worth(prompts: list[Messages], completions: list[str], ended: list[bool], columns: Columns) -> list[float]:
        return [float(holds(text, end)) for text, end in zip(completions, ended, strict=True)]

    return worth, ()


def _answer(field: str) -> Worth:
    def worth(prompts: list[Messages], completions: list[str], ended: list[bool], columns: Columns) -> list[float]:
        if "answer" not in columns:
            there = ", ".join(columns) or "none"
            raise TrainingError(
                f"{field}: compares with the field answer, and the records have no such field, got {there}; add it to the "
                "records, or map it in the source's fields"
            )
        found = list[float]()
        for prompt, text, answer in zip(prompts, completions, columns["answer"], strict=True):
            if answer is None or not str(answer).strip():
                raise TrainingError(
                    f"{field}: a record has no answer to compare with, got {answer!r} for the prompt {quoted(asked(prompt))}; give "
                    "each record one"
                )
            found.append(float(is_right(text, answer)))
        return found

    return worth


def is_right(completion: str, answer: Any) -> bool:
    """Whether a completion gives the answer of its record.

    Where the answer is a number, the completion's last number is the same, exactly: 0.5, 1/2, 二分之一 and 50% are one. Otherwise
    the answer's text stands in the completion's last statement: behind it no statement begins. Case and width of letters do not
    count, and a Latin word is a whole word.
    """
    wanted = _number(answer)
    if wanted is not None:
        found = numbers(completion)
        return bool(found) and found[-1] == wanted
    text, sought = _folded(completion), _folded(str(answer))
    place = text.rfind(sought)
    while place >= 0 and not _whole(text, place, place + len(sought)):
        place = text.rfind(sought, 0, place + len(sought) - 1)
    return bool(sought) and place >= 0 and _BREAKS.search(text[place + len(sought) :]) is None


def _number(answer: Any) -> Fraction | None:
    if isinstance(answer, bool):
        return None
    if isinstance(answer, float):
        return Fraction(repr(answer)) if math.isfinite(answer) else None
    return Fraction(answer) if isinstance(answer, (int, Decimal, Fraction)) else number_of(str(answer))


def _folded(text: str) -> str:
    """With letters of one case and width, white space as one blank or line end, and without the marks at its end."""
    text = unicodedata.normalize("NFKC", text.translate(_QUOTES)).casefold()
    return re.sub(r" ?\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip().rstrip(_MARKS)


def _whole(text: str, start: int, end: int) -> bool:
    """Whether no Latin word or number is cut at the ends of a part."""
    latin = re.compile("[a-z0-9]{2}")
    return not latin.fullmatch(text[max(start - 1, 0) : start + 1]) and not latin.fullmatch(text[end - 1 : end + 1])
