"""Yes or no.

The two words are read by the same rules, so that a text with yes and no exchanged reads the other way round. English itself
is not symmetric: "no" also stands before a noun ("no fracture"), "yes" does not. So either word counts only where it stands
free: alone between stops, or before a word that no noun phrase begins with ("yes it is", "no because"). "There is no
fracture" is then no answer, and neither is the "yes" of "yes fracture".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from harness.answers.forms import BOX, HEDGE, LEAD, Piece, concluded, excerpt, normalise, plain, sentences, supposed

YesNo = Literal["yes", "no"]

#: "yes or no", "yes/no", in either order, names the choice and does not make it.
_BOTH = re.compile(
    r"\b(?:yes ?(?:/|\bor\b|\band\b|\band/or\b|, ?or\b) ?no|no ?(?:/|\bor\b|\band\b|\band/or\b|, ?or\b) ?yes)\b"
    r"(?= ?(?:$|[^\w\s-]|\n|questions?\b|answers?\b|format\b))",
    re.I,
)
_AGAIN = re.compile(r"\b(yes|no)(?: \1\b)+", re.I)
_NUMBERED = re.compile(r"\b(?:yes|no)\. ?(?=\d|of\b)", re.I)
#: What may follow a free yes or no in the same piece: words that begin a sentence of their own, or say how it is meant.
_FREE = re.compile(
    r"(?: ?$| (?:it|its|it's|there|there's|this|that|that's|these|those|they|the|a|an|i|i'm|we|you|he|she|his|her|my|your|"
    r"because|since|as(?! (?:well|such)\b)|due|is|are|was|were|does|do|did|has|have|had|would(?= be\b)|will|should|and|but|not|"
    r"can|for|in|"
    r"on|at|from|by|with|based|given|according|definitely|clearly|certainly|absolutely|indeed|obviously|really|actually|please|"
    r"however|rather|instead|both|all|he's|she's|they're|we're)\b(?!-))",
    re.I,
)
_VERB = re.compile(r" (?:is|are|was|were|does|do|did|has|have|had|can|would|will|should)\b", re.I)
_DENIER = re.compile(r"\b(?:not|wrong|incorrect|false|unlikely|inaccurate)\b|n't\b", re.I)
_WORD = re.compile(r"(yes|no)(?![-\w'])", re.I)
_ANY = re.compile(r"\b(?:yes|no)(?![-\w'])", re.I)
_BUT = re.compile(r"(?:but|still|nevertheless|nonetheless)\b", re.I)
_CORRECTS = re.compile(
    r"(?:no |yes |oh |my |i )?(?:wait|actually|sorry|oops|apologies|apologi[sz]e|correction|i mean|rather(?! than)|"
    r"on second thoughts?|let me (?:correct|re-?consider|re-?think|re-?check|re-?examine)|"
    r"scratch that|hold on|(?:made|that was|was) (?:a |an )?(?:mistake|error|mistaken|wrong))\b",
    re.I,
)

#: Other words for yes and no, each with its counterpart; they count where they stand alone between stops.
_OTHER: dict[str, YesNo] = {
    **dict.fromkeys(("true", "correct", "affirmative", "yeah", "yep", "yup"), "yes"),
    **dict.fromkeys(("false", "incorrect", "nope", "nah"), "no"),
    **dict.fromkeys(
        (
            "是",
            "是的",
            "对",
            "对的",
            "對",
            "對的",
            "正确",
            "正確",
            "有",
            "有的",
            "存在",
            "会",
            "會",
            "能",
            "可以",
            "包含",
            "包括",
            "肯定",
            "肯定的",
        ),
        "yes",
    ),
    **dict.fromkeys(("不", "不是", "不是的", "否", "不对", "不對", "错", "错误", "錯", "錯誤", "不正确", "不正確"), "no"),
    **dict.fromkeys(
        (
            "没有",
            "沒有",
            "没",
            "无",
            "無",
            "不存在",
            "不会",
            "不會",
            "不能",
            "不可以",
            "不包含",
            "不包括",
            "否定",
            "否定的",
            "没有的",
            "并没有",
            "並沒有",
        ),
        "no",
    ),
    **dict.fromkeys(("sí", "si", "oui", "ja", "sim", "да", "نعم", "はい", "예", "네"), "yes"),
    **dict.fromkeys(("non", "nein", "não", "нет", "لا", "いいえ", "아니요", "아니오"), "no"),
}
#: These count only where they are the whole text: they also open sentences ("Certainly! The image ...").
_WHOLE: dict[str, YesNo] = {
    **dict.fromkeys(("y", "absolutely", "definitely", "certainly", "of course", "indeed", "i think so"), "yes"),
    **dict.fromkeys(
        (
            "n",
            "not really",
            "absolutely not",
            "definitely not",
            "certainly not",
            "of course not",
            "not at all",
            "i don t think so",
        ),
        "no",
    ),
}
_ASCII = re.compile(r"[\x00-\x7f]+")
_CJK_OPEN = re.compile(r".*(?:答案|回答)(?:应该|应|應該)?(?:是|为|為)?")
_CJK_STATES = re.compile(
    r"(?:因此|所以|综上|最终|最后|正确|我认为|我觉得|应该|應該|也|的)*(?:(?:答案|回答|选)(?:应该|应|應該)?(?:是|为|為)?(?=.))?"
)


def yes_no(text: str | None) -> YesNo | None:
    """The yes or no that a text opens with, states or concludes, else None.

    "Yes, there is no fracture" is yes, "No because the lungs are clear" is no; "normal", "no idea", "the answer is not yes"
    and "maybe yes" say neither. A text that says both says neither, unless it corrects itself ("No, wait: yes").
    """
    if not text:
        return None
    words = _AGAIN.sub(r"\1", _NUMBERED.sub(" ", _BOTH.sub(" ", concluded(plain(excerpt(text))))))
    said: list[YesNo] = []
    asked: list[YesNo] = []
    against: set[YesNo] = set()
    corrected = 0
    for sentence in sentences(words):
        turn = next((i for i, p in enumerate(sentence) if _BUT.match(p.text)), 0)  # "I am not sure, but yes"
        if any(doubts(p.text) for p in sentence[turn:]):
            against.update(_freed(sentence) if said else ())  # "Yes. I am not sure, no"
            continue
        if any(doubts(p.text) for p in sentence[:turn]):
            sentence = sentence[turn:]
        if sentence[-1].stop.startswith("?"):
            asked += _freed(sentence) if _WORD.fullmatch(sentence[-1].text) else []
            continue
        for piece, iffy in zip(sentence, supposed(sentence), strict=True):
            if iffy:
                continue
            if said and HEDGE.search(piece.text):
                against.update(_freed([piece]))  # "Yes... maybe no"
            if corrects(piece.text):
                corrected = len(said)
            if (word := _free(piece.text)) and _VERB.match(piece.text, word.end()) and _DENIER.search(piece.text, word.end()):
                against.add(_LOWER[word.group().lower()])
            elif found := _LOWER[word.group().lower()] if word else _other(piece):
                said.append(found)
    if len(set(said)) > 1 and len(set(said[corrected:])) == 1:
        said = said[corrected:]
    said = said or asked
    if said or against:
        return said[0] if said and len({*said, *against}) == 1 else None
    alone = re.sub(r"[\W_]+", " ", words.lower()).strip()
    return _WHOLE.get(alone) or _WHOLE.get(_led(alone))


_LOWER: dict[str, YesNo] = {"yes": "yes", "no": "no"}


def _freed(sentence: list[Piece]) -> list[YesNo]:
    """Every free yes and no in a sentence."""
    return [_LOWER[word.group().lower()] for p in sentence for word in _ANY.finditer(p.text) if _FREE.match(p.text, word.end())]


def corrects(text: str) -> bool:
    """Whether a piece of text takes back what came before: "wait", "actually no"."""
    return bool(_CORRECTS.match(text))


@lru_cache(maxsize=4096)  # every row asks it of its reference, several times, and references repeat
def is_yes_no(text: str) -> bool:
    """Whether a text is yes or no and nothing more, in any of the languages known."""
    word = normalise(text)
    return word in _LOWER or (word in _OTHER and word not in ("correct", "incorrect"))


def _led(text: str) -> str:
    """The text without the words that lead up to an answer."""
    found = LEAD.match(text)
    return text[found.end() :] if found else text


def _free(text: str) -> re.Match[str] | None:
    """The yes or no that a piece of text opens with, after leading words, where it stands free."""
    lead = LEAD.match(text)
    word = _WORD.match(text, lead.end() if lead else 0)
    return word if word and _FREE.match(text, word.end()) else None


def doubts(text: str) -> bool:
    """Whether a piece of text only says that something is not known: "maybe", "I am not sure"."""
    found = HEDGE.search(text)
    return bool(found and LEAD.fullmatch(text[: found.start()]) and LEAD.fullmatch(text[found.end() :].strip()))


def _other(piece: Piece) -> YesNo | None:
    """Yes or no in other words, alone in their piece."""
    text = piece.text.strip(f"{BOX} ").lower()
    if text in _OTHER:
        return _OTHER[text]
    if _CJK_OPEN.fullmatch(text):  # what is stated follows
        return None
    led = _led(text)
    opens = _ASCII.match(text)
    if opens and LEAD.fullmatch(opens.group()):
        text = text[opens.end() :]
    if led and led.isascii():  # "the answer is incorrect" speaks of the answer
        return _OTHER.get(led) if led not in ("correct", "incorrect") else None
    states = _CJK_STATES.match(text)
    return _OTHER.get(text[states.end() :]) if states else None
