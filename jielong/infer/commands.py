"""The commands of the infer stage: what `jielong generate` and `jielong chat` take and what they call, and beside them merge and judge.

Everything heavy is imported inside the functions: the command line reads this file whenever it starts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jielong.console import RUNS, JsonOpt, ModelArg, RunsOpt, tell
from jielong.errors import InputError
from jielong.infer.judging import COMMANDS as JUDGING
from jielong.infer.merging import COMMANDS as MERGING

Prompt = Annotated[list[str] | None, typer.Option("--prompt", help="Text to continue (repeatable).")]
PromptsFile = Annotated[Path | None, typer.Option("--prompts-file", help="A UTF-8 file with one prompt a line.")]
MaxTokens = Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Length limit, tokens.")]
Temperature = Annotated[float | None, typer.Option("--temperature", min=0.0, help="0: greedy.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=0, help="Draw from the k most probable; 0: all.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", min=0.0, max=1.0, help="Draw from this much probability; 1: all.")
]
Penalty = Annotated[float | None, typer.Option("--repetition-penalty", min=0.01, help="Weaken what was said; 1: off.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="The same seed gives the same text.")]
Cache = Annotated[str | None, typer.Option("--cache", help="kv, rolling (text without end) or hidden (EL-attention).")]
CacheTokens = Annotated[int | None, typer.Option("--cache-tokens", min=8, help="Tokens that a rolling cache keeps.")]
Beams = Annotated[int | None, typer.Option("--num-beams", min=1, help="Beam search; sets temperature 0.")]
LengthPenalty = Annotated[float | None, typer.Option("--length-penalty", help="Beams: above 0 favours longer texts.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End before this string (repeatable).")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Prompts that go together, with --json.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Versus = Annotated[
    str | None, typer.Option("--versus", metavar="MODEL", help="Ask this model, too, and show both answers.")
]
Turns = Annotated[
    bool | None,
    typer.Option(
        "--chat/--continue", help="Take turns, or continue each text; default: turns if it was tuned for them."
    ),
]
System = Annotated[str, typer.Option("--system", metavar="TEXT", help="What the model is told before all turns.")]
Questions = Annotated[
    Path | None,
    typer.Option("--file", metavar="QUESTIONS", help="Ask what is in this UTF-8 file, one question a line."),
]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save", metavar="FILE", help="Append the conversation to this file, as a line that can be tuned on."
    ),
]


def _sampling(model: str, runs_dir: Path, **options: Any) -> Any:
    """The [infer] table of the model's run, or the defaults, with the options that were given."""
    from jielong.infer.config import with_options
    from jielong.infer.models import find_model, run_sampling

    return with_options(run_sampling(find_model(model, runs_dir)), options)


def generate(
    model: ModelArg, prompt: Prompt = None, prompts_file: PromptsFile = None, max_new_tokens: MaxTokens = None,
    temperature: Temperature = None, top_k: TopK = None, top_p: TopP = None, repetition_penalty: Penalty = None,
    cache: Cache = None, cache_tokens: CacheTokens = None, num_beams: Beams = None,
    length_penalty: LengthPenalty = None, stop: Stop = None, batch_size: BatchSize = None,
    seed: Seed = None, device: Device = "auto", runs_dir: RunsOpt = RUNS, json: JsonOpt = False,
) -> dict[str, Any] | None:  # fmt: skip
    """The continuations, where they are not shown as they come."""
    from dataclasses import asdict

    prompts = list(prompt or [])
    if prompts_file is not None:
        prompts += [line for line in prompts_file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not prompts:
        raise InputError("--prompt: none given; give --prompt TEXT (repeatable) or --prompts-file FILE")
    config = _sampling(model, runs_dir, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                       repetition_penalty=repetition_penalty, cache=cache, cache_tokens=cache_tokens, num_beams=num_beams,
                       length_penalty=length_penalty, stop=stop or None, seed=seed, device=device,
                       batch_size=batch_size)  # fmt: skip
    from jielong.infer.config import against_model
    from jielong.infer.generate import continue_prompt, encode
    from jielong.infer.models import open_model

    opened, tokenizer, folder = open_model(model, runs_dir, config.device, config.precision)
    if json:
        from jielong.infer.batch import continue_prompts

        return {
            "model": str(folder),
            "continuations": [asdict(row) for row in continue_prompts(opened, tokenizer, prompts, config)],
        }
    if problems := against_model(config, opened.config):
        raise InputError(f"infer.{problems[0]}")
    for text in prompts:  # what would be refused later is refused before anything is shown
        encode(opened, tokenizer, text, config)
    for number, text in enumerate(prompts):  # every prompt draws with the next seed, as in the infer stage
        tell(text, end="")
        continue_prompt(opened, tokenizer, text, config, config.seed + number, functools.partial(tell, end=""))
        tell("\n" if len(prompts) > 1 else "")
    return None


def chat(
    model: ModelArg, versus: Versus = None, turns: Turns = None, system: System = "", file: Questions = None,
    save: Save = None, max_new_tokens: MaxTokens = None, temperature: Temperature = None, top_k: TopK = None,
    top_p: TopP = None, repetition_penalty: Penalty = None, cache: Cache = None, cache_tokens: CacheTokens = None,
    num_beams: Beams = None, length_penalty: LengthPenalty = None, stop: Stop = None, seed: Seed = None,
    device: Device = "auto", runs_dir: RunsOpt = RUNS, json: JsonOpt = False,
) -> dict[str, Any] | None:  # fmt: skip
    """A chat with turns, or texts that are continued, until an empty line; what was said, where JSON is asked for."""
    names = [model] if versus is None else [model, versus]
    configs = [
        _sampling(name, runs_dir, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                  repetition_penalty=repetition_penalty, cache=cache, cache_tokens=cache_tokens, num_beams=num_beams,
                  length_penalty=length_penalty, stop=stop or None, seed=seed, device=device)
        for name in names
    ]  # fmt: skip
    from jielong.infer.chat.running import Wishes, hold

    return hold(names, configs, runs_dir, Wishes(turns, system, file, save, json))


COMMANDS: dict[str, tuple[Callable[..., dict[str, Any] | None], str]] = {
    "generate": (generate, "Continue prompts with a trained model, streaming."),
    "chat": (chat, "Talk with a tuned model, or with two; continue what is typed with any other. /help: commands."),
    **MERGING,
    **JUDGING,
}
