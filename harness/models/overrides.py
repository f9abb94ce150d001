"""What a run changes of a model's own settings: variables of its chat template, bounds of its pictures' size.

Both are settings as those in the model's folder are: they go into `settings_sha256`, and with it into the run's key and the
model's identity on the leaderboard. Nothing is passed on that would change nothing: a variable that the template does not read
and a processor without such bounds are refused.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import ModelCard

#: What transformers itself gives to every template.
_GIVEN = {"messages", "add_generation_prompt", "raise_exception", "strftime_now", "tools", "documents"}


@dataclass(frozen=True)
class Overrides:
    """`--chat-template-kwargs`, `--min-pixels`, `--max-pixels`."""

    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise UserError(f"--min-pixels {self.min_pixels} is more than --max-pixels {self.max_pixels}")

    def given(self) -> dict[str, Any]:
        """Those that were asked for."""
        found = {"chat_template_kwargs": dict(self.chat_template_kwargs), "min_pixels": self.min_pixels}
        return {k: v for k, v in {**found, "max_pixels": self.max_pixels}.items() if v}

    def on_card(self, card: ModelCard) -> ModelCard:
        """The card of the model with these settings."""
        if not (given := self.given()):
            return card
        settings = json.dumps([card.settings_sha256, given], sort_keys=True)
        return card.model_copy(update={**given, "settings_sha256": hashlib.sha256(settings.encode()).hexdigest()})

    def set_on(self, processor: Any, name: str) -> None:
        """Give the processor its bounds, and see that they hold. Raises UserError where it has no such setting, or the chat
        template no such variable."""
        self._check_variables(processor, name)
        bounds = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        if not (bounds := {k: v for k, v in bounds.items() if v}):
            return
        images = processor.image_processor
        flags = " and ".join(f"--{k.replace('_', '-')}" for k in self.given() if k.endswith("pixels"))
        if not _counts_pixels(images):
            raise UserError(
                f"{flags}: {type(images).__name__} of {name} bounds no number of pixels",
                hint="leave it away; --max-image-pixels refuses large pictures, and data can be made smaller beforehand",
            )
        size = {**dict(images.size), **bounds}
        least = (images.patch_size * images.merge_size) ** 2
        if size["longest_edge"] < max(least, size["shortest_edge"]):
            raise UserError(
                f"{flags}: {name} takes pictures of {size['shortest_edge']} to {size['longest_edge']} pixels then",
                hint=f"the upper bound must not be below the lower one, nor below one token's {least} pixels",
            )
        images.size = type(images.size)(**size) if not isinstance(images.size, dict) else size
        for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            if getattr(images, old, None) is not None:
                setattr(images, old, size[new])
        if (shown := _pixels(images, size["longest_edge"])) > size["longest_edge"]:
            raise UserError(f"{flags}: {type(images).__name__} of {name} does not keep to it ({shown} pixels)")

    def _check_variables(self, processor: Any, name: str) -> None:
        if not self.chat_template_kwargs:
            return
        read = variables(processor.chat_template) - _GIVEN - set(processor.tokenizer.special_tokens_map)
        if unknown := next((k for k in self.chat_template_kwargs if k not in read), None):
            known = did_you_mean(unknown, sorted(read)) if read else "it reads no variables"
            raise UserError(f"--chat-template-kwargs: the chat template of {name} does not read '{unknown}'", hint=known)


def variables(template: str) -> set[str]:
    """The variables that a chat template reads and does not set itself."""
    from jinja2 import meta
    from transformers.utils import chat_template_utils

    environment = chat_template_utils._compile_jinja_template(template).environment
    return set(meta.find_undeclared_variables(environment.parse(template)))


def _counts_pixels(images: Any) -> bool:
    """Whether an image processor's `size` bounds the number of pixels (Qwen-VL, GLM-V), and not the length of a side."""
    resize = getattr(sys.modules[type(images).__module__], "smart_resize", None)
    sized = {"shortest_edge", "longest_edge"} <= {k for k, v in dict(images.size).items() if v}
    return resize is not None and sized and {"min_pixels", "max_pixels"} <= set(inspect.signature(resize).parameters)


def _pixels(images: Any, bound: int) -> int:
    """How many pixels are left of a picture of about twice as many as the bound."""
    from PIL import Image

    side = int((2 * bound) ** 0.5) + images.patch_size
    grid = images(Image.new("RGB", (side, side)), return_tensors="pt")["image_grid_thw"][0]
    return int(grid.prod()) * int(images.patch_size) ** 2
