"""The benchmarks as they are: official counts, slices and references, from official archives, bundles and a loopback hub."""

import io
import json
import os
import random
import socket
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness import data, specs
from harness.archives import Archive
from harness.data import View
from harness.errors import DataError
from harness.scoring.exact import is_correct
from tasks import grounding
from tasks.layouts.vqa_med_2019 import acceptable, vqa_med_2019
from tests.conftest import load
from tests.hub import Hub


def counts(task, key):
    return dict(Counter(s.slices[key] for s in task.samples))


def local(name, data_dir, **options):
    ((spec, path),) = specs.find(name)
    return data.load(spec, path, source="local", data_dir=data_dir, **options)


def scores_as_it_should(task):
    """Every reference scores exactly 1 against itself in each of its forms, and nonsense exactly 0 (FACTS: what peers miss)."""
    for s in task.samples:
        assert all(is_correct(a, s.reference) for a in s.reference.answers), s
        assert not is_correct("qwxz", s.reference), s
        assert not is_correct("", s.reference), s
    return True


# -- SLAKE -------------------------------------------------------------------------------------------------------------


def test_slake(slake):
    assert (len(slake.samples), slake.card.images) == (1061, 96)
    assert counts(slake, "answer_type") == {"OPEN": 645, "CLOSED": 416}
    assert counts(slake, "modality") == {"CT": 472, "X-Ray": 361, "MRI": 228}
    assert counts(slake, "form") == {"open": 706, "yes/no": 355}
    assert counts(slake, "question_word")["what"] == 347
    assert (slake.card.source, slake.card.resolution) == ("bundled", "bundled-224px")
    assert scores_as_it_should(slake)


def test_slake_train_drops_the_empty_answer_and_says_so():
    train = load("slake", split="train")
    assert len(train.samples) == 4918  # of 4,919
    assert train.card.dropped == {"1622": "empty answer in the official file"}
    assert any("1622" in n for n in train.notes)
    assert len(load("slake", split="validation").samples) == 1053


def test_slake_splits_share_no_image():
    clusters = [{s.cluster for s in load("slake", split=split).samples} for split in ("train", "validation", "test")]
    assert [len(c) for c in clusters] == [450, 96, 96]
    assert len(set.union(*clusters)) == 642


