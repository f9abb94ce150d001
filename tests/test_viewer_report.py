"""`harness report` and `harness view` as commands: the folder of files, the single file, and what a user's mistake says."""

from __future__ import annotations

import base64
import hashlib
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from harness.errors import UserError
from harness.runs import RunFolder
from judges.exact import ExactJudge
from leaderboard import table
from leaderboard.compare import compare
from leaderboard.site import export, summary
from leaderboard.site.library import Library, Shelf
from leaderboard.site.pictures import Pictures
from tests.run_folders import make_run
from tests.viewed import HOSTILE, SHOWN, Page, Viewed, run_id

# -- the report -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(viewed: Viewed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    out, runs = folder / "out", folder / "runs"
    shutil.copytree(viewed.runs, runs, ignore=shutil.ignore_patterns("vqa_rad-*"))
    first = export.write(Library([runs], [viewed.checkpoint.parent]), Pictures(), out, most=40)
    assert first == out / "index.html"
    return out


def test_a_report_needs_nothing_outside_its_folder(written: Path, viewed: Viewed) -> None:
    pages = list(written.glob("*.html"))
    assert len(pages) > 60
    for path in pages:
        page = Page(path.read_text(encoding="utf-8"))
        for link in page.links("href", "src", "srcset"):
            if not link.startswith("data:"):
                assert (written / unquote(urldefrag(link)[0])).is_file(), f"{path.name}: {link}"
        (policy,) = (v for tag, k, v in page.attributes if tag == "meta" and k == "content" and "default-src" in v)
        assert policy.startswith("default-src 'none'; ")
        assert not set("\u202e\u202c\x00") & set(page.source)
        assert not [k for _, k, _ in page.attributes if k.startswith("on") or k == "style"]
    shown = {row["cluster"] for row in RunFolder(viewed.slake["tiny"]).samples()[:40]}
    assert {p.name for p in (written / "images").iterdir()} == {f"{image}.png" for image in shown}, "a row here has one image"
    assert (written / "plots" / "curves~tiny-sft.png").is_file()


def test_a_report_says_how_many_rows_it_left_out(written: Path, viewed: Viewed) -> None:
    assert "The first 40 of 60 rows" in (written / f"samples-{run_id(viewed.slake['tiny'])}.html").read_text(encoding="utf-8")


def test_long_names_fit_in_file_names_and_the_folder_may_be_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        make_run(tmp_path / "runs", f"{name}{'-long' * 60}", "111100001111")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    export.write(Library([tmp_path / "runs"]), Pictures(), Path("."), most=1)
    assert len(list((tmp_path / "out").glob("compare-*~*~exact@1.html"))) == 1


def test_a_report_is_whole_or_not_there_and_replaces_only_a_report(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "one", "111100001111")
    library = Library([tmp_path / "runs"])
    out = tmp_path / "out"

    def fail(step: str, done: int, total: int) -> None:
        if step == "plots":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export.write(library, Pictures(), out, most=2, report=fail)
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    export.write(library, Pictures(), out, most=2)
    (out / "old").touch()
    export.write(library, Pictures(), out, most=2)
    assert not (out / "old").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "runs"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(UserError, match="is no report"):
        export.write(library, Pictures(), mine)
    assert (mine / "thesis.tex").exists()


# -- one file ---------------------------------------------------------------------------------------------------------


def test_the_summary_is_one_file_that_forbids_everything_else(written: Path) -> None:
    page = Page((written / "summary.html").read_text(encoding="utf-8"))
    (policy,) = (v for tag, k, v in page.attributes if tag == "meta" and k == "content" and "default-src" in v)
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "script" not in page.tags
    assert not page.links("href", "srcset")
    assert page.links("src")
    assert all(v.startswith("data:image/jpeg;base64,") for v in page.links("src"))
    assert "http" not in page.source.replace('http-equiv="Content-Security-Policy"', "")


def test_the_summary_says_whether_the_best_is_really_ahead(written: Path, viewed: Viewed) -> None:
    text = Page((written / "summary.html").read_text(encoding="utf-8")).text
    cells, _ = table.cells([viewed.runs], tasks=["slake"], judges=["exact"])
    assert compare(Path(cells[0].run), Path(cells[1].run), "exact", ExactJudge.version).sentence() in text
    assert "✗ wrong" in text
    assert "✓ right" in text
    assert "By content type" in text
    assert f"model {SHOWN}" in text


def test_findings_that_are_given_stand_first_and_the_same_input_is_the_same_file(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "base", "1?1011000000", truncated=3)
    make_run(tmp_path / "runs", "sft", "111011000010", reasoning="1101")
    shelf = Shelf([tmp_path / "runs"])
    for name in ("a.html", "b.html"):
        summary.write(tmp_path / name, shelf, Pictures(), title=f"Title {HOSTILE}", findings=[f"Finding {HOSTILE}"])
    text = Page((tmp_path / "a.html").read_text(encoding="utf-8")).text
    assert f"Title {SHOWN}" in text
    assert f"Finding {SHOWN}" in text
    assert "base: not ranked, 11 of 12 judged" in text
    assert "no picture" in text, "these rows have none"
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_an_empty_folder_and_runs_without_verdicts_have_pages(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    summary.write(tmp_path / "empty.html", Shelf([tmp_path / "runs"]), Pictures())
    make_run(tmp_path / "runs", "base", "." * 12)
    summary.write(tmp_path / "one.html", Shelf([tmp_path / "runs"]), Pictures())
    assert "not judged" in (tmp_path / "one.html").read_text(encoding="utf-8")
    export.write(Library([tmp_path / "runs"]), Pictures(), tmp_path / "report")
    assert "not judged" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


# -- the commands -----------------------------------------------------------------------------------------------------


def harness(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_view_says_where_it_answers_and_ends_on_ctrl_c(viewed: Viewed, host: str) -> None:
    process = harness("view", "--runs", viewed.runs, "--host", host, "--port", 0, "--no-open")
    assert process.stdout
    address = process.stdout.readline().split()[0].replace("0.0.0.0", "127.0.0.1")
    assert ("token=" in address) == (host != "127.0.0.1")
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with browser.open(address) as answer:
        assert b"Leaderboard" in answer.read()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["view", "--runs", "nowhere"], "nowhere: no such folder of runs"),
        (["view", "--runs", ".", "--checkpoints", "nowhere"], "--checkpoints nowhere: no such folder"),
        (["view", "--runs", ".", "--data-dir", "nowhere"], "--data-dir nowhere: no such folder"),
        (["report", "nowhere"], "nowhere: no such folder of runs"),
        (["report", ".", "--out", "."], "is there already and is no report"),
    ],
)
def test_a_users_mistake_is_one_message(arguments: list[str], said: str) -> None:
    process = harness(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said in err
    assert "Traceback" not in err


def test_report_writes_the_folder_and_says_where(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "one", "111100001111")
    process = harness("report", tmp_path / "runs", "-o", tmp_path / "out", "--rows", 3, "--quiet")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert str(tmp_path / "out" / "index.html") in out.replace("\n", "")
    assert (tmp_path / "out" / "summary.html").is_file()
