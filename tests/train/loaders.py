"""What tests of loaders share: the kinds there are, and whether two batches are the same."""

from __future__ import annotations

import numpy as np

from jielong.train.loader import Batch, Loader, PackedLoader, TruncatedLoader

LOADERS: tuple[type[Loader], ...] = (PackedLoader, TruncatedLoader)


def same(ours: Batch, theirs: Batch) -> None:
    """Fail unless the batches are equal in shape and in every number."""
    for name in ("inputs", "labels", "positions", "documents"):
        left, right = getattr(ours, name), getattr(theirs, name)
        assert left.dtype == right.dtype == np.int64, name
        assert left.tolist() == right.tolist(), name
