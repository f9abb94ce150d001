"""From a name to weights: `tiny`, a local folder, a PEFT adapter folder or a hub id.

Safetensors only. No code from a checkpoint runs. An adapter is merged into its base after loading.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ModelError
from harness.models import TINY
from harness.records import ModelCard

if TYPE_CHECKING:
    import torch

ATTENTION = ("auto", "sdpa", "flash_attention_2", "eager")


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's parts are. `adapter` is set for a PEFT folder; `base` is then the weights under it."""

    name: str
    base: str
    adapter: Path | None
    trainer: str | None

    @property
    def processor(self) -> str:
        """The folder or hub id that holds the processor: the adapter's own where it was saved with one."""
        if (
            self.adapter
            and (self.adapter / "preprocessor_config.json").exists() | (self.adapter / "processor_config.json").exists()
        ):
            return str(self.adapter)
        return self.base


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise ModelError(f"{path}: cannot be read ({e})") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return data


def _folder_of_weights(path: Path) -> None:
    """Raises ModelError unless `path` holds a config and safetensors."""
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{path}: no config.json and no adapter_config.json",
            hint="give a folder saved by save_pretrained, a hub id, or 'tiny'",
        )
    _json(path / "config.json")
    if not list(path.glob("*.safetensors")):
        pickled = [p.name for p in [*path.glob("*.bin"), *path.glob("*.pt")]]
        if pickled:
            raise ModelError(
                f"{path}: {pickled[0]} is pickled, which can run code",
                hint="convert it: save_pretrained(..., safe_serialization=True)",
            )
        raise ModelError(f"{path}: no *.safetensors")


def resolve(model: str) -> Checkpoint:
    """Find the parts of `model` on disk (a hub id is taken as it is). Raises ModelError when a folder is incomplete."""
    if model == "tiny":
        return Checkpoint("tiny", str(TINY), None, None)
    path = Path(model)
    if not model.strip() or not path.exists():
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model):
            raise ModelError(
                f"{model or repr(model)}: no such folder", hint="give a checkpoint's folder, a hub id (owner/name), or 'tiny'"
            )
        return Checkpoint(model, model, None, None)
    if not path.is_dir():
        raise ModelError(f"{model}: is a file", hint="give the folder that holds config.json")
    trained = _json(path / "trained.json") if (path / "trained.json").exists() else {}
    name = str(trained.get("name") or path.resolve().name)
    trainer = str(trained["trainer"]) if trained.get("trainer") else None
    if not (path / "adapter_config.json").is_file():
        _folder_of_weights(path)
        return Checkpoint(name, str(path), None, trainer)
    base = _json(path / "adapter_config.json").get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ModelError(f"{path / 'adapter_config.json'}: no base_model_name_or_path")
    if not (path / "adapter_model.safetensors").is_file():
        raise ModelError(f"{path}: no adapter_model.safetensors", hint="the checkpoint was not saved whole; take an earlier one")
    if (Path(base) / "adapter_config.json").is_file():
        raise ModelError(f"{path}: its base '{base}' is an adapter itself", hint="merge that one into its base first")
    try:
        below = resolve(base)
    except ModelError as e:
        raise ModelError(
            f"{path}: its base '{base}' is missing: {e}", hint="put the base where adapter_config.json says"
        ) from None
    return Checkpoint(name, below.base, path, trainer)


#: What beside the weights decides a text: configuration, tokenizer, chat template, processor.
_SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model")


def settings_sha256(ckpt: Checkpoint) -> str | None:
    """Hash over the settings of a local checkpoint's folders; None for a hub id."""
    folders = [p for p in (Path(ckpt.base), ckpt.adapter) if p and p.is_dir()]
    if not folders:
        return None
    h = hashlib.sha256()
    for folder in folders:
        for f in sorted({f for pattern in _SETTINGS for f in folder.glob(pattern)}):
            if f.name not in ("trained.json", "log.json", "model.safetensors.index.json"):
                h.update(f.name.encode() + f.read_bytes())
    return h.hexdigest()


def sha256_of(folder: Path) -> str:
    """Hash over the safetensors of a folder, by name."""
    h = hashlib.sha256()
    for f in sorted(folder.glob("*.safetensors")):
        h.update(f.name.encode())
        with open(f, "rb") as stream:
            while chunk := stream.read(1 << 22):
                h.update(chunk)
    return h.hexdigest()


