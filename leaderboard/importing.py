"""Per-sample logs of other harnesses as run folders, so that their rows can be looked at, sliced and counted like any other.

    import_log(Path("samples_medqa_2026-01-01.jsonl"), "lm-eval", Path("runs"))

lm-eval writes `samples_TASK_DATE.jsonl` (--log_samples), lmms-eval `DATE_samples_TASK.jsonl`. Metrics that are 0 or 1 on
every row become judges `lm_eval:METRIC` and `lmms_eval:METRIC`. What such a file does not say (weights, images, settings)
stays unknown here: the prompt's hash is the file's, so an imported run stands in a table of its own, and `imported.json` in
the run folder says where it came from.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness import __version__, answers
from harness.errors import DataError, UserError
from harness.records import DataCard, GenerationArgs, ImageRef, ModelCard, Prediction, Reference, RunCard, Sample, Verdict
from harness.runs import RunFolder, slug, write_atomic

Harness = Literal["lm-eval", "lmms-eval"]
_NAMES = {
    "lm-eval": re.compile(r"samples_(?P<task>.+?)_\d{4}-\d\d-\d\dT[\d.-]+\.jsonl"),
    "lmms-eval": re.compile(r"[\dT_.-]+_samples_(?P<task>.+)\.jsonl"),
}
#: Keys of a line that are no metric.
_FIXED = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash", "input", "token_counts", "success",
}  # fmt: skip


def import_log(
    path: Path,
    harness: Harness,
    runs: Path,
    *,
    model: str | None = None,
    task: str | None = None,
    image_key: str | None = None,
    filter_name: str | None = None,
) -> RunFolder:
    """Write the run folder of a log and give it. The same file again gives the same folder.

    `model` and `task` are taken from the path where they are not given. `image_key` names the key of `doc` that says which image
    a row is about; without it every row is held to be about an image of its own. Raises DataError for a line that is none of
    that harness's, and UserError where a name is missing or no metric is right or wrong row by row.
    """
    content = _bytes(path)
    sha256 = hashlib.sha256(content).hexdigest()
    rows = _rows(path, content, filter_name)
    found = _NAMES[harness].fullmatch(path.name)
    task = task or (found["task"] if found else None)
    if task is None:
        raise UserError(f"{path.name}: the name does not say which task this is", hint="say it: --task NAME")
    judges = _judges(path, harness.replace("-", "_"), rows)
    samples, predictions = _read(rows, path, image_key)
    card = _card(path, harness, sha256, samples, model or path.parent.name or "unknown", task)
    with RunFolder.place(runs, card) as folder:
        folder.begin(card, samples, fresh=True)
        folder.add_predictions(predictions)
        for judge, finals in judges.items():
            verdicts = (Verdict(sample_id=s.id, judge=judge, final=f) for s, f in zip(samples, finals, strict=True))  # type: ignore[arg-type]
            folder.add_verdicts(judge, "imported", verdicts)
        origin = {"harness": harness, "file": path.name, "sha256": sha256, "rows": len(rows), "image_key": image_key}
        write_atomic(folder.path / "imported.json", json.dumps(origin, indent=2) + "\n")
    return folder


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}") from None


def _rows(path: Path, content: bytes, filter_name: str | None) -> list[dict[str, Any]]:
    """The lines under one filter (an answer may be read in several ways, a line each)."""
    rows: list[dict[str, Any]] = []
    for n, line in enumerate(content.splitlines(), start=1):
        try:
            row = json.loads(line)
            if not {"doc_id", "target", "filtered_resps"} <= row.keys():
                raise ValueError
            json.dumps(row, ensure_ascii=False).encode()  # JSON can spell half a surrogate pair, which no file of ours can hold
        except (ValueError, AttributeError, RecursionError):
            raise DataError(
                f"{path}:{n}: no line of a per-sample log", hint="give the samples_*.jsonl of --log_samples"
            ) from None
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: empty")
    filters = list(dict.fromkeys(str(row.get("filter", "none")) for row in rows))
    wanted = filter_name or filters[0]
    if wanted not in filters:
        raise UserError(f"{path}: no rows of filter '{wanted}'", hint=f"known: {', '.join(filters)}")
    return [row for row in rows if str(row.get("filter", "none")) == wanted]


def _judges(path: Path, prefix: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Judge -> 1 or 0 for each row."""
    numbers = [k for k, v in rows[0].items() if k not in _FIXED and isinstance(v, int | float)]
    binary = [k for k in numbers if all(row.get(k) in (0, 1) for row in rows)]
    if not binary:
        known = ", ".join(numbers) or "none"
        raise UserError(
            f"{path}: no metric is 0 or 1 on every row (numbers found: {known})", hint="only such metrics are verdicts"
        )
    judges = {f"{prefix}:{k}": [int(row[k]) for row in rows] for k in binary}
    files = Counter(map(slug, judges))
    if alike := [judge for judge in judges if files[slug(judge)] > 1]:
        raise UserError(f"{path}: metrics {', '.join(alike)} would be kept in one file", hint="rename them in the log")
    return judges


