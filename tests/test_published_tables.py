"""Tables as benchmarks publish them: guessed and read as a careful person reads them, or stopped with the way out."""

import base64
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import specs
from harness.data import Split
from harness.errors import DataError, SpecError
from tasks import skeleton, survey
from tasks.guess import EXAMPLE, guess
from tasks.layouts.choices import lettered
from tests.test_tables import by_hand, guessed, place, row, spec_of, write  # noqa: F401

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def scan(i):
    return Path(f"scans/im{i % 8}.png").read_bytes()


def names(found):
    return [[i.name.rpartition("/")[2] for i in s.images] for s in found.samples]


def warned(file, columns):
    split = Split(spec_of(file, columns), Path("mine.yaml").absolute())
    seen = survey.Survey()
    for s in split:
        seen.add(s)
    return list(seen.warnings(split))


# -- choices ---------------------------------------------------------------------------------------------------------------


def test_a_row_may_leave_out_the_columns_of_its_missing_choices(place):  # noqa: F811
    """OmniMedVQA: two options in some rows, four in others."""
    two = {"option_A": "Yes", "option_B": "No, It's normal.", "answer": "No, It's normal."}
    four = {"option_A": "glaucoma", "option_B": "myopia", "option_C": "cataract", "option_D": "normal", "answer": "cataract"}
    write("rows.json", [{"id": i, "image": f"im{i}.png", "question": "What is seen?"} | (four, two)[i % 2] for i in range(4)])
    found, _ = guessed("rows.json")
    assert [s.reference.answers for s in found.samples] == [("(C)",), ("(B)",)] * 2
    assert [len(s.reference.lettered) for s in found.samples] == [4, 2, 4, 2]


def test_columns_of_choices_are_taken_from_the_first_on(place):  # noqa: F811
    write("rows.csv", [row(i, choice_0="CT", choice_1="MRI", choice_2="US", answer=i) for i in range(3)])
    found, how = guessed("rows.csv")
    assert how.columns["choices"] == ["choice_0", "choice_1", "choice_2"]
    assert [s.reference.answers for s in found.samples] == [("(A)",), ("(B)",), ("(C)",)]


@pytest.mark.parametrize("answer", ["option_b", "Option B", "optionB", "B", "option b."])
def test_an_answer_may_be_the_name_of_its_column(place, answer):  # noqa: F811
    write("rows.csv", [row(option_a="CT", option_b="MRI", answer=answer)])
    assert guessed("rows.csv")[0].samples[0].reference.answers == ("(B)",)
    write("numbers.csv", [row(i, opt1="CT", opt2="MRI", answer="opt2") for i in range(2)])
    assert guessed("numbers.csv")[0].samples[0].reference.answers == ("(B)",)


def test_labels_in_another_order_than_their_places_are_not_passed_over(place):  # noqa: F811
    shuffled = {"A": "B: Focal", "B": "A: Diffuse", "C": "C: None"}
    write("rows.csv", [row(**shuffled)])
    found = by_hand("rows.csv", "{image: image, choices: [A, B, C]}")
    assert not found.samples
    assert "'B' can be read as letter: (B), label within the words: (A), column: (B); set answer_as" in found.bad["0"]
    write("plain.csv", [row(A="CT", B="MRI")])
    assert "letter: (B), column: (A)" in by_hand("plain.csv", "{choices: [B, A]}").bad["0"]
    assert by_hand("rows.csv", "{choices: [A, B, C], answer_as: letter}").samples[0].reference.answers == ("(B)",)
    write("words.csv", [row(**shuffled) | {"answer": "B: Focal"}])
    assert by_hand("words.csv", "{choices: [A, B, C]}").samples[0].reference.answers == ("(A)",)
    write("bugs.csv", [row(A="C. albicans", B="A. niger")])  # no labels: two of them are not A and B
    assert by_hand("bugs.csv", "{choices: [A, B]}").samples[0].reference.answers == ("(B)",)


