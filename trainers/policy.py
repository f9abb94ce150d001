"""The model that is trained: its vision encoder frozen, its weights in the right precision, with a new adapter or its own."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.models import adapters, loading
from harness.models.families import parts
from trainers import freezing
from trainers.recipe import Recipe


def load(checkpoint: loading.Checkpoint, recipe: Recipe, device: str) -> Any:
    """The base, frozen where the recipe says so. Weights that train are kept in fp32: bf16 would round small updates away."""
    if recipe.quantize:
        model = _load_in_4_bits(checkpoint)
    else:
        dtype = loading.pick_dtype("auto" if recipe.lora and recipe.precision != "float32" else "float32", device)
        model = loading.load_weights(dataclasses.replace(checkpoint, adapter=None), dtype, device)
    freezing.freeze(model, recipe.freeze)
    return model


def peft_config(model: Any, recipe: Recipe) -> Any:
    """The recipe's adapter for this model, or None to train all of what is not frozen."""
    if recipe.lora is None:
        return None
    from peft import LoraConfig

    freezing.check_saved(model, recipe)
    return LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        use_dora=recipe.lora.dora,
        use_rslora=recipe.lora.rslora,
        target_modules=freezing.targets(model, recipe),
        modules_to_save=list(recipe.lora.modules_to_save) or None,
        task_type="CAUSAL_LM",
    )


def adapted(model: Any, checkpoint: loading.Checkpoint, recipe: Recipe) -> dict[str, Any]:
    """What TRL's trainers take: the model with the recipe's adapter to be, or going on with the one it has."""
    if checkpoint.adapter is None:
        return {"model": model, "peft_config": peft_config(model, recipe)}
    return {"model": adapters.adapt(model, checkpoint.adapter, trainable=True)}


def base_name(name: str, checkpoint: loading.Checkpoint) -> str:
    """What a saved adapter names as its base: the model as the user gave it, or the base of the adapter they gave."""
    if checkpoint.adapter is None:
        return name
    return str(_adapter_config(checkpoint.adapter)["base_model_name_or_path"])


def check(name: str, checkpoint: loading.Checkpoint, recipe: Recipe) -> None:
    """Raises UserError for an adapter where the recipe trains all weights, and for 4 bits without an adapter."""
    if checkpoint.adapter and recipe.lora is None:
        raise UserError(
            f"{name}: is an adapter, and the recipe trains all weights (lora: null)",
            hint=f"harness train export {name} MERGED --merge, and train MERGED",
        )
    if recipe.quantize and recipe.lora is None:
        raise UserError("recipe: quantize=4bit trains adapters alone", hint="set lora, or leave quantize out")


def _adapter_config(adapter: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return found


def same_adapter(name: str, model: Any, adapter: Path, recipe: Recipe) -> None:
    """Raises UserError for an adapter of another shape than the recipe's on this model."""
    there, config = _adapter_config(adapter), peft_config(model, recipe)
    mine = {
        k: _plain(getattr(config, k)) for k in ("r", "lora_alpha", "use_dora", "use_rslora", "target_modules", "modules_to_save")
    }
    theirs = {k: _plain(there.get(k)) for k in mine}
    if wrong := {k for k in mine if (theirs[k] or None) != (mine[k] or None)}:
        raise UserError(
            f"{name}: is an adapter of another shape ({_few(theirs, wrong)}) than the recipe's ({_few(mine, wrong)})",
            hint="set the recipe's lora to the adapter's, or merge it first: harness train export ... --merge",
        )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | set | tuple) else value


def _few(settings: dict[str, Any], wrong: set[str]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if k in wrong}


def check_device(recipe: Recipe, device: str) -> None:
    """Raises UserError where the base is to be loaded in 4 bits and cannot be."""
    if not recipe.quantize:
        return
    if not loading.pick_device(device).startswith("cuda"):
        raise UserError("recipe: quantize=4bit needs a CUDA device", hint="leave quantize out")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("recipe: quantize=4bit needs bitsandbytes", hint="pip install 'medvlm-harness[qlora]'")


def _load_in_4_bits(checkpoint: loading.Checkpoint) -> Any:
    """The base in nf4, but for its vision encoder and projector: QLoRA (Dettmers et al. 2023)."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

    with torch.device("meta"):
        shape = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(checkpoint.base, trust_remote_code=False))
    whole = [name for part, name in parts.names(shape).items() if part != "language"]
    whole.append(parts.name_of(shape, shape.get_output_embeddings()))

    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=whole,
    )  # fmt: skip
    return loading.load_base(checkpoint, quantization_config=how, dtype=torch.bfloat16)
