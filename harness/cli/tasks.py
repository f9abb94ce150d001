"""harness tasks: what can be asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from harness.cli import options as opt
from harness.errors import UserError
from harness.plugins import did_you_mean

if TYPE_CHECKING:
    from harness.data import Split
    from harness.records import Sample
    from harness.specs import TaskSpec

app = typer.Typer(help="List, show, validate and write task specs.", no_args_is_help=True)

#: Problems of one split that are printed; --json has all of them.
SHOWN = 100


@app.command("list")
def list_tasks(
    markdown: Annotated[bool, typer.Option("--markdown", help="A table for a page: docs/tasks.md holds it.")] = False,
    json: opt.Json = False,
) -> None:
    """Every installed task, and the groups that stand for several."""
    from harness import specs
    from harness.cli import ui

    found = [specs.read(p) for p in specs.catalog().values()]
    groups = {name: [s.name for s, _ in specs.find(name)] for name in specs.groups()}
    if json:
        ui.print_json([_about(s) | {"groups": [g for g, members in groups.items() if s.name in members]} for s in found])
        return
    if markdown:
        print(_markdown(found), end="")
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    whole = {"task": max(len(s.name) for s in found), "rows": 6, "kind": 7, "from": 7, "verified": 8}
    for column, width in whole.items():
        table.add_column(column, justify="right" if column == "rows" else "left", min_width=width, no_wrap=True)
    table.add_column("license", max_width=16, no_wrap=True)  # --json and --markdown have the whole terms
    table.add_column("title", no_wrap=True)
    for s in found:
        rows = f"{s.rows[s.split]:,}" if s.split in s.rows else "?"
        at_hand = "bundled" if s.bundled else "hub" if s.hub else "local"  # what a run without --data-dir reads
        table.add_row(s.name, rows, s.kind, at_hand, "yes" if s.verified else "no", s.license, s.title)
    ui.out.print(table)
    if not all(s.verified for s in found):
        ui.note(
            "not verified: written from what is published of the rows, which were not at hand; "
            "`harness tasks validate` checks yours"
        )
    for name, members in groups.items():
        ui.out.print(f"[bold]{name}[/] = {', '.join(members)}", highlight=False)


def _markdown(found: list[TaskSpec]) -> str:
    """The tasks as a table in Markdown; of the rows first those of the split that is asked."""
    lines = ["| task | what | kind | rows | license | verified |", "|---|---|---|---|---|---|"]
    for s in found:
        splits = sorted(s.rows, key=lambda name: name != s.split)
        rows = ", ".join(f"{s.rows[name]:,} {name}" for name in splits) or "?"
        terms = s.license + (f" ({s.gate})" if s.gate else "")
        cells = [f"`{s.name}`", s.title, s.kind, rows, terms, "yes" if s.verified else "no"]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _about(s: TaskSpec) -> dict[str, Any]:
    return {
        "name": s.name,
        "title": s.title,
        "kind": s.kind,
        "license": s.license,
        "gate": s.gate,
        "verified": s.verified,
        "rows": s.rows,
        "splits": s.splits,
        "local": s.local.folder if s.local else None,
        "hub": s.hub.repo if s.hub else None,
        "bundled": bool(s.bundled),
    }


@app.command("show")
def show_task(task: str, json: opt.Json = False) -> None:
    """A task's spec and its rendered prompt."""
    from harness import specs
    from harness.cli import ui

    (spec, path), *more = specs.find(task)
    if more:
        raise UserError(f"'{task}' names {len(more) + 1} tasks", hint="show takes one")
    if json:
        ui.print_json(spec.model_dump(mode="json") | {"prompt_text": spec.get_prompt().template})
        return
    from rich.syntax import Syntax

    ui.out.print(Syntax(path.read_text(encoding="utf-8"), "yaml", background_color="default"))
    ui.out.print(f"\n[bold]prompt[/] {spec.get_prompt().template}", highlight=False)