@pytest.mark.parametrize("name", ["slake", "slake_grounded", "silvar_med", "vqa_rad"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_bundled_rows_are_the_official_ones(archives, name, split):
    """Same ids, questions, references and slices, in the same order; only the pixels are smaller."""
    official, bundled = local(name, archives, split=split), load(name, split=split)
    mine = set(bundled.spec.slices)

    def rows(task):
        return [
            (s.id, s.question, s.reference, {k: v for k, v in s.slices.items() if k in mine}, s.images[0].name)
            for s in task.samples
        ]

    assert rows(official) == rows(bundled)
    assert official.card.fingerprint != bundled.card.fingerprint
    assert official.card.resolution == "original"


def test_bundled_images_are_small(slake):
    for s in random.Random(0).sample(slake.samples, 20):
        assert max(s.images[0].open().size) <= 224


# -- Silvar-Med --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slake_grounded", "silvar_med"])
def test_the_abnormality_rows_are_the_papers_own_counts(name):
    """716/150 rows; X-ray 432, MRI 162, CT 122 and 97, 32, 21: Silvar-Med's numbers."""
    train, test = load(name, split="train"), load(name)
    assert counts(train, "modality") == {"X-Ray": 432, "MRI": 162, "CT": 122}
    assert counts(test, "modality") == {"X-Ray": 97, "MRI": 32, "CT": 21}
    assert {s.id for s in test.samples} < {s.id for s in load("slake").samples}
    reasoned = {bool(s.reference.reasoning) for s in train.samples + test.samples}
    assert reasoned == {name == "slake_grounded"}
    assert any("physicians' reasoning is not here" in n for n in test.notes) == (name == "silvar_med")


@pytest.fixture
def annotated(archives, tmp_path):
    """A data folder with SLAKE and an annotation in the authors' form; returns it and the annotation's file."""
    (tmp_path / "slake").symlink_to(archives / "slake")
    (tmp_path / "silvar_med").mkdir()
    rows = json.loads((archives / "slake" / "test.json").read_text())
    rows = [r for r in rows if r["q_lang"] == "en" and r["content_type"] == "Abnormality"]
    path = tmp_path / "silvar_med" / "test.json"
    prose = [{"img_name": r["img_name"], "question": r["question"], "answer": f"Explained: {r['answer']}."} for r in rows]
    path.write_text(json.dumps(prose))
    return tmp_path, path


def test_silvar_med_with_the_physicians_reasoning(annotated, archives):
    folder, path = annotated
    task = local("silvar_med", folder)
    assert len(task.samples) == 150
    assert task.notes == ()
    plain = local("silvar_med", archives)
    assert [(s.id, s.reference.answers) for s in task.samples] == [(s.id, s.reference.answers) for s in plain.samples]
    assert all(s.reference.reasoning == f"Explained: {s.reference.answers[0]}." for s in task.samples)
    assert "SLAKE's own 150 abnormality rows with short answers" in plain.notes[0]
    # the authors keep one copy of an image for each of its questions: xmlab102.jpg, xmlab102_1.jpg
    rows = json.loads(path.read_text())
    for i, r in enumerate(rows):
        r["img_name"] = f"{r['img_name'].split('/')[0]}_{i}.jpg"
    path.write_text(json.dumps(rows[:20]))
    assert [s.id for s in local("silvar_med", folder).samples] == [s.id for s in plain.samples[:20]]


def test_silvar_med_annotations_that_fit_nothing(annotated):
    folder, path = annotated
    rows = json.loads(path.read_text())
    rows[3]["question"] = "What else?"
    rows[4]["answer"] = " "
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"2 of 150 rows cannot be used:\n  row test\.json row 3: SLAKE has no abnormality row"):
        local("silvar_med", folder)
    assert len(local("silvar_med", folder, on_bad_row="skip").samples) == 148


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


# -- VQA-RAD -----------------------------------------------------------------------------------------------------------


def test_vqa_rad():
    test = load("vqa_rad")
    assert len(test.samples) == 451
    assert counts(test, "answer_type") == {"CLOSED": 272, "OPEN": 179}  # "CLOSED " with a blank counts as CLOSED
    assert counts(test, "form") == {"yes/no": 251, "open": 200}
    assert len(load("vqa_rad", split="train").samples) == 1797
    assert all(isinstance(a, str) for s in test.samples for a in s.reference.answers)
    assert scores_as_it_should(test)


# -- VQA-Med 2019 ------------------------------------------------------------------------------------------------------

#: Lines of the official test file (Ben Abacha et al. 2019, CC BY 4.0): every kind of reference that it holds.
VQA_MED_TEST = """\
synpic54082|modality|what modality is shown?|cta - ct angiography
synpic36276|modality|is \tthis a t1 weighted image?|yes
synpic33518|modality|is this a contrast or noncontrast mri?|noncontrast (mri)
synpic48079|plane|what plane is this film|axial
synpic40410|organ|what organ system is imaged?|face, sinuses, and neck#skull and contents
synpic43535|organ|what is the organ system in this image?|heart and great vessels#lung, mediastinum, pleura#spine and contents
synpic33890|abnormality|what abnormality is seen in the image?|microcystic (serous) adenoma of the pancreas
synpic47679|abnormality|what is most alarming about this ultrasound?|incompetent cervix, "hourglass membranes."
synpic35171|abnormality|what is abnormal in the ct scan?|(angioinvasive aspergillosis with) septic cerebral emboli
"""


@pytest.mark.parametrize(
    ("reference", "answers"),
    [
        ("axial", ["axial"]),
        ("ct w/contrast (iv)", ["ct w/contrast (iv)", "ct w/contrast iv", "ct w/contrast"]),
        ("face, sinuses, and neck#skull and contents", ["face, sinuses, and neck", "skull and contents"]),
        ("(iatrogenic) pneumoperitoneum", ["(iatrogenic) pneumoperitoneum", "iatrogenic pneumoperitoneum", "pneumoperitoneum"]),
        ("a (b), c (d)", ["a (b), c (d)", "a b, c d", "a, c"]),
        ("a#(b) c#a", ["a", "(b) c", "b c", "c"]),
        ("open (parenthesis", ["open (parenthesis"]),
        ("closed) parenthesis", ["closed) parenthesis"]),
        ("one (within (another)) here", ["one (within (another)) here"]),
        (")(", [")("]),
        ("(all of it)", ["(all of it)", "all of it"]),
        ("()", ["()"]),
        (" # ", []),
        ("", []),
    ],
)
def test_vqa_med_references(reference, answers):
    assert list(acceptable(reference)) == answers


def test_vqa_med_every_real_reference_parses(archives):
    """416 training and validation answers have parentheses, all balanced; none has a '#'."""
    archive = Archive(archives / "vqa_med_2019")
    rows = [*vqa_med_2019(View(archive, "train", "train")), *vqa_med_2019(View(archive, "val", "validation"))]
    assert len(rows) == 14_792
    with_parts = [s for s in rows if "(" in s.reference.answers[0]]
    assert len(with_parts) == 416
    assert all(len(s.reference.answers) in (2, 3) for s in with_parts)
    assert Counter(s.slices["category"] for s in rows[:12_792]) == {
        "modality": 3200,
        "plane": 3200,
        "organ": 3200,
        "abnormality": 3192,
    }


def test_vqa_med_validation(archives):
    task = local("vqa_med_2019", archives, split="validation")
    assert (len(task.samples), task.card.images) == (2000, 500)
    assert set(counts(task, "category").values()) == {500}
    assert task.samples[0].id == "synpic54733-modality"
    assert task.spec.metrics == ["exact_match", "bleu", "token_f1"]
    assert scores_as_it_should(task)


def test_vqa_med_training_images_are_missed(archives):
    with pytest.raises(DataError, match=r"12792 of 12792 rows cannot be used:\n.*Train_images/synpic41148\.jpg: No such file"):
        local("vqa_med_2019", archives, split="train")


def picture(i, mode="RGB", kind="JPEG"):
    out = io.BytesIO()
    Image.new(mode, (16, 16), i % 200).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("packed", ["folders", "zips", "renamed"])
def test_vqa_med_test(tmp_path, packed):
    """Unpacked, as zips (the images' zip lies beside the questions), and under other folder names."""
    root = tmp_path / "vqa_med_2019"
    folder, images = ("Test", "images") if packed == "renamed" else ("VQAMed2019Test", "VQAMed2019_Test_Images")
    (root / folder / images).mkdir(parents=True)
    (root / folder / "VQAMed2019_Test_Questions_w_Ref_Answers.txt").write_text(VQA_MED_TEST)
    names = [line.split("|")[0] for line in VQA_MED_TEST.splitlines()]
    if packed == "zips":
        with zipfile.ZipFile(root / folder / "VQAMed2019_Test_Images.zip", "w") as z:
            for i, n in enumerate(names):
                z.writestr(f"VQAMed2019_Test_Images/{n}.jpg", picture(i))
    else:
        for i, n in enumerate(names):
            (root / folder / images / f"{n}.jpg").write_bytes(picture(i))
    task = local("vqa_med_2019", tmp_path)
    assert counts(task, "category") == {"modality": 3, "plane": 1, "organ": 2, "abnormality": 3}
    assert task.samples[1].question == "is this a t1 weighted image?"
    assert [len(s.reference.answers) for s in task.samples] == [1, 1, 3, 1, 2, 3, 3, 1, 3]
    assert is_correct("Septic cerebral emboli", task.samples[-1].reference)
    assert is_correct("lung, mediastinum, pleura", task.samples[5].reference)
    assert not is_correct("lung", task.samples[5].reference)
    assert scores_as_it_should(task)


def test_vqa_med_in_the_zips_that_zenodo_has(tmp_path, archives):
    """The validation folder, its images few, as one zip with and without its top folder: the same rows."""
    source = archives / "vqa_med_2019" / "ImageClef-2019-VQA-Med-Validation"
    found = []
    for top in ("ImageClef-2019-VQA-Med-Validation/", ""):
        root = tmp_path / (top or "bare") / "vqa_med_2019"
        root.mkdir(parents=True)
        with zipfile.ZipFile(root / "ImageClef-2019-VQA-Med-Validation.zip", "w") as z:
            for p in source.rglob("*"):
                if p.suffix == ".txt" or p.name in ("synpic54733.jpg", "synpic25647.jpg"):
                    z.write(p, top + p.relative_to(source).as_posix())
        task = local("vqa_med_2019", root.parent, split="validation", on_bad_row="skip")
        assert len(task.samples) == 8
        found.append(task.card.fingerprint)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "All_QA_Pairs_val.txt").unlink(), r"All_QA_Pairs_val\.txt: no such file, in its folders or zips"),
        (lambda f: (f / "All_QA_Pairs_val.txt").write_text("a|b\n"), r"All_QA_Pairs_val\.txt: line 1: 2 cells, expected 3"),
        (lambda f: (f / "All_QA_Pairs_val.txt").write_text("a|new?|c\n"), "QAPairsByCategory has this question of a"),
        (lambda f: (f / "QAPairsByCategory" / "C1_Modality_val.txt").unlink(), r"QAPairsByCategory: no files \*_val\.txt"),
        (lambda f: (f / "x").mkdir() or (f / "x" / "All_QA_Pairs_val.txt").write_text(""), "several files"),
    ],
)
def test_vqa_med_archives_that_are_not_whole(tmp_path, change, message):
    folder = tmp_path / "vqa_med_2019" / "Validation"
    (folder / "QAPairsByCategory").mkdir(parents=True)
    (folder / "All_QA_Pairs_val.txt").write_text("a|what?|c\n")
    (folder / "QAPairsByCategory" / "C1_Modality_val.txt").write_text("a|what?|c\n")
    change(folder)
    with pytest.raises(DataError, match=message):
        local("vqa_med_2019", tmp_path, split="validation")