def _read(rows: Sequence[Mapping[str, Any]], path: Path, image_key: str | None) -> tuple[list[Sample], list[Prediction]]:
    """What was asked and answered. Raises DataError for a row of another form, or a second one about the same document."""
    samples: dict[str, Sample] = {}
    predictions = []
    for n, row in enumerate(rows, start=1):
        try:
            sample = _sample(row, n, path, image_key)
            predictions.append(_prediction(row, sample.id))
        except (AttributeError, LookupError, TypeError, ValueError):
            raise DataError(f"{path}:{n}: 'doc', 'arguments', 'target' or 'filtered_resps' is not as the log has it") from None
        if sample.id in samples:
            raise DataError(f"{path}:{n}: a second row about doc_id {sample.id}", hint="a log has one row a document and filter")
        samples[sample.id] = sample
    return list(samples.values()), predictions


def _sample(row: Mapping[str, Any], n: int, path: Path, image_key: str | None) -> Sample:
    doc = row.get("doc") or {}
    images: tuple[ImageRef, ...] = ()
    if image_key is not None:
        if image_key not in doc:
            raise UserError(f"{path}:{n}: 'doc' has no key '{image_key}'", hint=f"known: {', '.join(map(str, doc)) or 'none'}")
        name = str(doc[image_key])
        images = (ImageRef(name=name, data=name.encode()),)  # its bytes are not in the log: the name stands for the image
    return Sample(id=str(row["doc_id"]), images=images, question=_question(row), reference=_reference(row))


def _choices(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The continuations whose likelihoods were compared; none where the model wrote its answer."""
    arguments, given = row.get("arguments"), row["filtered_resps"]
    if not isinstance(arguments, dict) or len(arguments) < 2 or len(arguments) != len(given):
        return ()
    return tuple(str(a["arg_1"]).strip() for a in arguments.values() if isinstance(a.get("arg_1"), str))


def _reference(row: Mapping[str, Any]) -> Reference:
    target, choices = row["target"], _choices(row)
    if choices and str(target).isdecimal() and int(target) < len(choices):
        return Reference(answers=(choices[int(target)],), choices=choices)
    return Reference(answers=tuple(map(str, target if isinstance(target, list) else [target])))


def _question(row: Mapping[str, Any]) -> str:
    """What was asked: as the harness put it to the model, or as the dataset has it."""
    arguments = row.get("arguments")
    first: Any = next(iter(arguments.values()), {}) if isinstance(arguments, dict) else {}
    asked = first.get("arg_0") if isinstance(first, dict) else None
    return str(asked or row.get("input") or (row.get("doc") or {}).get("question") or "")


def _prediction(row: Mapping[str, Any], sample_id: str) -> Prediction:
    choices, text = _choices(row), row["filtered_resps"]
    if choices:  # (log-likelihood, whether greedy decoding gives it) of each
        text = choices[max(range(len(choices)), key=lambda i: float(text[i][0]))]
    while isinstance(text, list):
        text = text[0] if text else ""
    text = str(text)
    reasoning, answer = answers.read(text)
    return Prediction(
        sample_id=sample_id, text=text, reasoning=reasoning, answer=answer, finish="stop", prompt_tokens=0, completion_tokens=0
    )


def _card(path: Path, harness: Harness, sha256: str, samples: Sequence[Sample], model: str, task: str) -> RunCard:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    asked = hashlib.sha256(json.dumps([[s.id, s.question, list(s.reference.answers)] for s in samples]).encode()).hexdigest()
    return RunCard(
        harness_version=__version__,
        created=now,
        command=sys.argv[1:],
        data=DataCard(
            task=task,
            split="imported",
            source="file",
            resolution="unknown",
            rows=len(samples),
            images=len({i.name for s in samples for i in s.images}),
            fingerprint=asked,
            spec_sha256=sha256,
        ),
        model=ModelCard(name=f"{model} ({harness})", path=None, backend=f"imported from {harness}"),
        prompt=f"imported from {path.name}",
        prompt_sha256=sha256,
        generation=GenerationArgs(max_new_tokens=0),
        limit=None,
        reader=answers.VERSION,
        git_sha=None,
        packages={},
        hardware="unknown",
        finished=now,
    )
