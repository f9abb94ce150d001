"""Normal forms: what is only typography is taken off, so that the readers see words, letters and stops.

plain("**Answer**：（Ｂ）")      # "Answer:(B)"
normalise("  **Lung  Cancer.** ")  # "lung cancer"
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from html import unescape
from typing import NamedTuple

from harness.answers.thinking import SPECIAL

#: Around the content of a \\boxed{}: the most explicit way to state an answer.
BOX, END_BOX = "\ue000", "\ue001"

_PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("“”„‟«»〝〞＂❝❞", '"'),
        **dict.fromkeys("‘’‚‛‹›´ʼ", "'"),
        **dict.fromkeys("。｡．।॥۔።", ". "),
        **dict.fromkeys("，、､،", ", "),
        **dict.fromkeys("：﹕︰", ": "),
        **dict.fromkeys("；؛", "; "),
        **dict.fromkeys("！", "! "),
        **dict.fromkeys("？؟", "? "),
        **dict.fromkeys("【〔〖〘〚", "["),
        **dict.fromkeys("】〕〗〙〛", "]"),
        **dict.fromkeys("「『《〈", '"'),
        **dict.fromkeys("」』》〉", '"'),
        **dict.fromkeys("—―⸺", " - "),
        **dict.fromkeys("–−‒‐‑", "-"),
        **dict.fromkeys("…", ". "),
        **dict.fromkeys("→⇒➔➜➡", ": "),
        **dict.fromkeys("•◦▪●‣∙➢✓✔✅", " "),
        **dict.fromkeys("¿¡", " "),
    }
)
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_RULE = re.compile(r"^ ?(?:[-*_=~`| :]{3,}|```+ ?\w*|~~~+ ?\w*) ?$", re.M)
_LINE_MARK = re.compile(r"^ ?(?:#{1,6} |> ?(?!\d)|[-*+·] )+", re.M)
_TICKED, _UNTICKED = re.compile(r"^([-*+ ]{0,9})\[[xX]\] (?=\S)", re.M), re.compile(r"^[-*+ ]{0,9}\[ ?\] .*$", re.M)
#: Signs that say something: an arrow leads on, a cross denies what it stands before or behind, a tick affirms.
_ARROW, _TICK = re.compile(r"(?<=\s)[-=]+>(?=\s)|:-+(?=\s?\w)|(?<=\s)=(?=\s)"), re.compile(r"(?<=\w)[ )]*[✓✔✅☑]\ufe0f? ?$", re.M)
_CROSS, _CROSSED = re.compile(r"^([^\w\n]{0,9}?)[✗✘❌❎]\ufe0f? ?(?=[^\w\n]{0,9}\w)", re.M), re.compile(r"[✗✘❌❎]\ufe0f?")
_DASH = re.compile(r"^-+(?=[A-Za-z])|(?<=[A-Za-z])-+(?=\s|\Z)", re.M)
#: Line ends that were escaped twice, font commands without braces.
_ESCAPED, _FONT = re.compile(r"\\[nN](?![a-z])"), re.compile(r"\\(?:bf|it|rm|sf|tt|em)(?:series|shape|family)?\b ?")

_STRUCK = re.compile(r"~~(?=\S)[^~\n]{1,200}(?<=\S)~~")
_EMPHASIS = re.compile(r"\*\*|__|``+|~~|(?<![^\W_])[*_`]|[*_`](?![^\W_])")
_TAG = re.compile(r"</?([a-z]\w{0,9})(?: [^<>\n]{0,200})?/?>", re.I)
_LATEX = re.compile(r"\\(?:[a-zA-Z]{1,20} ?)?\{|[{}]")
_MATH = re.compile(r"\$|\\[()\[\]]|\\[,;!\s]")
_ROLE = re.compile(r"\A(?:assistant|chatbot|model|ai|gpt) ?(?:: ?|\n)", re.I)
_QUOTES = re.compile(r"\"|(?<!\w)'|'(?!\w)")


#: Longer texts are read by their opening and their end alone, where answers stand.
_LONGEST = 20_000


def excerpt(text: str) -> str:
    """What the readers look at of a text: all of it, or the opening and the end of one that got out of hand."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}\n{text[-half:]}"


