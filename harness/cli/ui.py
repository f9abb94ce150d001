"""What every command shows in the same way: errors, notes, progress, one JSON document."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from harness.shown import dollars, plain

#: Results go to stdout; everything else (progress, notes, errors) to stderr.
out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


def set_quiet(quiet: bool) -> None:
    err.quiet = quiet


def error(message: str, hint: str | None = None) -> None:
    """Shown even with --quiet."""
    console = Console(stderr=True)
    console.print(_headed("error:", "bold red", message), soft_wrap=True)
    if hint:
        console.print(plain(f"  {hint}", "dim"), soft_wrap=True)


def note(message: str) -> None:
    err.print(_headed("note:", "yellow", message), soft_wrap=True)


def announce(message: str) -> None:
    """A note that --quiet does not hide: what will leave this machine, and what it will cost."""
    Console(stderr=True).print(_headed("note:", "yellow", message), soft_wrap=True)


def warning(message: str) -> None:
    """What must be known before a result is believed in: shown even with --quiet."""
    Console(stderr=True).print(_headed("warning:", "bold red", message), soft_wrap=True)


def say(message: str, head: str = "") -> None:
    """A line of progress, `head` before it in bold."""
    err.print(_headed(head, "bold", message) if head else plain(message), soft_wrap=True)


def line(text: str, style: str = "") -> None:
    """A line of results with names, paths and answers in it: nothing in them is markup or moves the cursor."""
    out.print(plain(text, style), soft_wrap=True)


def _headed(head: str, style: str, message: str) -> Text:
    return plain(head, style).append(plain(f" {message}"))


def say_use(judge: Any) -> None:
    """What a judge used, and what a jury disagreed on, where there is something to say."""
    use = judge.card().get("use", {})
    if several := use.get("judged_by_several"):
        say(f"{judge.name}: the members disagree on {100 * use['disagreed'] / several:.1f} % of {several} rows")
    if "answered" in use:
        cost = dollars("unknown" if use["cost_usd"] is None else use["cost_usd"])
        free = f", {use['from_store']} from the store, {use['shared_with_equal_rows']} shared by equal rows"
        paid = f", {use['prompt_tokens']:,} tokens read, {use['completion_tokens']:,} written, cost {cost}"
        say(f"{judge.name}: {use['answered']} answered, {use['failed']} failed{free}{paid if use['answered'] else ''}")


def print_json(document: Any) -> None:
    """One document on stdout, nothing else there; what the stream cannot write or a terminal would act on is escaped."""
    plain_ascii = not (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(document, indent=2, ensure_ascii=plain_ascii, allow_nan=False)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text) if not text.isascii() else text)


@contextmanager
def progress(transient: bool = False) -> Iterator[Progress]:
    """A bar on stderr; silent where stderr is not a terminal (CI, pipes), where a bar would be noise."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", style="progress.description", markup=False),  # names stand in it
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=transient,
        disable=err.quiet or not err.is_terminal,
    ) as bar:
        yield bar


def reporter(bar: Progress, label: str) -> Any:
    """A callback that moves a bar of its own; its last two arguments are rows done and rows in all."""
    line = bar.add_task(label, total=None)
    return lambda *state: bar.update(line, completed=state[-2], total=state[-1])


#: The packages whose warnings are for the user.
_OURS = ("harness", "tasks", "judges", "trainers", "leaderboard")


def quiet_libraries() -> None:
    """Keep the libraries' own bars and advice off the screen; their errors still come as exceptions."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
) -> None:
    """Our own warnings in our own form, from the process that speaks for all; others' as ever."""
    from harness import distributed

    root = Path(__file__).parents[2]
    if category is UserWarning and any(Path(filename).is_relative_to(root / package) for package in _OURS):
        if distributed.current().main:
            warning(str(message))
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)
