"""What is on disk, as pages need it: runs by the name of their pages, their cells, the checkpoints that they came from.

Run folders are the truth and others may be writing them, so all of it is read again as soon as a file has changed.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from harness.errors import UserError
from harness.records import RunCard
from harness.runs import slug
from leaderboard import index, overview, store, table
from leaderboard.browse import Browser
from leaderboard.share import Share
from leaderboard.site import training
from leaderboard.table import Cell

#: Seconds for which the disk is not looked at again.
FRESH = 2.0
#: Models side by side in a table of slices: the best ones.
COLUMNS = 12


@dataclass(frozen=True)
class Run:
    """A sound run folder. `id` is MODEL.TASK-KEY, which is safe in an address and as a file name."""

    id: str
    path: Path
    card: RunCard
    #: NAME@VERSION of every judge with a sound file of verdicts here, as that file is called.
    judges: list[str]


@dataclass(frozen=True)
class Table:
    """Cells that may stand side by side, the best first; `names` tells their runs apart."""

    id: str
    cells: list[Cell]

    @property
    def first(self) -> Cell:
        return self.cells[0]

    @property
    def title(self) -> str:
        return f"{self.first.task} · {self.first.split}"

    @property
    def judge(self) -> str | None:
        """As the file of its verdicts is called."""
        return f"{slug(self.first.judge)}@{self.first.judge_version}" if self.first.judge else None

    @property
    def unlike(self) -> str:
        """Which generation arguments its runs do not share."""
        return table.differing(self.cells)

    @cached_property
    def names(self) -> dict[str, str]:
        return table.labels(self.cells)


class Shelf:
    """Everything under the roots at one moment. What takes time is read when it is first asked for."""

    def __init__(self, roots: Sequence[Path], checkpoints: Sequence[Path] = ()) -> None:
        self.roots, self._checkpoints = roots, checkpoints
        self._sliced: dict[tuple[str, ...], list[Cell]] = {}
        self._lock = threading.RLock()
        self.board = table.board(store.find(roots))
        folders = [Path(path) for path in self.board.runs]
        ids = distinct(_short(f"{slug(path.parent.name)}.{slug(path.name)}") for path in folders)
        read = [self.board.runs[str(path)] for path in folders]
        self.runs = {
            i: Run(i, run.folder, run.card, [judged.path.stem for judged in run.judged]) for i, run in zip(ids, read, strict=True)
        }
        self.by_path = {str(run.path): run for run in self.runs.values()}
        groups = table.grouped(self.board.cells)
        self.tables = {_table_id(cells[0]): Table(_table_id(cells[0]), cells) for cells in groups}

    @property
    def cells(self) -> list[Cell]:
        return self.board.cells

    @property
    def damaged(self) -> list[store.Damaged]:
        return self.board.damaged

    @property
    def read(self) -> dict[str, store.Run]:
        """The runs as arrays, by their path."""
        return self.board.runs

    def of(self, cell: Cell) -> Run:
        """The cell's run."""
        return self.by_path[cell.run]

    @cached_property
    def share(self) -> Share:
        """What must not be shown where pages are made to be sent."""
        trained = [text for path in self.trainings.values() for text in training.texts(training.read(path).about)]
        return Share(list(self.read.values()), [*self.roots, *self._checkpoints, *self.trainings.values()], trained)

    @cached_property
    def views(self) -> list[overview.Overview]:
        return overview.overviews(self.board)

    @cached_property
    def browser(self) -> Browser:
        return Browser(list(self.read.values()))

    def slices_of(self, shown: Table, name: str) -> list[Cell]:
        """The best of a table's cells, slice value by slice value; nothing where their rows have no such slice."""
        cells = shown.cells[:COLUMNS]
        key = (name, *(f"{c.run} {c.judge}@{c.judge_version}" for c in cells))
        with self._lock:
            if key not in self._sliced:
                try:
                    found = table.of_runs([self.read[c.run] for c in cells], slice_by=name).cells
                except UserError:
                    found = []
                judge = (cells[0].judge, cells[0].judge_version)
                own = [c for c in found if (c.judge, c.judge_version) == judge]
                best = {c.run: c.slice_sha256 for c in own}  # only those that were divided as the best of them stand side by side
                divided = next((best[c.run] for c in cells if c.run in best), None)
                self._sliced[key] = [c for c in own if c.slice_sha256 == divided]
            return self._sliced[key]

    @cached_property
    def slice_names(self) -> dict[str, list[str]]:
        """By the fingerprint of the rows: which slices they have."""
        return {run.card.data.fingerprint: list(run.asked.slices) for run in self.read.values()}

    def siblings(self, run: Run) -> list[Run]:
        """The runs on the same rows, this one first, the others from the best down."""
        rows = run.card.data.fingerprint
        best = dict.fromkeys(c.run for c in self.cells if c.data_fingerprint == rows and c.run != str(run.path))
        return [run, *(self.by_path[path] for path in best)]

    @cached_property
    def trainings(self) -> dict[str, Path]:
        """Checkpoint folders: those that runs name, and those in the folders given."""
        named = (where for run in self.runs.values() if (where := _home(run)))
        found = {p.resolve(): p for p in named if training.is_checkpoint(p)}
        found |= {p.resolve(): p for p in _given(self._checkpoints)}
        return dict(zip(distinct(slug(p.name) for p in found.values()), found.values(), strict=True))

    def training_of(self, run: Run) -> str | None:
        """The id of the checkpoint that answered, where it is still on this machine."""
        home = _home(run)
        where = home.resolve() if home else None
        return next((i for i, p in self.trainings.items() if p.resolve() == where), None)


