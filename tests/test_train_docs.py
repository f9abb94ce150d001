"""The example trainer of docs/trainers.md, installed as a package would install it, found by name and trained."""

import json
import re
from pathlib import Path

import pytest

from harness import plugins

DOCS = Path(__file__).parents[1] / "docs" / "trainers.md"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The document's own Python and entry point, on the path with a package's metadata."""
    text = DOCS.read_text()
    (code,), (toml,) = (re.findall(rf"```{language}\n(.*?)```", text, re.S) for language in ("python", "toml"))
    assert len(code.split("class AnswersOnly")[1].splitlines()) <= 30
    site, info = tmp_path / "site", tmp_path / "site" / "answers_only-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "answers_only.py").write_text(code)
    name, target = re.search(r'^([\w-]+) = "(.+)"$', toml, re.M).groups()
    (info / "entry_points.txt").write_text(f"[harness.trainers]\n{name} = {target}\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: answers-only\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    return name


def test_the_example_is_found_trained_and_resumed(installed, tmp_path, capsys):
    from harness.cli.train import list_trainers, resume, train
    from harness.models import loading

    assert installed in plugins.available("trainers")
    list_trainers(json=True)
    assert installed in {t["name"] for t in json.loads(capsys.readouterr().out)}
    out = tmp_path / "ckpt"
    settings = ["max_steps=3", "save_steps=2", "batch_size=2", "dev_rows=2"]
    train(installed, "tiny", "slake_grounded", settings=settings, samples=6, out=out, data="bundled", device="cpu", quiet=True)
    assert loading.resolve(str(out)).trainer == installed
    assert [json.loads(line)["step"] for line in (out / "dev.jsonl").read_text().splitlines()] == [0, 2, 3]
    (out / "trained.json").unlink()
    resume(out / "checkpoint-2", quiet=True)
    assert (out / "trained.json").exists()


def test_the_presets_table_is_what_the_command_says():
    from trainers import recipe

    found = recipe.differences(recipe.presets())
    rows = {m[0]: m[1:] for m in re.findall(r"^\| (\w+) \| (.+?) \| (.+?) \| (.+?) \|$", DOCS.read_text(), re.M)}
    for key, values in found.items():
        shown = [f"r {v['r']}, alpha {v['alpha']}" if isinstance(v, dict) else "none" if v is None else v for v in values]
        for told, value in zip(rows[key], shown, strict=True):
            assert told == (value if isinstance(value, str) else json.dumps(value)) or float(told) == value


def test_every_reward_in_the_table_exists():
    from trainers import rewards

    table = DOCS.read_text().split("## Rewards")[1].split("## ")[0]
    named = re.findall(r"^\| `([^`]+)`", table, re.M)
    assert {n for n in named if "NAME" not in n and n != "package.module.function"} == {*rewards.PARTS, rewards.RESCALED}
