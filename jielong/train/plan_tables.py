"""The tables of `jielong plan`: from a Report to titles, heads and cells of text. No arithmetic but units."""

from __future__ import annotations

from jielong.progress import human_count, human_seconds
from jielong.train.planning import Report

Table = tuple[str, list[str], list[list[str]]]  # title, head, rows


def gib(size: int) -> str:
    """Bytes as a table shows them: in GiB, small ones in MiB."""
    return f"{size / (1 << 30):,.2f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):,.1f} MiB"


def duration(hours: float) -> str:
    """Hours as a person says them."""
    if hours < 1:
        return human_seconds(3600 * hours)
    return f"{hours:,.1f} h" if hours < 100 else f"{hours / 24:,.1f} days"


def plan_tables(report: Report) -> list[Table]:
    """Everything that a plan says, in the order in which it is read; the assumptions come last, as `notes`."""
    phases = [_phases(report)] if report.budget.parts else []
    return [
        _model(report), _memory(report), _batch(report), _time(report), *phases, _optimal(report), _generation(report),
    ]  # fmt: skip


def notes(report: Report) -> list[str]:
    """The assumptions, a line each, and what does not fit."""
    lines = [f"Assumed: {text}" for text in report.assumptions]
    if not report.fit.fits:
        best = report.fit.largest_divisor * report.fit.sequence_length
        advice = (
            f"set train.micro_batch_tokens to {best}"
            if best
            else "not even one row fits: a smaller model, shorter rows, or another device"
        )
        lines.insert(0, f"The recipe's micro-batch does not fit on {report.device.name}: {advice}")
    return lines


def _model(report: Report) -> Table:
    total, embedding = report.parameters, report.embedding_parameters
    rows = [
        ["parameters", f"{total:,}", human_count(total)],
        [
            "of them embedding and output",
            f"{embedding:,}",
            f"{embedding / total:.1%} (vocabulary {report.vocabulary:,})",
        ],
        ["of them not embedding", f"{total - embedding:,}", ""],
        ["active a token", f"{report.active_parameters:,}", "all" if report.active_parameters == total else ""],
        [
            "training FLOPs a token",
            f"{report.flops_per_token:,.0f}",
            f"{report.flops_per_token / total:.1f} a parameter",
        ],
    ]
    return "Model", ["", "number", ""], rows


def _memory(report: Report) -> Table:
    memory = report.fit.memory
    parts = {
        "weights": report.held,
        "low_precision": "copies for matrix products, from forward to backward",
        "gradients": "float32, gone after a step",
        "optimizer": "what it keeps of the steps before, and the average of the weights",
        "activations": "what the backward pass needs",
        "logits": "of a piece of the tokens, with what is made of them",
    }
    rows = [
        [name.replace("_", " "), gib(getattr(memory, name)), text]
        for name, text in parts.items()
        if getattr(memory, name)
    ]
    rows += [[f"most in {name}", gib(memory.phase(name)), ""] for name in ("forward", "backward", "step")]
    verdict = "fits" if report.fit.fits else "does not fit"
    rows.append(["peak", gib(memory.peak), f"{memory.moment}; {verdict} in {gib(report.fit.usable)}"])
    fit = report.fit
    title = (
        f"Memory of a step on {report.device.name}, {fit.rows} rows x {fit.sequence_length} tokens, {report.precision}"
    )
    return title, ["", "bytes", ""], rows


def _batch(report: Report) -> Table:
    fit = report.fit
    rows = [
        ["the recipe's", f"{fit.rows:,}", f"{fit.rows * fit.sequence_length:,}"],
        ["largest that fits", f"{fit.largest_rows:,}", f"{fit.largest_rows * fit.sequence_length:,}"],
        ["and divides a step", f"{fit.largest_divisor:,}", f"{fit.largest_divisor * fit.sequence_length:,}"],
    ]
    return "Micro-batch", ["", "rows", "tokens"], rows


def _time(report: Report) -> Table:
    budget = report.budget
    rows = [
        ["tokens", f"{budget.tokens:,}", budget.source],
        ["steps", f"{budget.steps:,}", "see the phases" if budget.parts else f"of {budget.tokens_per_step:,} tokens"],
        ["tokens a parameter", f"{budget.tokens / report.parameters:.1f}", ""],
        ["FLOPs", f"{budget.flops:.3g}", ""],
        ["time", duration(budget.hours), f"{report.devices} x {report.device.name}"],
        ["tokens a second", f"{budget.tokens / (3600 * budget.hours):,.0f}", ""],
        ["cost", f"{budget.device_hours * report.device.price:,.2f}", "dollars"],
    ]
    return "Training", ["", "number", ""], rows


def _phases(report: Report) -> Table:
    rows = [
        [f"{number}", f"{part.first_step:,}", f"{part.steps:,}", f"{part.tokens:,}", f"{part.sequence_length:,}",
         f"{part.tokens_per_step:,}", part.optimizer, part.schedule, f"{part.learning_rate:g}", duration(part.hours)]
        for number, part in enumerate(report.budget.parts, 1)
    ]  # fmt: skip
    head = [
        "phase",
        "from step",
        "steps",
        "tokens",
        "tokens a row",
        "tokens a step",
        "optimizer",
        "schedule",
        "peak rate",
        "time",
    ]
    return "Phases", head, rows


def _optimal(report: Report) -> Table:
    best = report.optimal
    shape = best.shape
    rows = [
        ["device hours", f"{best.device_hours:,.4g}", f"{best.flops:.3g} FLOPs"],
        ["parameters, by the rule", human_count(best.rule_parameters), "sqrt(FLOPs / 120)"],
        ["tokens, by the rule", human_count(best.rule_tokens), "20 a parameter"],
        ["a shape near it", human_count(best.shape_parameters),
         f"hidden_size {shape.hidden_size}, num_hidden_layers {shape.num_hidden_layers}, num_attention_heads "
         f"{shape.num_attention_heads}, num_key_value_heads {shape.num_key_value_heads}"],
        ["its tokens", human_count(best.shape_tokens), f"in {best.shape_hours:,.4g} device hours"],
    ]  # fmt: skip
    return "Compute-optimal size (Chinchilla, arXiv:2203.15556)", ["", "number", ""], rows


def _generation(report: Report) -> Table:
    rows = [
        [str(row.rows), "float32" if row.item == 4 else "16 bits", gib(row.memory.weights), gib(row.memory.kv_cache),
         "-" if row.memory.el_cache is None else gib(row.memory.el_cache), f"{row.most_tokens_per_second:,.0f}"]
        for row in report.generation
    ]  # fmt: skip
    context = report.generation[0].context
    head = ["texts", "numbers", "weights", "KV cache", "EL cache", "tokens/s at most"]
    return f"Generation, {context:,} tokens of context", head, rows