# -- CV-Bench ----------------------------------------------------------------------------------------------------------


def test_cv_bench(archives, tmp_path):
    """The official rows; their pictures are stood in for by one, in a zip as large as the folder `img`."""
    root = tmp_path / "cv_bench"
    root.mkdir()
    (root / "test.jsonl").write_bytes((archives / "cv_bench" / "test.jsonl").read_bytes())
    rows = [json.loads(line) for line in (root / "test.jsonl").read_text().splitlines()]
    with zipfile.ZipFile(root / "img.zip", "w") as z:
        for r in rows:
            z.writestr(f"img/{r['image']}", picture(1))
    task = local("cv_bench", tmp_path)
    assert len(task.samples) == 2638
    pairs = Counter((s.slices["task"], s.slices["source"]) for s in task.samples)
    assert pairs == {
        ("Count", "COCO"): 446,
        ("Count", "ADE20K"): 342,
        ("Relation", "COCO"): 359,
        ("Relation", "ADE20K"): 291,
        ("Depth", "Omni3D"): 600,
        ("Distance", "Omni3D"): 600,
    }
    assert counts(task, "type") == {"2D": 1438, "3D": 1200}
    assert counts(task, "form") == {"choice": 2638}
    assert Counter(s.reference.answers for s in task.samples) == Counter((r["answer"],) for r in rows)
    assert [s.question for s in task.samples] == [r["prompt"] for r in rows]  # with its choices, as published
    assert (task.spec.aggregate, task.spec.metrics) == ("cv_bench", ["exact_match", "choice_accuracy"])
    assert scores_as_it_should(task)


