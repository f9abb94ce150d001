"""A letter among choices.

Every place where a text names a choice, by its letter or by its words, is a mention. A mention that is denied ("not B", "A is
wrong", "pneumonia is ruled out") or doubted ("maybe B") says nothing. Of the others the most explicit kind decides, and it has
to be of one mind:

    STATED   "The answer is B", "so B", "B is correct", \\boxed{B}, a line that holds the letter alone, "It is two."
    OPENING  a piece of text that is nothing but the choice: "B. pleural effusion. A blunted angle is seen."
    MARKED   "(B)" or "option B" anywhere in a sentence
    WORDS    the words of a choice anywhere in a sentence

A letter in the middle of a sentence is none of them ("vitamin C", "a dog", "I think"). A text that lists the choices names none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from harness.answers.forms import ASIDE, BOX, FRESH, HEDGE, LEAD, Piece, concluded, excerpt, normalise, plain, sentences, supposed
from harness.answers.polarity import corrects, doubts, is_yes_no, yes_no
from harness.answers.stated import bare, opened

#: A letter in brackets becomes MARK and the letter; the words of choice i become one character, chr(WORD + i).
MARK, WORD = "\ue010", 0xE100


class Rank(IntEnum):
    """How explicit a mention is."""

    WORDS = 0
    MARKED = 1
    OPENING = 2
    STATED = 3


@dataclass
class Mention:
    """A place that names a choice. `start` and `end` are in its piece; `after` counts the corrections before it."""

    letter: str
    start: int
    end: int
    rank: Rank | None = None
    denied: bool = False
    after: int = 0
    label: Mention | None = None  #: the letter right before the words of its choice: denied when they are


_BRACKETED = re.compile(r"(?<!\w)[(\[{<] ?([A-Za-z]) ?[)\]}>](?!\w)")
_CLOSED = re.compile(r"(?<![\w'])([A-Za-z])\)(?=\s|$|[\ue100-\ue1ff])")
_LABEL = re.compile(r"^(\W*[A-Z])\.(?=[^\s.])", re.M)
_MENTION = re.compile(rf"{MARK}([A-Z])|(?<![A-Za-z0-9'\-./])([A-Za-z])(?![A-Za-z0-9'])(?!-\w|\.\w)|([\ue100-\ue1ff])")
_CUE = re.compile(r"answer|option|choice|response|conclusion|letter|选|選|答案", re.I)
_LABELLED = re.compile(
    r"(?:\b(?:option|choice|answer|letter)s? ?|选项?|選項?)(?:is|:|=|是)? ?$"
    r"|\b(?:points? to|suggests?|indicates?|supports?|favou?rs?|leads? (?:us |me )?to|corresponds? to|consistent with|"
    r"match(?:es)?|fits?|describes?|depicts?|represents?|(?:image|finding|diagnosis|scan) is) $",
    re.I,
)
#: "The option that best fits is": a letter that follows is what is stated.
_IS = re.compile(
    r"\b(?:answer|option|choice|letter|response)\b[^\ue010\ue100-\ue1ff]{1,60} is (?:the )?(?:option |letter )?$", re.I
)
_PLURAL = re.compile(r" (?:are|both|all)\b|[都均]")
_OPTION = re.compile(r"(?:the )?(?:option|choice|letter|选项|選項)s? ?", re.I)
_HOLDS = re.compile(
    r" ?(?:is|are|was|(?:would|must|should|has to) be|(?:seems|looks|appears)(?: to be)?)"
    r"(?: (?:the|a|most|more|clearly|definitely|likely|also|my|our|final|only|probably|far|much))* "
    r"(?:correct|right|best|better|answer|true|appropriate|accurate|consistent|likely|choice|probable|supported|fitting)\b"
    r"|(?: also| best| most closely| clearly)? (?:fits?|match(?:es)?|describes?|explains?|remains?|represents?|corresponds?)\b"
    r"| makes (?:the )?most sense| it is$|(?:选项|選項|项|項)?[都也均才]?是?(?:正确|正確|对|對)",
    re.I,
)
_JOIN = re.compile(r" ?(?:and/or|and|or|nor|&|/|\+|plus|as well as|和|与|與|或|及)? ?(?:also )?(?:(?:option|choice)s? )?", re.I)
_DOUBTED = re.compile(r"(?:(?:or|and) )?(?:maybe|perhaps|possibly) (?:also )?(?:option )?", re.I)
#: A choice that opens a clause of its own: what was denied before is over ("although A is possible, B is right").
_SUBJECT = re.compile(rf"(?:option |choice )?{MARK}?(?-i:[A-Z]|[\ue100-\ue1ff])(?={_HOLDS.pattern})", re.I)
_UNIT = re.compile("选项|選項|项|項|です|だ|でし|입니다|이다|예요")
_CLAUSE = re.compile(r"\b(?:and|but|while|that|or)(?: (?:option|choice))? $", re.I)
_VERSUS = re.compile(r" (?:over|rather than|instead of|not|and not|but not)\b", re.I)
_TRUE = re.compile(r"(?:is )?(?:correct|right|true|yes)", re.I)
_ITEM = re.compile(
    r"(?:(?:with|because|since|as|while|although|though|given that|considering(?: that)?|options?|choices?) )*", re.I
)
#: What is longer, in characters, leads up to nothing.
_LONGEST_LEAD = 200
_VERB = re.compile(
    r"(?:(?:is|are|was|were|ca|could|does|do|did|has|have|had|would|should|wo)(?:n't)?|can|cannot|seems?|appears?)(?= |$)", re.I
)

#: Denies what comes after it, over commas too ("no pneumonia, effusion or mass").
_FORWARD = re.compile(
    r"\b(?:no(?! doubt)|not|nor|neither|without(?! (?:a |any )?doubt)|never|none|absence of|"
    r"lack of|free of|negative for|(?<!no other )than|instead of|"
    r"low (?:probability|likelihood|chance) of|insufficient|nothing|hardly|far from|devoid of|missing|"
    r"except|non(?=-)|opposed to|"
    r"(?<!no )(?<!without )(?<!\ba )(?<!any )doubt(?:s|ed|ful)?|fail(?:s|ed)? to|lack(?:s|ed|ing)?|"
    r"(?:anything|all|everything) but|"
    r"exclud(?:es?|ed|ing)|rul(?:e|es|ed|ing) out|eliminat(?:e|es|ed|ing)|den(?:y|ies|ied)|other than|unlike|against|cannot|"
    rf"over(?= {MARK}?[A-Z]\b))\b|n't\b|[不无無没沒非未]|排除",
    re.I,
)
#: Denies what it is said of ("pneumonia is unlikely"), and what follows it in the same piece.
_BACKWARD = re.compile(
    r"^no$|\bnot (?:seen|present|visible|identified|visualized|applicable|correct|likely|supported|"
    r"shown|evident|consistent)\b|"
    r"\b(?:"
    r"(?:is|are|was|were|be|been|do|does|did|can|could|would|should|has|have|had|will|seems?|appears?|looks?)(?: \w+)? not|"
    r"cannot|unlikely|absent|excluded|ruled out|rejected|wrong|incorrect|inaccurate|false|untrue|improbable|implausible|"
    r"eliminated|negative(?! for)|less likely|least likely|dismissed|invalid|inconsistent|unsupported|discarded|"
    r"denied|lacking|missing|out)\b|"
    r"n't\b|-free\b|"
    r"排除|不对|不對|不正确|不正確|错误|錯誤|不可能|不是|不存在|可能性小",
    re.I,
)
#: What is an answer when it stands alone, not the denial of what follows.
_NOES = ("no", "non", "nope", "none")
_MANY = re.compile(r"\b(?:and|or|nor|are|were|both|all)\b|&", re.I)


def letter(text: str | None, choices: Sequence[str]) -> str | None:
    """The choice letter ("A", "B", ...) that a text names, or None when it names none or several.

    An empty choice is none: its letter stays unused. Choices beyond the 26th have no letter.
    """
    if not text or not text.strip():
        return None
    names = {chr(65 + i): opened(c) for i, c in enumerate(choices[:26]) if c.strip()}
    text = excerpt(text)
    words = concluded(plain(text))
    alone = re.sub(r"[\W_]+", "", words).upper()
    if len(alone) == 1 and alone in names:
        return alone
    whole, form = bare(text), normalise(text)
    same = [x for x, name in names.items() if whole and whole == bare(name)] or [
        x for x in names if form and form == normalise(choices[ord(x) - 65])
    ]
    if same:
        return _only(same, names)
    opens = {x: m.group() for x, n in names.items() if (m := re.match(r"(?:yes|no)(?=[,;.:(]| -)", n))}
    polar = {x: yes_no(name) for x, name in names.items() if is_yes_no(name)}
    mentions = _mentions(_marked(words, {x: n for x, n in names.items() if n and x not in polar}))
    found = _decide(mentions, names)
    said = yes_no(text) if polar or opens else None
    if not polar and found is None and not any(m.rank for m in mentions):
        return _only([x for x, p in opens.items() if p == said], names)
    if said is None or not polar:
        return found
    by_polarity = _only([x for x, p in polar.items() if p == said], names)
    others = {m.letter for m in mentions if m.rank is not None and m.rank > Rank.WORDS} - {by_polarity}
    return by_polarity if not others or found == by_polarity else None


def _only(found: Iterable[str], names: dict[str, str]) -> str | None:
    named = set(found)
    return named.pop() if len(named) == 1 and named <= set(names) else None


def _decide(mentions: list[Mention], names: dict[str, str]) -> str | None:
    """The letter that the most explicit mentions agree on; what came before a correction ("wait, no") yields."""
    held = [m for m in mentions if not m.denied and m.rank is not None]
    for rank in reversed(Rank):
        named = [m for m in held if m.rank == rank]
        if not named:
            continue
        if len({m.letter for m in named}) > 1:
            named = [m for m in named if m.after == named[-1].after]
        opening = {m.letter for m in held if m.rank == Rank.OPENING}
        if rank == Rank.STATED and len(opening) == 1 and held[0].rank == Rank.OPENING and not named[-1].after:
            return _only([m.letter for m in named] + [held[0].letter], names)
        return _only([m.letter for m in named], names)
    return None


def _marked(words: str, names: dict[str, str]) -> str:
    """The text with the words of each choice as one character, and a letter in brackets as MARK and the letter."""
    # two choices of the same words are told apart by their letters alone, and a letter is no word
    once = {x: n for x, n in names.items() if list(names.values()).count(n) == 1 and not re.fullmatch("[a-z]", n)}
    if once:
        longest = sorted(once, key=lambda x: len(once[x]), reverse=True)
        pattern = re.compile("|".join(f"(?P<{x}>{_bounded(once[x])})" for x in longest), re.I)
        words = pattern.sub(lambda m: chr(WORD + ord(m.lastgroup or "A") - 65), words)
    words = _BRACKETED.sub(lambda m: f"{MARK}{m.group(1).upper()}", words)
    words = _CLOSED.sub(lambda m: f"{MARK}{m.group(1).upper()}:", words)
    return _LABEL.sub(r"\1. ", words)


#: A character that a word of another script than Chinese, Japanese or Korean goes on with.
_LATIN = r"[^\W\u2e80-\uffff]"


def _bounded(name: str) -> str:
    """A choice's words as an expression: whole words, blanks and hyphens alike, with or without the s of a plural."""
    body = r"[\s,\-]+".join(re.escape(part) for part in re.split(r"[\s,\-]+", name) if part) or re.escape(name)
    body = re.sub(r"(?<=\d)\[\\s,\\-\]\+(?=[a-zµ])", lambda m: r"[\s,\-]*", body)  # "5cm"
    first, last = name[0], name[-1]
    before = rf"(?<!{_LATIN})" if re.match(_LATIN, first) else "(?<![不无無没沒非未])" if first.isalpha() else ""
    after = rf"(?!{_LATIN})" if re.match(_LATIN, last) else ""
    if first.isdigit():
        before = r"(?<![\w\-])(?<!\d[.,])"
    if last.isdigit():
        after = r"(?![\w%])(?![.,]\d)(?! %)"
    elif last.isascii() and last.isalpha():
        after = rf"(?:e?s)?{after}"
    return f"{before}{body}{after}"


