"""The reward parts of the paper's section 2.2.2, each a small documented function over a batch of completions.

A part takes completions (texts), their token counts and their rows, and gives one float a completion, or None where
it cannot judge (TRL then leaves that part out of the row's sum). Weights are the recipe's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness import answers
from harness.records import Reference
from harness.scoring.bertscore import bertscore_f1


class Rollout(NamedTuple):
    """One completion and what it is measured against."""

    text: str
    tokens: int
    reference: Reference


Part = Callable[[Sequence[Rollout]], list[float | None]]

_INNER = r"(?:(?!</?think>|</?answer>).)*"
_EXACT = re.compile(rf"\s*<think>{_INNER}</think>\s*<answer>{_INNER}</answer>\s*", re.S)
_TAG = re.compile(r"</?(?:think|answer)>")


def format_reward(rollouts: Sequence[Rollout]) -> list[float | None]:
    """1.0 for exactly `<think>...</think> <answer>...</answer>`, 0.1 for any tag at all, else 0 (Format Reward).

    >>> from harness.records import Reference
    >>> ref = Reference(answers=("yes",))
    >>> format_reward([Rollout(t, 9, ref) for t in ("<think>a</think><answer>yes</answer>", "<answer>yes", "yes")])
    [1.0, 0.1, 0.0]
    """
    return [1.0 if _EXACT.fullmatch(r.text) else 0.1 if _TAG.search(r.text) else 0.0 for r in rollouts]


def length_reward(rollouts: Sequence[Rollout]) -> list[float | None]:
    """min(0.001 x tokens, 1.0) (Length Reward). Longer is better whatever it says: a known weakness of the paper's."""
    return [min(0.001 * r.tokens, 1.0) for r in rollouts]


def accuracy_reward(rollouts: Sequence[Rollout]) -> list[float | None]:
    """0/1 for choice and yes/no questions, BERTScore F1 of answer and reference for open ones (Accuracy Reward).

    Only what stands in <answer>...</answer> counts; an empty answer is 0.
    """
    given = [_tagged_answer(r.text) for r in rollouts]
    out: list[float | None] = [0.0] * len(rollouts)
    pairs: dict[int, list[tuple[str, str]]] = {}
    for i, (r, answer) in enumerate(zip(rollouts, given, strict=True)):
        if not answer:
            continue
        if r.reference.kind == "choice":
            letters = {answers.letter(a, r.reference.choices or ()) for a in r.reference.answers}
            out[i] = float(answers.letter(answer, r.reference.choices or ()) in letters - {None})
        elif r.reference.kind == "yesno":
            out[i] = float(answers.yes_no(answer) in {answers.yes_no(a) for a in r.reference.answers})
        else:
            pairs[i] = [(answers.normalise(answer), answers.normalise(a)) for a in r.reference.answers]
    flat = bertscore_f1([p for ps in pairs.values() for p in ps])
    for i, ps in pairs.items():
        out[i] = max(flat[: len(ps)])
        flat = flat[len(ps) :]
    return out


def reasoning_reward(rollouts: Sequence[Rollout]) -> list[float | None]:
    """BERTScore F1 of the <think> text and the reference reasoning; None where the row has none (Reasoning Reward).

    The paper gives no formula; this is the reading of its sections 2.2.2, 3.1 and 3.3 taken together.
    """
    pairs, where = [], []
    out: list[float | None] = [None if r.reference.reasoning is None else 0.0 for r in rollouts]
    for i, r in enumerate(rollouts):
        thought = answers.read(r.text).reasoning
        if r.reference.reasoning is not None and thought:
            pairs.append((thought.lower(), r.reference.reasoning.lower()))
            where.append(i)
    for i, f1 in zip(where, bertscore_f1(pairs), strict=True):
        out[i] = f1
    return out


def _tagged_answer(text: str) -> str | None:
    return answers.read(text).answer if "<answer>" in text else None


PARTS: dict[str, Part] = {
    "format": format_reward,
    "length": length_reward,
    "accuracy": accuracy_reward,
    "reasoning": reasoning_reward,
}
