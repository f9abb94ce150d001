"""Loading: which source is used and said, zips and links, bad rows refused before anything is generated."""

import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from harness import data, specs
from harness.archives import Archive
from harness.data import LoadedTask
from harness.errors import DataError, UserError
from harness.images import portable
from harness.records import BadImageError, ImageRef
from tests.conftest import load


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No hub cache of this machine's, and no data folder of its user's."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)


def test_auto_says_when_it_uses_small_images(archives):
    ((spec, path),) = specs.find("slake")
    task = data.load(spec, path, source="auto", limit=2)
    assert (task.card.source, task.card.resolution) == ("bundled", "bundled-224px")
    assert "no full-resolution data, using the package's bundled-224px images" in task.notes[0]
    assert "HF_HUB_OFFLINE" in task.notes[0]
    local = data.load(spec, path, source="auto", data_dir=archives, limit=2)
    assert (local.card.source, local.card.resolution, local.notes) == ("local", "original", ())


def test_what_a_task_does_not_have_is_said():
    ((spec, path),) = specs.find("path_vqa")
    with pytest.raises(UserError, match="no bundled data for split 'test'") as e:
        data.load(spec, path, source="bundled")
    assert e.value.hint == "--data local or hub"
    with pytest.raises(DataError, match=r"no data \(hub dataset flaviagiammarino/path-vqa: not in the cache"):
        data.load(spec, path, source="auto")
    with pytest.raises(UserError, match="--data local needs a folder"):
        data.load(spec, path, source="local")
    with pytest.raises(UserError, match="--data lokal: unknown") as e:
        data.parse_source("lokal")
    assert e.value.hint == "one of auto, hub, local, bundled"


def test_limit_changes_the_fingerprint(slake):
    some = load("slake", limit=10)
    assert len(some.samples) == 10
    assert some.card.fingerprint != slake.card.fingerprint
    assert some.card.fingerprint == load("slake", limit=10).card.fingerprint


# -- an archive of our own, to break ------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path):
    """A SLAKE-like archive of three rows on two images."""
    root = tmp_path / "slake"
    rows = []
    for i in range(3):
        name = f"xmlab{i // 2}/source.jpg"
        (root / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 60), (i, 2 * i, 3 * i)).save(root / "imgs" / name)
        rows.append({"qid": i, "img_name": name, "q_lang": "en", "question": f"Question {i}?", "answer": "Yes", "modality": "CT"})
    (root / "test.json").write_text(json.dumps(rows))
    return tmp_path


def edit(archive, change):
    path = archive / "slake" / "test.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def load_local(archive, **options):
    ((spec, path),) = specs.find("slake")
    return data.load(spec, path, source="local", data_dir=archive, **options)


def test_local(archive):
    task = load_local(archive)
    assert [s.id for s in task.samples] == ["0", "1", "2"]
    assert task.samples[0].cluster == task.samples[1].cluster != task.samples[2].cluster


def truncate_image(archive):
    path = archive / "slake/imgs/xmlab1/source.jpg"
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: truncate_image(a), r"row 2: image imgs/xmlab1/source.jpg: cannot be decoded"),
        (lambda a: (a / "slake/imgs/xmlab1/source.jpg").write_text("no image"), r"row 2: image .*cannot be decoded"),
        (lambda a: (a / "slake/imgs/xmlab1/source.jpg").unlink(), r"row 2: image .*No such file"),
        (lambda a: edit(a, lambda rows: rows[1].update(question=" ")), r"row 1: empty question"),
        (lambda a: edit(a, lambda rows: rows[1].update(answer="")), r"row 1: no reference answer"),
        (lambda a: edit(a, lambda rows: rows[1].update(qid=0)), r"row 0: duplicate id"),
    ],
)
def test_bad_rows_are_refused_or_skipped(archive, damage, message):
    damage(archive)
    with pytest.raises(DataError, match=message):
        load_local(archive)
    task = load_local(archive, on_bad_row="skip")
    assert len(task.samples) + len(task.card.dropped) >= 2
    assert task.card.dropped
    assert any("left out" in n for n in task.notes)


