"""Forms of text that several public rules share. Each says whose it is."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from functools import lru_cache

from harness.records import Prediction, Sample
from harness.scoring.protocols.protocol import best

_TO_TEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(i) for i, word in enumerate(_TO_TEN)}
_ARTICLES = {"a", "an", "the"}
_VQA_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_COMMA = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")
_NEGATED = re.compile(r"(ai|are|ca|could|did|does|do|had|has|have|is|might|must|need|ought|sha|should|was|were|wo|would)nt")


@lru_cache(maxsize=8192)
def vqa_form(text: str) -> str:
    """The VQA evaluator's form (Antol et al. 2015), which LLaVA-Med, VQA-Med 2020 and VLMEvalKit use.

    Signs next to a blank are deleted, others become a blank; a text with a number like 1,000 loses all signs. Then lower case,
    numbers up to ten as digits ("none" is 0), no articles, "dont" as "don't". The first 32 full stops go, unless a digit follows.
    Left out of its table of contractions are those that are not negations ("hed", "yall").

    >>> vqa_form("The left-sided X-ray: two, (or) more."), vqa_form("a")
    ('left sided x ray: 2 or more', '')
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    spaced = text
    for sign in _VQA_SIGNS:
        beside_blank = f"{sign} " in text or f" {sign}" in text
        spaced = spaced.replace(sign, "" if beside_blank or _DIGITS_COMMA.search(text) else " ")
    words = _STOP.sub("", spaced, count=32).lower().split()
    kept = [w for w in (_NUMBERS.get(w, w) for w in words) if w not in _ARTICLES]
    return " ".join(_NEGATED.sub(r"\1n't", w) if _NEGATED.fullmatch(w) else w for w in kept)


def vqa_words(text: str) -> str:
    """The same; where nothing is left of a text ("a"), the text itself in lower case, to be told from others."""
    return vqa_form(text) or text.strip().lower()


_ASIDE = re.compile(r"\([^)]*\)|（[^）]*）")
_WIDE = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～、《》【】"
_BLANKED = str.maketrans(dict.fromkeys(string.punctuation + _WIDE, " "))
_YES = {"yes", "yeah", "yep", "true", "是", "是的", "有", "包含", "可以", "能", "会"}
_NO = {"no", "nope", "false", "否", "不是", "没有", "无", "不包含", "不能", "不会", "不可以", "不正常"}
#: Where the two harnesses differ.
_LMMS_YES, _LMMS_NO = _YES | {"正常"}, _NO | {"异常"}
_EVALSCOPE_YES, _EVALSCOPE_NO = _YES | {"存在"}, _NO | {"不存在"}
_CHINESE_NUMBERS = {**dict(zip("零一二三四五六七八九十", map(str, range(11)), strict=True)), "两": "2"}
_XRAY = {"x ray", "xray"}
_CHINESE_XRAY = {"x光", "x 光", "x射线", "x 射线"}


def _short(text: str) -> str:
    """Lower case, without what stands in brackets, punctuation as blanks."""
    return " ".join(_ASIDE.sub(" ", text.strip().lower()).translate(_BLANKED).split())


@lru_cache(maxsize=8192)
def lmms_form(text: str) -> str:
    """lmms-eval's form of a SLAKE answer: yes and no by their synonyms, "x ray" as "xray".

    >>> lmms_form("X-Ray (chest)"), lmms_form("Yep."), lmms_form("(a)")
    ('xray', 'yes', '(a)')
    """
    found = _short(text)
    if found in _XRAY:
        return "xray"
    return "yes" if found in _LMMS_YES else "no" if found in _LMMS_NO else found or text.strip().lower()


@lru_cache(maxsize=8192)
def evalscope_form(text: str) -> str:
    """evalscope's form of a SLAKE answer: the same with numbers as digits ("none" is 0) and without articles.

    >>> evalscope_form("The two lungs"), evalscope_form("两个"), evalscope_form("None")
    ('2 lungs', '2', '0')
    """
    found = " ".join(w for w in map(_digit, _short(text).split()) if w not in _ARTICLES)
    if found in _XRAY | _CHINESE_XRAY:
        return "xray"
    return "yes" if found in _EVALSCOPE_YES else "no" if found in _EVALSCOPE_NO else found or text.strip().lower()


def _digit(word: str) -> str:
    numbers = _NUMBERS | _CHINESE_NUMBERS
    counted = word.removesuffix("个")
    if word != counted and (counted.isdigit() or counted in numbers):
        word = counted
    return numbers.get(word, word)


def equal_in(form: Callable[[str], str]) -> Callable[[str, Sample], float]:
    """A comparison: what was read is an acceptable answer in this form."""
    return best(lambda read, answer: form(read) == form(answer))


def whole(prediction: Prediction, sample: Sample) -> str:
    """The model's text as it stands, thinking included: what most public rules read."""
    return prediction.text


def polar_word(text: str) -> str:
    """The yes or no that occurs in a text as a word, where only one of them does; else the text itself.

    >>> polar_word("No fracture is seen"), polar_word("normal"), polar_word("yes or no")
    ('no', 'normal', 'yes or no')
    """
    found = {"yes", "no"} & set(re.findall(r"\w+", text.lower()))
    return found.pop() if len(found) == 1 else text
