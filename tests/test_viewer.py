"""The viewer without a browser: what its pages say, what it refuses, and that nothing hostile leaves a page as markup.

tests/test_viewer_browser.py looks at the same pages with a real one.
"""

from __future__ import annotations

import html
import io
import json
import re
import shutil
from collections import Counter, deque
from pathlib import Path
from urllib.parse import parse_qs, urldefrag, urlsplit

import pytest
from httpx import Response
from PIL import Image
from starlette.testclient import TestClient

from harness import data, specs
from harness.errors import UserError
from harness.records import GenerationArgs, ImageRef, Verdict
from harness.runs import RunFolder
from judges.exact import ExactJudge
from leaderboard import table
from leaderboard.browse import Filter, Row
from leaderboard.compare import compare
from leaderboard.site import app, library, training
from leaderboard.site.layout import Axis
from leaderboard.site.library import Library, Shelf
from leaderboard.site.pages import HERE
from leaderboard.site.pictures import NoPictureError, Pictures, encode, encode_small
from tests.run_folders import make_run, make_samples
from tests.viewed import EXACT, HOSTILE, SHOWN, Page, Viewed, run_id

pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")


def client(viewed: Viewed, **options: object) -> TestClient:
    made = app.create(Library([viewed.runs], [viewed.checkpoint.parent]), Pictures(), **options)  # type: ignore[arg-type]
    return TestClient(made, base_url="http://127.0.0.1:7117")


@pytest.fixture(scope="module")
def site(viewed: Viewed) -> TestClient:
    return client(viewed)


def viewer_of(runs: Path, **options: object) -> TestClient:
    """A viewer of these runs; an error in it is an error here."""
    return TestClient(app.create(Library([runs]), Pictures(), **options), base_url="http://127.0.0.1:7117")  # type: ignore[arg-type]


def row_of(answer: Response) -> str:
    """A page's text."""
    assert answer.status_code == 200
    return Page(answer.text).text


def test_a_damaged_verdict_file_breaks_no_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "110110")
    folder.add_verdicts("bad", "1", [Verdict(sample_id="q0", judge="bad", final=1, rationale="not to be trusted")])
    path = folder.verdict_path("bad", "1")
    path.write_text(path.read_text().replace('"final":1', '"final":7'))
    site = viewer_of(tmp_path)
    run = run_id(folder.path)
    assert "bad@1.jsonl:1: damaged line" in row_of(site.get(f"/run-{run}.html"))
    answers = row_of(site.get(f"/samples-{run}.html"))
    assert "Question 0?" in answers
    assert "not to be trusted" not in answers


def test_odd_values_beside_a_sound_verdict_break_no_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "110110")
    path = folder.verdict_path("exact", "1")
    path.write_text(
        path.read_text().replace('"usage":null', '"usage":{"cost":"x"}').replace('"rationale":null', '"rationale":"so"')
    )
    (row, *_) = Shelf([tmp_path]).browser.page(Filter()).rows
    verdict = row.verdicts["exact@1"]
    assert (verdict.final, verdict.rationale, verdict.usage) == (1, "so", None)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "nowhere"], ids=["zero byte", "too long", "gone"])
def test_a_cards_path_that_is_none_breaks_no_page(tmp_path: Path, path: str) -> None:
    folder = make_run(tmp_path, "base", "110110")
    card = folder.card()
    folder.write_card(card.model_copy(update={"model": card.model.model_copy(update={"path": path})}))
    site = viewer_of(tmp_path)
    for page in ("index.html", "trainers.html", f"run-{run_id(folder.path)}.html"):
        assert site.get(f"/{page}").status_code == 200


def test_a_step_that_is_no_step_shows_the_last(crawled: dict[str, Page], site: TestClient) -> None:
    (name,) = {a.partition("?")[0] for a in crawled if a.startswith("trainer-")}
    assert site.get(f"/{name}?step={'9' * 5000}").status_code == 200


