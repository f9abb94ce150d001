"""A plan as rich tables."""

from __future__ import annotations

from typing import Any

from trainers.memory import GB
from trainers.plan import Part, Plan


def render(plan: Plan) -> Any:
    """The plan as rich tables."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for key, value in _facts(plan):
        facts.add_row(key, escape(value), style="bold yellow" if key == "caveat" else "")
    memory = Table("memory at the peak", "GB", box=None, header_style="bold", padding=(0, 2, 0, 0))
    memory.columns[1].justify = "right"
    for name, size in sorted(plan.memory.items(), key=lambda item: -item[1]):
        memory.add_row(name, f"{size / GB:.2f}")
    limit = f" of {plan.memory_limit / GB:.1f}" if plan.memory_limit else ""
    verdict = "fits" if plan.fits else "[bold red]does not fit[/]"
    memory.add_row(f"[bold]in all{limit}: {verdict}[/]", f"[bold]{plan.memory_total / GB:.2f}[/]")
    return Group(facts, "", memory)


def _facts(plan: Plan) -> list[tuple[str, str]]:
    r, n, dev = plan.recipe, plan.lengths, plan.dev
    adapter = f"all of what is not frozen ({', '.join(p.part for p in plan.parts if p.trainable)})"
    if r.lora:
        targets = r.lora.target_modules
        kind = ("rs" if r.lora.rslora else "") + ("DoRA" if r.lora.dora else "LoRA")
        adapter = f"{kind} r {r.lora.r}, alpha {r.lora.alpha} on {targets if isinstance(targets, str) else ', '.join(targets)}"
    per_step = f"{plan.rows_per_step} question{'s' * (plan.rows_per_step > 1)}"
    if plan.rewards:
        per_step += f" x {r.num_generations} completions"
    found = [
        ("trainer", f"{plan.trainer}, {adapter}"),
        ("model", f"{plan.model}; shape from {plan.shape}"),
        (
            "rows",
            f"{plan.task.rows} on {plan.task.images} images of {plan.task.task} ({plan.task.source}, {plan.task.resolution})",
        ),
        ("dev", _dev(plan) if dev else "none: checkpoints are not scored"),
        ("steps", f"{plan.steps}, each {per_step}"),
        ("rewards", ", ".join(f"{k} x {w:g}" for k, w in plan.rewards.items())),
        ("reasoning", f"{plan.explained} of {plan.task.rows} rows have reference reasoning"),
        ("targets", ", ".join(f"{form} in {n} rows" for form, n in plan.targets.items())),
        *(("prompt", f"{p.name}, {p.rows} rows, the first: {p.example}") for p in plan.prompts),
        ("settings", ", ".join(f"{k} {_short(v)}" for k, v in plan.optimizer.items())),
        ("parameters", f"{plan.parameters:,}; {plan.trainable:,} train ({100 * plan.trainable / plan.parameters:.2f} %)"),
        *((f"{_PARTS[p.part]}", f"{p.parameters:,} parameters, {_trains(plan, p)}") for p in plan.parts),
        ("image tokens", f"{n.image_min} to {n.image_max} an image, median {n.image_median}"),
        ("longest row", f"{n.longest} tokens with its completion (row {n.row}; {n.counted})"),
        ("checkpointing", f"activations {'recomputed' if plan.gradient_checkpointing else 'kept'}: {plan.why}"),
    ]
    if plan.seconds_per_step is not None:
        hours = plan.seconds_per_step * plan.steps / 3600
        found.append(("time", f"{plan.seconds_per_step:.2f} s a step measured, {hours:.1f} h in all, without dev scores"))
    found += [("saved", f"{s.path}: {s.what}, about {s.bytes / 1e6:,.1f} MB") for s in plan.saved]
    found.append(("disk", f"{plan.disk_needed / GB:.2f} GB will be written, {plan.disk_free / GB:.1f} GB are free"))
    found += [("caveat", c) for c in plan.caveats]
    return [(k, v) for k, v in found if v]


_PARTS = {"vision": "vision encoder", "projector": "projector", "language": "language model"}


def _trains(plan: Plan, part: Part) -> str:
    if not part.trainable:
        return "frozen: none of its parameters trains"
    rate = plan.recipe.learning_rates.get(part.part, plan.recipe.learning_rate)  # type: ignore[call-overload]
    return f"TRAINS: {part.trainable:,} of them, at rate {rate:g}"


def _dev(plan: Plan) -> str:
    assert plan.dev is not None
    assert plan.dev_scores is not None
    same = "" if plan.dev_scores["prompt_of_the_training"] else ", which is not the training's"
    asked = f"asked with prompt '{plan.dev_scores['prompt']}'{same}"
    return f"{plan.dev.rows} rows on {plan.dev.images} images of {plan.dev.split}, {asked}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