def _mentions(words: str) -> list[Mention]:
    """Every mention in the text, in order, each with its rank and whether it is denied."""
    out: list[Mention] = []
    held: list[tuple[Piece, list[Mention]]] = []
    denied = led = labelled = wrong = False
    corrections = 0
    every = [(p, iffy) for s in sentences(words) for p, iffy in zip(s, supposed(s), strict=True)]
    for i, (piece, iffy) in enumerate(every):
        if ASIDE.fullmatch(piece.text):  # "pneumonia, however, is unlikely"
            continue
        if (piece.fresh or _SUBJECT.match(piece.text)) and not (
            _VERB.match(piece.text) and held and held[-1][0].stop in (")", "]", ",", "-")
        ):
            denied, held = False, held[-1:]
        corrections += corrects(piece.text)
        found = _of_piece(piece, led, every[i + 1][0] if i + 1 < len(every) else None)
        for m in found:
            m.after = corrections
            if labelled and m.rank == Rank.OPENING:  # "Differential: MRI, X-ray"
                m.rank = Rank.WORDS
            m.denied = wrong and not FRESH.match(piece.text)
        labelled = piece.stop == "," if labelled else _names_other(piece, found)
        wrong = piece.stop == "," and not FRESH.match(piece.text) if wrong else _names_wrong(piece, found)
        denied = _deny(piece, found, held, denied)
        if held:
            _go_on(piece, found, held[-1])
        if iffy or piece.stop.startswith("?"):
            for m in found:
                m.denied = True
        ranked = [m for m in found if m.rank is not None]
        if _TRUE.fullmatch(piece.text) and held and held[-1][1] and held[-1][0].stop[:1] in (":", "-", ".", ")", "("):
            held[-1][1][-1].rank = Rank.STATED
        cue = piece.stop in (":", ",", "(", "[", "-") or (piece.stop == "\n" and _CUE.search(piece.text))
        led = bool(cue and not ranked and len(piece.text) > 1 and LEAD.fullmatch(piece.text))
        held.append((piece, ranked))
        out += ranked
    for m in out:
        if m.denied and m.label:
            m.label.denied = True
    return out


