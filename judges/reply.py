"""Reading an LLM judge's reply: one JSON object with scores of 0 or 1, fenced or not. Anything else is no verdict.

Nothing is guessed from prose, and nothing here raises: a reply that cannot be read gives the reason why.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.S | re.I)
#: What a reasoning model writes before it answers.
_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.S)


def _whole(value: Any) -> Any:
    if type(value) is not int:  # True, 1.0 and "1" are not what was asked for
        raise ValueError("expected the number 0 or 1")
    return value


Score = Annotated[Literal[0, 1], BeforeValidator(_whole)]


class Scores(BaseModel):
    """What a judge returns for a row (the paper's output structure)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluation: str = ""
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
    body = _THOUGHT.sub("", text, count=1).strip() if _THOUGHT.match(text) else text.strip()
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
