"""The reward parts of the paper's section 2.2.2, each a small documented function over a batch of completions.

A part takes completions (texts), their token counts and their rows, and gives one float a completion, or None where
it cannot judge (TRL then leaves that part out of the row's sum). Weights are the recipe's, by name:

    rewards: {format: 1, length: 0, accuracy: 1, "reasoning:rougeL": 1, my_package.my_module.my_reward: 0.5}
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness import answers
from harness.errors import RunError, UserError
from harness.plugins import did_you_mean
from harness.records import Prediction, Reference, Sample
from harness.scoring import unread
from harness.scoring.bertscore import bertscore_f1


class Rollout(NamedTuple):
    """One completion and what it is measured against."""

    text: str
    tokens: int
    reference: Reference
    question: str = ""


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
    out: list[float | None] = [0.0] * len(rollouts)
    for i, r in enumerate(rollouts):
        answer = _tagged_answer(r.text)
        if not answer:
            continue
        if r.reference.kind == "choice":
            letters = {answers.letter(a, r.reference.choices or ()) for a in r.reference.answers}
            out[i] = float(answers.letter(answer, r.reference.choices or ()) in letters - {None})
        elif r.reference.kind == "yesno":
            out[i] = float(answers.yes_no(answer) in {answers.yes_no(a) for a in r.reference.answers} - {None})
    pairs = _open_pairs(rollouts)
    flat = iter(bertscore_f1([p for ps in pairs.values() for p in ps]))
    for i, ps in pairs.items():
        out[i] = max(next(flat) for _ in ps)
    return out


def _open_pairs(rollouts: Sequence[Rollout]) -> dict[int, list[tuple[str, str]]]:
    """(answer, acceptable answer) pairs by row, of the rows whose open question got an answer."""
    given = {i: _tagged_answer(r.text) for i, r in enumerate(rollouts) if r.reference.kind == "open"}
    return {
        i: [(answers.normalise(answers.short(answer)), answers.normalise(a)) for a in rollouts[i].reference.answers]
        for i, answer in given.items()
        if answer
    }


def reasoning_reward(rollouts: Sequence[Rollout]) -> list[float | None]:
    """BERTScore F1 of the <think> text and the reference reasoning; None where the row has none (Reasoning Reward).

    The paper gives no formula; this is the reading of its sections 2.2.2, 3.1 and 3.3 taken together.
    """
    return _on_reasoning(rollouts, bertscore_f1)


def rescaled(references: Sequence[Reference]) -> Part:
    """The reasoning reward with what unrelated texts score taken off: max(0, (F1 - b) / (1 - b)).

    Raw F1 hardly tells a wrong text from a right one, and length can then outweigh meaning. bert-score takes b from random
    sentences of the language; here it is the mean F1 of reference reasonings of different rows, so that what all of them
    say earns nothing.
    """
    every = sorted({r.reasoning.lower() for r in references if r.reasoning})[:400]
    half = len(every) // 2
    unrelated = bertscore_f1(list(zip(every[:half], every[half:], strict=False)))
    b = min(sum(unrelated) / len(unrelated), 0.999) if unrelated else 0.0

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [None if x is None else max(0.0, (x - b) / (1 - b)) for x in reasoning_reward(rollouts)]

    return reward


def rouge_reasoning_reward(rollouts: Sequence[Rollout]) -> list[float | None]:
    """ROUGE-L F1 of the <think> text and the reference reasoning: the longest common word sequence."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return _on_reasoning(rollouts, lambda pairs: [float(scorer.score(ref, text)["rougeL"].fmeasure) for text, ref in pairs])


def _thoughts(rollouts: Sequence[Rollout]) -> dict[int, tuple[str, str]]:
    """(thought, reference reasoning) by row, of the rows that have both."""
    thoughts = {i: answers.read(r.text).reasoning for i, r in enumerate(rollouts) if r.reference.reasoning is not None}
    return {i: (t.lower(), (rollouts[i].reference.reasoning or "").lower()) for i, t in thoughts.items() if t}


def _on_reasoning(rollouts: Sequence[Rollout], measure: Callable[[list[tuple[str, str]]], Sequence[float]]) -> list[float | None]:
    """`measure` of (thought, reference reasoning) pairs: 0 without a thought, None without a reference."""
    out: list[float | None] = [None if r.reference.reasoning is None else 0.0 for r in rollouts]
    pairs = _thoughts(rollouts)
    for i, value in zip(pairs, measure(list(pairs.values())), strict=True):
        out[i] = float(value)
    return out


def _tagged_answer(text: str) -> str | None:
    return answers.read(text).answer if "<answer>" in text.lower() else None


def judged(judge_name: str, of: Literal["final", "reasoning"]) -> Part:
    """A judge's verdict as a reward: its 1 or 0 on the answer or the reasoning, None where it gives none.

    The judge is any that `--judge` takes and that stays on this machine; it sees question, reference and text, and never
    the image. Raises UserError for one that would send rows elsewhere.
    """
    from harness.contracts import JudgeOptions
    from harness.models.endpoint import Outgoing
    from harness.pipeline import make_judges

    if "," in judge_name:
        raise UserError(f"recipe key 'rewards': '{judge_name}' names several judges", hint="give each a reward of its own")
    (judge,) = make_judges(judge_name, JudgeOptions())
    judge.prepare([Outgoing("training", 0, may_leave=False)])

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        asked = [Sample(id=str(i), images=(), question=r.question, reference=r.reference) for i, r in enumerate(rollouts)]
        pairs = [(sample, _prediction(sample.id, r)) for sample, r in zip(asked, rollouts, strict=True)]
        verdicts = {v.sample_id: getattr(v, of) for v in judge.judge(pairs)}
        return [None if verdicts.get(str(i)) is None else float(verdicts[str(i)]) for i in range(len(rollouts))]

    return reward