def _home(run: Run) -> Path | None:
    """The folder of the checkpoint that the run's card names, if that is a folder here."""
    try:
        where = training.home(Path(run.card.model.path)) if run.card.model.path else None
        return where if where and where.is_dir() else None
    except (OSError, ValueError):  # cards come from elsewhere: a path may be too long, or hold a zero byte
        return None


class Library:
    """The shelf as it is now."""

    def __init__(self, roots: Sequence[Path], checkpoints: Sequence[Path] = ()) -> None:
        self.roots, self.checkpoints = list(roots), list(checkpoints)
        self._lock = threading.Lock()
        self._seen: tuple[object, ...] = ()
        self._looked = float("-inf")
        self._shelf: Shelf | None = None

    def shelf(self) -> Shelf:
        """Raises UserError where a folder of runs does not exist."""
        with self._lock:
            now = time.monotonic()
            if self._shelf is None or now - self._looked > FRESH:
                seen = _stamp(self.roots, self.checkpoints)
                if self._shelf is None or seen != self._seen:
                    self._shelf, self._seen = Shelf(self.roots, self.checkpoints), seen
                self._looked = now
            return self._shelf


def _stamp(roots: Sequence[Path], checkpoints: Sequence[Path]) -> tuple[object, ...]:
    """Changes whenever a file of a run does, or a certificate of a judge, and when a checkpoint appears or goes."""
    certificates = ((file, file.stat().st_mtime_ns) for root in roots for file in sorted(root.glob(".certificates/*.json")))
    runs = ((path, index.stamp(path, "card.json")) for path in store.find(roots))
    return (*runs, *certificates, *_given(checkpoints))


def _given(checkpoints: Sequence[Path]) -> list[Path]:
    """The checkpoints among these folders and the folders in them."""
    folders = (p for folder in checkpoints for p in (folder, *sorted(folder.glob("*/"))))
    return [p for p in folders if training.is_checkpoint(p)]


def _short(name: str) -> str:
    """A long name cut, with its hash: a comparison's file is named after two runs and a judge, and has 255 bytes for it."""
    return name if len(name) <= 60 else f"{name[:50]}-{sha256(name.encode()).hexdigest()[:8]}"


def distinct(names: Iterable[str]) -> list[str]:
    """The names, those that stand twice with a number."""
    out: dict[str, None] = {}
    for name in names:
        free = (f"{name}-{k}" if k > 1 else name for k in itertools.count(1))
        out[next(n for n in free if n not in out)] = None
    return list(out)


def _table_id(cell: Cell) -> str:
    key = sha256("\0".join(cell.comparable).encode()).hexdigest()[:6]
    return slug(f"{cell.task}-{cell.split}-{cell.judge or 'not-judged'}-{key}")
