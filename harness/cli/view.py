"""harness view, harness report: the leaderboard as pages, served to this machine or written to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options as opt
from harness.errors import UserError

if TYPE_CHECKING:
    import socket

    from leaderboard.site.pictures import Pictures

PORT = 7117

Checkpoints = Annotated[
    list[Path] | None, typer.Option("--checkpoints", help="Folder of checkpoints, besides those that runs name; may be repeated.")
]
OwnTasks = Annotated[str | None, typer.Option("--tasks", "-t", help="YAMLs of your own tasks, for their images.")]


def view(
    runs: opt.RunsMany = None,
    checkpoints: Checkpoints = None,
    data_dir: opt.DataDir = None,
    tasks: OwnTasks = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to answer on; others than loopback need the printed token.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help=f"{PORT}, or a free one.")] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Look at the leaderboard, answers and training in a browser.

    Everything stays on this machine; Ctrl-C ends it.
    """
    import signal
    import threading
    import webbrowser

    import uvicorn

    from harness.cli import ui
    from leaderboard.site import app
    from leaderboard.site.library import Library

    token = None if app.is_loopback(host) else app.new_token()
    library = Library(_roots(runs), _folders(checkpoints))
    images = pictures(data_dir, tasks)
    app.prepare(library, images)  # what is wrong with the folders is said before anything is served
    application = app.create(library, images, host=host, token=token)
    listening = listen(host, port, PORT)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/{f'?token={token}' if token else ''}"
    ui.line(f"{address}   (Ctrl-C ends it)")
    if not no_open:
        threading.Timer(0.3, webbrowser.open, [address]).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # uvicorn ends on it and then raises it again; that is no interruption here
    uvicorn.Server(uvicorn.Config(application, log_level="warning", access_log=False)).run(sockets=[listening])


def report(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of run records; runs/ by default.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write; an earlier report there is replaced.")] = Path(
        "report"
    ),
    checkpoints: Checkpoints = None,
    data_dir: opt.DataDir = None,
    tasks: OwnTasks = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="So many rows of each run get a page.")] = 2000,
    share: Annotated[
        bool,
        typer.Option("--share/--no-share", help="Leave out paths, commands, addresses, and the names of files and rows."),
    ] = True,
    quiet: opt.Quiet = False,
) -> None:
    """Write the viewer's pages as files to send.

    A folder with every page and plot: it opens without a server; summary.html in it is the short form in a single file.
    """
    from harness.cli import ui
    from leaderboard.site import export
    from leaderboard.site.library import Library

    ui.set_quiet(quiet)
    library = Library(_roots(runs), _folders(checkpoints))
    with ui.progress(transient=True) as bar:
        lines = {step: bar.add_task(step, total=None) for step in ("pages", "plots")}
        first = export.write(
            library, pictures(data_dir, tasks), out, most=rows, shared=share,
            report=lambda step, done, total: bar.update(lines[step], completed=done, total=total),
        )  # fmt: skip
    ui.line(f"{first}   (one file: {first.with_name('summary.html')})")


def _roots(runs: list[Path] | None) -> list[Path]:
    return runs or [Path("runs")]


def _folders(checkpoints: list[Path] | None) -> list[Path]:
    for folder in checkpoints or []:
        if not folder.is_dir():
            raise UserError(f"--checkpoints {folder}: no such folder")
    return checkpoints or []


def pictures(data_dir: Path | None, tasks: str | None) -> Pictures:
    """Looking at runs never downloads: images of hub data are those that are cached."""
    import os

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from harness import specs
    from leaderboard.site.pictures import Pictures

    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir}: no such folder")
    return Pictures(data_dir, specs.find(tasks) if tasks else ())


def listen(host: str, port: int | None, usual: int) -> socket.socket:
    """A socket on the port; on the usual one, or a free one, where none is given. Raises UserError where that fails."""
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in (port,) if port is not None else (usual, 0):
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, wanted))
            listening.listen()  # from now on a browser waits for an answer
        except OSError as e:
            listening.close()
            problem = e.strerror or str(e)
        else:
            return listening
    raise UserError(f"{host}:{port if port is not None else usual}: {problem}", hint="--port 0 takes a free one")
