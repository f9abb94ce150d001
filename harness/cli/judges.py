"""harness judges: who can judge, how far each can be trusted, its verdicts kept, and what moving to another one changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import options as opt
from harness.cli.agreement import agree_on, show_agreement
from harness.cli.judge import Folders, run_folders, version_of
from harness.errors import UserError
from harness.shown import between, p_value, percent, plain, points

if TYPE_CHECKING:
    from harness.scoring.protocols import Protocol
    from judges.certificate import Certificate

app = typer.Typer(help="List, test and certify judges; keep verdicts.", no_args_is_help=True)


@app.command("list")
def list_judges(judge_registry: opt.JudgeRegistry = None, runs: opt.Runs = Path("runs"), json: opt.Json = False) -> None:
    """Every judge: offline ones, and the registry's with price and end."""
    import datetime

    from harness import plugins
    from harness.cli import ui
    from harness.scoring.protocols import PREFIX, PROTOCOLS
    from judges import registry

    known = registry.read(judge_registry)
    offline = {n: _about(plugins.load("judges", n)) for n in sorted(plugins.available("judges")) if n != "litellm"}
    if json:
        ui.print_json(
            {
                "plugins": [{"name": n, "about": about} for n, about in offline.items()],
                "protocols": [{"name": f"{PREFIX}{n}", **_about_protocol(p)} for n, p in PROTOCOLS.items()],
                "checked": str(known.checked),
                "registry": {n: k.model_dump(mode="json") for n, k in known.judges.items()},
            }
        )
        return
    from rich.table import Table

    table = Table("judge", "", box=None, header_style="bold")
    for name, about in offline.items():
        table.add_row(plain(name), plain(about))
    ui.out.print(table)
    table = Table("protocol", "", box=None, header_style="bold")
    for name, protocol in PROTOCOLS.items():
        if not protocol.as_is:
            table.add_row(plain(f"{PREFIX}{name}"), plain(protocol.rule))
    ui.out.print(table)
    ui.line(f"with known faults: {', '.join(name for name, p in PROTOCOLS.items() if p.as_is)}", "dim")
    ui.line("source and quirks: harness judges show protocol:NAME; only some rows: protocol:NAME/closed, /open, /yesno", "dim")
    table = Table(box=None, header_style="bold")
    for column in ("LLM judge", "$ a million tokens", "until"):
        table.add_column(column, no_wrap=True)
    table.add_column("answered by", overflow="fold")
    today = datetime.date.today()
    for name, k in known.judges.items():
        left = k.days_left(today)
        until = "" if left is None else f"retired {k.ends}" if left <= 0 else f"{k.ends}, {left} days"
        price = f"{k.price[0]:.2f} / {k.price[1]:.2f}" if k.price else ""
        table.add_row(plain(name), price, until, plain(k.model), style="dim" if left is not None and left <= 0 else "")
        if k.successor:
            table.add_row(plain(f"  → {k.successor}"), "", "", "", style="dim")
    ui.out.print(table)
    ui.line(f"checked on {known.checked}; any LiteLLM name works: PROVIDER/NAME, openai/NAME@http://HOST:PORT/v1", "dim")


def _about(factory: Any) -> str:
    """The first sentence of the docstring of the module that a judge comes from, after its name."""
    import sys

    first = (sys.modules[factory.__module__].__doc__ or "").strip().split("\n")[0]
    return first.split(": ", 1)[-1]


def _about_protocol(protocol: Protocol) -> dict[str, Any]:
    """What a protocol is, for `--json`."""
    names = ("rule", "source", "quirks", "differs", "prompt", "fractional", "version", "as_is")
    return {name: getattr(protocol, name) for name in names}


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A judge, as --judge takes it, such as protocol:medevalkit.")],
    judge_registry: opt.JudgeRegistry = None,
    json: opt.Json = False,
) -> None:
    """What a judge does.

    Of a protocol its rule, its source and its quirks; of an LLM judge its entry in the registry.
    """
    import inspect
    import sys

    from harness import plugins
    from harness.cli import ui
    from harness.scoring.protocols import PREFIX, find
    from judges import registry

    kind = name.partition(":")[0]
    if name.startswith(PREFIX):
        about = _about_protocol(find(name))
    elif entry := registry.read(judge_registry).find(name):
        about = {"name": entry[0], **entry[1].model_dump(mode="json", exclude_none=True)}
    else:
        factory = plugins.load("judges", kind)
        about = {"about": inspect.cleandoc(sys.modules[factory.__module__].__doc__ or "")}
    if json:
        ui.print_json({"judge": name, **about})
        return
    ui.line(name, "bold")
    for key, value in about.items():
        if value and not isinstance(value, bool):
            told = [value] if not isinstance(value, list | tuple) else value if isinstance(value[0], str) else [str(value)]
            told = [line for one in told for line in str(one).splitlines()]
            ui.line("\n".join(f"  {key if i == 0 else '':<10}  {line}" for i, line in enumerate(told)))