def test_slices_whose_names_have_no_latin_letters_have_pages_of_their_own(tmp_path: Path) -> None:
    samples = [s.model_copy(update={"slices": {"模态": f"a{i % 2}", "部位": f"b{i % 2}"}}) for i, s in enumerate(make_samples(6))]
    make_run(tmp_path, "base", "110110", samples=samples)
    site = viewer_of(tmp_path)
    pages = [link for link in Page(site.get("/").text).links("href") if link.startswith("slice-")]
    assert len(set(pages)) == 2
    shown = {"a0" in (text := row_of(site.get(f"/{page}"))) and "b0" not in text for page in set(pages)}
    assert shown == {True, False}


def test_runs_that_were_divided_otherwise_do_not_stand_beside_each_other(tmp_path: Path) -> None:
    moved = [s.model_copy(update={"slices": {"modality": "CT"}}) for s in make_samples(6)]
    make_run(tmp_path, "best", "111111")
    folder = make_run(tmp_path, "other", "110110", samples=moved)
    card = folder.card()
    folder.write_card(card.model_copy(update={"generation": GenerationArgs(max_new_tokens=99)}))
    shelf = Shelf([tmp_path])
    (shown,) = shelf.tables.values()
    assert {c.model for c in shown.cells} == {"best", "other"}
    assert {c.model for c in shelf.slices_of(shown, "modality")} == {"best"}
    assert "not all were run alike: max_new_tokens 16 or 99" in row_of(viewer_of(tmp_path).get("/index.html"))


def test_a_run_that_kept_nothing_but_its_verdicts_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "base", "110110")
    make_run(tmp_path, "good", "110110")
    for name in ("card.json", "samples.jsonl", "predictions.jsonl"):
        (folder.path / name).unlink()
    (damaged,) = Shelf([tmp_path]).damaged
    assert (damaged.path, damaged.reason) == (str(folder.path), "no card.json: the run never began, or lost it")


@pytest.fixture(scope="module")
def crawled(site: TestClient) -> dict[str, Page]:
    """Every page that can be reached by links from the first one, but only some of the many plots and filtered lists."""
    waiting, seen, pages = deque(["index.html"]), {"index.html"}, {}
    kinds: Counter[str] = Counter()
    while waiting:
        address = waiting.popleft()
        answer = site.get(f"/{address}")
        assert answer.status_code == 200, address
        if "html" not in answer.headers["content-type"]:
            continue
        page = pages[address] = Page(answer.text)
        for link in {urldefrag(x)[0] for x in page.links("href", "src", "srcset")} - seen:
            kind = link.partition("~")[0] if link.startswith("plots/") else link.partition("?")[0]
            kinds[kind] += 1
            if kinds[kind] <= (1 if link.startswith("plots/") else 4):
                seen.add(link)
                waiting.append(link)
    return pages


# -- the pages --------------------------------------------------------------------------------------------------------


def test_every_link_of_every_page_leads_somewhere(crawled: dict[str, Page]) -> None:
    kinds = {re.match(r"[a-z]+", address)[0] for address in crawled}  # type: ignore[index]
    assert kinds == {"index", "slice", "table", "run", "samples", "compare", "trainers", "trainer"}


def test_the_leaderboard_shows_every_number_and_the_damaged_run_hides_nothing(crawled: dict[str, Page], viewed: Viewed) -> None:
    page = crawled["index.html"]
    cells, damaged = table.cells([viewed.runs])
    assert len(cells) == 7  # two models by two judges on slake, by one on vqa_rad, and the hostile one
    for c in cells:
        if c.value is not None:
            assert f"{100 * c.value:.1f}" in page.text
            assert f"{100 * c.low:.1f} – {100 * c.high:.1f}" in page.text  # type: ignore[operator]
    assert [Path(d.path) for d in damaged] == [viewed.damaged]
    assert str(viewed.damaged) in page.text
    assert "1 of 60" not in page.text
    assert "59 of 60 judged" in page.text, "what is missing is said"


def test_a_table_has_every_slice_in_numbers(crawled: dict[str, Page], viewed: Viewed) -> None:
    (address,) = (a for a in crawled if a.startswith("table-slake-test-exact"))
    sliced, _ = table.cells([viewed.runs], slice_by="content_type", tasks=["slake"], judges=["exact"])
    for c in sliced:
        assert c.slice
        assert c.slice[1] in crawled[address].text
        assert f"{100 * c.low:.1f} – {100 * c.high:.1f}" in crawled[address].text  # type: ignore[operator]
    assert "Cohen’s κ" in crawled[address].text


