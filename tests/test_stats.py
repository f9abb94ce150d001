"""Error bars: equal to statsmodels where that is the standard, and covering the truth as often as they say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from leaderboard import stats
from leaderboard.stats import macro_interval, mean_interval, paired_difference, standard_error, totals_interval


def questions(
    images: int = 40, each: int = 7, share: float = 0.6, icc: float = 0.15, seed: int = 0, *, even: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """0/1 verdicts for `each` questions about each image, correlated within an image by `icc` (beta-binomial)."""
    rng = np.random.default_rng(seed)
    k = (1 - icc) / icc
    p = rng.beta(share * k, (1 - share) * k, images)
    sizes = np.full(images, each) if even else rng.integers(1, 2 * each, images)
    clusters = np.repeat(np.arange(images), sizes)
    return (rng.random(len(clusters)) < p[clusters]).astype(float), clusters


def statsmodels_interval(y: np.ndarray, clusters: np.ndarray, level: float) -> tuple[float, float, float, float]:
    """Where images are unevenly large, statsmodels' standard error with the degrees of freedom of the effective images."""
    from scipy import stats as scipy_stats
    from statsmodels.api import OLS

    fit = OLS(y, np.ones(len(y))).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    value, error, sizes = float(fit.params[0]), float(fit.bse[0]), np.unique(clusters, return_counts=True)[1]
    if sizes.min() == sizes.max():
        low, high = fit.conf_int(1 - level)[0]
        return value, float(low), float(high), float(fit.pvalues[0])
    adds = sizes * (0.85 + 0.15 * sizes)
    t = scipy_stats.t(adds.sum() ** 2 / (adds @ adds) - 1)
    half = t.ppf(0.5 + level / 2) * error
    return value, value - half, value + half, float(2 * t.sf(abs(value) / error))


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize(("seed", "level"), [(0, 0.95), (1, 0.95), (2, 0.9), (3, 0.99)])
def test_the_interval_of_a_share_is_statsmodels_cluster_t(seed: int, level: float, even: bool) -> None:
    y, clusters = questions(seed=seed, even=even)
    ours = mean_interval(list(y), list(clusters), level)
    value, low, high, _ = statsmodels_interval(y, clusters, level)
    assert ours.method == "cluster t"
    assert (ours.value, ours.low, ours.high) == pytest.approx((value, low, high), abs=1e-12)
    assert (ours.n, ours.clusters) == (len(y), 40)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_paired_difference_is_statsmodels_cluster_t_of_the_differences(seed: int, even: bool) -> None:
    a, clusters = questions(seed=seed, even=even)
    b = np.where(np.random.default_rng(seed + 100).random(len(a)) < 0.25, 1 - a, a)
    ours = paired_difference(list(a), list(b), list(clusters))
    value, low, high, p = statsmodels_interval(a - b, clusters, 0.95)
    assert (ours.method, ours.p_method) == ("cluster t", "cluster t test")
    assert (ours.value, ours.low, ours.high, ours.p) == pytest.approx((value, low, high, p), abs=1e-12)


def test_the_order_and_the_names_of_clusters_do_not_matter() -> None:
    y, clusters = questions()
    shuffled = np.random.default_rng(9).permutation(len(y))
    again = mean_interval(y[shuffled].tolist(), [f"image {c}" for c in clusters[shuffled]])
    first = mean_interval(y.tolist(), clusters.tolist())
    assert (again.low, again.high) == pytest.approx((first.low, first.high), abs=1e-12)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (104, 148), (148, 148), (1, 1), (7, 8)])
def test_one_row_per_image_gives_wilson(right: int, n: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    ours = mean_interval([1] * right + [0] * (n - right), range(n))
    assert ours.method == "Wilson"
    assert (ours.low, ours.high) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-12)


