"""Reading an LLM judge's reply: one JSON object with scores of 0 or 1, fenced or not. Anything else is no verdict.

Nothing is guessed from prose, and nothing here raises: a reply that cannot be read gives the reason why.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from harness.models.api_client import encodable
from harness.models.usage import Reply
from harness.records import Sample, Verdict

#: Why a verdict is missing where the model that was asked is not the one that answered.
OTHER_MODEL = "answered by another model"

#: Of a row on which no judge is asked: there is nothing in it that could be judged.
UNASKED = "no readable answer: 0 without asking the judge"

#: What a server may leave of a reasoning model's thinking, its opening tag or not.
_THOUGHT_END = "</think>"
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.S | re.I)


def _whole(value: Any) -> Any:
    if type(value) is not int:  # True, 1.0 and "1" are not what was asked for
        raise ValueError("expected the number 0 or 1")
    return value


Score = Annotated[Literal[0, 1], BeforeValidator(_whole)]


class Scores(BaseModel):
    """What a judge returns for a row (the paper's output structure)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluation: Annotated[str, AfterValidator(encodable)] = ""
    reasoning_score: Score | None = None
    prediction_score: Score


def schema(reasoning: bool) -> dict[str, Any]:
    """The reply as a JSON schema in the form of the OpenAI API, for judges that can be held to one."""
    scores = ["reasoning_score"] * reasoning + ["prediction_score"]
    properties = {"evaluation": {"type": "string"}, **{s: {"type": "integer", "enum": [0, 1]} for s in scores}}
    body = {"type": "object", "properties": properties, "required": ["evaluation", *scores], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": body}}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two scores neither counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def read(text: str, *, reasoning: bool) -> Scores | str:
    """The scores, or in words why there are none. With `reasoning` both scores must be there; without it one."""
    body = text.strip()
    if not body.startswith(("{", "```")):
        body = body.rpartition(_THOUGHT_END)[2].strip()
    if fenced := _FENCED.fullmatch(body):
        body = fenced.group(1)
    if not body:
        return "an empty reply"
    try:
        found = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as e:
        return f"the reply is not one JSON object ({e})" if body.startswith("{") else "the reply is not a JSON object"
    if not isinstance(found, dict):
        return "the reply is not a JSON object"
    try:
        scores = Scores.model_validate(found)
    except ValidationError as e:
        first = e.errors()[0]
        return f"the reply's {'.'.join(str(x) for x in first['loc']) or 'object'}: {first['msg']}"
    if reasoning and scores.reasoning_score is None:
        return "the reply has no reasoning_score"
    return scores


def verdict(judge: str, sample: Sample, answer: Reply, *, asked_for: bool) -> Verdict:
    """What a judge's answer says of a row: a verdict, or a missing one with the reason. Its words and its use are kept with both.

    `asked_for`: whether it comes from the model that was asked.
    """
    use = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens, "tries": answer.tries}
    about: dict[str, Any] = {
        "raw": answer.text, "served": answer.served,
        "usage": use | ({"cost_usd": answer.cost} if answer.cost is not None else {}),
    }  # fmt: skip
    scores = read(answer.text, reasoning=sample.reference.reasoning is not None)
    if not asked_for:
        why = f"{OTHER_MODEL}: {answer.served}"
    elif answer.finish == "filter":
        why = "withheld by the vendor's content filter"
    elif answer.refusal and not answer.content:
        why = "the judge refused to say"
    elif isinstance(scores, str):
        why = "the reply was cut off at the token limit" if answer.finish == "length" else scores
    else:
        return scored(judge, sample, scores, **about)
    return Verdict(sample_id=sample.id, judge=judge, final=None, missing=why, **about)


def scored(judge: str, sample: Sample, scores: Scores, **about: Any) -> Verdict:
    """The verdict with these scores; one on the reasoning where there is a reference for it."""
    reasoning = scores.reasoning_score if sample.reference.reasoning is not None else None
    return Verdict(
        sample_id=sample.id, judge=judge, final=scores.prediction_score, reasoning=reasoning,
        rationale=scores.evaluation or None, **about,
    )  # fmt: skip