def _names_other(piece: Piece, found: list[Mention]) -> bool:
    """Whether a piece is a label before a colon, of something else than the answer."""
    return piece.stop == ":" and not found and not LEAD.fullmatch(piece.text) and not _CUE.search(piece.text)


def _names_wrong(piece: Piece, found: list[Mention]) -> bool:
    """Whether a piece is a label before a colon that denies what follows ("Incorrect: A, C")."""
    return piece.stop == ":" and not found and piece.text.lower() not in _NOES and bool(_BACKWARD.search(piece.text))


def _go_on(piece: Piece, found: list[Mention], before: tuple[Piece, list[Mention]]) -> None:
    """A piece that is nothing but a choice goes on with a list or names what a letter stands for ("A, C", "A: effusion"); it
    is as explicit as what it follows. One that is nothing but a doubt ("B, maybe") takes that back."""
    (last, mentions), text = before, piece.text
    if not mentions or mentions[-1].end != len(last.text) or last.stop[:1] not in (",", ";", ":", "(", "[", "-", ")", ".", "\n"):
        return
    if not found and doubts(text) and last.stop[:1] not in (".", "\n"):
        mentions[-1].denied = True
    words = bool(found) and ord(text[found[0].start]) >= WORD
    if words and found[0].letter == mentions[-1].letter and found[0].start == 0:
        found[0].label = mentions[-1]
    if len(found) == 1 and found[0].end == len(text) and _DOUBTED.fullmatch(text, 0, found[0].start):  # "A, possibly B"
        mentions[-1].denied = mentions[-1].denied or last.stop[:1] in (",", "(", "-")
    if len(found) != 1 or found[0].rank is None or not _JOIN.fullmatch(text, 0, found[0].start):
        return
    goes_on = words or last.stop[:1] not in (".", "\n")
    if found[0].end == len(text) and goes_on:
        found[0].rank = max(found[0].rank, mentions[-1].rank or Rank.WORDS)
    elif last.stop == "," and len(mentions) == 1 and mentions[0].start == 0 and _PLURAL.match(text, found[0].end):
        mentions[0].rank = max(found[0].rank, mentions[0].rank or Rank.WORDS)  # "A, B are both right"


