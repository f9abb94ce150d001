"""Runs in the forms that others read.

    eee.py        Every Eval Ever: a JSON a run, and a JSONL with a line a sample and result
    hub.py        the Hugging Face hub: model-index, .eval_results, a section for the model card
    lm_eval.py    a results JSON as lm-eval writes it

All of them start from `read`: a run with its cells, which hold value, interval, coverage and bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from leaderboard.reading import Judged, Run
from leaderboard.share import Share
from leaderboard.table import Cell, board


@dataclass(frozen=True)
class Exported:
    """A run and what each judge says of it. `share` says what must not be told, where the export is to be sent."""

    run: Run
    cells: tuple[tuple[Cell, Judged], ...]
    share: Share | None = None


def read(folders: Sequence[Path], *, shared: bool = True) -> list[Exported]:
    """These run folders, or all in folders of them such as RUNS/MODEL. Raises UserError for one that cannot be exported whole:
    damaged, unfinished, or without a verdict. `shared` leaves out what others need not know (leaderboard/share.py).
    """
    paths: list[Path] = []
    for folder in folders:
        below = [folder] if (folder / "card.json").is_file() else sorted(p.parent for p in folder.glob("*/card.json"))
        if not below:
            raise UserError(f"{folder}: no run folder", hint="give a folder that `harness run` printed after 'records:'")
        paths += below
    found = board(paths)
    if found.damaged:
        raise UserError(f"{found.damaged[0].path}: {found.damaged[0].reason}", hint="export runs that are whole")
    out = []
    share = Share([found.runs[str(path)] for path in paths]) if shared else None
    for path in paths:
        run = found.runs[str(path)]
        cells = [c for c in found.cells if c.run == str(path)]
        if not all(c.finished for c in cells):
            raise UserError(f"{path}: the run is not finished", hint="run the same command again: it goes on")
        judged = {(j.judge, j.version): j for j in run.judged}
        pairs = tuple(
            (share.cell(c) if share else c, judged[c.judge or "", c.judge_version or ""]) for c in cells if c.value is not None
        )
        if not pairs:
            raise UserError(f"{path}: no judge has judged it", hint="run it again with --judge")
        out.append(Exported(run, pairs, share))
    return out


def hub_dataset(task: str) -> str | None:
    """The hub's id of a task's dataset; None where the task is not known here, or is not on the hub."""
    from harness import specs

    try:
        ((spec, _),) = specs.find(task)
    except (UserError, ValueError):
        return None
    return spec.hub.repo if spec.hub else None
