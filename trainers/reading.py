"""What the model gets for training rows: its own prompt, token for token, and the pictures.

TRL renders the chat template and gives the text to the processor, which writes the opening token of some families a second time
or leaves it out in others, and it knows how to divide the pixels of some. Here a row is a number, and its prompt is what
`Prompting` asks with in a run (harness/models/families/prompting.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from harness.models import engine
from harness.models.families import parts
from harness.models.families.prompting import BY_TOKEN, Ask, IndivisibleError, Openings, Prompting
from harness.prompts import Prompt
from harness.records import Sample
from trainers.vision_cache import VisionCache


class Reader:
    """Inputs for the rows of a task, which are known by their place in it. Pictures come from `cache` where there is one.

    Rows that ask the same of the same pictures are one: `same` has the first of them for each.
    """

    def __init__(
        self, model: Any, processor: Any, samples: Sequence[Sample], prompts: Sequence[Prompt], cache: VisionCache | None
    ) -> None:
        self.model, self.processor, self.samples, self.cache = model, processor, samples, cache
        self.prompting = Prompting(processor)
        self.texts = [p.render(s.question) for p, s in zip(prompts, samples, strict=True)]
        self.places = {s.id: i for i, s in enumerate(samples)}
        first: dict[Any, int] = {}
        self.same = [first.setdefault((self._shown(i), t), i) for i, t in enumerate(self.texts)]
        self.end = engine.end_tokens(model, processor.tokenizer)
        self._rows: dict[int, dict[str, Any]] = {}
        self._openings: dict[Any, Openings | None] = {}

    def _shown(self, row: int) -> tuple[str | None, ...]:
        sample = self.samples[row]
        return (sample.system, *(i.sha256 for i in sample.images))

    def ask(self, row: int) -> Ask:
        sample = self.samples[row]
        return Ask([i.open() for i in sample.images], self.texts[row], sample.system)

    def batch(self, rows: Sequence[int], width: int = 0) -> dict[str, Any]:
        """The prompts of these rows, left-padded to at least `width` tokens, with their pictures, where the model is."""
        if self.cache is None or self.cache.off:
            asked = [self.ask(i) for i in rows]
            inputs = self.prompting.inputs(asked)
        else:
            read = [self._read(self.same[i]) for i in rows]
            width = max(width, *(r["input_ids"].shape[1] for r in read))
            inputs = {k: torch.cat([self._padded(k, r[k], width) for r in read]) for k in read[0]}
        inputs = {k: self._padded(k, v, width) for k, v in inputs.items()}
        return parts.on_device(inputs, self.model.device, self.model.dtype)

    def ids(self, rows: Sequence[int]) -> list[list[int]]:
        """Each row's own prompt tokens."""
        if self.cache is None or self.cache.off:
            inputs = self.batch(rows)
            pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
            return [i[m.bool()].tolist() for i, m in pairs]
        return [self._read(self.same[i])["input_ids"][0].tolist() for i in rows]

    def _padded(self, name: str, value: Any, width: int) -> Any:
        if name not in BY_TOKEN or value.shape[1] >= width:
            return value
        pad = self.prompting.pad if name == "input_ids" else 0
        return F.pad(value, (0, 0) * (value.dim() - 2) + (width - value.shape[1], 0), value=pad)

    def _read(self, row: int) -> dict[str, Any]:
        """One prompt's inputs by token, and the number of its pictures in place of their pixels."""
        if row not in self._rows:
            shown = self._shown(row)
            if shown not in self._openings:
                self._openings[shown] = self._open(row)
            opened = self._openings[shown]
            if opened is None:
                self._rows[row] = self._numbered(self.ask(row), self.prompting.inputs([self.ask(row)]))
            else:
                asked = self.ask(row)._replace(pictures=len(self.samples[row].images))
                (tail,) = self.prompting.tails(opened.border, self.prompting.texts([asked]))
                self._rows[row] = engine.followed_by(opened.inputs, tail)
        return self._rows[row]

    def _open(self, row: int) -> Openings | None:
        """What all prompts about this row's pictures begin with, or None where they must be read whole."""
        ask = self.ask(row)
        try:
            opened = self.prompting.openings([ask.pictures], ask.system)
        except IndivisibleError:
            return None
        return Openings(self._numbered(ask, opened.inputs), opened.border)

    def _numbered(self, ask: Ask, inputs: dict[str, Any]) -> dict[str, Any]:
        assert self.cache is not None
        settings = repr(sorted(self.processor.image_processor.to_dict().items(), key=lambda item: item[0]))
        number = self.cache.number(ask.pictures, settings, inputs)
        kept = {k: v for k, v in inputs.items() if k in BY_TOKEN} | parts.for_positions(self.model, inputs)
        return kept | {"pixel_values": torch.tensor([[number]])}

    # -- with what the model writes -----------------------------------------------------------------------------------

    def followed(self, inputs: dict[str, Any], ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        """Prompts with right-padded completions after them."""
        return engine.continued(inputs, ids, mask, parts.written(self.model))

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch of supervised training: prompts and targets, padded on the right, with labels on the targets alone."""
        places = [self.places[row["sample_id"]] for row in rows]
        inputs = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in self.batch(places).items()}
        asked = [Ask(len(self.samples[i].images), self.texts[i], self.samples[i].system) for i in places]
        answers = self.prompting.answers(asked, [row["completion"][-1]["content"] for row in rows], self.end)
        most = max(map(len, answers))
        ids = torch.tensor([a + [self.prompting.pad] * (most - len(a)) for a in answers])
        mask = torch.tensor([[1] * len(a) + [0] * (most - len(a)) for a in answers])
        prompt = inputs["input_ids"].shape[1]
        inputs = self.followed(inputs, ids, mask)
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        labels[:, :prompt] = -100
        return _flush_left(inputs | {"labels": labels})


def _flush_left(inputs: dict[str, Any]) -> dict[str, Any]:
    """Left-padded rows as right-padded ones, no wider than the longest."""
    mask = inputs["attention_mask"]
    order = (1 - mask).argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
    row = torch.arange(len(mask))[:, None]
    return {k: v[row, order] if k in (*BY_TOKEN, "labels") else v for k, v in inputs.items()}
