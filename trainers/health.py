"""Did a training learn anything? What its log says, and what must be known before one believes in the model.

A GRPO whose groups all get one reward, or a training whose gradient is 0, ends with the weights it began with. Each step is
judged by its line of log.jsonl; trainers/soundness.py stops a training after `stop_without_signal` such steps in a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RunError
from harness.runs import read_jsonl

if TYPE_CHECKING:
    from trainers.soundness import Health

#: Mean KL to the reference, in nats a token, above which the policy has left it.
FAR = 10.0
#: Share of completions cut at their length above which it is said.
MANY_CUT = 0.5


class Halted(RunError):
    """A training that went wrong. Every process raises it at the same step. Exit code 1."""

    exit_code = 1


class Sound:
    """Mixed into TRL's trainers: keeps the losses of a step for `Health`, which `Trainer.ready` puts in place."""

    health: Health | None = None

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """A micro-batch; on the device its loss stays, so that looking at it waits for the step's end."""
        try:
            loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        except RuntimeError as e:
            if self.health is None or "probability tensor contains" not in str(e):
                raise
            self.health.halt("what the model writes has no finite probabilities")
        if self.health is not None:
            self.health.losses.append(loss)
        return loss


def nothing_taught(row: dict[str, Any], before: dict[str, Any] | None = None) -> str | None:
    """Why a step, by its line of log.jsonl, moved the model nowhere that it should go; None where it taught something."""
    if "frac_reward_zero_std" in row:  # a training by reward
        if "reward" not in row:
            return "no reward gave any completion a value"
        if row["frac_reward_zero_std"] >= 1:
            return "in every group all completions got the same reward"
    elif before is not None and row.get("loss") is not None and row["loss"] == before.get("loss"):
        return "the loss was the same to the last digit"
    if row.get("grad_norm") == 0:
        return "the gradient was 0"
    return None


class Idle:
    """How many of the last `steps` in a row taught nothing, and `why` the last one did not."""

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self.steps, self.why = 0, ""
        self._before: dict[str, Any] | None = None
        for row in rows:
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        reason = nothing_taught(row, self._before)
        self.steps, self.why, self._before = (self.steps + 1, reason, row) if reason else (0, "", row)


def summary(out: Path) -> dict[str, Any]:
    """What a training's log and completions say of its health, for trained.json."""
    rows = list(read_jsonl(out / "log.jsonl"))
    reasons = [nothing_taught(row, before) for row, before in zip(rows, [None, *rows], strict=False)]
    found: dict[str, Any] = {"steps": len(rows), "steps_that_taught_nothing": sum(r is not None for r in reasons)}
    if why := next((r for r in reversed(reasons) if r), None):
        found["why"] = why
    if kl := [float(r["kl"]) for r in rows if "kl" in r]:
        found["largest_kl"] = max(kl)
    if cut := [float(r["completions/clipped_ratio"]) for r in rows if "completions/clipped_ratio" in r]:
        found["completions_cut"] = sum(cut) / len(cut)
    missing, total = missing_rewards(out)
    if missing:
        found |= {"completions": total, "without_reward": missing}
    return found


def missing_rewards(out: Path) -> tuple[dict[str, int], int]:
    """Completions to which a reward part gave no value, by part, and how many completions there are."""
    missing: dict[str, int] = {}
    total = 0
    for row in read_jsonl(out / "completions.jsonl"):
        total += 1
        for name, value in row.get("rewards", {}).items():
            if value is None:
                missing[name] = missing.get(name, 0) + 1
    return missing, total


def complaints(found: dict[str, Any]) -> list[str]:
    """What `summary` found that someone must know before they believe in the model."""
    said = []
    if idle_steps := found.get("steps_that_taught_nothing"):
        all_of_them = idle_steps == found["steps"]
        which = f"none of the {found['steps']} steps taught anything" if all_of_them else (
            f"{idle_steps} of {found['steps']} steps taught nothing" if idle_steps > found["steps"] / 2 else ""
        )  # fmt: skip
        said += [f"{which}: {found['why']}"] if which else []
    if found.get("largest_kl", 0) > FAR:
        said.append(f"the policy has left its reference: KL reached {found['largest_kl']:.1f} nats a token; see log.jsonl")
    if (cut := found.get("completions_cut", 0)) > MANY_CUT:
        said.append(
            f"{100 * cut:.0f} % of the completions were cut at max_completion_length: those have no end, and often no answer"
        )
    for name, count in found.get("without_reward", {}).items():
        said.append(f"reward '{name}' gave no value to {count} of {found['completions']} completions")
    return said
