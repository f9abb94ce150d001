"""harness annotate: people judge answers, in a browser on this machine, without knowing whose answers they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli import options as opt
from harness.cli.judge import Folders, run_folders
from harness.cli.view import OwnTasks
from harness.errors import UserError
from harness.shown import count, duration

if TYPE_CHECKING:
    from harness.runs import RunFolder
    from judges.human.desk import Desk
    from judges.human.study import Study, StudyFolder

PORT = 7118
#: Names that stand for other things in the address.
_TAKEN = ("static", "annotate")


class _RateByDefault(TyperGroup):
    """`harness annotate RUN` is `harness annotate rate RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["rate", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="People judge answers: `harness annotate RUN --raters alice,bob` serves a page for each of them.",
    no_args_is_help=True,
    cls=_RateByDefault,
)


def _share(text: str) -> float:
    """20% or 0.2, as a share. Raises UserError."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    share = float(number[1]) / (100 if number[2] else 1) if number else -1.0
    if not 0 <= share <= 1:
        raise UserError(f"'{text}' is not a share", hint="write 20% or 0.2")
    return share


def _raters(text: str) -> list[str]:
    """The names in `--raters`. Raises UserError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name) or name in _TAKEN:
            raise UserError(f"--raters: '{name}' cannot be a rater's name", hint="letters, digits, - and _, such as alice or r1")
    if len({name.lower() for name in names}) < len(names):
        raise UserError("--raters names somebody twice")
    if not names:
        raise UserError("--raters names nobody", hint="as in --raters alice,bob")
    return names


@app.command("rate")
def rate(
    folders: Folders,
    raters: Annotated[str, typer.Option("--raters", help="Who judges, comma-separated. Each gets an address of their own.")],
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows of each run, drawn by seed.")] = 100,
    overlap: Annotated[str, typer.Option("--overlap", help="Share of the rows that every rater judges.")] = "20%",
    repeats: Annotated[str, typer.Option("--repeats", help="Share of a rater's rows that come a second time, unsaid.")] = "5%",
    sampling: Annotated[
        str,
        typer.Option(
            "--sampling",
            help="uniform; stratified:SLICE; or disagreement: where judges differ, of no use for `harness calibrate`.",
        ),
    ] = "uniform",
    seed: opt.Seed = 0,
    data_dir: opt.DataDir = None,
    tasks: OwnTasks = None,
    host: Annotated[str, typer.Option("--host", help="Address to answer on, for tablets and other machines.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help=f"{PORT}, or a free one.")] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Serve a page for each rater.

    They see image, question, reference and answer, and not which model wrote it.
    Every key is kept at once. The same command goes on where it was left.

    harness annotate runs/a/slake-1a2b3c4d runs/b/slake-5e6f7a8b --raters alice,bob
    """
    from harness.cli import ui
    from judges.human import drawing

    given, names = run_folders(folders), _raters(raters)
    found = [f for f in given if not f.card().data.control]
    if not found:
        raise UserError("only controls: their answers are about pictures that nobody is shown", hint="give the run itself")
    shared, again = _share(overlap), _share(repeats)
    what = [sorted(drawing.run_name(f) for f in found), names, rows, shared, again, sampling, seed]
    folder = _place(found, what)
    if not (folder.path / "study.json").exists():
        folder.write(
            drawing.draw(found, names, rows=rows, overlap=shared, repeats=again, sampling=sampling, seed=seed),
        )
    study = folder.study
    for name in sorted({drawing.run_name(f) for f in found}):
        ui.note(f"{name}: {count(sum(name in item.weights for item in study.items), 'row')} drawn ({sampling}, seed {seed})")
    if not study.random:
        ui.note("rows on which judges disagree are not like the others: `harness calibrate` leaves these verdicts out")
    _serve(folder, study, found, data_dir, tasks, host, port, no_open)


def _place(found: list[RunFolder], what: list[object]) -> StudyFolder:
    """Where a study of these runs stands: the same options find it again. Raises UserError."""
    import hashlib
    import json

    from judges.human.labels import one_root
    from judges.human.study import FOLDER, StudyFolder

    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
    return StudyFolder(one_root(found) / FOLDER / key)


def _serve(
    folder: StudyFolder, study: Study, found: list[RunFolder], data_dir: Path | None, tasks: str | None,
    host: str, port: int | None, no_open: bool,
) -> None:  # fmt: skip
    """Answer until Ctrl-C, then say how far everybody is."""
    import signal
    import threading
    import webbrowser

    import uvicorn

    from harness.cli import ui, view
    from judges.human.desk import Desk
    from judges.human.site import app as site

    with Desk(folder, study, found) as desk:
        application = site.create(desk, view.pictures(data_dir, tasks), host=host)
        listening = view.listen(host, port, PORT)
        base = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        addresses = {rater: f"{base}/{rater}/?token={desk.token(rater)}" for rater in study.order}
        for rater, address in addresses.items():
            ui.line(f"{rater}: {address}")
        ui.line("(Ctrl-C ends it; what is judged is kept)", "dim")
        if not no_open and len(addresses) == 1:
            threading.Timer(0.3, webbrowser.open, [*addresses.values()]).start()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in `harness view`
        uvicorn.Server(uvicorn.Config(application, log_level="warning", access_log=False)).run(sockets=[listening])
        _say_how_far(desk, found)


def _say_how_far(desk: Desk, found: list[RunFolder]) -> None:
    from harness.cli import ui

    for rater in desk.study.order:
        done, spent = len(desk.done(rater)), duration(desk.seconds(rater))
        ui.line(f"{rater}: {done} of {desk.places(rater)} judged in {spent}")
    runs = " ".join(str(f.path) for f in found)
    ui.line(f"the verdicts are in {desk.folder.path}; use them:  harness judge {runs} --judge human")


@app.command("adjudicate")
def adjudicate(
    folders: Folders,
    rater: Annotated[str, typer.Option("--rater", help="Who decides.")],
    data_dir: opt.DataDir = None,
    tasks: OwnTasks = None,
    host: Annotated[str, typer.Option("--host", help="Address to answer on, for tablets and other machines.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help=f"{PORT}, or a free one.")] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Serve a page with the rows on which raters differ.

    One person decides, as blind as the raters were; from then on their word
    stands for these rows.

    harness annotate adjudicate runs/a/slake-1a2b3c4d --rater carol
    """
    from harness.cli import ui
    from judges.human import drawing, labels

    found, (name,) = run_folders(folders), _raters(rater)
    disputed = labels.disputed(found)
    if not disputed:
        raise UserError("raters differ on no row of these runs", hint="`harness agreement RUN` shows how far they agree")
    folder = _place(found, ["adjudicate", sorted(drawing.run_name(f) for f in found), name, sorted(i.key for i in disputed)])
    if not (folder.path / "study.json").exists():
        folder.write(drawing.to_decide(disputed, name))
    ui.note(f"{count(len(disputed), 'row')} on which raters differ")
    _serve(folder, folder.study, found, data_dir, tasks, host, port, no_open)


@app.command("export")
def export(
    folders: Folders,
    out: Annotated[Path, typer.Option("--out", "-o", help="FILE.csv, FILE.jsonl, or FILE.json for Label Studio.")],
) -> None:
    """Write what people said of runs to a file.

    A row for each rater and text, with question, reference and answer.

    harness annotate export runs/a/slake-1a2b3c4d -o ward.csv
    """
    from harness.cli import ui
    from harness.runs import write_atomic
    from judges.human import exchange

    rows = exchange.export(run_folders(folders))
    write_atomic(out, exchange.written(rows, out))
    people = len({row["annotator"] for row in rows})
    ui.line(f"{count(len(rows), 'verdict')} of {people} {'person' if people == 1 else 'people'} in {out}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV, JSON lines, or Label Studio's JSON or JSON-MIN.", show_default=False)],
    folders: Folders,
    rater: Annotated[str, typer.Option("--rater", help="Who judged, where the file does not say.")] = "imported",
    drawn_at_random: Annotated[
        bool,
        typer.Option("--drawn-at-random", help="Say that the rows were drawn at random, so that they can calibrate a judge."),
    ] = False,
) -> None:
    """Take in verdicts that people gave elsewhere.

    They count like those of `harness annotate`. A row that is about another
    text than a run's is left out, and counted.

    harness annotate import ward.csv runs/a/slake-1a2b3c4d
    """
    import hashlib

    from harness.cli import ui
    from judges.human import drawing, exchange, given
    from judges.human.study import UNIFORM, UNKNOWN

    found = run_folders(folders)
    rows = list(given.read(file))
    sampling = UNIFORM if drawn_at_random else UNKNOWN
    (rater,) = _raters(rater)
    study, said, others, renamed = exchange.adopt(rows, found, sampling, rater)
    for told, name in renamed.items():
        ui.note(f"'{told}' is called {name} here")
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    folder = _place(found, ["import", sorted(drawing.run_name(f) for f in found), content, sampling, rater])
    if (folder.path / "study.json").exists():
        ui.note(f"{file} was taken in before: {folder.path}")
        return
    for name, lines in said.items():
        folder.labels_path(name).unlink(missing_ok=True)  # of an import that was cut off
        folder.add_all(name, lines)
    folder.write(study)  # last: without it nothing of this counts
    ui.line(f"{count(sum(map(len, said.values())), 'verdict')} of {', '.join(sorted(said))} taken in: {folder.path}")
    if others:
        ui.note(f"{count(others, 'row')} of the file {'is' if others == 1 else 'are'} about no answer of these runs")
    if not drawn_at_random:
        ui.note("how these rows were drawn is not known: `harness calibrate` leaves them out (--drawn-at-random says so)")
    ui.line(f"use them:  harness judge {' '.join(str(f.path) for f in found)} --judge human")
