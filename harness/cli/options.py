"""The options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.contracts import JudgeOptions
    from harness.models.overrides import Overrides

Model = Annotated[str, typer.Option("--model", "-m", help="A checkpoint folder, an adapter folder, a hub id, or 'tiny'.")]
Tasks = Annotated[str, typer.Option("--tasks", "-t", help="Task names, comma-separated, or paths to task YAMLs.")]
Judge = Annotated[str, typer.Option("--judge", "-j", help="Judges, comma-separated: `harness judges list`, or any LiteLLM name.")]
Metrics = Annotated[str | None, typer.Option("--metrics", help="Metrics beside the task's own, comma-separated.")]
JudgePrompt = Annotated[str, typer.Option("--judge-prompt", help="What LLM judges are asked: rarl-v1 (the paper's) or rarl-v2.")]
JudgeInFlight = Annotated[int, typer.Option("--judge-in-flight", min=1, help="Open requests to an LLM judge.")]
JudgeRpm = Annotated[float | None, typer.Option("--judge-rpm", min=0.001, help="Requests a minute to an LLM judge.")]
JudgeTpm = Annotated[float | None, typer.Option("--judge-tpm", min=1, help="Tokens a minute to an LLM judge.")]
JudgeSeed = Annotated[int, typer.Option("--judge-seed", help="Sent to LLM judges; another seed is another judge version.")]
JudgeRegistry = Annotated[
    Path | None,
    typer.Option("--judge-registry", envvar="HARNESS_JUDGE_REGISTRY", help="YAML of judges of your own: names, prices, ends."),
]
MaxCost = Annotated[
    float | None, typer.Option("--max-cost", min=0, help="US dollars that LLM judges may spend; stops before it is passed.")
]
AcceptSuccessor = Annotated[
    bool, typer.Option("--accept-successor", help="A retired judge's successor answers, shown as OLD -> NEW.")
]
AskAgain = Annotated[
    bool, typer.Option("--ask-again", help="Ask an LLM judge again where it answered, and was paid, without a verdict.")
]
AllowExternal = Annotated[bool, typer.Option("--allow-external", help="Rows may be sent to another machine.")]
PromptName = Annotated[str | None, typer.Option("--prompt", help="A named prompt; each task's own by default.")]
Data = Annotated[str, typer.Option("--data", help="auto, hub, local or bundled; auto says what it found.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="HARNESS_DATA_DIR", help="Folder that holds the official archives, one subfolder a task."),
]
ReasoningTags = Annotated[
    list[str] | None,
    typer.Option("--reasoning-tags", help="OPEN,CLOSE: how this model marks its thinking, if not in a way known; may repeat."),
]
Images = Annotated[
    Path | None,
    typer.Option("--images", envvar="HARNESS_IMAGES", help="Folder that holds the images of a table, where they lie elsewhere."),
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of run records.")]
RunsMany = Annotated[list[Path] | None, typer.Option("--runs", help="Folder of run records; may be given several times.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N rows of each task.")]
MaxImagePixels = Annotated[
    int | None,
    typer.Option("--max-image-pixels", min=1, help="Images of more pixels are bad rows; 100,000,000 by default."),
]
BatchSize = Annotated[str, typer.Option("--batch-size", help="Questions a batch, or auto. Never changes an answer.")]
Seed = Annotated[int, typer.Option("--seed", help="Seeds everything random.")]
System = Annotated[str | None, typer.Option("--system", help="A system turn before every question.")]
NumFewshot = Annotated[
    int, typer.Option("--num-fewshot", min=0, help="Worked examples before every question, drawn from the train split by --seed.")
]
ChatTemplateKwargs = Annotated[
    str | None,
    typer.Option("--chat-template-kwargs", help="JSON for the model's chat template, as '{\"enable_thinking\": false}'."),
]
MinPixels = Annotated[
    int | None, typer.Option("--min-pixels", min=1, help="The processor enlarges smaller pictures (Qwen-VL, GLM-V).")
]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", min=1, help="The processor makes larger pictures smaller (Qwen-VL, GLM-V).")
]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="An answer ends before this text; may repeat.")]
Backend = Annotated[str, typer.Option("--backend", help="What computes a checkpoint: transformers or vllm.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps ...")]
DeviceMap = Annotated[
    str | None, typer.Option("--device-map", help="auto: one model's layers over all GPUs, without the shared prefix.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]


def reasoning_tags(given: list[str] | None) -> tuple[tuple[str, str], ...]:
    """`--reasoning-tags`, each as a pair. Raises UserError."""
    from harness.errors import UserError

    pairs = []
    for one in given or ():
        opening, comma, closing = (part.strip() for part in one.partition(","))
        if not (opening and comma and closing) or opening == closing or "," in closing:
            hint = "as in --reasoning-tags '<plan>,</plan>'"
            raise UserError(f"--reasoning-tags {one}: expected two different markers", hint=hint)
        pairs.append((opening, closing))
    return tuple(dict.fromkeys(pairs))


def overrides(chat_template_kwargs: str | None, min_pixels: int | None, max_pixels: int | None) -> Overrides:
    """What is changed of the model's own settings. Raises UserError."""
    import json

    from harness.models.overrides import Overrides

    found: object = {}
    if chat_template_kwargs is not None:
        try:
            found = json.loads(chat_template_kwargs)
        except ValueError as e:
            found = e
        if not isinstance(found, dict):
            why = f"not JSON ({found})" if isinstance(found, ValueError) else "not a JSON object"
            raise UserError(f"--chat-template-kwargs: {why}", hint="as in --chat-template-kwargs '{\"enable_thinking\": false}'")
    return Overrides(dict(found) if isinstance(found, dict) else {}, min_pixels, max_pixels)


def stops(given: list[str] | None) -> tuple[str, ...]:
    """`--stop`, each once, in an order that says nothing. Raises UserError."""
    if "" in (given or ()):
        raise UserError("--stop is empty", hint="give a text that ends an answer, as --stop $'\\n\\n'")
    return tuple(sorted(set(given or ())))


def metrics(given: str | None) -> tuple[str, ...]:
    """`--metrics`, with what each needs loaded. Raises UserError naming the nearest metric, or what is absent."""
    from harness.scoring import reports
    from harness.scoring.metrics import check

    names = check(n for part in (given or "").split(",") if (n := part.strip()))
    reports.prepare(names)
    return names


def judge_options(
    runs: Path, prompt: str, allow_external: bool, max_cost: float | None, in_flight: int, rpm: float | None, tpm: float | None,
    registry: Path | None, seed: int, device: str, ask_again: bool = False, accept_successor: bool = False,
) -> JudgeOptions:  # fmt: skip
    """The options of one command's judges."""
    import math

    from harness.contracts import JudgeOptions
    from harness.models.usage import Budget, Limits
    from judges.prompt import sha256

    for flag, value in (("--max-cost", max_cost), ("--judge-rpm", rpm), ("--judge-tpm", tpm)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{flag} {value}: expected a number", hint="leave it away for no limit")
    sha256(prompt)  # a wrong name is an error, whether or not these judges use it
    return JudgeOptions(
        prompt=prompt, runs=runs, allow_external=allow_external, budget=Budget(max_cost), limits=Limits(rpm, tpm),
        max_in_flight=in_flight, registry=registry, seed=seed, device=device, ask_again=ask_again,
        accept_successor=accept_successor,
    )  # fmt: skip
