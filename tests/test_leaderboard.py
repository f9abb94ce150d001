"""The leaderboard over real run folders: exact numbers, nothing missing counted as wrong, nothing damaged hiding the rest."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.errors import UserError
from harness.records import (
    DataCard,
    GenerationArgs,
    ImageRef,
    ModelCard,
    Prediction,
    Reference,
    RunCard,
    Sample,
    Verdict,
)
from harness.runs import RunFolder
from leaderboard.compare import compare
from leaderboard.stats import mean_interval
from leaderboard.table import NO_VALUE, Cell, as_json, cells, cells_of, grouped
from leaderboard.terminal import render

#: One letter a question: right, wrong, missing (the judge could not say), unjudged, or unanswered.
RIGHT, WRONG, MISSING, UNJUDGED, UNANSWERED = "10?.-"


def make_samples(questions: int = 12, per_image: int = 2) -> list[Sample]:
    """Questions about images; the first half is CT, the rest MRI."""
    return [
        Sample(
            id=f"q{i}",
            images=(ImageRef(name=f"{i // per_image}.jpg", data=b"pixels %d" % (i // per_image)),),
            question=f"Question {i}?",
            reference=Reference(answers=("yes",)),
            slices={"modality": "CT" if i < questions / 2 else "MRI"},
        )
        for i in range(questions)
    ]


def make_run(
    runs: Path,
    model: str,
    verdicts: str,
    *,
    samples: list[Sample] | None = None,
    judge: str = "exact",
    version: str = "1",
    reasoning: str = "",
    truncated: int = 0,
    finished: bool = True,
    **data: Any,
) -> RunFolder:
    """A run folder as the pipeline leaves it, one letter of `verdicts` a question."""
    samples = make_samples(len(verdicts)) if samples is None else samples
    prompt = data.pop("prompt", "question")
    row = {
        "task": "slake",
        "split": "test",
        "source": "bundled",
        "resolution": "224 px",
        "fingerprint": f"rows {len(samples)}",
    } | data
    card = RunCard(
        harness_version="0.1.0",
        created="2025-01-01T00:00:00+00:00",
        command=["run"],
        data=DataCard(**row, rows=len(samples), images=len({s.cluster for s in samples}), spec_sha256="spec"),
        model=ModelCard(name=model, path=None, base="tiny", trainer="sft" if "sft" in model else None),
        prompt=prompt,
        prompt_sha256=f"hash of {prompt}",
        generation=GenerationArgs(max_new_tokens=16),
        limit=None,
        git_sha=None,
        packages={},
        hardware="a CPU",
    )
    with RunFolder.place(runs, card) as folder:
        folder.begin(card, samples, fresh=False)
        asked = list(zip(samples, verdicts, strict=True))
        folder.add_predictions(
            Prediction(
                sample_id=s.id,
                text="yes",
                reasoning=None,
                answer="yes",
                finish="length" if i < truncated else "stop",
                prompt_tokens=9,
                completion_tokens=1,
            )
            for i, (s, v) in enumerate(asked)
            if v != UNANSWERED
        )
        given = [
            Verdict(
                sample_id=s.id,
                judge=judge,
                final=None if v == MISSING else int(v),
                reasoning=int(reasoning[i]) if i < len(reasoning) else None,
                missing="the judge gave no verdict" if v == MISSING else None,
            )
            for i, (s, v) in enumerate(asked)
            if v in (RIGHT, WRONG, MISSING)
        ]
        if given:
            folder.add_verdicts(judge, version, given)
        if finished:
            folder.write_card(card.model_copy(update={"finished": "2025-01-01T01:00:00+00:00"}))
    return folder


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
        (foreign_prediction, "predictions.jsonl: 1 lines about samples that were never asked"),
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
        "p = 0.250 by exact cluster sign flip; 10 questions on 6 images). This may be chance."
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
