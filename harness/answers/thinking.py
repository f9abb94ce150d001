"""Where a model's thinking ends and its answer begins: one table of the markers that models use.

    read("<think>It is a CT.</think>yes")                      # Reading("It is a CT.", "yes")
    read("<<plan>>a<</plan>>b", [("<<plan>>", "<</plan>>")])   # markers of one's own beside the table's

A model that uses other markers than these needs a line here, or `--reasoning-tags OPEN,CLOSE`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Tags = Sequence[tuple[str, str]]


class Reading(NamedTuple):
    """What a text says: `reasoning` and `answer` are None where it holds none."""

    reasoning: str | None
    answer: str | None


_TITLE = r"^(?:#{{1,6}}[ \t]*|\*\*)\**(?:{})\**[ \t]*:?\**[ \t]*$"
_CHANNEL = r"(?:<\|end\|>)?(?:<\|start\|>)?(?:assistant)?<\|channel\|>{}[^<\n]*(?:<\|constrain\|>\w*[ \t]*)?<\|message\|>"


def _tags(*names: str) -> list[tuple[str, str]]:
    """<name>, </name> and what else is made of them: <|name|>, <|/name|>, <|name_start|>, <|end_of_name|>, < name >."""
    return [
        (
            rf"<(?:\|(?:begin_of_|begin_|start_of_|start_)?| )?(?:{n})(?:(?:_start|_begin)?\|| )?>",
            rf"<(?:\|(?:/|end_of_|end_)|/ ?)(?:{n})(?:\|| )?>|<\|(?:{n})_end\|>",
        )
        for n in names
    ]


#: (what opens thinking, what closes it), as regular expressions.
THINKING: list[tuple[str, str]] = [
    *_tags("think", "thinking", "thoughts?", "reason", "reasoning", "reflection", "analysis", "scratchpad", "rationale"),
    *_tags("inner_monologue", "inner_thoughts?", "cot", "seed:think"),
    *_tags("summary", "caption"),  # LLaVA-CoT's, before <REASONING> and <CONCLUSION>
    (r"\[think\]", r"\[/think\]"),  # Magistral
    (r"<unused94>(?:thought\b)?", "<unused95>"),  # MedGemma, Gemma 3
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    (_CHANNEL.format("(?:analysis|commentary)"), _CHANNEL.format("final")),  # harmony: gpt-oss
    (r"\Ahere is my thought process:", r"^here is my response:"),  # Granite
    ("(?!)", "(?<=.)assistantfinal"),  # harmony without its special tokens
    (
        _TITLE.format("thinking|(?:thinking|thought|reasoning) process"),
        _TITLE.format("final response|final answer|response|answer"),
    ),  # HuatuoGPT
]
#: (what opens the answer, what closes it).
ANSWER: list[tuple[str, str]] = [
    *_tags("answer", "final_answer", "final", "conclusion", "response", "output", "solution", "box"),
]
#: Tokens that a marker of several tokens is made of.
_PARTS = ("<|channel|>", "<|message|>", "<|constrain|>")
#: What ends a turn, and other tokens that are nobody's words.
SPECIAL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<[｜|][^<>\n]{1,40}[｜|]>|</?s>|\[/?INST\]"
    r"|<(?:eos|bos|pad|unk|start_of_turn|end_of_turn|end_of_utterance|endoftext|image|image_soft_token)>",
    re.I,
)


class _Markers(NamedTuple):
    """The table as two expressions; in each the group `opens` matches where a marker opens."""

    thinking: re.Pattern[str]
    answer: re.Pattern[str]
    left_open: re.Pattern[str]


@functools.cache
def _markers(tags: tuple[tuple[str, str], ...]) -> _Markers:
    table = [*THINKING, *((re.escape(a), re.escape(b)) for a, b in tags)]
    flags = re.I | re.A | re.M | re.S

    def either(pairs: Iterable[tuple[str, str]]) -> re.Pattern[str]:
        opens, closes = zip(*pairs, strict=True)
        first = "".join(re.escape(t[0]) for pair in tags for t in pair)
        # looked at only where one can start: most characters of a text start none
        return re.compile(
            rf"(?=[\[◁#ah{first}]|<[ /]{{0,2}}\w|<\|/?[a-z]|\*\*)(?:(?P<opens>{'|'.join(opens)})|(?:{'|'.join(closes)}))", flags
        )

    opens = "|".join(a for a, _ in table)
    return _Markers(either(table), either(ANSWER), re.compile(rf"(?:{opens})\s*\Z", flags))


def is_marker(token: str, tags: Tags = ()) -> bool:
    """Whether a tokenizer's special token is one that `read` needs to see."""
    found = _markers(tuple(tags))
    return token in _PARTS or bool(found.thinking.search(token) or found.answer.search(token))