@app.command("validate")
def validate(
    tasks: str,
    data: opt.Data = "auto",
    data_dir: opt.DataDir = None,
    images: opt.Images = None,
    max_image_pixels: opt.MaxImagePixels = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for warnings too.")] = False,
    json: opt.Json = False,
) -> None:
    """Check task YAMLs and the data behind them.

    Reads every split, says in a line what it holds, and reports everything that is wrong, and what looks wrong. Exit code 1
    where something is wrong.
    """
    from harness import data as loader
    from harness import specs
    from harness.cli import ui

    source = loader.parse_source(data)
    found = []
    for spec, path in specs.find(tasks):
        names = loader.splits(spec, source)
        if not names:
            raise UserError(f"task '{spec.name}' has no {source} data")
        for split in names:
            report = _report(
                spec, path, source=source, data_dir=data_dir, images_dir=images, split=split, max_pixels=max_image_pixels
            )
            found.append(report)
        mine = found[-len(names) :]
        for report in mine:
            if (rows := spec.rows.get(report["split"])) and report["rows"] and report["rows"] != rows:
                report["warnings"].append(f"{report['rows']:,} rows, where the YAML says {rows:,}")
        if lost := set(spec.drop) - {name for r in mine for name in r.get("dropped", ())}:
            mine[-1]["warnings"].append(f"drop names rows that no split has: {', '.join(sorted(lost)[:10])}")
        for report in mine if not json else ():
            _show_report(report)
    if json:
        ui.print_json(found)
    if not all(r["ok"] and not (strict and r["warnings"]) for r in found):
        raise typer.Exit(1)


def _report(spec: TaskSpec, path: Path, *, split: str, **where: Any) -> dict[str, Any]:
    """What a split holds and what is wrong with it; never raises for what the user can mend."""
    from harness import data as loader
    from tasks import survey

    empty = {"task": spec.name, "split": split, "ok": False, "rows": 0, "problems": {}, "warnings": [], "notes": []}
    try:
        found = loader.Split(spec, path, split=split, **where)
        seen = survey.Survey()
        for sample in found:
            seen.add(sample)
        card = loader.card(spec, split, found.rows([]), seen.tally.fields())
        found.view.notes.extend(loader.shown_otherwise(spec.name, seen.tally))
        return survey.report(found, seen, card.model_dump(mode="json"))
    except UserError as e:
        return empty | {"error": str(e), "hint": e.hint}


def _show_report(r: dict[str, Any]) -> None:
    from rich.markup import escape

    from harness.cli import ui

    where = f"{r['task']} {r['split']}"
    if "error" in r:
        ui.out.print(f"[red]bad[/] {where}: {escape(r['error'])}", highlight=False, soft_wrap=True)
        if r["hint"]:
            ui.out.print(f"    [dim]{escape(r['hint'])}[/]", highlight=False, soft_wrap=True)
        return
    answers = f"; answers: {r['commonest']}" if r["commonest"] else ""
    ui.out.print(
        f"{'[green]ok[/]' if r['ok'] else '[red]bad[/]'} {where}: "
        + escape(f"{r['line']}, {r['source']} ({r['resolution']}){answers}"),
        highlight=False,
        soft_wrap=True,
    )
    for line in r["warnings"]:
        ui.out.print(f"    [yellow]look[/] {escape(line)}", highlight=False, soft_wrap=True)
    if r["problems"]:
        ui.out.print(
            f"    {len(r['problems'])} rows cannot be used: {r['image_problems']} with image problems, "
            f"{r['duplicate_ids']} repeated ids",
            highlight=False,
        )
    for name, why in list(r["problems"].items())[:SHOWN]:
        ui.out.print(f"    row {escape(name)}: {escape(why)}", highlight=False, soft_wrap=True)
    if len(r["problems"]) > SHOWN:
        ui.out.print(f"    ... and {len(r['problems']) - SHOWN} more; --json lists all", highlight=False)
    if r["dropped"]:
        ui.note(f"{where}: left out by the YAML: {'; '.join(f'{k}: {v}' for k, v in r['dropped'].items())}")
    if r["missing_slices"]:
        ui.note(f"{where}: no row has the slice {', '.join(r['missing_slices'])}")
    for line in r["notes"]:
        ui.note(line)