def test_missing_column_names_file_row_and_key(archive):
    edit(archive, lambda rows: rows[1].pop("answer"))
    with pytest.raises(DataError, match=r"test\.json: row 1: no field 'answer'"):
        load_local(archive)


def test_malformed_json_and_missing_folder(archive, tmp_path):
    (archive / "slake" / "test.json").write_text("[{")
    with pytest.raises(DataError, match=r"test\.json: not JSON"):
        load_local(archive)
    with pytest.raises(DataError, match="no such folder"):
        load_local(tmp_path / "elsewhere")
    ((spec, path),) = specs.find("slake")
    with pytest.raises(UserError, match="no split 'testing'") as e:
        data.load(spec, path, source="bundled", split="testing")
    assert e.value.hint == "did you mean 'test'?"


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "I;16"])
def test_every_mode_opens_as_rgb(mode):
    out = io.BytesIO()
    Image.new(mode, (8, 8)).save(out, "TIFF")
    assert ImageRef("x", data=out.getvalue()).open().mode == "RGB"


def encoded(values, kind: str) -> bytes:
    """Grey values of any depth as an image file."""
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "dtype", "values", "grey"),
    [
        ("PNG", "uint16", [0, 1000, 2000, 4000], [0, 64, 128, 255]),  # a 12-bit CT in 16 bits
        ("TIFF", "uint16", [30768, 32768, 33768, 34768], [0, 128, 191, 255]),  # Hounsfield units, offset by 32,768
        ("TIFF", "int32", [-1000, 0, 500, 1000], [0, 128, 191, 255]),
        ("TIFF", "float32", [0.0, 0.25, float("nan"), 1.0], [0, 64, 0, 255]),
        ("PNG", "uint16", [7, 7, 7, 7], [0, 0, 0, 0]),
        ("PNG", "uint8", [10, 20, 30, 40], [10, 20, 30, 40]),  # 8 bits are taken as they are
    ],
)
def test_grey_of_more_than_8_bits_is_scaled_from_its_own_range(kind, dtype, values, grey):
    """Pillow's own conversion gives 255 for all of them."""
    import numpy as np

    image = ImageRef("x", data=encoded(np.array([values], dtype=dtype), kind))
    assert [image.open().getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in grey]
    sent = portable(image)  # what an API model gets, and an export
    assert Image.open(io.BytesIO(sent.data)).convert("RGB").tobytes() == image.open().tobytes()


def test_an_image_that_is_a_strip_is_refused(own):
    Image.new("RGB", (2001, 10)).save("imgs/strip.png")
    Image.new("RGB", (2000, 10)).save("imgs/wide.png")
    row = {"question": "a", "answer": "b"}
    with pytest.raises(DataError, match=r"row 1: image imgs/strip\.png: 2001x10 pixels, one side more than 200 times"):
        own([row | {"img": "wide.png"}, row | {"img": "strip.png"}], "{image: img}")


