"""What an LLM judge is asked: the prompts in judges/prompts/, filled with one row's texts. The image is never among them.

rarl-v1   the paper's, word for word (RARL, appendix B); the texts stand in it as they are
rarl-v2   hardened: the texts are one JSON object between lines that hold a hash of it
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import Prediction, Reference, Sample

FOLDER = Path(__file__).with_name("prompts")
#: What the rubric judge asks; it means nothing for a row without a rubric, so it is no prompt to choose.
RUBRIC = "rubric-v1"
#: Characters of one text that a judge is shown; what is cut is said.
LONGEST = 4000


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.txt"))


@cache
def _text(name: str) -> str:
    if name == RUBRIC:
        return (FOLDER / "rubric" / f"{name}.txt").read_text(encoding="utf-8")
    if name not in names():
        raise UserError(f"no judge prompt named '{name}'", hint=did_you_mean(name, names()))
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def sha256(name: str) -> str:
    """Hash of the template. Raises UserError for a name that does not exist."""
    return hashlib.sha256(_text(name).encode()).hexdigest()


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    return Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True).from_string(_text(name))


def messages(name: str, sample: Sample, prediction: Prediction) -> list[dict[str, str]]:
    """The chat messages that ask for one verdict; reasoning is asked about where the reference has some."""
    reference = sample.reference
    reasoning = reference.reasoning is not None
    case = _criterion(sample, prediction) if name == RUBRIC else _case(sample, prediction)
    text = _template(name).render(
        reasoning=reasoning,
        question=_cut(sample.question),
        truth=_cut("\n".join(filter(None, [reference.reasoning, " or ".join(_answers(reference))]))),
        prediction=_cut(prediction.text),
        case=case,
        # a model cannot write a hash of what it is writing, so it cannot close the block
        nonce=hashlib.sha256(case.encode()).hexdigest()[:24],
    )
    return [{"role": "user", "content": text.strip()}]


def _case(sample: Sample, prediction: Prediction) -> str:
    """The row as one line of ASCII JSON: nothing in it can look like a line of its own, or hide."""
    reference = sample.reference
    case: dict[str, Any] = {"question": _cut(sample.question)}
    if reference.choices:
        case["choices"] = {name: _cut(words) for name, words in reference.lettered.items()}
    case["reference_answers"] = [_cut(a) for a in _answers(reference)]
    if reference.reasoning is not None:
        case["reference_reasoning"] = _cut(reference.reasoning)
        case["reasoning"] = _cut(prediction.reasoning or "")
    case["answer"] = _cut(prediction.said or "")
    return json.dumps(case)


def _criterion(sample: Sample, prediction: Prediction) -> str:
    """The conversation with its last answer, and the one criterion. Nothing is cut: what is looked for may stand at the end."""
    turns = [{"system": sample.system}] if sample.system else []
    for said, answer in sample.history:
        turns += [{"user": said}, {"assistant": answer}]
    turns.append({"user": sample.question})
    return json.dumps({"turns": turns, "answer": prediction.said or "", "criterion": sample.reference.rubric[0].text})


def _answers(reference: Reference) -> list[str]:
    """The acceptable answers; a choice letter with its words."""
    from harness.answers import letter

    out = []
    for answer in reference.answers:
        named = letter(answer, reference.choices) if reference.choices else None
        out.append(f"({named}) {reference.choices[ord(named) - 65]}" if named and reference.choices else answer)
    return out


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [{len(text) - LONGEST} more characters were cut off]"
