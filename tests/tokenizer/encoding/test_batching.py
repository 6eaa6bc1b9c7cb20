"""How texts are shared out to threads."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jielong.tokenizer.encoding.batching import share_out


@given(sizes=st.lists(st.integers(0, 50), max_size=30), most=st.integers(1, 8), start=st.integers(0, 5))
def test_every_text_once_and_in_order(sizes: list[int], most: int, start: int) -> None:
    shares = share_out(start + np.cumsum([0, *sizes]), most)
    assert len(shares) <= most or not sizes
    assert [n for first, last in shares for n in range(first, last)] == list(range(len(sizes)))
    if sizes:
        assert all(first < last for first, last in shares)
