"""Run folders as the pipeline leaves them, one letter a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.records import DataCard, GenerationArgs, ImageRef, ModelCard, Prediction, Reference, RunCard, Sample, Verdict
from harness.runs import RunFolder

#: One letter a question: right, wrong, missing (the judge could not say), unjudged, or unanswered.
RIGHT, WRONG, MISSING, UNJUDGED, UNANSWERED = "10?.-"


def make_samples(questions: int = 12, per_image: int = 2) -> list[Sample]:
    """Questions about images; the first half is CT, the rest MRI."""
    return [
        Sample(
            id=f"q{i}",
            images=(ImageRef(name=f"{i // per_image}.jpg", data=b"pixels %d" % (i // per_image)),),
            question=f"Question {i}?",
            reference=Reference(answers=("yes",)),
            slices={"modality": "CT" if i < questions / 2 else "MRI"},
        )
        for i in range(questions)
    ]


def make_run(
    runs: Path,
    model: str,
    verdicts: str,
    *,
    samples: list[Sample] | None = None,
    judge: str = "exact",
    version: str = "1",
    reasoning: str = "",
    truncated: int = 0,
    finished: bool = True,
    **data: Any,
) -> RunFolder:
    """A run folder as the pipeline leaves it, one letter of `verdicts` a question."""
    samples = make_samples(len(verdicts)) if samples is None else samples
    prompt = data.pop("prompt", "question")
    prompt_sha256, reader, limit = data.pop("prompt_sha256", f"hash of {prompt}"), data.pop("reader", 1), data.pop("limit", None)
    generation = data.pop("generation", GenerationArgs(max_new_tokens=16))
    row = {
        "task": "slake",
        "split": "test",
        "source": "bundled",
        "resolution": "224 px",
        "fingerprint": f"rows {len(samples)}",
    } | data
    card = RunCard(
        harness_version="0.1.0",
        created="2025-01-01T00:00:00+00:00",
        command=["run"],
        data=DataCard(**row, rows=len(samples), images=len({i.sha256 for s in samples for i in s.images}), spec_sha256="spec"),
        model=ModelCard(name=model, path=None, base="tiny", trainer="sft" if "sft" in model else None),
        prompt=prompt,
        prompt_sha256=prompt_sha256,
        generation=generation,
        limit=limit,
        reader=reader,
        git_sha=None,
        packages={},
        hardware="a CPU",
    )
    with RunFolder.place(runs, card) as folder:
        folder.begin(card, samples, fresh=False)
        asked = list(zip(samples, verdicts, strict=True))
        folder.add_predictions(
            Prediction(
                sample_id=s.id,
                text="yes",
                reasoning=None,
                answer="yes",
                finish="length" if i < truncated else "stop",
                prompt_tokens=9,
                completion_tokens=1,
            )
            for i, (s, v) in enumerate(asked)
            if v != UNANSWERED
        )
        given = [
            Verdict(
                sample_id=s.id,
                judge=judge,
                final=None if v == MISSING else int(v),
                reasoning=int(reasoning[i]) if i < len(reasoning) else None,
                missing="the judge gave no verdict" if v == MISSING else None,
            )
            for i, (s, v) in enumerate(asked)
            if v in (RIGHT, WRONG, MISSING)
        ]
        if given:
            folder.add_verdicts(judge, version, given)
        if finished:
            folder.write_card(card.model_copy(update={"finished": "2025-01-01T01:00:00+00:00"}))
    return folder
