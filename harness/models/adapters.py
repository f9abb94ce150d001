"""An adapter on its base: loaded whole or refused, put on by what the precision allows, and merged with proof.

An adapter is whole where the file holds the very tensors that PEFT would save for adapter_config.json on this base: none is
missing, none is left over, each has its shape, and after loading each is in the model to the last bit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ModelError
from harness.models import folders
from harness.models.weights import TAKE_ANOTHER, few, finite, renamer, same

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."


def adapt(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """`model` under the adapter of `folder`, as a PeftModel. Raises ModelError unless the adapter is loaded whole."""
    from peft import PeftConfig, get_peft_model

    _known_settings(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = not trainable
        config.base_model_name_or_path = model.name_or_path
        _rename_targets(config, renamer(model))
        adapted = get_peft_model(model, config)
        _check_patterns(adapted, config)
    except Exception as e:  # PEFT raises whatever it meets first
        said = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise ModelError(
            f"{folder}: its adapter_config.json does not fit the base: {said}", hint="is it an adapter of this base?"
        ) from None
    fill(adapted, folder)
    return adapted if trainable else adapted.eval()


def _known_settings(folder: Path) -> None:
    """PEFT passes over settings of later versions. Raises ModelError where one of those is switched on."""
    import peft

    about = folders.read_json(folder / "adapter_config.json")
    kind = peft.PEFT_TYPE_TO_CONFIG_MAPPING.get(str(about.get("peft_type")))
    known = {f.name for f in fields(kind)} if kind else about.keys()
    if new := sorted(k for k, v in about.items() if k not in known and (v is True or (v and isinstance(v, (dict, list))))):
        raise ModelError(
            f"{folder}: its adapter_config.json switches on what PEFT does not know ({few(new)})",
            hint=f"install the PEFT it was saved with; this is {peft.__version__}",
        )


def fill(adapted: Any, folder: Path) -> None:
    """Load the tensors of an adapter's folder into a PeftModel of its shape. Raises ModelError unless each finds its place."""
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers as fused
    from safetensors.torch import load_file

    saved = load_file(folder / folders.ADAPTER)
    finite(str(folder), saved)
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    #: With `save_embedding_layers` PEFT writes the base's embeddings, too.
    possible = expected | _embeddings(adapted)
    given = _renamed(saved, possible, renamer(adapted.get_base_model()), str(folder))
    held = fused(adapted, adapted.peft_config["default"], given)  # experts that transformers now keeps as one tensor
    same(
        str(folder),
        missing=expected.keys() - held.keys(),
        unexpected=held.keys() - possible.keys(),
        reshaped={
            name: (tuple(held[name].shape), tuple(possible[name].shape))
            for name in possible.keys() & held.keys()
            if held[name].shape != possible[name].shape
        },
        expected=len(expected),
        way=lambda: (
            "is it an adapter of this base, with the adapter_config.json it was saved with? Else take another checkpoint. "
            "Where the vocabulary was resized, merge the adapter into its resized base where it was trained"
        ),
    )
    set_peft_model_state_dict(adapted, given)
    now = get_peft_model_state_dict(adapted, save_embedding_layers=False) | _embeddings(adapted)
    lost = [name for name, tensor in held.items() if not torch.equal(now[name].cpu(), tensor.to(now[name].dtype))]
    if lost:
        raise ModelError(f"{folder}: {len(lost)} of {len(held)} tensors cannot be put into the model ({few(sorted(lost))})")


def _embeddings(adapted: Any) -> dict[str, Any]:
    """The base's embeddings under the names that PEFT saves them by."""
    parts = (adapted.get_input_embeddings(), adapted.get_output_embeddings())
    found = {id(p): f"{name}." for name, p in adapted.named_modules() if any(p is part for part in parts)}
    tensors = adapted.state_dict()
    return {name: t for name, t in tensors.items() for prefix in found.values() if name.startswith(prefix)}


def _renamed(
    saved: Mapping[str, torch.Tensor], known: Iterable[str], rename: Callable[[str], str], label: str
) -> dict[str, torch.Tensor]:
    """The tensors by their names now; a name that is known is left alone."""
    names, out = set(known), {}
    for name, tensor in saved.items():
        new = name
        if name not in names:
            bare = rename(name.removeprefix(_PREFIX))
            places = [_PREFIX + bare, f"{_PREFIX}model.{bare}"]
            new = next((place for place in places if place in names), name)
        if new in out:
            raise ModelError(f"{label}: holds {new} twice, under an old name and a new one", hint=TAKE_ANOTHER)
        out[new] = tensor
    return out


def _rename_targets(config: Any, rename: Callable[[str], str]) -> None:
    """Whole paths of modules in an adapter's configuration, where they are old ones."""

    def now(name: str) -> str:
        plain = "." in name and name.replace(".", "").replace("_", "").isalnum()
        return rename(name.removeprefix(_PREFIX)) if plain else name

    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        names = getattr(config, key, None)
        if isinstance(names, (list, set, tuple)):
            setattr(config, key, {now(name) for name in names} if isinstance(names, set) else [now(name) for name in names])
    for key in ("rank_pattern", "alpha_pattern"):
        if patterns := getattr(config, key, None):
            setattr(config, key, {now(name): value for name, value in patterns.items()})


