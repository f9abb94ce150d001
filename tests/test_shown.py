"""What is shown is what was measured: every number of every surface, counted anew from the lines of the run folders."""

from __future__ import annotations

import csv
import doctest
import html
import io
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.proportion import proportion_confint

from harness import shown
from harness.records import ImageRef, Reference, Sample
from harness.runs import RunFolder
from leaderboard.site.library import Library, Shelf
from leaderboard.site.pages import ServerLinks, Site
from leaderboard.site.pictures import Pictures
from leaderboard.stats import macro_interval, mean_interval
from tests.run_folders import make_run

#: How many questions each image has.
SIZES = (7, 1, 1, 2, 3, 1, 5, 2, 2, 1, 1, 4, 6, 1, 2, 1)


def about_images(sizes: tuple[int, ...], task: str) -> list[Sample]:
    pictures = [k for k, size in enumerate(sizes) for _ in range(size)]
    return [
        Sample(id=f"{task}-{i}", images=(ImageRef(f"{k}.png", data=b"%s %d" % (task.encode(), k)),), question=f"Question {i}?",
               reference=Reference(answers=("yes",)), slices={"half": "first" if i % 2 else "second"})
        for i, k in enumerate(pictures)
    ]  # fmt: skip


def without_images(count: int) -> list[Sample]:
    return [
        Sample(id=f"text-{i}", images=(), question=f"Question {i}?", reference=Reference(answers=("yes",))) for i in range(count)
    ]


def sampled(samples: list[Sample], times: int) -> list[Sample]:
    return [s.model_copy(update={"id": f"{s.id}#{k}", "repeat_of": s.id}) for s in samples for k in range(times)]


PICTURES = about_images(SIZES, "pictures")
TASKS = {
    "pictures": PICTURES,
    "one_image": about_images((6,), "one_image"),
    "texts": without_images(30),
    "thrice": sampled(about_images((2, 1, 1, 2, 1, 1, 1, 1), "thrice"), 3),
}
LETTERS = {
    "every": lambda n: "1" * n,
    "none": lambda n: "0" * n,
    "mixed": lambda n: ("1101001110" * n)[:n],
    "gaps": lambda n: ("11?1001?10" * n)[:n],
    "few gaps": lambda n: ("?" + "1110110111" * n)[:n],
    "stopped": lambda n: ("110100111" * n)[: n - 3] + "---",
}


@dataclass(frozen=True)
class Counted:
    """A judge's word on a run, from its files alone."""

    model: str
    task: str
    judge: str
    values: dict[str, int]
    cluster: dict[str, str]
    card: dict[str, Any]
    missing: int
    cut: float
    answered: int

    @property
    def interval(self) -> Any:
        return mean_interval([self.values[i] for i in self.values], [self.cluster[i] for i in self.values])

    @property
    def clusters(self) -> int:
        return len({self.cluster[i] for i in self.values})

    @property
    def ranked(self) -> bool:
        return bool(self.card["finished"]) and len(self.values) >= 0.98 * len(self.cluster)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def counted(runs: Path) -> list[Counted]:
    out = []
    for path in sorted(runs.glob("*/*/card.json")):
        card, folder = json.loads(path.read_text(encoding="utf-8")), path.parent
        cluster = {row["id"]: row["cluster"] for row in lines(folder / "samples.jsonl")}
        said = {row["sample_id"]: row for row in lines(folder / "predictions.jsonl")}
        for file in sorted((folder / "verdicts").glob("*.jsonl")):
            last = {row["sample_id"]: row for row in lines(file)}
            values = {i: last[i]["final"] for i in cluster if i in last and last[i]["final"] is not None}
            cut = sum(row["finish"] == "length" for row in said.values()) / len(said)
            of = (card["model"]["name"], card["data"]["task"], file.stem)
            out.append(Counted(*of, values, cluster, card, len(cluster) - len(values), cut, len(said)))
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    for task, samples in TASKS.items():
        more: dict[str, Any] = {"task": task, "fingerprint": f"rows of {task}", "repeats": 3 if task == "thrice" else 1}
        for model, letters in LETTERS.items():
            given = letters(len(samples))
            folder = make_run(out, model, given, samples=samples, truncated=3 if model == "mixed" else 0,
                              finished=model != "stopped", **more)  # fmt: skip
            if model in ("mixed", "gaps"):
                other = LETTERS["gaps"](len(samples))[::-1]
                make_run(
                    out,
                    model,
                    other,
                    samples=samples,
                    judge="human:ward",
                    version="7",
                    truncated=3 if model == "mixed" else 0,
                    **more,
                )
            spent(folder, model)
    whole = RunFolder(next((out / "mixed").glob("pictures-*")))
    first = whole.verdicts("exact", "1")[PICTURES[0].id]
    whole.add_verdicts(
        "exact", "1", [first.model_copy(update={"final": 1 - (first.final or 0)})]
    )  # judged again: the later line holds
    make_run(out, "every", "10101", samples=PICTURES[:5], task="pictures", fingerprint="five rows", limit=5)  # a smoke run
    return out


