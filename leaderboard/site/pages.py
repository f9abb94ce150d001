"""A page's name -> its HTML. The server and the folder of files have the same pages under the same names, so every link is a
file name and works on both; only a row's page and its picture are named in two ways (`Links`).

    index.html              the leaderboard             run-RUN.html               one run
    slice-SLICE.html        the same by a slice         samples-RUN.html           its answers, and one of them
    table-TABLE.html        a table's plots and slices  compare-A~B~JUDGE.html     two runs, row by row
    trainers.html           checkpoints                 trainer-CHECKPOINT.html    one of them
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

from harness import shown as numbers
from harness.errors import UserError
from harness.runs import slug
from leaderboard import plots, table
from leaderboard.browse import Row
from leaderboard.claims import claims
from leaderboard.compare import compare
from leaderboard.share import Said, Share
from leaderboard.site import facts, rows, text, training
from leaderboard.site.drawings import SPENT, spent
from leaderboard.site.judges import agreements
from leaderboard.site.layout import WHOLE, Axis, SliceTable, slice_tables
from leaderboard.site.library import Run, Shelf, Table, distinct
from leaderboard.site.pictures import NoPictureError, Pictures
from leaderboard.site.rows import Asked, Look, Turn
from leaderboard.site.training import Completion, Training
from leaderboard.stats import MIN_CLUSTERS, MIN_MIXED
from leaderboard.table import RANK_COVERAGE

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
#: Models of a table that a folder of files has comparisons of.
PICKABLE = 6
#: Flipped rows of each kind that a comparison lists; in a folder of files, where there is no list of the others, more.
FLIPS, FLIPS_IN_FILES = 20, 200
#: Completions of one training step on its page.
COMPLETIONS = 64
#: And in a file: this many of about so many steps.
FEW, FEW_STEPS = 4, 16


class NoPageError(Exception):
    """There is no page of that name; the message says what is missing."""


class Links(Protocol):
    """How rows and pictures are addressed."""

    @property
    def files(self) -> bool:
        """Whether nobody answers queries, so that filters can only hide what is on the page."""
        ...

    @property
    def most(self) -> int:
        """How many rows of a run have a page, where these are files."""
        ...

    def sample(self, run: Run, sample_id: str, asked: Asked) -> str: ...

    def image(self, run: Run, row: Row, number: int) -> str: ...


class ServerLinks:
    """With a query."""

    files = False
    most = 0

    def sample(self, run: Run, sample_id: str, asked: Asked) -> str:
        return f"samples-{run.id}.html{replace(asked, row=sample_id, last=False).query()}"

    def image(self, run: Run, row: Row, number: int) -> str:
        return f"image.png?{urlencode({'run': run.id, 'row': row.id, 'n': number}, errors='replace')}"


@dataclass(frozen=True)
class Site:
    """Renders the pages of a shelf. `policy` is a Content-Security-Policy to stand in the page itself, for files."""

    shelf: Shelf
    pictures: Pictures
    links: Links
    policy: str | None = None
    #: Says what must not be shown, where pages are made to be sent.
    share: Share | None = None
    #: Where rows are looked up, if not one by one.
    looked_up: Look | None = None

    @property
    def look(self) -> Look:
        return self.looked_up or self.shelf.browser.samples

    def page(self, name: str, query: Mapping[str, str] | None = None) -> str:
        """The HTML of a page. Raises NoPageError."""
        query = query or {}
        shelf = self.shelf
        whole: dict[str, Callable[[], str]] = {"index": self.index, "trainers": self.trainers, "compare": self.choose}
        about: dict[str, Callable[[str], str]] = {
            "slice": lambda x: self.index(_known("slice", self.slice_keys, x)),
            "table": lambda x: self.table(_known("table", shelf.tables, x)),
            "run": lambda x: self.run(_known("run", shelf.runs, x)),
            "samples": lambda x: self.samples(_known("run", shelf.runs, x), Asked.of(query)),
            "compare": self.compare,
            "trainer": lambda x: self.trainer(x, query.get("step", "")),
        }
        stem, dot, kind = name.rpartition(".")
        first, dash, rest = stem.partition("-")
        if dot and kind == "html" and stem in whole:
            return whole[stem]()
        if dot and kind == "html" and dash and first in about:
            return about[first](rest)
        raise NoPageError(f"There is no page '{name}'.")

    @cached_property
    def slice_keys(self) -> dict[str, str]:
        """The slices' names by their names in an address."""
        names = sorted({name for names in self.shelf.slice_names.values() for name in names})
        return dict(zip(distinct(slug(name) for name in names), names, strict=True))

    # -- the leaderboard --

    def index(self, slice_by: str | None = None) -> str:
        shelf, tables = self.shelf, list(self.shelf.tables.values())
        cards = [run.card for run in shelf.runs.values()]
        return self._render(
            "index", "leaderboard",
            tables=tables,
            axes={t.id: Axis.over(t.cells) for t in tables},
            slices=self.slice_keys,
            slice=slice_by,
            slice_tables={t.id: self._by(t, slice_by) for t in tables} if slice_by else {},
            views=shelf.views,
            models=len({c.model.name for c in cards}),
            tasks=len({c.data.task for c in cards}),
            newest=max((c.created for c in cards), default=""),
        )  # fmt: skip

    def table(self, shown: Table) -> str:
        slices = self._slices(shown)
        own = {s.name for s in slices}
        return self._render(
            "table", "leaderboard",
            t=shown,
            slices=slices,
            slice_keys={key: name for key, name in self.slice_keys.items() if name in own},
            spent=[(kind, label) for kind, label in SPENT.items() if len(spent(shown, kind)) > 1],
            agreement=agreements(self.shelf, shown),
            claims=[c for c in claims([shown.first.task]) if c.slice is None],
        )  # fmt: skip

    def _slices(self, shown: Table) -> list[SliceTable]:
        names = self.shelf.slice_names.get(shown.first.data_fingerprint, [])
        return [t for name in names for t in self._by(shown, name)]

    def _by(self, shown: Table, name: str) -> list[SliceTable]:
        """The table by one slice; empty where its rows do not have it."""
        return slice_tables(shown.cells, self.shelf.slices_of(shown, name))

    # -- runs and rows --

    def run(self, run: Run) -> str:
        own = [(t, c) for t in self.shelf.tables.values() for c in t.cells if c.run == str(run.path)]
        slices = [(c, self._slices(Table(t.id, [c]))) for t, c in own if c.value is not None]
        return self._render(
            "run", "leaderboard",
            run=run,
            card=run.card,
            cells=[c for _, c in own],
            slices=[(c, tables) for c, tables in slices if tables],
            whole=WHOLE,
            spent=facts.spent(run.card),
            details=facts.of_run(run.card, self.share is not None),
            damaged="; ".join(d.reason for d in self.shelf.damaged if Path(d.path).is_relative_to(run.path)),
            command=shlex.join(["harness", *run.card.command]),
            training=self.shelf.training_of(run),
            samples_of=self._samples_of,
        )  # fmt: skip

    def _samples_of(self, run: Run, filters: Mapping[str, str]) -> str:
        """The run's answers, filtered where there is somebody to do so."""
        return f"samples-{run.id}.html" + ("" if self.links.files else f"?{urlencode(filters, errors='replace')}")

    def samples(self, run: Run, asked: Asked) -> str:
        judges = run.judges
        if asked.judge not in judges:
            asked = replace(asked, judge=judges[0] if judges else None)
        found = rows.page(self.shelf, run, asked, size=self.links.most or rows.PAGE)
        opened = None if self.links.files else self._opened(run, asked, found.rows)
        slices = self.shelf.read[str(run.path)].asked.slices
        return self._render(
            "samples", "leaderboard",
            run=run, asked=asked, judges=judges, local=self.links.files,
            lines=[rows.line(row, asked.judge) for row in found.rows],
            slices={name: sorted(values) for name, (values, _) in slices.items()},
            others=[(o.id, o.card.model.name) for o in self.shelf.siblings(run)[1:]],
            turn=Turn.of(run, asked, found, opened.id if opened else None),
            here=asked,
            cut=found.total > len(found.rows),
            **(self.row(run, opened, asked.judge) if opened else {"row": None}),
        )  # fmt: skip

    def _opened(self, run: Run, asked: Asked, shown: tuple[Row, ...]) -> Row | None:
        """The row that is asked for; else the page's first, or last."""
        if not asked.row:
            return shown[-1 if asked.last else 0] if shown else None
        try:
            found = [r for r in shown if r.id == asked.row] or self.look([(run.path, asked.row)])
        except UserError as e:
            raise NoPageError(str(e)) from None
        return found[0] if found else None

    def sample(self, run: Run, row: Row, judge: str | None, turn: Turn) -> str:
        """A page of one row alone, for files; `run` is one of those that were asked it."""
        return self._render("sample", "leaderboard", run=None, turn=turn, card=run.card, **self.row(run, row, judge))

    def row(self, run: Run, row: Row, judge: str | None) -> dict[str, Any]:
        """What row.html.j2 shows of one row: the picture, and what the models made of it."""
        siblings = self.shelf.siblings(run)
        no_picture, images = "", []
        try:
            images = [self.links.image(run, row, n) for n in range(len(self.pictures.find(run.card, row)))]
        except NoPictureError as e:
            no_picture = str(e).rstrip(".")
        shown = siblings[: rows.MODELS]
        return {
            "row": row,
            "answers": rows.answers(self.look, shown, row.id, judge),
            "names": told_apart(*shown),
            "more_runs": len(siblings) - len(shown),
            "images": images,
            "no_picture": no_picture,
        }

    # -- two runs --

    def choose(self, refused: str = "") -> str:
        tables = list(self.shelf.tables.values())
        axes = {t.id: Axis.over(t.cells) for t in tables}
        return self._render("compare", "compare", found=None, refused=refused, tables=tables, axes=axes)

    def compare(self, which: str) -> str:
        """`which` is A~B~JUDGE."""
        a, b, judge = (*which.split("~"), "", "")[:3]
        one, other = (_known("run", self.shelf.runs, name) for name in (a, b))
        name, _, version = judge.rpartition("@")
        try:
            found = compare(one.path, other.path, name, version)
        except UserError as e:
            return self.choose(refused=f"{e}{f' ({e.hint})' if e.hint else ''}")
        names = told_apart(one, other)
        asked, most = Asked(judge=judge, flips=other.id), FLIPS_IN_FILES if self.links.files else FLIPS
        return self._render(
            "compare", "compare",
            found=found,
            name_a=names[one.id], name_b=names[other.id],
            flips=[
                (f"Only {names[run.id]} is right", ids, self._flipped(one, other, ids[:most]))
                for run, ids in ((one, found.only_a), (other, found.only_b))
            ],
            axis=Axis.around_zero(found.low, found.high),
            run_a=one,
            here=asked,
            all_flips="" if self.links.files else f"samples-{one.id}.html{asked.query()}",
        )  # fmt: skip

    def _flipped(self, one: Run, other: Run, ids: Sequence[str]) -> list[tuple[Row, str, str]]:
        """The rows, and what the two models answered."""
        a, b = (self.look([(run.path, i) for i in ids]) for run in (one, other))
        theirs = {row.id: row for row in b}
        return [(x, rows.line(x, None).got, rows.line(theirs[x.id], None).got) for x in a if x.id in theirs]

    # -- training --

    def trainers(self) -> str:
        found = {i: training.read(path) for i, path in self.shelf.trainings.items()}
        return self._render("trainers", "training", trainings=found, task_of=facts.task_of)

    def trainer(self, name: str, step: str = "") -> str:
        t = training.read(_known("checkpoint", self.shelf.trainings, name))
        steps = t.steps
        chosen = next((s for s in steps if str(s) == step), steps[-1] if steps else None)
        return self._render(
            "trainer", "training",
            id=name, t=t, step=chosen, local=self.links.files,
            steps=[(s, f"trainer-{name}.html?step={s}") for s in steps],
            completions=_few_a_step(t) if self.links.files else [c for c in t.completions if c.step == chosen][:COMPLETIONS],
            shown=[title for title, _ in plots.panels(t.curves)],
            numbers=[(k, (v[0][1], min(y for _, y in v), max(y for _, y in v), v[-1][1])) for k, v in sorted(t.curves.items())],
            runs=[r for r in self.shelf.runs.values() if self.shelf.training_of(r) == name],
            details=facts.of_training(t, self.share is not None),
            task_of=facts.task_of,
        )  # fmt: skip

    def missing(self, what: str) -> str:
        return self._render("missing", "", what=what)

    def _render(self, template: str, section: str, **values: Any) -> str:
        shared = {
            "shelf": self.shelf, "section": section, "policy": self.policy, "sample_url": self.links.sample,
            "pickable": PICKABLE if self.links.files else None,
        }  # fmt: skip
        return render(template, self.share, **(shared | values))


