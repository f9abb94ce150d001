"""A picture is the same for every model, trainer, page and export; and what a task says about pictures."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from harness import data, pictures, specs
from harness.errors import DataError, SpecError
from harness.images import portable
from harness.pictures import Window
from tests.drawn import COLOUR, DEEP, GREY, HEIGHT, PLAIN, WIDTH, WINDOW, assert_same, dicom, ref, saved
from tests.test_pictures import DEPTHS, GROUNDS, RGB, STACKS, T, palette_with_hole, png16

# -- the same pixels everywhere --------------------------------------------------------------------------------------

SCAN = dicom(4095 - (DEEP >> 4), kind="MONOCHROME1", **WINDOW)
exif6 = Image.Exif()
exif6[0x0112] = 6
EVERYWHERE = {
    "plain": (saved(RGB, "JPEG", quality=95), {}),
    "turned": (saved(PLAIN.transpose(T.ROTATE_90), "JPEG", exif=exif6), {}),
    "ink": (GROUNDS["black ink"][0], {}),
    "deep": (DEPTHS["white is zero, 16 bits"], {}),
    "windowed": (DEPTHS["uint16"], {"window": Window(center=30000, width=9000)}),
    "frame": (STACKS["APNG"], {"frame": 2}),
    "dicom": (SCAN, {}),
    "16-bit PNG": (png16(3, COLOUR.astype(np.uint16) * 257), {}),
    "palette": (palette_with_hole(), {}),
}


@pytest.mark.parametrize("case", EVERYWHERE)
def test_everyone_gets_the_same_pixels(case):
    from datasets import Dataset, List
    from datasets import Image as Feature

    from leaderboard.site.pictures import encode
    from trainers.rows import encoded

    content, reading = EVERYWHERE[case]
    picture = ref(content, **reading)
    expected = np.asarray(picture.open())
    assert picture.size == picture.open().size
    for sent in (portable(picture).data, encode(picture), portable(picture, max_bytes=50_000).data):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sent)).convert("RGB")), expected)
    rows = Dataset.from_list([{"images": [{"bytes": encoded(picture), "path": None}]}])
    trained = rows.cast_column("images", List(Feature(mode="RGB")))[0]["images"][0]
    assert np.array_equal(np.asarray(trained), expected)


# -- in a task -------------------------------------------------------------------------------------------------------

MINE = """name: mine
title: Mine
license: none
local:
  splits: {{test: rows.jsonl}}
  images: imgs
  columns: {{image: img}}
{more}"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of pictures, and a function that writes a table about some of them and loads it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imgs").mkdir()
    for name, content in (
        ("plain.png", saved(PLAIN, "PNG")), ("turned.jpg", EVERYWHERE["turned"][0]), ("stack.tif", STACKS["TIFF"]),
        ("scan.dcm", SCAN), ("ink.png", GROUNDS["black ink"][0]), ("odd#2.png", saved(PLAIN, "PNG")),
    ):  # fmt: skip
        (tmp_path / "imgs" / name).write_bytes(content)

    def load(*names, more="", **options):
        rows = [{"img": n, "question": f"Is {i} here?", "answer": "yes"} for i, n in enumerate(names)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (tmp_path / "mine.yaml").write_text(MINE.format(more=more))
        ((spec, path),) = specs.find("mine.yaml")
        return data.load(spec, path, **options)

    return load


def opened(sample):
    return np.asarray(sample.images[0].open()).astype(int)


def test_a_row_names_its_frame(own):
    task = own("stack.tif#2", "stack.tif#3", "odd#2.png")
    for sample, page in zip(task.samples, (GREY, 255 - GREY, GREY), strict=True):
        assert_same(opened(sample), page)
    first, second, odd = (s.images[0] for s in task.samples)
    assert [i.name for i in (first, second, odd)] == ["imgs/stack.tif#2", "imgs/stack.tif#3", "imgs/odd#2.png"]
    assert first.sha256 != second.sha256
    assert task.samples[0].cluster == task.samples[1].cluster != task.samples[2].cluster  # of one scan
    assert task.card.images == 3


def test_rows_about_two_frames_never_share_a_prefix(own):
    from harness.models.packs import group_by_images

    assert len(group_by_images(own("stack.tif#2", "stack.tif#3", "stack.tif#2").samples)) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stack.tif", "holds 3 pages"),
        ("stack.tif#4", "there is no frame 4"),
        ("stack.tif#0", "frames are counted from 1"),
        ("plain.png#2", "there is no frame 2"),
        ("none.tif#2", "No such file"),
    ],
)
def test_a_frame_that_is_not_there_is_a_bad_row(own, name, words):
    with pytest.raises(DataError, match=words):
        own("plain.png", name)
    assert len(own("plain.png", name, on_bad_row="skip").samples) == 1


def test_the_yaml_names_a_frame_and_a_row_its_own(own):
    task = own("stack.tif", "stack.tif#3", "plain.png", more="frame: middle\n")
    for sample, page in zip(task.samples, (GREY, 255 - GREY, GREY), strict=True):
        assert_same(opened(sample), page)
    assert task.card.reading.frame == "middle"


