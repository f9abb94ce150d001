"""Rules that compare whole answers or their words: the harness's own, strings, token F1, and the VQA-Med challenge's."""

from __future__ import annotations

from harness import answers
from harness.answers import bare
from harness.records import Prediction, Sample
from harness.scoring import bleu
from harness.scoring.exact import is_correct
from harness.scoring.metrics import word_f1
from harness.scoring.protocols.protocol import Protocol, Rule, best
from harness.scoring.protocols.texts import equal_in, vqa_words, whole
from harness.scoring.unread import reading


def _taken(prediction: Prediction, sample: Sample) -> str:
    """The letter, the yes or no, or the short answer that the harness's reader takes.

    The whole answer stays where that alone is the reference, so that this is the exact judge to the last row.
    """
    said = prediction.answer or ""
    if sample.reference.kind != "open":
        return reading(said, sample.reference) or ""
    short = answers.short(said)
    return said if is_correct(said, sample.reference) and not _equal(short, sample) else short


def _equal(read: str, sample: Sample) -> float:
    """Whether what was read is a reference answer after normalisation; it is not read any further."""
    if sample.reference.kind != "open":
        return float(read in {reading(a, sample.reference) for a in sample.reference.answers})
    return best(lambda text, answer: bare(text) == bare(answer) if bare(text) else text.strip() == answer.strip())(read, sample)


def correct(read: str, sample: Sample) -> float:
    """Whether a letter is the reference's."""
    return float(is_correct(read, sample.reference))


#: Also for kinds of questions that a source has no rule for.
EXACT = Rule(_taken, _equal)
BORROWED = "It knows no choices: their letters are read and compared as `exact` does."

_AS_TEXT = Rule(whole, equal_in(str.strip))
_CASELESS = Rule(whole, equal_in(lambda text: text.strip().lower()))
_WORDS = Rule(whole, best(word_f1))
_VQA = Rule(whole, equal_in(vqa_words))
_BLEU = Rule(whole, best(bleu.sentence))


def _new_bleu(read: str, answer: str) -> float:
    """The challenge's call as NLTK has computed it since 3.3: about 0 unless four words in a row agree."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # type: ignore[import-untyped]

    given, right = (bleu.content(bleu.words(text)) for text in (read, answer))
    if not given or not right:
        return float(not given and not right)
    return float(sentence_bleu([right], given, smoothing_function=SmoothingFunction().method0))


def _new_bleu_quietly(read: str, answer: str) -> float:
    import warnings

    with warnings.catch_warnings():  # NLTK warns of the very fault
        warnings.simplefilter("ignore")
        return _new_bleu(read, answer)


_BLEU_ASIS = Rule(whole, best(_new_bleu_quietly))
_CHALLENGE = "abachaa/VQA-Med-2020, Evaluator-VQA-Med-2020.py @e6ec701"

ENTRIES = [
    Protocol(
        name="exact",
        rule="The harness's own: the letter, the yes or no, or the stated answer has to be the reference's.",
        source="harness/scoring/exact.py",
        yesno=EXACT,
        open=EXACT,
        choice=EXACT,
    ),
    Protocol(
        name="strict",
        rule="The whole text has to be a reference answer, character by character; blanks around it are ignored.",
        source="none: the strictest rule that can be had, to compare the others with",
        yesno=_AS_TEXT,
        open=_AS_TEXT,
        choice=_AS_TEXT,
        differs="No case, full stop or sentence is forgiven, and a choice has to be written as the reference writes it.",
    ),
    Protocol(
        name="vqa-rad-hub",
        rule="The whole text has to be a reference answer, in whatever case.",
        source="the hub card of flaviagiammarino/vqa-rad @bcf91e7, which names accuracy over all, yes/no and open rows",
        yesno=_CASELESS,
        open=_CASELESS,
        choice=EXACT,
        quirks=(
            "The card gives no code: case is ignored because its answers are in lower case (inferred).",
            "That copy has no answer_type: closed are its 251 yes/no rows (/yesno); the archive calls 272 rows closed (/closed).",
            BORROWED,
        ),
        differs="Sentences, full stops and other words for yes and no are wrong.",
    ),
    Protocol(
        name="medgemma",
        rule="Token F1 of the whole text and the reference, over all rows, yes/no rows included.",
        source="MedGemma technical report (arXiv 2507.05201), section 3.4 and table 9; the model card",
        yesno=_WORDS,
        open=_WORDS,
        choice=EXACT,
        fractional=True,
        quirks=("How it cuts a text into tokens is not published: SQuAD's words are taken (inferred).", BORROWED),
        differs="A part of an answer counts as a part, and every further word of a sentence takes something away.",
    ),
    Protocol(
        name="vqa-med",
        rule="The VQA-Med challenge's accuracy: equal in the VQA evaluator's form; any of the alternatives counts.",
        source=_CHALLENGE,
        yesno=_VQA,
        open=_VQA,
        choice=EXACT,
        quirks=(
            '"none" is 0, and "one" is 1. Signs between words become blanks, signs next to a blank go.',
            "An answer of articles alone is empty in that form; here it is compared as it stands.",
            BORROWED,
        ),
        differs="Sentences are wrong; articles and numbers in words are forgiven.",
    ),
    Protocol(
        name="vqa-med-bleu",
        rule="The VQA-Med challenge's BLEU: stems without stop words, the best of the alternatives.",
        source=_CHALLENGE,
        yesno=_BLEU,
        open=_BLEU,
        choice=EXACT,
        fractional=True,
        quirks=("As NLTK computed it up to 3.2.5 (harness/scoring/bleu.py says why).", BORROWED),
        differs="A part of an answer counts as a part, and the order of words hardly counts.",
    ),
    Protocol(
        name="vqa-med-bleu-asis",
        rule="The same call under NLTK 3.3 or later.",
        source=_CHALLENGE,
        yesno=_BLEU_ASIS,
        open=_BLEU_ASIS,
        choice=_BLEU_ASIS,
        fractional=True,
        quirks=(
            "A right answer of fewer than four words scores about 0.",
            'Answers of stop words alone are all equal: "not" is a perfect "no".',
        ),
        differs="Most right answers are worth almost nothing.",
    ),
]
