"""`harness report`: the viewer's pages as one folder that needs no server, its plots, and a summary of it in a single file.

Links are the server's own. What asks a server there is written out here: a page a row (shared by the runs that answered it),
a page for each two runs of a table, filters that hide rows in the browser. Written aside and renamed, so that the folder is
whole or not there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from harness.errors import UserError
from harness.records import BadImageError
from harness.runs import slug
from leaderboard import plots
from leaderboard.browse import Filter, Row
from leaderboard.site import summary
from leaderboard.site.drawings import figure, names
from leaderboard.site.library import Library, Run, Shelf
from leaderboard.site.pages import HERE, PICKABLE, Site
from leaderboard.site.pictures import NoPictureError, Pictures, encode
from leaderboard.site.rows import Asked, Turn

#: Files have no server to set headers; 'self' is the folder.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
#: Says that a folder is a report, and may be replaced by a newer one.
MARK = ".harness-report"
#: What a browser loads; nothing else is copied.
STATIC = ("site.css", "theme.js", "app.js", "film.js", "icon.svg")

Report = Callable[[str, int, int], None]


@dataclass
class FileLinks:
    """Rows and pictures as files. A picture is encoded when a page first links to it."""

    pictures: Pictures
    folder: Path
    most: int
    files: bool = True
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)

    def give(self, run: Run, sample_ids: Iterable[str]) -> None:
        """These rows have a page. They are numbered, as an id may be no file name; runs on the same rows share their pages."""
        for sample_id in sample_ids:
            self._numbers.setdefault((run.card.data.fingerprint, sample_id), len(self._numbers) + 1)

    def sample(self, run: Run, sample_id: str, asked: Asked | None = None) -> str:
        """The row's page; the run's list where the row has none."""
        number = self._numbers.get((run.card.data.fingerprint, sample_id))
        return f"row-{slug(run.card.data.task)}-{number}.html" if number else f"samples-{run.id}.html"

    def image(self, run: Run, row: Row, number: int) -> str:
        name = f"{slug(row.pictured or row.cluster)}-{number}.png"
        path = self.folder / "images" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            try:
                path.write_bytes(encode(self.pictures.find(run.card, row)[number]))
            except BadImageError as e:
                raise NoPictureError(str(e)) from None
        return f"images/{name}"


def write(library: Library, pictures: Pictures, out: Path, *, most: int = 2000, report: Report = lambda *_: None) -> Path:
    """Write the report of everything in `library` to the folder `out` and give its first page.

    `most` rows of a run get a page. An earlier report at `out` is replaced; anything else there raises UserError.
    """
    if out.exists() and not (out / MARK).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: is there already and is no report", hint="give another folder with -o, or remove it")
    place = Path(os.path.abspath(out))  # "." has no name
    work = place.with_name(f".{place.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    shelf = library.shelf()
    try:
        work.mkdir(parents=True)
        (work / "static").mkdir()
        for name in STATIC:
            shutil.copyfile(HERE / "static" / name, work / "static" / name)
        _pages(shelf, pictures, work, most, report)
        _plots(shelf, pictures, work, report)
        summary.write(work / "summary.html", shelf, pictures)
        (work / MARK).write_text("Written by harness report; a newer report may replace this folder.\n", encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        work.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out / "index.html"


def _pages(shelf: Shelf, pictures: Pictures, work: Path, most: int, report: Report) -> None:
    links = FileLinks(pictures, work, most)
    rows = {path: {r.id: r for r in shelf.browser.page(Filter(run=Path(path)), 0, most).rows} for path in shelf.read}
    for path, own in rows.items():  # before any page links to them
        links.give(shelf.by_path[path], own)

    def look(wanted: Sequence[tuple[Path, str]]) -> list[Row]:
        return [rows[str(run)].get(i) or shelf.browser.sample(run, i) for run, i in wanted]

    site = Site(shelf, pictures, links, policy=POLICY, looked_up=look)
    known = list(_names(site))
    alone: dict[str, Run] = {}  # of the runs on the same rows, the best one says whose answer stands first
    for cell in shelf.cells:
        if cell.run in rows:
            alone.setdefault(cell.data_fingerprint, shelf.of(cell))
    total, done = len(known) + sum(len(rows[str(run.path)]) for run in alone.values()), 0
    for name in known:
        (work / name).write_text(site.page(name), encoding="utf-8")
        done += 1
        report("pages", done, total)
    for run in alone.values():
        ids = list(rows[str(run.path)])
        for before, row, after in zip([None, *ids], rows[str(run.path)].values(), [*ids[1:], None], strict=False):
            turn = Turn(*(links.sample(run, i) if i else "" for i in (before, after)))
            html = site.sample(run, row, run.judges[0] if run.judges else None, turn)
            (work / links.sample(run, row.id)).write_text(html, encoding="utf-8")
            done += 1
            report("pages", done, total)


def _names(site: Site) -> Iterator[str]:
    """Every page but those of single rows."""
    shelf = site.shelf
    yield from ("index.html", "compare.html", "trainers.html")
    yield from (f"slice-{key}.html" for key in site.slice_keys)
    yield from (f"table-{t}.html" for t in shelf.tables)
    yield from (f"{kind}-{run}.html" for run in shelf.runs for kind in ("run", "samples"))
    yield from (f"trainer-{name}.html" for name in shelf.trainings)
    for shown in shelf.tables.values():
        ids = [shelf.of(c).id for c in shown.cells[:PICKABLE]]
        yield from (f"compare-{a}~{b}~{shown.judge}.html" for a, b in combinations(ids, 2) if shown.judge)


def _plots(shelf: Shelf, pictures: Pictures, work: Path, report: Report) -> None:
    site = Site(shelf, pictures, FileLinks(pictures, work, 0))
    (work / "plots").mkdir()
    known = list(names(shelf, site.slice_keys))
    for i, name in enumerate(known, start=1):
        light, dark = (figure(shelf, site.slice_keys, name, theme) for theme in ("light", "dark"))
        for drawn, kind in ((light, "svg"), (light, "png"), (dark, "dark.svg")):
            content = plots.encode(drawn, "png" if kind == "png" else "svg")
            (work / "plots" / f"{name}.{kind}").write_bytes(content)
        report("plots", i, len(known))