def left_open(prompt: str, tags: Tags = ()) -> str:
    """The marker that a rendered prompt ends with, when it opens the thinking that the model goes on with; else ""."""
    found = _markers(tuple(tags)).left_open.search(prompt[-200:])
    return found.group() if found else ""


def read(text: str, tags: Tags = ()) -> Reading:
    """Split a completion into reasoning and answer; `tags` are pairs of markers beside the table's.

    The last non-empty answer block outside the reasoning counts (a model that corrects itself means its last word), closed
    or cut off. Without one, the answer is what follows the reasoning, or the whole text when nothing is marked. Reasoning
    that never ends has no answer, unless a whole answer block ends the text. A text that is given back as read says the same.
    """
    markers = _markers(tuple(tags))
    spans, unfinished = _spans(text, markers.thinking)
    starts = [0, *(end for _, end in spans)]
    ends = [*(start for start, _ in spans), len(text) if unfinished is None else unfinished]
    outside = [text[a:b] for a, b in zip(starts, ends, strict=True)]
    thoughts = [markers.thinking.sub("", text[a:b]).strip() for a, b in spans]
    blocks = [b for part in outside for b in _blocks(part, markers.answer)]
    answer: str | None = None

    def spoken(part: str) -> str:
        return _trim(markers.answer.sub("", part))

    if unfinished is not None:
        rest = markers.thinking.sub("", text[unfinished:])
        cut = next(markers.answer.finditer(rest), None)
        thoughts.append(rest[: cut.start()].strip() if cut and cut.group("opens") else rest.strip())
        if not blocks and (closing := _last(markers.answer, rest)) and not closing.group("opens"):
            blocks = _blocks(rest, markers.answer) if not _trim(rest[closing.end() :]) else []
    if blocks:
        answer = next((b for b in map(_trim, reversed(blocks)) if b), None)
    elif spans:
        answer = next((p for p in map(spoken, reversed(outside[1:])) if p), None) if unfinished is None else None
    elif unfinished is None:
        answer = spoken(text)
    return Reading("\n\n".join(filter(None, thoughts)) or None, answer or None)


def _spans(text: str, thinking: re.Pattern[str]) -> tuple[list[tuple[int, int]], int | None]:
    """Where the text thinks, markers included, and where thinking starts that never ends.

    What closes without having been opened was opened by the prompt: all before it is thinking.
    """
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for m in thinking.finditer(text):
        if m.group("opens"):
            start = m.start() if start is None else start
        else:
            spans = [] if start is None else spans
            spans.append((start or 0, m.end()))
            start = None
    return spans, start


def _blocks(text: str, answer: re.Pattern[str]) -> list[str]:
    """What stands in answer markers; the last block may be cut off."""
    found: list[str] = []
    start: int | None = None
    for m in answer.finditer(text):
        if m.group("opens"):
            start = m.end()
        elif start is not None:
            found.append(text[start : m.start()])
            start = None
    return found if start is None else [*found, text[start:]]


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return max(pattern.finditer(text), key=re.Match.start, default=None)


_ENDING = re.compile(rf"(?:{SPECIAL.pattern})\Z")


def _trim(text: str) -> str:
    """Without blanks and the end-of-turn tokens around it."""
    text = text.strip()
    start, end = 0, len(text)
    while m := SPECIAL.match(text, start, end):
        start = m.end() + len(text[m.end() : m.end() + 99]) - len(text[m.end() : m.end() + 99].lstrip())
    while start < end and (m := _ENDING.search(text[max(start, end - 60) : end])):
        end -= len(m.group())
        end -= len(text[max(start, end - 99) : end]) - len(text[max(start, end - 99) : end].rstrip())
    return text[start:end].strip()