def _of_piece(piece: Piece, led: bool, following: Piece | None) -> list[Mention]:
    """The mentions in a piece of text and their ranks; `led` says that the piece before it led up to an answer."""
    text = piece.text
    out: list[Mention] = []
    before: Mention | None = None
    for m in _MENTION.finditer(text):
        marked, plain_letter, words = m.groups()
        name = chr(ord(words) - WORD + 65) if words else (marked or plain_letter).upper()
        found = Mention(name, m.start(), m.end())
        out.append(found)  # without a rank it is still what a denial may be about
        if before is not None and _JOIN.fullmatch(text, before.end, m.start()):
            if before.letter == name or (words is None and _ends(text, found)) or words is not None:
                found.rank = before.rank
                before = found
            continue
        lead = before is None and m.start() <= _LONGEST_LEAD and bool(LEAD.fullmatch(text, 0, m.start()))
        if before is None and not lead and not words:
            lead = bool(_IS.search(text, max(0, m.start() - 80), m.start()))
        opening = text[: m.start()].replace(BOX, "").strip()
        strong = (led and lead) or (lead and opening not in ("", "A")) or text[: m.start()].endswith(BOX)
        whole = lead and not opening and m.end() == len(text)
        line = piece.line and whole and (following is None or following.line)
        if words is not None:
            found.rank = Rank.STATED if strong and m.end() == len(text) else Rank.OPENING if whole else Rank.WORDS
            if lead and _HOLDS.match(text, m.end()) and "answer" in text[m.end() :]:
                found.rank = Rank.STATED
        elif (
            _HOLDS.match(text, m.end())
            and _CLAUSE.search(text, max(0, m.start() - 20), m.start())
            and not (len(out) > 1 and _JOIN.fullmatch(text, out[-2].end, m.start()))
        ):  # "A is right and B is right", not "A and B are right"
            found.rank = Rank.STATED
        elif (
            (lead or text[: m.start()].endswith(BOX))
            and _ends(text, found)
            and (marked or plain_letter.isupper() or strong or (whole and piece.stop in (".", ":", "\n")))
        ):
            option = _OPTION.fullmatch(opening) and not _HOLDS.match(text, m.end()) and not led
            stated = (strong and not option) or line or _HOLDS.match(text, m.end())
            found.rank = Rank.STATED if stated else Rank.OPENING
        elif marked or (_LABELLED.search(text[max(0, m.start() - 20) : m.start()]) and _ends(text, found)):
            found.rank = Rank.MARKED
        if found.rank is not None:
            before = found
        elif plain_letter in ("a", "i", "I"):
            out.pop()
    return out