@pytest.mark.parametrize("frame", ["0", "-1", "true", "second", "1.5", "'3'"])
def test_a_frame_that_is_none_is_refused(own, frame):
    with pytest.raises(SpecError, match=r"mine\.yaml:8: key 'frame': .*is no frame; give a number from 1, or first"):
        own("plain.png", more=f"frame: {frame}\n")


@pytest.mark.parametrize(
    "window", ["{center: 1}", "{center: 1, width: 0}", "{center: 1, width: 2, level: 3}", "{center: .nan, width: 1}"]
)
def test_a_window_that_is_none_is_refused(own, window):
    with pytest.raises(SpecError, match=r"mine\.yaml:8: .*window"):
        own("plain.png", more=f"window: {window}\n")


def test_a_window_of_the_yaml_changes_pixels_and_fingerprint(own):
    plain = own("scan.dcm")
    windowed = own("scan.dcm", more="window: {center: 3000, width: 200}\n")
    assert not np.array_equal(opened(plain.samples[0]), opened(windowed.samples[0]))
    assert plain.card.fingerprint != windowed.card.fingerprint
    assert windowed.card.reading.window == Window(center=3000, width=200)


def test_pictures_in_a_table_are_read_the_same(own, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    contents = [SCAN, STACKS["TIFF"], EVERYWHERE["turned"][0]]
    rows = [{"img": c, "question": f"Is {i} here?", "answer": "yes"} for i, c in enumerate(contents)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    yaml = MINE.format(more="frame: 2\n").replace("rows.jsonl", "rows.parquet")
    (tmp_path / "mine.yaml").write_text(yaml)
    ((spec, path),) = specs.find("mine.yaml")
    with pytest.raises(DataError, match="there is no frame 2: it holds 1 picture"):
        data.load(spec, path)
    task = data.load(spec, path, on_bad_row="skip")
    assert_same(opened(task.samples[0]), GREY)
    (tmp_path / "mine.yaml").write_text(yaml.replace("frame: 2", "frame: middle"))
    ((spec, path),) = specs.find("mine.yaml")
    assert all(opened(s).shape == (HEIGHT, WIDTH, 3) for s in data.load(spec, path).samples)


def test_ordinary_pictures_keep_their_fingerprint_and_others_say_so(own, monkeypatch):
    ordinary, turned = own("plain.png"), own("plain.png", "turned.jpg", "ink.png")
    assert not [n for n in ordinary.notes if "viewer" in n]
    (note,) = (n for n in turned.notes if "viewer" in n)
    assert "1 turned as the EXIF orientation says; 1 transparent, on a white ground" in note
    assert turned.card.pictures == {"turned as the EXIF orientation says": 1, "transparent, on a white ground": 1}
    monkeypatch.setattr(pictures, "VERSION", pictures.VERSION + 1)
    assert own("plain.png").card.fingerprint == ordinary.card.fingerprint
    assert own("plain.png", "turned.jpg", "ink.png").card.fingerprint != turned.card.fingerprint


def test_a_flag_allows_large_pictures(own, tmp_path, command):
    Image.new("L", (12_000, 9_000)).save(tmp_path / "imgs" / "slide.png")
    with pytest.raises(DataError, match=r"12000x9000 pixels, above the limit .*--max-image-pixels 108000000"):
        own("slide.png")
    code, out, _ = command("tasks", "validate", "mine.yaml", "--max-image-pixels", "108000000", "--json")
    assert code == 0
    (report,) = json.loads(out)
    assert report["reading"]["max_pixels"] == 108_000_000


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--model", "tiny", "--tasks", "mine.yaml"),
        ("export", "lm-eval", "out", "--tasks", "mine.yaml"),
        ("train", "plan", "sft", "--model", "tiny", "--task", "mine.yaml"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_that_reads_pictures_has_the_flag(own, command, words):
    own("plain.png")
    yaml = MINE.format(more="").replace("{test: rows.jsonl}", "{test: rows.jsonl, train: rows.jsonl}")
    with open("mine.yaml", "w") as f:
        f.write(yaml)
    code, _, err = command(*words, "--max-image-pixels", "3000")
    assert code == 2
    assert "64x48 pixels, above the limit of 3000" in err


def test_the_viewer_shows_the_frame_that_was_asked_about(own, tmp_path):
    from types import SimpleNamespace

    from leaderboard.site.pictures import Pictures

    task = own("stack.tif", more="frame: 2\n")
    card = SimpleNamespace(data=task.card)
    own("stack.tif", more="frame: 3\n")  # the YAML as it is today
    ((spec, path),) = specs.find("mine.yaml")
    row = SimpleNamespace(id="0", cluster=task.samples[0].cluster, pictured=task.samples[0].pictured, images=["imgs/stack.tif"])
    (found,) = Pictures(tasks=[(spec, path)]).find(card, row)
    assert_same(np.asarray(found.open()).astype(int), GREY)


def test_an_export_writes_each_frame(own, tmp_path):
    from harness.lm_eval_export import export

    task = own("stack.tif#2", "stack.tif#3")
    export(task, task.spec.get_prompt("question"), tmp_path / "out")
    (rows,) = (tmp_path / "out").glob("*/metadata.jsonl")
    files = [json.loads(line)["file_names"][0] for line in rows.read_text().splitlines()]
    for file, page in zip(files, (GREY, 255 - GREY), strict=True):
        assert_same(np.asarray(Image.open(rows.parent / file).convert("RGB")).astype(int), page)
