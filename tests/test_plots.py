"""The plots: what is drawn is what the numbers say, in the same bytes each time, whatever a model is called."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from statsmodels.stats.inter_rater import cohens_kappa, to_table

from judges.agreement import agreement
from leaderboard import plots, table
from leaderboard.plots import COLOURS, Agreement
from leaderboard.site.judges import agreements
from leaderboard.site.layout import slice_tables
from leaderboard.site.library import Shelf
from leaderboard.stats import mean_interval
from leaderboard.table import Cell
from tests.run_folders import make_run
from tests.viewed import HOSTILE


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models on twelve questions about six images; one is not ranked, as verdicts are missing."""
    out = tmp_path_factory.mktemp("runs")
    make_run(out, "base", "100000000100")
    make_run(out, "sft", "111011000010")
    make_run(out, "half", "11??????0000")
    return out


@pytest.fixture(scope="module")
def cells(runs: Path) -> list[Cell]:
    return table.cells([runs])[0]


def points(axes: object) -> list[tuple[float, float]]:
    """Where the round marks are."""
    marks = [line for line in axes.lines if line.get_marker() == "o"]  # type: ignore[attr-defined]
    return [(float(x), float(y)) for line in marks for x, y in zip(*line.get_data(), strict=True)]


def texts(figure: object) -> list[str]:
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]  # type: ignore[attr-defined]


def test_a_forest_has_each_models_score_and_interval_in_order(cells: list[Cell]) -> None:
    figure = plots.forest(cells, table.labels(cells))
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == [c.model for c in cells] == ["sft", "base", "half"]
    assert axes.yaxis_inverted(), "the first on top"
    points = [
        (float(x), float(y)) for line in axes.lines if line.get_marker() == "o" for x, y in zip(*line.get_data(), strict=True)
    ]
    assert points == [(c.value, y) for y, c in enumerate(cells)]
    limits = {float(x) for c in axes.collections for path in c.get_paths() for x in path.vertices[:, 0]}
    for c in cells:
        assert any(math.isclose(c.low or 0, x) for x in limits)
        assert any(math.isclose(c.high or 0, x) for x in limits)
        assert f"{100 * (c.value or 0):.1f}   {100 * (c.low or 0):.1f} – {100 * (c.high or 0):.1f}" in texts(figure)
    half = cells[2]
    assert not half.ranked
    assert any(math.isclose(half.bound_high, x) for x in limits), "what the missing verdicts could make of it"
    fills = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert fills == [COLOURS["light"].accent, COLOURS["light"].accent, COLOURS["light"].ground], "not ranked is hollow"


def test_a_long_forest_says_what_it_leaves_out(cells: list[Cell]) -> None:
    many = [cells[0].model_copy(update={"run": str(i), "model": f"m{i}"}) for i in range(plots.MOST_ROWS + 5)]
    figure = plots.forest(many, {c.run: c.model for c in many})
    assert len(figure.axes[0].get_yticklabels()) == plots.MOST_ROWS
    assert f"% right, 95 % interval, the best {plots.MOST_ROWS} of {plots.MOST_ROWS + 5}" in texts(figure)


def test_a_heat_map_has_every_slice_of_every_model(runs: Path, cells: list[Cell]) -> None:
    sliced = table.cells([runs], slice_by="modality")[0]
    (shown,) = slice_tables(cells, sliced)
    figure = plots.heat(shown.name, shown.rows, [table.labels(cells)[run] for run in shown.runs])
    for c in sliced:
        assert f"{100 * (c.value or 0):.1f}" in texts(figure)
        assert f"{100 * (c.low or 0):.1f} – {100 * (c.high or 0):.1f}" in texts(figure)
    (image,) = figure.axes[0].images
    assert image.get_array().shape == (2, 3)
    assert image.get_clim() == (0, 1), "the same colour means the same score in every plot"
    holes = [("CT", [*shown.rows[0][1][:2], None])]
    assert bool(plots.heat("modality", holes, ["a", "b", "c"]).axes[0].images[0].get_array().mask[0, 2])


def test_curves_are_what_was_logged(tmp_path: Path) -> None:
    logged = {
        "reward": [(s, s / 100) for s in range(1, 101)],
        "rewards/format/mean": [(1, 0.5), (2, 1.0)],
        "rewards/accuracy/mean": [(1, 0.25), (2, 0.5)],
        "dev score": [(0, 0.1), (100, 0.4)],
        "something else": [(1, 1.0)],
    }
    assert [title for title, _ in plots.panels(logged)] == ["Reward", "Reward by part", "Score on held-out rows"]
    figure = plots.curves(logged)
    reward, parts, dev = (axes for axes in figure.axes if axes.get_visible())
    raw, smooth = reward.lines
    assert [tuple(map(float, p)) for p in zip(*raw.get_data(), strict=True)] == [(float(s), v) for s, v in logged["reward"]]
    assert smooth.get_ydata()[-1] == pytest.approx(np.mean([s / 100 for s in range(93, 101)]))
    assert {"format", "accuracy"} <= {t.get_text() for t in parts.texts}
    assert list(dev.lines[0].get_ydata()) == [0.1, 0.4]


