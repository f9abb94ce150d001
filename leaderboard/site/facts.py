"""What a run's card and a checkpoint's recipe say, as labels and values."""

from __future__ import annotations

from typing import Any

from harness.records import RunCard
from harness.shown import asked, cost_of, count, dollars, duration
from leaderboard.cell import judge_cost
from leaderboard.site import text
from leaderboard.site.training import Training

Facts = list[tuple[str, str]]


def _given(*facts: tuple[str, Any]) -> Facts:
    return [(label, str(value)) for label, value in facts if value not in (None, "", {}, [])]


def of_run(card: RunCard, shared: bool = False) -> list[tuple[str, Facts]]:
    """The run card in groups: model, data, how it was asked, who judged, where it ran. `shared`: without folders and row ids."""
    m, d, g = card.model, card.data, card.generation
    model = _given(
        ("name", m.name), ("folder", None if shared else m.path), ("base", m.base), ("adapter", m.adapter),
        ("note", None if shared else m.note),
        ("trainer", m.trainer), ("architecture", m.architecture),
        ("parameters", f"{m.parameters:,}" if m.parameters else None), ("weights", _hash(m.weights_sha256)),
        ("settings", _hash(m.settings_sha256)), ("precision", m.dtype), ("device", m.device), ("attention", m.attention),
        ("because", m.attention_reason), ("backend", m.backend), ("chat template", m.chat_template_kwargs),
        ("least pixels", m.min_pixels), ("most pixels", m.max_pixels),
    )  # fmt: skip
    reasons = "; ".join(f"{k}: {v}" for k, v in list(d.dropped.items())[:5])
    data = _given(
        ("task", d.task), ("split", d.split), ("source", d.source), ("resolution", d.resolution), ("origin", d.origin),
        ("rows", asked(d.rows, d.repeats)), ("images", f"{d.images:,}"),
        ("left out", f"{len(d.dropped)}{'' if shared else f' ({reasons})'}" if d.dropped else None), ("limit", card.limit),
        ("pictures", "; ".join(f"{n} {what}" for what, n in d.pictures.items())), ("asked of pictures", d.reading.key),
        ("fingerprint", _hash(d.fingerprint)), ("spec", _hash(d.spec_sha256)),
    )  # fmt: skip
    how = _given(
        ("prompt", card.prompt), ("prompt hash", _hash(card.prompt_sha256)), ("system turn", card.system),
        ("examples", len(card.examples) or None if shared else ", ".join(e.id for e in card.examples)),
        ("stop", " ".join(map(repr, g.stop))),
        ("at most", count(g.max_new_tokens, "new token")),
        ("temperature", f"{g.temperature:g}"), ("top p", f"{g.top_p:g}" if g.top_p != 1 else None), ("seed", g.seed),
        ("answer reader", card.reader),
        ("reasoning tags", " ".join(f"{a} {b}" for a, b in card.reasoning_tags) or None),
    )  # fmt: skip
    where = _given(
        ("begun", card.created), ("closed", card.finished), ("hardware", card.hardware),
        ("processes", card.processes if card.processes > 1 else None), ("harness", card.harness_version),
        ("commit", card.git_sha), *card.packages.items(),
    )  # fmt: skip
    judges = [(f"Judge {name}", _flat(about)) for name, about in card.judges.items() if about]
    return [("Model", model), ("Data", data), ("Asked", how), *judges, ("Machine", where)]


def _hash(value: str | None) -> str | None:
    return value[:16] if value else None


def spent(card: RunCard) -> Facts:
    """Seconds and money, as tiles: label and value, the value first on the page."""
    steps = [(step.replace(":", " by ", 1), duration(s)) for step, s in card.seconds.items()]
    bought = [("cost of the answers", cost_of(card.usage))]
    bought += [(f"cost of judge {name}", judge_cost(about)) for name, about in card.judges.items()]
    return steps + [(label, dollars(cost)) for label, cost in bought if cost is not None]


def of_training(t: Training, shared: bool = False) -> list[tuple[str, Facts]]:
    """What trained.json says: the checkpoint and its recipe. `shared`: without the folder."""
    about = dict(t.about)
    recipe, task = about.pop("recipe", None), about.pop("task", None)
    packages = about.pop("packages", None)
    out = [("Checkpoint", _flat(about) + _given(("folder", None if shared else t.path)))]
    for title, part in (("Recipe", recipe), ("Rows", task), ("Packages", packages)):
        if isinstance(part, dict) and part:
            out.append((title, _flat(part)))
    return out


def _flat(tree: dict[str, Any]) -> Facts:
    out: Facts = []
    for key, value in tree.items():
        out += _given((text.spaced(str(key)), _words(value)))
    return out


def _words(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{text.spaced(str(k))} {_words(v)}" for k, v in value.items())
    return " ".join(str(_words(v)) for v in value) if isinstance(value, list) else value


def task_of(t: Training) -> str:
    """The task that it was trained on."""
    task = t.about.get("task")
    return str(task.get("task", "–")) if isinstance(task, dict) else str(task or "–")
