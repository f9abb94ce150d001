"""Sheets that people filled in, as spreadsheets write them."""

import csv
import io
import itertools

import pytest

from harness.contracts import JudgeOptions
from harness.errors import UserError
from harness.pipeline import make_judges
from harness.records import Prediction, Reference, Sample
from judges.sheets import score

HEADER = ["Sample ID", " Final", "reasoning ", "ANNOTATOR", "comment"]
ROWS = [
    ["a", "{one}", "{one}", "Änne", 'sure; "quite", yes\nsecond line'],
    ["", "", "", "", ""],
    ["b", "{zero}", "", "Änne", ""],
    ["c", "", "", "", ""],
]
PAIRS = [
    (Sample(id=i, images=(), question="What?", reference=Reference(answers=("x",))),
     Prediction(sample_id=i, text="y", reasoning=None, answer="y", finish="stop", prompt_tokens=1, completion_tokens=1))
    for i in "abc"
]  # fmt: skip


def judged(path):
    (judge,) = make_judges(f"human:{path}", JudgeOptions())
    return list(judge.judge(PAIRS))


def sheet(separator, one, zero, end="\r\n"):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator=end)
    writer.writerow(HEADER)
    writer.writerows([[c.format(one=one, zero=zero) for c in row] for row in ROWS])
    return out.getvalue()


WORDS = [("1", "0"), ("1.0", "0.0"), ("1,0", "0,0"), ("TRUE", "FALSE"), ("WAHR", "FALSCH"), ("vrai", "faux"), (" 1 ", "\u00a00"),
         ("'1", "'0"), ("1.00", "00")]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_every_form_a_spreadsheet_writes_says_the_same(tmp_path, encoding, separator):
    for (one, zero), end, suffix in itertools.product(WORDS, ("\r\n", "\n"), ("csv", "txt")):
        path = tmp_path / f"ward.{suffix}"
        path.write_bytes(sheet(separator, one, zero, end).encode(encoding))
        a, b, c = judged(path)
        assert (a.final, a.reasoning, b.final, b.reasoning) == (1, 1, 0, None), (one, zero)
        assert a.rationale.startswith('Änne: sure; "quite", yes')
        assert c.missing == "no human verdict"


def test_excels_own_word_on_the_separator(tmp_path):
    path = tmp_path / "ward.csv"
    path.write_text("sep=;\nsample_id;final\na;1\nb;2\n")
    with pytest.raises(UserError, match=r"ward\.csv:4: column 'final'"):
        judged(path)
    path.write_text("sep=;\nsample_id;final\na;1\nb;0\n")
    assert [v.final for v in judged(path)] == [1, 0, None]


@pytest.mark.parametrize(
    ("data", "said", "hint"),
    [
        (b"sample_id,final\na,yes\n", r":2: column 'final': 'yes' is not 0, 1 or nothing", "0, 1 or empty"),
        (b"sample_id,final\na,0.5\n", r":2: column 'final': '0.5'", "0, 1 or empty"),
        (b"sample_id,final\na,100%\n", r":2: column 'final': '100%'", "0, 1 or empty"),
        (b"sample_id,final\na,1,0\n", r":2: more cells than columns: '0'", "in quotes"),
        (b'sample_id,final,comment\na,1,"open\n', r":\d: unexpected end of data", "quote"),
        (b"sample_id,final,Final\na,1,0\n", r":1: two columns are called 'final'", "take one away"),
        (b"sample_id,final\n,1\n", r":2: no sample_id", "the columns are"),
        (b"sample_id,final\na,1\na,0\n", r":3: the file says final 0 of 'a', and 1 in line 2", "annotator"),
        (b"sample_id;verdict\na;1\n", r":1: no column 'final'", None),
        ("sample_id,final\nä,1\n".encode("cp1252"), r":2: not in UTF-8", "CSV UTF-8"),
        (b"PK\x03\x04 and so on", "a workbook", "CSV UTF-8"),
        (b"sample_id,final\na,1\n\x81\x8d,1\n", "cannot be read", "CSV UTF-8"),
        (b"", r":1: no column 'sample_id'", None),
        (b"sample_id,final\n", "holds no verdicts", None),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_with_its_row(tmp_path, data, said, hint):
    path = tmp_path / "ward.csv"
    path.write_bytes(data)
    with pytest.raises(UserError, match=said) as caught:
        judged(path)
    assert hint is None or hint in caught.value.hint


def test_the_same_word_twice_is_one_word(tmp_path):
    path = tmp_path / "ward.csv"
    path.write_text("sample_id,final,annotator\na,1,ann\na,TRUE,ann\na,,ann\na,1,bob\n")
    assert judged(path)[0].final == 1
    path.write_text("sample_id,final,reasoning,annotator\na,1,1,ann\na,1,0,ann\n")
    with pytest.raises(UserError, match="'ann' says reasoning 0 of 'a', and 1 in line 2"):
        judged(path)


def test_scores_are_symmetric():
    """Whatever is read as 1 has its counterpart that is read as 0."""
    for one, zero in WORDS:
        assert (score(one), score(zero)) == (1, 0)
    for neither in ("10", "-1", "0,1", "1.5", "x", "ja", "-", "n/a", "1 0"):
        with pytest.raises(ValueError, match="is not 0, 1 or nothing"):
            score(neither)