def test_a_run_has_its_card_and_the_command_that_made_it(crawled: dict[str, Page], viewed: Viewed) -> None:
    card = RunFolder(viewed.slake["tiny"]).card()
    text = crawled[f"run-{run_id(viewed.slake['tiny'])}.html"].text
    lenient = "shares a word with a reference"  # the judge's own card
    for said in (card.hardware, card.packages["torch"], card.prompt, card.data.fingerprint[:16], "48 new tokens", lenient):
        assert said in text


def test_what_is_written_meanwhile_appears(viewed: Viewed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FRESH", 0.0)
    runs = tmp_path / "runs"
    runs.mkdir()
    page = TestClient(app.create(Library([runs]), Pictures()), base_url="http://localhost")
    assert "No runs yet" in page.get("/").text
    make_run(runs, "one", "111100001111")
    assert ">one<" in page.get("/").text
    shutil.rmtree(runs / "one")
    assert ">one<" not in page.get("/").text


def test_a_checkpoint_that_is_begun_meanwhile_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FRESH", 0.0)
    make_run(tmp_path / "runs", "one", "111100001111")
    page = TestClient(app.create(Library([tmp_path / "runs"], [tmp_path]), Pictures()), base_url="http://localhost")
    assert "trainer-begun.html" not in page.get("/trainers.html").text
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert "trainer-begun.html" in page.get("/trainers.html").text


def test_a_certificate_that_is_written_meanwhile_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FRESH", 0.0)
    make_run(tmp_path, "one", "111100001111")
    shelves = Library([tmp_path])
    before = shelves.shelf()
    assert shelves.shelf() is before
    (tmp_path / ".certificates").mkdir()
    (tmp_path / ".certificates" / "exact@1.json").write_text("{}")
    assert shelves.shelf() is not before


def test_runs_of_the_same_name_have_pages_of_their_own(tmp_path: Path) -> None:
    for root in ("a", "b"):
        make_run(tmp_path / root, "same", "111100001111")
    shelf = Shelf([tmp_path / "a", tmp_path / "b"])
    assert len(shelf.runs) == 2
    first, second = shelf.runs
    assert second == f"{first}-2"


@pytest.mark.parametrize("address", ["run-nothing.html", "samples-a.html", "nothing", "x.html", "plots/forest~x.svg", "plots/x",
                                     "compare-a~b~c.html", "compare-a.html", "static/../app.py", "static/%2e%2e/app.py",
                                     "image.png?run=a&row=b", "..%2f..%2fetc%2fpasswd"])  # fmt: skip
def test_what_is_not_there_is_not_found(site: TestClient, address: str) -> None:
    answer = site.get(f"/{address}")
    assert answer.status_code == 404
    assert "Traceback" not in answer.text


# -- hostile text -----------------------------------------------------------------------------------------------------


def test_no_page_has_markup_that_is_not_ours(crawled: dict[str, Page]) -> None:
    for address, page in crawled.items():
        scripts = [v for tag, k, v in page.attributes if tag == "script" and k == "src"]
        assert page.tags.count("script") == len(scripts), address
        assert all(v.startswith("static/") for v in scripts)
        assert not {"style", "iframe", "object", "embed", "base", "think", "answer"} & set(page.tags), address
        assert not [k for _, k, _ in page.attributes if k.startswith("on") or k == "style"], address
        assert not [v for v in page.links("href", "src", "srcset", "action") if re.match(r"\s*([a-z]+:|//)", v, re.I)], address
        pictures = [v for tag, k, v in page.attributes if tag == "img" and k == "src"]
        assert all(v.startswith(("image.png?", "plots/")) for v in pictures), address


def test_hostile_text_is_shown_as_text_wherever_it_stands(crawled: dict[str, Page], viewed: Viewed) -> None:
    name = run_id(viewed.hostile)
    row = crawled[f"samples-{name}.html"].text
    for kind in ("Question ", "Answer ", "Reasoning ", "because ", "raw ", "value "):
        assert f"{kind}{SHOWN}" in row, kind
    assert f"<think>{SHOWN}</think>{SHOWN}" in row, "reasoning stays visible, its tags too"
    assert f"model {SHOWN}" in crawled["index.html"].text
    assert SHOWN in crawled[f"run-{name}.html"].text
    for address, page in crawled.items():
        assert not set("\u202e\u202c\x00") & set(page.source), address


def test_no_script_of_ours_writes_markup() -> None:
    for path in (HERE / "static").glob("*.js"):
        code = path.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setTimeout\(\s*['\"]", code
        )
        assert "http" not in code


# -- who gets an answer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/", "/nothing", "/static/site.css", "/static/nothing", "/plots/x", "/image.png"])
def test_every_answer_forbids_what_pages_do_not_need(site: TestClient, address: str) -> None:
    headers = site.get(address).headers
    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1:7117", 200), ("localhost", 200), ("[::1]:80", 200),
                                              ("evil.example", 400), ("127.0.0.1.evil.example", 400), ("", 400)])  # fmt: skip