def test_all_right_gets_a_width_from_the_number_of_images_not_of_rows() -> None:
    ours = mean_interval([1] * 60, [i // 3 for i in range(60)])
    assert ours.method == "Wilson on effective clusters"
    assert (ours.value, ours.high) == (1.0, 1.0)
    assert ours.low == pytest.approx(20 / (20 + 1.959963984540054**2), abs=1e-12)


def test_clusters_that_all_have_the_same_share_do_not_give_a_zero_width() -> None:
    ours = mean_interval([1, 0] * 30, [i // 2 for i in range(60)])
    assert ours.method == "Wilson on effective clusters"
    assert ours.high - ours.low > 0.3


def test_few_clusters_and_a_few_big_ones_count_as_few() -> None:
    even = mean_interval([1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 2, 2])
    uneven = mean_interval([1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 2])  # 36/18 = 2 effective clusters
    assert even.method == uneven.method == "Wilson on effective clusters"
    assert uneven.high - uneven.low > even.high - even.low


def test_nearly_all_right_uses_the_score_interval_with_the_design_effect() -> None:
    y = np.ones(96 * 11)
    y[:22] = 0  # two images wrong throughout
    clusters = np.arange(96).repeat(11)
    ours = mean_interval(y.tolist(), clusters.tolist())
    _, low, high, _ = statsmodels_interval(y, clusters, 0.95)
    assert ours.method == "Wilson on effective rows"
    assert ours.high < 1 < high, "the t interval leaves [0, 1]"
    assert ours.low < low


@pytest.mark.parametrize(
    ("values", "clusters"),
    [([], []), ([1, 0], [1]), ([float("nan")], [0]), ([2], [0]), ([-0.1], [0])],
    ids=["no rows", "lengths differ", "nan", "above 1", "below 0"],
)
def test_impossible_data_are_refused(values: list[float], clusters: list[int]) -> None:
    with pytest.raises(ValueError):
        mean_interval(values, clusters)


rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 12)), min_size=1, max_size=80)


@settings(max_examples=300, deadline=None)
@given(rows)
def test_every_interval_is_finite_possible_and_not_of_zero_width(data: list[tuple[int, int, int]]) -> None:
    a, b, clusters = zip(*data, strict=True)
    mean, diff = mean_interval(a, clusters), paired_difference(a, b, clusters)
    assert 0 <= mean.low <= mean.value <= mean.high <= 1
    assert -1 <= diff.low <= diff.value <= diff.high <= 1
    assert 0 <= diff.p <= 1
    assert min(mean.high - mean.low, diff.high - diff.low) > 0.001
    turned = paired_difference(b, a, clusters)
    assert (turned.value, turned.low, turned.high, turned.p) == pytest.approx(
        (-diff.value, -diff.high, -diff.low, diff.p), abs=1e-9
    )


@pytest.mark.parametrize(("only_a", "only_b"), [(4, 0), (11, 3), (30, 10), (5, 5), (0, 0)])
def test_without_clusters_the_p_value_is_mcnemars_exact_one(only_a: int, only_b: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    a = [1] * only_a + [0] * only_b + [1] * 100
    b = [0] * only_a + [1] * only_b + [1] * 100
    ours = paired_difference(a, b, range(len(a)))
    assert (ours.method, ours.p_method) == ("Bonett-Price", "exact McNemar")
    assert ours.p == pytest.approx(
        mcnemar([[100, only_a], [only_b, 0]], exact=True).pvalue if only_a + only_b else 1.0, abs=1e-12
    )


def test_the_papers_headline_difference_is_not_significant() -> None:
    """104 against 100 of 148 right: at best four discordant rows, so p = 0.125 (one question an image assumed)."""
    ours = paired_difference([1] * 104 + [0] * 44, [1] * 100 + [0] * 48, range(148))
    assert ours.p == pytest.approx(0.125, abs=1e-12)
    assert ours.low < 0 < ours.value == pytest.approx(4 / 148)


def test_bonett_and_prices_worked_formula() -> None:
    """(12+1)/(100+2) against (2+1)/(100+2): 0.0980 +- 1.96 sqrt((16/102 - 0.0980^2) / 102)."""
    a, b = [1] * 12 + [0] * 2 + [1] * 86, [0] * 12 + [1] * 2 + [1] * 86
    ours = paired_difference(a, b, range(100))
    centre = 10 / 102
    half = 1.959963984540054 * math.sqrt((16 / 102 - centre**2) / 102)
    assert (ours.value, ours.low, ours.high) == pytest.approx((0.1, centre - half, centre + half), abs=1e-12)


def test_the_sign_flip_counts_every_flip() -> None:
    sums = np.array([3.0, -1.0, 2.0, 0.0, 5.0])
    totals = [abs(sum(f * s for f, s in zip(flips, sums, strict=True))) for flips in itertools.product((-1, 1), repeat=5)]
    assert stats._sign_flip(sums) == pytest.approx(np.mean([t >= 9 for t in totals]), abs=1e-12)


def test_few_flipped_images_get_an_exact_p_value_and_a_wide_enough_interval() -> None:
    a = [1] * 60
    b = [0, 0, 1, 0, 1, 1] + [1] * 54  # wrong in the first two images only
    ours = paired_difference(a, b, [i // 3 for i in range(60)])
    assert (ours.method, ours.p_method) == ("Bonett-Price on effective rows", "exact cluster sign flip")
    assert ours.p == 0.5
    assert ours.low < 0 < ours.value < ours.high


def test_runs_that_agree_everywhere_differ_by_nothing_give_or_take() -> None:
    ours = paired_difference([1, 0] * 30, [1, 0] * 30, [i // 3 for i in range(60)])
    assert (ours.value, ours.p) == (0.0, 1.0)
    assert ours.low == -ours.high < 0


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # R: p.adjust(p, "holm")
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([0.03, 0.02, 0.02], [0.06, 0.06, 0.06]),
    ],
)
def test_holms_correction(p_values: list[float], adjusted: list[float]) -> None:
    assert stats.holm(p_values) == pytest.approx(adjusted, abs=1e-12)


def test_holm_of_nothing_is_nothing() -> None:
    assert stats.holm([]) == []


def coverage(images: int, each: int, share: float, icc: float, draws: int) -> tuple[float, float]:
    """How often the clustered interval, and Wilson's over single rows, hold the true share."""
    rng = np.random.default_rng(20240)
    k = (1 - icc) / icc
    sums = rng.binomial(each, rng.beta(share * k, (1 - share) * k, (draws, images)))
    sizes = [each] * images
    ours = [totals_interval(s, sizes) for s in sums]
    naive = [stats.wilson(i.value, i.n, 1.96) for i in ours]
    return float(np.mean([i.low <= share <= i.high for i in ours])), float(np.mean([low <= share <= high for low, high in naive]))


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_95_percent_intervals_cover_95_percent_of_the_time(share: float) -> None:
    """96 images x 11 questions, ICC 0.15, as in SLAKE's test split."""
    ours, naive = coverage(96, 11, share, icc=0.15, draws=6000)
    assert 0.93 <= ours <= 0.97
    assert naive < 0.82, "intervals that ignore the images cover far too little"


@pytest.mark.parametrize(
    ("images", "each", "share"), [(96, 11, 0.98), (96, 11, 0.995), (20, 5, 0.95), (10, 11, 0.9), (5, 11, 0.6)]
)
def test_small_and_extreme_samples_are_covered_too(images: int, each: int, share: float) -> None:
    """Where the t interval covers 79 to 91 %. Too wide is allowed here, too narrow is not."""
    ours, _ = coverage(images, each, share, icc=0.15, draws=3000)
    assert 0.925 <= ours <= 0.99


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    "sizes", [[2] * 20 + [40] * 5, [1] * 100 + [10] * 10, [1] * 20 + [60]], ids=["five big", "ten big", "one big"]
)
def test_a_few_big_images_among_small_ones_are_covered_too(sizes: list[int], share: float) -> None:
    """Where degrees of freedom from the number of images cover 53 to 94 %. One big image is nearly all that there is."""
    rng = np.random.default_rng(20241)
    k, draws = (1 - 0.15) / 0.15, 2000
    drawn = rng.binomial(sizes, rng.beta(share * k, (1 - share) * k, (draws, len(sizes))))
    found = [totals_interval(s, sizes) for s in drawn]
    assert np.mean([i.low <= share <= i.high for i in found]) >= 0.925


def test_clusters_of_one_size_all_count() -> None:
    assert stats.effective(np.full(96, 11.0)) == 96
    assert stats.effective(np.array([1.0] * 20 + [60])) < 1.2


def test_paired_differences_are_covered_too() -> None:
    """Two runs whose verdicts flip per image: the true difference is the difference of the flip rates."""
    rng = np.random.default_rng(5)
    draws, images, each, better, worse = 2000, 96, 11, 0.12, 0.08
    clusters = np.arange(images).repeat(each)
    held = 0
    for _ in range(draws):
        flip = rng.dirichlet([better * 5.67, worse * 5.67, (1 - better - worse) * 5.67], images)[clusters]
        u = rng.random(len(clusters))
        a, b = u < flip[:, 0], (u >= flip[:, 0]) & (u < flip[:, 0] + flip[:, 1])
        ours = paired_difference(a.astype(int).tolist(), b.astype(int).tolist(), clusters.tolist())
        held += ours.low <= better - worse <= ours.high
    assert 0.93 <= held / draws <= 0.97


def bootstrap_interval(sums: np.ndarray, sizes: np.ndarray, rng: np.random.Generator, draws: int = 400) -> tuple[float, float]:
    """The percentile cluster bootstrap: whole images drawn with replacement."""
    drawn = rng.integers(0, len(sums), (draws, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize(("images", "each", "share"), [(96, 11, 0.995), (10, 11, 0.9), (5, 11, 0.6)])
def test_the_cluster_bootstrap_covers_less_where_samples_are_small_or_extreme(images: int, each: int, share: float) -> None:
    """Why Wilson on effective rows takes over there, and not the bootstrap (benchmarks/coverage.py has the whole table)."""
    rng = np.random.default_rng(11)
    k = (1 - 0.15) / 0.15
    sizes = np.full(images, each)
    held = {"ours": 0, "bootstrap": 0}
    draws = 600
    for _ in range(draws):
        sums = rng.binomial(each, rng.beta(share * k, (1 - share) * k, images))
        ours, bootstrap = totals_interval(sums, sizes), bootstrap_interval(sums, sizes, rng)
        held["ours"] += ours.low <= share <= ours.high
        held["bootstrap"] += bootstrap[0] <= share <= bootstrap[1]
    assert held["ours"] / draws >= 0.92
    assert held["bootstrap"] / draws < 0.88


# -- the average over tasks -------------------------------------------------------------------------------------------


def part(y: np.ndarray, clusters: np.ndarray, name: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    return [f"{name} {c}" for c in np.unique(clusters)], np.bincount(clusters, weights=y), np.bincount(clusters).astype(float)


def test_the_average_of_one_task_is_that_task() -> None:
    y, clusters = questions()
    alone, average = mean_interval(list(y), list(clusters)), macro_interval([part(y, clusters, "a")])
    assert average.method == "cluster t over tasks"
    assert (average.value, average.low, average.high) == pytest.approx((alone.value, alone.low, alone.high), abs=1e-12)


def test_tasks_with_images_of_their_own_add_their_variances() -> None:
    """sqrt(se_a^2 + se_b^2) / 2, but for the small-sample factor, which knows all 80 images; t as for the smaller of the two."""
    from scipy import stats as scipy_stats

    (a, in_a), (b, in_b) = questions(seed=1), questions(seed=2, share=0.8)
    average = macro_interval([part(a, in_a, "a"), part(b, in_b, "b")])
    errors = [standard_error(*part(y, c, "")[1:]) for y, c in ((a, in_a), (b, in_b))]
    least = min(stats.effective(np.bincount(c).astype(float)) for c in (in_a, in_b))
    half = scipy_stats.t(least - 1).ppf(0.975) * math.hypot(*errors) / 2
    assert average.value == pytest.approx((a.mean() + b.mean()) / 2)
    assert average.high - average.low == pytest.approx(2 * half * math.sqrt(80 / 79 / (40 / 39)), abs=1e-12)
    assert (average.n, average.clusters) == (len(a) + len(b), 80)


def test_a_task_counted_twice_has_the_width_of_one() -> None:
    y, clusters = questions()
    once, twice = (macro_interval([part(y, clusters, "a")] * k) for k in (1, 2))
    assert (twice.low, twice.high, twice.clusters) == pytest.approx((once.low, once.high, 40), abs=1e-12)


def test_where_a_task_has_too_little_for_t_the_tasks_intervals_are_combined() -> None:
    y, clusters = questions()
    few = part(np.ones(6), np.arange(6), "b")
    a, b = mean_interval(list(y), list(clusters)), mean_interval([1] * 6, range(6))
    average = macro_interval([part(y, clusters, "a"), few])
    assert average.method == "tasks' intervals combined"
    assert average.low == pytest.approx((a.value + 1) / 2 - math.hypot(a.value - a.low, 1 - b.low) / 2)
    shared = macro_interval([part(y, clusters, "a"), (["a 0", *few[0][1:]], *few[1:])])
    assert shared.low == pytest.approx((a.value + 1) / 2 - (a.value - a.low + 1 - b.low) / 2), "they may go together"


@pytest.mark.parametrize("shared", [False, True])
def test_averages_are_covered_too(shared: bool) -> None:
    """Two tasks of 60 images x 6 questions with shares 0.6 and 0.8, about images of their own or about the same ones."""
    rng = np.random.default_rng(8)
    draws, images, each, k = 2500, 60, 6, (1 - 0.15) / 0.15
    sizes = np.full(images, float(each))
    held = 0
    for _ in range(draws):
        hard = rng.random(images) if shared else None
        parts = []
        for name, share in (("a", 0.6), ("b", 0.8)):
            p = beta.ppf(hard, share * k, (1 - share) * k) if shared else rng.beta(share * k, (1 - share) * k, images)
            parts.append(([f"{'' if shared else name}{i}" for i in range(images)], rng.binomial(each, p).astype(float), sizes))
        average = macro_interval(parts)
        held += average.low <= 0.7 <= average.high
    assert 0.93 <= held / draws <= 0.97


def test_an_average_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError):
        macro_interval([])
