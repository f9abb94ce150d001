"""The real rows: official counts, the pitfalls of each archive, and bad rows refused before anything is generated."""

import hashlib
import io
import json
import random
from collections import Counter

import pytest
from PIL import Image

from harness import data, specs
from harness.errors import DataError, UserError
from harness.records import BadImageError, ImageRef
from tasks import grounding
from tests.conftest import load


def counts(task, key):
    return dict(Counter(s.slices[key] for s in task.samples))


def test_slake_counts(slake):
    assert len(slake.samples) == 1061
    assert slake.card.images == 96
    assert counts(slake, "answer_type") == {"OPEN": 645, "CLOSED": 416}
    assert counts(slake, "modality") == {"CT": 472, "X-Ray": 361, "MRI": 228}
    assert (slake.card.source, slake.card.resolution) == ("bundled", "bundled-224px")


def test_slake_train_drops_the_empty_answer_and_says_so():
    train = load("slake", split="train")
    assert len(train.samples) == 4918
    assert train.card.dropped == {"1622": "empty answer in the official file"}
    assert any("1622" in n for n in train.notes)


def test_slake_splits_share_no_image():
    clusters = [{s.cluster for s in load("slake", split=split).samples} for split in ("train", "validation", "test")]
    assert [len(c) for c in clusters] == [450, 96, 96]
    assert len(set.union(*clusters)) == 642


def test_grounded_is_the_papers_own_counts():
    """716/150 rows; X-ray 432, MRI 162, CT 122 and 97, 32, 21: Silvar-Med's numbers."""
    train, test = load("slake_grounded", split="train"), load("slake_grounded")
    assert counts(train, "modality") == {"X-Ray": 432, "MRI": 162, "CT": 122}
    assert counts(test, "modality") == {"X-Ray": 97, "MRI": 32, "CT": 21}
    assert all(s.reference.reasoning for s in train.samples + test.samples)
    assert {s.id for s in test.samples} < {s.id for s in load("slake").samples}


def test_vqa_rad_counts():
    test = load("vqa_rad")
    assert len(test.samples) == 451
    assert counts(test, "answer_type") == {"CLOSED": 272, "OPEN": 179}  # "CLOSED " with a blank counts as CLOSED
    assert counts(test, "form") == {"yes/no": 251, "other": 200}
    assert len(load("vqa_rad", split="train").samples) == 1797
    assert all(isinstance(a, str) for s in test.samples for a in s.reference.answers)


def test_bundled_images_are_small(slake):
    for s in random.Random(0).sample(slake.samples, 20):
        assert max(s.images[0].open().size) <= 224


@pytest.mark.parametrize("name", ["slake", "slake_grounded", "vqa_rad"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_bundled_rows_are_the_official_ones(archives, name, split):
    """Same ids, questions, references and slices, in the same order; only the pixels are smaller."""
    ((spec, path),) = specs.find(name)
    official = data.load(spec, path, source="local", data_dir=archives, split=split, on_bad_row="skip")
    bundled = load(name, split=split)
    keys = [(s.id, s.question, s.reference, s.slices, s.images[0].name) for s in official.samples]
    assert keys == [(s.id, s.question, s.reference, s.slices, s.images[0].name) for s in bundled.samples]
    assert official.card.fingerprint != bundled.card.fingerprint
    assert official.card.resolution == "original"


def test_auto_says_when_it_uses_small_images(archives):
    ((spec, path),) = specs.find("slake")
    assert any("bundled-224px" in n for n in data.load(spec, path, source="auto", limit=2).notes)
    assert data.load(spec, path, source="auto", data_dir=archives, limit=2).card.source == "local"


def test_limit_changes_the_fingerprint(slake):
    some = load("slake", limit=10)
    assert len(some.samples) == 10
    assert some.card.fingerprint != slake.card.fingerprint
    assert some.card.fingerprint == load("slake", limit=10).card.fingerprint


def test_grounding_names_findings_and_sides():
    row = {"modality": "X-Ray", "location": "Lung", "answer": "Yes"}
    boxes = [{"Pneumonia": [10, 10, 20, 20]}, {"Right Lung": [0, 0, 50, 100]}]
    text = grounding.reasoning(row, boxes, 100, 100)
    assert text == (
        "This is an x-ray of the lung. It shows pneumonia in the upper left quadrant, on the patient's right side. "
        "So the answer is yes."
    )
    assert "No lesion is marked." in grounding.reasoning(row, boxes[1:], 100, 100)
    abdomen = grounding.reasoning(
        {"modality": "CT", "location": "Abdomen", "answer": "No"}, [{"Liver Cancer": [60, 60, 10, 10]}], 100, 100
    )
    assert abdomen == "This is a CT of the abdomen. It shows liver cancer in the lower right quadrant. So the answer is no."


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


def test_bomb_is_refused():
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    with pytest.raises(BadImageError, match=r"pixels, above the limit|DecompressionBomb"):
        ImageRef("bomb.png", data=out.getvalue()).open()


def test_image_hash_is_of_the_bytes():
    assert ImageRef("x", data=b"abc").sha256 == hashlib.sha256(b"abc").hexdigest()