def test_a_question_that_lists_the_choices_under_other_letters(place):  # noqa: F811
    write("rows.jsonl", [row(question="Which?\nA. MRI\nB. CT", options={"A": "CT", "B": "MRI"})])
    assert "under other letters than their columns: (A) MRI, (B) CT" in by_hand("rows.jsonl", "{choices: options}").bad["0"]
    write("rows.jsonl", [row(question="Panel (A) is axial, (B) coronal. Which?", options={"A": "CT", "B": "MRI"})])
    assert by_hand("rows.jsonl", "{choices: options}").samples[0].question.endswith("\n(A) CT\n(B) MRI")


def test_nan_as_text_is_an_empty_cell(place):  # noqa: F811
    write("rows.csv", [row(0, A="CT", B="MRI", C="nan", D="NaN"), row(1, A="CT", B="<NA>", C="MRI", D="") | {"answer": "C"}])
    found, _ = guessed("rows.csv")
    assert [s.reference.choices for s in found.samples] == [("CT", "MRI"), ("CT", "", "MRI")]
    write("rows.csv", [row(answer="nan"), row(1, question="nan")])
    assert by_hand("rows.csv", "{image: image}").bad == {"0": "no reference answer", "1": "empty question"}


def test_a_letter_where_there_are_no_choices(place):  # noqa: F811
    write("rows.jsonl", [row(0, options=["x", "y"]), row(1, options=[]), row(2, options="{}") | {"answer": "left lung"}])
    found = by_hand("rows.jsonl", "{image: image, id: id, choices: options}")
    assert [s.reference.kind for s in found.samples] == ["choice", "open"]
    assert "column 'options': empty, and the answer 'B' names a choice" in found.bad["1"]


def test_numbers_among_the_choices_are_words(place):  # noqa: F811
    write("rows.jsonl", [row(i, options=["2", "3", "1"], answer=i + 1) for i in range(3)])
    found, how = guessed("rows.jsonl")
    assert how.columns["answer_as"] == "words"
    assert [s.reference.answers for s in found.samples] == [("(C)",), ("(A)",), ("(B)",)]


@pytest.mark.parametrize(
    "end", [". Answer with the option's letter from the given choices directly.", " Please choose one option.", "\nAnswer:", ""]
)
def test_the_last_choice_in_a_question_ends_before_the_instruction(end):
    found = lettered(f"Which modality? A) CT, B) MRI, C) Answering machine{end}")
    assert [w.rstrip(".") for w in found[1]] == ["CT", "MRI", "Answering machine"]


def test_choices_in_a_conversation_are_choices(place):  # noqa: F811
    said = "<image>\nWhich?\nA. CT\nB. MRI\nAnswer with the option's letter from the given choices directly."
    turns = [{"from": "human", "value": said}, {"from": "gpt", "value": "B"}]
    write("rows.json", [{"id": i, "image": f"im{i}.png", "conversations": turns} for i in range(2)])
    found, how = guessed("rows.json")
    assert how.columns["choices_in"] == "question"
    assert [(s.reference.choices, s.reference.answers) for s in found.samples] == [(("CT", "MRI"), ("(B)",))] * 2


def test_one_separator_for_all_is_said_where_it_splits_answers(place):  # noqa: F811
    write("rows.csv", [row(0, options="CT, MRI, US", answer="MRI"), row(1, options="", answer="left, lower lobe")])
    assert any("makes several right answers" in s for s in guessed("rows.csv")[1].said)
    write("rows.csv", [row(0, options="CT, MRI, US", answer="MRI")])
    assert not guessed("rows.csv")[1].said


def test_the_right_letter_beside_the_right_words_is_no_slice(place):  # noqa: F811
    """PMC-VQA: Answer holds the words, Answer_label the letter."""
    cells = {"Choice A": " A:Focal ", "Choice B": " B:Diffuse "}
    write("rows.csv", [row(i, answer=["Focal", "Diffuse"][i % 2], Answer_label="AB"[i % 2]) | cells for i in range(6)])
    found, how = guessed("rows.csv")
    assert "slices" not in how.columns
    assert [s.reference.answers for s in found.samples] == [("(A)",), ("(B)",)] * 3


def test_sentences_of_a_report_are_one_answer(place):  # noqa: F811
    write("rows.jsonl", [{"image": "im0.png", "findings": ["Clear.", "No effusion."]}])
    assert guessed("rows.jsonl")[0].samples[0].reference.answers == ("Findings: Clear.\nNo effusion.",)


# -- pictures --------------------------------------------------------------------------------------------------------------