def test_a_large_image_is_refused_without_pillows_advice():
    """Between its own limit and twice that, Pillow only warns."""
    out = io.BytesIO()
    Image.new("1", (12_000, 9_000)).save(out, "PNG")
    code = (
        "import sys\nfrom harness.records import BadImageError, ImageRef\n"
        "try: ImageRef('x', data=sys.stdin.buffer.read()).open()\nexcept BadImageError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=out.getvalue(), capture_output=True, check=True)
    assert b"above the limit" in done.stdout
    assert done.stderr == b""


def test_bomb_is_refused():
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    with pytest.raises(BadImageError, match=r"pixels, above the limit|DecompressionBomb"):
        ImageRef("bomb.png", data=out.getvalue()).open()


def test_image_hash_is_of_the_bytes():
    assert ImageRef("x", data=b"abc").sha256 == hashlib.sha256(b"abc").hexdigest()


# -- zips, names and links ---------------------------------------------------------------------------------------------


def pack(zipped: Path, folder: Path, top: str = "") -> None:
    """Zip what lies in a folder and remove the folder."""
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as z:
        for p in sorted(folder.rglob("*")):
            if p.is_file():
                z.write(p, top + p.relative_to(folder).as_posix())
    shutil.rmtree(folder)


@pytest.mark.parametrize("top", ["", "imgs/", "pictures/"])
def test_images_in_a_zip_are_the_same_rows(archive, top):
    unpacked = load_local(archive)
    pack(archive / "slake" / "imgs.zip", archive / "slake" / "imgs", top)
    zipped = load_local(archive)
    assert zipped.card == unpacked.card
    assert zipped.samples[0].images[0].open().size == (60, 60)


@pytest.mark.parametrize("top", ["", "slake/", "Slake1.0/"])
def test_a_whole_archive_in_a_zip(archive, top):
    unpacked = load_local(archive)
    pack(archive / "slake.zip", archive / "slake", top)
    assert load_local(archive).card == unpacked.card


def test_zips_within_the_archive_are_found_by_pattern(tmp_path):
    (tmp_path / "a" / "rows").mkdir(parents=True)
    (tmp_path / "a" / "rows" / "one.txt").write_text("one")
    pack(tmp_path / "a" / "rows.zip", tmp_path / "a" / "rows")
    found = Archive(tmp_path)
    assert found.glob("**/*.txt") == ["a/one.txt"]
    assert found.glob("a/*.txt") == ["a/one.txt"]
    assert found.glob("a/rows/one.txt") == ["a/rows/one.txt"]
    assert found.text("a/rows/one.txt") == "one"
    assert found.glob("b/*.txt") == found.glob("*.txt") == []


def _hash(image: ImageRef) -> str:
    return hashlib.sha256(image.content).hexdigest()


def test_a_forked_process_reads_the_zip_for_itself(tmp_path):
    """The open file's offset is shared after a fork: two readers of one handle would read each other's bytes."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        for i in range(60):
            z.writestr(f"{i}.bin", bytes([i]) * 20_000)
    images = [Archive(tmp_path / "x.zip").image(f"{i}.bin") for i in range(60)]
    here = [_hash(i) for i in images]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_hash, images * 4) == here * 4


def test_damaged_and_missing_in_a_zip(archive):
    pack(archive / "slake" / "imgs.zip", archive / "slake" / "imgs")
    whole = (archive / "slake" / "imgs.zip").read_bytes()
    at = whole.index(b"xmlab1/source.jpg") + 200
    (archive / "slake" / "imgs.zip").write_bytes(whole[:at] + b"\0\0\0\0" + whole[at + 4 :])
    with pytest.raises(DataError, match=r"row 2: image .*imgs\.zip: xmlab1/source\.jpg: cannot be unpacked"):
        load_local(archive)
    (archive / "slake" / "imgs.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"imgs\.zip: cannot be read as a zip"):
        load_local(archive)


@pytest.mark.parametrize("name", ["../../secret.jpg", "a/../../x.jpg", "a\\b.jpg"])
def test_names_that_leave_the_archive_are_refused_with_their_row(archive, name):
    edit(archive, lambda rows: rows[1].update(img_name=name))
    with pytest.raises(DataError, match=r"row 1: .*slake/test\.json: row 1: path '.*' (leaves|holds)"):
        load_local(archive)
    task = load_local(archive, on_bad_row="skip")
    assert ([s.id for s in task.samples], list(task.card.dropped)) == (["0", "2"], ["1"])


@pytest.mark.parametrize(
    "change", [{"question": ["Why?"]}, {"question": "half \ud800"}, {"modality": ["CT"]}, {"answer": {"a": 1}}]
)
@pytest.mark.parametrize("layout", ["slake", "vqa_rad"])
def test_a_field_that_is_not_text_is_a_bad_row_of_an_official_archive(archive, layout, change):
    if layout == "slake":
        edit(archive, lambda rows: rows[1].update(change))
    else:
        radiographs = archive / "vqa_rad"
        shutil.copytree(archive / "slake" / "imgs" / "xmlab0", radiographs / "VQA_RAD Image Folder")
        row = {"phrase_type": "test_freeform", "image_name": "source.jpg", "question": "Why?", "answer": 3, "image_organ": "HEAD"}
        row |= {"answer_type": "OPEN ", "question_type": "PRES"}
        change = {"image_organ" if k == "modality" else k: v for k, v in change.items()}
        rows = [row | {"qid": 0}, row | {"qid": 1} | change, row | {"qid": 2}]
        (radiographs / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    ((spec, path),) = specs.find(layout)
    with pytest.raises(DataError, match=r"row 1: .*\.json: row 1: field '\w+': (expected text|not valid Unicode)"):
        data.load(spec, path, source="local", data_dir=archive)
    task = data.load(spec, path, source="local", data_dir=archive, on_bad_row="skip")
    assert ([s.id for s in task.samples], list(task.card.dropped)) == (["0", "2"], ["1"])


def test_links_that_leave_the_archive_are_refused(archive, tmp_path):
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (9, 9)).save(secret)
    image = archive / "slake/imgs/xmlab1/source.jpg"
    image.unlink()
    image.symlink_to(secret)
    with pytest.raises(DataError, match=r"test\.json: row 2: path 'imgs/xmlab1/source.jpg' is a link that leads out"):
        load_local(archive)
    image.unlink()
    image.symlink_to("../xmlab0/source.jpg")  # within the archive a link is a file like any other
    assert len(load_local(archive).samples) == 3


def test_a_snapshots_links_into_its_own_blobs_are_read(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1f").write_text("[]")
    (snapshot / "rows.json").symlink_to("../../blobs/1f")
    assert Archive(snapshot, trusted=[blobs]).text("rows.json") == "[]"
    with pytest.raises(DataError, match="leads out"):
        Archive(snapshot).text("rows.json")


def bundled_task(folder: Path, images: str) -> LoadedTask:
    """A YAML in `folder` whose bundle `a` holds one row, its pixels in the bundle `b`, which the row's file calls `images`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    for name in ("a", "b"):
        (folder / "bundled" / name).mkdir(parents=True)
    row = {"split": "test", "id": "1", "image": "i", "question": "Why?", "answers": ["so"], "slices": {"organ": "lung"}}
    rows = pa.Table.from_pylist([row]).replace_schema_metadata({"images": images})
    pq.write_table(rows, folder / "bundled/a/rows.parquet")
    pq.write_table(pa.table({"name": ["i"], "jpeg": [out.getvalue()]}), folder / "bundled/b/images.parquet")
    (folder / "t.yaml").write_text("name: t\ntitle: t\nlicense: x\nbundled: {folder: a, resolution: small}\n")
    ((spec, path),) = specs.find(str(folder / "t.yaml"))
    return data.load(spec, path)


def test_a_bundle_of_ones_own_is_no_fallback(tmp_path):
    task = bundled_task(tmp_path / "t", "../b")
    assert ([s.id for s in task.samples], task.card.resolution, task.notes) == (["1"], "small", ())


def test_a_bundle_may_not_reach_out_of_its_folder(tmp_path):
    with pytest.raises(DataError, match="leaves its root folder"):
        bundled_task(tmp_path / "up", "../../../up/bundled/b")
    bundled_task(tmp_path / "t", "../b")
    rows = tmp_path / "t/bundled/a/rows.parquet"
    rows.rename(tmp_path / "rows.parquet")
    rows.symlink_to(tmp_path / "rows.parquet")
    ((spec, path),) = specs.find(str(tmp_path / "t/t.yaml"))
    with pytest.raises(DataError, match=r"path 'rows\.parquet' is a link that leads out"):
        data.load(spec, path)


# -- tables: a task of one's own without Python --------------------------------------------------------------------------

MINE = """\
name: mine
title: Mine
license: CC0-1.0
local:
  splits: {{test: "{file}"}}
  images: imgs
  columns: {columns}
  {more}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with four images, and a function that writes a table and its YAML there and loads it."""
    folder = tmp_path / "own"
    (folder / "imgs").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(folder / "imgs" / f"{i}.png")
    monkeypatch.chdir(folder)

    def load(rows, columns, file="rows.jsonl", more="", **options):
        write_table(folder / file, rows)
        (folder / "mine.yaml").write_text(MINE.format(file=file, columns=columns, more=more))
        ((spec, path),) = specs.find("mine.yaml")
        return data.load(spec, path, **options)

    return load


def write_table(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        import csv

        with open(path, "w", newline="") as f:
            writer = csv.DictWriter(f, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


ROWS = [
    {"key": 10, "img": "0.png", "question": "Is it large?", "answer": "yes", "organ": "lung"},
    {"key": 11, "img": "1.png", "question": "How many, in all?", "answer": 3, "organ": "lung"},
    {"key": 12, "img": "1.png", "question": 'Which "part"?', "answer": "left lobe", "organ": ""},
]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_one_table_in_every_format(own, kind):
    rows = [{**r, "answer": str(r["answer"])} for r in ROWS] if kind == "parquet" else ROWS
    task = own(rows, "{id: key, image: img, slices: {where: organ}}", file=f"rows.{kind}")
    assert [s.id for s in task.samples] == ["10", "11", "12"]
    assert [s.reference.answers for s in task.samples] == [("yes",), ("3",), ("left lobe",)]
    assert [s.images[0].name for s in task.samples] == ["imgs/0.png", "imgs/1.png", "imgs/1.png"]
    assert task.samples[1].cluster == task.samples[2].cluster
    assert [s.slices for s in task.samples] == [
        {"form": "yes/no", "question_word": "is", "where": "lung"},
        {"form": "open", "question_word": "how", "where": "lung"},
        {"form": "open", "question_word": "which"},
    ]
    assert task.spec.slices == ["where", "form", "question_word"]


def test_formats_give_one_fingerprint(own):
    prints = set()
    for kind in ("jsonl", "json", "csv", "tsv", "parquet"):
        rows = [{**r, "answer": str(r["answer"])} for r in ROWS] if kind == "parquet" else ROWS
        prints.add(own(rows, "{id: key, image: img}", file=f"rows.{kind}").card.fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("answer", "answers"),
    [
        (7, ("7",)),
        (2.0, ("2",)),
        (0.5, ("0.5",)),
        (True, ("yes",)),
        ([" left ", "right", ""], ("left", "right")),
        ('["left", "right"]', ("left", "right")),
        ("[1, 2, 3, 4]", ("[1, 2, 3, 4]",)),
        ("left|right", ("left", "right")),
    ],
)
def test_answers_come_in_many_shapes(own, answer, answers):
    task = own([{"question": "Side?", "answer": answer}], "{}", more="separator: '|'")
    assert task.samples[0].reference.answers == answers
    assert task.samples[0].id == "0"


@pytest.mark.parametrize("empty", ["", "  ", None, [], float("nan")])
def test_an_empty_answer_is_a_bad_row(own, empty):
    rows = [{"question": "Side?", "answer": "left"}, {"question": "Side?", "answer": empty}]
    with pytest.raises(DataError, match="row 1: no reference answer"):
        own(rows, "{}")
    assert own(rows, "{}", on_bad_row="skip").card.dropped == {"1": "no reference answer"}


@pytest.mark.parametrize(
    ("answer", "as_", "right"),
    [
        ("(C)", "auto", "C"),
        ("C", "auto", "C"),
        ("c.", "auto", "C"),
        ("bladder", "auto", "B"),
        ("Bladder", "auto", "B"),
        ("1", "index", "B"),
        (1, "number", "A"),
        ("liver", "words", "A"),
    ],
)
def test_choices(own, answer, as_, right):
    row = {"question": "Which organ?", "answer": answer, "options": ["liver", "bladder", "colon"]}
    task = own([row], f"{{choices: options, answer_as: {as_}}}")
    (sample,) = task.samples
    assert sample.question == "Which organ?\n(A) liver\n(B) bladder\n(C) colon"
    assert (sample.reference.answers, sample.reference.choices) == ((f"({right})",), ("liver", "bladder", "colon"))
    assert sample.slices["form"] == "choice"


def test_choices_in_cells_columns_and_questions(own):
    row = {"question": "Which?\nA. 3\nB. 2", "answer": "B", "options": "3|2", "A": "3", "B": "2"}
    for columns, file in [("{choices: options}", "rows.csv"), ("{choices: [A, B]}", "rows.jsonl")]:
        (sample,) = own([row], columns, file=file, more="separator: '|'").samples
        assert sample.question == row["question"]  # its choices are there already
        assert sample.reference.choices == ("3", "2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "1"}, r"rows\.jsonl: row 1: column 'answer': '1' can be read as words: \(C\), index: \(B\); set answer_as"),
        ({"answer": 2, "options": ["a", "b", "c"]}, "'2' may count the choices from 0 or from 1; set answer_as"),
        ({"question": ["How many?"]}, "row 1: column 'question': expected text, found list"),
        ({"question": "half \ud800"}, "row 1: column 'question': not valid Unicode"),
        ({"organ": ["lung"]}, "row 1: column 'organ': expected text, found list"),
        ({"answer": "spleen"}, r"'spleen' names none of the choices \(A\) 3, \(B\) 2, \(C\) 1"),
        ({"answer": "F"}, "'F' names none"),
        ({"options": "3"}, "1 choices, expected 2 to 26"),
        ({"options": [{"x y": 1}]}, "column 'options': choices are objects of x y; expected label and text"),
        ({"img": {"data": 1}}, "column 'img': expected an image's bytes and path, found data"),
        ({"img": "9.png"}, r"row 1: image .*imgs/9\.png: No such file"),
        ({"question": " "}, "row 1: empty question"),
    ],
)
def test_a_bad_cell_is_a_bad_row(own, change, message):
    good = {"question": "How many?", "answer": "(B)", "options": ["3", "2", "1"], "img": "0.png", "organ": "lung"}
    columns = "{choices: options, image: img, slices: [organ]}"
    with pytest.raises(DataError, match=message):
        own([good, good | change], columns)
    task = own([good, good | change], columns, on_bad_row="skip")
    assert (len(task.samples), list(task.card.dropped)) == (1, ["1"])


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("columns", ["{answer: answr}", "{image: imgg}", "{id: kee}", "{reasoning: organn}", "{slices: [ogran]}"])
def test_a_column_that_is_not_there(own, kind, columns):
    rows = [{**r, "answer": str(r["answer"])} for r in ROWS]
    with pytest.raises(DataError, match=rf"rows\.{kind}: .*no .*column '\w+'|rows\.{kind}: no row has a column"):
        own(rows, columns, file=f"rows.{kind}")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("rows.jsonl", '{"question": "a", "answer": "b"}\n{"question"\n', r"rows\.jsonl: line 2: not JSON"),
        ("rows.jsonl", "[1]\n", r"rows\.jsonl: row 0: expected an object"),
        ("rows.json", "{}", r"rows\.json: expected a list of rows"),
        ("rows.json", "[1]", r"rows\.json: row 0: expected an object"),
        ("rows.csv", "question,answer\na,b,c\n", r"rows\.csv: row 0 \(line 2\): 3 cells under 2 columns"),
        ("rows.csv", "question,answer\na\n", r"rows\.csv: row 0 \(line 2\): 1 cells under 2 columns"),
        ("rows.csv", 'question,answer\n"a,b\n', r"rows\.csv: line \d: not CSV"),
        ("rows.csv", "question,answer,answer\na,b,c\n", r"rows\.csv: two columns of one name: answer"),
        ("rows.parquet", "PAR1", r"rows\.parquet: cannot be read as parquet"),
        ("rows.pkl", "x", r"rows\.pkl: not a kind of file that can be read"),
        ("rows.csv", "question,answer\n", "no rows"),
    ],
)
def test_a_broken_table(own, file, text, message):
    Path(file).write_text(text)
    Path("mine.yaml").write_text(MINE.format(file=file, columns="{}", more=""))
    ((spec, path),) = specs.find("mine.yaml")
    with pytest.raises(DataError, match=message):
        data.load(spec, path)