#: Words that go on after a letter, and that no name goes on with: "B in this case", not "B cell".
_GOES_ON = re.compile(
    r" (?:with|for|in|on|by|from|where|when|which|given|based|due|here|again|too|of course|indeed|to (?:this|the|your)|"
    r"and (?:that|this|here|it|the|we|i)|to(?= [A-Z]\b))\b(?! (?-i:[A-Z])\b(?!'))",
    re.I,
)
_SURE = re.compile(r" (?:most likely|for sure|probably|definitely|certainly|obviously|please|only|alone)$", re.I)


def _ends(text: str, m: Mention) -> bool:
    """Whether nothing follows a letter that would make it an article or part of a name."""
    if m.end == len(text) or _HOLDS.match(text, m.end) or _VERSUS.match(text, m.end) or _SURE.match(text, m.end):
        return True
    if text[m.end - 1].isupper() and _GOES_ON.match(text, m.end):
        return True
    own = re.compile(rf" ?(?:(?:the|a|an) )?{chr(WORD + ord(m.letter) - 65)}")
    if own.match(text, m.end) or _UNIT.match(text, m.end):
        return True
    join = _JOIN.match(text, m.end)
    other = _MENTION.match(text, join.end()) if join else None
    if other is None or not join or join.end() <= m.end + 1:  # "A B": both, or an article
        return bool(other and other.group(2) and other.end() == len(text) and other.group().isupper())
    return other.group(2) not in ("a", "i") or other.end() == len(text)