@app.command("test")
def try_out(
    name: Annotated[str, typer.Argument(help="A judge, as --judge takes it.")],
    tasks: Annotated[str, typer.Option("--tasks", "-t", help="Whose rows are used.")] = "slake,slake_grounded",
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows an attack, each on an image of its own.")] = 50,
    split: Annotated[str | None, typer.Option("--split")] = None,
    data: opt.Data = "auto",
    data_dir: opt.DataDir = None,
    runs: opt.Runs = Path("runs"),
    judge_prompt: opt.JudgePrompt = "rarl-v2",
    allow_external: opt.AllowExternal = False,
    max_cost: opt.MaxCost = None,
    judge_in_flight: opt.JudgeInFlight = 64,
    judge_rpm: opt.JudgeRpm = None,
    judge_tpm: opt.JudgeTpm = None,
    judge_seed: opt.JudgeSeed = 0,
    judge_registry: opt.JudgeRegistry = None,
    device: opt.Device = "auto",
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Certify a judge on real rows.

    Puts right answers, wrong answers and attacks before it, and prints how often
    it gave the verdict that each deserves. The certificate is kept beside the runs,
    and the leaderboard shows it.

    harness judges test exact
    """
    from harness.cli import ui
    from harness.cli.evaluate import load_tasks
    from harness.models.endpoint import Outgoing
    from harness.pipeline import make_judges
    from judges import certificate

    ui.set_quiet(quiet)
    options = opt.judge_options(
        runs, judge_prompt, allow_external, max_cost, judge_in_flight, judge_rpm, judge_tpm, judge_registry, judge_seed, device
    )
    chosen = make_judges(name, options)
    loaded = load_tasks(tasks, data=data, data_dir=data_dir, split=split)
    samples = [s.model_copy(update={"id": f"{t.spec.name}/{s.id}"}) for t in loaded for s in t.samples]
    asked = sum(len(c) for c in certificate.cases(samples, rows).values())
    sent = [Outgoing(tasks, asked, all(t.spec.may_leave_machine for t in loaded))]
    found = []
    for one in chosen:
        for note in one.prepare(sent):
            ui.announce(note)
        with ui.progress() as bar:
            made = certificate.certify(
                one, samples, {t.spec.name: t.card.fingerprint for t in loaded}, count=rows,
                report=ui.reporter(bar, f"testing {one.name}"),
            )  # fmt: skip
        before = certificate.load(runs, made.judge, made.version)
        made = made.model_copy(update={"people": before.people if before else {}})  # what people said stays true
        where = certificate.save(made, runs)
        found.append(made)
        if not json:
            _show_certificate(made, where)
    if json:
        ui.print_json([m.model_dump(mode="json") for m in found])


def _show_certificate(made: Certificate, where: Path) -> None:
    from rich.table import Table

    from harness.cli import ui

    ui.line(f"{made.judge}@{made.version} on {', '.join(made.tasks)}", "bold")
    table = Table("", "deserves", "passed %", "", "95 % interval", "missing", box=None, header_style="bold")
    for name, r in sorted(made.attacks.items(), key=lambda a: -a[1].deserves):
        style = "" if r.share >= 0.95 else "yellow" if r.share >= 0.5 else "red"
        table.add_row(
            name.replace("_", " "), str(r.deserves), percent(r.share), f"{r.passed} of {r.n}", between(r.low, r.high),
            str(r.missing or ""), style=style,
        )  # fmt: skip
        if r.reasoning_n:
            table.add_row(
                "  its reasoning",
                "",
                percent(r.reasoning_passed / r.reasoning_n),
                f"{r.reasoning_passed} of {r.reasoning_n}",
                "",
                "",
                style="dim",
            )
    ui.out.print(table)
    ui.line(made.summary())
    ui.line(f"certificate: {where}", "dim")


@app.command("repair")
def repair(runs: opt.Runs = Path("runs")) -> None:
    """Move damaged lines out of the store of verdicts.

    They go to a file beside it; whole verdicts stay, and what is lost is asked
    for again by the next command.
    """
    from harness.cli import ui
    from judges.store import stores

    for store in stores(runs):
        if moved := store.repair():
            ui.line(f"{store.path}: {moved} damaged line{'s' * (moved > 1)} moved to {store.path.with_suffix('.damaged').name}")
    ui.line(f"{len(stores(runs))} stores are whole")


@app.command("export")
def export(
    folders: Folders,
    by: Annotated[str, typer.Option("--judge", "-j", help="NAME or NAME@VERSION of verdicts in these runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The replay file to write, JSON lines.")],
) -> None:
    """Write a judge's verdicts to a file for replay.

    `--judge replay:FILE` uses them without asking again.
    """
    from harness.cli import ui
    from harness.runs import write_atomic
    from judges.replay import Recorded

    rows: dict[str, Recorded] = {}
    changed = 0
    versions = set()
    for folder in run_folders(folders):
        name, version = version_of(folder, by)
        versions.add(version)
        predictions, verdicts = folder.predictions(), folder.verdicts(name, version)
        for sample in folder.questions():
            if sample.id in verdicts and sample.id in predictions:
                row = Recorded.of(sample, predictions[sample.id], verdicts[sample.id], version)
                before = rows.get(row.pair)
                changed += before is not None and before.final is not None and before.final != row.final
                if before is None or row.final is not None:
                    rows[row.pair] = row
    if len(versions) > 1:
        raise UserError(f"{by}: several versions: {', '.join(sorted(versions))}", hint="name one, as NAME@VERSION")
    write_atomic(out, "".join(r.model_dump_json() + "\n" for r in rows.values()))
    ui.line(f"{len(rows)} verdicts on {len(rows)} different texts in {out}\nuse them:  --judge replay:{out}")
    if changed:
        ui.note(f"{changed} texts were judged twice with different verdicts; the later ones are kept")


@app.command("sheet")
def sheet(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The CSV to write.")],
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="So many rows, drawn by seed; all by default.")] = None,
    seed: opt.Seed = 0,
) -> None:
    """Write a CSV for people to judge.

    It is read back with `--judge human:FILE`.
    """
    import csv
    import io
    import random

    from harness.cli import ui
    from harness.runs import write_atomic
    from judges.replay import pair
    from judges.sheets import COLUMNS, inert

    (found,) = run_folders([folder])
    predictions = found.predictions()
    samples = [s for s in found.questions() if s.id in predictions]
    if rows is not None:
        samples = random.Random(seed).sample(samples, min(rows, len(samples)))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*COLUMNS[:5], "question", "reference", "reference_reasoning", "model_text", "pair"])
    for s in samples:
        texts = [s.question, " | ".join(s.reference.answers), s.reference.reasoning or "", predictions[s.id].text]
        writer.writerow([s.id, "", "", "", "", *map(inert, texts), pair(s, predictions[s.id])])
    write_atomic(out, text.getvalue())
    ui.line(f"{len(samples)} rows in {out}: fill in final (and reasoning) with 0 or 1")
    ui.line(f"use them:  harness judge {folder} --judge human:{out}")


@app.command("bridge")
def bridge(
    old: Annotated[str, typer.Argument(help="NAME or NAME@VERSION of the judge to leave.")],
    new: Annotated[str, typer.Argument(help="NAME or NAME@VERSION of the judge to move to.")],
    folders: Folders,
    json: opt.Json = False,
) -> None:
    """What moving from one judge to another changes.

    Measured on runs that both have judged.
    """
    from harness.cli import ui
    from leaderboard.stats import paired_difference

    found = []
    for folder in run_folders(folders):
        same = agree_on(folder, old, new)
        (name_a, version_a), (name_b, version_b) = version_of(folder, old), version_of(folder, new)
        a, b = folder.verdicts(name_a, version_a), folder.verdicts(name_b, version_b)
        both = [r for r in folder.samples() if _both(a.get(r["id"]), b.get(r["id"]))]
        moved = paired_difference(
            [b[r["id"]].final or 0 for r in both], [a[r["id"]].final or 0 for r in both], [r["cluster"] for r in both]
        )
        found.append((folder, same, moved))
    if json:
        ui.print_json([{"run": str(f.path), "agreement": s.model_dump(mode="json"), "difference": vars(m)} for f, s, m in found])
        return
    for folder, same, moved in found:
        show_agreement(folder, old, new, same)
        ui.line(
            f"  moving from {old} to {new} changes the score by {points(moved.value)} points "
            f"({points(moved.low)} to {points(moved.high)}, {p_value(moved.p)}, {moved.p_method})"
        )


def _both(a: Any, b: Any) -> bool:
    return a is not None and b is not None and a.final is not None and b.final is not None
