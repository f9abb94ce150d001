"""harness doctor says what is so, names what is wrong, and never shows a key."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from harness.cli import doctor
from harness.cli.main import app
from tests.servers import free_port

KEY = "sk-this-must-not-be-seen-anywhere"


def report(*words: object) -> tuple[int, dict[str, dict[str, tuple[str, str]]]]:
    """The exit code, and part -> what -> (state, words)."""
    result = CliRunner().invoke(app, ["doctor", *map(str, words), "--json"])
    parts = json.loads(result.stdout)
    return result.exit_code, {part: {f["what"]: (f["state"], f["words"]) for f in found} for part, found in parts.items()}


def test_this_machine_is_fit(tmp_path: Path) -> None:
    import torch

    code, found = report("--runs", tmp_path / "runs")
    assert code == 0, found
    assert found["machine"]["torch"][1].startswith(torch.__version__)
    assert found["machine"]["attention"][0] == "ok"
    assert found["packages"].keys() == {"versions"}
    assert found["data"]["slake"] == ("ok", "bundled, bundled-224px")
    assert found["data"]["path_vqa"][0] == "note"
    assert "exact" in found["judges"]["offline"][1]
    assert found["servers"] == {}, "nothing is connected to unless it is asked for"
    assert not (tmp_path / "runs").exists()


def test_the_screen_has_every_part_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    result = CliRunner().invoke(app, ["doctor"])
    for part in ("machine", "packages", "data", "judges"):
        assert f"\n{part}" in f"\n{result.stdout}"
    assert "set: OPENAI_API_KEY" in result.stdout
    assert KEY not in result.stdout


def test_data_under_the_data_dir_is_found(tmp_path: Path) -> None:
    (tmp_path / "path_vqa").mkdir()
    _, found = report("--data-dir", tmp_path)
    assert found["data"]["path_vqa"] == ("ok", f"original, {tmp_path / 'path_vqa'}")


def test_a_release_known_to_be_bad_and_one_out_of_range_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"litellm": "1.82.8", "torch": "1.0"}
    installed = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: have.get(name) or installed(name))
    code, found = report()
    assert code == 1
    assert found["packages"]["litellm"] == (
        "bad",
        "1.82.8 is a malicious release: uninstall it, and change the keys that this machine knew",
    )
    assert found["packages"]["torch"][1].startswith("1.0, but >=")


def test_judges_that_end_are_named_with_their_day(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    registry = tmp_path / "judges.yaml"
    registry.write_text(
        "checked: 2026-11-20\n"
        "judges:\n"
        "  old: {model: gemini/old, ends: 2025-09-24, successor: new}\n"
        "  soon: {model: openai/soon, ends: 2027-01-14}\n"
        "  new: {model: openai/new}\n"
    )
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    found = {f.what: f for f in doctor._judges(datetime.date(2026, 11, 20), registry)}
    assert found["old"].words == "gemini/old; GEMINI_API_KEY is not set; retired on 2025-09-24, its successor is new"
    assert found["soon"].words == "openai/soon; OPENAI_API_KEY is set; ends on 2027-01-14, in 55 days"
    assert (found["old"].state, found["soon"].state, found["new"].state) == ("note", "note", "ok")
    assert KEY not in str(found)
    assert "gemini-1.5-flash" in found, "the package's own registry is beneath"


class Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"object": "list", "data": [{"id": "tiny"}]}).encode() if self.path == "/v1/models" else b"{}"
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_an_endpoint_says_what_it_serves(server: str) -> None:
    code, found = report("--endpoint", f"{server}/v1", "--endpoint", f"{server}/wrong")
    assert code == 1
    assert found["servers"] == {f"{server}/v1": ("ok", "serves tiny"), f"{server}/wrong": ("bad", "answers 404")}


def test_an_endpoint_that_does_not_answer_is_bad() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    code, found = report("--endpoint", url)
    assert code == 1
    assert found["servers"][url][0] == "bad"
    assert found["servers"][url][1].startswith("no answer: ConnectError")