@pytest.mark.parametrize("name", ["../x.jpg", "..\\x.jpg", "/etc/passwd", "C:\\x.jpg", "http://example.org/a.jpg"])
def test_a_path_that_leaves_the_folder_is_refused_with_its_row(own, name):
    rows = [{"question": "a", "answer": "b", "img": "0.png"}, {"question": "a", "answer": "b", "img": name}]
    with pytest.raises(DataError, match=r"rows\.jsonl: row 1: path '.*' (leaves|is not|is an address|holds)"):
        own(rows, "{image: img}")
    assert list(own(rows, "{image: img}", on_bad_row="skip").card.dropped) == ["1"]


def test_of_rows_that_share_an_id_the_first_usable_one_is_kept(own):
    """Four rows of id 1, of which the first two cannot be used, and one of id 2."""
    row = {"key": 1, "img": "0.png", "question": "Is it large?", "answer": "yes"}
    rows = [row | {"img": "none.png"}, row | {"answer": {}}, row | {"question": "Kept?"}, row, row | {"key": 2}]
    with pytest.raises(DataError, match="3 of 5 rows cannot be used") as e:
        own(rows, "{id: key, image: img}")
    assert str(e.value).count("duplicate id") == 1
    task = own(rows, "{id: key, image: img}", on_bad_row="skip")
    assert [(s.id, s.question) for s in task.samples] == [("1", "Kept?"), ("2", "Is it large?")]
    assert (task.card.rows, list(task.card.dropped)) == (2, ["1", "1 (2)", "1 (3)"])
    assert "3 rows left out" in task.notes[0]


