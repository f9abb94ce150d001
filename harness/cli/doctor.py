"""harness doctor: one screen that says what works on this machine, and what will not for long."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli import options as opt

#: Releases that must not be used, and why.
KNOWN_BAD = {"litellm": {"1.82.7": "a malicious release", "1.82.8": "a malicious release"}}
#: What an API judge's provider reads its key from, and where it answers.
PROVIDERS = {
    "openai": ("OPENAI_API_KEY", "https://api.openai.com"),
    "gemini": ("GEMINI_API_KEY", "https://generativelanguage.googleapis.com"),
    "anthropic": ("ANTHROPIC_API_KEY", "https://api.anthropic.com"),
}
#: Less free space than this, in GB, will not hold a checkpoint and its optimizer.
LITTLE_SPACE = 10


@dataclass(frozen=True)
class Finding:
    """One line of the screen."""

    state: Literal["ok", "note", "bad"]
    what: str
    words: str


def doctor(
    data_dir: opt.DataDir = None,
    runs: opt.Runs = Path("runs"),
    judge_registry: opt.JudgeRegistry = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", help="A server to ask as well, http://HOST:PORT/v1; may be given several times."),
    ] = None,
    reach: Annotated[bool, typer.Option("--reach", help="Connect to the judges' providers; nothing is sent to them.")] = False,
    json: opt.Json = False,
) -> None:
    """What works on this machine, and what does not.

    Python, torch, GPU, attention, data, judges, keys, disk, versions. Opens no connection unless --reach or --endpoint
    asks for one. Ends with 1 where something is bad.
    """
    from harness.cli import ui

    parts: dict[str, Callable[[], Iterator[Finding]]] = {
        "machine": lambda: _machine(runs),
        "packages": _packages,
        "data": lambda: _data(data_dir),
        "judges": lambda: _judges(datetime.date.today(), judge_registry),
        "servers": lambda: _servers(endpoint or [], reach),
    }
    found = {name: list(part()) for name, part in parts.items()}
    if json:
        ui.print_json({name: [asdict(f) for f in findings] for name, findings in found.items()})
    else:
        for name, findings in found.items():
            _show(name, findings)
    if any(f.state == "bad" for findings in found.values() for f in findings):
        raise typer.Exit(1)


def _show(name: str, findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from harness.cli import ui

    if not findings:
        return
    table = Table(title=name, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for f in findings:
        mark, style = {"ok": ("ok", "green"), "note": ("note", "yellow"), "bad": ("BAD", "bold red")}[f.state]
        table.add_row(Text(mark, style), Text(f.what), Text(f.words))
    ui.out.print(table)
    ui.out.print()


# -- machine and packages ---------------------------------------------------------------------------------------------


def _machine(runs: Path) -> Iterator[Finding]:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    python = platform.python_version() + ("" if supported else ", but 3.11 to 3.13 is supported")
    yield Finding("ok" if supported else "bad", "Python", python)
    yield Finding("ok", "CPU", f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}")
    yield from _torch()
    for what, path in (("disk, runs", runs), ("disk, hub cache", _hub_cache())):
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free / 1e9
        writable = os.access(there, os.W_OK)
        state: Literal["ok", "note", "bad"] = "bad" if not writable else "note" if free < LITTLE_SPACE else "ok"
        yield Finding(state, what, f"{free:.0f} GB free{'' if writable else ', but nothing can be written there'}")


def _hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as e:
        yield Finding("bad", "torch", f"cannot be imported: {e}")
        return
    yield Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    from harness.models.loading import pick_attention

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            major, minor = torch.cuda.get_device_capability(i)
            memory = f"{free / 1e9:.0f} of {total / 1e9:.0f} GB free"
            yield Finding("ok", f"GPU {i}", f"{torch.cuda.get_device_name(i)}, {memory}, capability {major}.{minor}")
        chosen, why = pick_attention("auto", "cuda", torch.bfloat16)
    elif torch.backends.mps.is_available():
        yield Finding("ok", "GPU", "Apple's, through mps")
        chosen, why = pick_attention("auto", "mps", torch.float32)
    else:
        yield Finding("note", "GPU", "none that torch sees: fine for the tiny model, slow for any other")
        chosen, why = pick_attention("auto", "cpu", torch.float32)
    yield Finding("ok", "attention", f"{chosen} ({why})")


def _packages() -> Iterator[Finding]:
    """Installed versions against those that this package asks for, and against releases known to be bad."""
    from packaging.requirements import Requirement

    wrong = False
    for text in requires("medvlm-harness") or []:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(wanted.name)
        except PackageNotFoundError:
            yield Finding("bad", wanted.name, f"not installed: pip install '{wanted.name}{wanted.specifier}'")
            wrong = True
            continue
        why = KNOWN_BAD.get(wanted.name, {}).get(have)
        if why:
            yield Finding("bad", wanted.name, f"{have} is {why}: uninstall it, and change the keys that this machine knew")
        elif not wanted.specifier.contains(have, prereleases=True):
            yield Finding("bad", wanted.name, f"{have}, but {wanted.specifier} is asked for")
        wrong = wrong or bool(why) or not wanted.specifier.contains(have, prereleases=True)
    if not wrong:
        names = ("transformers", "trl", "peft", "lm-eval", "litellm")
        yield Finding("ok", "versions", ", ".join(f"{name} {version(name)}" for name in names))


# -- data -------------------------------------------------------------------------------------------------------------


def _data(data_dir: Path | None) -> Iterator[Finding]:
    """Where each task's rows would come from; nothing is read or fetched."""
    from harness import specs
    from harness.archives import Archive

    cache = _hub_cache()
    for spec, _ in specs.find("*"):
        places = []
        if data_dir and spec.local and Archive.at(data_dir / spec.local.folder):
            places.append(f"original, {data_dir / spec.local.folder}")
        if spec.hub and (cache / f"datasets--{spec.hub.repo.replace('/', '--')}").is_dir():
            places.append(f"hub cache, {spec.hub.repo}")
        if spec.bundled:
            places.append(f"bundled, {spec.bundled.resolution}")
        if places:
            yield Finding("ok", spec.name, "; ".join(places))
        else:
            ways = [
                f"--data-dir with {spec.local.folder}/" if spec.local else "",
                f"the hub ({spec.hub.repo})" if spec.hub else "",
            ]
            yield Finding("note", spec.name, f"not here yet: {' or '.join(filter(None, ways))}")