def test_cv_bench_with_photographs_and_the_hubs_column_names(archives, tmp_path):
    root = tmp_path / "cv_bench"
    known = json.loads((archives / "cv_bench" / "rows_with_source_images.json").read_text())
    lines = []
    for r in known:
        photo = archives / "cv_bench" / "img_2d_photos" / Path(r["local_image"]).name
        target = root / "img" / r["image"]
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.write_bytes(photo.read_bytes())
        lines.append(json.dumps({k: v for k, v in r.items() if k != "image"} | {"filename": f"img/{r['image']}"}))
    (root / "test_2d.jsonl").write_text("\n".join(lines))
    task = local("cv_bench", tmp_path)
    assert len(task.samples) == len(known)
    assert min(min(s.images[0].open().size) for s in task.samples) > 200


# -- the hub -----------------------------------------------------------------------------------------------------------

HUB_CHECK = """
import json, sys, time
from harness import archives, data, specs
archives.PATIENCE = float(sys.argv[2])
out = {}
for name in sys.argv[3:]:
    ((spec, path),) = specs.find(name)
    start = time.monotonic()
    task = data.load(spec, path, source=sys.argv[1])
    rows = [[s.id, s.question, s.reference.answers, s.images[0].name, s.slices, s.images[0].open().mode] for s in task.samples]
    out[name] = {"card": task.card.model_dump(mode="json"), "rows": rows, "notes": task.notes, "s": time.monotonic() - start}
print(json.dumps(out))
"""


