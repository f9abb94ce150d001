"""Every picture benchmark, read from a few rows in its published layout (tests/published.py).

What each holds is recorded in published.json: `python -m tests.test_benchmarks` writes it anew after a change of a spec.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness import answers, data, specs
from harness.records import Prediction
from harness.scoring.metrics import METRICS
from judges.exact import ExactJudge
from tests import published, published_text  # noqa: F401 (it adds its builders)
from tests.hub import Hub

GOLDEN = Path(__file__).with_name("published.json")
TASKS = sorted(published.BUILDERS)


def loaded(task: str, root: Path) -> data.LoadedTask:
    ((spec, path),) = specs.find(task)
    return data.load(spec, path, source="local", data_dir=published.write(task, root))


def held(task: data.LoadedTask) -> dict[str, Any]:
    """What is golden: counts, slices, clusters, and one row as it is asked."""
    first, card = task.samples[0], task.card
    return {
        "rows": card.rows,
        "images": card.images,
        "clusters": f"{card.clusters} by {card.cluster_of}",
        "forms": dict(sorted(Counter(s.reference.kind for s in task.samples).items())),
        "slices": {k: dict(sorted(Counter(s.slices.get(k, "") for s in task.samples).items())) for k in task.spec.slices},
        "first": {
            "prompt": task.spec.get_prompt().render(first.question),
            "images": len(first.images),
            "answers": list(first.reference.answers),
        },
    }


def said(sample_id: str, text: str) -> Prediction:
    return Prediction(
        sample_id=sample_id, text=text, reasoning=None, answer=answers.read(text).answer, finish="stop", prompt_tokens=1,
        completion_tokens=1,
    )  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_rows_slices_clusters_and_prompt_are_golden(task, tmp_path):
    assert held(loaded(task, tmp_path)) == json.loads(GOLDEN.read_text(encoding="utf-8"))[task]


@pytest.mark.parametrize("task", TASKS)
def test_the_reference_is_right_and_anothers_is_wrong(task, tmp_path):
    """By the exact judge and by the benchmark's first metric; another row's is one that the row does not accept."""
    found = loaded(task, tmp_path)
    metric = METRICS[found.spec.metrics[0]]
    right = [(s, said(s.id, s.reference.answers[0])) for s in found.samples]
    neighbours = [*found.samples[1:], found.samples[0]]
    others = [(s, said(s.id, t.reference.answers[0])) for s, t in zip(found.samples, neighbours, strict=True)]
    wrong = [(s, p) for s, p in others if p.text not in s.reference.answers]
    assert len(wrong) > len(right) / 2
    for pairs, score in ((right, 1), (wrong, 0)):
        assert [v.final for v in ExactJudge().judge(pairs)] == [score] * len(pairs)
        values = [v for v in metric([(p, s.reference) for s, p in pairs]) if v is not None]  # None: a question without choices
        assert set(values) == {float(score)}


@pytest.mark.parametrize("task", TASKS)
def test_validate_passes_on_every_split(task, tmp_path, command):
    published.write(task, tmp_path)
    code, out, err = command("tasks", "validate", task, "--data", "local", "--data-dir", tmp_path, "--json")
    assert code == 0, out + err
    reports = json.loads(out)
    ((spec, _),) = specs.find(task)
    assert [r["split"] for r in reports] == spec.splits
    assert not any(r["problems"] for r in reports)


def test_the_page_lists_what_is_installed(command):
    """docs/tasks.md, between its two marks: `harness tasks list --markdown`."""
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    code, table, _ = command("tasks", "list", "--markdown")
    assert code == 0
    assert f"<!-- harness tasks list --markdown -->\n{table}<!-- end -->\n" in page
    assert sum(line.startswith("| `") for line in table.splitlines()) == len(specs.catalog()) >= 30


def test_the_hubs_copy_is_read_alike(tmp_path):
    """A hub on this machine that serves the same files: what the YAMLs fetch is enough, and gives the same rows."""
    found = {task: spec for task in TASKS if (spec := specs.find(task)[0][0]).hub}
    repos = {s.hub.repo: published.write(t, tmp_path / s.hub.repo.replace("/", "-")) / s.local.folder for t, s in found.items()}
    pinned = {s.hub.repo: s.hub.revision for s in found.values() if s.hub.revision}
    with Hub(repos, pinned) as hub:
        done = subprocess.run(
            [sys.executable, "-m", "harness", "tasks", "validate", ",".join(found), "--data", "hub", "--json"],
            env=hub.env(tmp_path / "home"), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    reports = json.loads(done.stdout)
    assert [(r["task"], r["split"], r.get("error"), r["problems"]) for r in reports if not r["ok"]] == []
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    asked = {r["task"]: r for r in reports if r["split"] == found[r["task"]].split}
    assert {t: (r["rows"], r["images"], f"{r['clusters']} by {r['cluster_of']}") for t, r in asked.items()} == {
        t: (g["rows"], g["images"], g["clusters"]) for t, g in golden.items() if t in found
    }
    assert all(r["origin"] == f"{found[t].hub.repo}@{hub.commit(found[t].hub.repo)}" for t, r in asked.items())


def test_pictures_stand_where_the_question_has_them(tmp_path):
    sample = loaded("mmmu_medical", tmp_path).samples[4]
    assert sample.question == "Compare <image 1>. Which fits?\n(A) <image 2>\n(B) <image 3>"
    assert len(sample.images) == 3


def test_each_case_is_asked_with_all_its_pictures(tmp_path):
    samples = loaded("medthinkvqa", tmp_path).samples
    assert [[i.name for i in s.images] for s in samples][2] == [f"images/case02/{k}.jpg" for k in range(3)]


@pytest.mark.parametrize(("task", "rows", "closed", "polar"), [("slake_zh", 1033, 420, 348), ("slake_bilingual", 2094, 836, 703)])
def test_slakes_chinese_rows_as_they_were_published(archives, task, rows, closed, polar):
    """613 open and 420 closed Chinese rows, as lmms-eval counts them; English ones: 645 and 416."""
    ((spec, path),) = specs.find(task)
    samples = data.load(spec, path, source="local", data_dir=archives).samples
    assert len(samples) == rows == spec.rows["test"]
    assert sum(s.slices["answer_type"] == "CLOSED" for s in samples) == closed
    assert sum(s.reference.kind == "yesno" for s in samples) == polar


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = {task: held(loaded(task, Path(folder) / task)) for task in TASKS}
    GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
