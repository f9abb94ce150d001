"""Text benchmarks, HealthBench and report collections as they are published, a few rows each; see tests/published.py.

Every row is made up. The formats are those of the hub's dataset cards and of the readers in KARMA, MedEvalKit, lmms-eval and
simple-evals.
"""

from __future__ import annotations

from pathlib import Path

from tests.published import Row, document, lines, parquet, png, published, table

#: (question, choices, place of the right one); no right answer shares a word with the next row's.
_ASKED = [
    ("A 34-year-old has fever and a stiff neck. Which test comes first?", ["Lumbar puncture", "Biopsy", "Audiometry"], 0),
    ("Which vitamin lacks in scurvy?", ["Retinol", "Thiamine", "Ascorbate"], 2),
    ("What lowers intracranial pressure at once?", ["Rest", "Mannitol", "Aspirin", ], 1),
    ("Which nerve supplies the diaphragm?", ["Vagus", "Ulnar", "Phrenic"], 2),
]  # fmt: skip
LETTERS = "ABCDEFGHIJ"
_MORE = ["Penicillin", "Observation", "Ultrasound", "Warfarin", "Insulin", "Dialysis", "Oxygen"]


def _choices(i: int, count: int) -> dict[str, str]:
    return dict(zip(LETTERS, [*_ASKED[i][1], *_MORE][:count], strict=False))


def _right(i: int) -> str:
    return LETTERS[_ASKED[i][2]]


@published("medxpertqa_text")
def medxpertqa_text(root: Path) -> None:
    """Ten choices as an object, which stand in the question too."""

    def row(i: int) -> Row:
        listed = " ".join(f"({k}) {v}" for k, v in _choices(i, 10).items())
        about = {"medical_task": ("Diagnosis", "Treatment")[i % 2], "body_system": "Nervous", "question_type": "Reasoning"}
        question = f"{_ASKED[i][0]}\nAnswer Choices: {listed}"
        return {"id": f"Text-{i}", "question": question, "options": _choices(i, 10), "label": _right(i), **about}

    lines(root / "medxpertqa/Text/dev.jsonl", [row(3)])
    lines(root / "medxpertqa/Text/test.jsonl", [row(i) for i in range(4)])


@published("medqa")
def medqa(root: Path) -> None:
    """Choices as an object; the answer in words and as a letter."""

    def row(i: int) -> Row:
        answer = {"answer": _ASKED[i][1][_ASKED[i][2]], "options": _choices(i, 4), "answer_idx": _right(i)}
        return {"question": _ASKED[i][0], **answer, "meta_info": ("step1", "step2&3")[i % 2], "metamap_phrases": ["fever"]}

    lines(root / "medqa/phrases_no_exclude_train.jsonl", [row(0)])
    lines(root / "medqa/phrases_no_exclude_test.jsonl", [row(i) for i in range(4)])


@published("medmcqa")
def medmcqa(root: Path) -> None:
    """A column for each choice; the answer counted from 0."""

    def row(i: int) -> Row:
        options = dict(zip(("opa", "opb", "opc", "opd"), _choices(i, 4).values(), strict=True))
        about = {"choice_type": ("single", "multi")[i % 2], "exp": None, "subject_name": "Medicine", "topic_name": None}
        return {"id": f"id-{i}", "question": _ASKED[i][0], **options, "cop": _ASKED[i][2], **about}

    parquet(root / "medmcqa/data/train-00000-of-00001.parquet", [row(0)])
    parquet(root / "medmcqa/data/validation-00000-of-00001.parquet", [row(i) for i in range(4)])


@published("pubmedqa")
def pubmedqa(root: Path) -> None:
    """Everything within one object; the abstract as a list of paragraphs."""

    def row(i: int) -> Row:
        said = ("yes", "no", "maybe")[i % 3]
        return {
            "id": f"pub-{i}",
            "data": {
                "Context": [f"We asked {10 + i} patients.", "Half of them improved."],
                "Correct Answer": said,
                "Correct Option": "ABC"[i % 3],
                "Options": {"A": "yes", "B": "no", "C": "maybe"},
                "Question": f"Does therapy {i} help?",
            },
            "subject_name": "PubMedQA",
        }

    for split, count in (("train", 1), ("validation", 1), ("test", 4)):
        parquet(root / f"pubmedqa/data/{split}-00000-of-00001.parquet", [row(i) for i in range(count)])


@published("mmlu_medical")
def mmlu_medical(root: Path) -> None:
    """A folder a subject, the other 51 among them; choices as a list, the answer counted from 0."""
    subjects = ["anatomy", "astronomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics"]
    for n, subject in enumerate([*subjects, "professional_medicine"]):
        for split in ("dev", "validation", "test"):
            i = n % 4
            row = {"question": f"{_ASKED[i][0]} ({subject})", "subject": subject, "choices": list(_choices(i, 4).values())}
            parquet(root / f"mmlu/{subject}/{split}-00000-of-00001.parquet", [{**row, "answer": _ASKED[i][2]}])