@app.command("diff")
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="NAME or a YAML, with :SPLIT and @hub, @local or @bundled where needed.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    data_dir: opt.DataDir = None,
    images: opt.Images = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Rows that are printed of each kind; --json has all.")] = 5,
    json: opt.Json = False,
) -> None:
    """Which rows two copies of a benchmark share.

    Rows are matched by picture and question, so copies from the hub, an archive, the bundle or another project can be compared.

    harness tasks diff vqa_rad:train@local peer.yaml:train
    """
    from harness.cli import ui
    from tasks.difference import compare

    sides = [_side(text, data_dir, images) for text in (a, b)]
    names = [name if a != b else f"{name} ({n})" for n, (name, _) in enumerate(sides, 1)]
    samples = [list(split) for _, split in sides]
    about = [_read(name, split, rows) for name, (_, split), rows in zip(names, sides, samples, strict=True)]
    found = compare(*samples)
    if json:
        ui.print_json({"a": about[0], "b": about[1]} | found.document())
        return
    for side in about:
        ui.line(_told(side))
        for line in side["notes"]:
            ui.note(line)
    alike = sum(not same for *_, same in found.both)
    ui.line(f"{len(found.both):,} in both" + (f" ({alike:,} by pictures that look the same, in other files)" if alike else ""))
    for name, alone, repeats in zip(names, found.only, found.repeats, strict=True):
        ui.line(f"{len(alone):,} only in {name}" + (f" ({repeats:,} ask again what a row in both asks)" if repeats else ""))
        for row in alone[:show]:
            ui.line(f"    row {row.id}: {row.question} {' / '.join(row.answers)}", "dim")
    ui.line(f"{len(found.answers_differ):,} answers differ")
    for mine, theirs in found.answers_differ[:show]:
        answers = f"{' / '.join(mine.answers)}, {' / '.join(theirs.answers)}"
        ui.line(f"    rows {mine.id} and {theirs.id}: {mine.question} {answers}", "dim")


def _side(text: str, data_dir: Path | None, images: Path | None) -> tuple[str, Split]:
    """("vqa_rad:train@local", its split, not yet read)."""
    from harness import data as loader
    from harness import specs

    found = re.fullmatch(r"(.+?)(?::([\w\-]+))?(?:@([a-z]+))?", text)
    name, split, source = found.groups() if found else (text, None, None)
    (spec, path), *more = specs.find(name)
    if more:
        raise UserError(f"'{name}' names {len(more) + 1} tasks", hint="diff takes one on each side")
    if source and source not in get_args(loader.Source):
        raise UserError(f"'{text}': no source '{source}'", hint=did_you_mean(source, list(get_args(loader.Source))))
    at = loader.parse_source(source or "auto")
    side = loader.Split(spec, path, source=at, data_dir=data_dir, images_dir=images, split=split)
    return f"{spec.name}:{side.name}@{side.place.source}", side


def _read(name: str, split: Split, samples: list[Sample]) -> dict[str, Any]:
    """What was read of one side."""
    pictures = len({i.file_sha256 for s in samples for i in s.images})
    read = split.rows(samples)
    said = {"bad": len(read.bad), "resolution": read.resolution, "notes": read.notes}
    return {"name": name, "rows": len(samples), "images": pictures, **said}


def _told(side: dict[str, Any]) -> str:
    from harness.shown import count

    bad = f"; {count(side['bad'], 'row')} cannot be used" if side["bad"] else ""
    return f"{side['name']}: {count(side['rows'], 'row')} on {count(side['images'], 'image')}, {side['resolution']}{bad}"


@app.command("new")
def new(
    name: str,
    source: Annotated[
        Path | None, typer.Option("--from", help="A JSONL, JSON, CSV, TSV or parquet file; its columns are guessed.")
    ] = None,
    images: opt.Images = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The YAML; NAME.yaml here, or beside --from.")] = None,
) -> None:
    """Write a commented YAML for a task of your own.

    harness tasks new my_task --from rows.csv
    """
    from harness import specs
    from harness.cli import ui
    from harness.runs import write_atomic
    from tasks import skeleton
    from tasks.guess import EXAMPLE, guess

    path = out or (source.parent if source else Path()) / f"{name}.yaml"
    if path.exists():
        raise UserError(f"{path}: is there already", hint="give another name or --out")
    found = guess(source, path.parent, images) if source else EXAMPLE
    text = skeleton.write(name, found)
    specs.parse(text, path)
    write_atomic(path, text)
    for line in found.said:
        ui.note(line)
    ui.out.print(f"wrote {path}\ncheck it:   harness tasks validate {path}", highlight=False, soft_wrap=True)


@app.command("schema")
def schema() -> None:
    """The JSON schema of a task YAML, for completion in an editor.

    harness tasks schema > task.schema.json
    """
    from harness import specs

    print(specs.schema(), end="")
