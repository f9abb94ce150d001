"""What rows can show: the paper's own numbers, the textbook's, and a simulation of the test that is used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import UserError
from leaderboard.power import design_effect, detectable, observed, rows_needed
from leaderboard.stats import paired_difference, paired_variance
from tests.run_folders import make_run


def test_a_test_set_of_the_papers_size() -> None:
    """n = 148 with 20 % discordance finds 10.3 points; 5 points would take 628 rows."""
    assert round(100 * detectable(148, 0.2), 1) == 10.3
    assert rows_needed(0.05, 0.2) == 628


def test_it_is_the_power_of_a_z_test_of_paired_differences() -> None:
    from statsmodels.stats.power import NormalIndPower

    d, discordance = 0.06, 0.25
    theirs = NormalIndPower(ddof=0).solve_power(effect_size=d / discordance**0.5, alpha=0.05, power=0.9, ratio=0)
    assert rows_needed(d, discordance, power=0.9) == int(np.ceil(theirs))


@pytest.mark.parametrize(("n", "discordance"), [(148, 0.2), (1061, 0.1), (60, 0.4)])
def test_rows_and_difference_are_each_others_inverse(n: int, discordance: float) -> None:
    least = detectable(n, discordance)
    assert rows_needed(least, discordance) in (n, n + 1)


def test_clusters_cost_rows() -> None:
    assert design_effect(1056, 96, 0.15) == pytest.approx(1 + 10 * 0.15)
    assert design_effect(148, 148, 0.15) == 1.0
    assert rows_needed(0.05, 0.2, effect=2.5) == pytest.approx(2.5 * 628, abs=2)
    assert detectable(1056, 0.2, effect=2.5) == pytest.approx(2.5**0.5 * detectable(1056, 0.2))
    assert detectable(148, 0.2, clusters=20) > detectable(148, 0.2), "t quantiles"


def test_the_paired_test_finds_such_a_difference_as_often_as_said() -> None:
    rng = np.random.default_rng(1)
    n, discordance, d = rows_needed(0.08, 0.2), 0.2, 0.08
    found = 0
    for _ in range(1500):
        only_a, only_b, _ = rng.multinomial(n, [(discordance + d) / 2, (discordance - d) / 2, 1 - discordance])
        a = [1] * only_a + [0] * (n - only_a)
        b = [0] * only_a + [1] * only_b + [0] * (n - only_a - only_b)
        found += paired_difference(a, b, [i // 2 for i in rng.permutation(n)]).p < 0.05
    assert 0.77 <= found / 1500 <= 0.85


def test_two_runs_tell_discordance_and_design_effect() -> None:
    a, b = [1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 0]
    clusters = [0, 0, 1, 1, 2, 2, 3, 3]
    pair = observed(a, b, clusters)
    assert (pair.n, pair.clusters, pair.discordance) == (8, 4, 3 / 8)
    alone = (3 / 8 - (1 / 8) ** 2) / 8
    assert pair.effect == pytest.approx(paired_variance(a, b, clusters) / alone)
    assert observed([1, 0], [1, 0], [0, 1]).effect == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: detectable(0, 0.2),
        lambda: detectable(10, 0.0),
        lambda: detectable(10, 0.2, power=1.0),
        lambda: detectable(10, 0.2, effect=0.5),
        lambda: detectable(10, 0.2, clusters=11),
        lambda: rows_needed(0.3, 0.2),
        lambda: rows_needed(0.0, 0.2),
        lambda: design_effect(10, 20, 0.1),
        lambda: design_effect(10, 5, 1.1),
    ],
)
def test_impossible_questions_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        wrong()  # type: ignore[operator]


def run_cli(*words: object) -> str:
    result = CliRunner().invoke(app, ["power", *map(str, words)], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.exception
    return result.output


def test_the_command(tmp_path: Path) -> None:
    assert "148 rows on 148 images find a difference of 10.3 points or more." in run_cli("--n", 148)
    assert "A difference of 5 points takes 628 rows." in run_cli("--difference", 5)
    assert "these rows find none" in run_cli("--n", 20, "--discordance", 0.1)
    found = json.loads(run_cli("--n", 1056, "--images", 96, "--icc", 0.15, "--difference", 5, "--json"))
    assert (found["design_effect"], found["images"]) == (2.5, 96)
    a, b = make_run(tmp_path, "a", "110110111000"), make_run(tmp_path, "b", "010110101100")
    learned = json.loads(run_cli(a.path, b.path, "--json"))
    assert (learned["n"], learned["images"], learned["discordance"]) == (12, 6, 0.25)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --n, --difference or two runs"),
        (["--difference", "5", "--images", "96", "--icc", "0.15"], "--images and --icc say how --n rows"),
        (["--n", "1061", "--icc", "0.15"], "rows on images of their own"),
        (["--n", "1061", "--judge", "exact"], "only where two runs are given"),
        (["a", "b", "--n", "10", "--discordance", "0.2"], "--n, --discordance: two runs say that themselves"),
        (["--difference", "50"], "a difference is above 0 and at most"),
        (["--n", "10", "--images", "20"], "1 to n images"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["power", *words])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_runs_that_say_nothing_of_differences(tmp_path: Path) -> None:
    a, b = (str(make_run(tmp_path, name, "110110").path) for name in ("a", "b"))
    for words, message in (
        (["power", a, a], "named twice"),
        (["compare", a, b, a], "named twice"),
        (["power", a, b], "differ on no row"),
    ):
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