# -- judges and keys --------------------------------------------------------------------------------------------------


def _judges(today: datetime.date, over: Path | None) -> Iterator[Finding]:
    """Offline judges; those of the registry with their key and their end; keys are named, never shown."""
    from harness import plugins
    from judges import registry

    offline = [name for name in sorted(plugins.available("judges")) if name != "litellm"]
    yield Finding("ok", "offline", ", ".join(offline))
    for name, known in registry.read(over).judges.items():
        provider = known.model.partition("/")[0]
        key = PROVIDERS.get(provider, (f"{provider.upper()}_API_KEY", ""))[0]
        words = [known.model, f"{key} {'is set' if os.environ.get(key) else 'is not set'}"]
        state: Literal["ok", "note", "bad"] = "ok" if os.environ.get(key) else "note"
        left = known.days_left(today)
        if left is not None:
            instead = f", its successor is {known.successor}" if known.successor else ""
            words.append(f"retired on {known.ends}{instead}" if left <= 0 else f"ends on {known.ends}, in {left} days{instead}")
            state = "note" if left <= registry.SOON else state
        yield Finding(state, name, "; ".join(words))
    named = {key for key, _ in PROVIDERS.values()} | {"HF_TOKEN"}
    present = sorted(key for key in named if os.environ.get(key))
    yield Finding(
        "ok", "keys", f"set: {', '.join(present) or 'none'}; not set: {', '.join(sorted(named - set(present))) or 'none'}"
    )


def _servers(endpoints: list[str], reach: bool) -> Iterator[Finding]:
    """Whether servers answer. A provider is only connected to; a given endpoint is asked for its models."""
    import httpx

    for url in endpoints:
        try:
            answer = httpx.get(f"{url.rstrip('/')}/models", timeout=5.0)
            names = [str(m["id"]) for m in answer.json()["data"]] if answer.status_code == 200 else []
            words = f"serves {', '.join(names)}" if names else f"answers {answer.status_code}"
            yield Finding("ok" if answer.status_code == 200 else "bad", url, words)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as e:
            yield Finding("bad", url, f"no answer: {type(e).__name__}: {e}")
    for name, (_, url) in PROVIDERS.items() if reach else ():
        try:
            answer = httpx.get(url, timeout=5.0)
            yield Finding("ok", name, f"{url} can be reached ({answer.status_code})")
        except httpx.HTTPError as e:
            yield Finding("note", name, f"{url} cannot be reached: {type(e).__name__}")