def plain(text: str) -> str:
    """The words and stops alone: NFKC, one kind of each punctuation mark, no markdown, LaTeX, quotes, special tokens or
    characters that cannot be seen. Lines stay. A JSON object that holds an answer is that answer."""
    text = _signs(text)
    text = unicodedata.normalize("NFKC", SPECIAL.sub("\n", text).translate(_PUNCTUATION)).translate(_PUNCTUATION)
    text = _LINES.sub("\n", text)
    kinds = {c: unicodedata.category(c) for c in set(text) if c not in "\n\t°"}
    text = text.translate({ord(c): " " if kind == "So" else None for c, kind in kinds.items() if kind == "So" or kind[0] == "C"})
    text = _RULE.sub("", _SPACES.sub(" ", text))
    if (held := _json_answer(text)) is not None:
        text = held
    text = _MATH.sub("", _latex(text))
    text = _EMPHASIS.sub("", _LINE_MARK.sub("", _STRUCK.sub(" ", text).replace("|", "\n")))
    if "</" in text or "<br" in text.lower():
        closed = {m.group(1).lower() for m in re.finditer(r"</(\w{1,10})>", text)} | {"br"}
        text = _TAG.sub(lambda m: "\n" if m.group(1).lower() in closed else m.group(), text)
    text = _LINE_MARK.sub("", _QUOTES.sub("", text))
    return _ROLE.sub("", re.sub(r"\s*\n\s*", "\n", _SPACES.sub(" ", text)).strip())


def _signs(text: str) -> str:
    """Signs as the words they stand for."""
    text = _FONT.sub("", _ESCAPED.sub("\n", text)) if "\\" in text else text
    text = re.sub(r"#{3,}\s*\Z", "", _ARROW.sub(":", unescape(text) if "&" in text else text))
    if "] " in text:
        text = _TICKED.sub(r"\1", _UNTICKED.sub("", text))
    return _CROSSED.sub(": wrong ", _CROSS.sub(r"\1not ", _TICK.sub(": correct", text)))


def _latex(text: str) -> str:
    """\\boxed{X} as BOX X END_BOX, the content of \\text{X} and its kin without the command; other braces stay."""
    if "\\" not in text:
        return text
    out: list[str] = []
    opened: list[str] = []
    at = 0
    for m in _LATEX.finditer(text):
        out.append(text[at : m.start()])
        at, found = m.end(), m.group()
        if found == "}":
            out.append(opened.pop() if opened else "}")
        elif found == "{":
            out.append("{")
            opened.append("}")
        else:
            boxed = found.startswith(("\\boxed", "\\fbox"))
            out.append(BOX if boxed else "")
            opened.append(END_BOX if boxed else "")
    return "".join([*out, text[at:], *(e for e in reversed(opened) if e == END_BOX)])


_ANSWER_KEYS = (
    "answer",
    "final_answer",
    "finalanswer",
    "response",
    "choice",
    "option",
    "letter",
    "label",
    "prediction",
    "result",
)


def _json_answer(text: str) -> str | None:
    """What a text that is one JSON object gives as its answer, else None."""
    text = text.strip().removeprefix("json").strip()
    if not (text.startswith("{") and '"' in text):
        return None
    try:
        held = json.loads(text, strict=False)
    except (ValueError, RecursionError):  # cut off, or with something behind
        found = {m.group(1) for m in _JSON_ANSWER.finditer(text)}
        return found.pop() if len(found) == 1 else None
    by_name = {re.sub(r"\W+", "_", str(k).lower()): v for k, v in held.items()} if isinstance(held, dict) else {}
    value = next((by_name[k] for k in _ANSWER_KEYS if k in by_name), None)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) else None


_JSON_ANSWER = re.compile(rf"\"(?:{'|'.join(_ANSWER_KEYS)})\"\s*:\s*\"([^\"\n]*)\"", re.I)
#: Not stripped at the ends: they mean something ("50 %", "#2").
_MEANS = "%‰#&@/\\§°"


def normalise(text: str) -> str:
    """Lower case, single blanks, no typography, and no quotes, stops or enclosing brackets at either end.

    A text that is nothing but punctuation becomes "".
    """
    text = plain(text.lower()).replace(BOX, "").replace(END_BOX, "").lower()
    text = re.sub(r"\s*,\s*", ", ", re.sub(r"(?<=\d) (?=%)", "", re.sub(r"\s+", " ", text)))
    for _ in range(9):  # a bracket may hide a quote, a quote a bullet
        before, text = text, _stripped(text)
        if text == before:
            break
    return text if any(c.isalnum() for c in text) else ""


