"""The model's own prompt: the tokens are those of `processor.apply_chat_template(..., tokenize=True)`.

`Prompting.inputs` is that call, for a batch. It reads every picture again for every question, so there is a second way:
`openings` runs it once for each set of pictures, with a mark in place of the question, and watches which text reaches the
tokenizer. A prompt is cut after the last token of the vocabulary's added ones before the question (an image's end, a turn's
beginning), which no tokenizer merges with what follows; from there on `tails` tokenises text alone. Whatever merges across the
border between picture and text is in the tail. Every opening is checked against its own official tokens.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import ModelError
from harness.prompts import Prompt, parts, placed
from harness.records import ImageRef, Sample

if TYPE_CHECKING:
    from PIL.Image import Image

#: Stands for the question while the pictures are read. No template trims it or takes it for something else.
MARK = "\N{OBJECT REPLACEMENT CHARACTER}question\N{OBJECT REPLACEMENT CHARACTER}"
#: The processor's outputs that have a column for each token of the prompt.
BY_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask")


#: Widths and heights of a prompt's pictures.
Sizes = tuple[tuple[int, int], ...]


class Turn(NamedTuple):
    """A worked example before the question: how many of the prompt's pictures are its own, what was asked, what was answered."""

    pictures: int
    text: str
    answer: str


class Ask(NamedTuple):
    """One prompt: its pictures (or their sizes, or how many there are), the text of the user's turn, the system's turn if any,
    and the examples before it, whose pictures come first."""

    pictures: Any
    text: str
    system: str | None = None
    shots: tuple[Turn, ...] = ()

    def own(self, pictures: int) -> int:
        """How many of so many pictures belong to the question itself."""
        return pictures - sum(shot.pictures for shot in self.shots)


def asked(prompt: Prompt, sample: Sample, show: Callable[[ImageRef], Any] | None = None) -> Ask:
    """A sample's prompt; each picture as `show` gives it, or, without, only how many there are."""
    images = (*prompt.images, *sample.images)
    shots = tuple(Turn(len(s.images), prompt.render(s.question), s.answer) for s in prompt.shots)
    shots += tuple(Turn(0, said, answer) for said, answer in sample.history)
    pictures = len(images) if show is None else tuple(map(show, images))
    return Ask(pictures, prompt.render(sample.question), sample.system or prompt.system, shots)


class IndivisibleError(Exception):
    """Why this model's prompts cannot be cut between picture and question."""


@dataclass(frozen=True)
class Border:
    """Where the prompts of one number of pictures are cut."""

    head: str  # the chat template's text before the question
    anchor: str  # the last added token before the question, as the tokenizer gets it
    between: str  # what the tokenizer gets between that token and the question
    closing: str  # what the processor adds at the very end

    def tail(self, chat: str) -> str:
        """The text to tokenise for a prompt that the template wrote. Raises IndivisibleError."""
        if not chat.startswith(self.head):
            raise IndivisibleError("the chat template writes the question before the picture")
        return self.anchor + self.between + chat[len(self.head) :] + self.closing


@dataclass
class Openings:
    """Prompts up to the question, as inputs of the model: left-padded, a row for each set of pictures."""

    inputs: dict[str, Any]
    border: Border

    @property
    def lengths(self) -> list[int]:
        return self.inputs["attention_mask"].sum(1).tolist()  # type: ignore[no-any-return]


