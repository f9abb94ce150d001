"""What is loaded is what was saved: every tensor of a checkpoint is in the model, every weight of the model was in the
checkpoint, each has its shape and is finite. Anything else is refused before a question is asked.

Every way to a model goes through here: runs, trainings and their resumes, exports, judges; full models and adapters alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ModelError
from harness.models import folders

if TYPE_CHECKING:
    import torch

TAKE_ANOTHER = "the checkpoint was not saved whole; take another, or load and save it again with what wrote it"


def load(kind: Any, source: str, label: str, **how: Any) -> Any:
    """`kind.from_pretrained(source, ...)` in eval mode, its weights checked; `label` names it in errors. Raises ModelError."""
    try:
        # another shape is not raised but listed, so that all is said at once
        model, info = kind.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False, **how
        )
    except Exception as e:  # a broken file raises whatever its reader meets first
        raise _unreadable(label, e) from None
    if getattr(model, "_hf_peft_config_loaded", False):  # transformers loads an adapter's base without a word about it
        raise ModelError(f"{label}: is an adapter on the hub", hint=f"hf download {source} --local-dir DIR, and give --model DIR")
    same(
        label,
        missing=info["missing_keys"],
        unexpected=info["unexpected_keys"],
        reshaped={name: (tuple(there), tuple(here)) for name, there, here in info["mismatched_keys"]},
        expected=len(model.state_dict()),
        way=lambda: _way_out(model, info["unexpected_keys"], Path(source)),
    )
    finite(label, model.state_dict())
    if Path(source).is_dir() and "gguf_file" not in how:
        _once(label, model, folders.names(Path(source)))
    return model


def _unreadable(label: str, e: Exception) -> ModelError:
    said = (str(e).strip().splitlines() or [type(e).__name__])[0]
    return ModelError(f"{label}: cannot be loaded: {said}", hint="is the checkpoint whole, and an image-text model?")


def same(
    label: str,
    *,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
    expected: int,
    way: Callable[[], str] = lambda: TAKE_ANOTHER,
) -> None:
    """Raises ModelError where the tensors of a file are not those of the model (`expected` many). Names three of each kind."""
    wrong = []
    if names := sorted(missing):
        wrong.append(f"{len(names)} of the model's {expected} tensors are missing ({few(names)})")
    if names := sorted(unexpected):
        wrong.append(f"{len(names)} are not the model's ({few(names)})")
    if reshaped:
        shapes = [f"{name} {list(there)} for {list(here)}" for name, (there, here) in sorted(reshaped.items())]
        wrong.append(f"{len(shapes)} have another shape ({few(shapes)})")
    if wrong:
        raise ModelError(f"{label}: what was saved is not this model: {'; '.join(wrong)}", hint=way())


def _once(label: str, model: Any, saved: Iterable[str]) -> None:
    """Raises ModelError where two tensors of a checkpoint are one weight, by an old name and a new one."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    rules, now = get_model_conversion_mapping(model), model.state_dict()
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    others = [rule for rule in rules if not isinstance(rule, WeightRenaming)]
    first: dict[str, str] = {}
    for name in saved:
        new, joined = rename_source_key(name, renamings, others, model.base_model_prefix, now)
        if joined is None and first.setdefault(new, name) != name:
            raise ModelError(f"{label}: holds {new} twice, as {first[new]} and {name}", hint=TAKE_ANOTHER)


def few(names: list[str]) -> str:
    """The first three, for an error."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def finite(label: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ModelError where a tensor holds NaN or infinity."""
    import torch

    wrong = []
    for name, tensor in tensors.items():
        if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
            continue
        value = tensor if tensor.element_size() > 1 else tensor.float()  # 8-bit floats have no minimum of their own
        if not all(torch.isfinite(end) for end in torch.aminmax(value)):  # one pass without a copy; NaN is both ends
            wrong.append(name)
    if wrong:
        way = "the training that wrote it had failed; take an earlier checkpoint"
        if any(tensors[name].dtype == torch.float16 for name in wrong):
            way += "; or the numbers are too large for float16: try --dtype bfloat16"
        raise ModelError(f"{label}: {len(wrong)} of {len(tensors)} tensors are not finite ({few(sorted(wrong))})", hint=way)


def renamer(model: Any) -> Callable[[str], str]:
    """What transformers does with names of tensors that older versions wrote for this model: old name -> name now."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    known = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
    return lambda name: str(rename_source_key(name, known, [])[0])


def _way_out(model: Any, unexpected: Iterable[str], folder: Path) -> str:
    """What helps, by what the unexpected names and the folder show."""
    rename, names = renamer(model), set(model.state_dict())
    if found := sorted(unexpected):
        parts = found[0].split(".")
        for n in range(min(4, len(parts) - 1), 0, -1):
            prefix = ".".join(parts[:n]) + "."
            if all(name.startswith(prefix) and rename(name.removeprefix(prefix)) in names for name in found):
                return (
                    f"every name begins with '{prefix}': save the model from under its wrapper "
                    "(accelerator.unwrap_model, or PEFT's merge_and_unload), or take that off the names"
                )
    if other := folders.foreign(folder):
        return f"the folder also holds {other[0]}: {other[1]}"
    return TAKE_ANOTHER


def check_vocabulary(label: str, model: Any, processor: Any) -> None:
    """Raises ModelError where the tokenizer has tokens that the model has no embedding for, or another image token."""
    tokenizer, rows = processor.tokenizer, int(model.get_input_embeddings().weight.shape[0])
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= rows)
    if rows and beyond:
        raise ModelError(
            f"{label}: {len(beyond)} tokens of the tokenizer have no embedding: the model has {rows} rows, and "
            f"{few([f'{token!r} is {i}' for i, token in beyond])}",
            hint="give the tokenizer that the model was saved with; or save the model with embeddings resized to the tokenizer",
        )
    wanted = getattr(model.config, "image_token_id", None) or getattr(model.config, "image_token_index", None)
    mine = [i for i in getattr(processor, "image_token_ids", []) if i is not None]
    if wanted is not None and mine and wanted not in mine:
        raise ModelError(
            f"{label}: the model's image token is {wanted} ({tokenizer.convert_ids_to_tokens(wanted)!r} in the tokenizer), "
            f"the processor's {mine[0]}",
            hint="give the tokenizer that the model was saved with",
        )