def weights_sha256(ckpt: Checkpoint) -> str | None:
    """Hash over base and adapter; for a hub id, over the snapshot in the local cache (None before it is there)."""
    base = Path(ckpt.base)
    if not base.is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(ckpt.base, "config.json")
        if not isinstance(cached, str):
            return None
        base = Path(cached).parent
    parts = [sha256_of(base)] + ([sha256_of(ckpt.adapter)] if ckpt.adapter else [])
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def pick_device(device: str) -> str:
    """`--device`, checked; auto is the GPU where there is one. Raises ModelError."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except Exception as e:  # each backend raises its own kind
        raise ModelError(f"--device {device}: {str(e).splitlines()[0]}", hint="use --device cpu") from None
    return device


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """bf16 on a GPU, fp32 on a CPU, unless named."""
    import torch

    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    if dtype not in names:
        raise ModelError(f"--dtype {dtype}: unknown", hint=f"one of auto, {', '.join(names)}")
    return names[dtype]


def pick_attention(attention: str, device: str, dtype: torch.dtype) -> tuple[str, str]:
    """(implementation, reason): what `--attn` means here. Raises ModelError when an explicit choice cannot be had."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    if attention not in ATTENTION:
        raise ModelError(f"--attn {attention}: unknown", hint=f"one of {', '.join(ATTENTION)}")
    missing = None
    if not device.startswith("cuda"):
        missing = f"flash attention needs a CUDA device, this is {device}"
    elif dtype == torch.float32:
        missing = "flash attention needs bfloat16 or float16"
    elif not is_flash_attn_2_available():
        missing = "flash-attn is not installed (pip install 'medvlm-harness[flash]')"
    if attention == "auto":
        return ("sdpa", f"auto: {missing}") if missing else ("flash_attention_2", "auto: available")
    if attention == "flash_attention_2" and missing:
        raise ModelError(f"--attn flash_attention_2: {missing}", hint="use --attn auto or sdpa")
    return attention, "asked for"


def kv_bytes_per_token(config: Any, size: int) -> int:
    """Bytes of keys and values that one token takes over all layers."""
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * head * size)


def load_processor(ckpt: Checkpoint) -> Any:
    """The processor, padding on the left (right padding misplaces image markers in a batch)."""
    from transformers import AutoProcessor

    _run_no_code()
    try:
        processor = AutoProcessor.from_pretrained(ckpt.processor, trust_remote_code=False)
    except Exception as e:  # a broken file raises whatever its reader meets first
        raise ModelError(f"{ckpt.name}: no usable processor: {first_line(e)}") from None
    processor.tokenizer.padding_side = "left"
    return processor


def _run_no_code() -> None:
    """Some readers inside transformers do not pass `trust_remote_code=False` on and ask on the terminal instead; without
    time to answer they raise."""
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


def first_line(e: BaseException) -> str:
    """What an error says, without the pages that some libraries add."""
    return (str(e).splitlines() or [type(e).__name__])[0]


def load_weights(ckpt: Checkpoint, dtype: torch.dtype, device: str, *, merge: bool = True, attention: str = "sdpa") -> Any:
    """The model in eval mode on `device`; an adapter is merged unless `merge` is False. Raises ModelError."""
    from transformers import AutoModelForImageTextToText

    _run_no_code()
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            ckpt.base, dtype=dtype, use_safetensors=True, attn_implementation=attention
        )
        if ckpt.adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(ckpt.adapter))
            if merge:
                model = model.merge_and_unload()
    except Exception as e:  # a broken file raises whatever its reader meets first
        raise ModelError(
            f"{ckpt.name}: cannot be loaded: {first_line(e)}", hint="is the checkpoint whole, and an image-text model?"
        ) from None
    return model.to(device).eval()


def model_card(ckpt: Checkpoint, model: Any, attention_reason: str | None = None) -> ModelCard:
    return ModelCard(
        name=ckpt.name,
        path=str(ckpt.adapter or ckpt.base) if ckpt.name != "tiny" else "tiny",
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        weights_sha256=weights_sha256(ckpt),
        settings_sha256=settings_sha256(ckpt),
        base=("tiny" if ckpt.base == str(TINY) else ckpt.base) if ckpt.adapter else None,
        trainer=ckpt.trainer,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        attention=model.config._attn_implementation,
        attention_reason=attention_reason,
    )
