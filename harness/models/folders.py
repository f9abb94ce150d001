"""What a folder of weights is, seen before anything heavy is imported: whole safetensors, or something else with the way out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ModelError

ADAPTER = "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"

#: What other programs leave instead of safetensors: (files, what they are, the way out). `{folder}` is the folder given.
_FOREIGN = (
    (
        ("zero_to_fp32.py", "global_step*", "*_model_states.pt", "*_optim_states.pt"),
        "sharded weights of DeepSpeed ZeRO",
        "python {folder}/zero_to_fp32.py {folder} OUT --safe_serialization; then put config.json, tokenizer, processor into OUT",
    ),
    (
        ("pytorch_model_fsdp*", "*.distcp", ".metadata"),
        "sharded weights of FSDP",
        "accelerate merge-weights {folder}/pytorch_model_fsdp_0 OUT; then put config.json, tokenizer, processor into OUT",
    ),
    (
        ("*.gguf",),
        "GGUF weights of llama.cpp",
        "give the checkpoint they were made from; or serve them, and give --model openai/NAME --api-base URL",
    ),
    (
        ("*.bin", "*.pt", "*.pth", "*.ckpt"),
        "pickled weights, which can run code",
        "convert them where you trust them: load with transformers or PEFT, then save_pretrained(OUT), which writes safetensors",
    ),
    (
        ("*.h5", "*.msgpack", "*.onnx", "*.npz"),
        "weights of another framework",
        "load them with their framework, then save_pretrained(OUT), which writes safetensors",
    ),
)

#: What a trainer keeps beside the weights.
_TRAINING = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")


def read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path}: cannot be read ({e})", hint="take another copy of the checkpoint") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path}: expected a JSON object", hint="take another copy of the checkpoint")
    return data


def foreign(folder: Path) -> tuple[str, str] | None:
    """(what the folder holds instead of safetensors, the way out), where that is known."""
    for patterns, what, way in _FOREIGN:
        files = [f for pattern in patterns for f in folder.glob(pattern)]
        found = sorted(f.name for f in files if not any(f.match(pattern) for pattern in _TRAINING))
        if found:
            return f"{what} ({found[0]})", way.format(folder=folder)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The folders in it that hold a model, the latest checkpoint last."""
    held = [p.parent for name in ("config.json", "adapter_config.json") for p in folder.glob(f"*/{name}")]

    def order(path: Path) -> tuple[bool, int]:
        number = path.name.rpartition("-")[2]
        return path.name.startswith("checkpoint-"), int(number) if number.isdecimal() else 0

    return sorted(set(held), key=order)


def refuse(folder: Path, what: str) -> ModelError:
    """The error for a folder that lacks `what`: what it holds instead, and the way out."""
    if below := _checkpoints(folder):
        return ModelError(f"{folder}: {what}; the models in it are {', '.join(p.name for p in below)}", hint=f"give {below[-1]}")
    if other := foreign(folder):
        return ModelError(f"{folder}: {what}, but {other[0]}", hint=other[1])
    if not any(folder.iterdir()):
        return ModelError(f"{folder}: is empty: {what}", hint="give a folder saved by save_pretrained, a hub id, or 'tiny'")
    return ModelError(f"{folder}: {what}", hint="give a folder saved by save_pretrained, a hub id, or 'tiny'")


def check_model(folder: Path) -> None:
    """Raises ModelError unless `folder` holds a configuration and every file of its safetensors, each of them whole."""
    if not (folder / "config.json").is_file():
        raise refuse(folder, "no config.json and no adapter_config.json")
    _runs_no_code(folder, read_json(folder / "config.json"))
    for path in _files(folder):
        check_file(path)


def _files(folder: Path) -> list[Path]:
    """The safetensors that transformers reads. Raises ModelError where one is missing."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelError(f"{folder / INDEX}: no weight_map", hint="take another copy of the checkpoint")
        names = sorted({str(name) for name in shards.values()})
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ModelError(
                f"{folder}: {len(missing)} of {len(names)} files that {INDEX} names are missing ({', '.join(missing[:3])})",
                hint="copy them too, or take another copy of the checkpoint",
            )
        return [folder / name for name in names]
    if other := sorted(f.name for f in folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: no model.safetensors and no {INDEX}, only {', '.join(other[:3])}",
            hint="copy the index too, or rename a single file to model.safetensors",
        )
    raise refuse(folder, "no *.safetensors")


def names(folder: Path) -> list[str]:
    """The names of all tensors in a model's folder."""
    return [name for path in _files(folder) for name in check_file(path)]


def check_adapter(folder: Path) -> None:
    """Raises ModelError unless the adapter's weights are there and whole."""
    if not (folder / ADAPTER).is_file():
        if other := foreign(folder):
            raise ModelError(f"{folder}: no {ADAPTER}, but {other[0]}", hint=other[1])
        if (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no {ADAPTER}", hint="if it holds a merged model, remove adapter_config.json")
        raise ModelError(f"{folder}: no {ADAPTER}", hint="the checkpoint was not saved whole; take an earlier one")
    check_file(folder / ADAPTER)


def check_file(path: Path) -> list[str]:
    """The names of its tensors. Raises ModelError for a safetensors file that is empty, cut off, or not what its header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as f:  # checks the header against the file's length
            held = list(f.keys())
    except (SafetensorError, OSError, ValueError) as e:
        raise ModelError(
            f"{path}: is damaged or cut off ({(str(e).splitlines() or ['?'])[0]})",
            hint="copy or download it again; or take an earlier checkpoint",
        ) from None
    if not held:
        raise ModelError(f"{path}: holds no weights", hint="the checkpoint was not saved whole; take an earlier one")
    return held


def _runs_no_code(folder: Path, config: dict[str, Any]) -> None:
    """Raises ModelError for a model whose class is a program that came with it."""
    code = config.get("auto_map")
    if not isinstance(code, dict) or not {"AutoConfig", "AutoModel", "AutoModelForCausalLM"} & set(code):
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise ModelError(
            f"{folder}: needs code of its own (auto_map in config.json), which is not run",
            hint="give a checkpoint converted to transformers' own classes (often NAME-hf); or serve it, and give --api-base",
        )


@dataclass(frozen=True)
class Settings:
    """What a folder has beside weights: its own image processor, tokenizer and chat template.

    `whole` where a processor can be made of it alone.
    """

    images: bool = False
    tokenizer: bool = False
    template: str | None = None
    whole: bool = False


def settings(folder: Path) -> Settings:
    def has(*names: str) -> bool:
        return any((folder / name).is_file() for name in names)

    images = has("preprocessor_config.json", "processor_config.json")
    tokenizer = has("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
    named = any(
        read_json(folder / name).get("processor_class")
        for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
        if has(name)
    )
    return Settings(images, tokenizer, _template(folder), images and tokenizer and named)


def _template(folder: Path) -> str | None:
    """A folder's own chat template, from any of the three places where it may stand."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = read_json(folder / name).get("chat_template") if (folder / name).is_file() else None
        if isinstance(found, list):  # several, by name
            found = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}.get("default")
        if isinstance(found, str):
            return found
    return None