def _known(what: str, known: Mapping[str, Any], name: str) -> Any:
    if name not in known:
        raise NoPageError(f"There is no {what} '{name}' (any more).")
    return known[name]


def _few_a_step(t: Training) -> list[Completion]:
    """For a file, which cannot hold them all: the first few of some steps, evenly over the training."""
    steps = t.steps[:: max(1, len(t.steps) // FEW_STEPS)]
    return [c for step in steps for c in [c for c in t.completions if c.step == step][:FEW]]


def told_apart(*runs: Run) -> dict[str, str]:
    """Each run's model, with the prompt, or the run's key, where two have the same."""
    names = {run.id: run.card.model.name for run in runs}
    if len(set(names.values())) < len(runs):
        names = {run.id: f"{names[run.id]} · {run.card.prompt}" for run in runs}
    if len(set(names.values())) < len(runs):
        names = {run.id: f"{names[run.id]} [{run.id.rpartition('-')[2]}]" for run in runs}
    return names


def render(template: str, share: Share | None, **values: Any) -> str:
    """A page; without what must not be shown where there is a `share`."""
    html = _environment(share).get_template(f"{template}.html.j2").render(values | {"share": share is not None})
    return share.page(html) if share else html


@lru_cache(maxsize=4)
def _environment(share: Share | None) -> Environment:
    """Jinja2 with every value escaped and made visible."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=(lambda value: text.visible(share.words(value))) if share else text.visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"said": Said, "shared": share.tree if share else lambda value: value, "note": table.note,
                    "thoughts": text.thoughts, "spaced": text.spaced, "p": numbers.p_number,
                    "points": lambda d: numbers.points(d).replace("-", "−")}  # fmt: skip
    env.filters |= {f.__name__: f for f in (numbers.percent, numbers.duration, numbers.count, numbers.dollars, numbers.plural)}
    env.globals |= {f.__name__: f for f in (numbers.asked, numbers.answers, numbers.between, numbers.coefficient, table.heading)}
    env.globals |= {"rank_coverage": RANK_COVERAGE, "min_mixed": MIN_MIXED, "min_clusters": MIN_CLUSTERS}
    return env
