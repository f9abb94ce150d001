"""What a model of transformers says about itself: its parts, its positions, its bounds, its cache.

vision(model)       the image encoder's module          projector(model)   what carries its features over, or None
language(model)     the language model's module         features(model, inputs)   an image's features
names(model)                the parts' dotted names       part_of(model, name)      which part a parameter is of
placeholders(model)         the tokens that stand for pictures
positions(...)      the position of every token of a prompt, in one axis or several
longest_prompt(...) how many tokens the model has positions for
why_not_shared(...) why a prefix's keys and values cannot serve many questions exactly, or None
window(cache)       the shortest sliding window, or None
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

#: Inputs that belong to the pictures and are given once, with the pictures' own tokens.
_WITH_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask", "position_ids")
#: Inputs by token that every later token needs too, as the last one of the prompt had it: which pictures it sees.
GOES_ON = ("cross_attention_mask",)
#: Settings of a generation_config that change logits beyond what `harness.models.engine` does.
_OWN_RULES = (
    "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens", "exponential_decay_length_penalty",
    "guidance_scale",
)  # fmt: skip


def vision(model: Any) -> Any:
    """The image encoder. Raises LookupError where the model has none that transformers knows."""
    found = model.get_encoder(modality="image")
    if found is model or found is getattr(model, "model", None):
        raise LookupError(f"{type(model).__name__} names no image encoder")
    return found


def language(model: Any) -> Any:
    """The language model's own module, without its output layer."""
    return model.get_decoder()


def projector(model: Any) -> Any | None:
    """What carries the encoder's features over to the language model; None where it is a part of the encoder (Qwen-VL)."""
    inner = getattr(model, "model", model)
    for name in ("multi_modal_projector", "connector", "embed_vision", "aligner", "mm_projector"):
        if hasattr(inner, name):
            return getattr(inner, name)
    return None


def name_of(model: Any, part: Any) -> str:
    """The dotted name of a part within the model: the prefix of its parameters' names."""
    return next(str(name) for name, module in model.named_modules() if module is part)


#: What can be frozen or trained. The language model is all that is not one of the others: its output layer, too.
PARTS = ("vision", "projector", "language")


def names(model: Any) -> dict[str, str]:
    """The dotted name of each part that the model has as a module of its own."""
    found = {"vision": vision(model), "projector": projector(model), "language": language(model)}
    return {part: name_of(model, module) for part, module in found.items() if module is not None}


def part_of(where: dict[str, str], name: str) -> str:
    """Which part a parameter or module is of; `where` is `names(model)`. The name may have a wrapper's before it."""
    for part in ("vision", "projector"):
        if part in where and f".{where[part]}." in f".{name}.":
            return part
    return "language"


def placeholders(model: Any) -> list[int]:
    """Tokens that stand for a picture, video or sound, and mean nothing where none stands behind them."""
    keys = (f"{kind}_token_{what}" for kind in ("image", "video", "audio") for what in ("id", "index"))
    found = {getattr(model.config, key, None) for key in keys}
    outputs = model.get_output_embeddings().weight.shape[0]
    return sorted(i for i in found if isinstance(i, int) and 0 <= i < outputs)


def written(model: Any) -> dict[str, int]:
    """The value of inputs by token for what the model writes, where it is not 0: PaliGemma reads what is 0 in both directions."""
    return {"token_type_ids": 1} if model.config.model_type == "paligemma" else {}


def logits(model: Any, hidden: Any) -> Any:
    """The output layer's, from the last hidden states."""
    out = model.get_output_embeddings()(hidden)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return out if cap is None else torch.tanh(out / cap) * cap


def features(model: Any, inputs: dict[str, Any]) -> Any:
    """The image features from a processor's outputs, to give as `mm_encoder_outputs={"image": ...}` in place of `pixel_values`.

    Raises LookupError where the model takes none (its pictures go into the layers, as Mllama's).
    """
    if why := why_no_features(model):
        raise LookupError(why)
    inner = getattr(model, "model", model)
    return encode(inner.get_image_features, inputs)


def why_no_features(model: Any) -> str | None:
    """None where the model reads pictures through `get_image_features`, else why its features cannot be kept."""
    inner = getattr(model, "model", model)
    if not hasattr(inner, "get_image_features") or "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return f"{type(model).__name__} takes no image features in place of pixels"
    return None


def encode(get_image_features: Any, inputs: dict[str, Any]) -> Any:
    """A model's own `get_image_features` on those of a processor's outputs that it takes."""
    taken = inspect.signature(get_image_features).parameters
    return get_image_features(**{k: v for k, v in inputs.items() if k in taken})


def for_positions(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Those of the pictures' inputs that the model's own rule for positions needs, beside its features."""
    inner = getattr(model, "model", model)
    rule = getattr(inner, "get_rope_index", None)
    taken = inspect.signature(rule).parameters if rule else {}
    return {k: v for k, v in of_pictures(inputs).items() if k in taken}


def of_pictures(inputs: dict[str, Any]) -> dict[str, Any]:
    """Those of a processor's outputs that belong to the pictures."""
    return {k: v for k, v in inputs.items() if k not in _WITH_TEXT}


def on_device(inputs: dict[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """A processor's outputs where the model is, pixels in its number format."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(v) for v in value]
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)

    return {k: moved(v) for k, v in inputs.items()}


def positions(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The position of every token of left-padded prompts: (rows, length), or (axes, rows, length) by the model's own rule."""
    mask = inputs["attention_mask"]
    inner = getattr(model, "model", model)
    if hasattr(inner, "get_rope_index") and "mm_token_type_ids" in inputs:
        taken = inspect.signature(inner.get_rope_index).parameters
        found, _ = inner.get_rope_index(**{k: v for k, v in inputs.items() if k in taken})
        return found  # type: ignore[no-any-return]
    return (mask.cumsum(1) - 1).clamp(min=0)  # type: ignore[no-any-return]


def longest_prompt(config: Any) -> int | None:
    """Tokens that the language model has positions for, prompt and answer together; None where it does not say."""
    text = config.get_text_config()
    bound = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if bound and isinstance(rope, dict) and rope.get("rope_type") in ("yarn", "longrope", "llama3"):
        bound = max(bound, int(rope.get("factor", 1) * (rope.get("original_max_position_embeddings") or 0)))
    return bound


def window(cache: Any) -> int | None:
    """The shortest window of any layer, in which padding counts as tokens do; None where every layer sees everything."""
    sizes = [layer.sliding_window for layer in cache.layers if getattr(layer, "sliding_window", None)]
    return min(sizes, default=None)


def why_not_shared(model: Any) -> str | None:
    """What is known before anything runs; the rest is proved on the run's own rows."""
    if len(places := set(getattr(model, "hf_device_map", {}).values())) > 1:
        return f"its layers are spread over {len(places)} devices"
    config = model.generation_config
    if own := [name for name in _OWN_RULES if getattr(config, name, None)]:
        return f"generation_config.json sets {', '.join(own)}, which only the model's own generate follows"
    return None


def why_cache_not_expanded(cache: Any) -> str | None:
    """None where a cache row can stand for many: keys and values by position, with or without a window."""
    kinds = {type(layer).__name__ for layer in getattr(cache, "layers", [None])}
    odd = kinds - {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"}  # the last keeps nothing
    return f"its cache holds {', '.join(sorted(odd))}, which is not keys and values by position" if odd else None
