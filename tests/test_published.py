"""The paper's tables as transcribed, checked against each other and against the paper's own words."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from harness import specs
from harness.cli.main import app
from harness.errors import DataError
from leaderboard.claims import FOLDER, claims, read_table
from tests.run_folders import make_run

PAPER = Path(__file__).parents[2] / "shared" / "paper"


def printed(table: str, model: str, task: str, judge: str, prompt: str | None = None, metric: str = "final") -> float:
    (found,) = [
        c.percent
        for c in claims([task])
        if (c.source.table, c.model, c.judge, c.prompt, c.metric) == (table, model, judge, prompt, metric)
    ]
    return found


def test_every_number_of_tables_2_3_and_6_is_there() -> None:
    counts = {table: sum(c.source.table == table for c in claims()) for table in ("2", "3", "6")}
    assert counts == {"2": 8 * 5, "3": 2 * (6 + 4 * 2), "6": 2 * (6 + 4 * 2)}


def test_the_numbers_are_those_of_the_papers_text() -> None:
    """Row by row: the numbers that the text prints after each row's name, in its order."""
    found = sorted(PAPER.glob("*.txt"))
    if not found:
        pytest.skip("the paper's text is not on this machine")
    lines = [line.split("\t")[1:] for line in found[0].read_text(encoding="utf-8").splitlines()]
    numbers = [[float(c.rstrip("%")) for c in line if re.fullmatch(r"\d+\.\d+%?", c)] for line in lines]
    for path in sorted(FOLDER.glob("*.yaml")):
        for row in read_table(path).rows:
            wanted = [p for p in row.printed if p is not None]
            assert any(own[-len(wanted) :] == wanted for own in numbers), f"{path.name}, {row.model}: {wanted}"


def test_totals_are_what_the_file_says_they_are() -> None:
    """Row-weighted, the plain mean of the columns, or neither: Table 2 has all three."""
    table = read_table(FOLDER / "rarl_table_2.yaml")
    sizes = [c.n for c in table.columns[:-1]]
    kinds = []
    for row in table.rows:
        *parts, total = [p for p in row.printed if p is not None]
        by_rows = math.fsum(p * n for p, n in zip(parts, sizes, strict=True) if n) / sum(n for n in sizes if n)
        by_columns = math.fsum(parts) / len(parts)
        fits = {"rows": abs(by_rows - total) < 0.006, "columns": abs(by_columns - total) < 0.006}
        kinds.append(next((kind for kind, holds in fits.items() if holds), "neither"))
    assert kinds == [row.total for row in table.rows]
    assert kinds == ["rows"] * 4 + ["columns"] * 3 + ["neither"]


def test_the_changes_that_the_paper_names_follow_from_its_tables() -> None:
    """Section 3.3 names them in percent; they are ratios of Table 6 to Table 3, and of Table 6's two prompts, not points."""
    ours, gpt = "RARL + prompting diversity", "gpt-4o-mini"
    for task, named in (("vqa_rad", 4.17), ("slake", 9.18), ("vqa_med_2019", 2.77), ("path_vqa", 4.41)):
        ratio = printed("6", ours, task, gpt, "reasoning") / printed("3", "RL + LoRA", task, gpt)
        assert round(100 * (ratio - 1), 2) == named
    for judge, metric, named in ((gpt, "reasoning", 4.01), ("gemini-1.5-flash", "reasoning", 5.16), ("human", "final", 7.78)):
        with_reasoning, without = (printed("6", ours, "silvar_med", judge, p, metric) for p in ("reasoning", "non_reasoning"))
        assert round(100 * (with_reasoning / without - 1), 2) == named


def test_an_interval_from_n_alone_is_wilsons() -> None:
    (claim,) = [c for c in claims(["silvar_med"]) if (c.source.table, c.model, c.column) == ("3", "SFT", "GPT-4o mini, final")]
    low, high = proportion_confint(96, 148, method="wilson")
    assert (claim.n, claim.percent) == (148, 64.86)
    assert claim.interval is not None
    assert (claim.interval.low, claim.interval.high) == pytest.approx((low, high))


def test_how_many_percentages_fit_148_rows_is_as_said() -> None:
    """Rounded or cut, to two digits: 21 of 24 fit 148, none 150."""

    def fits(percent: float, n: int) -> bool:
        near = (round(percent * n / 100) + k for k in (-1, 0, 1))
        return any(abs(percent - p) < 1e-9 for k in near for p in (round(100 * k / n, 2), math.floor(1e4 * k / n + 1e-9) / 100))

    own = claims(["silvar_med"])
    assert len(own) == 24
    assert sum(fits(c.percent, 148) for c in own) == 21
    assert not any(fits(c.percent, 150) for c in own)
    assert all("21 of its 24" in (c.n_from or "") for c in own)
    for task, misfits in (("vqa_rad", 5), ("slake", 6), ("vqa_med_2019", 5)):
        own = claims([task])
        assert sum(not fits(c.percent, c.n or 0) for c in own) == misfits
        assert all(f"{misfits} of its 8 percentages fit no count" in (c.n_from or "") for c in own)


def test_claims_are_about_tasks_that_exist() -> None:
    known = {spec.name for spec, _ in specs.find("*")}
    assert {c.task for c in claims()} <= known


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("59.26, 52.61", "52.61"), "4 numbers for 5 columns"),
        (("59.26", "592.6"), "not a percentage"),
        (("metric: accuracy", "metrik: accuracy"), "metrik"),
        (("columns:", "columns: ["), "rarl_table_2.yaml"),
    ],
)
def test_a_table_that_does_not_validate_names_the_file_and_the_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "rarl_table_2.yaml"
    path.write_text((FOLDER / path.name).read_text().replace(*change))
    with pytest.raises(DataError, match="rarl_table_2") as error:
        read_table(path)
    assert message in str(error.value)


def test_published_rows_stand_beside_the_measured_ones_and_are_marked(tmp_path: Path) -> None:
    make_run(tmp_path, "base", "110110110110")
    result = CliRunner().invoke(app, ["leaderboard", "--runs", str(tmp_path), "--published"], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.exception
    assert "slake · published, not measured here" in result.output
    assert "56.38" in result.output
    assert "vqa_rad" not in result.output, "only the tasks that were run"
    assert "6 of its 8 percentages fit no count" in " ".join(result.output.split())
