"""What a report, or an export, does not give away: every byte is looked through for what the run's folder knows."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path

import pytest
from PIL import Image

from harness.records import DataCard, GenerationArgs, ImageRef, ModelCard, Prediction, Reference, RunCard, Sample, Verdict
from harness.runs import RunFolder
from leaderboard.share import Said, Share

JUDGE, VERSION = "openai/gpt-x@http://gpu-node-17.internal:8000/v1", "ab12"
ANSWERS = ("It lies in the aortic root, /or/ and/or the arch, 3/4 of it", "Both lungs, n/a")


def jpeg() -> bytes:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "EXIFSECRET of Jane Doe"
    Image.new("RGB", (40, 30), (90, 60, 30)).save(out, "JPEG", exif=exif, comment=b"COMMENTSECRET")
    return out.getvalue()


@pytest.fixture
def leaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, list[str]]:
    """Two runs whose records name everything: (runs, data, what must not be seen)."""
    home = tmp_path / "home of jdoe7f3a" / "project"
    data, runs = home / "scans q9" / "data", home / "runs"
    (data / "ward3").mkdir(parents=True)
    names = [f"ward3/doe_jane_1970_{k}.jpg" for k in range(4)]
    for name in names:
        (data / name).write_bytes(jpeg())
    texts = {"question": "Where is it?", "answer": "root"}
    rows = [json.dumps({"id": f"doe_jane_1970_{k}", "image": name} | texts) for k, name in enumerate(names)]
    (data / "rows.jsonl").write_text("\n".join(rows) + "\n")
    (data / "own.yaml").write_text(
        "name: own\ntitle: t\nlicense: x\nlocal: {splits: {test: rows.jsonl}, columns: {id: id, image: image}}\n"
    )
    host = socket.gethostname()
    for model in ("one", "two"):
        samples = [
            Sample(id=f"doe_jane_1970_{k}", images=(ImageRef(n, data / n),), question=f"Where is it, {k}?",
                   reference=Reference(answers=("root",)), slices={"file": n, "side": "left"})
            for k, n in enumerate(names)
        ]  # fmt: skip
        card = RunCard(
            harness_version="0", created="2026-01-01T00:00:00+00:00", finished="2026-01-01T00:00:01+00:00",
            command=["run", "--model", f"{home}/ckpt/{model}", "--data-dir", str(data), "--api-base=http://10.1.2.3:9/v1"],
            data=DataCard(task="own", split="test", source="local", resolution="full", rows=4, images=1, fingerprint="f",
                          dropped={"doe_jane_1970_9": f"{data}/ward3/doe_jane_1970_9.jpg: No such file"}, spec_sha256="s"),
            model=ModelCard(name=model, path=f"{home}/ckpt/{model}", base=f"{home}/ckpt/base model", trainer="sft"),
            prompt="question", prompt_sha256="p", generation=GenerationArgs(max_new_tokens=8), limit=None, git_sha=None,
            packages={}, hardware="a CPU",
            judges={f"{JUDGE}@{VERSION}": {"model": "openai/gpt-x", "api_base": "http://gpu-node-17.internal:8000/v1",
                                           "use": {"answered": 3, "cost_usd": 0.25}}},
        )  # fmt: skip
        with RunFolder.place(runs, card) as folder:
            folder.begin(card, samples, fresh=False)
            folder.add_predictions(
                Prediction(sample_id=s.id, text=ANSWERS[k % 2], reasoning=None, answer=ANSWERS[k % 2], prompt_tokens=1,
                           finish="error" if k == 3 else "stop", completion_tokens=1,
                           error=f"{data}/{names[3]}: cannot be opened on {host}" if k == 3 else None)
                for k, s in enumerate(samples)
            )  # fmt: skip
            folder.add_verdicts(JUDGE, VERSION, [
                Verdict(sample_id=s.id, judge=JUDGE, final=None if k == 3 else (k + (model == "one")) % 2, rationale="because",
                        missing=f"no prediction: {names[3]} on host gpu-node-17.internal:8000" if k == 3 else None)
                for k, s in enumerate(samples)
            ])  # fmt: skip
    torn = runs / "one" / "own-00000000"
    torn.mkdir()
    (torn / "card.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    secrets = [str(tmp_path), "jdoe7f3a", "scans q9", "doe_jane", "ward3", "gpu-node-17", "8000", "10.1.2.3", "--data-dir",
               "EXIFSECRET", "COMMENTSECRET", "ckpt/"]  # fmt: skip
    if len(host) > 4:
        secrets.append(host)
    return runs, data, secrets


def told(folder: Path, secrets: list[str]) -> dict[str, set[str]]:
    """Which secrets stand in which files, or in their names."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*"):
        everything = str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b"")
        for secret in secrets:
            if secret.encode() in everything:
                found.setdefault(secret, set()).add(path.name)
    return found