def test_the_running_mean_knows_nothing_of_later_steps() -> None:
    assert plots._running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_a_scatter_shows_the_runs_that_know_what_they_took(cells: list[Cell]) -> None:
    spent = {cells[0].run: 1.0, cells[1].run: 30.0}
    figure = plots.scatter(cells, table.labels(cells), spent, "seconds to answer")
    (axes,) = figure.axes
    points = {
        (float(x), float(y)) for line in axes.lines if line.get_marker() == "o" for x, y in zip(*line.get_data(), strict=True)
    }
    assert points == {(1.0, cells[0].value), (30.0, cells[1].value)}
    assert axes.get_xscale() == "log", "more than twentyfold"
    assert "half" not in texts(figure)


def test_judges_agree_as_statsmodels_counts_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", "1111?1000000")
    make_run(tmp_path, "one", "110110?00101", judge="human-rater", version="2", finished=False)
    (folder,) = (tmp_path / "one").iterdir()
    assert folder == run.path
    shelf = Shelf([tmp_path])
    (found,) = agreements(shelf, next(iter(shelf.tables.values())))
    assert (found.first, found.second) == ("exact@1", "human-rater@2"), "the human is the one to agree with"
    pairs = [(int(a), int(b)) for a, b in zip("1111?1000000", "110110?00101", strict=True) if "?" not in a + b]
    clusters = [i // 2 for i, (a, b) in enumerate(zip("1111?1000000", "110110?00101", strict=True)) if "?" not in a + b]
    share = mean_interval([float(a == b) for a, b in pairs], clusters)
    raw, kappa = found.found.raw, found.found.kappa.value
    assert (raw.value, raw.low, raw.high, found.found.n) == (share.value, share.low, share.high, share.n)
    assert kappa == pytest.approx(cohens_kappa(to_table(np.array(pairs))[0]).kappa)
    ((_, only_second), (only_first, _)) = found.found.confusion
    assert (only_first, only_second) == (sum(p == (1, 0) for p in pairs), sum(p == (0, 1) for p in pairs))
    figure = plots.agreement([found])
    assert any(f"κ {kappa:.3f}" in t for t in texts(figure))


def figures(cells: list[Cell], name: str) -> dict[str, object]:
    named = [c.model_copy(update={"model": name, "task": name, "prompt": name}) for c in cells]
    labels = {c.run: f"{name} {i}" for i, c in enumerate(named)}
    same = agreement({"1": 1, "2": 0}, {"1": 1, "2": 1}, {"1": 1, "2": 2})
    return {
        "forest": plots.forest(named, labels),
        "heat": plots.heat(name, [(name, named)], [name] * 3),
        "curves": plots.curves({f"rewards/{name}/mean": [(1, 1.0), (2, 2.0)], "rewards/b/mean": [(1, 1.0)]}),
        "scatter": plots.scatter(named, labels, {c.run: 1.0 + i for i, c in enumerate(named)}, "seconds"),
        "agreement": plots.agreement([Agreement(name, name, name, same)]),
    }


@pytest.mark.parametrize("name", ["model", f"--><script>x()</script> $x^{{{HOSTILE}$", "肺炎 模型", "a\nb"])
def test_any_name_can_be_drawn_and_the_same_numbers_are_the_same_bytes(cells: list[Cell], name: str) -> None:
    twice = [{kind: plots.encode(f, "svg") for kind, f in figures(cells, name).items()} for _ in range(2)]  # type: ignore[arg-type]
    assert twice[0] == twice[1]
    for svg in twice[0].values():
        found = list(ET.fromstring(svg).iter())
        assert not {"script", "img", "foreignObject"} & {e.tag.rpartition("}")[2] for e in found}
        assert not [k for e in found for k in e.attrib if k.startswith("on")]
        assert not [
            v for e in found for k, v in e.attrib.items() if k.endswith("href") and not v.startswith(("#", "data:image/png"))
        ]
        assert not set("\u202e\u202c\x00") & set(svg.decode())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_png_is_fine_enough_for_print_and_has_the_themes_ground(cells: list[Cell], theme: plots.Theme) -> None:
    image = Image.open(io.BytesIO(plots.encode(plots.forest(cells, table.labels(cells), theme), "png"))).convert("RGB")
    assert image.width == round(plots.WIDTH * plots.PNG_DPI)
    ground = COLOURS[theme].ground
    assert image.getpixel((2, 2)) == tuple(int(ground[i : i + 2], 16) for i in (1, 3, 5))