class Prompting:
    """How one model is asked. `tokens` and `count` need no weights."""

    def __init__(self, processor: Any, name: str = "the model", template_kwargs: Mapping[str, Any] | None = None) -> None:
        self.processor = processor
        self._template_kwargs = dict(template_kwargs or {})
        self.tokenizer = processor.tokenizer
        if not getattr(processor, "chat_template", None) and not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                f"{name}: no chat template, so the model's own prompt is not known",
                hint="put the chat_template.jinja of the instruction-tuned model into its folder",
            )
        #: Held while tokenising: whether a tokenizer pads is its own state, which one thread would set for another's texts.
        self._tokenising = threading.Lock()
        self.tokenizer.padding_side = "left"  # padding on the right misplaces image markers in a batch
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token
        added = {t.content for t in self.tokenizer.added_tokens_decoder.values()}
        #: Tokens that end where they end, whatever follows. Gemma's "\n" does not: before another it is "\n\n".
        self._anchors = {t for t in added if t.strip() and not any(u != t and u.startswith(t) for u in added)}
        self._measured: dict[tuple[Sizes, str | None, tuple[Turn, ...]], tuple[Border, int]] = {}
        self._image_tokens: dict[tuple[int, int], int] = {}

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)

    def markers(self) -> set[str]:
        """Texts that the model would read as its own markers, not as words."""
        special = {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        named = (getattr(self.processor, f"{n}_token", None) for n in ("image", "video", "audio", "boi", "eoi"))
        return {m for m in (*special, *named) if isinstance(m, str) and m.strip()}

    def why_not(self, row: Ask) -> str | None:
        """Why the chat template does not say all of this, or None. Some templates have no system turn: they raise, or drop it."""
        try:
            (chat,) = self.texts([row])
        except Exception as e:  # a template raises what it likes
            return f"its chat template refuses it ({(str(e).splitlines() or [type(e).__name__])[0]})"
        if row.system and row.system.strip() not in chat:
            return "its chat template drops the system turn"
        for shot in row.shots:
            said = [p for p in parts(shot.text, shot.pictures) if isinstance(p, str)] + [shot.answer]
            if any(p.strip() not in chat for p in said):
                return "its chat template changes the examples' turns"
        return None

    def writes_opening(self) -> bool:
        """Whether the chat template writes the opening token that the tokenizer would add as well."""
        bos: str | None = self.tokenizer.bos_token
        if not bos or not self.texts([Ask(0, "x")])[0].startswith(bos):
            return False
        return list(self.tokenizer("x")["input_ids"][:1]) == [self.tokenizer.bos_token_id]

    def takes_text(self) -> bool:
        """Whether a question without a picture can be asked."""
        try:
            self.inputs([Ask((), "x")])
        except Exception:  # each processor has its own way to say so
            return False
        return True

    # -- the official way ---------------------------------------------------------------------------------------

    def texts(self, rows: Sequence[Ask]) -> list[str]:
        """What the chat template writes around a number of pictures and a text."""
        chats = [_chat([{"type": "image"}] * row.pictures, row) for row in rows]
        return list(
            self.processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False, **self._template_kwargs)
        )

    def inputs(self, rows: Sequence[Ask], processor: Any = None) -> dict[str, Any]:
        """What the model gets for a batch, left-padded: transformers' own call."""
        chats = [_chat([{"type": "image", "image": i} for i in row.pictures], row) for row in rows]
        with self._tokenising:
            out = (processor or self.processor).apply_chat_template(
                chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
                processor_kwargs={"padding": True} if len(rows) > 1 else {}, **self._template_kwargs,
            )  # fmt: skip
        return {k: v for k, v in out.items() if k != "labels"}

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text as it stands, markers included."""
        with self._tokenising:
            return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]

    def answers(self, rows: Sequence[Ask], answers: Sequence[str], end: Collection[int]) -> list[list[int]]:
        """The tokens that follow each prompt when the model has answered, as the chat template writes its turn.

        Where the template does not write the answer right after what opens its turn, or writes no end, the answer is followed by
        the end token.
        """
        opened = self.texts(rows)
        chats = [
            [*_chat([{"type": "image"}] * r.pictures, r), {"role": "assistant", "content": [{"type": "text", "text": a}]}]
            for r, a in zip(rows, answers, strict=True)
        ]
        closed = list(self.processor.apply_chat_template(chats, tokenize=False))
        texts = [
            c[len(o) :] if c.startswith(o) and c[len(o) :].lstrip().startswith(a.strip()) else a
            for o, c, a in zip(opened, closed, answers, strict=True)
        ]
        ids = self.tokens(texts)
        last = self.tokenizer.eos_token_id if self.tokenizer.eos_token_id in end else min(end)
        return [row if any(i in end for i in row) else [*row, last] for row in ids]

    # -- cut between picture and question -----------------------------------------------------------------------

    def openings(self, pictures: Sequence[Sequence[Image]], system: str | None = None, shots: tuple[Turn, ...] = ()) -> Openings:
        """Read each set of pictures once, the examples' included. Raises IndivisibleError where the prompt cannot be cut."""
        spy, seen = _watched(self.processor)
        inputs = self.inputs([Ask(images, MARK, system, shots) for images in pictures], spy)
        texts = [t for call in seen for t in call]
        if len(texts) != len(pictures):
            raise IndivisibleError("the processor does not hand its text to the tokenizer")
        chats = self.texts([Ask(len(images), MARK, system, shots) for images in pictures])
        borders = {self._border(chat, text) for chat, text in zip(chats, texts, strict=True)}
        if len(borders) > 1:
            raise IndivisibleError("the text between picture and question depends on the picture")
        (border,) = borders
        (tail,) = self.tails(border, [chats[0]])
        ids = inputs["input_ids"]
        if ids.shape[1] <= len(tail) or (ids[:, -len(tail) :] != ids.new_tensor(tail)).any():
            raise IndivisibleError("text after the picture is tokenised otherwise when it stands alone")
        cut = {k: v[:, : -len(tail)] if k in BY_TOKEN else v for k, v in inputs.items()}
        return Openings(cut, border)

    def tails(self, border: Border, chats: Sequence[str]) -> list[list[int]]:
        """The tokens after the cut, for each prompt as the chat template wrote it."""
        return [row[1:] for row in self.tokens([border.tail(c) for c in chats])]

    def _border(self, chat: str, text: str) -> Border:
        if chat.count(MARK) != 1 or text.count(MARK) != 1:
            raise IndivisibleError("the question does not stand in the prompt as it is")
        (head, after), (before, rest) = chat.split(MARK), text.split(MARK)
        if not rest.startswith(after):
            raise IndivisibleError("the processor changes the text after the question")
        end, anchor = max(((before.rfind(t) + len(t), t) for t in self._anchors if t in before), default=(0, ""))
        if not anchor:
            raise IndivisibleError("no marker stands between picture and question, so their tokens could merge")
        return Border(head, anchor, before[end:], rest[len(after) :])

    # -- lengths ------------------------------------------------------------------------------------------------

    def count(self, rows: Sequence[Ask]) -> list[int]:
        """Tokens of each prompt, its pictures given by their sizes: the processor's own count.

        How many tokens a picture takes depends on its size alone, so one blank picture of each size is read.
        """
        try:
            openings = {(r.pictures, r.system, r.shots): self._blank(r.pictures, r.system, r.shots) for r in rows}
        except IndivisibleError:
            return [self._whole(row) for row in rows]
        lengths = [self._whole(r) if placed(r.text, r.own(len(r.pictures))) else 0 for r in rows]
        chats = self.texts([r._replace(pictures=len(r.pictures)) for r in rows])
        cut = [openings[r.pictures, r.system, r.shots] for r in rows]
        for border in {border for border, _ in openings.values()}:
            mine = [i for i, length in enumerate(lengths) if not length and cut[i][0] == border]
            for i, tail in zip(mine, self.tails(border, [chats[i] for i in mine]) if mine else (), strict=True):
                lengths[i] = len(tail) + cut[i][1]
        return lengths

    def _whole(self, row: Ask) -> int:
        return int(self.inputs([row._replace(pictures=_blanks(row.pictures))])["input_ids"].shape[1])

    def _blank(self, sizes: Sizes, system: str | None, shots: tuple[Turn, ...]) -> tuple[Border, int]:
        """The opening of a prompt with blank pictures of these sizes: its border and its length. Raises IndivisibleError."""
        if (sizes, system, shots) not in self._measured:
            found = self.openings([_blanks(sizes)], system, shots)
            self._measured[sizes, system, shots] = (found.border, found.lengths[0])
        return self._measured[sizes, system, shots]

    def image_tokens(self, size: tuple[int, int]) -> int:
        """How many of the model's image markers a picture of this size takes; 1 where its features go in elsewhere."""
        if size not in self._image_tokens:
            ids = self.inputs([Ask(_blanks((size,)), "x")])["input_ids"][0]
            marker = getattr(self.processor, "image_token_id", None)
            if marker is None:
                marker = self.tokenizer.convert_tokens_to_ids(getattr(self.processor, "image_token", None) or "<image>")
            self._image_tokens[size] = int((ids == marker).sum())
        return self._image_tokens[size]