def ask(hub_env, source, *names, patience=4.0):
    done = subprocess.run(
        [sys.executable, "-c", HUB_CHECK, source, str(patience), *names],
        env=hub_env | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # how `datasets` stores its Image feature
    table = pa.Table.from_pylist(rows)
    fields = [f.with_type(image) if f.name == "image" else f for f in table.schema]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), path)


@pytest.fixture(scope="module")
def repos(tmp_path_factory):
    """Four dataset repos in the hub's own layouts."""
    root = tmp_path_factory.mktemp("hub")
    rad = load("vqa_rad", limit=30)
    write_parquet(
        root / "rad" / "data" / "test-00000-of-00001-e5bc3d208bb4deeb.parquet",
        [
            {"image": {"bytes": s.images[0].content, "path": None}, "question": s.question, "answer": s.reference.answers[0]}
            for s in rad.samples
        ],
    )
    (root / "rad" / "data" / "train-00000-of-00001.parquet").write_bytes(b"never fetched, and not parquet")
    slake = [
        {"qid": i, "img_name": f"xmlab{i // 2}/source.jpg", "q_lang": "en" if i < 5 else "zh", "question": "Is it large?"}
        | {"answer": "Yes", "modality": "CT", "location": "Lung", "answer_type": "CLOSED", "content_type": "Size"}
        for i in range(6)
    ]
    (root / "slake").mkdir()
    (root / "slake" / "test.json").write_text(json.dumps(slake))
    (root / "slake" / "train.json").write_text("[")
    with zipfile.ZipFile(root / "slake" / "imgs.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for i in range(3):
            z.writestr(f"imgs/xmlab{i}/source.jpg", picture(i))
    for part in range(2):
        write_parquet(
            root / "path" / "data" / f"test-0000{part}-of-00002.parquet",
            [
                {
                    "image": {"bytes": picture(i // 2, mode), "path": None},
                    "question": "is it?",
                    "answer": "yes" if i % 2 else "fat",
                }
                for i, mode in enumerate(["CMYK", "CMYK", "L", "L", "RGB", "RGB"])
            ],
        )
    for kind, number in (("2d", 3), ("3d", 2)):
        write_parquet(
            root / "cv" / f"test_{kind}.parquet",
            [
                {
                    "idx": i + (100 if kind == "3d" else 0),
                    "type": kind.upper(),
                    "task": "Count",
                    "image": {"bytes": picture(i, kind="PNG"), "path": f"{i}.png"},
                    "question": "How many?",
                    "choices": ["3", "2", "1", "0"],
                    "answer": "(C)",
                    "prompt": "How many? Select from the following choices.\n(A) 3\n(B) 2\n(C) 1\n(D) 0",
                    "source": "COCO",
                }
                for i in range(number)
            ],
        )
    return {
        "flaviagiammarino/vqa-rad": root / "rad",
        "BoKelvin/SLAKE": root / "slake",
        "flaviagiammarino/path-vqa": root / "path",
        "nyu-visionx/CV-Bench": root / "cv",
    }


TASKS = ("vqa_rad", "slake", "path_vqa", "cv_bench")


def test_the_hub(repos, tmp_path):
    with Hub(repos) as hub:
        env = hub.env(tmp_path / "home")
        found = ask(env, "hub", *TASKS)
        for name, repo in zip(TASKS, repos, strict=True):
            card = found[name]["card"]
            assert (card["source"], card["resolution"], card["origin"]) == ("hub", "original", f"{repo}@{hub.commit(repo)}")
            assert f"{repo}@{hub.commit(repo)[:12]}" in found[name]["notes"][-1]
        assert not any("train" in a for a in hub.asked if "resolve" in a)  # only the split's own files are fetched
        hub.asked.clear()
        assert ask(env, "auto", *TASKS)["slake"]["card"] == found["slake"]["card"]
        assert hub.asked == []  # what is cached whole is used without a word over the network
    stale = ask(env, "hub", "slake")["slake"]  # nobody answers any more
    assert stale["card"] == found["slake"]["card"]
    assert "as it was cached" in stale["notes"][-1]
    offline = ask(env | {"HF_HUB_OFFLINE": "1"}, "auto", "slake")["slake"]
    assert offline["card"] == found["slake"]["card"]

    rad = load("vqa_rad", limit=30)
    rows = found["vqa_rad"]["rows"]
    assert [r[:3] for r in rows] == [[str(i), s.question, [s.reference.answers[0]]] for i, s in enumerate(rad.samples)]
    assert found["vqa_rad"]["card"]["images"] == rad.card.images
    assert [r[0] for r in found["slake"]["rows"]] == ["0", "1", "2", "3", "4"]
    assert found["slake"]["rows"][0][3] == "imgs/xmlab0/source.jpg"
    path = found["path_vqa"]
    assert (len(path["rows"]), path["card"]["images"]) == (12, 3)  # a picture that several rows hold is one image
    assert {r[5] for r in path["rows"]} == {"RGB"}
    assert Counter(r[4]["form"] for r in path["rows"]) == {"yes/no": 6, "open": 6}
    cv = found["cv_bench"]["rows"]
    assert [r[0] for r in cv] == ["0", "1", "2", "100", "101"]
    assert cv[0][2] == ["(C)"]
    assert cv[0][4] == {"form": "choice", "question_word": "how", "task": "Count", "source": "COCO", "type": "2D"}


def test_a_new_commit_is_seen_by_hub_and_not_by_auto(tmp_path):
    root = tmp_path / "slake"
    root.mkdir()
    row = {"qid": 1, "img_name": "a.jpg", "q_lang": "en", "question": "Is it?", "answer": "Yes"}
    (root / "imgs").mkdir()
    (root / "imgs" / "a.jpg").write_bytes(picture(1))
    (root / "test.json").write_text(json.dumps([row]))
    with Hub({"BoKelvin/SLAKE": root}) as hub:
        env = hub.env(tmp_path / "home")
        first = ask(env, "auto", "slake")["slake"]
        (root / "test.json").write_text(json.dumps([row, row | {"qid": 2}]))
        assert ask(env, "auto", "slake")["slake"]["card"] == first["card"]
        assert ask(env, "hub", "slake")["slake"]["card"]["rows"] == 2


def test_auto_does_not_wait_for_a_hub_that_does_not_answer(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent, Hub({}) as hub:
        env = hub.env(tmp_path / "home")
        env["HF_ENDPOINT"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = ask(env, "auto", "slake", "vqa_rad", patience=0.5)
        assert "cannot be reached" in found["slake"]["notes"][0]
        assert found["slake"]["card"]["source"] == "bundled"
        assert found["vqa_rad"]["s"] < 2  # asked once for all tasks
        env["HF_ENDPOINT"] = hub.address  # a hub that does not have it
        assert "BoKelvin/SLAKE" in ask(env, "auto", "slake")["slake"]["notes"][0]
        hub.asked.clear()
        ask(env | {"HF_HUB_OFFLINE": "1"}, "auto", "slake")
        assert hub.asked == []


# -- harness tasks -----------------------------------------------------------------------------------------------------


def harness(*args, cwd):
    env = os.environ | {"COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "harness", "tasks", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=120,
        check=False,
    )


@pytest.fixture
def table(tmp_path):
    """A user's own table, with images whose names have no ending, choices in one cell and all splits in one file."""
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        (tmp_path / "pictures" / f"p{i}.png").write_bytes(picture(i, kind="PNG"))
    lines = ["qid,image_id,Query,Options,label,modality,split"]
    for i in range(8):
        lines.append(f'{i},p{i % 4},"What, {i}?",one|two,{"AB"[i % 2]},{"CT" if i % 3 else "MRI"},{"train" if i < 3 else "test"}')
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_new_from_a_table_validates(table):
    assert harness("new", "mine", "--from", "rows.csv", cwd=table).returncode == 0
    spec = specs.read(table / "mine.yaml")
    assert spec.local
    assert spec.local.columns.model_dump(exclude_defaults=True) == {
        "id": "qid",
        "image": ["image_id"],
        "question": "Query",
        "answer": ["label"],
        "choices": ["Options"],
        "split": "split",
        "slices": {"modality": "modality"},
    }
    assert (spec.local.images, spec.local.separator) == ("pictures/{}.png", "|")
    done = harness("validate", "mine.yaml", "--json", cwd=table)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(r["split"], r["rows"], r["images"], r["forms"]) for r in json.loads(done.stdout)] == [
        ("train", 3, 3, {"choice": 3}),
        ("test", 5, 4, {"choice": 5}),
    ]
    again = harness("new", "mine", "--from", "rows.csv", cwd=table)
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_new_writes_a_skeleton_that_is_a_spec(tmp_path):
    assert harness("new", "mine", cwd=tmp_path).returncode == 0
    assert specs.read(tmp_path / "mine.yaml").name == "mine"
    bad = harness("new", "My task", "-o", "x.yaml", cwd=tmp_path)
    assert (bad.returncode, "key 'name'" in bad.stderr, (tmp_path / "x.yaml").exists()) == (2, True, False)
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    assert "no column looks like the question" in harness("new", "other", "--from", "rows.csv", cwd=tmp_path).stderr


def test_validate_reports_every_problem(table):
    harness("new", "mine", "--from", "rows.csv", cwd=table)
    text = (table / "rows.csv").read_text()
    text = text.replace("\n4,", "\n3,").replace(",B,CT,test", ",spleen,CT,test", 1)
    (table / "rows.csv").write_text(text + '9,p9,"What?",one|two,A,CT,test\n')
    (table / "pictures" / "p2.png").write_bytes(b"no picture")
    done = harness("validate", "mine.yaml", "--json", cwd=table)
    assert done.returncode == 1
    train, test = json.loads(done.stdout)
    assert (train["ok"], list(train["problems"])) == (False, ["2"])
    assert test["image_problems"] == 2  # p2 and p9
    assert test["duplicate_ids"] == 1
    whys = list(test["problems"].values())
    for word in ("duplicate id", "'spleen' names none of the choices", "cannot be decoded", "No such file"):
        assert sum(word in why for why in whys) == 1, whys
    shown = harness("validate", "mine.yaml", cwd=table).stdout
    assert "bad mine test" in shown
    assert "4 rows cannot be used: 2 with image problems, 1 repeated ids" in shown


def test_validate_goes_on_after_a_split_that_cannot_be_read(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ntitle: Mine\nlicense: none\nlocal: {splits: {train: train.jsonl, test: test.jsonl}}\n"
    )
    done = harness("validate", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert "bad mine train: train.jsonl: no such file" in done.stdout
    assert "ok mine test: 1 rows (1 open), 0 images, local (original); answers: b 100 %" in done.stdout
    assert "look no row has an image" in done.stdout
    (tmp_path / "mine.yaml").write_text("name: mine\ntitel: Mine\nlicense: none\nlocal: {splits: {train: train.jsonl}}\n")
    done = harness("validate", "mine.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "mine.yaml:2: unknown key 'titel'" in done.stderr
    assert "did you mean 'title'?" in done.stderr


def test_list_and_show(tmp_path):
    found = {t["name"]: t for t in json.loads(harness("list", "--json", cwd=tmp_path).stdout)}
    assert found["slake"]["groups"] == ["medical", "paper", "radiology"]
    assert found["cv_bench"]["groups"] == ["paper"]
    assert (found["path_vqa"]["bundled"], found["path_vqa"]["hub"]) == (False, "flaviagiammarino/path-vqa")
    assert "medical = silvar_med" in harness("list", cwd=tmp_path).stdout
    assert "names 4 tasks" in harness("show", "slake*", cwd=tmp_path).stderr
    assert harness("schema", cwd=tmp_path).stdout == specs.schema()