def test_a_limit_counts_the_rows_that_are_left_after_skipping(own):
    rows = [{"question": f"Question {i}?", "answer": "yes" if i % 2 else ""} for i in range(9)]
    task = own(rows, "{}", on_bad_row="skip", limit=3)
    assert ([s.id for s in task.samples], len(task.card.dropped)) == (["1", "3", "5"], 3)
    assert len(own(rows, "{}", on_bad_row="skip", limit=8).samples) == 4


def test_rows_that_where_leaves_out_are_counted(own):
    task = own(ROWS, "{id: key, slices: [organ]}", more="\nwhere: {organ: lung}")
    assert (task.card.rows, task.card.filtered, task.card.dropped) == (2, 1, {})


def test_images_as_lists_columns_bytes_and_patterns(own):
    raw = Path("imgs/0.png").read_bytes()
    row = {"question": "Same?", "answer": "no"}
    (two,) = own([row | {"img": ["0.png", "1.png"]}], "{image: img}").samples
    assert [i.name for i in two.images] == ["imgs/0.png", "imgs/1.png"]
    (both,) = own([row | {"a": "0.png", "b": "2.png"}], "{image: [a, b]}").samples
    assert [i.name for i in both.images] == ["imgs/0.png", "imgs/2.png"]
    (split,) = own([row | {"img": "0.png;1.png"}], "{image: img}", file="r.csv", more="separator: ;").samples
    assert len(split.images) == 2
    held = own([row | {"img": raw}, row | {"img": raw}], "{image: img}", file="r.parquet")
    assert held.samples[0].images[0] is held.samples[1].images[0]
    assert held.card.images == 1
    struct = {"bytes": raw, "path": "x/a.png"}
    named = own([row | {"img": struct}, row | {"img": struct | {"bytes": raw + b"."}}], "{image: img}", file="r.parquet")
    assert named.samples[0].images[0].name == "a.png"
    assert len({s.images[0].name for s in named.samples}) == 2  # another picture of that name keeps its own
    by_path = own([row | {"img": {"bytes": None, "path": "3.png"}}], "{image: img}", file="r.parquet")
    assert by_path.samples[0].images[0].name == "imgs/3.png"
    Path("mine.yaml").write_text(MINE.format(file="r.jsonl", columns="{image: img}", more="").replace("imgs", '"imgs/{}.png"'))
    write_table(Path("r.jsonl"), [row | {"img": "2"}])
    ((spec, path),) = specs.find("mine.yaml")
    assert data.load(spec, path).samples[0].images[0].name == "imgs/2.png"


