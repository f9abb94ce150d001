"""harness explain and harness leaderboard --protocols: the same answers under other rules, split into parts, and ranked again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from harness.errors import UserError
from harness.records import Prediction, Sample
from harness.runs import RunFolder, write_atomic
from harness.scoring.protocols import PROTOCOLS, find, score
from harness.shown import points, points_of
from leaderboard.explain import explain, nearest
from leaderboard.rescored import Answered
from leaderboard.standings import sentences, standings
from leaderboard.stats import MIN_CLUSTERS, Scoring, mean_interval, paired_difference, scoring_difference, scoring_interval
from leaderboard.store import read_runs

NAMES = [*PROTOCOLS, "medevalkit/closed", "llava-med/open", "medgemma/answer", "lmms-eval/answer/closed"]


def written(run: Path, name: str, text: Callable[[Sample, Prediction], str]) -> Path:
    """A run like `run` of a model of another name, whose texts are these; read as today's reader reads them."""
    from harness.pipeline import read_again
    from harness.scoring import unread

    folder = RunFolder(run)
    place = run.parent.parent / name / run.name
    shutil.copytree(run, place)
    asked = {s.id: s for s in folder.questions()}
    said = {i: p.model_copy(update={"text": text(asked[i], p)}) for i, p in folder.predictions().items()}
    rows = [unread.noted(read_again(p, ()), asked[i].reference) for i, p in said.items()]
    write_atomic(place / "predictions.jsonl", "".join(r.model_dump_json() + "\n" for r in rows))
    card = folder.card()
    RunFolder(place).write_card(card.model_copy(update={"model": card.model.model_copy(update={"name": name})}))
    return place


@pytest.fixture(scope="module")
def verbose(judged, tmp_path_factory) -> Path:
    """The real run's answers, every other in a sentence: what rules disagree on."""
    place = tmp_path_factory.mktemp("verbose") / "runs" / "tiny" / judged.name
    shutil.copytree(judged, place)

    def text(s: Sample, p: Prediction) -> str:
        return f"The answer is {p.said}." if int(s.id) % 2 else f"{p.said}"

    return written(place, "verbose", text)


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_add_up_to_the_difference_without_rounding(verbose, name):
    """Whatever is exchanged; and the way back has the same parts with the other sign."""
    there, back = explain(verbose, find(name)), explain(verbose, find("exact"), find(name))
    answered = Answered.of(RunFolder(verbose))
    whole = score(answered.scored(find(name)).marks) - score(answered.scored(find("exact")).marks)
    assert sum(Fraction(p.exact) for p in there.parts) == Fraction(there.exact) == whole
    assert sum(Fraction(p.exact) for p in back.parts) == Fraction(back.exact) == -whole
    if there.counted_start == there.counted_against and "slake-asis" not in name and "rad-asis" not in name:
        assert {(p.what, Fraction(p.exact)) for p in back.parts} == {(p.what, -Fraction(p.exact)) for p in there.parts}


def test_exact_is_the_score_that_the_run_has(judged):
    (kept,) = RunFolder(judged).scores()["judges"].values()
    assert float(Answered.of(RunFolder(judged)).scored(find("exact")).sure) == kept["final"]


def test_what_is_printed_adds_up_too(verbose):
    found = explain(verbose, find("llava-med"))
    printed = [float(text) for text in points_of([p.value for p in found.parts])]
    assert sum(printed) == pytest.approx(float(points(found.difference)))
    assert (points_of([0.0124, 0.0124, -0.004]), points(0.0208)) == (["+1.3", "+1.2", "-0.4"], "+2.1")


def test_a_part_names_the_answers_it_changes(verbose):
    """lmms-eval compares the whole text: each right answer in a sentence is lost, by reading, and nothing else changes."""
    found = explain(verbose, find("lmms-eval"))
    parts = {p.what: p for p in found.parts}
    lost = {f.id for f in parts["reading"].flips if (f.before, f.after) == (1, 0)}
    answered = Answered.of(RunFolder(verbose))
    exact = answered.scored(find("exact"))
    right = {s.id for s, m in zip(answered.samples, exact.marks, strict=True) if m.value == 1 and int(s.id) % 2}
    assert lost == right
    assert len(right) > 10
    assert (parts["rows"].value, parts["rows"].flips, parts["rule"].value) == (0, (), 0)
    assert parts["reading"].value == pytest.approx(-len(right) / 120)
    assert parts["reading"].low < parts["reading"].value < parts["reading"].high < 0
    assert found.p < 0.001