@published("medbullets_op4", "medbullets_op5")
def medbullets(root: Path) -> None:
    """Four choices as an object, or five columns; the split is called train."""
    four = [{"question": _ASKED[i][0], "options": _choices(i, 4), "answer_idx": _right(i)} for i in range(4)]
    parquet(root / "medbullets_op4/data/train-00000-of-00001.parquet", four)
    names = ("opa", "opb", "opc", "opd", "ope")
    five = [
        {"question": _ASKED[i][0], **dict(zip(names, _choices(i, 5).values(), strict=True)), "answer_idx": _right(i)}
        for i in range(4)
    ]
    parquet(root / "medbullets_op5/data/train-00000-of-00001.parquet", five)


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(number))


def piped(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("|".join(cells) + "\n" for cells in rows), encoding="utf-8")


_SEEN = [("osteopoikilosis", "osteosclerotic lesions"), ("yes",), ("pulmonary embolism",), ("avascular necrosis (hip)", "AVN")]
_ASKS = [
    "what abnormality is seen in the image?",
    "is this image abnormal?",
    "what is abnormal in the ct scan?",
    "what is shown?",
]


def _vqa_med(files: dict[str, int], test: str, root: Path, separator: str) -> None:
    """Files of question and answer with so many rows each, and a test set in two files; each with a folder of images."""
    number = 100
    for file, count in files.items():
        path = root / file
        rows = [(f"synpic{number + i}", _ASKS[i], separator.join(_SEEN[i])) for i in range(count)]
        piped(path, rows)
        for i in range(count):
            picture(path.parent / "images" / f"synpic{number + i}.jpg", number + i)
        number += 10
    piped(root / f"{test}Questions.txt", [(f"synpic{i}", _ASKS[i]) for i in range(4)])
    piped(root / f"{test}ReferenceAnswers.txt", [(f"synpic{i}", separator.join(_SEEN[i])) for i in (3, 0, 1, 2)])
    for i in range(4):
        picture((root / test).parent / f"images/VQA-500-Images/synpic{i}.jpg", i)


@published("vqa_med_2020")
def vqa_med_2020(root: Path) -> None:
    files = {
        "VQAMed2020-VQAnswering-TrainingSet/VQAnswering_2020_Train_QA_pairs.txt": 2,
        "VQAMed2020-VQAnswering-ValidationSet/VQAnswering_2020_Val_QA_Pairs.txt": 1,
    }
    _vqa_med(files, "VQA-TestSet/VQAMed2020-Task1-VQAnswering-Test-", root / "vqa_med_2020", "#")


@published("vqa_med_2021")
def vqa_med_2021(root: Path) -> None:
    files = {
        "2020/VQAMed2020-VQAnswering-TrainingSet/VQAnswering_2020_Train_QA_pairs.txt": 2,
        "2020/VQAMed2020-VQAnswering-ValidationSet/VQAnswering_2020_Val_QA_Pairs.txt": 1,
        "VQA-Med-2021-Tasks-1-2-NewValidationSets/VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt": 2,
    }
    _vqa_med(files, "Task1-VQA-2021-TestSet-w-GroundTruth/Task1-VQA-2021-TestSet-", root / "vqa_med_2021", "|")


#: (findings, impression); no four words in a row stand in two of them.
_REPORTS = [
    ("The heart is normal in size. The lungs are clear. No pleural effusion.", "No acute disease."),
    ("Large right pneumothorax with mediastinal shift.", "Tension pneumothorax."),
    ("", "Bibasilar atelectasis has improved since yesterday."),
    ("Sternotomy wires and a left chest pacemaker remain in place.", ""),
]


@published("iu_xray", "mimic_cxr")
def studies(root: Path) -> None:
    """test.json: a study a row with its pictures; MIMIC's with its patient, two studies of the first one."""
    for folder in ("iu_xray", "mimic_cxr"):
        rows = []
        for i, (findings, impression) in enumerate(_REPORTS):
            names = [f"CXR{i}/{k}.png" for k in range(1 + i % 2)]
            for k, name in enumerate(names):
                picture(root / folder / "images" / name, 10 * i + k)
            row = {"id": f"CXR{i}", "image": names, "findings": findings, "impression": impression}
            rows.append(row if folder == "iu_xray" else {**row, "subject_id": 10000 + i // 2, "study_id": 50000 + i})
        document(root / folder / "test.json", rows)


@published("chexpert_plus")
def chexpert_plus(root: Path) -> None:
    """One table for both splits; two views of the first patient."""
    rows = []
    for i, (findings, impression) in enumerate(_REPORTS):
        split = "train" if i == 3 else "valid"
        path = f"{split}/patient{i // 2}/study1/view{i}_frontal.jpg"
        picture(root / "chexpert_plus" / path, i)
        about = {"frontal_lateral": "Frontal", "deid_patient_id": f"patient{i // 2}", "sex": ("Male", "Female")[i % 2]}
        sections = {"report": "...", "section_findings": findings, "section_impression": impression}
        rows.append({"path_to_image": path, **about, **sections, "split": split})
    table(root / "chexpert_plus" / "df_chexpert_plus_240401.csv", rows)
