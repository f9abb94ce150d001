"""Runs as arrays; an index that is never trusted over the JSONL; pages of rows."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import RunError, UserError
from harness.records import Verdict
from harness.runs import RunFolder
from leaderboard import index, reading, store
from leaderboard.browse import Browser, Filter
from leaderboard.reading import NONE
from leaderboard.table import cells, cells_of
from tests.run_folders import make_run, make_samples


def read_one(root: Path) -> reading.Run:
    runs, damaged = store.read([root])
    assert not damaged
    (run,) = runs
    return run


def test_a_run_is_a_few_arrays(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "110?.-", reasoning="10", truncated=1)
    run = read_one(tmp_path)
    assert run.asked.ids == ("q0", "q1", "q2", "q3", "q4", "q5")
    assert run.asked.clusters.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(run.asked.images) == 3
    assert run.finish.tolist() == [1, 0, 0, 0, 0, NONE], "the first was cut off, the last is not answered yet"
    (judged,) = run.judged
    assert (judged.judge, judged.version) == ("exact", "1")
    assert judged.final.tolist() == [1, 1, 0, NONE, NONE, NONE]
    assert judged.reasoning.tolist() == [1, 0, NONE, NONE, NONE, NONE]
    assert judged.missing == {3: "the judge gave no verdict"}, "rows that nobody judged are missing without a reason"


def shuffle(folder: RunFolder) -> None:
    path = folder.path / "predictions.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def repeat(folder: RunFolder) -> None:
    """Judged again: first without a verdict, then with one."""
    folder.add_verdicts("exact", "1", [Verdict(sample_id="q3", judge="exact", final=None, missing="timeout")])
    folder.add_verdicts("exact", "1", [Verdict(sample_id="q3", judge="exact", final=1)])


def tear(folder: RunFolder) -> None:
    with open(folder.verdict_path("exact", "1"), "a") as f:
        f.write('{"sample_id":"q5","judge":"exact","final":1}')  # whole, but the line is not ended: it may go on


def odd_keys(folder: RunFolder) -> None:
    """Another order of keys, blanks, and keys that we do not know."""
    path = folder.verdict_path("exact", "1")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({"new": [1, {"a": 2}], **dict(reversed(row.items()))}, indent=None) + "\n" for row in rows)
    )


@pytest.mark.parametrize("change", [shuffle, repeat, tear, odd_keys])
def test_order_repeats_and_odd_spelling_change_nothing(tmp_path: Path, change: Any) -> None:
    found = []
    for name in ("plain", "changed"):
        folder = make_run(tmp_path / name, "base", "110?.110?.")
        if name == "changed":
            change(folder)
        run = read_one(tmp_path / name)
        found.append((run.finish.tolist(), [(j.final.tolist(), j.reasoning.tolist(), j.missing) for j in run.judged]))
    if change is repeat:
        found[0][1][0][0][3] = 1
        del found[0][1][0][2][3]
    assert found[0] == found[1]


def spoil(path: Path, **values: Any) -> None:
    """Give the second row of the file these values."""
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = json.dumps(json.loads(lines[1]) | values) + "\n"
    path.write_text("".join(lines))


SPOILT_SAMPLES = [
    {"slices": [1]},
    {"slices": "abc"},
    {"slices": {"modality": ["x"]}},
    {"slices": {"modality": 5}},
    {"slices": {"modality": "\ud800"}},
    {"slices": {"\ud800": "CT"}},
    {"id": "\ud800"},
    {"cluster": "\ud800"},
]
SPOILT_VERDICTS = [
    {"final": None, "missing": 5},
    {"final": None, "missing": [1]},
    {"final": None, "missing": {"a": 1}},
    {"final": None, "missing": "\ud800"},
    {"final": "1"},
    {"final": True},
    {"final": 7},
    {"judge": 5},
    {"judge": "\ud800"},
]


@pytest.mark.parametrize("values", SPOILT_SAMPLES, ids=str)
def test_one_damaged_sample_hides_no_other_run(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = make_run(tmp_path, "bad", "110110")
    make_run(tmp_path, "good", "111111")
    spoil(folder.path / "samples.jsonl", **values)
    for _ in range(2):  # anew, and from the index
        found, damaged = cells_of(store.find([tmp_path]))
        assert [c.model for c in found] == ["good"]
        assert [(Path(d.path).parent.name, d.reason) for d in damaged] == [("bad", "samples.jsonl:2: damaged line")]


@pytest.mark.parametrize("values", SPOILT_VERDICTS, ids=str)
def test_one_damaged_verdict_sets_its_file_aside_and_nothing_else(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = make_run(tmp_path, "bad", "110110")
    folder.add_verdicts("other", "1", [Verdict(sample_id="q0", judge="other", final=1)])
    make_run(tmp_path, "good", "111111")
    spoil(folder.verdict_path("exact", "1"), **values)
    for _ in range(2):
        found, damaged = cells_of(store.find([tmp_path]))
        assert {(c.model, c.judge) for c in found} == {("bad", "other"), ("good", "exact")}
        assert [d.reason for d in damaged] == ["exact@1.jsonl:2: damaged line"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "exact@1.jsonl:1: damaged line"),
        ("", "exact@1.jsonl:1: damaged line"),
        ('{"sample_id":"q0","judge":"exact","final":1,}', "exact@1.jsonl:1: damaged line"),
        ('{"sample_id":5,"judge":"exact","final":1}', "exact@1.jsonl:1: damaged line"),
        ('{"sample_id":"q0","judge":"exact","final":1.0}', "exact@1.jsonl:1: damaged line"),
        ('{"sample_id":"q0","judge":"exact","final":1} {}', "exact@1.jsonl:1: damaged line"),
        ('{"sample_id":"q0","judge":"exact",\n"final":1}', "exact@1.jsonl:1: damaged line"),
        ('{"sample_id":"q9","judge":"exact","final":1}', "exact@1.jsonl: lines about samples that were never asked: 1"),
    ],
    ids=[
        "deep",
        "blank",
        "trailing comma",
        "an id that is a number",
        "no whole number",
        "two on a line",
        "two lines",
        "a stranger",
    ],
)
def test_a_damaged_line_has_its_number(tmp_path: Path, line: str, reason: str) -> None:
    folder = make_run(tmp_path, "bad", "110110")
    make_run(tmp_path, "good", "111111")
    path = folder.verdict_path("exact", "1")
    path.write_text(line + "\n" + path.read_text())
    runs, damaged = store.read([tmp_path])
    assert [len(run.judged) for run in runs] == [0, 1]
    assert [d.reason for d in damaged] == [reason]


def test_bytes_that_are_no_text_are_damage_wherever_they_stand(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "110110")
    path = folder.verdict_path("exact", "1")
    path.write_bytes(path.read_bytes().replace(b'"usage"', b'"\xff"', 1))
    assert [d.reason for d in store.read([tmp_path])[1]] == ["exact@1.jsonl:1: damaged line"]


def test_what_json_leaves_open(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "......")
    rows = ['"sample_id":"q0","final":0,"final":1', '"sample_id":"q1","final":null,"missing":""']
    folder.verdict_path("exact", "1").parent.mkdir()
    folder.verdict_path("exact", "1").write_text("".join(f'{{"judge":"exact",{row}}}\n' for row in rows))
    (judged,) = read_one(tmp_path).judged
    assert judged.final.tolist() == [1, NONE, NONE, NONE, NONE, NONE], "of two values of a key the later one holds"
    assert judged.missing == {1: "no reason given"}


def test_verdicts_that_are_no_folder_are_reported(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "......")
    store.read([tmp_path])
    (folder.path / "verdicts").write_text("in the way")
    runs, damaged = store.read([tmp_path])
    assert len(runs) == 1
    assert [d.reason for d in damaged] == ["verdicts: Not a directory"]


@pytest.mark.parametrize("place", ["loop", "bad/loop", "bad/slake/verdicts"])
def test_a_link_that_leads_to_itself_hides_no_run(tmp_path: Path, place: str) -> None:
    make_run(tmp_path, "good", "111111")
    bad = make_run(tmp_path, "bad", "......")
    loop = tmp_path / place if place != "bad/slake/verdicts" else bad.path / "verdicts"
    loop.symlink_to(loop.name)
    for _ in range(2):
        runs, damaged = store.read([tmp_path])
        assert {run.card.model.name for run in runs} == {"good", "bad"}
        assert [d.reason for d in damaged] == (["verdicts: Too many levels of symbolic links"] if loop.name == "verdicts" else [])


@pytest.mark.parametrize("closed", ["model", "run", "verdicts"])
def test_a_folder_that_may_not_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    make_run(tmp_path, "good", "111111")
    bad = make_run(tmp_path, "bad", "111111")
    folder = {"model": bad.path.parent, "run": bad.path, "verdicts": bad.path / "verdicts"}[closed]

    def closed_to_us(call: Any) -> Any:
        """As for those who are not root, whom nothing stops."""

        def ask(path: Any, *args: Any, **kwargs: Any) -> Any:
            given = isinstance(path, str | os.PathLike)
            if given and (folder in Path(path).parents or (Path(path) == folder and call is not stat)):
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *args, **kwargs)

        return ask

    stat = os.stat
    for module, name in ((os, "listdir"), (os, "scandir"), (os, "stat"), (io, "open")):
        monkeypatch.setattr(module, name, closed_to_us(getattr(module, name)))
    for _ in range(2):
        runs, damaged = store.read([tmp_path])
        assert len(runs) == (2 if closed == "verdicts" else 1)
        assert [(Path(d.path), d.reason.endswith("Permission denied")) for d in damaged] == [(folder, True)]


def test_a_copy_of_verdicts_under_another_name_does_not_count_twice(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "110110")
    path = folder.verdict_path("exact", "1")
    shutil.copy(path, path.with_name("exact-copy@1.jsonl"))
    with open(path.with_name("mixed@1.jsonl"), "w") as f:
        f.write('{"sample_id":"q0","judge":"mixed","final":1}\n{"sample_id":"q1","judge":"exact","final":1}\n')
    for _ in range(2):
        runs, damaged = store.read([tmp_path])
        assert [judged.path for judged in runs[0].judged] == [path]
        assert [Path(d.path).name for d in damaged] == ["exact-copy@1.jsonl", "mixed@1.jsonl"]
        assert "are not all of the judge" in damaged[0].reason


def test_the_folder_of_one_model_is_not_taken_for_no_runs_at_all(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "110110")
    for root in (folder.path, folder.path.parent):
        with pytest.raises(UserError, match="of one model or one run"):
            store.find([root])


def test_settings_that_are_no_number_are_damage(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "110110")
    folder.card_path.write_text(folder.card_path.read_text().replace('"temperature": 0.0', '"temperature": NaN'))
    assert [Path(d.path) for d in store.read([tmp_path])[1]] == [folder.path]
    assert "temperature" in store.read([tmp_path])[1][0].reason


def test_names_that_mean_something_to_a_glob_or_to_sql(tmp_path: Path) -> None:
    root = tmp_path / "it's [a] *run*?"
    make_run(root, "base", "110110")
    for _ in range(2):
        assert read_one(root).judged[0].final.tolist() == [1, 1, 0, 1, 1, 0]
    browser = Browser([read_one(root)])
    assert browser.page(Filter(verdict="wrong")).total == 2


# -- the index --------------------------------------------------------------------------------------------------------


def test_the_second_reading_comes_from_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "base", "110?1-", reasoning="1")
    before = read_one(tmp_path)
    assert {p.name for p in (tmp_path / ".index").iterdir()} == {"asked.parquet", "runs.parquet"}
    monkeypatch.setattr(reading, "read", lambda folders: pytest.fail("read again") if folders else ([], []))
    after = read_one(tmp_path)
    assert after.asked.ids == before.asked.ids
    assert after.asked.images == before.asked.images
    assert {n: (v, c.tolist()) for n, (v, c) in after.asked.slices.items()} == {"modality": (("CT", "MRI"), [0, 0, 0, 1, 1, 1])}
    assert after.finish.tolist() == before.finish.tolist()
    assert after.judged[0].final.tolist() == before.judged[0].final.tolist()
    assert after.judged[0].missing == before.judged[0].missing == {3: "the judge gave no verdict"}


def test_what_changes_is_read_again_and_what_goes_is_forgotten(tmp_path: Path) -> None:
    a, b = make_run(tmp_path, "a", "110110"), make_run(tmp_path, "b", "111111")
    store.read([tmp_path])
    a.add_verdicts("exact", "1", [Verdict(sample_id="q0", judge="exact", final=0)])
    b.add_verdicts("strict", "1", [Verdict(sample_id="q0", judge="strict", final=0)])
    runs, _ = store.read([tmp_path])
    assert [[j.final.tolist()[0] for j in run.judged] for run in runs] == [[0], [1, 0]]
    for path in sorted(b.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    b.path.rmdir()
    make_run(tmp_path, "c", "000000")
    assert [r.card.model.name for r in store.read([tmp_path])[0]] == ["a", "c"]
    assert {row["run"].split("/")[0] for row in index._rows(tmp_path, "runs", index._RUNS)} == {"a", "c"}


def test_a_run_folder_elsewhere_gets_no_index_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "runs", "base", "110110")
    copy = tmp_path / "downloads" / "copy"
    shutil.copytree(folder.path, copy)
    assert cells_of([copy])[0][0].n == 6
    assert not list(tmp_path.rglob(".index"))
    monkeypatch.chdir(folder.path.parent)
    assert cells_of([Path(folder.path.name)])[0][0].n == 6
    assert [p.parent for p in tmp_path.rglob(".index")] == [tmp_path / "runs"], "also when it is named from within"


def test_same_size_and_same_time_is_still_noticed(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "111111")
    read_one(tmp_path)
    path = folder.verdict_path("exact", "1")
    was = path.stat()
    path.write_text(path.read_text().replace('"final":1', '"final":0'))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert path.stat().st_size == was.st_size
    assert read_one(tmp_path).judged[0].final.tolist() == [0] * 6


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_form(path: Path) -> None:
    import duckdb

    duckdb.execute(f"COPY (SELECT 1 AS something) TO '{path}' (FORMAT parquet)")


@pytest.mark.parametrize("name", ["runs.parquet", "asked.parquet"])
@pytest.mark.parametrize("damage", [cut, empty, other_form, Path.unlink])
def test_an_index_that_cannot_be_used_is_made_anew(tmp_path: Path, name: str, damage: Any) -> None:
    make_run(tmp_path, "base", "110110")
    read_one(tmp_path)
    damage(tmp_path / ".index" / name)
    assert read_one(tmp_path).judged[0].final.tolist() == [1, 1, 0, 1, 1, 0]
    assert len(index._rows(tmp_path, "runs", index._RUNS)) == 1


def test_a_damaged_run_is_not_kept(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "110110")
    path = folder.verdict_path("exact", "1")
    whole = path.read_text()
    path.write_text(whole + "nothing\n")
    for _ in range(2):
        assert "exact@1.jsonl:7: damaged line" in store.read([tmp_path])[1][0].reason
    path.write_text(whole)
    assert read_one(tmp_path).judged[0].final.sum() == 4


def test_where_nothing_can_be_written_runs_are_read_all_the_same(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, "base", "110110")
    (tmp_path / ".index").write_text("in the way")  # also for root, who may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))
    for _ in range(2):
        assert Browser([read_one(tmp_path)]).page(Filter(verdict="right")).total == 4
    assert not (folder.path / ".index").exists()
    assert not list(Path(tempfile.gettempdir()).glob("harness-rows-*")), "questions and answers are not left lying about"


def _read_often(root: str, times: int, wrong: Any) -> None:
    for _ in range(times):
        runs, damaged = store.read([Path(root)])
        for run in runs:
            judged = run.judged[0].final
            if not np.isin(judged, (NONE, 1)).all() or (judged != NONE).sum() % 2:
                wrong.value += 1
        wrong.value += len(damaged)


def test_several_processes_read_while_a_run_is_written(tmp_path: Path) -> None:
    """Verdicts arrive two at a time, all right: nobody sees a damaged run, a wrong verdict, or half of a pair."""
    samples = make_samples(30)
    folder = make_run(tmp_path, "base", "." * 30, samples=samples)
    folder.add_verdicts("exact", "1", [Verdict(sample_id=s.id, judge="exact", final=1) for s in samples[:2]])
    context = multiprocessing.get_context("spawn")
    wrong = context.Value("i", 0)
    readers = [context.Process(target=_read_often, args=(str(tmp_path), 5, wrong)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for k in range(2, 30, 2):
        folder.add_verdicts("exact", "1", [Verdict(sample_id=s.id, judge="exact", final=1) for s in samples[k : k + 2]])
        store.read([tmp_path])
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert wrong.value == 0
    assert cells([tmp_path])[0][0].n == 30
    assert not list((tmp_path / ".index").glob("*.tmp"))


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> tuple[Browser, Path, Path]:
    """Two runs on the same rows; the first one has a second judge, who disagrees on q0."""
    a = make_run(tmp_path, "a", "1101?.110-10", reasoning="10")
    b = make_run(tmp_path, "b", "010111110010")
    strict = [Verdict(sample_id="q0", judge="strict", final=0, rationale="The Effusion is on the LEFT")]
    a.add_verdicts("strict", "2", [*strict, Verdict(sample_id="q1", judge="strict", final=1)])
    return Browser(store.read([tmp_path])[0]), a.path, b.path


def ids(browser: Browser, **wanted: Any) -> list[str]:
    return [row.id for row in browser.page(Filter(**wanted)).rows]


def test_a_page_holds_rows_with_prediction_and_verdicts(two: tuple[Browser, Path, Path]) -> None:
    browser, a, _ = two
    page = browser.page(Filter(run=a), offset=0, limit=2)
    assert (page.total, page.offset, [r.row for r in page.rows]) == (12, 0, [0, 1])
    row = page.rows[0]
    assert (row.run, row.id, row.question, row.reference.answers, row.images) == (a, "q0", "Question 0?", ("yes",), ("0.jpg",))
    assert (row.slices, row.resolution) == ({"modality": "CT"}, "224 px")
    assert row.prediction == RunFolder(a).predictions()["q0"]
    given = {f"{judge}@{version}": RunFolder(a).verdicts(judge, version)["q0"] for judge, version in RunFolder(a).judges()}
    assert row.verdicts == given
    assert set(given) == {"exact@1", "strict@2"}
    assert browser.sample(a, "q9").prediction is None, "not answered yet"
    assert [r.id for r in browser.samples([(a, "q7"), (a, "q2")])] == ["q7", "q2"]


def test_pages_follow_each_other_over_all_runs(two: tuple[Browser, Path, Path]) -> None:
    browser, a, b = two
    pages = [browser.page(Filter(), offset, 5) for offset in range(0, 25, 5)]
    assert {p.total for p in pages} == {24}
    seen = [(row.run, row.row) for p in pages for row in p.rows]
    assert seen == [(run, k) for run in (a, b) for k in range(12)]
    assert browser.page(Filter(), 100).rows == ()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"verdict": "right"}, ["q0", "q1", "q3", "q6", "q7", "q10"]),
        ({"verdict": "wrong"}, ["q2", "q8", "q11"]),
        ({"verdict": "missing"}, ["q4", "q5", "q9"]),
        ({"verdict": "wrong", "judge": "strict@2"}, ["q0"]),
        ({"slices": {"modality": "MRI"}, "verdict": "right"}, ["q6", "q7", "q10"]),
        ({"slices": {"modality": "PET"}}, []),
        ({"slices": {"organ": "lung"}}, []),
        ({"disagree": True}, ["q0"]),
        ({"text": "effusion is on the left"}, ["q0"]),
        ({"text": "QUESTION 1"}, ["q1", "q10", "q11"]),
        ({"text": "question 1", "verdict": "wrong"}, ["q11"]),
        ({"text": "100% 'no' such_thing"}, []),
        ({"task": "slake"}, [f"q{i}" for i in range(12)]),
        ({"task": "vqa_rad"}, []),
    ],
)
def test_filters(two: tuple[Browser, Path, Path], wanted: dict[str, Any], expected: list[str]) -> None:
    browser, a, _ = two
    assert ids(browser, run=a, **wanted) == expected


def test_flips_are_rows_that_both_have_a_verdict_on_and_not_the_same(two: tuple[Browser, Path, Path]) -> None:
    browser, a, b = two
    finals = [{i: v.final for i, v in RunFolder(f).verdicts("exact", "1").items()} for f in (a, b)]
    expected = [i for i in finals[0] if finals[0][i] is not None and finals[1][i] is not None and finals[0][i] != finals[1][i]]
    assert ids(browser, run=a, flips=b) == expected == ["q0"]
    assert ids(browser, run=a, flips=b, verdict="wrong") == []


def test_an_unknown_run_or_row_is_an_error(two: tuple[Browser, Path, Path]) -> None:
    browser, a, _ = two
    with pytest.raises(UserError, match="no such run"):
        browser.page(Filter(run=a.parent / "elsewhere"))
    with pytest.raises(UserError, match="no sample 'q99'"):
        browser.sample(a, "q99")


def test_a_verdict_is_never_shown_with_another_row(tmp_path: Path) -> None:
    """Of a line with half a surrogate pair DuckDB reads nothing, and of two ids the first: both would move the rows."""
    folder = make_run(tmp_path, "base", "101010")
    path = folder.path / "samples.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace("Question 1?", "Question \\ud800?"))
    assert [d.reason for d in store.read([tmp_path])[1]] == ["samples.jsonl:2: damaged line"]
    path.write_text(whole.replace('"id": "q1"', '"id": "other", "id": "q1"'))
    shown = Browser([read_one(tmp_path)]).page(Filter()).rows
    assert {row.id: row.verdicts["exact@1"].final for row in shown} == {"q0": 1, "q2": 1, "q3": 0, "q4": 1, "q5": 0}


def test_a_run_that_is_removed_takes_no_other_with_it(tmp_path: Path) -> None:
    gone, stays = (make_run(tmp_path, model, "1010") for model in ("gone", "stays"))
    runs, _ = store.read([tmp_path])
    shutil.rmtree(gone.path)
    assert [row.run for row in Browser(runs).samples([(folder.path, "q0") for folder in (gone, stays)])] == [stays.path]
    gone.path.mkdir()
    (gone.path / "samples.jsonl").touch()  # as when it begins anew
    with pytest.raises(RunError, match="no rows in it"):
        Browser(runs).samples([(gone.path, "q0")])


def test_the_rows_file_follows_the_jsonl_and_has_no_stale_sister(two: tuple[Browser, Path, Path], tmp_path: Path) -> None:
    browser, a, _ = two
    browser.page(Filter(run=a))
    (before,) = (a / ".index").glob("rows-*.parquet")
    RunFolder(a).add_verdicts("strict", "2", [Verdict(sample_id="q2", judge="strict", final=1, rationale="second thoughts")])
    again = Browser(store.read([tmp_path])[0])
    assert again.sample(a, "q2").verdicts["strict@2"].rationale == "second thoughts"
    (after,) = (a / ".index").glob("rows-*.parquet")
    assert before != after


def test_the_rows_file_can_be_asked_in_sql(two: tuple[Browser, Path, Path], tmp_path: Path) -> None:
    import duckdb

    browser, _, _ = two
    browser.prepare()
    wrong = "list_contains(list_transform(verdicts, lambda v: v.final), 0)"
    query = f"SELECT count(*), count_if({wrong}) FROM '{tmp_path}/*/*/.index/rows-*.parquet'"
    assert duckdb.execute(query).fetchone() == (24, 4 + 5)


def test_threads_share_a_browser(two: tuple[Browser, Path, Path]) -> None:
    browser, _, _ = two
    totals: list[int] = []
    threads = [
        threading.Thread(target=lambda text=text: totals.append(browser.page(Filter(text=text)).total))
        for text in ("question", "question 1") * 4
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(totals) == [6] * 4 + [24] * 4


def test_hostile_text_comes_back_as_it_was(tmp_path: Path) -> None:
    text = '</script><img src=x onerror=alert(1)>\u202e\'; DROP TABLE x; --\x00\n"quoted"'
    sample = make_samples(2)[0].model_copy(update={"question": text})
    folder = make_run(tmp_path, "base", "1", samples=[sample])
    folder.add_verdicts("exact", "1", [Verdict(sample_id="q0", judge="exact", final=0, rationale=text)])
    row = Browser(store.read([tmp_path])[0]).page(Filter(text="DROP TABLE")).rows[0]
    assert (row.question, row.verdicts["exact@1"].rationale) == (text, text)