def test_rows_are_a_part_of_their_own(verbose):
    found = explain(verbose, find("exact/closed"))
    closed = sum(s.slices["answer_type"] == "CLOSED" for s in RunFolder(verbose).questions())
    assert (found.counted_start, found.counted_against) == (120, closed)
    parts = {p.what: p for p in found.parts}
    assert parts["rows"].value == pytest.approx(found.difference)
    assert (len(parts["rows"].flips), parts["reading"].flips, parts["rule"].flips) == (120 - closed, (), ())


def test_answers_to_another_prompt_come_first(verbose):
    """`asked`: a run of the same model on the same rows; another model or other rows are refused."""
    other = written(verbose, "other", lambda s, p: "yes")
    with pytest.raises(UserError, match="not of the same model"):
        explain(verbose, find("strict"), asked=_other_model(other))
    card = RunFolder(verbose).card()
    RunFolder(other).write_card(card.model_copy(update={"prompt": "question"}))
    found = explain(verbose, find("strict"), asked=other)
    assert [p.what for p in found.parts][:2] == ["prompt", "rows"]
    assert sum(Fraction(p.exact) for p in found.parts) == Fraction(found.exact)
    now = Answered.of(RunFolder(other)).scored(find("exact"))
    assert found.parts[0].value == pytest.approx(float(now.sure) - found.score_start)


def _other_model(run: Path) -> Path:
    card = RunFolder(run).card()
    RunFolder(run).write_card(card.model_copy(update={"model": card.model.model_copy(update={"weights_sha256": "another"})}))
    return run


def test_what_was_printed_elsewhere_leaves_a_rest(verbose):
    found = explain(verbose, find("medgemma"), published=Fraction("72.5") / 100)
    assert found.parts[-1].what == "rest"
    assert Fraction(found.parts[-1].exact) == Fraction(29, 40) - Answered.of(RunFolder(verbose)).scored(find("medgemma")).sure
    began = Answered.of(RunFolder(verbose)).scored(find("exact")).sure
    assert sum(Fraction(p.exact) for p in found.parts) == Fraction(found.exact) == Fraction(29, 40) - began


def test_the_nearest_protocols_come_first(verbose):
    found = nearest(verbose, Fraction(1, 2))
    assert [abs(d.distance) for d in found] == sorted(abs(d.distance) for d in found)
    assert {"exact", "medgemma", "medevalkit/closed", "llava-med/open"} <= {d.protocol for d in found}
    assert not any("asis" in d.protocol for d in found)


def test_the_command_says_it_in_sentences(verbose, command):
    code, out, err = command("explain", verbose, "--against", "lmms-eval,llava-med-asis", "--flips", "1")
    assert (code, err) == (0, "")
    assert "points lower by lmms-eval than by exact (95 % interval" in out
    assert "Both count the same 120 answers." in out
    assert "What lmms-eval takes of a text: 0 answers gain" in out
    assert "lmms-eval also adds to each question: Answer the question using a single word or phrase." in out
    assert "lmms-eval reads: The answer is" in out
    assert "llava-med-asis counts" in out
    code, out, _ = command("explain", verbose, "--against", "medgemma", "--against-score", "99", "--json")
    document = json.loads(out)
    assert document["published"] == 0.99
    assert [p["what"] for p in document["parts"]][-1] == "rest"
    assert all("text" in f for p in document["parts"] for f in p["flips"])
    code, out, _ = command("explain", verbose, "--against", "medgemma", "--against-score", "99")
    assert "It lies outside the interval of medgemma" in out
    code, out, _ = command("explain", verbose, "--against-score", "50")
    assert code == 0
    assert "Near is no proof" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "against what?"),
        (["--against", "lava-med"], "did you mean 'llava-med'?"),
        (["--against-score", "172"], "expected a percentage"),
        (["--against-score", "50", "--asked", "."], "--asked needs a protocol"),
        (["--against", "strict", "--from", "strct"], "did you mean 'strict'?"),
    ],
)
def test_what_the_command_cannot_do_is_said(verbose, command, words, said):
    code, _, err = command("explain", verbose, *words)
    assert code == 2
    assert said in err