def _deny(piece: Piece, found: list[Mention], held: list[tuple[Piece, list[Mention]]], denied: bool) -> bool:
    """Mark the mentions that are denied or doubted, here and in the pieces before; whether what follows is denied too."""
    text = piece.text
    if text.lower() in _NOES or corrects(text):  # an answer, or a word taken back: "no, B"; "no, wait, B"
        if held:
            _deny_before(held[-1], whole=True)
        return denied
    if HEDGE.search(text):
        for m in found:
            m.denied = True
        return True
    ahead, here = denied, False
    deniers = sorted(
        {(m.start(), m.end(), False) for m in _FORWARD.finditer(text)}
        | {(m.start(), m.end(), True) for m in _BACKWARD.finditer(text)}
    )
    waiting = list(found)
    seen: list[Mention] = []
    for start, end, backward in deniers:
        while waiting and waiting[0].start < start:
            seen.append(waiting.pop(0))
            seen[-1].denied = seen[-1].denied or ahead or here
        if backward:
            for m in seen:
                m.denied = True
            if not found and held and (LEAD.fullmatch(text, 0, start) or _VERB.match(text)):
                _deny_before(held[-1], whole=end == len(text))
            elif seen and _MANY.search(text) and _JOIN.fullmatch(text, 0, seen[0].start):
                _deny_list(held)
        if seen or (backward and not _FORWARD.match(text, start)):
            here = True
        else:
            ahead = True
    for m in waiting:
        m.denied = m.denied or ahead or here
    return ahead


def _deny_before(before: tuple[Piece, list[Mention]], *, whole: bool) -> None:
    """Deny the piece before a piece that is only a denial: "A: wrong", "A (the lung) is ruled out", "A. Incorrect."."""
    piece, found = before
    if piece.stop[:1] in (":", ",", "(", ")", "]", "-", "\ue001") or (whole and piece.stop[:1] == "."):
        for m in found:
            m.denied = True


def _deny_list(held: list[tuple[Piece, list[Mention]]]) -> None:
    """Deny the items of a list whose last one was: "pneumonia, effusion and mass are unlikely"."""
    for piece, found in reversed(held):
        if (
            piece.stop != ","
            or len(found) != 1
            or not _ITEM.fullmatch(piece.text, 0, found[0].start)
            or found[0].end < len(piece.text)
        ):
            return
        found[0].denied = True
