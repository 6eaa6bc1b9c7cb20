"""A small report dictionary of the data stage, with hostile text wherever text from outside can stand."""

from __future__ import annotations

from typing import Any

EVIL = "<script>alert('x')</script> & \u202e\x00 <img src=x onerror=alert(1)>"


def sample(text: str, value: float | None = 0.5) -> dict[str, Any]:
    return {"text": text, "value": value, "detail": EVIL, "source": "新闻", "file": "甲<b>.jsonl", "line": 7}


def step(name: str, kind: str, came: int, rejected: dict[str, int], **more: Any) -> dict[str, Any]:
    out = came - sum(rejected.values()) + more.get("added", 0)
    half = {"in": came // 2, "out": out // 2, "rejected": sum(rejected.values()) // 2, "edited": 0}
    found = {
        "name": name,
        "kind": kind,
        "in": came,
        "out": out,
        "added": 0,
        "edited": 3,
        "chars_in": 1000,
        "chars_out": 990,
    }
    found |= {"edits": {}, "rejected": rejected, "by_source": {"新闻": half, EVIL: half}, "options": {}, "samples": []}
    return found | more


def report() -> dict[str, Any]:
    """Two sources, six steps, every section."""
    edit = {
        "kind": "html_tag",
        "before": f"前<p>{EVIL}</p>后",
        "after": "前后",
        "source": "新闻",
        "file": "a",
        "line": 1,
    }
    pair = {"step": "near", "rule": "near_duplicate", "column": None, "count": 10}
    threshold = {"step": "filter", "min": 0.3, "max": None, "because": EVIL, "rejected": 20}
    source = {
        "files": 2,
        "raw_bytes": 3000,
        "encodings": {"utf-8": 1, "gb18030": 1},
        "read": 100,
        "kept": 80,
        "chars": 500,
    }
    source |= {"weight": 1.0, "bytes": 1500, "rejected": {"filter/han_ratio": 10}, "languages": {"zh": 79, "xx<": 1}}
    return {
        "format": 1,
        "run": f"小{EVIL}",
        "totals": {"read": 200, "kept": 164, "rejected": 40, "added": 4, "chars": 990, "bytes": 2970, "raw_bytes": 6000},
        "sources": [
            source | {"name": "新闻", "licence": "CC BY"},
            source | {"name": EVIL, "licence": None, "weight": 3.0},
        ],
        "steps": [
            step("read", "read", 200, {"bad_json": 2}, edited=0),
            step("markup", "markup", 198, {"empty": 4}, edits={"html_tag": 9}, samples=[edit], options={"html": EVIL}),
            step("measure", "measure", 194, {}),
            step(f"我的{EVIL}", "filter", 194, {"han_ratio": 20, EVIL: 4}),
            step("near", "near", 170, {"near_duplicate": 10}),
            step("split", "split", 160, {}, added=4),
            step("split into train and validation", "split", 164, {}),
        ],
        "columns": [
            {"name": "han_ratio", "en": "share of Han", "zh": "汉字占比", "unit": "of characters", "log": False,
             "edges": [0, 0.25, 0.5, 0.75, 1], "measured": [20, 0, 74, 100], "kept": [0, 0, 60, 100],
             "quantiles": {"p05": 0.1, "p50": 0.8, "p95": float("nan")}, "thresholds": [threshold]},
            {"name": "text_len", "en": "length", "zh": "长度", "unit": "characters", "log": True,
             "edges": [0, 1, 10, 100], "measured": [0, 94, 100], "kept": [0, 60, 100], "quantiles": {}, "thresholds": []},
        ],
        "rules": [
            {"step": "filter", "rule": "han_ratio", "column": "han_ratio", "min": 0.3, "max": None, "because": EVIL,
             "count": 20, "rejected": [sample(EVIL + "长" * 400, 0.29)], "kept": [sample("好的文字", 0.31)]},
            pair | {"rejected": [sample("甲乙丙丁戊己", 0.9), sample("单独", None)], "kept": [sample("甲乙丙丁庚己"), None]},
        ],
        "near": [
            {"step": "near", "similarity": 0.8, "ngram": 5, "permutations": 128, "bands": 16, "rows": 8, "verify": 0.73,
             "curve": [[0, 0], [0.5, 0.06], [0.8, 0.95], [1, 1]], "documents": 170, "rejected": 10, "groups": 4,
             "largest": [{"size": 5, "text": EVIL}]}
        ],
        "lines": [{"step": "lines", "unit": "line", "min_documents": 20, "lines_removed": 55,
                   "removed": [{"text": EVIL, "documents": 30}]}],
        "repeated": [{"text": "\u3000\u3000", "count": 9}, {"text": EVIL, "count": 8}],
        "lengths": {"edges": [1, 10, 100], "train": [50, 104], "validation": [4, 6]},
        "languages": {"zh": 160, "und-Latn": 3, "xx<": 1},
        "characters": {"distinct": 900, "total": 5000, "coverage": [[1, 0.04], [10, 0.2], [900, 1.0]],
                       "common_seen": 890, "common_of": 3755, "common_missing": "皑蔼", "outside": 0.01,
                       "top": [["的", 200], ["一", 90]]},
        "balance": {"reach": 12, "documents": {"新闻": 80, EVIL: 80}, "chars": {"新闻": 500, EVIL: 490}, "groups": [
            {"name": EVIL, "documents": {"新闻": 5}, "no_mentions": ["其他"], "members": [
                {"name": name, "terms": [name], "mentions": {"新闻": 5}, "documents": {"新闻": 4}, "neighbours": [],
                 "distinct": [], "samples": []} for name in ("女", "男")]}]},
        "fragments": [{"step": "fragments", "listed": 3, "marked": 1, "rows": [
            {"action": "remove", "score": "5.0", "documents": "40", "occurrences": "41", "evidence": EVIL, "example": EVIL,
             "context": EVIL}]}],
        "evaluation": [{"step": "decontaminate", "file": EVIL, "items": 100, "joined": 5, "too_short": 1, "documents": 3}],
    }  # fmt: skip