def test_a_folder_that_is_no_run_and_rows_that_no_one_counts(verbose, command, tmp_path):
    code, _, err = command("explain", tmp_path, "--against", "strict")
    assert (code, "holds no run" in err) == (2, True)
    opened = written(verbose, "opened", lambda s, p: "yes")
    rows = [json.loads(line) for line in (opened / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        row["slices"]["answer_type"] = "OPEN"
    write_atomic(opened / "samples.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    code, _, err = command("explain", opened, "--against", "strict/closed")
    assert (code, "counts none of its 120 answers" in err) == (2, True)


def test_hostile_text_cannot_move_the_cursor(verbose, command):
    place = written(verbose, "hostile", lambda s, p: f"\x1b[2J[bold]{s.reference.answers[0]}")
    _, out, _ = command("explain", place, "--against", "llava-med")
    assert "\x1b" not in out
    assert "[bold]" in out


# -- models x protocols ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rivals(judged, tmp_path_factory) -> Path:
    """Two models: one is right on three of four rows, in sentences; the other on half of them, in a word."""
    place = tmp_path_factory.mktemp("rivals") / "runs" / "tiny" / judged.name
    shutil.copytree(judged, place)
    number = {s.id: i for i, s in enumerate(RunFolder(place).questions())}

    def right(s: Sample) -> str:
        return s.reference.answers[0]

    written(place, "talker", lambda s, p: f"The answer is {right(s) if number[s.id] % 4 else 'a zebra'}.")
    written(place, "clerk", lambda s, p: right(s) if number[s.id] % 2 else "zebra")
    shutil.rmtree(place.parent)
    return place.parent.parent


def runs_of(root: Path) -> list:
    folders = sorted(p.parent for p in root.glob("*/*/card.json"))
    return read_runs([(p, RunFolder(p).card()) for p in folders])[0]


def test_the_order_of_models_may_not_survive(rivals):
    (found,) = standings(runs_of(rivals), [find(n) for n in ("exact", "lmms-eval", "llava-med", "lmms-eval/yesno")])
    assert found.models == ("talker", "clerk")
    exact, lmms, llava, _ = found.rows
    assert [s.value for s in exact.scores] == [pytest.approx(0.75, abs=0.02), 0.5]
    assert [s.value for s in lmms.scores] == [0, 0.5]
    assert (exact.tau, lmms.tau, llava.tau) == (1, -1, 1)
    (swap,) = lmms.swaps
    assert (swap.ahead, swap.behind, swap.real) == ("talker", "clerk", True)
    assert not exact.swaps
    assert not llava.swaps
    told = sentences(found)
    assert told[0] == "The order under exact changes under 2 of 3 other protocols."
    assert told[1] == "Under lmms-eval, clerk comes before talker; both orders hold at 5 %."


def test_the_leaderboard_shows_models_by_protocol(rivals, command):
    code, out, err = command("leaderboard", "--runs", rivals, "--protocols", "--judge", "exact,protocol:medevalkit,strict")
    assert code == 0, err
    assert "Kendall's" in out
    assert "Under strict, clerk comes before talker" in out
    code, out, _ = command("leaderboard", "--runs", rivals, "--protocols", "--judge", "exact,medevalkit", "--json")
    (table,) = json.loads(out)["standings"]
    assert [row["protocol"] for row in table["rows"]] == ["exact", "medevalkit"]
    code, out, _ = command("leaderboard", "--runs", rivals, "--protocols", "--model", "clerk")
    assert "One model: there is no order that could change." in out
    assert "medgemma" in out
    assert "asis" not in out
    code, _, err = command("leaderboard", "--runs", rivals, "--protocols", "--slice", "modality")
    assert (code, "--slice: not with --protocols" in err) == (2, True)


def test_runs_on_other_rows_or_with_another_prompt_stand_apart(rivals, tmp_path):
    shutil.copytree(rivals, tmp_path / "runs")
    (clerk,) = (tmp_path / "runs" / "clerk").iterdir()
    card = RunFolder(clerk).card()
    RunFolder(clerk).write_card(card.model_copy(update={"prompt_sha256": "another"}))
    found = standings(runs_of(tmp_path / "runs"), [find("exact"), find("strict")])
    assert sorted(t.models for t in found) == [("clerk",), ("talker",)]
    assert all(row.tau is None and not row.swaps for t in found for row in t.rows)


def test_a_model_without_answers_to_its_rows_is_in_no_order(rivals, tmp_path):
    shutil.copytree(rivals, tmp_path / "runs")
    (clerk,) = (tmp_path / "runs" / "clerk").iterdir()
    lines = (clerk / "predictions.jsonl").read_text().splitlines(keepends=True)
    write_atomic(clerk / "predictions.jsonl", "".join(lines[:60]))
    (found,) = standings(runs_of(tmp_path / "runs"), [find("exact"), find("lmms-eval")])
    assert found.unranked == ("clerk",)
    assert not any(row.swaps for row in found.rows)


# -- judges list and show ----------------------------------------------------------------------------------------------------


def test_judges_lists_and_shows_protocols(command):
    code, out, _ = command("judges", "list", "--json")
    listed = {p["name"]: p for p in json.loads(out)["protocols"]}
    assert code == 0
    assert set(listed) == {f"protocol:{name}" for name in PROTOCOLS}
    assert listed["protocol:llava-med-asis"]["as_is"] is True
    code, out, _ = command("judges", "show", "protocol:llava-med/closed")
    assert code == 0
    assert "microsoft/LLaVA-Med" in out
    assert "Only rows that the data call closed" in out
    code, out, _ = command("judges", "show", "gpt-4o-mini", "--json")
    assert json.loads(out)["model"].startswith("openai/")
    code, out, _ = command("judges", "show", "exact")
    assert "strict" in out
    code, _, err = command("judges", "show", "exat")
    assert (code, "did you mean 'exact'?" in err) == (2, True)


def test_the_documentation_has_every_protocol():
    text = " ".join((Path(__file__).parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8").split())
    for name, p in PROTOCOLS.items():
        assert f"`{name}`" in text
        for told in (p.rule, p.source, p.differs, *p.quirks):
            assert told.replace("|", "\\|") in text, (name, told)


# -- the interval of a difference between two scorings -----------------------------------------------------------------------


def test_two_scorings_of_the_same_rows_are_paired():
    rng = np.random.default_rng(0)
    a, b = (rng.random(200) < p for p in (0.6, 0.5))
    clusters, ones = [i // 5 for i in range(200)], np.ones(200)
    found = scoring_difference(Scoring(a.astype(float), ones), Scoring(b.astype(float), ones), clusters)
    assert found == paired_difference(a.astype(int).tolist(), b.astype(int).tolist(), clusters)
    counted = (np.arange(200) % 2 == 0).astype(float)
    only = [i for i in range(200) if counted[i]]
    interval = scoring_interval(Scoring(a * counted, counted), clusters)
    assert interval == mean_interval([float(a[i]) for i in only], [clusters[i] for i in only])
    assert scoring_interval(Scoring(2.0 * a, ones), clusters) is None  # no share


def test_fractional_scorings_have_the_cluster_t_interval():
    """The same limits as statsmodels' regression on a constant, with standard errors clustered."""
    import statsmodels.api as sm

    rng = np.random.default_rng(1)
    a, b, ones = rng.random(300), rng.random(300), np.ones(300)
    clusters = np.repeat(np.arange(30), 10)
    found = scoring_difference(Scoring(a, ones), Scoring(b, ones), clusters.tolist())
    fit = sm.OLS(a - b, ones).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    correction = np.sqrt(30 / 29 * 299 / 299) / np.sqrt(30 / 29 * 299 / (300 - 1))
    half = (found.high - found.low) / 2
    assert found.value == pytest.approx(fit.params[0])
    assert half == pytest.approx(fit.bse[0] * correction * 2.045229642132703)  # t of 29 degrees of freedom
    assert found.p == pytest.approx(fit.pvalues[0])


def test_a_difference_of_other_rows_covers_the_truth():
    """All rows against four in ten of them, true difference known: 95 % intervals hold it in about 95 % of 400 draws."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        effect = np.repeat(rng.normal(0, 0.1, 60), 8)
        closed = rng.random(480) < 0.4
        right = (rng.random(480) < np.clip(np.where(closed, 0.6, 0.5) + effect, 0, 1)).astype(float)
        clusters = np.repeat(np.arange(60), 8).tolist()
        found = scoring_difference(Scoring(right * closed, closed.astype(float)), Scoring(right, np.ones(480)), clusters)
        held += found.low <= 0.06 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_too_few_clusters_have_no_interval():
    points = np.linspace(0, 1, 8)
    assert scoring_difference(Scoring(points, np.ones(8)), Scoring(points[::-1], np.ones(8)), [0, 0, 1, 1, 2, 2, 3, 3]) is None
    assert MIN_CLUSTERS > 4