def test_pictures_that_are_there_further_down_only(place):  # noqa: F811
    """MedFrameQA: two to five pictures a row, of which image_4 may come after any number of rows."""
    rows = [
        {"question": f"q{i}?", "answer": "x", "late": None}
        | {f"image_{j}": {"bytes": scan(i + j), "path": None} if j < 3 or (i > 50 and j == 4) else None for j in range(1, 6)}
        for i in range(60)
    ]
    rows[55]["late"] = {"bytes": scan(0), "path": None}
    fields = [("question", pa.string()), ("answer", pa.string()), ("late", IMAGE), *((f"image_{j}", IMAGE) for j in range(1, 6))]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), "rows.parquet")
    found, how = guessed("rows.parquet")
    assert how.columns["image"] == [f"image_{j}" for j in range(1, 6)]
    assert [len(s.images) for s in found.samples] == [2] * 51 + [3] * 9
    assert "column 'late' holds pictures or their names and is not under image" in warned("rows.parquet", "{image: image_1}")
    write("rows.jsonl", [row(i % 8, id=i) | ({"second": "im1.png"} if i > 40 else {}) for i in range(50)])
    assert "column 'second' holds pictures or their names and is not under image" in warned("rows.jsonl", "{image: image}")


def test_numbered_pictures_stand_in_the_order_of_their_numbers(place):  # noqa: F811
    write("rows.jsonl", [{"image_2": "im2.png", "image_10": "im7.png", "image_1": "im1.png", "question": "?", "answer": "x"}])
    found, how = guessed("rows.jsonl")
    assert how.columns["image"] == ["image_1", "image_2", "image_10"]
    assert names(found) == [["im1.png", "im2.png", "im7.png"]]


def test_columns_of_the_same_names_in_two_folders_are_two_pictures(place):  # noqa: F811
    for folder in ("ct", "mri"):
        Path(folder).mkdir()
        for i in range(3):
            Path(folder, f"{i}.png").write_bytes(scan(i + 3 * (folder == "ct")))
    write("rows.csv", [{"ct": f"ct/{i}.png", "mri": f"mri/{i}.png", "question": "Same?", "answer": "no"} for i in range(3)])
    assert guessed("rows.csv")[1].columns["image"] == ["ct", "mri"]
    write("views.csv", [{"a": f"im{i}.png", "b": f"im{i // 6}.png", "question": "Same?", "answer": "no"} for i in range(8)])
    assert guessed("views.csv")[1].columns["image"] == ["a", "b"]
    write("again.csv", [{"a": f"im{i}.png", "b": f"scans/im{i}.png", "question": "Same?", "answer": "no"} for i in range(8)])
    assert guessed("again.csv")[1].columns["image"] == "a"


def test_pictures_of_one_name_in_two_folders(place):  # noqa: F811
    Path("masks").mkdir()
    for i in range(3):
        Path(f"masks/im{i}.png").write_bytes(scan(i + 4))
    write("rows.csv", [row(i) for i in range(3)])
    assert any("lie in scans, masks: taken from 'scans'" in s for s in guessed("rows.csv")[1].said)
    write("more.csv", [row(i) for i in range(4)])
    assert guessed("more.csv")[1].images == "scans"  # where most of them are
    assert not guessed("more.csv")[1].said


def test_names_of_files_are_pictures_whatever_their_column_is_called(place):  # noqa: F811
    write("rows.csv", [{"acquisition": f"im{i}", "question": "Clear?", "answer": "yes"} for i in range(3)])
    found, how = guessed("rows.csv")
    assert (how.columns["image"], how.images) == ("acquisition", "scans/{}.png")
    assert names(found) == [["im0.png"], ["im1.png"], ["im2.png"]]


def test_a_missing_column_among_those_of_choices_stops(place):  # noqa: F811
    write("rows.csv", [row(A="CT", B="MRI", D="US") | {"answer": "A"}])
    with pytest.raises(DataError, match="columns A, B hold choices, the next one is missing, and then comes D"):
        guessed("rows.csv")


