from __future__ import annotations

from typing import Any

from jielong.data.config import Config
from jielong.data.pipeline.plan import Pass, fingerprints, make_plan

INPUTS = [{"label": "a/x.txt", "xxh3_128": "00"}]


def config(*steps: dict[str, Any], **options: Any) -> Config:
    return Config.model_validate({"sources": [{"name": "a", "path": "x.txt"}], "steps": steps, **options})


def kinds(*names: str, **options: Any) -> Config:
    return config(*({"step": name} for name in names), **options)


def test_passes_end_where_all_documents_must_be_seen() -> None:
    plan = make_plan(kinds("markup", "measure", "filter", "exact", "near", "lines", "split").steps)
    assert plan.passes == (Pass((0, 1), (2, 3, 4, 5)), Pass((6,), ()))


def test_nothing_is_decided_behind_lines_before_they_are_gone() -> None:
    plan = make_plan(kinds("lines", "exact").steps)
    assert plan.passes == (Pass((), (0,)), Pass((), (1,)), Pass((), ()))


def test_steps_on_text_alone_are_one_pass() -> None:
    assert make_plan(kinds("markup", "whitespace").steps).passes == (Pass((0, 1), ()),)
    assert make_plan(()).passes == (Pass((), ()),)


def test_a_step_can_be_kept_from_a_source() -> None:
    plan = make_plan(config({"step": "markup", "sources": ["a"]}, {"step": "exact", "except_sources": ["a"]}).steps)
    assert plan.applies(0, "a") and not plan.applies(1, "a") and plan.applies(1, "b") and not plan.applies(0, "b")


def test_a_threshold_changes_the_decisions_and_not_what_was_measured() -> None:
    def of(*steps: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
        made = config(*steps, **options)
        return fingerprints(make_plan(made.steps), made, INPUTS)

    text = [{"step": "characters"}, {"step": "measure"}]
    rule = {"column": "text_len", "min": 20.0}
    first = of(*text, {"step": "filter", "rules": [rule]}, {"step": "near"})
    second = of(*text, {"step": "filter", "rules": [rule | {"min": 30.0}]}, {"step": "near"})
    assert first[0][0] == second[0][0] and first[0][1] != second[0][1] and first[1] != second[1]
    assert of(*text, {"step": "filter"}, {"step": "near", "ngram": 6})[0][0] != first[0][0]
    assert (
        of({"step": "characters", "width": False}, text[1], {"step": "filter"}, {"step": "near"})[0][0] != first[0][0]
    )
    assert of(*text, {"step": "filter"}, {"step": "near"}, chunk_megabytes=1)[0][0] != first[0][0]
    assert of(*text, {"step": "filter"}, {"step": "near"}, processes=1, keep_work=False)[0][0] == first[0][0]


def test_steps_on_finished_documents_and_their_files_belong_to_no_pass() -> None:
    text: list[dict[str, Any]] = [{"step": "measure"}, {"step": "exact"}]
    behind = [{"step": "annotate", "dictionary": "w.txt"}, {"step": "augment", "method": "synonyms", "file": "s.txt"}]
    files = [{"label": f"steps/{name}.txt", "xxh3_128": name} for name in "ws"]
    with_them, without = config(*text, *behind), config(*text)
    plan = make_plan(with_them.steps)
    assert plan.passes == make_plan(without.steps).passes == (Pass((0,), (1,)), Pass((), ()))
    assert (plan.annotating, plan.copying, plan.behind) == (2, (3,), (2, 3))
    assert plan.divided([*INPUTS, *files]) == (INPUTS, files)
    expected = fingerprints(make_plan(without.steps), without, INPUTS)
    assert fingerprints(plan, with_them, [*INPUTS, *files]) == expected
    assert make_plan(config(*text, behind[1]).steps).behind == (2,) and make_plan(()).behind == ()
