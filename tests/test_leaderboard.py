"""The leaderboard over real run folders: exact numbers, nothing missing counted as wrong, nothing damaged hiding the rest."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import UserError
from harness.records import GenerationArgs, Verdict
from harness.runs import RunFolder
from leaderboard import formats, store
from leaderboard.compare import compare, compare_all
from leaderboard.overview import overviews
from leaderboard.ranks import pairwise
from leaderboard.stats import holm, mean_interval, paired_difference
from leaderboard.table import NO_VALUE, Board, Cell, Filters, as_json, board, cells, cells_of, grouped
from leaderboard.terminal import render, render_overview
from tests.run_folders import make_run, make_samples


def only(runs: Path, **options: Any) -> Cell:
    found, damaged = cells([runs], **options)
    assert not damaged
    (cell,) = found
    return cell


def shown(found: list[Cell], width: int = 80, damaged: Any = ()) -> str:
    out = io.StringIO()
    render(found, Console(file=out, width=width), damaged)
    return out.getvalue()


def test_a_cell_holds_the_share_over_judged_rows_and_its_clustered_interval(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "110110011010")
    cell = only(tmp_path)
    expected = mean_interval([int(v) for v in "110110011010"], [i // 2 for i in range(12)])
    assert cell.value == 7 / 12
    assert (cell.low, cell.high, cell.method) == (expected.low, expected.high, expected.method)
    assert (cell.n, cell.clusters, cell.samples, cell.predicted) == (12, 6, 12, 12)
    assert (cell.coverage, cell.bound_low, cell.bound_high) == (1.0, 7 / 12, 7 / 12)
    assert (cell.missing, cell.missing_reasons, cell.finished, cell.ranked) == (0, {}, True, True)
    assert (cell.model, cell.trainer, cell.base, cell.task, cell.split) == ("base", None, "tiny", "slake", "test")
    assert (cell.judge, cell.judge_version, cell.slice, cell.reasoning) == ("exact", "1", None, None)


@pytest.mark.parametrize(("verdicts", "value"), [("1" * 12, 1.0), ("0" * 12, 0.0)])
def test_all_right_is_exactly_one_and_all_wrong_exactly_zero(tmp_path: Path, verdicts: str, value: float) -> None:
    make_run(tmp_path, "base", verdicts)
    cell = only(tmp_path)
    assert cell.value == value
    assert cell.high - cell.low > 0.2  # type: ignore[operator]


def test_a_missing_verdict_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "11?1?.001000")
    cell = only(tmp_path)
    assert cell.value == 4 / 9
    assert (cell.n, cell.missing, cell.coverage) == (9, 3, 9 / 12)
    assert (cell.bound_low, cell.bound_high) == (4 / 12, 7 / 12)
    assert cell.missing_reasons == {"the judge gave no verdict": 2, "not judged yet": 1}
    assert not cell.ranked, "below 98 % coverage"
    text = " ".join(shown([cell]).split())
    assert "base: not ranked, 9 of 12 judged; 33.3 if the other 3 were all wrong, 58.3 if all right" in text


def test_98_percent_judged_is_enough_to_be_ranked(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "base", "?" + "10" * 24 + "1")
    make_run(tmp_path / "b", "base", "?" + "10" * 24)
    assert (only(tmp_path / "a").coverage, only(tmp_path / "a").ranked) == (0.98, True)
    assert only(tmp_path / "b").ranked is False


def test_many_kinds_of_missing_are_counted_together(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "." * 12)
    folder.add_verdicts(
        "exact", "1", [Verdict(sample_id=f"q{i}", judge="exact", final=None, missing=f"request {min(i, 8)}") for i in range(12)]
    )
    reasons = only(tmp_path).missing_reasons
    assert reasons == {"request 8": 4, "request 0": 1, "request 1": 1, "request 2": 1, "request 3": 1, "other reasons": 4}


def test_an_unfinished_run_is_shown_with_what_it_has_and_not_ranked(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "1101--------", finished=False)
    make_run(tmp_path, "sft", "110000000001", finished=True)
    found, damaged = cells([tmp_path])
    assert not damaged
    assert [(c.model, c.ranked) for c in found] == [("sft", True), ("base", False)], "ranked ones come first"
    assert (found[1].n, found[1].predicted, found[1].samples, found[1].value) == (4, 4, 12, 0.75)
    assert found[1].missing_reasons == {"not answered yet": 8}
    assert "not ranked, 4 of 12 answered so far" in shown(found)


def test_a_card_marked_finished_without_all_predictions_is_not_finished(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "11011010101-")
    assert (only(tmp_path).finished, only(tmp_path).ranked) == (False, False)


def test_a_run_without_verdicts_is_shown_as_not_judged(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "." * 12)
    cell = only(tmp_path)
    assert (cell.value, cell.low, cell.high, cell.judge, cell.n, cell.predicted) == (None, None, None, None, 0, 12)
    assert (cell.bound_low, cell.bound_high, cell.ranked) == (0.0, 1.0, False)
    assert "not judged" in shown([cell])


def test_a_judge_that_has_only_just_begun_is_named_by_its_file(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "." * 12)
    folder.add_verdicts("exact", "1", [])
    assert (only(tmp_path).judge, only(tmp_path).judge_version, only(tmp_path).value) == ("exact", "1", None)


def test_slices_are_cells_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "111011000?00")
    found, _ = cells([tmp_path], slice_by="modality")
    assert [(c.slice, c.value, c.n, c.samples, c.coverage) for c in found] == [
        (("modality", "CT"), 5 / 6, 6, 6, 1.0),
        (("modality", "MRI"), 0.0, 5, 6, 5 / 6),
    ]
    assert [c.ranked for c in found] == [True, False]
    assert len(grouped(found)) == 1
    assert "modality" in shown(found)


def test_rows_without_the_slice_are_not_lost(tmp_path: Path) -> None:
    samples = make_samples()
    samples[0] = samples[0].model_copy(update={"slices": {}})
    make_run(tmp_path, "base", "1" * 12, samples=samples)
    found, _ = cells([tmp_path], slice_by="modality")
    assert {c.slice: c.n for c in found} == {("modality", NO_VALUE): 1, ("modality", "CT"): 5, ("modality", "MRI"): 6}


def test_slice_names_with_special_characters_are_found(tmp_path: Path) -> None:
    samples = [s.model_copy(update={"slices": {"a/b~c '\"": "x"}}) for s in make_samples()]
    make_run(tmp_path, "base", "1" * 12, samples=samples)
    assert only(tmp_path, slice_by="a/b~c '\"").slice == ("a/b~c '\"", "x")


def test_reasoning_and_truncation_have_their_own_shares(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "111111000000", reasoning="1101", truncated=3)
    cell = only(tmp_path)
    assert (cell.reasoning, cell.reasoning_n, cell.truncated) == (0.75, 4, 0.25)
    text = shown([cell])
    assert "75.0" in text
    assert "25.0" in text


def test_each_judge_version_stands_in_its_own_table(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "111111000000")
    folder.add_verdicts("exact", "2", [Verdict(sample_id=f"q{i}", judge="exact", final=1) for i in range(12)])
    found, _ = cells([tmp_path])
    assert [(c.judge, c.judge_version, c.value) for c in found] == [("exact", "1", 0.5), ("exact", "2", 1.0)]
    assert len(grouped(found)) == 2
    assert only(tmp_path, judges=["exact@2"]).value == 1.0
    assert len(cells([tmp_path], judges=["exact"])[0]) == 2


@pytest.mark.parametrize(
    "change", [{"fingerprint": "other rows"}, {"prompt": "reasoning"}, {"task": "vqa_rad"}, {"split": "train"}, {"version": "2"}]
)
def test_what_cannot_be_compared_is_never_in_one_table(tmp_path: Path, change: dict[str, str]) -> None:
    make_run(tmp_path, "base", "111111000000")
    make_run(tmp_path, "sft", "111111000000", **change)
    make_run(tmp_path, "grpo", "101111000000")
    groups = grouped(cells([tmp_path])[0])
    assert sorted([c.model for c in g] for g in groups) == [["base", "grpo"], ["sft"]]
    assert shown(cells([tmp_path])[0]).count("images") == 2


def test_runs_with_the_same_model_name_are_told_apart(tmp_path: Path) -> None:
    samples = make_samples()
    make_run(tmp_path / "a", "base", "1" * 12, samples=samples)
    make_run(tmp_path / "b", "base", "0" * 12, samples=samples)
    (tmp_path / "b/base").rename(tmp_path / "a/again")
    key = next((tmp_path / "a/base").iterdir()).name.rpartition("-")[2]
    assert f"base [{key}]" in shown(cells([tmp_path / "a"])[0])


def test_several_folders_of_runs_are_read_and_overlapping_ones_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "base", "1" * 12)
    make_run(tmp_path / "b[1]*", "sft", "0" * 12)
    found, damaged = cells([tmp_path / "a", tmp_path / "b[1]*", tmp_path / "a/../a"])
    assert [c.model for c in found] == ["base", "sft"]
    assert not damaged


def test_given_run_folders_are_read_and_no_others(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "1" * 12)
    make_run(tmp_path, "sft", "0" * 12)
    found, _ = cells_of([folder.path])
    assert [c.model for c in found] == ["base"]


def test_an_empty_folder_has_no_cells_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    assert cells([tmp_path]) == ([], [])
    with pytest.raises(UserError, match="no such folder"):
        cells([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"tasks": ["slak"]}, "no run of task 'slak'", "did you mean 'slake'?"),
        ({"judges": ["exakt"]}, "no run of judge 'exakt'", "did you mean 'exact'?"),
        ({"slice_by": "modalty"}, "no run has a slice 'modalty'", "did you mean 'modality'?"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(tmp_path: Path, options: dict[str, Any], message: str, hint: str) -> None:
    make_run(tmp_path, "base", "1" * 12)
    with pytest.raises(UserError, match=message) as e:
        cells([tmp_path], **options)
    assert e.value.hint == hint


def test_only_the_wished_tasks(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "1" * 12)
    make_run(tmp_path, "base", "0" * 12, task="vqa_rad", fingerprint="other")
    assert only(tmp_path, tasks=["vqa_rad"]).value == 0.0


# -- damage -----------------------------------------------------------------------------------------------------------


def break_card(f: Path) -> None:
    (f / "card.json").write_text("{")


def remove_card(f: Path) -> None:
    (f / "card.json").unlink()


def garble(name: str) -> Any:
    def change(f: Path) -> None:
        lines = (f / name).read_bytes().splitlines(keepends=True)
        (f / name).write_bytes(b"".join([*lines[:4], b'{"sample_id": "q4", \xff\n', *lines[5:]]))

    return change


def unknown_finish(f: Path) -> None:
    path = f / "predictions.jsonl"
    path.write_text(path.read_text().replace('"stop"', '"halt"', 1))


def lose_rows(f: Path) -> None:
    path = f / "samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))


def lose_samples(f: Path) -> None:
    (f / "samples.jsonl").unlink()


def no_rows(f: Path) -> None:
    card = RunFolder(f).card()
    RunFolder(f).write_card(card.model_copy(update={"data": card.data.model_copy(update={"rows": 0})}))
    (f / "samples.jsonl").write_text("")


def foreign_prediction(f: Path) -> None:
    path = f / "predictions.jsonl"
    path.write_text(path.read_text().replace('"q3"', '"z3"'))


def folder_for_file(f: Path) -> None:
    (f / "predictions.jsonl").unlink()
    (f / "predictions.jsonl").mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (break_card, "card.json"),
        (remove_card, "card.json"),
        (garble("samples.jsonl"), "samples.jsonl:5: damaged line"),
        (garble("predictions.jsonl"), "predictions.jsonl:5: damaged line"),
        (unknown_finish, "predictions.jsonl:1: damaged line"),
        (lose_rows, "samples.jsonl: 5 rows, but card.json names 12"),
        (lose_samples, "samples.jsonl: 0 rows, but card.json names 12"),
        (no_rows, "samples.jsonl: no rows"),
        (foreign_prediction, "predictions.jsonl: lines about samples that were never asked: 1"),
        (folder_for_file, "predictions.jsonl"),
    ],
)
def test_a_damaged_run_is_reported_and_hides_nothing_else(tmp_path: Path, damage: Any, reason: str) -> None:
    make_run(tmp_path, "base", "111111000000")
    broken = make_run(tmp_path, "broken", "1" * 12)
    make_run(tmp_path, "sft", "1" * 12)
    damage(broken.path)
    found, damaged = cells([tmp_path])
    assert [(c.model, c.value) for c in found] == [("sft", 1.0), ("base", 0.5)]
    assert [d.path for d in damaged] == [str(broken.path)]
    assert reason in damaged[0].reason
    assert "Damaged" in shown(found, damaged=damaged)


@pytest.mark.parametrize("line", ["nothing", "5", '{"sample_id": "q1", "judge": "strict", "final": 0.5}', '{"final": 1}'])
def test_a_damaged_judge_hides_only_its_own_verdicts(tmp_path: Path, line: str) -> None:
    folder = make_run(tmp_path, "base", "111111000000")
    folder.add_verdicts("strict", "1", [Verdict(sample_id="q0", judge="strict", final=0)])
    with open(folder.verdict_path("strict", "1"), "a") as f:
        f.write(line + "\n")
    found, damaged = cells([tmp_path])
    assert [(c.judge, c.value) for c in found] == [("exact", 0.5)]
    assert [d.path for d in damaged] == [str(folder.verdict_path("strict", "1"))]
    assert "strict@1.jsonl:2: damaged line" in damaged[0].reason


@pytest.mark.parametrize("tail", ['{"sample_id": "q12", "jud', Verdict(sample_id="q0", judge="exact", final=0).model_dump_json()])
def test_a_torn_last_line_is_left_out_as_when_resuming(tmp_path: Path, tail: str) -> None:
    folder = make_run(tmp_path, "base", "1" * 12)
    with open(folder.verdict_path("exact", "1"), "a") as f:
        f.write(tail)
    assert only(tmp_path).value == 1.0
    assert all(v.final == 1 for v in folder.verdicts("exact", "1").values())


def test_a_later_verdict_replaces_an_earlier_one_and_is_not_counted_twice(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "?" + "1" * 11)
    folder.add_verdicts("exact", "1", [Verdict(sample_id="q0", judge="exact", final=0)])
    cell = only(tmp_path)
    assert (cell.n, cell.value, cell.missing) == (12, 11 / 12, 0)


def test_a_hostile_model_name_is_only_text(tmp_path: Path) -> None:
    make_run(tmp_path, "[red]x[/red]\x1b[2J", "1" * 12)
    text = shown(cells([tmp_path])[0])
    assert "[red]x[/red]\N{REPLACEMENT CHARACTER}[2J" in text
    assert "\x1b" not in text


def test_the_table_fits_80_columns_with_every_column_shown(tmp_path: Path) -> None:
    name = "a-rather-long-model-name-with-its-base-Qwen2-VL-2B"
    make_run(tmp_path, name, "1?1011000000", reasoning="10", truncated=2)
    make_run(tmp_path, "sft", "111011000000")
    text = shown(cells([tmp_path])[0])
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text, "nothing is cut"
    for title in ("trainer", "score", "interval", "images", "judged", "cut", "reason-"):
        assert title in text


def test_json_is_the_cells_and_the_damage(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "110110011010")
    remove_card(make_run(tmp_path, "broken", "1" * 12).path)
    found, damaged = cells([tmp_path])
    document = json.loads(json.dumps(as_json(found, damaged), allow_nan=False))
    assert [c["value"] for c in document["cells"]] == [7 / 12]
    assert Cell.model_validate(document["cells"][0]) == found[0]
    assert document["damaged"][0]["path"] == damaged[0].path


# -- two runs ---------------------------------------------------------------------------------------------------------


def test_compare_pairs_the_rows_that_were_judged_in_both(tmp_path: Path) -> None:
    a = make_run(tmp_path, "sft", "1111110?1100")
    b = make_run(tmp_path, "base", "1001?1000000")
    c = compare(a.path, b.path, "exact", "1")
    assert (c.n, c.samples, c.clusters) == (10, 12, 6)
    assert (c.value_a, c.value_b) == (7 / 10, 3 / 10)
    assert c.difference == pytest.approx(0.4)
    assert (c.only_a, c.only_b) == (("q1", "q2", "q8", "q9"), ())
    assert c.p == pytest.approx(2 / 2**3), "the sums of three images, flipped in every way"
    assert c.low < c.difference < c.high
    assert c.sentence() == (
        f"On slake, sft is right 40.0 points more often than base (95 % interval {100 * c.low:+.1f} to {100 * c.high:+.1f}; "
        "p = 0.250 by exact cluster sign flip; 10 of 12 questions on 6 images, the other 2 not judged in both). "
        "This may be chance."
    )


def test_compare_of_a_run_with_itself_is_zero(tmp_path: Path) -> None:
    a = make_run(tmp_path, "sft", "111111000000").path
    c = compare(a, a, "exact", "1")
    assert (c.difference, c.p, c.only_a, c.only_b) == (0.0, 1.0, (), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "other"}, "different data"),
        ({"prompt": "reasoning"}, "prompt question against reasoning"),
        ({"version": "2"}, "no verdicts of exact@1"),
        ({"verdicts": "?" * 12}, "no row that exact@1 has judged in both"),
    ],
)
def test_compare_refuses_what_cannot_be_compared(tmp_path: Path, change: dict[str, str], message: str) -> None:
    a = make_run(tmp_path, "sft", "111111000000")
    b = make_run(tmp_path, "base", change.pop("verdicts", "111111000000"), **change)
    with pytest.raises(UserError, match=message):
        compare(a.path, b.path, "exact", "1")


def test_prompts_are_compared_when_that_is_asked_for(tmp_path: Path) -> None:
    a = make_run(tmp_path, "sft", "111111000000")
    b = make_run(tmp_path, "sft", "011111000000", prompt="reasoning")
    assert compare(a.path, b.path, "exact", "1", across_prompts=True).only_a == ("q0",)


# -- ranks, models x tasks, filters ------------------------------------------------------------------------------------


def many(share: float, seed: int, rows: int = 240) -> str:
    """Verdicts with this share right, the same easy rows right in every run."""
    return "".join("1" if (i * 7919 + 13) % rows / rows < share + 0.02 * ((i + seed) % 3 - 1) else "0" for i in range(rows))


def test_a_rank_is_the_places_that_real_differences_leave_open(tmp_path: Path) -> None:
    for model, share in (("best", 0.9), ("good", 0.6), ("same", 0.6), ("worst", 0.2)):
        make_run(tmp_path, model, many(share, len(model)))
    found, _ = cells([tmp_path])
    assert {c.model: c.rank for c in found} == {"best": (1, 1), "good": (2, 3), "same": (2, 3), "worst": (4, 4)}
    assert re.search(r"good.* 2–3", shown(found))
    assert re.search(r"best.* 1 ", shown(found))


def test_pairwise_p_values_are_those_of_the_paired_difference() -> None:
    """For all pairs at once as for each alone: missing verdicts, nearly equal models, equal ones, single rows, uneven images."""
    rng = np.random.default_rng(3)
    for each in ([5] * 40, [1] * 40, [2] * 30 + [30] * 10, [1] * 39 + [60]):
        clusters = np.repeat(np.arange(40), each).astype(np.int32)
        base = rng.random(len(clusters)) < np.repeat(rng.random(40), each)
        final = np.stack([np.where(rng.random(len(clusters)) < flip, ~base, base) for flip in (0, 0, 0.01, 0.1, 0.4)]).astype(
            np.int8
        )
        final[rng.random(final.shape) < 0.02] = -1
        differences, p = pairwise(final, clusters)
        for i, j in itertools.combinations(range(5), 2):
            both = (final[i] >= 0) & (final[j] >= 0)
            alone = paired_difference(final[i][both].tolist(), final[j][both].tolist(), clusters[both].tolist())
            assert differences[i, j] == pytest.approx(alone.value, abs=1e-12)
            assert p[i, j] == p[j, i] == pytest.approx(alone.p, abs=1e-9)


def test_sixty_models_with_a_question_an_image_are_compared_by_mcnemars_test() -> None:
    final = (np.random.default_rng(4).random((60, 200)) < np.linspace(0.3, 0.8, 60)[:, None]).astype(np.int8)
    _, p = pairwise(final, np.arange(200, dtype=np.int32))
    for i, j in ((0, 1), (0, 59), (30, 35)):
        assert p[i, j] == pytest.approx(paired_difference(final[i].tolist(), final[j].tolist(), range(200)).p, abs=1e-12)


def test_runs_whose_slices_were_cut_differently_stand_in_tables_of_their_own(tmp_path: Path) -> None:
    moved = [s.model_copy(update={"slices": {"modality": "CT"}}) for s in make_samples(12)]
    make_run(tmp_path, "a", "110110110110")
    make_run(tmp_path, "b", "110110110111", samples=moved)
    assert len(grouped(cells([tmp_path])[0])) == 1, "all rows are the same rows"
    by_slice = grouped(cells([tmp_path], slice_by="modality")[0])
    assert sorted([(c.model, c.n, c.rank) for c in group] for group in by_slice) == [
        [("a", 6, None), ("a", 6, None)],
        [("b", 12, None)],
    ]


def test_changed_questions_are_other_data_whatever_the_card_says(tmp_path: Path) -> None:
    a, b = make_run(tmp_path, "a", "110110"), make_run(tmp_path, "b", "110111")
    path = b.path / "samples.jsonl"
    path.write_text(path.read_text().replace('"yes"', '"no"', 1))
    assert [c.rank for c in cells([tmp_path])[0]] == [None, None]
    assert len(grouped(cells([tmp_path])[0])) == 2
    with pytest.raises(UserError, match="other questions, references or images"):
        compare_all([a.path, b.path])


def change_card(folder: RunFolder, **values: object) -> None:
    folder.write_card(folder.card().model_copy(update=values))


def test_answers_that_another_reader_read_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    a, b = make_run(tmp_path, "a", "110110"), make_run(tmp_path, "b", "110111")
    change_card(b, reader=2)
    assert len(grouped(cells([tmp_path])[0])) == 2
    with pytest.raises(UserError, match="reader 1 and reader 2"):
        compare_all([a.path, b.path])


def test_generation_arguments_that_differ_are_said(tmp_path: Path) -> None:
    a, b = make_run(tmp_path, "a", "110110"), make_run(tmp_path, "b", "110111")
    change_card(b, generation=GenerationArgs(max_new_tokens=512))
    found = cells([tmp_path])[0]
    assert len(grouped(found)) == 1
    assert "not all were run alike: max_new_tokens 16 or 512" in shown(found)
    assert "Not all were run alike: max\\_new\\_tokens 16 or 512." in formats.as_markdown([], found)
    (one,) = compare_all([a.path, b.path])
    assert one.sentence().endswith("They were not run alike: max_new_tokens 16 against 512.")


def test_an_apis_address_tells_models_of_one_name_apart(tmp_path: Path) -> None:
    for model, address in (("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2")):
        folder = make_run(tmp_path, model, "110110")
        change_card(folder, model=folder.card().model.model_copy(update={"name": "m", "path": address, "backend": "litellm"}))
    assert len({c.configuration for c in cells([tmp_path])[0]}) == 2


def test_the_version_of_a_judge_that_both_runs_have_is_compared(tmp_path: Path) -> None:
    a, b = make_run(tmp_path, "a", "110110"), make_run(tmp_path, "b", "110111", version="2")
    a.add_verdicts("exact", "2", [Verdict(sample_id="q0", judge="exact", final=0)])
    (one,) = compare_all([a.path, b.path], "exact")
    assert (one.judge_version, one.n) == ("2", 1)
    b.add_verdicts("exact", "1", [Verdict(sample_id="q0", judge="exact", final=0)])
    with pytest.raises(UserError, match="several versions"):
        compare_all([a.path, b.path], "exact")


def test_no_name_or_metric_is_more_than_text_in_a_table_elsewhere(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "[a]\u202egnorw", "110110")
    (folder.path / "scores.json").write_text(json.dumps({"metrics": {"=1+1": {"value": 0.5}, "bad": {"value": "=2"}, "odd": 5}}))
    metrics = ("=1+1", "bad", "odd")
    found = board(store.find([tmp_path]), metrics=metrics).cells
    assert [c.metrics for c in found] == [{"=1+1": 0.5}]
    csv, latex, markdown = formats.as_csv(found), formats.as_latex([], found), formats.as_markdown([], found)
    assert csv.splitlines()[0].endswith(",'=1+1")
    assert "{[}a{]}\\textless{}U+202E" in latex
    assert not [text for text in (csv, latex, markdown) if "\u202e" in text]


def test_runs_without_the_slice_are_named(tmp_path: Path) -> None:
    make_run(tmp_path, "a", "110110")
    plain = make_run(tmp_path, "b", "110110", samples=[s.model_copy(update={"slices": {}}) for s in make_samples(6)])
    for form in ([], ["--json"]):
        result = CliRunner().invoke(app, ["leaderboard", "--runs", str(tmp_path), "--slice", "modality", *form])
        assert result.exit_code == 0
        assert f"has no slice 'modality', left out: {plain.path}" in result.stderr.replace("\n", "")


def test_questions_without_an_image_are_their_tasks_own(tmp_path: Path) -> None:
    """Rows of two tasks may have the same id; without an image that says nothing."""
    words = [s.model_copy(update={"images": ()}) for s in make_samples(12)]
    for task in ("slake", "vqa_rad"):
        make_run(tmp_path, "base", "110110110110", samples=words, task=task, fingerprint=task)
    (view,) = overviews(board(store.find([tmp_path])))
    assert view.rows[0].average.clusters == 24  # type: ignore[union-attr]


def test_an_unfinished_run_has_no_rank(tmp_path: Path) -> None:
    for model in ("a", "b"):
        make_run(tmp_path, model, "110110110110")
    make_run(tmp_path, "c", "1101--------", finished=False)
    assert [(c.model, c.rank) for c in cells([tmp_path])[0]] == [("a", (1, 2)), ("b", (1, 2)), ("c", None)]


def two_tasks(tmp_path: Path) -> Board:
    for model, slake, rad in (("base", 0.5, 0.3), ("sft", 0.7, 0.6)):
        make_run(tmp_path, model, many(slake, 0))
        make_run(tmp_path, model, many(rad, 1), task="vqa_rad", fingerprint="other")
    make_run(tmp_path, "grpo", many(0.6, 2))
    return board(store.find([tmp_path]))


def test_models_x_tasks_with_the_average_over_tasks(tmp_path: Path) -> None:
    found = two_tasks(tmp_path)
    (view,) = overviews(found)
    assert [c.task for c in view.columns] == ["slake", "vqa_rad"]
    assert [row.model for row in view.rows] == ["sft", "base", "grpo"], "the best average first, then those without one"
    average = view.rows[0].average
    shares = [c.value for c in view.rows[0].cells if c]
    assert average is not None
    assert average.value == pytest.approx(sum(shares) / 2)  # type: ignore[arg-type]
    assert average.low < average.value < average.high
    assert (average.n, average.clusters) == (480, 120), "both tasks are about the same 120 images"
    assert view.rows[2].cells[1] is None
    assert view.rows[2].average is None
    out = io.StringIO()
    render_overview(view, Console(file=out, width=80))
    scores, limits = out.getvalue().partition("sft ")[2].splitlines()[:2]
    assert re.fullmatch(r" *[0-9.]+ +[0-9.]+ +[0-9.]+ *", scores), "no plus or minus: an interval is seldom even"
    assert re.fullmatch(r"( +[0-9.]+ – [0-9.]+){3} *", limits)


def test_two_sets_of_rows_of_one_task_are_not_averaged(tmp_path: Path) -> None:
    make_run(tmp_path, "base", many(0.5, 0))
    make_run(tmp_path, "base", many(0.5, 0), fingerprint="the first 100 rows")
    assert overviews(board(store.find([tmp_path]))) == []


def averages(runs: Path) -> dict[tuple[int | None, str], tuple[tuple[str, ...], float]]:
    views = overviews(board(store.find([runs])))
    return {(v.limit, r.model): (v.averaged, r.average.value) for v in views for r in v.rows if r.average}


@pytest.mark.parametrize(
    "more",
    [
        {"limit": 5},  # a smoke run
        {"fingerprint": "other pixels"},
        {"fingerprint": "three samples", "repeats": 3},
        {"split": "validation", "fingerprint": "validation"},
        {"task": "a_third", "fingerprint": "third"},  # one model has a task that the others have not
        {"reader": 7},
        {"prompt_sha256": "the same name, other words"},
    ],
)
def test_no_further_run_changes_or_removes_an_average(tmp_path: Path, more: dict[str, Any]) -> None:
    two_tasks(tmp_path)
    before = averages(tmp_path)
    assert set(before) == {(None, "base"), (None, "sft")}
    few = make_samples(6 if "limit" not in more else 5)
    make_run(tmp_path, "sft", "111000"[: len(few)], samples=few, **{"fingerprint": "few rows"} | more)
    after = averages(tmp_path)
    assert {k: v for k, v in after.items() if k in before} == before


def test_a_task_with_a_token_limit_of_its_own_is_averaged_all_the_same(tmp_path: Path) -> None:
    for task, tokens in (("slake", 16), ("vqa_rad", 64)):
        make_run(tmp_path, "base", "1100", task=task, fingerprint=task, generation=GenerationArgs(max_new_tokens=tokens))
    assert averages(tmp_path) == {(None, "base"): (("slake", "vqa_rad"), 0.5)}
    make_run(tmp_path, "base", "1111", task="slake", fingerprint="slake", generation=GenerationArgs(max_new_tokens=64))
    (view,) = overviews(board(store.find([tmp_path])))
    assert len(view.rows) == 2, "one with both, one with the other limit"
    assert view.unlike == ("slake: not all were run alike: max_new_tokens 16 or 64",)


def test_limited_runs_have_averages_of_their_own(tmp_path: Path) -> None:
    for task, limit in (("slake", None), ("vqa_rad", None), ("slake", 4), ("vqa_rad", 4)):
        rows = "11110000"[:limit]
        make_run(tmp_path, "base", rows, task=task, fingerprint=f"{task} {limit}", limit=limit)
    assert averages(tmp_path) == {
        (None, "base"): (("slake", "vqa_rad"), 0.5),
        (4, "base"): (("slake", "vqa_rad"), 1.0),
    }
    whole, cut = overviews(board(store.find([tmp_path])))[::-1]
    assert (whole.title, cut.title) == ("Models x tasks, limited to 4 rows", "Models x tasks")


def test_what_was_limited_stands_after_the_whole_task(tmp_path: Path) -> None:
    for fingerprint, limit in (("a", 4), ("b", None), ("c", 6)):
        make_run(tmp_path, "base", "11110000"[:limit], fingerprint=fingerprint, limit=limit)
    make_run(tmp_path, "base", "1100", task="z", fingerprint="z")
    found = board(store.find([tmp_path])).cells
    assert [(c.task, c.limit) for c in found] == [("slake", None), ("slake", 4), ("slake", 6), ("z", None)]
    assert "slake · test · 4 questions (--limit 4)" in shown(found)


def test_a_limit_above_the_number_of_rows_is_none(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "1100", limit=100)
    assert only(tmp_path).limit is None


def test_the_average_is_over_the_tasks_that_most_models_have(tmp_path: Path) -> None:
    for model, tasks in {"a": "xyz", "b": "xy", "c": "xy", "d": "z", "e": "yz"}.items():
        for task in tasks:
            make_run(tmp_path, model, "110110110110", task=task, fingerprint=task)
    assert {model: tasks for (_, model), (tasks, _) in averages(tmp_path).items()} == dict.fromkeys("abc", ("x", "y"))


def test_a_wide_table_goes_on_below_and_loses_no_column(tmp_path: Path) -> None:
    for k in range(9):
        make_run(tmp_path, "base", "110110110110", task=f"task{k}", fingerprint=str(k))
    (view,) = overviews(board(store.find([tmp_path])))
    out = io.StringIO()
    render_overview(view, Console(file=out, width=80))
    assert all(f"task{k}" in out.getvalue() for k in range(9))
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_filters_take_lists_and_globs(tmp_path: Path) -> None:
    two_tasks(tmp_path)
    folders = store.find([tmp_path])

    def left(**wanted: Any) -> set[tuple[str, str]]:
        return {(c.model, c.task) for c in board(folders, filters=Filters(**wanted)).cells}

    assert left(models=["s*"]) == {("sft", "slake"), ("sft", "vqa_rad")}
    assert left(models=["s*", "grpo"], tasks=["slake"]) == {("sft", "slake"), ("grpo", "slake")}
    assert left(trainers=["none"], tasks=["vqa_*"]) == {("base", "vqa_rad")}
    assert left(judges=["exact@*"], trainers=["sft"], prompts=["question"]) == {("sft", "slake"), ("sft", "vqa_rad")}
    with pytest.raises(UserError, match="no run of model 'sftt'") as error:
        left(models=["sftt"])
    assert error.value.hint == "did you mean 'sft'?"


def test_sorting_and_grouping(tmp_path: Path) -> None:
    for model, verdicts in (("c-sft", "110000"), ("a", "111100"), ("b-sft", "111110"), ("d", "100000")):
        make_run(tmp_path, model, verdicts)
    folders = store.find([tmp_path])
    assert [c.model for c in board(folders, sort="model").cells] == ["a", "b-sft", "c-sft", "d"]
    assert [c.model for c in board(folders).cells] == ["b-sft", "a", "c-sft", "d"]
    grouped_by = board(folders, group_by="trainer").cells
    assert [c.model for c in grouped_by] == ["a", "d", "b-sft", "c-sft"]
    out = io.StringIO()
    render(grouped_by, Console(file=out, width=80), group_by="trainer")
    assert "no trainer · mean of 2: 41.7" in out.getvalue()
    assert "sft · mean of 2: 58.3" in out.getvalue()


def test_top_shows_the_first_and_says_how_many_more(tmp_path: Path) -> None:
    for k in range(5):
        make_run(tmp_path, f"m{k}", "1" * (k + 1) + "0" * (11 - k))
    out = io.StringIO()
    render(cells([tmp_path])[0], Console(file=out, width=80), top=2)
    assert "m3" in out.getvalue()
    assert "m2" not in out.getvalue()
    assert "3 more: --top 0 shows all" in out.getvalue()
    out = io.StringIO()
    render(cells([tmp_path], slice_by="modality")[0], Console(file=out, width=80), top=2)
    assert "6 more: --top 0 shows all" in out.getvalue(), "two of five for each of two values"


def test_metrics_come_from_the_runs_own_scores(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "111000")
    make_run(tmp_path, "other", "111000")
    of_slices = {"modality": {"CT": {"value": 0.5, "n": 3}, "MRI": {"value": 0.0, "n": 3}}}
    folder.write_scores({"metrics": {"bleu": {"value": 0.25, "n": 6, "missing": 0, "slices": of_slices}}})
    folders = store.find([tmp_path])
    assert {c.model: c.metrics for c in board(folders, metrics=["bleu"]).cells} == {"base": {"bleu": 0.25}, "other": {}}
    sliced = board(folders, slice_by="modality", metrics=["bleu"], filters=Filters(models=["base"])).cells
    assert {c.slice[1]: c.metrics["bleu"] for c in sliced if c.slice} == {"CT": 0.5, "MRI": 0.0}
    with pytest.raises(UserError, match="metric 'blue'") as error:
        board(folders, metrics=["blue"])
    assert error.value.hint == "did you mean 'bleu'?"


# -- comparing several, other formats, the command line ---------------------------------------------------------------


def test_every_pair_on_every_task_with_one_correction(tmp_path: Path) -> None:
    two_tasks(tmp_path)
    found = compare_all([tmp_path / "base", tmp_path / "sft"])
    assert [(c.task, c.model_a, c.model_b) for c in found] == [("slake", "base", "sft"), ("vqa_rad", "base", "sft")]
    found = compare_all([tmp_path / "base", tmp_path / "sft", tmp_path / "grpo"])
    assert [(c.task, c.model_a, c.model_b) for c in found] == [
        ("slake", "base", "sft"), ("vqa_rad", "base", "sft"), ("slake", "base", "grpo"), ("slake", "sft", "grpo"),
    ]  # fmt: skip
    assert [c.p_holm for c in found] == holm([c.p for c in found])
    assert {c.comparisons for c in found} == {4}
    assert "by Holm over 4 comparisons" in found[0].sentence()


def test_comparing_says_what_is_wrong(tmp_path: Path) -> None:
    a = make_run(tmp_path, "a", "110110")
    b = make_run(tmp_path, "b", "110110", fingerprint="other")
    c = make_run(tmp_path, "c", "110110", version="2")
    with pytest.raises(UserError, match="two runs or more"):
        compare_all([a.path])
    with pytest.raises(UserError, match="no run folder"):
        compare_all([a.path, tmp_path / "nothing"])
    with pytest.raises(UserError, match="asked different data"):
        compare_all([a.path, b.path])
    with pytest.raises(UserError, match="no judge has judged all"):
        compare_all([a.path, c.path])
    with pytest.raises(UserError, match=r"at version 1, .* at 2"):
        compare_all([a.path, c.path], "exact")
    (a.path / "samples.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="damaged line"):
        compare_all([a.path, make_run(tmp_path, "d", "110110").path])


def run_cli(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "100"})
    return result.exit_code, result.output


def test_comparing_lets_no_name_or_answer_move_the_cursor(tmp_path: Path) -> None:
    a, b = make_run(tmp_path, "a\x1b[31m\u202e", "110110"), make_run(tmp_path, "b", "011111")
    path = a.path / "predictions.jsonl"
    path.write_text(path.read_text().replace('"answer":"', '"answer":"\\u001b]0;owned\\u0007\\u202e'))
    code, shown = run_cli("compare", a.path, b.path)
    assert code == 0
    assert "]0;owned" in shown
    assert not set(shown) & set("\x1b\x07\u202e")


def test_csv_has_a_row_a_cell_with_every_digit_and_no_formula(tmp_path: Path) -> None:
    make_run(tmp_path, "=cmd()", "110110110110")
    code, text = run_cli("leaderboard", "--runs", tmp_path, "--csv")
    (row,) = csv.DictReader(io.StringIO(text))
    cell = only(tmp_path)
    assert code == 0
    assert row["model"] == "'=cmd()"
    assert [float(row[k]) for k in ("value", "low", "high")] == [cell.value, cell.low, cell.high]
    assert (row["task"], row["n"], row["clusters"], row["slice"]) == ("slake", "12", "6", "")


def test_markdown_and_latex_hold_the_same_numbers_and_escape_names(tmp_path: Path) -> None:
    two_tasks(tmp_path)
    make_run(tmp_path, "a|b_c&$#", many(0.5, 0))
    cell = next(c for c in cells([tmp_path])[0] if c.model == "sft" and c.task == "slake")
    numbers = [f"{100 * x:.1f}" for x in (cell.value, cell.low, cell.high)]  # type: ignore[operator]
    _, markdown = run_cli("leaderboard", "--runs", tmp_path, "--markdown")
    _, latex = run_cli("leaderboard", "--runs", tmp_path, "--latex")
    assert f"| sft | sft | {numbers[0]} | {numbers[1]} – {numbers[2]} | 240 | 120 | 100.0 | 1 |" in markdown
    assert rf"sft & sft & {numbers[0]} & {numbers[1]} -- {numbers[2]} & 240 & 120 & 100.0 & 1 \\" in latex
    assert r"a\|b\_c\&\$\#" in markdown
    assert r"a|b\_c\&\$\#" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3


def test_the_command_prints_one_document_of_one_kind(tmp_path: Path) -> None:
    two_tasks(tmp_path)
    code, text = run_cli("leaderboard", "--runs", tmp_path, "--json", "--published")
    document = json.loads(text)
    assert code == 0
    assert len(document["cells"]) == 5
    assert {a["model"] for a in document["averages"]} == {"base", "sft"}
    assert {c["task"] for c in document["published"]} == {"slake", "vqa_rad"}
    result = CliRunner().invoke(app, ["leaderboard", "--runs", str(tmp_path), "--json", "--csv"])
    assert isinstance(result.exception, UserError)
    result = CliRunner().invoke(app, ["leaderboard", "--runs", str(tmp_path), "--sort", "scores"])
    assert isinstance(result.exception, UserError)
    assert result.exception.hint == "did you mean 'score'?"


def test_compare_prints_the_sentence_and_the_flipped_rows(tmp_path: Path) -> None:
    a, b = make_run(tmp_path, "a", "111110000000"), make_run(tmp_path, "b", "000000000000")
    code, text = run_cli("compare", a.path, b.path, "--flips", 2)
    assert code == 0
    assert text.startswith("On slake, a is right 41.7 points more often than b")
    assert "only a right (slake, a against b): 5 rows" in text
    assert "q0: Question 0?" in text
    assert "reference yes · a: yes · b: yes" in text
    assert "q2:" not in text, "two flips were asked for"
