"""What a model of transformers says about itself: its parts, its positions, its bounds, its cache.

vision(model)       the image encoder's module          projector(model)   what carries its features over, or None
language(model)     the language model's module         features(model, inputs)   an image's features
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


def features(model: Any, inputs: dict[str, Any]) -> Any:
    """The image features for `mm_encoder_outputs={"image": ...}`, from a processor's outputs.

    Raises LookupError where the model takes none (its pictures go into the layers, as Mllama's).
    """
    inner = getattr(model, "model", model)
    if not hasattr(inner, "get_image_features") or "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise LookupError(f"{type(model).__name__} takes no image features in place of pixels")
    taken = inspect.signature(inner.get_image_features).parameters
    return inner.get_image_features(**{k: v for k, v in inputs.items() if k in taken})


def of_pictures(inputs: dict[str, Any]) -> dict[str, Any]:
    """Those of a processor's outputs that belong to the pictures."""
    return {k: v for k, v in inputs.items() if k not in _WITH_TEXT}


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
