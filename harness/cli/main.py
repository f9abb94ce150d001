"""The roof: every command group on one typer app, and one place where errors become words and exit codes.

0 done    1 failed    2 the user can mend it (message and hint)    130 interrupted, resumable
143 terminated (128 + the signal's number), resumable
"""

from __future__ import annotations

import os
import signal
import sys

import typer

from harness.cli import (
    agreement,
    annotate,
    audit,
    doctor,
    evaluate,
    explain,
    export,
    importing,
    judge,
    judges,
    leaderboard,
    model,
    quickstart,
    streams,
    tasks,
    train,
    view,
)
from harness.errors import Terminated, UserError

app = typer.Typer(
    help="Benchmark medical vision-language models, train them, and compare them on a local leaderboard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich's costs 0.17 s of imports
)
app.command("quickstart", rich_help_panel="Start here")(quickstart.quickstart)
app.command("run", rich_help_panel="Evaluate")(evaluate.run)
app.command("judge", rich_help_panel="Evaluate")(judge.judge)
app.command("agreement", rich_help_panel="Evaluate")(agreement.agreement)
app.command("calibrate", rich_help_panel="Evaluate")(agreement.calibrate)
app.command("leaderboard", rich_help_panel="Evaluate")(leaderboard.leaderboard)
app.command("compare", rich_help_panel="Evaluate")(leaderboard.compare)
app.command("explain", rich_help_panel="Evaluate")(explain.explain)
app.command("power", rich_help_panel="Evaluate")(leaderboard.power)
app.add_typer(annotate.app, name="annotate", rich_help_panel="Evaluate")
app.add_typer(audit.app, name="audit", rich_help_panel="Evaluate")
app.command("view", rich_help_panel="Evaluate")(view.view)
app.command("report", rich_help_panel="Evaluate")(view.report)
app.add_typer(tasks.app, name="tasks", rich_help_panel="Evaluate")
app.add_typer(judges.app, name="judges", rich_help_panel="Evaluate")
app.add_typer(export.app, name="export", rich_help_panel="Evaluate")
app.add_typer(importing.app, name="import", rich_help_panel="Evaluate")
app.command("doctor", rich_help_panel="Start here")(doctor.doctor)
app.add_typer(train.app, name="train", rich_help_panel="Train")
app.add_typer(model.app, name="model", rich_help_panel="Train")


def _version(show: bool) -> None:
    if show:
        from harness import __version__

        typer.echo(f"harness {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Show the version and exit.", callback=_version, is_eager=True),
) -> None:
    pass


class Interrupted(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, which typer would answer itself, without saying how to go on."""


def _interrupt(*_: object) -> None:
    raise Interrupted


def main() -> None:
    """Run the app and end the process; a UserError prints its message and hint, never a traceback."""
    signal.signal(signal.SIGINT, _interrupt)
    streams.show_anything()
    try:
        code = _run()
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # `harness ... | head`
        code = 0
    # everything is on disk by now, and taking torch and transformers apart takes a second
    os._exit(code)


def _say(message: str, hint: str | None = None) -> None:
    from harness import distributed
    from harness.cli import ui

    ui.error(f"{distributed.label()}{message}", hint)


def _run() -> int:
    """The exit code."""
    try:
        app()
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except UserError as e:
        _say(str(e), e.hint)
        return e.exit_code
    except Interrupted:
        _say(
            "interrupted; answers, verdicts and checkpoints so far are kept",
            "run the same command again and it goes on",
        )
        return 130
    except Terminated as e:
        _say(
            f"ended by {signal.Signals(e.signum).name}; {e.kept or 'everything so far is kept'}",
            "run the same command again and it goes on",
        )
        return 128 + e.signum
    except BrokenPipeError:
        raise
    except OSError as e:
        _say(f"{e.filename or 'input or output'}: {e.strerror or e}", "is there room, and may you write there?")
        return 1
    except Exception:
        import traceback

        from harness.models.failures import without_keys
        from harness.shown import harmless

        print(harmless(without_keys(traceback.format_exc())), end="", file=sys.stderr)
        return 1
    return 0