def test_an_empty_place_in_a_list_keeps_the_numbers_of_the_others(place):  # noqa: F811
    lists = [["im0.png", None, "im2.png"], ["im0.png", "", "im2.png"]]
    write("rows.jsonl", [row(i, image=lists[i], question=f"See <image {i + 2}>?") for i in range(2)])
    found = by_hand("rows.jsonl", "{image: image, id: id}")
    assert "the question holds <image 2>, and the row has no such picture" in found.bad["0"]
    assert [(s.question, len(s.images)) for s in found.samples] == [("See <image 2>?", 2)]
    assert names(found) == [["im0.png", "im2.png"]]


@pytest.mark.parametrize("mark", ["<|image|>", "<|image_1|>", "<ImageHere>", "<image_placeholder>", "<IMG>"])
def test_places_in_the_words_of_other_models(place, mark):  # noqa: F811
    write("rows.jsonl", [row(question=f"{mark}\nIs it?")])
    assert by_hand("rows.jsonl", "{image: image}").samples[0].question == "Is it?"


def test_a_base64_cell_may_name_an_earlier_row(place):  # noqa: F811
    """VLMEvalKit's tables hold each picture once: later rows of it give the index of the first."""
    first = base64.b64encode(scan(0) + b"\0" * 600).decode()
    rows = [{"index": i, "image": first if i == 3 else "3", "question": f"q{i}?", "answer": "x"} for i in range(3, 6)]
    write("rows.tsv", [*rows, {"index": 9, "image": "77", "question": "?", "answer": "x"}])
    found, _ = guessed("rows.tsv")
    assert [len(s.images) for s in found.samples] == [1, 1, 1]
    assert len({s.cluster for s in found.samples}) == 1
    assert "77" in found.bad["9"]


# -- names of columns, splits, clusters --------------------------------------------------------------------------------------


def test_what_else_a_question_needs_is_said(place):  # noqa: F811
    """PubMedQA asks about an abstract, which lies within an object."""
    data = {"Question": "Is it?", "Options": {"A": "yes", "B": "no", "C": "maybe"}, "Context": ["One.", "Two."]}
    write("rows.jsonl", [{"data": data | {"Correct Option": "C"}, "id": i} for i in range(2)])
    found, how = guessed("rows.jsonl")
    assert found.samples[0].reference.answers == ("(C)",)
    assert any('question: "{data.Context}\\n{data.Question}"' in s for s in how.said)
    write("reports.csv", [{"image": "im0.png", "indication": "Cough", "findings": "Clear."}])
    assert any('question: "{indication}\\nWrite the radiology report' in s for s in guessed("reports.csv")[1].said)


def test_other_names_of_answers_and_further_right_ones(place):  # noqa: F811
    write("rows.jsonl", [{"question": "Do x?", "long_answer": "Because ...", "final_decision": a} for a in ("yes", "no")])
    assert [s.reference.answers for s in guessed("rows.jsonl")[0].samples] == [("yes",), ("no",)]
    write("rows.jsonl", [row(answer="Gaucher disease", answer_aliases="['GD', 'Gaucher']")])
    found, how = guessed("rows.jsonl")
    assert found.samples[0].reference.answers == ("Gaucher disease", "GD", "Gaucher")
    assert any("'answer_aliases' holds further right answers" in s for s in how.said)
    write("rows.csv", [{"1": "2", "im0.png": "im1.png"}])
    with pytest.raises(DataError, match=r"no column looks like the question \(found: 1, im0.png\)") as e:
        guess(Path("rows.csv"), Path())
    assert "first line" in e.value.hint
    assert "`ask`" in e.value.hint


def test_a_split_column_with_blanks_still_splits(place):  # noqa: F811
    write("rows.csv", [row(i, split=s) for i, s in enumerate([" test", "test ", "train "])])
    found, how = guessed("rows.csv")
    assert len(found.samples) == 2
    assert set(how.splits) == {"test", "train"}


def test_lists_that_are_no_splits_are_said(place):  # noqa: F811
    write("rows.json", {"Atlas": {"test": [row()], "test_tiny": [row(), row(1)]}})
    how = guessed("rows.json")[1]
    assert list(how.splits) == ["Atlas_test"]
    assert any("rows.json#Atlas.test_tiny (2 rows)" in s for s in how.said)