def _stripped(text: str) -> str:
    start, end = 0, len(text)
    while start < end and _edge(text[start]):
        start += 1
    while start < end and _edge(text[end - 1]):
        end -= 1
    if (
        end - start > 1
        and text[start] + text[end - 1] in ("()", "[]", "{}", "<>")
        and text[start] not in text[start + 1 : end - 1]
    ):
        start, end = start + 1, end - 1
    return re.sub(r"^(?:[-*+>#] )+", "", text[start:end].strip(" .,;:!?"))


def _edge(c: str) -> bool:
    return (
        c.isspace() or c in "*_`~^" or (unicodedata.category(c) in ("Po", "Pi", "Pf", "Mn") and c not in _MEANS and c != "\u3099")
    )


_SECTION = re.compile(
    r"^(?:(?P<answer>(?:(?:the|my) )?(?:(?:final|correct) )?answer(?: is)?|(?:最终|最後|最后|正确)?答案)"
    r"|(?:my |step[- ]by[- ]step )?(?:thoughts?|thinking|reasoning|reasons?|rationale|explanation|analysis|observations?)"
    r"(?: process)?"
    r"|思考|推理|分析|解释|解析|理由) ?(?::|$)",
    re.M | re.I,
)


class Piece(NamedTuple):
    """A run of words between two stops, and the stop after it ("" at the end of the text).

    `fresh` says that what was denied or doubted before ended here: a new sentence, or "so", "but", "it is".
    """

    text: str
    stop: str
    fresh: bool
    line: bool


_TURN = (
    r"(?:because|since|as(?! (?:well|such|if|a|an|[a-z]|the [\w-]+ of)\b)|so|but|however|therefore|thus|hence|instead(?! of)|"
    r"although|though|while|whereas|leaving|which leaves|rather(?! than)|only|and(?= (?:the |all )?(?:others?|rest|remaining)\b))"
)
_SPLIT = re.compile(
    r"\n|[;!?]+|\.+(?!\w)|\.(?=[^\x00-\x7f])|(?-i:(?<=[A-Za-z][a-z])\.(?=[A-Z]))|"
    r",(?!\d)|:(?!\d)|[()\[\]{}<>]| -+(?= |$)|(?<=\w)-- ?|\ue001"
    rf"|(?<=\S)(?<!thing)(?<!all) (?={_TURN}\b(?!-))|(?<=\S)(?<!the)(?<!correct)(?<!wrong) (?-i:(?=(?:Final )?Answer ?:))",
    re.I,
)
#: A piece that only turns the sentence.
ASIDE = re.compile(r"however|though|therefore|thus|hence|instead|in turn|in contrast|on the other hand", re.I)
FRESH = re.compile(
    rf"(?:{_TURN}|it|its|this|that|there|they|i|we|my|the (?:\w+ )?(?:answer|option|choice)|"
    r"the (?:[\w-]+ ){1,3}(?:is|are|shows?|depicts?|demonstrates?|reveals?|suggests?))\b|"
    r"答案|而是|是|应|應|选|選|故|因此|所以",
    re.I,
)


def pieces(text: str) -> Iterator[Piece]:
    """The pieces of a plain text, in order; empty ones are left out."""
    at, stop, line = 0, "\n", True
    for m in [*_SPLIT.finditer(text), None]:
        end = m.start() if m else len(text)
        words = text[at:end].strip()
        after = m.group().strip(" ") if m and m.group() != "\n" else ("\n" if m else "")
        if words:
            fresh = stop not in (",", "(", "[", "") or bool(FRESH.match(words))
            yield Piece(words, after, fresh, line)
            line = False
        line = line or after == "\n"
        stop = after if words or after not in ("", ")", "]") else stop
        at = m.end() if m else end


def supposed(sentence: list[Piece]) -> list[bool]:
    """For each piece of a sentence, whether it is only supposed: from "if" on, and what stands right before ("yes, if ...")."""
    found = [IF.search(p.text) for p in sentence]
    first = next((i for i, m in enumerate(found) if m), len(found))
    if first and first < len(found) and (m := found[first]) and m.start() == 0:
        first -= 1
    return [i >= first for i in range(len(found))]


def concluded(text: str) -> str:
    """A plain text without dashes at its lines' ends, and without what it labels as reasoning before what it labels as answer
    ("Thought: ... Answer: ...")."""
    text = _DASH.sub(" ", text)
    labels = list(_SECTION.finditer(text))
    start = next((m for m in labels if not m.group("answer")), None)
    end = next((m for m in labels if m.group("answer") and start and m.start() > start.start()), None)
    return text[: start.start()] + text[end.start() :] if start and end else text


