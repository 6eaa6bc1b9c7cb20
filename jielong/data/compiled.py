"""How the passes over bytes are compiled: by numba, at their first call, kept on disk for the next process.

numba keeps what it compiled beside the source, or else in the user's cache folder, and refuses to define a function when it
can write to neither (an installed package in a container without a home, say). Then nothing is kept, and every process
compiles for itself.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numba


def kernel(function: Any, fastmath: bool | set[str] = False) -> Any:
    """Compile a function of arrays and numbers: machine code, without the interpreter's lock, exact arithmetic.

    fastmath: which of LLVM's liberties are taken, {"reassoc"} for sums in another order; a division by zero is then infinite, no
    error, whose branch would keep a loop from being vectorised.
    """
    kept = _can_be_kept(Path(function.__code__.co_filename).parent)
    errors: Literal["numpy", "python"] = "numpy" if fastmath else "python"
    return numba.njit(cache=kept, nogil=True, fastmath=fastmath, error_model=errors)(function)


@lru_cache
def _can_be_kept(folder: Path) -> bool:
    places = [Path(os.environ.get("NUMBA_CACHE_DIR") or folder / "__pycache__"), _user_cache()]
    return any(_is_writable(place) for place in places)


def _user_cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    except RuntimeError:  # nobody's home
        return Path("/nonexistent/numba")


def _is_writable(place: Path) -> bool:
    """Whether files can be made in a folder, which may have to be made first."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