def _check_patterns(adapted: Any, config: Any) -> None:
    """A rank or a scale of its own that no module of the adapter takes would be lost in silence."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = [name for name, m in adapted.get_base_model().named_modules() if isinstance(m, BaseTunerLayer)]
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, key, None) or {}:
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in modules):
                raise ValueError(f"{key} names '{pattern}', which is no module of the adapter")


def put_on(model: Any, folder: Path) -> Any:
    """`model` with the adapter of `folder`: merged in fp32, beside the weights in fewer bits or where merging would change more.

    A weight of a bf16 checkpoint is a bf16 number, and adding less than half a step to it leaves it as it is: merged in bf16,
    much of an adapter that was trained at a small rate would be gone.
    """
    import torch

    adapted = adapt(model, folder)
    can_merge = model.dtype == torch.float32 and not _on_shared_weights(adapted)
    return merged(adapted, folder) if can_merge else adapted.get_base_model()


def _on_shared_weights(adapted: Any) -> bool:
    """Whether the adapter is on one of two tied weights (embeddings and head): merged into it, it would change the other, too."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = adapted.get_base_model()
    uses = Counter(p.data_ptr() for _, p in base.named_parameters(remove_duplicate=False) if p.numel())
    layers = [module.get_base_layer() for module in base.modules() if isinstance(module, BaseTunerLayer)]
    return any(uses[p.data_ptr()] > 1 for layer in layers for p in layer.parameters(recurse=False))


def adds_nothing(folder: Path) -> bool:
    """Whether a LoRA is as it was made, one side of it all zeros: the model is then its base."""
    from safetensors.torch import load_file

    tensors = load_file(folder / folders.ADAPTER)
    sides = [t for name, t in tensors.items() if ".lora_B" in name or ".lora_embedding_B" in name]
    return bool(sides) and not any(t.any() for t in sides) and all(".lora_" in name for name in tensors)


def has_adapter(model: Any) -> bool:
    """Whether an adapter stands beside the model's weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


def merged(adapted: Any, folder: Path) -> Any:
    """The base with its adapter merged into it. Raises ModelError where that cannot be."""
    try:
        return adapted.merge_and_unload(safe_merge=True)
    except Exception as e:  # PEFT raises whatever it meets first
        said = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise ModelError(f"{folder}: cannot be merged into its base: {said}", hint="only LoRA and its kin can be") from None


@dataclass(frozen=True)
class Change:
    """What an adapter makes of one weight: `after` outright, or the base's weight `before` plus `delta`."""

    before: torch.Tensor
    delta: torch.Tensor | None = None
    after: torch.Tensor | None = None


def changes(adapted: Any) -> dict[str, Change]:
    """What merging must do, by the names of the base's weights; taken from the adapter before it is merged."""
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    base, out = adapted.get_base_model(), {}
    additive = not getattr(adapted.peft_config["default"], "use_dora", False)
    for name, module in base.named_modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "get_delta_weight") and additive:
            weight = module.get_base_layer().weight.detach().clone()
            out[f"{name}.weight"] = Change(weight, delta=module.get_delta_weight("default").detach())
    saved = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for name, module in base.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            for key, before in module.original_module.state_dict().items():
                after = saved[f"{_PREFIX}{name}.{key}"].detach().clone()
                out[f"{name}.{key}"] = Change(before.detach().clone(), after=after)
    return out


def kept_in(dtype: torch.dtype, wanted: Mapping[str, Change]) -> float:
    """The share of what an adapter adds that is left when base and merged weights are rounded to `dtype`."""
    lost = added = 0.0
    for change in wanted.values():
        if change.delta is not None:
            moved = (change.before + change.delta).to(dtype).double() - change.before.to(dtype).double()
            lost += float((moved - change.delta).square().sum())
            added += float(change.delta.double().square().sum())
    return max(0.0, 1 - (lost / added) ** 0.5) if added else 1.0


def wrongly_merged(wanted: Mapping[str, Change], found: Mapping[str, torch.Tensor]) -> list[str]:
    """The weights that are not the base's plus what the adapter adds, or still the base's although it adds something."""
    import torch

    wrong = []
    for name, change in wanted.items():
        now, before = found[name].float(), change.before.float()
        if change.after is not None:
            good = torch.equal(now, change.after.float())
        else:
            assert change.delta is not None
            target = before + change.delta.float()
            rounding = torch.finfo(found[name].dtype).eps * torch.maximum(before.abs(), target.abs())
            must_move = change.delta.float().abs() > rounding
            good = bool(((now - target).abs() <= rounding).all()) and not bool((now == before)[must_move].any())
        if not good:
            wrong.append(name)
    return wrong