def sentences(text: str) -> Iterator[list[Piece]]:
    """The pieces of a plain text by sentence or line; the last stop of each tells how it ended."""
    held: list[Piece] = []
    for piece in pieces(text):
        if held and (piece.line or held[-1].stop[:1] in (".", "!", "?", ";")):
            yield held
            held = []
        held.append(piece)
    if held:
        yield held


_LEADS = """
    oh ah uh umm hmm resounding let got inclined afraid number almost always means meaning remains stays becomes simple honest
    so thus therefore hence then consequently accordingly overall finally also and or but yet because since as
    in conclusion summary short to conclude summarize summarise i we you my our me would will must should
    say said saying meant think thought believe conclude guess go going with for choose chose chosen pick picked select selected
    selecting choosing picking prefer settle leaving leaves remaining
    only which an the this that these it its is am are was be being
    best correct most likely probable probably appropriate accurate suitable final finally last own statement
    answer response reply verdict conclusion result solution option choice letter selection diagnosis
    of question your given above here there seems seem appears appear looks look like
    just well ok okay sure indeed assistant model output rather instead
    definite clear firm strong toward vote match fit candidate one has have had
    certain positive looking after analysis ans la respuesta correcta es opción réponse est antwort ist die richtige risposta
    resposta corretta è é ответ правильный
    actually sorry wait correction mean leaning lean towards confident following among based
"""
#: The same, where one word does not tell.
_LEAD_PHRASES = (
    r"a(?! (?:is|are|was|and|or|to|through)\b)",  # the article, not the letter
    r"(?<=')(?:d|ll|m|s|re|ve|t)",
    r"right(?= (?:answer|option|choice|one|response|letter|statement|diagnosis)\b)",
    r"(?!unlike|uncertain|possib|potential|conceivab|hard|bare|rare|scarce|initial|previous|original|incorrect|wrong|false)"
    r"[a-z]{2,}ly",
    r"(?:settled?|decided?|based) on|in (?:this|my|your|our) (?:case|view|opinion|image|scan|study)|i think",
    r"(?:of|among|from|between|out of) (?:all )?(?:the|these|those|your)(?: \w+)? (?:options|choices|answers)",
    r"answer to(?: [\w'-]+){1,12}? is",
    r"of course|tl;?dr|without (?:a|any) doubt|no doubt|(?:am|are|be) left with|that leaves|by elimination",
)
_CJK_LEADS = (
    "而是|最佳|最可能|最有可能|最合适|最合適|最符合|正解|答え|は|정답|답|은|는|答案|选项|選項|选择|選擇|选|選|正确|正確|最终|最終|最后|最後|"
    "应该|應該|应|應|因此|所以|综上|我认为|我認為|我觉得|故|我|本题|为|為|是|的|项|項"
)  # fmt: skip
#: Words that may stand before an answer and change nothing of it.
LEAD = re.compile(rf"(?:(?:{'|'.join([*_LEAD_PHRASES, *_LEADS.split()])})\b[ ']*|(?:{_CJK_LEADS}) *|{BOX} *|= *)*", re.I)

#: Opens what is only supposed ("if there were a mass"); not how an answer is given ("if I had to choose").
IF = re.compile(
    r"\b(?:(?<!as )if|unless|assuming|supposing|in case)\b"
    r"(?! (?:i|we|you|any|so|not|forced|asked|pressed|had|possible|present|needed|necessary)\b)|如果|假如|若是",
    re.I,
)
#: In a piece of text, what takes back all that it says.
HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|(?<!best )possible|might|may|could|either|unclear|uncertain|unsure|unknown|undetermined|"
    r"indeterminate|inconclusive|equivocal|ambiguous|questionable|doubtful|"
    r"cannot (?:tell|say|determine|be (?:determined|sure|certain|known|excluded|ruled))|"
    r"can(?:'t|not) (?:rule|exclude|tell|say|determine|be)|(?:not|n't) (?:sure|certain|clear|know|excluded|ruled out)|don't know|"
    r"depends|hard to|difficult to|impossible to|whether|at first(?: glance| sight)?|initially|tempting|"
    r"was (?:going to|about to|tempted))\b"
    r"|(?<!最)(?<!最有)(?<!不)可能|也许|或许|不确定|不清楚|不知道|无法|難以|难以",
    re.I,
)
