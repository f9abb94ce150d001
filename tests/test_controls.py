"""Controls: rows without what they are about, and what a score owes to the picture."""

import base64
import json
import shutil
from collections import defaultdict

import pytest

from harness import controls
from harness.errors import UserError
from harness.runs import RunFolder
from tests.conftest import load
from tests.servers import FaultServer, completion


@pytest.fixture(scope="module")
def task():
    return load("slake", limit=120)


@pytest.mark.parametrize("name", ["blank-image", "shuffled-image", "question-only"])
def test_a_control_keeps_what_a_row_is(task, name):
    changed = controls.controlled(task, name)
    assert [s.id for s in changed.samples] == [s.id for s in task.samples]
    assert [s.reference for s in changed.samples] == [s.reference for s in task.samples]
    assert [s.slices for s in changed.samples] == [s.slices for s in task.samples]
    together = defaultdict(set)
    for before, after in zip(task.samples, changed.samples, strict=True):
        together[before.cluster].add(after.cluster)
    assert all(len(now) == 1 for now in together.values())
    assert len({c for now in together.values() for c in now}) == len(together), "rows of one picture stay one cluster"
    assert (changed.card.control, changed.card.control_of) == (name, task.card.fingerprint)
    assert changed.card.fingerprint != task.card.fingerprint
    assert changed.card.clusters == task.card.clusters


def test_blank_pictures_have_the_size_and_nothing_else(task):
    for before, after in zip(task.samples, controls.controlled(task, "blank-image").samples, strict=True):
        assert [i.size for i in after.images] == [i.size for i in before.images]
        assert all(i.open().getcolors() == [(i.size[0] * i.size[1], controls.GREY)] for i in after.images)


def test_shuffled_pictures_are_others_and_the_same_for_all_questions(task):
    seen = defaultdict(set)
    for before, after in zip(task.samples, controls.controlled(task, "shuffled-image", 3).samples, strict=True):
        seen[before.images[0].sha256].add(after.images[0].sha256)
    assert all(len(shown) == 1 and own not in shown for own, shown in seen.items())
    assert {s for shown in seen.values() for s in shown} == set(seen), "each is shown to somebody"
    again = controls.controlled(task, "shuffled-image", 4).card.fingerprint
    assert controls.controlled(task, "shuffled-image", 3).card.fingerprint != again


def test_without_pictures_no_place_is_left_for_them(task):
    row = task.samples[0].model_copy(update={"question": "Compare <image 1> with nothing."})
    (after,) = controls.question_only([row], 0)
    assert (after.images, after.question) == ((), "Compare with nothing.")


def test_what_cannot_be_is_refused(task):
    with pytest.raises(UserError, match="no such control"):
        controls.controlled(task, "blank")
    with pytest.raises(UserError, match="has no choices"):
        controls.controlled(task, "options-only")
    bare = controls.controlled(task, "question-only")
    with pytest.raises(UserError, match="no pictures to take away"):
        controls.controlled(bare, "blank-image")
    one = [s for s in task.samples if s.cluster == task.samples[0].cluster]
    with pytest.raises(UserError, match="show the same"):
        controls.shuffled(one, 0)


def test_options_alone(task):
    reference = task.samples[0].reference.model_copy(update={"answers": ("B",), "choices": ("CT", "", "MRI")})
    (after,) = controls.options_only([task.samples[0].model_copy(update={"reference": reference})], 0)
    assert (after.images, after.question) == ((), "A. CT\nC. MRI")


class Doctor:
    """A model on loopback that knows every row's answer: by picture and question, or (blind) by the question alone."""

    def __init__(self, task, blind):
        self.blind = blind
        self.known = {self.key(s.images[0].content, s.question): s.reference.answers[0] for s in task.samples}
        self.server = FaultServer()
        self.server.otherwise = self.reply

    def key(self, picture, question):
        return question if self.blind else (picture, question)

    def reply(self, body):
        said = body["messages"][-1]["content"]
        parts = [{"type": "text", "text": said}] if isinstance(said, str) else said
        text = next(p["text"] for p in parts if p["type"] == "text")
        url = next((p["image_url"]["url"] for p in parts if p["type"] == "image_url"), ",")
        picture = base64.b64decode(url.partition(",")[2])
        question = next((q for q in (k if self.blind else k[1] for k in self.known) if q in text), "")
        return completion(self.known.get(self.key(picture, question), "I cannot see it"))


