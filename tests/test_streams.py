"""Every command on a screen or in a pipe that cannot show every character, and names that would be markup."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import streams
from tests.run_folders import make_run

#: A name with an accent, letters of no Latin alphabet, an emoji, half of a surrogate pair in a file's name, dashes.
NAME = "modèle 肺炎 😀 – κ"
#: Markup, a link, an emoji's name, colours and direction for a terminal.
MARKUP = "[bold red]x[/] [link=http://a]y[/link] :100: :warning: \x1b[31mred \u202egnorw\u202c [/]"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    for k, name in enumerate((NAME, MARKUP)):
        for task in ("slake", "vqa_rad"):
            verdicts = "110?10001011"[k:] + "1" * k
            make_run(out, name, verdicts, task=task, fingerprint=task, prompt=f"p {NAME}")
            human = {"judge": f"human:{MARKUP}", "version": "2"}
            make_run(out, name, "110010001011", task=task, fingerprint=task, prompt=f"p {NAME}", **human)
    return out


def commands(runs: Path) -> dict[str, list[str]]:
    a, b = (sorted(model.iterdir())[0] for model in sorted(runs.iterdir()) if model.is_dir() and model.name[0] != ".")
    judges = ["--judges", f"exact,human:{MARKUP}"]
    return {
        "leaderboard": ["leaderboard", "--runs", str(runs)],
        "leaderboard by slice": ["leaderboard", "--runs", str(runs), "--slice", "modality"],
        "csv": ["leaderboard", "--runs", str(runs), "--csv"],
        "markdown": ["leaderboard", "--runs", str(runs), "--markdown"],
        "latex": ["leaderboard", "--runs", str(runs), "--latex"],
        "json": ["leaderboard", "--runs", str(runs), "--json"],
        "published": ["leaderboard", "--runs", str(runs), "--published"],
        "compare": ["compare", str(a), str(b), "--judge", "exact"],
        "compare models": ["compare", str(a.parent), str(b.parent), "--judge", "exact"],
        "agreement": ["agreement", str(a), *judges],
        "bridge": ["judges", "bridge", "exact", f"human:{MARKUP}", str(a)],
        "power": ["power", "--n", "148"],
        "judges": ["judges", "list"],
        "tasks": ["tasks", "list"],
        "model card": ["export", "model-card", str(a)],
        "an error": ["leaderboard", "--runs", str(runs), "--tasks", MARKUP],
        "no runs": ["leaderboard", "--runs", f"{runs}/{NAME}"],
    }


def run(words: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    from harness.cli.main import _run

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", err)
        patch.setattr("sys.argv", ["harness", *words])
        streams.show_anything()
        code = _run()
    return code, *(stream.buffer.getvalue().decode(encoding) for stream in (out, err))  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_no_command_fails_for_want_of_a_character(runs: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for what, words in commands(runs).items():
        code, _, err = run(words, encoding, monkeypatch)
        assert "Traceback" not in err, f"{what}: {err}"
        assert code == (2 if what in ("an error", "no runs") else 0), f"{what}: {err}"


def test_what_ascii_shows_looks_alike(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = run(commands(runs)["leaderboard"], "ascii", monkeypatch)
    _, wanted, _ = run(commands(runs)["leaderboard"], "utf-8", monkeypatch)
    assert re.search(r"\d\.\d - \d+\.\d", out)
    assert re.search(r"^ *-{20,}", out, re.MULTILINE), "the rule below the head"
    digits = [[c for c in text if c.isdigit() or c == "."] for text in (out.partition("slake")[0], wanted.partition("slake")[0])]
    assert digits[0] == digits[1]
    assert "mod\\xe8le" in out
    assert "\\u2013" not in out


def test_json_in_ascii_is_the_same_document(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = run(commands(runs)["json"], "ascii", monkeypatch)
    _, wanted, _ = run(commands(runs)["json"], "utf-8", monkeypatch)
    assert json.loads(out) == json.loads(wanted)
    assert any(c["model"] == NAME for c in json.loads(out)["cells"])


def test_no_name_is_markup_or_moves_the_cursor(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "[bold red]x[/] [link=http://a]y[/link] :100: :warning:"
    for what, words in commands(runs).items():
        _, out, err = run(words, "utf-8", monkeypatch)
        assert "\x1b" not in out + err, what
        assert "\u202e" not in out + err, what
        if what in ("compare", "agreement", "bridge"):
            assert shown in out, what
        if what == "an error":
            assert shown in err
        if what == "leaderboard":
            assert ":100:" in out
            assert "[link=" in out


def test_a_process_in_the_c_locale(runs: Path) -> None:
    env = os.environ | {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    words = [sys.executable, "-m", "harness", "leaderboard", "--runs", str(runs)]
    done = subprocess.run(words, capture_output=True, env=env, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.isascii()
    assert b"95 %" in done.stdout
