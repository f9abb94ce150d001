"""`harness tasks diff`: which rows two copies of a benchmark share, and how they differ."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.records import ImageRef, Reference, Sample
from tasks.difference import compare
from tests.conftest import load
from tests.published import png


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A peer's copy of VQA-RAD's test: pictures stored anew, other ids, rows left out, repeated and changed."""
    place, rows = tmp_path_factory.mktemp("copy"), []
    for i, s in enumerate(load("vqa_rad").samples):
        out = io.BytesIO()
        s.images[0].open().save(out, "PNG")
        question = s.question.upper() if i % 2 else f" {s.question}"
        answer = "something else" if i in (20, 21, 22) else s.reference.answers[0]
        rows.append({"n": f"copy-{i}", "image": {"bytes": out.getvalue(), "path": None}, "question": question, "answer": answer})
    del rows[:10]
    rows += [r | {"n": f"again-{i}"} for i, r in enumerate(rows[100:130])]
    rows.append(rows[0] | {"n": "new", "question": "What is new here?"})
    pq.write_table(pa.Table.from_pylist(rows), place / "rows.parquet")
    (place / "peer.yaml").write_text(
        "name: peer\ntitle: Peer\nlicense: x\nlocal:\n  splits: {test: rows.parquet}\n"
        "  columns: {id: n, image: image, question: question, answer: answer}\n"
    )
    return place / "peer.yaml"


def test_a_copy_is_told_apart_row_by_row(copy, command):
    code, out, err = command("tasks", "diff", "vqa_rad@bundled", copy, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["a"]["name"], found["a"]["rows"], found["b"]["name"], found["b"]["rows"]) == (
        "vqa_rad:test@bundled", 451, "peer:test@local", 472,
    )  # fmt: skip
    assert (found["both"], found["same_files"], len(found["only_a"]), len(found["only_b"])) == (441, 0, 10, 31)
    assert found["repeats"] == {"a": 0, "b": 30}
    assert [d["b"]["id"] for d in found["answers_differ"]] == ["copy-20", "copy-21", "copy-22"]
    assert [d["id"] for d in found["only_b"] if not d["id"].startswith(("again", "copy"))] == ["new"]


def test_it_is_said_in_words(copy, command):
    code, out, err = command("tasks", "diff", "vqa_rad@bundled", copy, "--show", "1")
    assert (code, err) == (0, "")
    assert "vqa_rad:test@bundled: 451 rows on 203 images, bundled-224px" in out
    assert "441 in both (441 by pictures that look the same, in other files)" in out
    assert "31 only in peer:test@local (30 ask again what a row in both asks)" in out
    assert "3 answers differ\n    rows " in out


def test_a_task_has_no_difference_from_itself(command):
    code, out, _ = command("tasks", "diff", "slake_grounded@bundled", "slake_grounded:test@bundled")
    assert code == 0
    assert "150 in both\n0 only in slake_grounded:test@bundled\n0 only in slake_grounded:test@bundled\n0 answers differ\n" in out


@pytest.mark.parametrize(
    ("side", "message", "hint"),
    [
        ("slake@bundeld", "'slake@bundeld': no source 'bundeld'", "did you mean 'bundled'?"),
        ("slake:tets@bundled", "task 'slake' has no split 'tets'", "did you mean 'test'?"),
        ("slak", "no task named 'slak'", "did you mean 'slake'?"),
        ("pathology", "'pathology' names 4 tasks", "diff takes one on each side"),
    ],
)
def test_what_cannot_be_compared_is_said(command, side, message, hint):
    code, _, err = command("tasks", "diff", side, "slake@bundled")
    assert code == 2
    assert message in err
    assert hint in err


def sample(name, number, question="Which?", answers=("a",), choices=None):
    image = ImageRef(f"{number}", data=png(number))
    return Sample(id=name, images=(image,), question=question, reference=Reference(answers=answers, choices=choices))


def test_letters_places_and_order_of_choices_do_not_matter():
    a = sample("a", 1, "<image 1> Which?\n(A) CT\n(B) MRI", ("(B)",), ("CT", "MRI"))
    b = sample("b", 1, "Which?\n(A) MRI\n(B) CT", ("(A)",), ("MRI", "CT"))
    c = sample("c", 1, "Which?\n(A) MRI\n(B) CT", ("(B)",), ("MRI", "CT"))
    same, other = compare([a], [b]), compare([a], [c])
    assert [len(x.both) for x in (same, other)] == [1, 1]
    assert [len(x.answers_differ) for x in (same, other)] == [0, 1]


def test_rows_are_matched_one_to_one_and_both_ways_alike():
    """Twice in A, three times in B, with an answer of its own: two in both, and the equal answers belong together."""
    a = [sample("a1", 1, answers=("x",)), sample("a2", 1, answers=("y",))]
    b = [sample("b1", 1, answers=("y",)), sample("b2", 1, answers=("z",)), sample("b3", 1, answers=("x",)), sample("b4", 90)]
    there, back = compare(a, b), compare(b, a)
    pairs = {(x.id, y.id) for x, y, _ in there.both}
    assert pairs == {("a1", "b3"), ("a2", "b1")} == {(y.id, x.id) for x, y, _ in back.both}
    assert [[r.id for r in side] for side in there.only] == [[], ["b2", "b4"]]
    assert (there.repeats, back.repeats) == ((0, 1), (1, 0))


def test_rows_without_pictures_are_matched_by_their_question():
    a, b = (Sample(id=i, images=(), question=q, reference=Reference(answers=("x",))) for i, q in (("1", "Why?"), ("2", "why")))
    assert len(compare([a], [b]).both) == 1