@pytest.mark.parametrize(
    "column", ["StudyInstanceUID", "SeriesInstanceUID", "patient_identifier", "AccessionNumber", "Patient-ID"]
)
def test_ids_as_dicom_calls_them_are_clusters(place, column):  # noqa: F811
    write("rows.csv", [row(i, question=f"Q{i}?") | {column: f"1.2.{i // 2}"} for i in range(8)])
    found, how = guessed("rows.csv")
    assert how.columns["cluster"] == column
    assert len({s.cluster for s in found.samples}) == 4


def test_ids_that_repeat_and_are_not_there_for_all(place):  # noqa: F811
    write("rows.csv", [row(i, patient_id="" if i == 5 else f"p{i // 2}") for i in range(8)])
    how = guessed("rows.csv")[1]
    assert "cluster" not in how.columns
    assert any("column 'patient_id' repeats, and some rows have none" in s for s in how.said)


def test_a_text_in_braces_is_no_question_for_all_rows(place):  # noqa: F811
    with pytest.raises(SpecError, match=r"ask.*holds a name in braces.*is `question`"):
        spec_of("rows.csv", "{ask: 'About {organ}?'}")


# -- text ------------------------------------------------------------------------------------------------------------------


def test_a_quote_that_is_never_closed_does_not_swallow_rows(place):  # noqa: F811
    head = "id\timage\tquestion\tanswer\n"
    Path("rows.tsv").write_text(f'{head}1\tim1.png\t"Normal study?\tyes\n2\tim2.png\tIs it"\tno\n')
    with pytest.raises(DataError, match=r"row 0 \(up to line 3\): a cell runs over lines and tabs") as e:
        by_hand("rows.tsv", "{image: image}")
    assert "QUOTE_NONE" in e.value.hint
    Path("rows.tsv").write_text(f'{head}1\tim1.png\tx?\tyes\n2\tim2.png\t"Normal" study?\tyes\n')
    with pytest.raises(DataError, match=r"line 3: not CSV") as e:
        by_hand("rows.tsv", "{image: image}")
    assert "doubled" in e.value.hint
    Path("rows.tsv").write_text(f'{head}1\tim1.png\t"Two\nlines, ""quoted""?"\tyes\n')
    assert by_hand("rows.tsv", "{image: image}").samples[0].question == 'Two\nlines, "quoted"?'


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-8-sig"])
def test_utf16_shows_with_and_without_its_mark(place, encoding):  # noqa: F811
    write("rows.csv", [row(i, question="Où?") for i in range(2)], encoding=encoding)
    assert [s.question for s in guessed("rows.csv")[0].samples] == ["Où?"] * 2
    Path("rows.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(2)), encoding=encoding)
    assert len(by_hand("rows.jsonl", "{image: image}").samples) == 2


def test_messages_say_the_way_out(place):  # noqa: F811
    Path("rows.jsonl").write_text(f"{row()}\n")
    with pytest.raises(DataError, match="line 1: not JSON") as e:
        by_hand("rows.jsonl", "{image: image}")
    assert "json.dumps" in e.value.hint
    write("rows.jsonl", [row(image="/data/im0.png"), row(1, image="file:///data/im1.png")])
    found = by_hand("rows.jsonl", "{image: image, id: id}")
    assert all("is not a relative path; --images DIR names the folder" in why for why in found.bad.values())
    write("rows.jsonl", [row()])
    assert "did you mean 'scans/im0.png'?" in by_hand("rows.jsonl", "{image: image}", images="scanz").bad["0"]


def test_a_name_that_is_none_is_told_another():
    with pytest.raises(SpecError, match="'My Task' is not of lower-case letters") as e:
        specs.parse(skeleton.write("My Task", EXAMPLE), Path("mine.yaml"))
    assert e.value.hint == "such as 'my_task'"


def test_the_guess_is_a_yaml_that_holds(place):  # noqa: F811
    """What is written is what was found, for a table that needs most of it."""
    write(
        "rows.csv", [row(i, **{"Choice A": " A:CT ", "Choice B": " B:MRI ", "StudyInstanceUID": f"1.{i // 2}"}) for i in range(4)]
    )
    found = guess(Path("rows.csv"), Path())
    spec = specs.parse(skeleton.write("mine", found), Path("mine.yaml"))
    assert spec.local.columns.cluster == "StudyInstanceUID"
    assert spec.local.columns.cluster_noun == "study"
