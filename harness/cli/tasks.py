"""harness tasks, harness judges: what can be asked and who can judge."""

from __future__ import annotations

import typer

from harness.cli import options as opt

app = typer.Typer(help="List, show and validate task specs.", no_args_is_help=True)
judges = typer.Typer(help="List the judges.", no_args_is_help=True)


@app.command("list")
def list_tasks(json: opt.Json = False) -> None:
    """Every installed task."""
    from harness import specs
    from harness.cli import ui

    found = [specs.read(p) for p in specs.catalog().values()]
    if json:
        ui.print_json(
            [
                {"name": s.name, "title": s.title, "groups": s.groups, "license": s.license, "bundled": bool(s.bundled)}
                for s in found
            ]
        )
        return
    from rich.table import Table

    table = Table("task", "title", "data in the package", "license", box=None, header_style="bold")
    for s in found:
        table.add_row(s.name, s.title, s.bundled.resolution if s.bundled else "-", s.license)
    ui.out.print(table)


@app.command("show")
def show_task(task: str, json: opt.Json = False) -> None:
    """A task's spec and its rendered prompt."""
    from harness import specs
    from harness.cli import ui

    ((spec, path),) = specs.find(task)
    if json:
        ui.print_json(spec.model_dump(mode="json") | {"prompt_text": spec.get_prompt().template})
        return
    from rich.syntax import Syntax

    ui.out.print(Syntax(path.read_text(encoding="utf-8"), "yaml", background_color="default"))
    ui.out.print(f"\n[bold]prompt[/] {spec.get_prompt().template}", highlight=False)


@app.command("validate")
def validate(tasks: str, data: opt.Data = "auto", data_dir: opt.DataDir = None, json: opt.Json = False) -> None:
    """Check a task's YAML and load every split of its data."""
    from harness import data as loader
    from harness import specs
    from harness.cli import ui
    from harness.cli.evaluate import check_data

    found = []
    for spec, path in specs.find(tasks):
        for split in spec.splits:
            loaded = loader.load(spec, path, source=check_data(data), data_dir=data_dir, split=split)
            found.append(loaded.card.model_dump(mode="json"))
            if not json:
                c = loaded.card
                ui.out.print(
                    f"[green]ok[/] {c.task} {c.split}: {c.rows} rows, {c.images} images, {c.source} ({c.resolution})",
                    highlight=False,
                )
                for line in loaded.notes:
                    ui.note(line)
    if json:
        ui.print_json(found)


@judges.command("list")
def list_judges(json: opt.Json = False) -> None:
    """Every installed judge."""
    from harness import plugins
    from harness.cli import ui

    names = sorted(plugins.available("judges"))
    if json:
        ui.print_json([{"name": n} for n in names])
    else:
        ui.out.print("\n".join(names), highlight=False)