@pytest.mark.parametrize("blind", [True, False], ids=["blind", "seeing"])
def test_a_blind_model_gains_nothing_and_a_seeing_one_does(task, tmp_path, command, blind):
    doctor = Doctor(task, blind)
    ask = ["run", "--model", "openai/m", "--api-base", doctor.server.base, "--tasks", "slake", "--data", "bundled"]
    ask += ["--limit", "120", "--prompt", "question", "--runs", tmp_path / "runs", "--quiet"]
    try:
        for more in ([], ["--control", "blank-image"], ["--control", "question-only"]):
            code, out, err = command(*ask, *more)
            assert code == 0, err
    finally:
        doctor.server.stop()
    assert "control        " in out or "control question-only" in out, "alone it stands in a table, and says what it is"
    code, out, _ = command("leaderboard", "--runs", tmp_path / "runs", "--json")
    (cell,) = json.loads(out)["cells"]  # controls are ranked nowhere
    gain, (low, high) = cell["metrics"]["visual gain"], cell["metric_limits"]["visual gain"]
    plain = next(RunFolder(p.parent) for p in tmp_path.glob("runs/*/*/card.json") if not RunFolder(p.parent).card().data.control)
    code, out, err = command("audit", "vision", plain.path, "--control", "blank-image,question-only", "--no-run", "--json")
    assert code == 0, err
    looks = {look["control"]: look for look in json.loads(out)}
    assert looks["blank-image"]["gain"]["value"] == gain
    parts = {part["value"]: part["gain"] for part in looks["blank-image"]["slices"] if part["slice"] == "form"}
    assert sum(part["n"] for part in parts.values()) == 120
    assert set(parts) <= {"open", "yes/no", "choice"}
    shown = command("leaderboard", "--runs", tmp_path / "runs")[1]
    if blind:
        assert (gain, low <= 0 <= high) == (0.0, True)
        assert "its visual gain may be 0" in shown
        assert "nothing shows that the pictures were used" in command("audit", "vision", plain.path, "--no-run")[1]
    else:
        assert low > 0.5
        assert "may be 0" not in shown
        assert looks["question-only"]["gain"]["p"] < 0.001


def test_several_answers_a_question_have_their_control_too(tmp_path, command):
    ask = ["run", "--model", "tiny", "--tasks", "slake", "--data", "bundled", "--limit", "6", "--runs", tmp_path, "--json"]
    ask += ["--max-new-tokens", "4", "--num-samples", "2", "--temperature", "0.7"]
    for more in ([], ["--control", "blank-image"]):
        assert command(*ask, *more)[0] == 0
    (cell,) = json.loads(command("leaderboard", "--runs", tmp_path, "--json")[1])["cells"]
    assert (cell["n"], "visual gain" in cell["metrics"]) == (12, True)


def test_an_audit_runs_what_is_missing(tmp_path, command):
    runs = tmp_path / "runs"
    ask = [
        "run",
        "--model",
        "tiny",
        "--tasks",
        "slake",
        "--data",
        "bundled",
        "--limit",
        "8",
        "--runs",
        runs,
        "--max-new-tokens",
        "8",
    ]
    assert command(*ask, "--json")[0] == 0
    (run,) = [p.parent for p in runs.glob("*/*/card.json")]
    code, out, err = command("audit", "vision", run, "--control", "question-only")
    assert code == 0, err
    assert "question-only" in out
    assert len([*runs.glob("*/*/card.json")]) == 2
    # beside its run it stands in no comparison, and nobody is asked to judge it
    other = run.parent.with_name("other")
    shutil.copytree(run.parent, other)
    code, out, err = command("compare", run.parent, other, "--json")
    assert code == 0, err
    assert json.loads(out)["comparisons"] == 1
    control = next(p.parent for p in run.parent.glob("*/card.json") if p.parent != run)
    code, _, err = command("compare", run, control)
    assert (code, "`harness audit vision` compares" in err) == (2, True)
    code, _, err = command("annotate", control, "--raters", "alice")
    assert (code, "only controls" in err) == (2, True)
    shutil.rmtree(other)
    code, out, err = command("audit", "vision", run, "--control", "blank-image", "--no-run")
    assert (code, "no control of it has verdicts of 'exact'" in err) == (2, True)
    code, _, err = command("audit", "vision", run, "--control", "blank")
    assert (code, "no such control" in err) == (2, True)
