"""What a run would do, without loading weights: rows, images, tokens, sizes, memory; for an API what would be sent and its price.

Token counts in process are exact: the model's own processor is shown blank pictures of the same sizes. Memory is an estimate from
the architecture.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from harness.data import LoadedTask
from harness.errors import ModelError, UserError
from harness.models import endpoint, loading
from harness.models.families import parts
from harness.models.families.prompting import Ask, Prompting, asked
from harness.models.overrides import Overrides
from harness.models.usage import Price
from harness.prompts import Prompt
from harness.records import GenerationArgs


@dataclass(frozen=True)
class Plan:
    """The options of `harness run --dry-run` that concern the model. What a run would refuse, is refused here too."""

    model: str
    _: KW_ONLY
    dtype: str = "auto"
    device: str = "auto"
    attention: str = "auto"
    batch_size: int | None = None
    api_base: str | None = None
    allow_external: bool = False
    overrides: Overrides = field(default_factory=Overrides)

    def estimate(self, task: LoadedTask, prompt: Prompt, args: GenerationArgs) -> dict[str, Any]:
        """One task's document. Sizes in MB, tokens in counts. Raises UserError as the run would."""
        if self.api_base or endpoint.is_api_model(self.model):
            return self._sent(task, prompt, args)
        checkpoint = self._checkpoint
        images = {i.sha256: i for images in (prompt.images, *(s.images for s in task.samples)) for i in images}
        rows_asked = [asked(prompt, s, lambda i: i.size) for s in task.samples]
        try:
            prompts = checkpoint.prompting.count(rows_asked)
            shown = sum(checkpoint.prompting.image_tokens(size) for row in rows_asked for size in row.pictures)
        except Exception as e:  # whatever its processor raises: the run says the same
            raise ModelError(f"{self.model}: its processor cannot make a prompt ({loading.first_line(e)})") from e
        longest = max(prompts) + args.max_new_tokens
        rows = min(self.batch_size or 64, len(task.samples))
        return {
            "task": task.card.task,
            "split": task.card.split,
            "source": task.card.source,
            "resolution": task.card.resolution,
            "rows": len(task.samples),
            "images": len(images),
            "prompt": prompt.label,
            "image_tokens": sum(checkpoint.prompting.image_tokens(image.size) for image in images.values()),
            "text_tokens": sum(prompts) - shown,
            "prompt_tokens_one_by_one": sum(prompts),
            "max_new_tokens": args.max_new_tokens,
            "longest_row_tokens": longest,
            "kv_cache_mb": round(rows * longest * checkpoint.token_bytes / 1e6),
            "batch_size": rows,
            **checkpoint.facts,
            **({"rows_too_long": long} if (long := checkpoint.too_long(prompts)) else {}),
        }

    def foreign(self, name: str, task: Any, limit: int | None) -> dict[str, Any]:
        """The document of one of lm-eval's own tasks."""
        rows = sum(1 for _ in itertools.islice(task.doc_iterator(), limit))
        return {"task": f"lm_eval:{name}", "rows": rows, **self._checkpoint.facts}

    @functools.cached_property
    def _checkpoint(self) -> _Checkpoint:
        return _Checkpoint.of(self)

    def _sent(self, task: LoadedTask, prompt: Prompt, args: GenerationArgs) -> dict[str, Any]:
        """What an API model would be sent, whether it may be, and what that costs at most as far as a price is known.

        The vendor counts an image's tokens by a rule of its own, so that only the answers have a ceiling.
        """
        to = endpoint.Endpoint.parse(self.model, self.api_base)
        sent = endpoint.outgoing(task, before=prompt.images)
        try:
            gate = endpoint.check_may_leave([sent], to, allow_external=self.allow_external) or "stays on this machine"
        except UserError as e:
            gate = f"refused: {e} ({e.hint})"
        price = list_price(to.model) if to.api_base is None else None
        written = len(task.samples) * args.max_new_tokens
        return {
            "task": task.card.task,
            "model": to.model,
            "to": to.api_base or to.where,
            "gate": gate,
            "rows": len(task.samples),
            "images": sent.images,
            "image_mb_sent": round(sent.image_bytes / 1e6, 1),
            "prompt": prompt.label,
            "characters": sum(_characters(asked(prompt, s)) for s in task.samples),
            "max_new_tokens": args.max_new_tokens,
            "price": f"${price.read:g} read, ${price.written:g} written, a million tokens" if price else "unknown",
            "answers_cost_at_most": f"${price.of(0, written):.2f}" if price else "unknown",
        }


@dataclass(frozen=True)
class _Checkpoint:
    """What is known of a checkpoint without its weights."""

    prompting: Prompting
    token_bytes: int
    longest: int | None
    facts: dict[str, Any]

    def too_long(self, prompts: Sequence[int]) -> int:
        """How many of these prompts leave no position for an answer; the run calls them bad rows."""
        return sum(self.longest is not None and n >= self.longest for n in prompts)

    @classmethod
    def of(cls, plan: Plan) -> _Checkpoint:
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText

        found = loading.resolve(plan.model)
        processor = loading.load_processor(found)
        plan.overrides.set_on(processor, found.name)
        try:
            config = AutoConfig.from_pretrained(found.base, trust_remote_code=False)
            loading.whole_numbers(found.label, config.to_dict())
            with torch.device("meta"):
                parameters = sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters())
        except ModelError:
            raise
        except Exception as e:  # whatever its reader meets first
            raise ModelError(
                f"{found.name}: cannot be loaded: {loading.first_line(e)}", hint="is it an image-text model of transformers?"
            ) from None
        device = loading.pick_device(plan.device)
        kind = loading.pick_dtype(plan.dtype, device)
        attention, reason = loading.pick_attention(plan.attention, device, kind)
        size = torch.empty((), dtype=kind).element_size()
        facts = {
            "parameters": parameters,
            "weights_mb": round(parameters * size / 1e6),
            "dtype": str(kind).removeprefix("torch."),
            "device": device,
            "attention": f"{attention} ({reason})",
        }
        return cls(
            Prompting(processor, found.name, plan.overrides.chat_template_kwargs),
            loading.kv_bytes_per_token(config, size),
            parts.longest_prompt(config),
            facts,
        )


def _characters(row: Ask) -> int:
    return len(row.system or "") + len(row.text) + sum(len(shot.text) + len(shot.answer) for shot in row.shots)


@functools.cache
def _prices() -> dict[str, Any]:
    """LiteLLM's price list as it is installed, read without the seconds that importing LiteLLM takes."""
    found = importlib.util.find_spec("litellm")
    folder = Path(found.origin).parent if found and found.origin else Path()
    try:
        return dict(json.loads((folder / "model_prices_and_context_window_backup.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def list_price(model: str) -> Price | None:
    """Dollars for a million tokens of PROVIDER/NAME; None where the list does not have it or prices it by something else."""
    entry = _prices().get(model) or _prices().get(model.partition("/")[2]) or {}
    read, written = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    return Price(round(read * 1e6, 6), round(written * 1e6, 6)) if read is not None and written is not None else None


def render(found: Sequence[dict[str, Any]]) -> Any:
    """The documents as a rich table, a column a task."""
    from rich.table import Table

    from harness.shown import plain

    def shown(value: Any) -> str:
        return f"{value:,}" if isinstance(value, int) else str(value)

    table = Table("", box=None, header_style="bold")
    for d in found:
        table.add_column(plain(d["task"]))
    for key in dict.fromkeys(k for d in found for k in d if k != "task"):
        table.add_row(key.replace("_", " "), *(plain(shown(d.get(key, ""))) for d in found))
    return table
