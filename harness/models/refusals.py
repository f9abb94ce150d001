"""Which rows a model in process cannot be asked, and which prompts; known before anything is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.errors import UserError
from harness.models.families.prompting import MARK, Ask, Prompting, asked
from harness.prompts import Prompt
from harness.records import Sample


def refused(prompting: Prompting, longest: int | None, name: str, samples: Sequence[Sample], prompt: Prompt) -> dict[str, str]:
    """The rows that this model cannot be asked, id -> why: one of its own markers in a question would be read as one, a system
    turn that its chat template drops would not be heard, some models ask for a picture, and a prompt must leave a position for an
    answer.

    Raises UserError for a prompt that holds a marker, or that the chat template does not write out whole.
    """
    markers = sorted(prompting.markers())

    def held(text: str) -> str | None:
        return next((m for m in markers if m in text), None)

    if marker := held(prompt.template):
        raise UserError(f"prompt '{prompt.name}' holds the model's own marker {marker}", hint=f"mend it in {prompt.source}")
    if marker := held(prompt.system or ""):
        raise UserError(f"--system holds the model's own marker {marker}", hint="leave it away")
    if shot := next((s for s in prompt.shots if held(s.question + s.answer)), None):
        raise UserError(f"--num-fewshot: example {shot.id} holds a marker of the model", hint="take another --seed")
    if prompt.system and (own := next((s.id for s in samples if s.system), None)):
        raise UserError(f"--system: row {own} has a system turn of its own, and only one can be shown")
    if samples and (why := prompting.why_not(asked(prompt, samples[0])._replace(text=MARK, system=prompt.system))):
        raise UserError(f"{name} cannot be asked so: {why}", hint="leave --system or --num-fewshot away")
    systems = {s.system: prompting.why_not(Ask(0, MARK, s.system)) for s in samples if s.system}
    found = {s.id: why for s in samples if s.system and (why := systems[s.system])}
    found |= {
        s.id: f"the question holds the model's own marker {marker}"
        for s in samples
        if (marker := held(s.question) or held(s.system or ""))
    }
    if (bare := [s.id for s in samples if not s.images]) and not prompt.images and not prompting.takes_text():
        found |= dict.fromkeys(bare, "no image, and this model's processor takes no question without one")
    return found | _too_long(prompting, longest, [s for s in samples if s.id not in found], prompt)


def _too_long(prompting: Prompting, longest: int | None, samples: Sequence[Sample], prompt: Prompt) -> dict[str, str]:
    """The rows whose prompt takes every position that the model has."""
    if longest is None or not samples:
        return {}
    rows = [asked(prompt, s, lambda i: i.size) for s in samples]
    # the pictures that could take most tokens, with room to spare for what their sizes do not tell
    few = {max((a.pictures for a in rows), key=measure) for measure in (len, *_EXTENTS)}
    most = max(prompting.count([Ask(sizes, "", shots=rows[0].shots) for sizes in few]))
    if 2 * most + max(len((a.text + (a.system or "")).encode()) for a in rows) < longest:
        return {}
    return {
        s.id: f"its prompt takes {n} tokens, and the model has positions for {longest}"
        for s, n in zip(samples, prompting.count(rows), strict=True)
        if n >= longest
    }


_EXTENTS: tuple[Callable[[tuple[tuple[int, int], ...]], int], ...] = (
    lambda sizes: sum(w * h for w, h in sizes),
    lambda sizes: max((w for w, _ in sizes), default=0),
    lambda sizes: max((h for _, h in sizes), default=0),
)
