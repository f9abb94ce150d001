"""Answers that nobody could read: to yes/no and choice questions, where the text names neither side and no letter.

They count as wrong. Many of them say more about how the model was asked, or how its thinking is marked, than about what it knows.

    count(rows, predictions)    # {"asked": 416, "unread": 9, "ids": [...]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness import answers
from harness.records import Prediction, Reference

#: The share of unread answers above which the run warns.
MANY = 0.05
_EXAMPLES = 3


def reading(answer: str | None, reference: Reference) -> str | None:
    """The letter, or the yes or no, that the reader takes from an answer; None where it takes nothing."""
    return answers.letter(answer, reference.choices) if reference.choices else answers.yes_no(answer)


def noted(prediction: Prediction, reference: Reference) -> Prediction:
    """The prediction, an answer that cannot be read as what was asked moved to `unread`."""
    if prediction.answer is None or reference.kind == "open" or reading(prediction.answer, reference) is not None:
        return prediction
    return prediction.model_copy(update={"answer": None, "unread": prediction.answer})


def count(rows: Sequence[Mapping[str, Any]], predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    """How many yes/no and choice questions were answered, how many of the answers cannot be read, and which.

    A prediction that failed is no answer.
    """
    references = {r["id"]: Reference.model_validate(r["reference"]) for r in rows}
    asked = [i for i, r in references.items() if r.kind != "open" and i in predictions and predictions[i].finish != "error"]
    ids = [i for i in asked if reading(predictions[i].answer, references[i]) is None]
    return {"asked": len(asked), "unread": len(ids), "ids": ids}


def lines(found: Mapping[str, Any], predictions: Mapping[str, Prediction]) -> Iterator[str]:
    """What to say of a `count`: nothing where every answer was read."""
    if not found["unread"]:
        return
    share = 100 * found["unread"] / found["asked"]
    yield (
        f"{found['unread']} of {found['asked']} yes/no and choice answers ({share:.1f} %) could not be read and count as wrong"
        + ("; is the model's thinking marked in another way (--reasoning-tags), or cut off?" if share > 100 * MANY else "")
    )
    for i in found["ids"][:_EXAMPLES]:
        text = " ".join((predictions[i].said or predictions[i].text).split())
        yield f"  {i}: {text if len(text) <= 100 else text[:60] + ' ... ' + text[-35:]}" if text else f"  {i}: (empty)"