def cap_pixels(processor: Any, most: int) -> bool:
    """Bound the pixels of an image; False where the processor knows no such bound (its pictures or tiles have one size)."""
    images = processor.image_processor
    if not hasattr(images, "merge_size") or "longest_edge" not in images.size:
        return False
    if hasattr(images, "max_pixels"):
        images.max_pixels = most
    images.size["longest_edge"] = most
    return True


def _blanks(sizes: Sizes) -> list[Image]:
    from PIL import Image

    return [Image.new("RGB", size) for size in sizes]


def _chat(images: list[dict[str, Any]], row: Ask) -> list[dict[str, Any]]:
    """The system's turn, the examples' and the user's: the pictures, each where the text says or before it, and the text."""
    chat = [{"role": "system", "content": [{"type": "text", "text": row.system}]}] if row.system else []
    for shot in row.shots:
        chat.append(_user(images[: shot.pictures], shot.text))
        chat.append({"role": "assistant", "content": [{"type": "text", "text": shot.answer}]})
        images = images[shot.pictures :]
    return [*chat, _user(images, row.text)]


def _user(images: list[dict[str, Any]], text: str) -> dict[str, Any]:
    content = [images[p] if isinstance(p, int) else {"type": "text", "text": p} for p in parts(text, len(images))]
    return {"role": "user", "content": content}


def _watched(processor: Any) -> tuple[Any, list[list[str]]]:
    """A copy of the processor, and a list that gets every text which its tokenizer is given."""
    seen: list[list[str]] = []
    tokenizer = copy.copy(processor.tokenizer)
    kind = type(tokenizer)

    def call(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        seen.append([text] if isinstance(text, str) else list(text))
        return kind.__call__(self, text, *args, **kwargs)

    tokenizer.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    watched = copy.copy(processor)
    watched.tokenizer = tokenizer
    return watched, seen
