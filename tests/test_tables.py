"""Rows mean what the table says: each shape that people have is read right, by a guessed YAML and by one written by hand."""

import base64
import csv
import json
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness import data, prompts, specs
from harness.data import Split
from harness.errors import DataError, SpecError, UserError
from harness.models.families.prompting import Ask
from harness.records import DataCard, ImageRef, Reference, Sample
from harness.scoring.exact import is_correct
from harness.shown import cluster_of, plural
from tasks import skeleton, survey
from tasks.guess import guess
from tasks.layouts import choices, pictures
from tasks.layouts.cells import BadCell, literal
from tasks.layouts.choices import Choices, lettered


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with pictures im0.png ... im7.png under scans/."""
    (tmp_path / "scans").mkdir()
    for i in range(8):
        Image.new("RGB", (9, 9), (30 * i, 0, 9)).save(tmp_path / "scans" / f"im{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, rows, **how):
    """A table of dicts by its ending."""
    path = Path(name)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="", encoding=how.get("encoding", "utf-8")) as f:
            writer = csv.DictWriter(f, list(rows[0]), delimiter=how.get("separator", "\t" if path.suffix == ".tsv" else ","))
            writer.writeheader()
            writer.writerows(rows)
    return path


def spec_of(file, columns, more="", images="scans", top=""):
    text = f"name: mine\ntitle: Mine\nlicense: x\nlocal:\n  splits: {{test: {file}}}\n  images: {images}\n  columns: {columns}\n"
    return specs.parse(text + (f"  {more}\n" if more else "") + top, Path("mine.yaml"))


def by_hand(file, columns, more="", top="", images="scans", **options):
    return data.read(spec_of(file, columns, more, images, top), Path("mine.yaml").absolute(), **options)


def guessed(file):
    """What `tasks new --from` makes of a table, read; and the guess."""
    found = guess(Path(file), Path())
    spec = specs.parse(skeleton.write("mine", found), Path("mine.yaml"))
    return data.read(spec, Path("mine.yaml").absolute()), found


def row(i=0, **more):
    return {"id": i, "image": f"im{i}.png", "question": "Which modality?", "answer": "B", **more}


# -- names -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("columns", "missing", "hint"),
    [
        ("{image: [scan_a, scan_b]}", "scan_a", "scan_1"),
        ("{image: [scan_1, scan_b]}", "scan_b", "scan_1"),
        ("{image: scan_1, choices: [A, B, CC]}", "CC", "C"),
        ("{image: scan_1, answer: [answer, anwser2]}", "anwser2", "answer"),
        ("{image: scan_1, cluster: pateint}", "pateint", "patient"),
        ("{image: scan_1, slices: {x: orgn}}", "orgn", "organ"),
        ("{image: scan_1 | scan_2, question: '{history} {question}'}", "history", None),
        ("{image: scan_9 | scan_8}", "scan_9 | scan_8", None),
    ],
)
def test_a_misspelt_name_stops_wherever_it_stands(place, kind, columns, missing, hint):
    more = {"scan_1": "im0.png", "A": "CT", "B": "MRI", "C": "", "patient": "p", "organ": "lung"}
    write(f"rows.{kind}", [{**row(i), "id": str(i)} | more for i in range(3)])
    for limit in (None, 1):
        with pytest.raises(DataError, match=r"no (row has a )?column") as e:
            by_hand(f"rows.{kind}", columns, limit=limit)
        assert f"'{missing}'" in str(e.value)
        assert not hint or e.value.hint == f"did you mean '{hint}'?"


def test_misspelt_slices_where_and_values(place):
    write("rows.csv", [row(i, organ="lung" if i % 2 else "heart") for i in range(4)])
    columns = "{image: image, slices: [organ]}"
    for top in ("where: {ogran: lung}\n", "slices: [ogran]\n"):
        with pytest.raises(SpecError, match=r"no slice 'ogran'.*did you mean 'organ'"):
            spec_of("rows.csv", columns, top=top)
    assert len(by_hand("rows.csv", columns, top="where: {organ: [lung, heart]}\n").samples) == 4
    with pytest.raises(DataError, match="no row has organ 'hart'") as e:
        by_hand("rows.csv", columns, top="where: {organ: [lung, hart]}\n", limit=1)
    assert e.value.hint == "did you mean 'heart'?"


def test_paths_alternatives_and_templates(place):
    rows = [
        {"id": 0, "pic": {"path": "im0.png"}, "qa": {"q": {"text": "Clear?"}, "a": ["yes", "clear"]}, "history": "Cough."},
        {"id": 1, "file": "im1.png", "qa": json.dumps({"q": {"text": "Large?"}, "a": ["no"]}), "history": None},
    ]
    write("rows.jsonl", rows)
    found = by_hand("rows.jsonl", '{image: pic | file, question: "{history}\\n{qa.q.text}", answer: qa.a.0}')
    assert [(s.question, s.reference.answers, s.images[0].name) for s in found.samples] == [
        ("Cough.\nClear?", ("yes",), "scans/im0.png"),
        ("Large?", ("no",), "scans/im1.png"),  # an empty field takes its line with it
    ]
    assert by_hand("rows.jsonl", "{image: pic | file, question: qa.q.text, answer: qa.a}").samples[0].reference.answers == (
        "yes",
        "clear",
    )
    write("rows.jsonl", [{"data": {"Context": ["One.", "Two."], "Question": "Is it?"}, "answer": "yes"}])
    found = by_hand("rows.jsonl", '{question: "{data.Context}\\n{data.Question}"}')
    assert found.samples[0].question == "One.\nTwo.\nIs it?"
    write("rows.jsonl", rows)
    with pytest.raises(DataError, match=r"no row has a column 'qa\.question'") as e:
        by_hand("rows.jsonl", "{question: qa.question, answer: qa.a}")
    assert "qa.q" in e.value.hint


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_pattern_stands_for_several_columns(place, kind):
    rows = [
        {"id": "0", "image_2": "im2.png", "image_10": "im3.png", "image_1": "im1.png", "A": "CT", "B": "MRI", "D": "", "a": "x"},
        {"id": "1", "image_2": "", "image_10": "", "image_1": "im4.png", "A": "", "B": "MRI", "D": "US", "a": "D"},
    ]
    write(f"rows.{kind}", [r | {"question": "Which?", "answer": r["a"] if r["a"] != "x" else "A"} for r in rows])
    found = by_hand(f"rows.{kind}", '{id: id, image: image_*, choices: "[A-Z]"}')
    assert not found.bad
    assert [[i.name for i in s.images] for s in found.samples] == [[f"scans/im{n}.png" for n in (1, 2, 3)], ["scans/im4.png"]]
    assert [s.reference.choices for s in found.samples] == [("CT", "MRI"), ("", "MRI", "", "US")]  # no column C: D stays D
    assert [s.reference.answers for s in found.samples] == [("(A)",), ("(D)",)]
    with pytest.raises(DataError, match=r"no (row has a )?column 'picture_\*'"):
        by_hand(f"rows.{kind}", "{image: picture_*}")


def test_a_column_that_a_row_leaves_out_is_a_gap(place):
    write("rows.jsonl", [row(option_A="CT", option_D="US") | {"answer": "US"}])
    (sample,) = by_hand("rows.jsonl", "{image: image, choices: option_*, answer_as: words}").samples
    assert (sample.reference.choices, sample.reference.answers) == (("CT", "", "", "US"), ("(D)",))


def test_names_of_files_and_lists_give_columns(place):
    for subject in ("Pharmacy", "Music"):
        Path(subject).mkdir()
        write(f"{subject}/test-0.csv", [row(f"{subject}{i}", answer="x") for i in range(2)])
    columns = "{id: id, slices: [subject]}"
    found = by_hand('"{subject}/test-*.csv"', columns).samples
    assert [s.slices["subject"] for s in found] == ["Music", "Music", "Pharmacy", "Pharmacy"]
    kept = by_hand('"{subject}/test-*.csv"', columns, top="where: {subject: Pharmacy}\n")
    assert ([s.id for s in kept.samples], kept.filtered) == (["Pharmacy0", "Pharmacy1"], 2)

    write("all.json", {"Atlas": {"test": [row(0)], "val": [row(1)]}, "Book": {"test": [row(2), row(3)]}})
    found = by_hand('"all.json#{book}.test"', "{id: id, slices: [book]}").samples
    assert [(s.id, s.slices["book"]) for s in found] == [("0", "Atlas"), ("2", "Book"), ("3", "Book")]
    with pytest.raises(DataError, match=r"no list of rows at '\{book\}\.tset'") as e:
        by_hand('"all.json#{book}.tset"', "{id: id, slices: [book]}")
    assert e.value.hint == "found: Atlas.test, Atlas.val, Book.test"


# -- choices ---------------------------------------------------------------------------------------------------------------

CT_MRI_US = [
    ["CT", "MRI", "US"],
    {"A": "CT", "B": "MRI", "C": "US"},
    {"c": "US", "a": "CT", "b": "MRI"},
    {"1": "CT", "2": "MRI", "3": "US"},
    {"option_a": "CT", "option_b": "MRI", "option_c": "US"},
    {"label": ["A", "B", "C"], "text": ["CT", "MRI", "US"]},
    [{"key": "A", "value": "CT"}, {"key": "B", "value": "MRI"}, {"key": "C", "value": "US"}],
    [{"A": "CT"}, {"B": "MRI"}, {"C": "US"}],
    json.dumps({"A": "CT", "B": "MRI", "C": "US"}),
    "{'A': 'CT', 'B': 'MRI', 'C': 'US'}",
    "['CT', 'MRI', 'US']",
    "('CT', 'MRI', 'US')",
    "['CT' 'MRI'\n 'US']",  # as NumPy prints it
    "array(['CT', 'MRI', 'US'], dtype=object)",
    "A. CT\nB. MRI\nC. US",
    "(A) CT (B) MRI (C) US",
    "A: CT, B: MRI, C: US",
    [" A:CT ", " B:MRI ", " C:US "],
    ["a) CT", "b) MRI", "c) US"],
    ["1. CT", "2. MRI", "3. US"],
    ["A、CT", "B、MRI", "C、US"],
]


@pytest.mark.parametrize("options", CT_MRI_US, ids=str)
def test_one_set_of_choices_in_every_shape(place, options):
    answers = ["B", "(b)", "MRI", "B. MRI", " B:MRI ", "mri."]
    write("rows.jsonl", [row(i, options=options, answer=a) for i, a in enumerate(answers)])
    for found in (by_hand("rows.jsonl", "{image: image, choices: options}"), guessed("rows.jsonl")[0]):
        assert found.bad == {}
        assert {s.reference for s in found.samples} == {Reference(answers=("(B)",), choices=("CT", "MRI", "US"))}
        assert found.samples[0].question == "Which modality?\n(A) CT\n(B) MRI\n(C) US"


@pytest.mark.parametrize(
    "options",
    [
        ["A", "B", "AB"],
        ["A. fumigatus", "A. flavus", "C. albicans"],
        ["A: type A", "type B"],
        ["1.5 cm", "2.5 cm"],
    ],
)
def test_what_looks_like_a_label_and_is_none_survives(place, options):
    write("rows.jsonl", [row(options=options, answer="(B)")])
    assert by_hand("rows.jsonl", "{choices: options}").samples[0].reference.choices == tuple(options)


def test_an_empty_choice_keeps_the_others_letters(place):
    rows = [
        {"id": "stumps", "question": "How many?", "A": "", "B": "Two", "C": "One", "D": "", "answer": "C"},
        {"id": "organ", "question": "Which?", "A": "lung", "B": "", "C": "liver", "D": "brain", "answer": "liver"},
        {"id": "empty", "question": "Which?", "A": "lung", "B": "", "C": "liver", "D": "brain", "answer": "B"},
    ]
    write("rows.csv", rows)
    found = by_hand("rows.csv", "{id: id, choices: [A, B, C, D]}")
    stumps, organ = found.samples
    assert stumps.question == "How many?\n(B) Two\n(C) One"
    assert (stumps.reference.answers, stumps.reference.lettered) == (("(C)",), {"B": "Two", "C": "One"})
    assert (organ.reference.answers, organ.reference.choices) == (("(C)",), ("lung", "", "liver", "brain"))
    assert "names choice (B), which is empty" in found.bad["empty"]
    for text, right in [
        ("C", True),
        ("liver", True),
        ("(B)", False),
        ("B", False),
        ("", False),
        ("brain", False),
        ("lung", False),
    ]:
        assert is_correct(text, organ.reference) is right, text


def test_a_gap_is_not_shown_to_a_judge():
    from harness.records import Prediction
    from judges.prompt import _case

    sample = Sample(id="1", images=(), question="?", reference=Reference(answers=("(C)",), choices=("a", "", "c")))
    said = Prediction(sample_id="1", text="c", reasoning=None, answer="c", finish="stop", prompt_tokens=1, completion_tokens=1)
    assert json.loads(_case(sample, said))["choices"] == {"A": "a", "C": "c"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"options": ["CT", "MRI", "ct."]}, r"choices \(A\) and \(C\) are the same"),
        ({"answer": "PET"}, "'PET' names none of the choices"),
        ({"answer": "A. MRI"}, r"the words are those of choice \(B\)"),
        ({"answer": "1"}, "may count the choices from 0 or from 1"),
        ({"answer": "A, C"}, "names none"),
        ({"options": "['CT', 'MRI'"}, "cannot be read as a list or an object"),
        ({"options": {"x": "CT", "y z": "MRI"}}, "expected A, B, C"),
        ({"options": {"2": "CT", "3": "MRI"}}, "expected 0, 1, 2"),
        ({"options": ["CT"]}, "1 choices, expected 2 to 26"),
    ],
)
def test_choices_that_cannot_be_understood_are_bad_rows(place, change, why):
    write("rows.jsonl", [row(0, options=["CT", "MRI"]), row(1, options=["CT", "MRI"]) | change])
    found = by_hand("rows.jsonl", "{choices: options}")
    assert len(found.samples) == 1
    (said,) = found.bad.values()
    assert re.search(why, said)


@pytest.mark.parametrize(("first", "as_"), [(0, "index"), (1, "number")])
def test_answers_by_number_are_told_by_all_of_them(place, first, as_):
    write("rows.jsonl", [row(i, options=["CT", "MRI", "US"], answer=first + i % 3) for i in range(6)])
    found, guess_ = guessed("rows.jsonl")
    assert guess_.columns["answer_as"] == as_
    assert [s.reference.answers[0] for s in found.samples] == ["(A)", "(B)", "(C)"] * 2
    write("rows.jsonl", [row(i, options=["CT", "MRI", "US"], answer=1 + i % 2) for i in range(6)])
    found, guess_ = guessed("rows.jsonl")
    assert (len(found.samples), len(found.bad)) == (0, 6)
    assert any("set answer_as" in s for s in guess_.said)


def test_choices_in_the_question(place):
    question = "In (A) and (B) of the figure, which modality?\nA. CT\nB. MRI\nC. X-ray\nAnswer with a letter."
    write("rows.csv", [row(i, question=question, answer=a) for i, a in enumerate(["B", "(B)", "MRI", "B. MRI"])])
    plain = by_hand("rows.csv", "{image: image}")
    assert {s.reference.kind for s in plain.samples} == {"open"}
    warned = list(surveyed(spec_of("rows.csv", "{image: image}"))[1])
    assert any("looks like choices_in: question" in w for w in warned)
    for found in (by_hand("rows.csv", "{image: image, choices_in: question}"), guessed("rows.csv")[0]):
        assert {s.reference for s in found.samples} == {Reference(answers=("(B)",), choices=("CT", "MRI", "X-ray"))}
        assert {s.question for s in found.samples} == {question}
    with pytest.raises(SpecError, match="choices are named twice"):
        spec_of("rows.csv", "{choices: a, choices_in: question}")
    write("rows.csv", [row(question="Which?")])
    assert "no lettered choices in the question" in by_hand("rows.csv", "{choices_in: question}").bad["0"]


@pytest.mark.parametrize("shown", ["\nAnswer Choices: (A) CT (B) MRI", "\n(A) CT\n(B) MRI", " A. CT B. MRI", "\na) CT\nb) MRI"])
def test_choices_are_shown_once(place, shown):
    write("rows.jsonl", [row(question=f"Which?{shown}", options={"A": "CT", "B": "MRI"})])
    assert by_hand("rows.jsonl", "{choices: options}").samples[0].question == f"Which?{shown}"


def test_lettered_takes_the_longest_list():
    assert lettered("Panels (A) and (B).\nWhich? (A) CT, (B) MRI, (C) US") == (
        "Panels (A) and (B).\nWhich? ",
        ("CT", "MRI", "US"),
    )
    assert lettered("Vitamin A. What is it?") is None
    assert choices.shows("Which? (A) x (B) y", Choices(("x", "y")))
    assert not choices.shows("Which? (A) x (B) y", Choices(("y", "z")))
    with pytest.raises(BadCell, match=r"other letters than their columns: \(A\) x, \(B\) y"):
        choices.shows("Which? (A) x (B) y", Choices(("y", "x")))


@pytest.mark.parametrize(
    "text",
    ["[" * 50 + "]" * 50, "{'a': " * 30 + "1" + "}" * 30, "[" + "1," * 20_000 + "]", "['a'", "[f(x)]", "[see note]", "(a)"],
)
def test_a_literal_is_bounded(text):
    assert literal(text) is None


# -- answers ---------------------------------------------------------------------------------------------------------------


def test_yes_and_no_in_every_form(place):
    told = [True, False, "True", "False", "no.", "NO", "Y", "N", "t", "Yes"]
    write("rows.jsonl", [row(i % 8, id=i, question="Is it clear?", answer=a) for i, a in enumerate(told)])
    found = by_hand("rows.jsonl", "{image: image}")
    assert {s.slices["form"] for s in found.samples} == {"yes/no"}
    assert [is_correct("Yes", s.reference) for s in found.samples] == [x in (True, "True", "Y", "t", "Yes") for x in told]
    assert "answers read as yes or no: true 1, false 1, True 1, False 1, no. 1, NO 1, Y 1, N 1, t 1, Yes 1" in found.notes[0]
    assert by_hand("rows.jsonl", "{image: image}", limit=2).samples == found.samples[:2]


def test_numbers_are_yes_and_no_only_where_that_is_asked(place):
    write("rows.jsonl", [row(i, question="Is it clear?", answer=i % 2) for i in range(4)])
    assert [s.reference.answers for s in by_hand("rows.jsonl", "{}").samples] == [("no",), ("yes",)] * 2
    write("rows.jsonl", [row(i, question="How many nodules?", answer=i % 2) for i in range(4)])
    assert [s.reference.answers for s in by_hand("rows.jsonl", "{}").samples] == [("0",), ("1",)] * 2
    assert by_hand("rows.jsonl", "{answer_as: yesno}").samples[1].reference.answers == ("yes",)
    write("rows.jsonl", [row(i, question="Is it?", answer=a) for i, a in enumerate(["Y", "left", "N"])])
    assert [s.reference.answers for s in by_hand("rows.jsonl", "{}").samples] == [("Y",), ("left",), ("N",)]
    assert any("answer_as: yesno" in w for w in surveyed(spec_of("rows.jsonl", "{}"))[1])
    assert "neither yes nor no" in by_hand("rows.jsonl", "{answer_as: yesno}").bad["1"]


@pytest.mark.parametrize("answer", ["是", "否", "没有", "有。", "不是", "包含", "不包含"])
def test_chinese_yes_and_no(answer):
    assert Reference(answers=(answer,)).kind == "yesno"
    assert not is_correct("", Reference(answers=(answer,)))


def test_a_report_is_written_from_several_columns(place):
    rows = [
        {"id": i, "image": [f"im{i}.png", f"im{i + 1}.png"], "findings": "Clear." if i else "", "impression": "Normal."}
        for i in range(2)
    ]
    write("rows.json", {"train": [], "test": rows})
    found, guess_ = guessed("rows.json")
    assert guess_.splits == {"test": "rows.json#test"}
    assert [s.reference.answers for s in found.samples] == [("Impression: Normal.",), ("Findings: Clear.\nImpression: Normal.",)]
    assert [len(s.images) for s in found.samples] == [2, 2]
    assert found.samples[0].question.startswith("Write the radiology report")
    (other,) = by_hand("rows.json", '{ask: "Describe.", answer: "{impression}", image: image}', limit=1).samples
    assert (other.question, other.reference.answers) == ("Describe.", ("Normal.",))


# -- conversations -----------------------------------------------------------------------------------------------------------

OPENAI = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Clear?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "No"}]},
]
SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "<image>\nClear?"},
    {"from": "gpt", "value": "No"},
]
TURNS = [
    {"messages": OPENAI},
    {"dialog": json.dumps(OPENAI)},
    {"conversations": SHAREGPT},
    {
        "messages": [
            {"role": t["from"].replace("human", "user").replace("gpt", "assistant"), "content": t["value"]} for t in SHAREGPT
        ]
    },
    {"conversation": [{"system": "Be brief."}, {"user": "Clear?"}, {"assistant": "No"}]},
]


@pytest.mark.parametrize("turns", TURNS, ids=lambda t: next(iter(t)))
def test_conversations(place, turns):
    write("rows.jsonl", [{**turns, "images": [f"im{i}.png"]} for i in range(3)])
    for found in (by_hand("rows.jsonl", f"{{messages: {next(iter(turns))}, image: images}}"), guessed("rows.jsonl")[0]):
        assert [(s.question, s.system, s.reference.answers, len(s.images)) for s in found.samples] == [
            ("Clear?", "Be brief.", ("No",), 1)
        ] * 3


def test_pictures_within_a_conversation_keep_their_places_and_reasoning_is_kept(place):
    url = "data:image/png;base64," + base64.b64encode(Path("scans/im0.png").read_bytes()).decode()
    content = [
        {"type": "text", "text": "Is "},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": " like "},
        {"type": "image", "image": "im1.png"},
    ]
    write(
        "rows.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": content},
                    {"role": "assistant", "content": "<think>dark</think><answer>No</answer>"},
                ]
            }
        ],
    )
    (s,) = by_hand("rows.jsonl", "{messages: messages}").samples
    assert (s.question, len(s.images), s.reference.answers, s.reference.reasoning) == (
        "Is <image 1> like <image 2>",
        2,
        ("No",),
        "dark",
    )
    assert prompts.parts(s.question, 2) == ["Is ", 0, " like ", 1]


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}] * 2, "2 questions in 4 turns"),
        ([{"from": "gpt", "value": "b"}], "0 questions"),
        ([{"from": "tool", "value": "b"}], "a turn by 'tool'"),
        ("hello", "expected a list of turns"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "'input_audio', which is neither"),
    ],
)
def test_a_conversation_that_is_no_question_and_answer_is_a_bad_row(place, turns, why):
    write("rows.jsonl", [{"messages": [{"role": "user", "content": "Is it?"}], "answer": "no"}])
    assert [s.reference.answers for s in guessed("rows.jsonl")[0].samples] == [("no",)]
    write("rows.jsonl", [{"messages": turns}])
    assert why in by_hand("rows.jsonl", "{messages: messages}").bad["0"]


def test_system_turn_and_places_reach_the_model_and_the_fingerprint(place, tiny):
    image = ImageRef("a", path=Path("scans/im0.png").absolute())
    other = ImageRef("b", path=Path("scans/im5.png").absolute())
    reference = Reference(answers=("x",))
    plain = Sample(id="1", images=(image, other), question="Compare.", reference=reference)
    within = plain.model_copy(update={"question": "Compare <image 2> with <image 1>."})
    told = plain.model_copy(update={"system": "You are a radiologist."})

    def chat(sample):
        (text,) = tiny.prompting.texts([Ask(len(sample.images), sample.question, sample.system)])
        return text

    text = chat(within)
    assert text.index("Compare") < text.index(tiny.processor.image_token) < text.index("with")
    assert "You are a radiologist." in chat(told)
    assert len({data.fingerprint([s]) for s in (plain, within, told)}) == 3
    from harness.records import GenerationArgs

    asked = [plain, within.model_copy(update={"id": "2"}), told.model_copy(update={"id": "3"})]
    done = [
        p.sample_id for part in tiny.generate(asked, prompts.PROMPTS["question"], GenerationArgs(max_new_tokens=2)) for p in part
    ]
    assert sorted(done) == ["1", "2", "3"]
    from harness.models.litellm_model import LitellmModel

    sent = LitellmModel._messages(within.model_copy(update={"system": "Hi."}), prompts.PROMPTS["question"])
    assert sent[0] == {"role": "system", "content": "Hi."}
    assert [p["type"] for p in sent[1]["content"]] == ["text", "image_url", "text", "image_url", "text"]


# -- pictures ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "images", "reads"),
    [
        ("<image>\nClear?", 1, "Clear?"),
        ("<image 1> <image 2> Which?", 2, "Which?"),
        ("<image>\nWhich?", 2, "Which?"),
        ("Is <image> like <image>?", 2, "Is <image 1> like <image 2>?"),
        ("In <image_2>, not <image_1>?", 2, "In <image 2>, not <image 1>?"),
        ("<image 1> alone?", 2, "<image 1> alone?"),
        ("Clear?", 2, "Clear?"),
    ],
)
def test_a_pictures_place_is_kept(place, question, images, reads):
    write("rows.jsonl", [{"question": question, "answer": "x", "image": [f"im{i}.png" for i in range(images)]}])
    (s,) = by_hand("rows.jsonl", "{image: image}").samples
    assert s.question == reads
    assert sorted(prompts.order(s.question, images)) == list(range(images))


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("<image 3>?", "no such picture"),
        ("<image> and <image>?", "places for 2 pictures"),
        ("<video>?", "<video>"),
        ("<image> <image 1>", "with and without"),
    ],
)
def test_a_place_without_a_picture_is_a_bad_row(place, question, why):
    write(
        "rows.jsonl",
        [
            {
                "question": question,
                "answer": "x",
                "image": ["im0.png", "im1.png", "im2.png"][: 1 if "and" in question or "3" in question else 3],
            }
        ],
    )
    assert why in by_hand("rows.jsonl", "{image: image}").bad["0"]


def test_numbered_columns_with_gaps_keep_their_numbers(place):
    two = {"image_1": None, "image_2": "im4.png", "image_3": "im5.png"}
    one = {"image_1": "im0.png", "image_2": None, "image_3": None}
    asked = {"<image 2> or <image 3>?": two, "<image 1>?": one}
    write("rows.jsonl", [{"question": q, "answer": "x"} | columns for q, columns in asked.items()])
    found, guess_ = guessed("rows.jsonl")
    assert guess_.columns["image"] == ["image_1", "image_2", "image_3"]
    assert (found.samples[0].question, [i.name for i in found.samples[0].images]) == (
        "<image 1> or <image 2>?",
        ["scans/im4.png", "scans/im5.png"],
    )


def test_an_empty_cell_in_an_image_column_is_a_bad_row(place):
    for rows in ([row(0), row(1, image="")], [row(0), row(1, image=None)], [row(0), row(1, image=[])]):
        write("rows.jsonl", rows)
        assert "no image; images_optional" in by_hand("rows.jsonl", "{image: image}").bad["1"]
        assert len(by_hand("rows.jsonl", "{image: image, images_optional: true}").samples) == 2
    found, guess_ = guessed("rows.jsonl")
    assert (len(found.samples), len(found.bad)) == (1, 1)
    assert any("no image and are bad rows" in s for s in guess_.said)


def test_a_comma_in_a_pictures_name(place):
    Path("scans/im0.png").rename("scans/Smith, J.png")
    write("rows.csv", [row(0, image="Smith, J.png"), row(1)])
    found, guess_ = guessed("rows.csv")
    assert (guess_.separator, [s.images[0].name for s in found.samples]) == (None, ["scans/Smith, J.png", "scans/im1.png"])


@pytest.mark.parametrize("name", ["Figure_path", "scan", "my_pic", "ID der Aufnahme"])
def test_new_finds_columns_of_pictures_by_what_they_hold(place, name):
    write("rows.csv", [{name: f"im{i}.png", "question": f"Q{i}?", "answer": "x"} for i in range(4)])
    found, guess_ = guessed("rows.csv")
    assert guess_.columns["image"] == name
    assert all(s.images for s in found.samples)


def test_what_new_leaves_out_is_said(place):
    write("rows.csv", [row(i, mask=f"im{i + 1}.png") for i in range(4)])
    _, guess_ = guessed("rows.csv")
    assert guess_.columns["image"] == "image"
    assert "column 'mask' holds pictures or their names and is not shown to the model" in guess_.said
    assert any("column 'mask'" in w for w in surveyed(spec_of("rows.csv", "{image: image}"))[1])


def test_base64_pictures_and_no_message_is_longer_than_a_line(place):
    whole = base64.b64encode(Path("scans/im0.png").read_bytes() + bytes(600)).decode()
    bad = whole[:-30] + "!" * 7
    write("rows.tsv", [row(i, image=c) for i, c in enumerate([whole, f"data:image/png;base64,{whole}", bad, "A" * 5000])])
    found, guess_ = guessed("rows.tsv")
    assert guess_.columns["image"] == "image"
    assert [s.images[0].sha256 for s in found.samples] == [found.samples[0].images[0].sha256] * 2
    assert found.samples[0].images[0].open().size == (9, 9)
    assert "base64 that cannot be decoded" in found.bad["2"]
    write("long.csv", [row(0, answer="no\nway " * 400, options="['x', 'y'")])
    (why,) = by_hand("long.csv", "{choices: options}").bad.values()
    for said in [*found.bad.values(), why]:
        assert "\n" not in said
        assert len(said) < 500


def test_pictures_elsewhere(place, tmp_path, monkeypatch, command):
    elsewhere = tmp_path / "elsewhere"
    (place / "scans").rename(elsewhere)
    write("rows.csv", [row(i) for i in range(3)])
    assert len(by_hand("rows.csv", "{image: image}").bad) == 3
    assert [s.images[0].name for s in by_hand("rows.csv", "{image: image}", images=elsewhere).samples] == [
        "im0.png",
        "im1.png",
        "im2.png",
    ]
    assert len(by_hand("rows.csv", "{image: image}", images_dir=elsewhere).samples) == 3
    code, out, _ = command("tasks", "new", "mine", "--from", "rows.csv", "--images", elsewhere)
    assert (code, specs.read(Path("mine.yaml")).local.images) == (0, str(elsewhere))
    Path("mine.yaml").write_text(Path("mine.yaml").read_text().replace(str(elsewhere), "scans"))
    assert command("tasks", "validate", "mine.yaml")[0] == 1
    code, out, _ = command("tasks", "validate", "mine.yaml", "--images", elsewhere)
    assert (code, "3 images (1 a row)" in out) == (0, True)
    monkeypatch.setenv("HARNESS_IMAGES", str(elsewhere))
    assert len(by_hand("rows.csv", "{image: image}").samples) == 3
    write(
        "rows.csv",
        [
            row(0, image=str(elsewhere / "im0.png")),
            row(1, image="../secret.png"),
            row(2, image="/etc/passwd"),
            row(3, image="..\\x.png"),
        ],
    )
    found = by_hand("rows.csv", "{image: image}")
    assert [s.images[0].name for s in found.samples] == ["im0.png"]  # an absolute name within the folder that was given
    assert len(found.bad) == 3
    with pytest.raises(DataError, match="no such folder of images"):
        by_hand("rows.csv", "{image: image}", images_dir=tmp_path / "nowhere")
    with pytest.raises(SpecError, match="leaves its root"):
        spec_of("rows.csv", "{}", images="../pics")


def test_names_as_other_machines_write_them(place):
    (place / "scans" / "sub").mkdir()
    Image.new("RGB", (9, 9)).save(place / "scans" / "sub" / "a.PNG")
    Image.new("RGB", (9, 9)).save(place / "scans" / unicodedata.normalize("NFD", "Läsion é.png"))
    names = ["sub\\a.PNG", unicodedata.normalize("NFC", "Läsion é.png"), "sub/a.png"]
    write("rows.csv", [row(i, image=n) for i, n in enumerate(names)])
    found = by_hand("rows.csv", "{image: image}")
    assert len(found.samples) == 2
    assert "did you mean 'a.PNG'?" in found.bad["2"]


def test_pictures_of_a_large_table_are_kept_on_disk(place, monkeypatch):
    monkeypatch.setattr(pictures, "KEPT", 100)
    cells = [{"bytes": Path(f"scans/im{i}.png").read_bytes(), "path": f"im{i}.png"} for i in range(4)]
    write("rows.parquet", [{"question": f"Q{i}?", "answer": "x", "image": c} for i, c in enumerate(cells)])
    found = by_hand("rows.parquet", "{image: image}")
    assert [type(s.images[0]) for s in found.samples[1:]] == [pictures.Spooled] * 3
    assert [s.images[0].content for s in found.samples] == [c["bytes"] for c in cells]
    monkeypatch.setattr(pictures, "KEPT", 1 << 20)
    assert data.fingerprint(by_hand("rows.parquet", "{image: image}").samples) == data.fingerprint(found.samples)


# -- files -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_byte_order_marks_are_seen(place, separator, encoding):
    write("rows.csv", [row(i, question="Où est-ce, là?", answer="œil") for i in range(2)], separator=separator, encoding=encoding)
    assert [(s.question, s.reference.answers) for s in by_hand("rows.csv", "{image: image}").samples] == [
        ("Où est-ce, là?", ("œil",))
    ] * 2
    assert len(guessed("rows.csv")[0].samples) == 2


def test_other_encodings_are_named(place):
    write("rows.csv", [row(i, question="Où est la lésion?") for i in range(2)], separator=";", encoding="latin-1")
    with pytest.raises(DataError, match="not UTF-8 text") as e:
        by_hand("rows.csv", "{}")
    assert "encoding: latin-1" in e.value.hint
    assert by_hand("rows.csv", "{}", more="encoding: latin-1").samples[0].question == "Où est la lésion?"
    found, guess_ = guessed("rows.csv")
    assert (guess_.encoding, found.samples[0].question) == ("cp1252", "Où est la lésion?")
    assert any("look at its accents" in s for s in guess_.said)
    with pytest.raises(SpecError, match="no encoding named 'latin-99'"):
        spec_of("rows.csv", "{}", more="encoding: latin-99")


def test_json_objects_of_splits_and_of_columns(place):
    rows = [row(i) for i in range(2)]
    write("rows.json", {"info": {"version": 1}, "data": rows})
    assert len(by_hand("rows.json", "{}").samples) == 2
    write("rows.json", {"train": rows, "valid": rows[:1]})
    with pytest.raises(DataError, match="none of split 'test'") as e:
        by_hand("rows.json", "{}")
    assert "rows.json#train (2 rows)" in e.value.hint
    write("rows.json", {"Atlas": {"val": rows[:1], "test": rows}, "Edu": {"test": rows}})
    assert len(by_hand('"rows.json#Atlas.test"', "{}").samples) == 2
    assert guess(Path("rows.json"), Path()).splits["Edu_test"] == "rows.json#Edu.test"
    with pytest.raises(DataError, match=r"no list of rows at 'Atlas\.dev'"):
        by_hand('"rows.json#Atlas.dev"', "{}")
    for tree in ({"question": ["a"], "answer": ["b"]}, {"question": {"0": "a"}, "answer": {"0": "b"}}):
        write("rows.json", tree)
        with pytest.raises(DataError, match="by column or by id") as e:
            by_hand("rows.json", "{}")
        assert 'orient="records"' in e.value.hint


def test_json_lines_by_any_ending_and_parts_of_a_file(place):
    rows = [row(i) for i in range(3)]
    Path("rows.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    Path("rows.jsonl").write_text(json.dumps(rows, indent=1))
    for name in ("rows.json", "rows.jsonl"):
        assert len(by_hand(name, "{image: image}").samples) == len(guessed(name)[0].samples) == 3
    for name in ("test-00000-of-00002", "test-00001-of-00002", "train-00000-of-00001"):
        write(f"{name}.parquet", rows)
    found = guess(Path("test-00001-of-00002.parquet"), Path())
    assert found.splits == {"test": "test-*.parquet", "train": "train-*.parquet"}
    assert any("one part of several" in s for s in found.said)
    write("train.csv", rows)
    assert guess(Path("train.csv"), Path()).splits == {"train": "train.csv"}


@pytest.mark.parametrize("mark", [";", "|", ","])
def test_several_pictures_in_one_cell(place, mark):
    write("rows.csv", [row(i, image=f"im{i}.png{mark} im{i + 1}.png") for i in range(3)])
    found, guess_ = guessed("rows.csv")
    assert guess_.separator == mark
    assert [i.name for i in found.samples[0].images] == ["scans/im0.png", "scans/im1.png"]
    write("rows.csv", [row(i, image=f"im{i}.png{mark}im{i + 1}.png", answer=f"left{mark} upper") for i in range(3)])
    found, guess_ = guessed("rows.csv")
    assert (guess_.separator, len(found.bad)) == (None, 3)
    assert any("split them into columns" in s for s in guess_.said)


def test_arrow_files_and_files_of_other_programs(place):
    table = pa.Table.from_pylist([{"question": "Is it?", "answer": True, "image": "im0.png"}] * 3)
    for name, new in (("stream.arrow", pa.ipc.new_stream), ("file.arrow", pa.ipc.new_file)):
        with new(name, table.schema) as writer:
            writer.write_table(table)
        assert [s.reference.answers for s in by_hand(name, "{image: image}").samples] == [("yes",)] * 3
    for name, hint in (("a.xlsx", "save the sheet as CSV"), ("a.csv.gz", "unpack it"), ("a.pkl", "JSONL or parquet")):
        Path(name).write_bytes(b"x")
        with pytest.raises(DataError, match="not a kind of file that can be read") as e:
            by_hand(name, "{}")
        assert hint in e.value.hint


# -- clusters ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "noun", "many"),
    [
        ("patient_id", "patient", "patients"),
        ("PatientID", "patient", "patients"),
        ("study", "study", "studies"),
        ("case-no", "case", "cases"),
        ("subject", "subject", "subjects"),
        ("series_uid", "series", "series"),
    ],
)
def test_rows_of_one_patient_are_one_cluster(place, column, noun, many):
    write("rows.csv", [row(i, question=f"Q{i}?") | {column: f"P{i // 2}"} for i in range(8)])
    found, guess_ = guessed("rows.csv")
    assert guess_.columns["cluster"] == column
    assert column not in guess_.columns.get("slices", [])
    for rows in (found, by_hand("rows.csv", f"{{image: image, cluster: '{column}'}}")):
        card = data.card(spec_of("rows.csv", "{}"), "test", rows)
        assert (card.images, card.clusters, card.cluster_of) == (8, 4, noun)
        assert len({s.cluster for s in rows.samples}) == 4
        assert "P0" not in json.dumps([s.row() for s in rows.samples])  # who it is stays in the table
    assert plural(cluster_of(card)) == many
    assert data.fingerprint(found.samples) != data.fingerprint(by_hand("rows.csv", "{image: image}").samples)


def test_what_a_question_is_about_is_no_cluster(place):
    write("rows.csv", [row(i, question=f"Q{i}?", subject=["anatomy", "surgery"][i % 2], history="Cough.") for i in range(8)])
    _, guess_ = guessed("rows.csv")
    assert ("cluster" in guess_.columns, guess_.columns["slices"]) == (False, ["subject"])
    assert any("column 'history' is not shown" in s for s in guess_.said)


def test_an_empty_cluster_and_an_image_of_two_patients_are_said(place):
    write("rows.csv", [row(i, image="im0.png", patient="ab "[i]) for i in range(3)])
    spec = spec_of("rows.csv", "{image: image, cluster: patient}")
    found, warned = surveyed(spec)
    assert "every row needs its patient" in found.view.bad["2"]
    assert any("1 images are in rows of several clusters" in w for w in warned)


@pytest.mark.parametrize(
    ("images", "counts"),
    [
        ([["im0.png"], ["im1.png"]], "images"),
        ([[], []], "questions"),
        ([["im0.png", "im1.png"], ["im2.png"]], "image sets"),
        ([["im0.png"], []], "clusters"),
    ],
)
def test_the_card_says_what_clusters_are(place, images, counts):
    write("rows.jsonl", [row(i, image=names) for i, names in enumerate(images)])
    found = by_hand("rows.jsonl", "{image: image, images_optional: true}")
    assert plural(cluster_of(data.card(spec_of("rows.jsonl", "{}"), "test", found))) == counts


def test_older_cards_say_what_they_counted():
    old = {"task": "t", "split": "test", "source": "local", "resolution": "x", "rows": 1, "fingerprint": "f", "spec_sha256": "s"}
    assert [plural(cluster_of(DataCard(**old, images=n))) for n in (0, 3)] == ["questions", "images"]


def test_a_training_holds_out_patients(place):
    """Two pictures of one patient: never one to train on and one to choose by."""
    from trainers.splits import hold_out

    for i in range(40):
        Image.new("RGB", (9, 9), (6 * i, 9, 9)).save(f"scans/p{i}.png")
    write("rows.csv", [row(i, image=f"p{i}.png", patient=f"p{i // 2}") for i in range(40)])
    task = data.load(spec_of("rows.csv", "{image: image, cluster: patient}"), Path("mine.yaml").absolute())
    rest, dev = hold_out(task, {task.samples[0].group}, seed=0)
    assert not {s.group for s in rest.samples} & {s.group for s in dev.samples}
    assert task.samples[0].group not in {s.group for s in dev.samples}
    assert (len(dev.samples), dev.card.clusters, dev.card.cluster_of) == (4, 2, "patient")


# -- validate ----------------------------------------------------------------------------------------------------------------


def surveyed(spec):
    split, seen = Split(spec, Path("mine.yaml").absolute()), survey.Survey()
    for s in split:
        seen.add(s)
    return split, list(seen.warnings(split))


@pytest.mark.parametrize(
    ("rows", "columns", "warning"),
    [
        ([row(i, second=f"im{i}.png") for i in range(3)], "{image: image}", "column 'second' holds pictures"),
        ([row(i) for i in range(3)], "{}", "no row has an image"),
        ([row(i, answer="ABC"[i]) for i in range(3)], "{image: image}", "3 open answers are single letters"),
        (
            [row(i, options=["{'A': 'x'", "'B': 'y'}"]) for i in range(3)],
            "{image: image, choices: options}",
            "brackets or braces",
        ),
        (
            [row(i % 8, id=i, question=f"Is {i}?", answer="yes" if i else "no") for i in range(20)],
            "{image: image, id: id}",
            "19 of 20 answers are 'yes'",
        ),
        ([row(0, id=i) for i in range(3)], "{image: image, id: id}", "2 rows repeat"),
        (
            [row(i, options=["x", "y"], answer=["A", "B"]) for i in range(3)],
            "{image: image, choices: options}",
            "several right choices",
        ),
    ],
)
def test_what_looks_wrong_is_said(place, rows, columns, warning):
    write("rows.jsonl", rows)
    assert any(warning in w for w in surveyed(spec_of("rows.jsonl", columns))[1])


def test_validate_prints_one_line_and_strict_fails_for_warnings(place, command):
    write("rows.csv", [row(i, A="CT", B="MRI", answer="AB"[i % 2]) for i in range(4)])
    columns = "columns: {image: image, choices: [A, B]}"
    text = f"name: mine\ntitle: M\nlicense: x\nlocal: {{splits: {{test: rows.csv}}, images: scans, {columns}}}\n"
    Path("mine.yaml").write_text(text)
    code, out, _ = command("tasks", "validate", "mine.yaml", "--strict")
    assert (code, out.strip()) == (
        0, "ok mine test: 4 rows (4 choice), 4 images (1 a row), 2 choices a row, local (original); answers: A 50 %, B 50 %",
    )  # fmt: skip
    Path("mine.yaml").write_text(text.replace("image: image, ", "") + 'drop: {"9": gone}\n')
    code, out, _ = command("tasks", "validate", "mine.yaml")
    assert code == 0
    for word in ("column 'image' holds pictures", "no row has an image", "drop names rows that no split has: 9"):
        assert word in out
    assert command("tasks", "validate", "mine.yaml", "--strict")[0] == 1
    assert json.loads(command("tasks", "validate", "mine.yaml", "--json")[1])[0]["warnings"]


def test_a_table_of_patients_goes_through_a_run(place, command):
    """The column that counts clusters is headed by what it counts."""
    write("rows.csv", [row(i, question="Is it clear?", answer="no", patient_id=f"P{i // 2}") for i in range(4)])
    assert command("tasks", "new", "mine", "--from", "rows.csv")[0] == 0
    code, out, err = command(
        "run", "--model", "tiny", "--tasks", "mine.yaml", "--device", "cpu", "--judge", "exact", "--prompt", "question"
    )
    assert code == 0, err
    code, out, _ = command("leaderboard")
    assert "patients" in out
    assert " images" not in out


def test_reading_a_table_is_the_same_however_it_is_limited(place):
    write("rows.jsonl", [row(i, answer="T" if i else "F", question="Is it?") for i in range(6)])
    whole = by_hand("rows.jsonl", "{}").samples
    assert [by_hand("rows.jsonl", "{}", limit=n).samples for n in (1, 3, 6)] == [whole[:1], whole[:3], whole]
    with pytest.raises(UserError):
        by_hand("rows.jsonl", "{}", split="train")