def test_a_report_tells_no_path_command_host_or_file_name(leaky, command, tmp_path) -> None:
    runs, data, secrets = leaky
    code, _, err = command("report", runs, "-o", tmp_path / "out", "--data-dir", data, "--tasks", data / "own.yaml", "--quiet")
    assert code == 0, err
    assert told(tmp_path / "out", secrets) == {}
    row = next((tmp_path / "out").glob("row-own-1.html")).read_text(encoding="utf-8")
    assert ANSWERS[0] in row, "what was answered is shown as it is"
    assert "images/" in row
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1, "four names, one picture"
    page = next((tmp_path / "out").glob("run-one.own-*.html")).read_text(encoding="utf-8")
    assert "base model" in page
    assert "$0.2500" in page
    assert "The command" not in page


def test_every_link_of_a_shared_report_leads_somewhere(leaky, command, tmp_path) -> None:
    from urllib.parse import unquote, urldefrag

    from tests.viewed import Page

    runs, data, _ = leaky
    command("report", runs, "-o", tmp_path / "out", "--data-dir", data, "--tasks", data / "own.yaml", "--quiet")
    for path in (tmp_path / "out").glob("*.html"):
        for link in Page(path.read_text(encoding="utf-8")).links("href", "src", "srcset"):
            assert link.startswith("data:") or (tmp_path / "out" / unquote(urldefrag(link)[0])).is_file(), f"{path.name}: {link}"


def test_it_tells_them_to_oneself(leaky, command, tmp_path) -> None:
    """So the test above would notice."""
    runs, data, secrets = leaky
    command("report", runs, "-o", tmp_path / "out", "--data-dir", data, "--tasks", data / "own.yaml", "--quiet", "--no-share")
    assert set(told(tmp_path / "out", secrets)) == set(secrets) - {"EXIFSECRET", "COMMENTSECRET"}


@pytest.mark.parametrize("form", ["eee", "lm-eval-results", "model-card", "model-index"])
def test_an_export_tells_no_more(leaky, command, tmp_path, form) -> None:
    runs, _, secrets = leaky
    (runs / "one" / "own-00000000" / "card.json").unlink()
    (runs / "one" / "own-00000000").rmdir()
    code, _, err = command("export", form, runs / "one", "-o", tmp_path / "out" / ("x" if form != "eee" else "."))
    assert code == 0, err
    assert told(tmp_path / "out", secrets) == {}
    assert any(p.is_file() and p.stat().st_size for p in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/jane/scan.png: cannot be decoded", "(path): cannot be decoded"),
        (r"C:\Users\jane\scan.png is gone", "(path) is gone"),
        ("at http://gpu7:8000/v1, tried 3 times", "at (address), tried 3 times"),
        ("openai/x@http://gpu7:8000/v1@ab12", "openai/x@(address)@ab12"),
        ("~/data/x.csv", "(path)"),
        ("../data/x.csv", "(path)"),
        ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-2B-Instruct"),
        ("yes/no, n/a, 3/4, and/or, 1/2/2026", "yes/no, n/a, 3/4, and/or, 1/2/2026"),
        ("image.jpg", "image.jpg"),
        (Said("/home/jane/scan.png"), "/home/jane/scan.png"),
    ],
)
def test_system_text(text: str, shown: str) -> None:
    assert Share([]).words(text) == shown