def test_a_website_cannot_reach_it_through_a_name_of_its_own(site: TestClient, host: str, status: int) -> None:
    answer = site.get("/", headers={"host": host})
    assert answer.status_code == status
    assert ("Leaderboard" in answer.text) == (status == 200)


def test_it_only_reads(site: TestClient) -> None:
    assert {site.request(m, "/").status_code for m in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")} == {405}


def test_others_need_the_token(viewed: Viewed) -> None:
    with pytest.raises(UserError, match="needs a token"):
        client(viewed, host="0.0.0.0")
    token = app.new_token()
    assert len(token) >= 32
    open_to_all = client(viewed, host="0.0.0.0", token=token)
    for address in ("/", "/static/site.css", "/plots/x", "/image.png", "/?token=wrong", "/?token=", f"/?token={token[:-1]}"):
        answer = open_to_all.get(address, follow_redirects=False)
        assert answer.status_code == 403, address
        assert "Leaderboard" not in answer.text
    assert open_to_all.get("/", cookies={app.COOKIE: "wrong"}).status_code == 403
    let_in = client(viewed, host="0.0.0.0", token=token).get(f"/index.html?token={token}&x=1", follow_redirects=False)
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/index.html?x=1")
    assert re.search(r"HttpOnly.*SameSite=strict", let_in.headers["set-cookie"], re.I)
    assert open_to_all.get("/", cookies={app.COOKIE: token}).status_code == 200
    for header, status in ((f"Bearer {token}", 200), (token, 403), (f"Basic {token}", 403)):
        fresh = client(viewed, host="0.0.0.0", token=token)
        assert fresh.get("/", headers={"authorization": header}).status_code == status


def test_an_error_of_our_own_forbids_the_browser_no_less(tmp_path: Path) -> None:
    """The folder of runs goes away while the viewer is on."""
    make_run(tmp_path / "runs", "one", "110110")
    made = app.create(Library([tmp_path / "runs"]), Pictures())
    shutil.rmtree(tmp_path / "runs")
    answer = TestClient(made, base_url="http://127.0.0.1:7117", raise_server_exceptions=False).get("/")
    assert answer.status_code == 500
    assert answer.headers["content-security-policy"] == app.POLICY
    assert "Traceback" not in answer.text


# -- rows -------------------------------------------------------------------------------------------------------------


def listed(page: Page) -> list[str]:
    """The ids of the rows in the list."""
    hrefs = re.findall(r'<li[^>]*><a href="(samples[^"]*)"', page.source)
    return [parse_qs(urlsplit(html.unescape(h)).query)["row"][0] for h in hrefs]


def finals(path: Path, judge: str) -> dict[str, int | None]:
    given = RunFolder(path).verdicts(*judge.split("@"))
    return {row["id"]: given[row["id"]].final for row in RunFolder(path).samples()}


def test_filters_leave_the_rows_that_they_name(site: TestClient, viewed: Viewed) -> None:
    run, other = viewed.slake["tiny"], viewed.slake["tiny-sft"]
    exact, lenient, theirs = finals(run, EXACT), finals(run, "lenient@1"), finals(other, EXACT)
    rows = {row["id"]: row for row in RunFolder(run).samples()}
    told = RunFolder(run).verdicts("lenient", "1")
    wanted = {
        f"verdict=right&judge={EXACT}": [i for i in rows if exact[i] == 1],
        "verdict=wrong&judge=lenient@1": [i for i in rows if lenient[i] == 0],
        "verdict=missing&judge=lenient@1": [i for i in rows if lenient[i] is None],
        "disagree=1": [i for i in rows if {exact[i], lenient[i]} == {0, 1}],
        f"judge={EXACT}&flips={run_id(other)}": [i for i in rows if exact[i] != theirs[i]],
        "slice.content_type=Organ": [i for i in rows if rows[i]["slices"]["content_type"] == "Organ"],
        f"slice.content_type=Organ&verdict=right&judge={EXACT}": [
            i for i in rows if rows[i]["slices"]["content_type"] == "Organ" and exact[i] == 1
        ],
        "q=LIVER": [i for i in rows if "liver" in f"{rows[i]['question']} {rows[i]['reference']} {told[i].rationale}".lower()],
        "q=nothing has these words": [],
        "flips=nobody": [],
        "slice.content_type=nothing": [],
    }  # fmt: skip
    for query, ids in wanted.items():
        assert listed(Page(site.get(f"/samples-{run_id(run)}.html?{query}").text)) == ids[:50], query
    assert all(wanted[q] for q in list(wanted)[:8]), "else nothing was tested"


def test_the_keys_lead_through_all_rows_and_back(site: TestClient, viewed: Viewed) -> None:
    ids = [row["id"] for row in RunFolder(viewed.slake["tiny"]).samples()]
    assert len(ids) > 50, "more than a page"
    address: str | None = f"samples-{run_id(viewed.slake['tiny'])}.html"
    seen, pages = [], []
    while address:
        pages.append(Page(site.get(f"/{address}").text))
        seen.append(re.search(r'aria-label="Row ([^"]*)"', pages[-1].source)[1])  # type: ignore[index]
        address = pages[-1].link("next")
    assert seen == ids
    for before, page in list(zip(ids, pages[1:], strict=False))[44:54]:  # about the end of a page
        back = Page(site.get(f"/{page.link('prev')}").text)
        assert f'aria-label="Row {before}"' in back.source


def test_a_row_shows_what_every_model_wrote_and_every_judge_said(site: TestClient, viewed: Viewed) -> None:
    row = RunFolder(viewed.slake["tiny"]).samples()[3]
    text = Page(site.get(f"/samples-{run_id(viewed.slake['tiny'])}.html?row={row['id']}").text).text
    assert row["question"] in text
    assert row["reference"]["answers"][0] in text
    for path in viewed.slake.values():
        prediction = RunFolder(path).predictions()[row["id"]]
        assert prediction.text in text
        said = RunFolder(path).verdicts("lenient", "1")[row["id"]]
        assert said.rationale
        assert said.rationale in text
        assert said.raw
        assert said.raw in text


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_is_the_rows_own_encoded_anew(site: TestClient, viewed: Viewed, slake) -> None:
    sample = slake.samples[0]
    answer = site.get("/image.png", params={"run": run_id(viewed.slake["tiny"]), "row": sample.id, "n": 0})
    assert answer.headers["content-type"] == "image/png"
    assert answer.content != sample.images[0].content
    assert Image.open(io.BytesIO(answer.content)).convert("RGB").tobytes() == sample.images[0].open().tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_nothing_but_pixels_is_served(kind: str) -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "Name of the patient"
    Image.new("RGB", (3000, 600), "red").save(out, kind, exif=exif, comment=b"Name of the patient")
    assert b"Name of the patient" in out.getvalue()
    for encoded, size in ((encode(ImageRef("a", data=out.getvalue())), (2048, 410)),
                          (encode_small(ImageRef("a", data=out.getvalue())), (448, 90))):  # fmt: skip
        assert b"Name of the patient" not in encoded
        assert Image.open(io.BytesIO(encoded)).size == size


def test_a_picture_that_cannot_be_had_is_said(viewed: Viewed, site: TestClient) -> None:
    shelf = Shelf([viewed.runs])
    run = shelf.by_path[str(viewed.slake["tiny"])]
    row = shelf.browser.page(Filter(run=run.path)).rows[0]
    other = row.model_copy(update={"cluster": "0" * 16})
    with pytest.raises(NoPictureError, match="not the one that the model was asked about"):
        Pictures().find(run.card, other)
    with pytest.raises(NoPictureError, match="row gone is not in the bundled data"):
        Pictures().find(run.card, row.model_copy(update={"id": "gone"}))
    local = run.card.model_copy(update={"data": run.card.data.model_copy(update={"source": "local"})})
    with pytest.raises(NoPictureError, match="--data-dir"):
        Pictures().find(local, row)
    page = Page(site.get(f"/samples-{run_id(viewed.hostile)}.html").text)
    assert "No picture: no spec of task" in page.text
    assert "img" not in page.tags


def test_pictures_of_an_official_archive_are_at_full_resolution(archives: Path, viewed: Viewed) -> None:
    ((spec, path),) = specs.find("slake")
    task = data.load(spec, path, source="local", data_dir=archives, limit=2)
    card = RunFolder(viewed.slake["tiny"]).card().model_copy(update={"data": task.card})
    sample = task.samples[1]
    row = Row(run=path, row=1, **sample.row() | {"resolution": None, "prediction": None, "verdicts": {}})
    (image,) = Pictures(archives).find(card, row)
    shown = Image.open(io.BytesIO(encode(image))).convert("RGB")
    assert shown.size == sample.images[0].open().size
    assert min(shown.size) > 224
    bundled = card.model_copy(update={"data": task.card.model_copy(update={"source": "bundled"})})
    with pytest.raises(NoPictureError, match="not the one that the model was asked about"):
        Pictures().find(bundled, row)


# -- two runs ---------------------------------------------------------------------------------------------------------


def test_a_comparison_is_that_of_harness_compare(site: TestClient, viewed: Viewed) -> None:
    a, b = viewed.slake.values()
    found = compare(a, b, "exact", ExactJudge.version)
    text = Page(site.get(f"/compare-{run_id(a)}~{run_id(b)}~{EXACT}.html").text).text
    assert found.sentence() in text
    assert f"{100 * found.difference:+.1f}".replace("-", "−") in text
    assert f"{len(found.only_a)} row" in text
    assert f"{len(found.only_b)} row" in text


def test_runs_that_cannot_be_compared_are_refused_in_words(site: TestClient, viewed: Viewed) -> None:
    a = run_id(viewed.slake["tiny"])
    (b,) = (run_id(p) for p in (viewed.runs / "tiny").glob("vqa_rad-*"))
    answer = site.get(f"/compare-{a}~{b}~{EXACT}.html")
    assert answer.status_code == 200
    assert "asked different data" in answer.text


@pytest.mark.parametrize(
    ("low", "high", "axis"),
    [
        (0.58, 0.62, (55, 65, (55, 60, 65))),
        (0.434, 0.648, (40, 65, (40, 45, 50, 55, 60, 65))),
        (0.0, 1.0, (0, 100, (0, 20, 40, 60, 80, 100))),
        (0.96, 1.0, (95, 100, (95, 100))),
        (1.0, 1.0, (95, 100, (95, 100))),
        (0.0, 0.0, (0, 5, (0, 5))),
        (0.31, 0.79, (30, 80, (30, 40, 50, 60, 70, 80))),
    ],
)
def test_the_axis_is_short_and_has_round_ticks(viewed: Viewed, low: float, high: float, axis: object) -> None:
    cell = table.cells([viewed.runs])[0][0]
    found = Axis.over([cell.model_copy(update={"low": low, "high": high, "bound_low": low, "bound_high": high})])
    assert (found.low, found.high, found.ticks) == axis
    assert (found.at(found.low / 100), found.at(found.high / 100)) == ("0.00%", "100.00%")


def test_the_axis_of_a_difference_has_zero_on_it() -> None:
    for low, high in ((0.02, 0.12), (-0.3, -0.1), (-0.017, 0.024), (-1.0, 1.0)):
        axis = Axis.around_zero(low, high)
        assert 0 in axis.ticks
        assert axis.low <= 100 * low
        assert axis.high >= 100 * high
        assert len(axis.ticks) <= 6


# -- training ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_has_its_recipe_and_curves(crawled: dict[str, Page], viewed: Viewed) -> None:
    text = crawled["trainer-tiny-sft.html"].text
    assert "sft on slake_grounded, 3 steps" in text
    assert "loss" in text
    assert "0.002" in text
    assert "This checkpoint keeps no completions" in text
    log = training.read(viewed.checkpoint)
    assert [step for step, _ in log.curves["loss"]] == [1, 2, 3]
    assert f"trainer-{viewed.checkpoint.name}.html" in crawled[f"run-{run_id(viewed.slake['tiny-sft'])}.html"].source


def test_a_training_that_is_going_on_is_shown_with_what_it_wrote(tmp_path: Path) -> None:
    folder = tmp_path / ".rarl.unfinished"
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"step": 1, "reward": 0.5, "kl": NaN}\n{"step": 2, "reward": 0.7}\n{"step": 3, "rew')
    (folder / "dev.jsonl").write_text('{"step": 2, "score": 0.25, "n": 64}\n')
    common = {"sample_id": "7", "text": f"<think>{HOSTILE}</think>", "tokens": 9, "rewards": {"format": 1.0, "reasoning": None}}
    rows = [common | {"step": step, "total": step} for step in (1, 2)]
    (folder / "completions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "samples.jsonl").write_text('{"id": "7", "question": "Which lung?"}\n')
    (folder / "run.yaml").write_text("trainer: rarl\ntask: slake_grounded\nrecipe: {beta: 0.04}\n")
    found = training.read(folder)
    assert found.curves == {"reward": [(1, 0.5), (2, 0.7)], "dev score": [(2, 0.25)]}
    assert found.completions[0].rewards == {"format": 1.0, "reasoning": None}
    assert found.damaged is None
    (tmp_path / "runs").mkdir()
    seen = TestClient(app.create(Library([tmp_path / "runs"], [tmp_path]), Pictures()), base_url="http://localhost")
    page = Page(seen.get("/trainer-rarl.unfinished.html?step=1").text)
    assert "Not finished" in page.text
    assert "rarl on slake_grounded, 2 steps" in page.text
    assert training.home(folder / "checkpoint-2") == folder
    assert f"<think>{SHOWN}</think>" in page.text
    assert "reward 1.000" in page.text
    assert "Which lung?" in page.text
    assert "reward 2.000" not in page.text


def test_a_damaged_log_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (tmp_path / "trained.json").write_text("{")
    (tmp_path / "completions.jsonl").write_text('nonsense\n{"step": 1}\n')
    found = training.read(tmp_path)
    assert found.curves == {"loss": [(1, 2.0)]}
    assert found.damaged
    assert "trained.json" in found.damaged
    assert "completions.jsonl:1" in found.damaged


# -- colours -----------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_that_wcag_aa_asks_for(mode: int) -> None:
    css = (HERE / "static" / "site.css").read_text()
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)
    colours = {name: both[mode] for name, *both in pairs}
    heat = re.findall(r"\.(h\d) \{ background: light-dark\((#\w{6}), (#\w{6})\)", css)
    assert len(heat) == 10
    colours |= {name: both[mode] for name, *both in heat}
    wanted = [(text, ground) for text in ("ink", "soft", "accent") for ground in ("paper", "card")]
    wanted += [("right", "right-tint"), ("wrong", "wrong-tint"), ("open", "open-tint"), ("accent", "tint"), ("ink", "grid")]
    wanted += [("soft", "tint"), ("card", "accent"), *(("ink", f"h{k}") for k in range(10))]
    for text, ground in wanted:
        bright, dim = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, f"{text} on {ground}"
