"""Human evaluation: what is drawn, what is kept, who may read what; a server that is killed loses nothing it confirmed."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from harness.errors import RunError, UserError
from harness.runs import RunFolder
from judges.human import drawing
from judges.human.desk import Desk
from judges.human.site import app, guide
from judges.human.study import StudyFolder, by_place
from leaderboard.site.pictures import Pictures
from tests.run_folders import make_run, make_samples
from tests.servers import free_port

WORKTREE = Path(__file__).parents[1]


def two_runs(tmp_path, questions=120):
    samples = make_samples(questions, per_image=4)
    return [make_run(tmp_path / "runs", name, "10" * (questions // 2), samples=samples) for name in ("secret-a", "secret-b")]


def made(tmp_path, folders, raters=("alice", "bob"), **options):
    folder = StudyFolder(tmp_path / "runs" / ".annotations" / "k")
    folder.write(drawing.draw(folders, raters, **({"rows": 40} | options)))
    return folder


def test_the_draw_follows_from_the_seed_and_stands_for_all_rows(tmp_path):
    folders = two_runs(tmp_path)
    one, again = (drawing.draw(folders, ["alice", "bob"], rows=40, overlap=0.25, seed=3) for _ in range(2))
    assert one.items == again.items
    assert one.order == again.order
    assert drawing.draw(folders, ["alice", "bob"], rows=40, seed=4).items != one.items
    # the same text of two models is judged once, and counts for both
    assert len(one.items) == 40
    assert {tuple(sorted(item.weights)) for item in one.items} == {tuple(sorted(map(drawing.run_name, folders)))}
    assert sum(item.weights[drawing.run_name(folders[0])] for item in one.items) == pytest.approx(120)
    alice, bob = (set(one.order[r]) for r in ("alice", "bob"))
    assert len(alice & bob) == 10, "a quarter goes to both"
    assert alice | bob == set(range(40))
    assert one.order["alice"] != tuple(sorted(alice)), "each in an order of their own"
    for rater in one.order:
        repeats = one.repeats(rater)
        assert repeats
        assert all(place - first > len(one.order[rater]) / 4 for place, first in repeats.items())


def test_questions_about_one_image_come_together(tmp_path):
    study = drawing.draw(two_runs(tmp_path), ["alice"], rows=120, repeats=0)
    images = [study.items[i].cluster for i in study.order["alice"]]
    assert sum(a != b for a, b in itertools.pairwise(images)) == len(set(images)) - 1


def test_strata_are_drawn_alike_with_their_weights(tmp_path):
    (folder, _) = two_runs(tmp_path)
    samples = make_samples(120, per_image=4)
    for s in samples:
        s.slices["rare"] = "yes" if int(s.id[1:]) < 12 else "no"
    folder = make_run(tmp_path / "more", "c", "1" * 120, samples=samples)
    study = drawing.draw([folder], ["alice"], rows=40, sampling="stratified:rare")
    weights = Counter(item.weights[drawing.run_name(folder)] for item in study.items)
    assert weights == {1.0: 12, 108 / 28: 28}, "all the rare ones, the rest from the others"
    with pytest.raises(UserError, match="no slice 'rar'") as e:
        drawing.draw([folder], ["alice"], rows=4, sampling="stratified:rar")
    assert e.value.hint == "did you mean 'rare'?"
    with pytest.raises(UserError, match="takes two to disagree"):
        drawing.draw([folder], ["alice"], rows=4, sampling="disagreement")


def test_the_last_word_holds_and_undo_takes_it_back(tmp_path):
    folder = made(tmp_path, two_runs(tmp_path))
    runs = [RunFolder(p.parent) for p in (tmp_path / "runs").glob("*/*/card.json")]
    with Desk(folder, folder.study, runs) as desk:
        desk.say("alice", 1, 1, None, seconds=2.0)
        desk.say("alice", 1, 0, None, "slip", seconds=1.0)
        desk.say("alice", 2, "cannot", None)
        assert desk.undo("alice") == 2
        assert desk.undo("alice") == 1
        assert {p: label.final for p, label in desk.said("alice").items()} == {1: 1}
        desk.say("alice", 3, 0, None)
        assert (desk.undo("alice"), desk.undo("alice"), desk.undo("alice")) == (3, 1, None)
        desk.say("alice", 1, 1, None)
        desk.say("bob", 1, 0, None)
        assert desk.next("alice") == 2
        with pytest.raises(RunError, match="another process serves"), Desk(folder, folder.study, runs):
            pass
    with open(folder.labels_path("alice"), "a") as f:
        f.write('{"place": 2, "fin')  # killed while it was written
    with Desk(folder, folder.study, runs) as desk:
        assert {p: label.final for p, label in desk.said("alice").items()} == {1: 1}
        assert desk.seconds("alice") == 3.0
        desk.say("alice", 2, 0, None)
    assert {p: label.final for p, label in by_place(folder.lines("alice")).items()} == {1: 1, 2: 0}


def test_an_answer_that_changed_since_is_refused(tmp_path):
    folders = two_runs(tmp_path)
    folder = made(tmp_path, folders)
    rows = [json.loads(line) | {"text": "no"} for line in (folders[0].path / "predictions.jsonl").read_text().splitlines()]
    (folders[0].path / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(RunError, match="40 answers are no longer those that were drawn"):
        Desk(folder, folder.study, folders[:1])


@pytest.fixture
def client(tmp_path):
    from starlette.testclient import TestClient

    folder = made(tmp_path, two_runs(tmp_path))
    with Desk(folder, folder.study, [RunFolder(p.parent) for p in (tmp_path / "runs").glob("*/*/card.json")]) as desk:
        made_app = app.create(desk, Pictures())
        yield lambda **o: TestClient(made_app, base_url="http://127.0.0.1", **o), desk


def entered(client, rater):
    make, desk = client
    browser = make()
    assert browser.get(f"/{rater}/?token={desk.token(rater)}").status_code == 200
    return browser


HOME = {"origin": "http://127.0.0.1"}
RIGHT = {"final": 1, "reasoning": None}


def test_each_rater_has_a_door_of_their_own(client):
    make, desk = client
    assert desk.token("alice") != desk.token("bob")
    assert make().get("/alice/").status_code == 403
    assert make().get(f"/alice/?token={desk.token('bob')}").status_code == 403
    alice, bob = entered(client, "alice"), entered(client, "bob")
    assert alice.get("/bob/1").status_code == 403
    assert alice.post("/bob/1", json=RIGHT, headers=HOME).status_code == 403
    both = entered(client, "alice")  # one browser, two raters: a cookie is for its own folder alone
    both.get(f"/bob/?token={desk.token('bob')}")
    assert both.post("/alice/1", json=RIGHT, headers=HOME).status_code == 200
    assert both.post("/bob/1", json={"final": 0, "reasoning": None}, headers=HOME).status_code == 200
    assert (desk.said("alice")[1].final, desk.said("bob")[1].final) == (1, 0)
    assert bob.get("/bob/1").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (HOME, 200),
        ({}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.example", "host": "evil.example"}, 400),
        ({"origin": "http://127.0.0.1.evil.example"}, 403),
    ],
)
def test_nothing_is_written_for_another_website(client, headers, status):
    alice = entered(client, "alice")
    assert alice.post("/alice/1", json=RIGHT, headers=headers).status_code == status
    assert bool(client[1].said("alice")) == (status == 200)
    assert alice.post("/alice/undo", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"final": 2, "reasoning": null}', 400),
        (b'{"final": 1, "reasoning": null, "rater": "bob"}', 400),
        (b'{"final": 1, "reasoning": null, "seconds": 1e999}', 400),
        (b'{"final": 1, "reasoning": null, "comment": "' + b"x" * 11_000 + b'"}', 400),
        (b'{"final": 1, "reasoning": null, "comment": "' + b"x" * 70_000 + b'"}', 413),
    ],
)
def test_what_is_no_verdict_is_refused(client, body, status):
    alice = entered(client, "alice")
    assert alice.post("/alice/1", content=body, headers=HOME).status_code == status
    for place in ("0", "9999", "-1", "1e3"):
        assert alice.post(f"/alice/{place}", json=RIGHT, headers=HOME).status_code in (404, 405)
    assert client[1].said("alice") == {}


def test_a_rater_reads_no_models_name_and_nobody_elses_verdict(client):
    """Every address that the pages name, from the first one on, and some that they do not."""
    _, desk = client
    desk.say("bob", 1, 0, None, "BOBS COMMENT")
    alice = entered(client, "alice")
    todo = ["/alice/", *(f"/alice/{p}" for p in range(1, desk.places("alice") + 1))]
    todo += ["/", "/alice", "/bob/", "/bob/1", "/runs", "/alice/../bob/1", "/image.png", "/alice/1.0.png", "/alice/example.0.png"]
    seen: set[str] = set()
    while todo:
        path = todo.pop()
        if path in seen or path.startswith(("/static", "/annotate")):
            continue
        seen.add(path)
        answer = alice.get(path)
        said = answer.text if "image" not in answer.headers["content-type"] else ""
        said += path + str(answer.headers)
        for hidden in ("secret-a", "secret-b", "BOBS COMMENT", desk.token("bob"), "exact", *(i.pair for i in desk.study.items)):
            assert hidden not in said, path
        found = re.findall(r'(?:href|src)="([^"#]*)"', answer.text) if "html" in answer.headers["content-type"] else []
        todo += [urllib.parse.urljoin(f"http://x{path}", link).removeprefix("http://x") for link in found]
    assert len(seen) > desk.places("alice")


def test_the_guides_examples_are_rows_of_the_bundle():
    rows = guide.rows()
    assert [s.reference.answers[0] for s in rows] == ["Lung Cancer", "Cardiomegaly", "No"]
    assert all(s.reference.reasoning and s.images[0].size[0] > 100 for s in rows)


def test_wrong_options_are_said(command, tmp_path):
    (folder, _) = two_runs(tmp_path)
    for words, said in (
        (["--raters", "../x"], "'../x' cannot be a rater's name"),
        (["--raters", "a,A"], "names somebody twice"),
        (["--raters", ","], "names nobody"),
        (["--raters", "a", "--overlap", "120%"], "'120%' is not a share"),
        (["--raters", "a", "--sampling", "best"], "--sampling best: no such design"),
    ):
        code, _, err = command("annotate", folder.path, *words, "--no-open")
        assert code == 2
        assert said in err


def test_two_thousand_items_are_served_at_once(tmp_path):
    from starlette.testclient import TestClient

    samples = make_samples(2000, per_image=10)
    run = make_run(tmp_path / "runs", "m", "1" * 2000, samples=samples)
    folder = made(tmp_path, [run], ("alice",), rows=2000)
    with Desk(folder, folder.study, [run]) as desk:
        alice = TestClient(app.create(desk, Pictures()), base_url="http://127.0.0.1")
        alice.get(f"/alice/?token={desk.token('alice')}")
        for place in range(1, 400):
            desk.say("alice", place, 1, None)
        times = []
        for place in range(400, 420):
            start = time.perf_counter()
            assert alice.post(f"/alice/{place}", json=RIGHT, headers=HOME).json()["next"] == place + 1
            size = len(alice.get(f"/alice/{place + 1}").content)
            times.append(time.perf_counter() - start)
    assert sorted(times)[10] < 0.1, "a verdict kept and the next item shown"
    assert size < 20_000


class Served:
    """`harness annotate` in a process of its own."""

    def __init__(self, run: Path, port: int) -> None:
        words = ["annotate", str(run), "--raters", "alice", "--rows", "40", "--no-open", "--port", str(port)]
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(WORKTREE)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[1]
        self.process.stdout.readline()

    def post(self, what: str, body: dict[str, object]) -> None:
        base, _, token = self.address.partition("/?token=")
        origin = base.removesuffix("/alice")
        headers = {"Origin": origin, "Cookie": f"{app.COOKIE}={token}"}
        request = urllib.request.Request(base + what, json.dumps(body).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def killed(run: Path, times: int) -> None:
    """Judge without a pause while the server is killed, and look after each kill at what is on disk."""
    held: dict[int, object] = {}
    port, confirmed = free_port(), 0
    for k in range(times):
        server = Served(run, port)
        end = threading.Timer(0.011 * (k % 25), server.kill)
        try:
            for i in range(100_000):
                if i == 1:  # it is up
                    end.start()
                on_its_way = (1 + (17 * k + i) % 40, (k + i) % 2)
                server.post(f"/{on_its_way[0]}", {"final": on_its_way[1], "reasoning": None, "seconds": 0.1})
                held[on_its_way[0]] = on_its_way[1]
                confirmed += 1
        except OSError:
            server.process.wait()
        (folder,) = (run.parent.parent / ".annotations").iterdir()
        found = {p: label.final for p, label in by_place(StudyFolder(folder).lines("alice")).items()}
        assert found in (held, held | dict([on_its_way])), "all that was confirmed, and at most what was on its way"
        held = dict(found)
    assert confirmed > times


def test_a_killed_server_lost_nothing_it_confirmed(tmp_path):
    killed(two_runs(tmp_path)[0].path, 3)


@pytest.mark.slow
def test_fifty_kills_lose_nothing(tmp_path):
    killed(two_runs(tmp_path)[0].path, 50)