def spent(folder: RunFolder, model: str) -> None:
    """As an API that names its prices, one that does not, and a model of one's own would leave it."""
    card = folder.card()
    use = {"answered": 9, "failed": 0, "tries": 9, "prompt_tokens": 90, "completion_tokens": 9, "served": {"m": 9}}
    usage = {"every": use | {"cost_usd": 1.234567}, "none": use | {"cost_usd": None}}.get(model, {})
    judges = {"exact@1": {"use": use | {"cost_usd": 0.5}}} if model == "mixed" else {}
    seconds = {"generate": 84.0, "judge:exact@1": 3.0}
    folder.write_card(card.model_copy(update={"usage": usage, "judges": judges, "seconds": seconds}))


@pytest.fixture(scope="module")
def all_counted(runs: Path) -> list[Counted]:
    found = counted(runs)
    assert len(found) == 4 * 6 + 4 * 2 + 1
    return found


@pytest.fixture(scope="module")
def site(runs: Path) -> Site:
    return Site(Shelf([runs]), Pictures(), ServerLinks())


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def numbers(c: Counted, dash: str = "–") -> tuple[str, ...]:
    """Score, interval, n and clusters as every table has them side by side."""
    i = c.interval
    return percent(i.value), f"{percent(i.low)} {dash} {percent(i.high)}", str(len(c.values)), str(c.clusters)