def test_one_file_for_all_splits(own):
    rows = [{"question": f"Question {i}?", "answer": "yes", "part": "test" if i % 3 else "train"} for i in range(9)]
    assert [s.id for s in own(rows, "{split: part}").samples] == ["1", "2", "4", "5", "7", "8"]


def test_own_data_lies_beside_the_yaml_or_under_data_dir(own, tmp_path):
    task = own(ROWS, "{id: key, image: img}")
    assert (task.card.source, task.notes) == ("local", ())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    beside = own(ROWS, "{id: key, image: img}", data_dir=elsewhere)
    assert "read from beside its YAML" in beside.notes[0]
    shutil.copytree("imgs", elsewhere / "imgs")
    write_table(elsewhere / "rows.jsonl", ROWS[:1])
    assert len(own(ROWS, "{id: key, image: img}", data_dir=elsewhere).samples) == 1


def test_a_yaml_may_not_reach_out_of_its_folder(own, tmp_path):
    own(ROWS, "{id: key, image: img}")
    shutil.move("imgs", tmp_path / "outside")
    Path("imgs").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=r"rows\.jsonl: row 0: path 'imgs/0.png' is a link that leads out"):
        own(ROWS, "{id: key, image: img}")
    os.rename("rows.jsonl", tmp_path / "outside" / "rows.jsonl")
    Path("mine.yaml").write_text(
        MINE.format(file="rows.jsonl", columns="{image: img}", more="").replace("local:", "local:\n  folder: imgs")
    )
    ((spec, path),) = specs.find("mine.yaml")
    with pytest.raises(DataError, match="leads out of"):
        data.load(spec, path)