def measured(metric: str) -> Part:
    """A metric of harness/scoring/metrics.py as a reward: its value of the answer, None on a question that it does not apply to.

    Raises UserError for one that does not exist or whose weights cannot be had.
    """
    from harness.scoring import metrics, reports

    metrics.check([metric])
    reports.prepare([metric])
    return lambda rollouts: metrics.METRICS[metric]([(_prediction("", r), r.reference) for r in rollouts])


def _prediction(sample_id: str, r: Rollout) -> Prediction:
    """A completion as a judge or a metric reads it."""
    given = answers.read(r.text)
    read = Prediction(
        sample_id=sample_id, text=r.text, reasoning=given.reasoning, answer=given.answer, finish="stop", prompt_tokens=0,
        completion_tokens=r.tokens,
    )  # fmt: skip
    return unread.noted(read, r.reference)


PARTS: dict[str, Part] = {
    "format": format_reward,
    "length": length_reward,
    "accuracy": accuracy_reward,
    "reasoning": reasoning_reward,
    "reasoning:rougeL": rouge_reasoning_reward,
}
#: The one part that has to know all references first.
RESCALED = "reasoning:bertscore_rescaled"


def needs_reasoning(name: str) -> bool:
    """Whether a part says nothing about a row without reference reasoning."""
    return name.partition(":")[0] == "reasoning" and not name.startswith("reasoning:judge:")


def check(name: str) -> None:
    """Raises UserError for a name that means no reward, and for a function that cannot be imported."""
    if name != RESCALED:
        part(name)


def part(name: str, references: Sequence[Reference] = ()) -> Part:
    """The reward of that name: one of PARTS, `reasoning:bertscore_rescaled`, `accuracy:judge:NAME`, `reasoning:judge:NAME`,
    `metric:NAME`, or `package.module.function` (a function of the user's own with a Part's signature, installed or in the
    working directory).

    `references` are those of all rows. Raises UserError as `check`.
    """
    if name == RESCALED:
        return rescaled(references)
    if name in PARTS:
        return PARTS[name]
    if name.startswith("metric:"):
        return measured(name.removeprefix("metric:"))
    what, _, judge = name.partition(":judge:")
    if judge and what in ("accuracy", "reasoning"):
        return judged(judge, "final" if what == "accuracy" else "reasoning")
    module, dot, function = name.rpartition(".")
    if not dot:
        raise UserError(f"recipe key 'rewards': no reward named '{name}'", hint=did_you_mean(name, [*PARTS, RESCALED]))
    import importlib
    import sys

    here = str(Path.cwd())
    if here not in sys.path:  # a file beside where one works; last, so that it hides no package
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError) as e:  # TypeError: a relative name
        raise UserError(f"recipe key 'rewards': '{name}' cannot be imported: {e}") from None
    if not callable(found):
        raise UserError(f"recipe key 'rewards': '{name}' is not a function")
    return found  # type: ignore[no-any-return]


class Scorer:
    """The reward parts of one recipe, over one batch at a time.

    Accuracy and reasoning both ask for BERTScore: their pairs are scored in one call, and what was scored before (a
    group's completions repeat each other, and epochs repeat the references) is remembered by harness.scoring.bertscore.
    """

    def __init__(self, names: Sequence[str], references: Sequence[Reference] = ()) -> None:
        self.names = tuple(names)
        self.parts = [part(name, references) for name in names]

    def __call__(self, rollouts: Sequence[Rollout]) -> dict[str, list[float | None]]:
        """Each part's value for each completion. Raises RunError for a reward that fails, or gives what is no number."""
        pairs: list[tuple[str, str]] = []
        if "accuracy" in self.names:
            pairs += [p for ps in _open_pairs(rollouts).values() for p in ps]
        if {"reasoning", RESCALED} & set(self.names):
            pairs += _thoughts(rollouts).values()
        bertscore_f1(pairs)  # remembered: the parts find their values there
        out: dict[str, list[float | None]] = {}
        for name, reward in zip(self.names, self.parts, strict=True):
            values = _asked(name, reward, rollouts)
            if len(values) != len(rollouts):
                raise RunError(f"reward '{name}' gave {len(values)} values for {len(rollouts)} completions")
            out[name] = [_number(name, v) for v in values]
        return out


def _asked(name: str, reward: Part, rollouts: Sequence[Rollout]) -> list[Any]:
    """What a reward gives. Raises RunError where its own code fails."""
    try:
        return list(reward(rollouts))
    except UserError:
        raise
    except Exception as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        raise RunError(
            f"reward '{name}' raised {type(e).__name__}: {e}", hint=f"at {Path(where.filename).name}:{where.lineno}, {where.line}"
        ) from e


def _number(name: str, value: Any) -> float | None:
    """What a reward gave, as a number. Raises RunError for what is none: it would be learned from in silence."""
    if value is None:
        return None
    try:
        number = float(value) if not isinstance(value, str) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RunError(f"reward '{name}' gave {value!r}, which is no finite number", hint="give None where there is none")
    return number