def rows_of(page: str) -> list[list[str]]:
    """The tables' rows, each cell's text."""
    found = re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    cells = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in found]
    return [
        [" ".join(html.unescape(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", cell, flags=re.DOTALL)).split()) for cell in row]
        for row in cells
    ]


def named(page: str, model: str) -> list[list[str]]:
    """The rows of this model; it stands after a box to choose it, or first."""
    return [row for row in rows_of(page) if model in row[:2]]


def of_table(c: Counted, tables: dict[str, Any]) -> Any:
    return next(
        t
        for t in tables.values()
        if (t.first.task, t.judge) == (c.task, c.judge) and any(x.samples == len(c.cluster) for x in t.cells)
    )


# -- a run's own numbers ----------------------------------------------------------------------------------------------


def test_the_fixture_is_awkward(all_counted: list[Counted]) -> None:
    assert {c.ranked for c in all_counted} == {True, False}
    uneven = [c for c in all_counted if abs((c.interval.high - c.interval.value) - (c.interval.value - c.interval.low)) > 0.01]
    assert len(uneven) > 10
    assert {c.interval.value for c in all_counted} >= {0.0, 1.0}


def test_json_and_csv(runs: Path, all_counted: list[Counted], command: Any) -> None:
    _, out, _ = command("leaderboard", "--runs", runs, "--json")
    cells = {
        (c["model"], c["task"], f"{c['judge'].replace(':', '-')}@{c['judge_version']}", c["samples"]): c
        for c in json.loads(out)["cells"]
    }
    _, out, _ = command("leaderboard", "--runs", runs, "--csv")
    lines = {
        (r["model"], r["task"], f"{r['judge'].replace(':', '-')}@{r['judge_version']}", int(r["samples"])): r
        for r in csv.DictReader(io.StringIO(out))
    }
    assert len(cells) == len(lines) == len(all_counted)
    for c in all_counted:
        cell, line = (found[c.model, c.task, c.judge, len(c.cluster)] for found in (cells, lines))
        i, right, asked = c.interval, sum(c.values.values()), len(c.cluster)
        assert (cell["value"], cell["low"], cell["high"]) == (i.value, i.low, i.high)
        assert (cell["n"], cell["clusters"], cell["missing"], cell["predicted"]) == (
            len(c.values),
            c.clusters,
            c.missing,
            c.answered,
        )
        assert (cell["coverage"], cell["bound_low"]) == (len(c.values) / asked, right / asked)
        assert cell["bound_high"] == (right + c.missing) / asked
        assert (cell["ranked"], cell["truncated"]) == (c.ranked, c.cut)
        assert cell["clustered_by"] == ("question" if c.task == "texts" else "image")
        assert cell["cost"] == {"every": 1.234567, "none": "unknown"}.get(c.model if asked > 5 else "")
        assert cell["judge_cost"] == (0.5 if (c.model, c.judge) == ("mixed", "exact@1") else None)
        assert cell["seconds"] == (84.0 if asked > 5 else None)
        for name in ("value", "low", "high", "coverage", "bound_low", "bound_high", "truncated"):
            assert float(line[name]) == cell[name]
        assert (line["n"], line["clusters"], line["ranked"]) == (str(cell["n"]), str(cell["clusters"]), str(cell["ranked"]))


def test_terminal(runs: Path, all_counted: list[Counted], command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    _, out, _ = command("leaderboard", "--runs", runs)
    heads = {
        "pictures": f"{sum(SIZES)} questions",
        "texts": "30 questions",
        "thrice": "10 questions x 3 samples",
        "one_image": "6 questions",
    }
    parts = re.split(r"\n(?=\w+ · test · )", out)[1:]
    for c in all_counted:
        head = "5 questions (--limit 5)" if len(c.cluster) == 5 else heads[c.task]
        (part,) = (p for p in parts if p.startswith(f"{c.task} · test · {head}") and f"judge {c.judge.replace('-', ':', 1)}" in p)
        score, between, n, clusters = map(re.escape, numbers(c))
        assert re.search(rf"^ *{c.model}\b.*? {score} +{between} +{n} +{clusters}\b", part, re.MULTILINE), (c.model, c.task, part)
        assert ("questions" if c.task == "texts" else "images") in part.splitlines()[3]
        if c.cut:
            assert percent(c.cut) in part
        if c.missing and c.answered == len(c.cluster) and not c.ranked:
            low, high = sum(c.values.values()) / len(c.cluster), (sum(c.values.values()) + c.missing) / len(c.cluster)
            assert f"{percent(low)} if the other {c.missing} were all wrong, {percent(high)} if all right" in " ".join(
                part.split()
            )
    assert "$1.2346" in out
    assert "unknown" in out


@pytest.mark.parametrize("form", ["--markdown", "--latex"])
def test_markdown_and_latex(runs: Path, all_counted: list[Counted], command: Any, form: str) -> None:
    _, out, _ = command("leaderboard", "--runs", runs, form)
    dash, bar = ("–", " | ") if form == "--markdown" else ("--", " & ")
    for c in all_counted:
        score, between, n, clusters = numbers(c, dash)
        assert bar.join((score, between, n, clusters, percent(len(c.values) / len(c.cluster)))) in out, (c.model, c.task)
    assert "±" not in out
    assert r"\pm" not in out


def test_pages(site: Site, all_counted: list[Counted]) -> None:
    index = site.page("index.html")
    sections = re.split(r'<section id="', index)
    for c in all_counted:
        t = of_table(c, site.shelf.tables)
        (section,) = (s for s in sections if s.startswith(t.id))
        (row,) = named(section, c.model)
        score, between, n, clusters = numbers(c)
        assert [row[i] for i in (3, 4)] == [score, between] if row[0] == "" else [row[2], row[3]] == [score, between]
        assert (n, clusters) in list(pairwise(row))
        head = rows_of(section)[0]
        assert ("Questions" if c.task == "texts" else "Images") in head
        if len(c.cluster) > 5:
            assert "1.4 min" in row
        if c.model in ("every", "none") and len(c.cluster) > 5:
            assert row[head.index("Cost")] == {"every": "$1.2346", "none": "unknown"}[c.model]
        run = next(
            r
            for r in site.shelf.runs.values()
            if r.card.model.name == c.model and r.card.data.task == c.task and r.card.data.rows == len(c.cluster)
        )
        page = " ".join(re.sub(r"<[^>]*>", " ", site.page(f"run-{run.id}.html")).split())
        assert f"{score} %" in page
        assert f"{between} ({c.interval.method})" in html.unescape(page)
        assert f"run-{run.id}.html" in section, "the name is a link"
    assert "10 questions x 3 samples" in index
    mixed = next(r for r in site.shelf.runs.values() if (r.card.model.name, r.card.data.task) == ("mixed", "pictures"))
    page = re.sub(r"<[^>]*>", " ", site.page(f"run-{mixed.id}.html"))
    assert re.search(r"\$0\.5000\s+cost of judge exact@1", page)
    assert re.search(r"3\.0 s\s+judge by exact@1", page)


def test_exports(runs: Path, all_counted: list[Counted], command: Any, tmp_path: Path) -> None:
    for c in all_counted:
        if not c.card["finished"] or len(c.cluster) == 5:
            continue
        folder = next((runs / c.model.replace(" ", "-")).glob(f"{c.task}-*"))
        folder = next(
            p for p in (runs / c.model.replace(" ", "-")).glob(f"{c.task}-*") if len(lines(p / "samples.jsonl")) == len(c.cluster)
        )
        judge, i = c.judge.replace("-", ":", 1), c.interval
        _, out, _ = command("export", "eee", folder, "-o", tmp_path / "eee", "--json")
        document = json.loads(Path(json.loads(out)["written"][0]).read_text(encoding="utf-8"))
        (result,) = (r for r in document["evaluation_results"] if r["metric_config"]["metric_name"] == f"final by {judge}")
        details = result["score_details"]
        assert details["score"] == i.value
        limits = details["uncertainty"]["confidence_interval"]
        assert (limits["lower"], limits["upper"], details["uncertainty"]["num_samples"]) == (i.low, i.high, len(c.values))
        assert f"({c.clusters} {'question' if c.task == 'texts' else 'image'}" in limits["method"]
        assert details["details"]["missing"] == str(c.missing)
        _, out, _ = command("export", "lm-eval-results", folder)
        document = json.loads(out)
        assert document["results"][c.task][f"{judge},none"] == i.value
        assert document["harness"][c.task][judge]["low"] == i.low
        _, out, _ = command("export", "model-card", folder)
        score, between, n, clusters = numbers(c)
        covered = percent(len(c.values) / len(c.cluster))
        assert f"| {judge} | {score} | {between} | {n} | {clusters} | {covered} % |" in out
        _, out, _ = command("export", "model-index", folder)
        assert f"value: {round(100 * i.value, 2)}" in out


# -- averages, comparisons, judges against each other -------------------------------------------------------------------


def test_averages(runs: Path, site: Site, all_counted: list[Counted], command: Any) -> None:
    """Those of the models that may be ranked in every task; the smoke run is in none."""
    by: dict[tuple[str, str], list[Counted]] = defaultdict(list)
    for c in all_counted:
        if len(c.cluster) > 5 and c.ranked:
            by[c.model, c.judge].append(c)
    wanted = {key: own for key, own in by.items() if len(own) == len(TASKS)}
    assert {model for model, _ in wanted} >= {"every", "none", "mixed"}
    _, out, _ = command("leaderboard", "--runs", runs, "--json")
    told = {(a["model"], f"{a['judge'].replace(':', '-')}@{a['judge_version']}"): a for a in json.loads(out)["averages"]}
    assert set(told) == set(wanted)
    index = site.page("index.html")
    matrix = [row for table in re.findall(r'<table class="matrix">.*?</table>', index, re.DOTALL) for row in rows_of(table)]
    for (model, judge), own in wanted.items():
        parts = []
        for c in sorted(own, key=lambda c: c.task):
            totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
            for i, value in c.values.items():
                name = c.cluster[i] if c.task != "texts" else f"texts/{i}"
                totals[name][0] += value
                totals[name][1] += 1
            parts.append((list(totals), [float(t[0]) for t in totals.values()], [float(t[1]) for t in totals.values()]))
        average, found = macro_interval(parts), told[model, judge]  # type: ignore[arg-type]
        assert found["value"] == pytest.approx(sum(c.interval.value for c in own) / len(own))
        assert (found["low"], found["high"]) == pytest.approx((average.low, average.high))
        cell = f"{percent(average.value)} {percent(average.low)} – {percent(average.high)}"
        assert [row[-1] for row in matrix if row[0] == model and row[-1] == cell], (model, cell)
    _, out, _ = command("leaderboard", "--runs", runs)
    assert "100.0" in out.partition("pictures · test")[0]


def test_a_comparison_says_the_same_everywhere(runs: Path, site: Site, command: Any) -> None:
    a, b = (next(p for p in (runs / m).glob("pictures-*") if len(lines(p / "samples.jsonl")) > 5) for m in ("mixed", "gaps"))
    _, out, _ = command("compare", a, b, "--judge", "exact", "--json")
    found = json.loads(out)
    x, y = ({row["sample_id"]: row["final"] for row in lines(p / "verdicts" / "exact@1.jsonl")} for p in (a, b))
    both = [i for i in x if x[i] is not None and y[i] is not None]
    assert found["n"] == len(both)
    assert found["difference"] == pytest.approx(sum(x[i] - y[i] for i in both) / len(both))
    assert (found["value_a"], found["value_b"]) == (sum(x[i] for i in both) / len(both), sum(y[i] for i in both) / len(both))
    assert sorted(found["only_a"]) == sorted(i for i in both if x[i] > y[i])
    _, out, _ = command("compare", a, b, "--judge", "exact")
    points = f"{100 * found['difference']:+.1f}"
    assert f"{points[1:]} points" in out
    assert f"95 % interval {100 * found['low']:+.1f} to {100 * found['high']:+.1f}" in out
    assert f"{len(both)} of {sum(SIZES)} questions on" in out
    ids = [next(r.id for r in site.shelf.runs.values() if r.path == p) for p in (a, b)]
    page = html.unescape(re.sub(r"<[^>]*>", " ", site.page(f"compare-{ids[0]}~{ids[1]}~exact@1.html")))
    assert " ".join(out.split("only mixed right")[0].split()) in " ".join(page.split())
    assert points.replace("-", "−") in page


def test_agreement_has_one_interval(runs: Path, site: Site, command: Any) -> None:
    folder = next((runs / "mixed").glob("texts-*"))
    _, out, _ = command("agreement", folder, "--judges", "exact,human:ward", "--json")
    (found,) = json.loads(out)
    a, b = ({r["sample_id"]: r["final"] for r in lines(folder / "verdicts" / f)} for f in ("exact@1.jsonl", "human-ward@7.jsonl"))
    both = [i for i in a if a[i] is not None and b.get(i) is not None]
    same = sum(a[i] == b[i] for i in both)
    low, high = proportion_confint(same, len(both), method="wilson")  # a question each: nothing to cluster
    raw = found["raw"]
    assert (raw["value"], found["n"]) == (same / len(both), len(both))
    assert (raw["low"], raw["high"]) == pytest.approx((low, high))
    between = f"{percent(low)} – {percent(high)}"
    _, out, _ = command("agreement", folder, "--judges", "exact,human:ward")
    assert f"agree on {percent(raw['value'])} ({between}) %" in out
    assert f"{len(both)} rows on {len(both)} questions" in out
    t = next(t for t in site.shelf.tables.values() if t.first.task == "texts" and t.judge == "exact@1")
    row = next(r for r in rows_of(site.page(f"table-{t.id}.html")) if r[:2] == ["exact@1 / human-ward@7", "mixed"])
    kappa = found["kappa"]
    assert row[2:4] == [percent(raw["value"]), between]
    assert row[4] == f"{kappa['value']:.3f} ({kappa['low']:.3f} – {kappa['high']:.3f})"


def test_the_functions_say_what_their_examples_say() -> None:
    from leaderboard.site import text

    for module in (shown, text):
        assert doctest.testmod(module).failed == 0


def test_the_summary_has_the_same_numbers(runs: Path, all_counted: list[Counted], tmp_path: Path) -> None:
    from leaderboard.site import summary

    summary.write(tmp_path / "s.html", Library([runs]).shelf(), Pictures())
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    for c in all_counted:
        rows = [row for row in named(page, c.model) if numbers(c)[:2] == tuple(row[2:4])]
        assert any(numbers(c)[2:] in list(pairwise(row)) for row in rows), (c.model, c.task)


def test_what_is_sent_of_samples_is_not_called_so_many_questions(slake: Any) -> None:
    from harness.models.endpoint import outgoing
    from harness.pipeline import repeated

    assert str(outgoing(repeated(slake, 3), images=False)) == "slake: 1,061 questions x 3 samples"
    assert str(outgoing(slake, images=False)) == "slake: 1,061 questions"


def test_what_training_changed_fits_and_shows_names_as_they_are(runs: Path) -> None:
    from rich.console import Console

    from leaderboard import story

    pictures = {
        m: next(p for p in (runs / m).glob("pictures-*") if len(lines(p / "samples.jsonl")) > 5) for m in ("none", "every")
    }
    domains = [story.Domain(f"domain {k}", f"d{k}", {"[b]x[/b]": pictures["none"], ":100:": pictures["every"]}) for k in range(3)]
    told = story.tell(domains, judge="exact", version="1")
    out = io.StringIO()
    told.render(Console(file=out, width=80))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "[b]x[/b]" in out.getvalue()
    assert ":100:" in out.getvalue()
    found = told.changes[1].difference
    assert found is not None
    assert out.getvalue().count(f" {100 * found.value:+.1f}") >= 3
    assert out.getvalue().count(f"{100 * found.low:+.1f} – {100 * found.high:+.1f}") == 3
