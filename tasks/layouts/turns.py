"""Conversations: ShareGPT and LLaVA (`from`, `value`), OpenAI (`role`, `content`, content in parts).

A row is one question and its answer, after any system turns. A longer conversation is refused: which of its questions is
meant, and what the model may see of the others, is for the data's owner to say (`earlier_turns: true`: the last one, and all).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from harness.answers import read as read_answer
from tasks.layouts.cells import BadCell, literal, short
from tasks.layouts.rows import text

_WHO = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "question": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "answer": "assistant", "chatbot": "assistant",
}  # fmt: skip
#: A picture's place within a turn.
PLACE = "<image>"


class Exchange(NamedTuple):
    """What a conversation holds; `pictures` are those that stand in its parts. `answer` is None where nobody answered."""

    system: str | None
    question: str
    answer: str | None
    reasoning: str | None
    pictures: list[Any]
    #: Earlier turns: (what the user said, what the assistant said).
    history: tuple[tuple[str, str], ...] = ()


def exchange(value: Any, column: str, where: str, *, earlier: bool = False) -> Exchange:
    """One question and its answer; with `earlier` the last ones, after those before. Raises BadCell for anything else."""
    if isinstance(value, str):
        value = literal(value, most=1 << 20)
    if isinstance(value, dict) and len(lists := [v for v in value.values() if isinstance(v, list)]) == 1:
        value = lists[0]
    if not isinstance(value, list) or not value or not all(isinstance(t, dict) for t in value):
        raise BadCell(f"column '{column}': expected a list of turns")
    pictures: list[Any] = []
    turns = [_turn(t, column, where, pictures) for t in value]
    system = "\n".join(words for who, words in turns if who == "system" and words)
    rest = [(who, words) for who, words in turns if who != "system"]
    history: tuple[tuple[str, str], ...] = ()
    if earlier and not pictures:
        last = max((i for i, (who, _) in enumerate(rest) if who == "user"), default=0)
        before, rest = rest[:last], rest[last:]
        if [who for who, _ in before] != ["user", "assistant"] * (len(before) // 2):
            raise BadCell(f"column '{column}': its turns ({short(', '.join(who for who, _ in before))}, ...) do not alternate")
        history = tuple((before[i][1], before[i + 1][1]) for i in range(0, len(before), 2))
    if [who for who, _ in rest] not in (["user"], ["user", "assistant"]):
        asked = sum(who == "user" for who, _ in rest)
        raise BadCell(
            f"column '{column}': {asked} questions in {len(rest)} turns ({short(', '.join(who for who, _ in rest))}); "
            "expected one question and one answer: give each question a row of its own"
        )
    reasoning, answer = (None, None)
    if len(rest) == 2:
        reasoning, answer = split_reasoning(rest[1][1])
    return Exchange(system or None, rest[0][1], answer, reasoning, pictures, history)


def split_reasoning(answer: str) -> tuple[str | None, str]:
    """(reasoning, answer) of a reference that keeps both in <think> and <answer>; (None, it) of any other."""
    if "<think>" not in answer.lower() and "<answer>" not in answer.lower():
        return None, answer
    reasoning, found = read_answer(answer)
    return reasoning, found or ""


def _turn(turn: dict[Any, Any], column: str, where: str, pictures: list[Any]) -> tuple[str, str]:
    keys = {str(k).lower(): k for k in turn}
    who = next((turn[keys[k]] for k in ("role", "from", "speaker", "author") if k in keys), None)
    said = next((turn[keys[k]] for k in ("content", "value", "text", "message") if k in keys), None)
    if who is None and len(turn) == 1:  # {"user": "..."}
        who, said = next(iter(turn.items()))
    kind = _WHO.get(str(who).lower())
    if kind is None:
        raise BadCell(f"column '{column}': a turn by '{short(who)}'; expected system, user or assistant")
    if not isinstance(said, list):
        return kind, text(f"{where}: column '{column}'", said)
    parts = [_part(p, column, where, pictures) for p in said]
    lines = [f"\n{p}" if i and PLACE not in (p, parts[i - 1]) and p[:1].strip() else p for i, p in enumerate(parts)]
    return kind, "".join(lines).strip()  # a picture stands within its line, a text is a line of its own


def _part(part: Any, column: str, where: str, pictures: list[Any]) -> str:
    """The text of one part of a turn; a picture's is its place."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise BadCell(f"column '{column}': a part of a turn is {type(part).__name__}, expected text or an image")
    kind = str(part.get("type") or ("text" if part.get("text") is not None else "image")).lower()
    if kind in ("text", "input_text", "output_text"):
        words = part.get("text")
        return words if isinstance(words, str) and text(where, words) else ""
    if kind in ("image", "image_url", "input_image"):
        source = next((part[k] for k in ("image", "image_url", "url", "path", "source") if part.get(k) is not None), None)
        if isinstance(source, dict) and "url" in source:
            source = source["url"]
        if isinstance(source, dict) and "data" in source:  # {"type": "base64", "media_type": ..., "data": ...}
            source = source["data"]
        if source is not None:
            pictures.append(source)
        return PLACE
    raise BadCell(f"column '{column}': a turn holds '{short(kind)}', which is neither text nor an image")
