"""Label Studio's JSON, both ways: its tasks with annotations, or the flat rows of its JSON-MIN export.

    <View>
      <Text name="question" value="$question"/> <Text name="text" value="$text"/>
      <Choices name="final" toName="text"><Choice value="1"/><Choice value="0"/><Choice value="cannot"/></Choices>
      <Choices name="reasoning" toName="text"><Choice value="1"/><Choice value="0"/><Choice value="cannot"/></Choices>
      <TextArea name="comment" toName="text"/>
    </View>

A task's `data` has sample_id and pair. Format: https://labelstud.io/guide/export (2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: Fields of ours that a rater fills in, with Label Studio's kind of control.
CONTROLS = {"final": "choices", "reasoning": "choices", "comment": "textarea"}


def flat(tasks: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """A row for each annotation that was not cancelled; a flat row (JSON-MIN) as it is. Raises ValueError for what is neither."""
    for task in tasks:
        if not isinstance(task, dict):
            raise ValueError("not an object")
        if "annotations" not in task:
            yield task if "annotator" not in task else task | {"annotator": _who(task["annotator"])}
            continue
        for annotation in task["annotations"]:
            if annotation.get("was_cancelled"):
                continue
            row = {k: v for k, v in task.get("data", {}).items() if k not in CONTROLS} | {
                "annotator": _who(annotation.get("completed_by"))
            }
            for result in annotation.get("result", ()):
                said = result.get("value", {}).get("choices") or result.get("value", {}).get("text") or []
                if result.get("from_name") in CONTROLS:
                    row[result["from_name"]] = " ".join(said) if isinstance(said, list) else str(said)
            yield row


def _who(completed_by: Any) -> str:
    """An e-mail address, an account's number, or an object with one of these."""
    if isinstance(completed_by, Mapping):
        completed_by = completed_by.get("email") or completed_by.get("username") or completed_by.get("id")
    return "" if completed_by is None else str(completed_by)


def tasks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows (one a rater and text, with `annotator`) as tasks with their annotations, the texts in `data`."""
    out: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        data = {k: v for k, v in row.items() if k not in (*CONTROLS, "annotator", "cannot")}
        row = {**row, **({"final": "cannot"} if row.get("cannot") else {})}
        task = out.setdefault((row["sample_id"], row["pair"]), {"id": len(out) + 1, "data": data, "annotations": []})
        result = [
            {
                "from_name": name,
                "to_name": "text",
                "type": kind,
                "value": {"choices" if kind == "choices" else "text": [str(row[name])]},
            }
            for name, kind in CONTROLS.items()
            if row[name] not in ("", None)
        ]
        task["annotations"].append({"completed_by": {"email": row["annotator"]}, "result": result, "was_cancelled": False})
    return list(out.values())
