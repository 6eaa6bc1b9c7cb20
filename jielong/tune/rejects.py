"""What was set aside, in the format of the data stage's rejects (data/documents.py): Parquet, a row a record, with reason and place.

`text` is the record as it stands in its file, cut; `stage` is tune (or align), `rule` a key of its checking.REASONS. Rows are written a row group at a
time, so memory is bounded, and the same rows give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import pyarrow
import pyarrow.parquet

from jielong.data.documents import LEVEL, REJECT_SCHEMA, ROW_GROUP_BYTES, text_id

pa: Any = pyarrow  # it has no types of its own

REPEATED = ("source", "stage", "rule", "file")


class Rejects:
    """Writes a file of rejects. Use as a context manager."""

    def __init__(self, path: Path, stage: str = "tune") -> None:
        self._stage = stage
        path.parent.mkdir(parents=True, exist_ok=True)
        self._rows, self._size = list[dict[str, Any]](), 0
        self._writer = pa.parquet.ParquetWriter(
            path,
            REJECT_SCHEMA,
            compression="zstd",
            compression_level=LEVEL,
            use_dictionary=list(REPEATED),
            write_statistics=[*REPEATED, "line"],
        )

    def __enter__(self) -> Rejects:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, source: str, reason: str, detail: str, file: str, line: int, text: str) -> None:
        """Write one record that was set aside."""
        data = text.encode("utf-8")
        meta = orjson.dumps({"file": file, "line": line}).decode()
        values = (text_id(data), text, source, meta, self._stage, reason, detail, file, line)
        self._rows.append(dict(zip(REJECT_SCHEMA.names, values, strict=True)))
        self._size += len(data)
        if self._size >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, REJECT_SCHEMA), row_group_size=len(self._rows))
        self._rows, self._size = [], 0