def test_where_with_a_name_that_is_not_there(own):
    for where in ("{organ: lungs}", "{organ: [lung, lungs]}"):
        write_table(Path("rows.jsonl"), ROWS)
        Path("mine.yaml").write_text(
            MINE.format(file="rows.jsonl", columns="{id: key, slices: [organ]}", more="") + f"where: {where}\n"
        )
        ((spec, path),) = specs.find("mine.yaml")
        with pytest.raises(DataError, match="where: no row has") as e:
            data.load(spec, path)
        assert e.value.hint == "did you mean 'lung'?"
        with pytest.raises(DataError, match="where: no row has organ 'lungs'"):
            data.load(spec, path, limit=1)  # a limit hides nothing


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("What is shown?", "what"),
        ("In which plane is it?", "which"),
        ("with what modality is this taken?", "what"),
        ("Isn't it large?", "is"),
        ("Describe it.", "other"),
        ("The mri shows what organ?", "other"),
        ("", "other"),
    ],
)
def test_question_word(question, word):
    assert data.question_word(question) == word


CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["0.png", "(B)", "yes", '["a"]']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["bytes", "path", "x"]), inner, max_size=2),
    max_leaves=4,
)
KEYS = ("id", "image", "question", "answer", "choices", "reasoning", "organ")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.dictionaries(st.sampled_from(KEYS), CELLS), min_size=1, max_size=4), named=st.sets(st.sampled_from(KEYS)))
def test_any_json_table_loads_or_says_why(tmp_path_factory, rows, named):
    """Whatever the cells hold, the rows load, are bad by id, or a UserError names the place; never a traceback."""
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    columns = {k: k for k in named - {"organ"}} | ({"slices": ["organ"]} if "organ" in named else {})
    origin = {"splits": {"test": "rows.jsonl"}, "columns": columns}
    spec = specs.TaskSpec.model_validate({"name": "mine", "title": "x", "license": "x", "local": origin})
    said = ""
    try:
        found = data.read(spec, folder / "mine.yaml")
    except UserError as e:
        said = str(e)
    if said:
        assert re.search(r"rows\.jsonl|no rows", said)
    else:
        assert len(found.samples) <= len(rows)
        json.dumps([s.row() for s in found.samples if s.id not in found.bad], ensure_ascii=False).encode()


def test_the_example_in_the_docs_is_a_whole_task(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text().split("```yaml\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    Path("my_task.yaml").write_text(text)
    Path("imgs").mkdir()
    Image.new("RGB", (9, 9)).save("imgs/a.png")
    Path("rows.csv").write_text("id,file,question,answer,modality\nx1,a.png,What is it?,a liver,CT\n")
    ((spec, path),) = specs.find("my_task.yaml")
    (sample,) = data.load(spec, path).samples
    assert (sample.id, sample.slices) == ("x1", {"form": "open", "question_word": "what", "modality": "CT"})
    assert spec.slices == ["modality", "form", "question_word"]
