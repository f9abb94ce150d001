"""Which parts of a model train: the recipe's `freeze`, adapters only where they are meant, and a rate for each part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness.errors import UserError
from harness.models.families import parts
from harness.plugins import did_you_mean
from trainers.recipe import Recipe

ALL_LINEAR = "all-linear"


def freeze(model: Any, frozen: Sequence[str]) -> None:
    """Freeze these parts, and keep gradients out of the encoder when activations are checkpointed.

    Checkpointing asks for gradients at every input embedding, the encoder's patches among them: it would be run backward
    for nothing, and transformers adds its hooks anew at every step. Here only the text embeddings get the hook, once.
    """
    where = parts.names(model)
    for name, p in model.named_parameters():
        if parts.part_of(where, name) in frozen:
            p.requires_grad_(False)
    hooks: list[Any] = []

    def enable_input_require_grads() -> None:
        if not hooks:
            embeddings = model.get_input_embeddings()
            hooks.append(embeddings.register_forward_hook(lambda module, given, out: out.requires_grad_(True)))

    if "vision" in frozen:
        model.enable_input_require_grads = enable_input_require_grads


def check(model: Any, frozen: Sequence[str]) -> None:
    """Asserts that no parameter of a frozen part trains, in a model with its adapter on."""
    where = parts.names(model.get_base_model() if hasattr(model, "get_base_model") else model)
    trained = [n for n, p in model.named_parameters() if p.requires_grad and parts.part_of(where, n) in frozen]
    assert not trained, f"frozen, and would train: {', '.join(trained[:3])}"


def targets(model: Any, recipe: Recipe) -> str | list[str]:
    """What PEFT is told to put adapters on: bare names where no frozen part has them, else a pattern that keeps to the others.

    Raises UserError for a name or a pattern that finds no layer in the parts that train, or one in a frozen part.
    """
    import torch

    assert recipe.lora is not None
    where = parts.names(model)
    layers = {n: parts.part_of(where, n) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    output = model.get_output_embeddings()
    layers = {n: part for n, part in layers.items() if model.get_submodule(n) is not output}
    open_ = {n for n, part in layers.items() if part not in recipe.freeze}
    asked = recipe.lora.target_modules
    key = "recipe key 'lora.target_modules'"
    if asked == ALL_LINEAR:
        names = sorted({n.rpartition(".")[2] for n in open_})
    elif isinstance(asked, str):
        return _pattern(asked, layers, open_)
    else:
        names = list(asked)
        for name in names:
            if not any(_ends(n, name) for n in open_):
                known = sorted({n.rpartition(".")[2] for n in open_})
                frozen = next((part for n, part in layers.items() if _ends(n, name)), None)
                if frozen:
                    raise UserError(
                        f"{key}: no layer of what trains is named '{name}'; the {frozen} part has one",
                        hint=f"leave {frozen} out of freeze",
                    )
                raise UserError(f"{key}: no layer of the model is named '{name}'", hint=did_you_mean(name, known))
    found = {n for n, _ in model.named_modules() if any(_ends(n, name) for name in names)}
    saved = {parts.part_of(where, n) for n, _ in model.named_modules() for m in recipe.lora.modules_to_save if _ends(n, m)}
    for part in {"vision", "projector"} - set(recipe.freeze) - saved:
        if part in where and not any(layers.get(n) == part for n in found):
            inside = sorted({n.rpartition(".")[2] for n, p in layers.items() if p == part})
            raise UserError(
                f"{key}: no layer of the {part} part has one of these names, and it is not frozen",
                hint=f"its layers: {', '.join(inside)}; or put {part} into freeze",
            )
    if found <= open_:
        return names
    roots = [r for part, r in where.items() if part not in recipe.freeze]
    return rf"(?:{'|'.join(map(re.escape, roots))})\.(?:.*\.)?(?:{'|'.join(map(re.escape, names))})"


def _ends(layer: str, name: str) -> bool:
    return f".{layer}".endswith(f".{name}")


def _pattern(pattern: str, layers: dict[str, str], open_: set[str]) -> str:
    key = f"recipe key 'lora.target_modules': the pattern '{pattern}'"
    try:
        found = {n for n in layers if re.fullmatch(pattern, n)}
    except re.error as e:
        raise UserError(f"{key} is no regular expression: {e}") from None
    if not found:
        raise UserError(
            f"{key} matches no layer", hint=f"it must match a whole dotted name, such as {min(open_)}" if open_ else None
        )
    if shut := sorted(found - open_):
        raise UserError(
            f"{key} matches {shut[0]}, which is of the {layers[shut[0]]} part and frozen",
            hint=f"leave {layers[shut[0]]} out of freeze, or narrow the pattern",
        )
    return pattern


def check_saved(model: Any, recipe: Recipe) -> None:
    """Raises UserError for a `lora.modules_to_save` that the model has not, or that lies in a frozen part."""
    assert recipe.lora is not None
    where, known = parts.names(model), [n for n, _ in model.named_modules() if n]
    for name in recipe.lora.modules_to_save:
        places = [n for n in known if _ends(n, name)]
        key = f"recipe key 'lora.modules_to_save': '{name}'"
        if not places:
            raise UserError(
                f"{key} is no module of the model", hint=did_you_mean(name, sorted({n.rpartition(".")[2] for n in known}))
            )
        if shut := next((p for p in (parts.part_of(where, n) for n in places) if p in recipe.freeze), None):
            raise UserError(f"{key} is of the {shut} part, which is frozen", hint=f"leave {shut} out of freeze")


def rates(optimizer: Any, model: Any, by_part: dict[Any, float]) -> None:
    """Give the parameters of these parts a learning rate of their own, in groups of their own."""
    if not by_part:
        return
    where = parts.names(model.get_base_model() if hasattr(model, "get_base_model") else model)
    of = {id(p): parts.part_of(where, n) for n, p in model.named_parameters()}
    for group in list(optimizer.param_groups):
        for part, rate in sorted(by_part.items()):
            mine = [p for p in group["params"] if of[id(p)] == part]
            if mine:
                group["params"] = [p for p in group["params"] if of[id(p)] != part]
                optimizer.add_param_group({**group, "params": mine, "lr": rate})
    optimizer.param_groups[:] = [g for g in optimizer.param_groups if g["params"]]
