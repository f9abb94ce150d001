"""Benchmarks as their authors publish them, a few rows each: folders, archives, tables and columns.

    write("pathmmu", tmp_path)      # what --data-dir holds for the task `pathmmu`

Every row and picture here is made up. The formats are those of public dataset cards and of the readers in MedEvalKit, VLMEvalKit,
evalscope, eva, KARMA and the benchmarks' own repositories, quirks included (labels within choices, Python literals, gaps).
Answers share no word from one row to the next, so that a row's reference is wholly wrong for its neighbour.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

Row = dict[str, Any]
BUILDERS: dict[str, Callable[[Path], None]] = {}


def write(task: str, root: Path) -> Path:
    """The benchmark's folder under `root`, which is returned."""
    BUILDERS[task](root)
    return root


def published(*tasks: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def add(builder: Callable[[Path], None]) -> Callable[[Path], None]:
        BUILDERS.update(dict.fromkeys(tasks, builder))
        return builder

    return add


def png(number: int) -> bytes:
    """A picture that is like no other number's."""
    image = Image.new("L", (32, 24), 20 + number % 200)
    ImageDraw.Draw(image).rectangle((number % 20, 4, number % 20 + 8, 16), fill=255)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def stored(number: int) -> Row:
    """A picture as the hub's image feature stores it."""
    return {"bytes": png(number), "path": f"{number}.png"}


def b64(number: int) -> str:
    return base64.b64encode(png(number)).decode()


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(_place(path), "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def table(path: Path, rows: list[Row]) -> None:
    with _place(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def document(path: Path, value: Any) -> None:
    _place(path).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def lines(path: Path, rows: Iterable[Row]) -> None:
    _place(path).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), _place(path))


@published("medxpertqa_mm")
def medxpertqa(root: Path) -> None:
    """MM/{dev,test}.jsonl and images.zip; the choices stand in the question too."""
    options = {"A": "Lipoma", "B": "Synovitis", "C": "Gout", "D": "Sarcoma", "E": "Cyst"}
    told = "\nAnswer Choices: " + " ".join(f"({k}) {v}" for k, v in options.items())
    rows = [
        {
            "id": f"MM-{i}", "question": f"A {40 + i}-year-old has a mass in the ankle. What is it?{told}", "options": options,
            "label": "ABCE"[i], "images": [f"MM-{i}-a.jpeg", f"MM-{i}-b.jpeg"][: 1 + i % 2], "medical_task": "Diagnosis",
            "body_system": ["Skeletal", "Nervous"][i // 2], "question_type": ["Reasoning", "Understanding"][i % 2],
        }
        for i in range(4)
    ]  # fmt: skip
    lines(root / "medxpertqa/MM/test.jsonl", rows)
    lines(root / "medxpertqa/MM/dev.jsonl", rows[:1])
    zipped(root / "medxpertqa/images.zip", {f"images/MM-{i}-{k}.jpeg": png(2 * i + (k == "b")) for i in range(4) for k in "ab"})


@published("pmc_vqa", "pmc_vqa_v2")
def pmc_vqa(root: Path) -> None:
    """test_clean.csv with Answer_label, test_2.csv with a letter as Answer; labels and blanks within the choices."""
    words = ["Diffuse uptake", "Focal lesion", "No change", "Cannot be told"]
    choices = {f"Choice {k}": f" {k}:{w} " for k, w in zip("ABCD", words, strict=True)}
    clean = [
        {"Figure_path": f"PMC{i // 2}_FIG1.jpg", "Question": f" What is seen in part {i}? ", "Answer": words[i], **choices,
         "Answer_label": "ABCD"[i]}
        for i in range(4)
    ]  # fmt: skip
    second = [
        {"index": i, "Figure_path": f"PMC{i}_Fig1_a.jpg", "Caption": "A figure.", "Question": f"What is seen in part {i}?",
         **choices, "Answer": "ABC"[i], "split": "test"}
        for i in range(3)
    ]  # fmt: skip
    table(root / "pmc_vqa/test_clean.csv", clean)
    table(root / "pmc_vqa/test_2.csv", second)
    zipped(root / "pmc_vqa/images.zip", {f"images/PMC{i}_FIG1.jpg": png(i) for i in range(2)})
    zipped(root / "pmc_vqa/images_2.zip", {f"figures/PMC{i}_Fig1_a.jpg": png(10 + i) for i in range(3)})


@published("omnimedvqa")
def omnimedvqa(root: Path) -> None:
    """OmniMedVQA.zip, a JSON file per source: two to four choices, `modality` instead of `modality_type` in some."""
    four = {"option_A": "CT", "option_B": "MRI", "option_C": "X-ray", "option_D": "Ultrasound"}
    chest = [
        {"dataset": "Chest CT Scan", "question_id": f"Chest CT Scan_{i}", "question_type": "Modality Recognition",
         "question": f"What made picture {i}?", "gt_answer": answer, **four, "modality_type": "CT",
         "image_path": f"Images/Set/{i}.png"}
        for i, answer in enumerate(["CT", "Ultrasound"])
    ]  # fmt: skip
    breast = [
        {"dataset": "BreakHis", "question_id": f"BreakHis_{i}", "question_type": "Disease Diagnosis", "question": "Is it benign?",
         "gt_answer": answer, "option_A": "Yes", "option_B": "No", "modality": "Microscopy",
         "image_path": f"Images/Set/{2 + i}.png"}
        for i, answer in enumerate(["No", "Yes"])
    ]  # fmt: skip
    tables = {"Open-access/Chest CT Scan": chest, "Open-access/BreakHis": breast, "Restricted-access/Other": []}
    members = {f"OmniMedVQA/QA_information/{name}.json": json.dumps(rows).encode() for name, rows in tables.items()}
    members |= {f"OmniMedVQA/Images/Set/{i}.png": png(i) for i in range(4)}
    zipped(root / "OmniMedVQA/OmniMedVQA.zip", members)


def _mmmu(field: str, i: int, **fields: Any) -> Row:
    empty = {f"image_{k}": None for k in range(1, 8)}
    return {"id": f"validation_{field}_{i}", "topic_difficulty": "Easy", "subfield": "Anatomy", **empty, **fields}


@published("mmmu_medical")
def mmmu(root: Path) -> None:
    """A folder for each subject, Python literals, pictures within the text and the choices; one subject that is not medical."""
    base = root / "MMMU"
    rows = [
        _mmmu("Pharmacy", 1, question="<image 1> Which drug is drawn?", options="['Aspirin', \"Hodgkin's tonic\"]", answer="A",
              question_type="multiple-choice", image_1=stored(1)),
        _mmmu("Pharmacy", 2, question="Compare <image 1>. Which fits?", options="['<image 2>', '<image 3>']", answer="B",
              question_type="multiple-choice", image_1=stored(2), image_2=stored(3), image_3=stored(4)),
        _mmmu("Pharmacy", 3, question="<image 1> How many rings?", options="[]", answer="['2', 'two']", question_type="open",
              image_1=stored(5)),
    ]  # fmt: skip
    parquet(base / "Pharmacy/validation-00000-of-00001.parquet", rows)
    parquet(base / "Pharmacy/dev-00000-of-00001.parquet", rows[:1])
    for n, subject in enumerate(
        ["Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Public_Health", "Accounting"]
    ):
        row = _mmmu(
            subject, 1, question="<image 1> Which is shown?", options="['Aorta', 'Vein']", answer="AB"[n % 2],
            question_type="multiple-choice", image_1=stored(20 + n),
        )  # fmt: skip
        parquet(base / subject / "validation-00000-of-00001.parquet", [row])
        parquet(base / subject / "dev-00000-of-00001.parquet", [row])


@published("mmmu_pro_medical")
def mmmu_pro(root: Path) -> None:
    """One table of all subjects for each setting; ten choices."""
    subjects = [
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy", "Public_Health", "Music",
    ]  # fmt: skip
    options = repr([f"Choice number {n}" for n in range(10)])
    rows = [
        _mmmu(s, i, question="<image 1> Which number?", options=options, answer="AJCDEF"[i], subject=s, image_1=stored(i),
              explanation="?", img_type="['Tables']")
        for i, s in enumerate(subjects)
    ]  # fmt: skip
    parquet(root / "MMMU_Pro/standard (10 options)/test-00000-of-00001.parquet", rows)
    parquet(root / "MMMU_Pro/vision/test-00000-of-00001.parquet", [{"id": "x", "image": stored(1)}])


@published("medframeqa")
def medframeqa(root: Path) -> None:
    """data/test-*.parquet; frames in image_1 ... image_5, the last ones empty; two questions of one video."""
    rows = [
        {
            "question_id": f"brain_CT_{i}", "system": "central_nervous_system", "organ": "brain", "keyword": "stroke",
            "modality": ["CT", "MRI"][i % 2], "video_id": f"v{i // 2}", "question": "Which sequence do the frames show?",
            "options": ["Growth", "Shrinking", "Bleeding"], "correct_answer": "ABC"[i], "reasoning_chain": "The frames differ.",
            **{f"image_{k + 1}": stored(10 * i + k) if k < 2 + i else None for k in range(5)},
        }
        for i in range(3)
    ]  # fmt: skip
    parquet(root / "medframeqa/data/test-00000-of-00001.parquet", rows)


def _vlmeval(i: int, question: str, choices: str, answer: str, **more: Any) -> Row:
    """A row of VLMEvalKit's TSV."""
    told = dict(zip("ABCDE", [*choices.split("|"), "", "", "", ""], strict=False))
    return {"index": i, "image": b64(i), "question": question, **told, "answer": answer, **more}


@published("gmai_mmbench")
def gmai_mmbench(root: Path) -> None:
    """VLMEvalKit's TSV: pictures in base64, of a repeated one the index of the first row."""
    fields = [
        {"category": task, "l2-category": department, "split": "VAL"}
        for task, department in (("Diagnosis", "Oncology"), ("Grading", "Cardiology"), ("Diagnosis", "Cardiology"))
    ]
    rows = [_vlmeval(i, f"What is in picture {i}?", "Tumour|Fluid|Air|Bone", "ABD"[i], **more) for i, more in enumerate(fields)]
    rows.append(rows[1] | {"index": 3, "image": "1", "question": "Where is it?", "answer": "C"})
    table(root / "gmai_mmbench/GMAI-MMBench_VAL.tsv", rows)


@published("pathmmu")
def pathmmu(root: Path) -> None:
    """data.json: {subset: {split: rows}}; labels within choices and answer; images.zip."""
    options = ["A) Hyperkeratosis", "B) Parakeratosis", "C) Ballooning", "D) Both A and B"]
    rows = {
        subset: [
            {"No": i, "img": f"{subset}{i}.png", "question": f"Which feature is absent in layer {i}?", "options": options,
             "answer": options[(n + i) % 4], "explanation": "It is not seen."}
            for i in range(2)
        ]
        for n, subset in enumerate(["PubMed", "Atlas"])
    }  # fmt: skip
    document(root / "PathMMU/data.json", {k: {"val": v[:1], "test": v, "test_tiny": v[1:]} for k, v in rows.items()})
    members = {f"images/{row['img']}": png(i) for i, row in enumerate(row for found in rows.values() for row in found)}
    zipped(root / "PathMMU/images.zip", members)


@published("quilt_vqa")
def quilt_vqa(root: Path) -> None:
    """data/train-*.parquet is the test; open and yes/no."""
    told = [
        ("What is seen at the top?", "Keratin pearls.", "OPEN"), ("Is there mitosis?", "Yes, there is.", "CLOSED"),
        ("Which tissue is it?", "Lung parenchyma.", "OPEN"),
    ]  # fmt: skip
    rows = [
        {"image": stored(i), "question": q, "answer": a, "answer_type": kind, "context": "A talk."}
        for i, (q, a, kind) in enumerate(told)
    ]
    parquet(root / "quilt_vqa/data/train-00000-of-00001.parquet", rows)


@published("kvasir_vqa")
def kvasir_vqa(root: Path) -> None:
    """data/raw-*.parquet in several files, the only split; several questions on a picture."""
    told = [("Is there a polyp?", "Yes"), ("What colour is it?", "pink"), ("How many are seen?", "0"), ("Where is it?", "center")]
    for n, source in enumerate(["HyperKvasir", "Instruments"]):
        base = {"image": stored(n), "source": source, "img_id": f"k{n}"}
        rows = [base | {"question": q, "answer": a} for q, a in told[2 * n : 2 * n + 2]]
        parquet(root / f"kvasir_vqa/data/raw-0000{n}-of-00002.parquet", rows)


@published("kvasir_vqa_x1")
def kvasir_vqa_x1(root: Path) -> None:
    """data/{train,test}-*.parquet with pictures, which the authors' README saves beside them as images/IMG_ID.jpg."""
    told = ["A pink polyp lies centrally.", "No instrument appears.", "Inflamed mucosa without bleeding"]
    rows = [
        {"img_id": f"k{i // 2}", "image": stored(i // 2), "complexity": 1 + i, "question": f"What does view {i} show?",
         "answer": a, "original": "[]", "question_class": ["polyp_type"]}
        for i, a in enumerate(told)
    ]  # fmt: skip
    for split in ("train", "test"):
        parquet(root / f"kvasir_vqa_x1/data/{split}-00000-of-00001.parquet", rows)
    zipped(root / "kvasir_vqa_x1/images.zip", {f"k{i}.jpg": png(i) for i in range(2)})


@published("slake_zh", "slake_bilingual")
def slake(root: Path) -> None:
    """train.json, validate.json (the hub: validation.json), test.json and imgs/: rows of two languages on one picture."""
    told = [
        ("en", "Does the picture contain liver?", "Yes", "CLOSED", "Organ"),
        ("zh", "图片中包含肾脏吗?", "不包含", "CLOSED", "Organ"),
        ("zh", "图片中的肺健康吗?", "是的", "CLOSED", "Abnormality"),
        ("zh", "这是什么成像方式?", "核磁共振", "OPEN", "Modality"),
        ("en", "Which modality is it?", "CT", "OPEN", "Modality"),
    ]
    rows = [
        {"img_id": 1 + i // 3, "img_name": f"xmlab{1 + i // 3}/source.jpg", "question": q, "answer": a, "q_lang": lang,
         "location": "Lung", "modality": "MRI", "answer_type": kind, "base_type": "vqa", "content_type": content,
         "triple": ["vhead", "_", "_"], "qid": i}
        for i, (lang, q, a, kind, content) in enumerate(told)
    ]  # fmt: skip
    for split in ("train", "validate", "validation", "test"):
        document(root / f"slake/{split}.json", rows)
    zipped(root / "slake/imgs.zip", {f"imgs/xmlab{i}/source.jpg": png(i) for i in (1, 2)})


@published("microvqa")
def microvqa(root: Path) -> None:
    """data/train-*.parquet is the test; a list of pictures, the right choice counted from 0; two questions on one figure."""
    rows = [
        {"key_question": 640 + i, "key_image": 120 + i // 2, "images_list": [stored(i // 2), *([stored(5)] if i == 2 else [])],
         "question": f"What does condition {i} change?", "choices": ["Growth", "Movement", "Division", "Death", "Nothing"],
         "correct_index": [0, 4, 1][i], "task": i, "task_str": ["perception", "hypothesis_gen", "experiment_proposal"][i]}
        for i in range(3)
    ]  # fmt: skip
    parquet(root / "microvqa/data/train-00000-of-00001.parquet", rows)


@published("medthinkvqa")
def medthinkvqa(root: Path) -> None:
    """test.jsonl: a case a row, image_01_path to image_49_path of which a row has those that it fills."""
    options = {"A": "Arthritis", "B": "Myositis", "C": "Sclerosis", "D": "Fracture", "E": "Tumour"}
    rows = [
        {"title": f"Case number {100 + i}", "CLINICAL_HISTORY": f"A {30 + i}-year-old with pain.", "IMAGING_FINDINGS": "Oedema.",
         "options": options, "correct_answer": "BDA"[i], "ICD Chapter": ["XIII", "II"][i % 2], "is_longitudinal": i == 2,
         **{f"image_{k + 1:02d}_path": f"images/case0{i}/{k}.jpg" for k in range(1 + i)},
         **{f"image_{k + 1:02d}_caption": "Oedema of the muscle." for k in range(1 + i)}}
        for i in range(3)
    ]  # fmt: skip
    for split in ("train", "test"):
        lines(root / f"medthinkvqa/{split}.jsonl", rows)
    for i in range(3):
        for k in range(1 + i):
            _place(root / f"medthinkvqa/images/case0{i}/{k}.jpg").write_bytes(png(10 * i + k))


@published("medq_bench")
def medq_bench(root: Path) -> None:
    """VLMEvalKit's TSV without E."""
    modalities = ["CT", "MRI", "CT"]
    rows = [_vlmeval(i, "How sharp is it?", "Sharp|Blurred|Noisy", "ABC"[i], modality=m) for i, m in enumerate(modalities)]
    for row in rows:
        del row["E"]
    for split in ("dev", "test"):
        table(root / f"medq_bench/medqbench_QA_{split}.tsv", rows)


@published("medq_deg", "medq_deg_good")
def medq_deg(root: Path) -> None:
    """VLMEvalKit's TSV for degraded pictures and for good ones, which have no degradation."""
    organs, modalities, kinds = "Lung|Liver|Brain|Heart|None", ["CT", "MRI", "CT"], ["noise", "blur", "noise"]
    good = [_vlmeval(i, "Which organ is it?", organs, "AEC"[i], modality=m) for i, m in enumerate(modalities)]
    worse = [row | {"image": b64(50 + i), "degradation_type": kinds[i], "degradation_severity": i} for i, row in enumerate(good)]
    for split in ("dev", "test"):
        table(root / f"medq_deg/MedQ-Robust-good-{split}.tsv", good)
        table(root / f"medq_deg/MedQ-Robust-simulate-{split}.tsv", worse)


@published("mmoral_opg", "mmoral_opg_open")
def mmoral_opg(root: Path) -> None:
    """Closed TSV with option1 ... option4 and a letter; open TSV."""
    base = {"index": 0, "image": "", "question": "", "category": "Teeth,Patho"}
    closed = [
        base | {"index": i, "image": b64(i), "question": f"Which tooth is number {i}?", "option1": "Molar", "option2": "Canine",
                "option3": "Incisor", "option4": "None", "answer": "ACD"[i]}
        for i in range(3)
    ]  # fmt: skip
    told = ["Caries of the lower molar", "Bone loss", "No finding"]
    opened = [
        base | {"index": i, "image": b64(i), "question": f"What is wrong in view {i}?", "answer": a} for i, a in enumerate(told)
    ]
    table(root / "mmoral_opg/MMOral-OPG-Bench-Closed-Ended.tsv", closed)
    table(root / "mmoral_opg/MMOral-OPG-Bench-Open-Ended.tsv", opened)


@published("mmrarebench")
def mmrarebench(root: Path) -> None:
    """diagnosis/diagnosis_opened.tsv: pictures as a JSON list of base64, synonyms as a JSON list, some rows without either."""
    told = [("Granulomatosis with polyangiitis", ["Wegener"], 2), ("Fabry syndrome", [], 1), ("Castleman tumour", ["CD"], 0)]
    rows = [
        {"index": i, "image": json.dumps([b64(10 * i + k) for k in range(pictures)]), "image_path": "[]",
         "context": f"A case, number {i}.", "question": "What is the diagnosis?", "answer": answer,
         "answer_aliases": json.dumps(more), "ORPHA_code": 900 + i}
        for i, (answer, more, pictures) in enumerate(told)
    ]  # fmt: skip
    table(root / "mmrarebench/diagnosis/diagnosis_opened.tsv", rows)


@published("medvlthinker_eval")
def medvlthinker_eval(root: Path) -> None:
    """data/test-*.parquet: pictures as a list, choices as JSON text, yes/no as choices."""
    rows = [
        {"images": [stored(i)], "question": f"What is seen in picture {i}?", "options": json.dumps(options),
         "answer_label": label, "answer": options[label], "dataset_name": name, "dataset_index": i, "misc": "{}", "reasoning": ""}
        for i, (options, label, name) in enumerate([
            ({"A": "No", "B": "Yes"}, "B", "VQA-RAD"), ({"A": "CT", "B": "MRI", "C": "X-ray"}, "C", "PMC-VQA"),
            ({"A": "Yes", "B": "No"}, "A", "SLAKE"),
        ])
    ]  # fmt: skip
    parquet(root / "medvlthinker_eval/data/test-00000-of-00001.parquet", rows)
