"""Documents on their way through the steps: texts, places and columns of a chunk, row by row.

The texts are kept in two forms, as strings and as UTF-8 bytes in one array, and either is made from the other only when it is
asked for. Cleaning wants strings; measuring, comparing, writing and the last pass want bytes, and in the last pass most
texts are never made into strings at all (decoding and encoding again took a tenth of the time).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.data.cleaning.scan import Bytes, Offsets, count_chars, encode

PLACE = np.dtype([("source", "<i4"), ("file", "<i4"), ("line", "<i8"), ("part", "<i8")])

HEAD_BYTES = 256

Column = NDArray[Any]


def joined(parts: list[Any]) -> tuple[Bytes, Offsets]:
    """Texts in bytes one after the other, and where each begins (and the last ends)."""
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts), np.uint8), offsets


@dataclass
class Raw:
    """Some records as a reader gave them. `bad` holds (place, reason, detail, raw text)."""

    number: int
    end: tuple[int, int]  # file, and records of it that are used up, behind the last record
    texts: list[str] = field(default_factory=list)
    places: list[tuple[int, int, int, int]] = field(default_factory=list)
    bad: list[tuple[tuple[int, int, int, int], str, str, str]] = field(default_factory=list)
    size: int = 0


class Docs:
    """Texts with their places (an array of PLACE) and columns (name -> an array of one value a document)."""

    def __init__(
        self,
        texts: list[str] | tuple[Bytes, Offsets],
        places: NDArray[Any],
        columns: dict[str, Column] | None = None,
        lengths: NDArray[np.int32] | None = None,
    ) -> None:
        """`texts`: strings, or their UTF-8 bytes with offsets (as scan.encode gives them); `lengths`: their characters, if known."""
        self.places = places
        self.columns = {} if columns is None else columns
        self._strings: list[str] | None = texts if isinstance(texts, list) else None
        self._encoded: tuple[Bytes, Offsets] | None = None if isinstance(texts, list) else texts
        self._rows: NDArray[np.int64] | None = None  # which texts of the bytes these are; none: all, in order
        self._newer: dict[int, bytes] = {}  # by row, what is newer than those bytes
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self.places)

    @property
    def texts(self) -> list[str]:
        """The texts as strings. Changed only through `replace`."""
        if self._strings is None:
            data, offsets = self.encoded()
            view = data.data
            self._strings = [str(view[start:end], "utf-8") for start, end in pairwise(offsets.tolist())]
        return self._strings

    def text(self, row: int) -> str:
        """One text."""
        if self._strings is not None:
            return self._strings[row]
        data, offsets = self.encoded()
        return str(data.data[int(offsets[row]) : int(offsets[row + 1])], "utf-8")

    def utf8(self, row: int) -> bytes:
        """One text in bytes."""
        data, offsets = self.encoded()
        return data.data[int(offsets[row]) : int(offsets[row + 1])].tobytes()

    def opening(self, row: int, chars: int) -> str:
        """The first characters of one text, without making a string of all of it."""
        if self._strings is not None:
            return self._strings[row][:chars]
        data, offsets = self.encoded()
        start = int(offsets[row])
        piece = data.data[start : min(start + 4 * chars, int(offsets[row + 1]))]  # none is longer than four bytes
        return str(piece, "utf-8", "ignore")[:chars]  # the last may be cut in two

    def head(self, row: int) -> bytes:
        """The first bytes of one text."""
        data, offsets = self.encoded()
        start = int(offsets[row])
        return data.data[start : min(start + HEAD_BYTES, int(offsets[row + 1]))].tobytes()

    def encoded(self) -> tuple[Bytes, Offsets]:
        """The texts as UTF-8 bytes one after the other, and where each begins."""
        if self._encoded is None:
            assert self._strings is not None
            self._encoded = encode(self._strings)
        elif self._rows is not None or self._newer:
            self._gather(np.arange(len(self)) if self._rows is None else self._rows)
        self._rows, self._newer = None, {}
        return self._encoded

    def lengths(self) -> NDArray[np.int32]:
        """Characters of each text, counted once."""
        if self._lengths is None and self._strings is not None:
            self._lengths = np.array(list(map(len, self._strings)), np.int32)
        elif self._lengths is None:
            self._lengths = count_chars(*self.encoded())
        return self._lengths

    def replace(self, texts: dict[int, str]) -> list[bytes]:
        """Give some rows another text; returns those in bytes, in their order."""
        parts = [text.encode("utf-8") for text in texts.values()]
        if not texts:
            return parts
        if self._lengths is not None:
            self._lengths = self._lengths.copy()  # it was given away
            self._lengths[list(texts)] = list(map(len, texts.values()))
        if self._strings is not None:
            for row, text in texts.items():
                self._strings[row] = text
        self._newer.update(zip(texts, parts, strict=True))
        return parts

    def take(self, rows: NDArray[np.int64]) -> Docs:
        """Some rows, in the given order. Bytes are put together only when they are asked for."""
        if len(rows) == len(self) and (rows == np.arange(len(self))).all():
            return self
        columns = {name: values[rows] for name, values in self.columns.items()}
        taken = Docs([], self.places[rows], columns)
        taken._strings = None if self._strings is None else [self._strings[row] for row in rows.tolist()]
        taken._lengths = None if self._lengths is None else self._lengths[rows]
        if self._encoded is not None:
            taken._encoded, taken._rows = self._encoded, rows if self._rows is None else self._rows[rows]
            if self._newer:
                taken._newer = {at: self._newer[row] for at, row in enumerate(rows.tolist()) if row in self._newer}
        return taken

    def _gather(self, rows: NDArray[np.int64]) -> None:
        """Put the bytes of some rows together, newer ones where there are any."""
        assert self._encoded is not None
        data, offsets = self._encoded
        view, starts, ends = data.data, offsets[:-1][rows].tolist(), offsets[1:][rows].tolist()
        parts: list[Any] = [view[start:end] for start, end in zip(starts, ends, strict=True)]
        for row, replaced in self._newer.items():
            parts[row] = replaced
        self._encoded = joined(parts)

    @staticmethod
    def of(raw: Raw) -> Docs:
        """The good records of a raw chunk."""
        return Docs(raw.texts, np.array(raw.places, PLACE))
