"""From a name to weights: `tiny`, a local folder, a PEFT adapter folder or a hub id.

Safetensors only. No code from a checkpoint runs. An adapter is put on its base after loading. What is loaded is checked
against what was saved (weights.py, adapters.py), and a folder that holds something else is refused with the way out (folders.py).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ModelError
from harness.models import TINY, adapters, folders, weights
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

    #: Hash of the base's weights that the adapter was trained on, where its trainer wrote it down.
    trained_on: str | None = None

    @property
    def tokenizer(self) -> str:
        """Where a text model's tokenizer is: in the adapter's folder, where it was saved with one."""
        return str(self.adapter) if self.adapter and folders.settings(self.adapter).tokenizer else self.base

    @property
    def label(self) -> str:
        """How errors name it: the folder given."""
        return str(self.adapter or (self.name if self.base == str(TINY) else self.base))


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
    trained = folders.read_json(path / "trained.json") if (path / "trained.json").exists() else {}
    name = str(trained.get("name") or path.resolve().name)
    trainer = str(trained["trainer"]) if trained.get("trainer") else None
    if not (path / "adapter_config.json").is_file():
        folders.check_model(path)
        return Checkpoint(name, str(path), None, trainer)
    base = folders.read_json(path / "adapter_config.json").get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ModelError(
            f"{path / 'adapter_config.json'}: no base_model_name_or_path", hint="write the base's folder or hub id there"
        )
    folders.check_adapter(path)
    if (Path(base) / "adapter_config.json").is_file():
        raise ModelError(f"{path}: its base '{base}' is an adapter itself", hint="merge that one into its base first")
    try:
        below = resolve(base)
    except ModelError as e:
        missing = "cannot be used" if Path(base).exists() else "is missing"
        raise ModelError(
            f"{path}: its base '{base}' {missing}: {e}",
            hint=e.hint if Path(base).exists() else "put the base where adapter_config.json says",
        ) from None
    return Checkpoint(name, below.base, path, trainer, trained.get("base_weights_sha256"))


#: What beside the weights decides a text: configuration, tokenizer, chat template, processor.
_SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")


def settings_sha256(ckpt: Checkpoint) -> str | None:
    """Hash over the settings of a checkpoint's folders; for a hub id, of its snapshot (None before it is there)."""
    held = [p for p in (_folder(ckpt.base), ckpt.adapter) if p]
    if not held:
        return None
    h = hashlib.sha256()
    for folder in held:
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


def _folder(base: str) -> Path | None:
    """Where a base's files are: its folder, or a hub id's snapshot in the local cache (None before it is there)."""
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(base, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def base_sha256(ckpt: Checkpoint) -> str | None:
    """Hash over the base's weights; for a hub id, over its snapshot (None before it is there)."""
    base = _folder(ckpt.base)
    return sha256_of(base) if base else None


def weights_sha256(ckpt: Checkpoint) -> str | None:
    """Hash over base and adapter (None for a hub id that is not in the local cache)."""
    base = base_sha256(ckpt)
    if base is None or ckpt.adapter is None:
        return base
    return hashlib.sha256((base + sha256_of(ckpt.adapter)).encode()).hexdigest()


def other_base(ckpt: Checkpoint) -> str | None:
    """What to say of an adapter whose base is not the one it was trained on; None where it is, or nobody wrote it down."""
    if ckpt.adapter is None or ckpt.trained_on is None:
        return None
    now = base_sha256(ckpt)
    if now in (None, ckpt.trained_on):
        return None
    return (
        f"{ckpt.adapter}: is put on another base than it was trained on: the weights of {ckpt.base} are {str(now)[:12]}, "
        f"its own were {ckpt.trained_on[:12]} (trained.json); the scores are of this mixture"
    )


def note(ckpt: Checkpoint) -> str | None:
    """What must be said beside an adapter's scores, if anything."""
    if ckpt.adapter and adapters.adds_nothing(ckpt.adapter):
        return f"{ckpt.adapter}: the adapter adds nothing to its base (every lora_B is zero); the scores are the base's"
    return other_base(ckpt)


def check_vllm() -> None:
    """Raises ModelError where vLLM is not."""
    import importlib.util

    if importlib.util.find_spec("vllm") is None:
        raise ModelError(
            "--backend vllm: vLLM is not installed in this environment",
            hint="install it beside the harness in an environment of its own; or serve the model, and give --api-base",
        )


def pick_device(device: str) -> str:
    """`--device`, checked; auto is the GPU where there is one, Apple's included. Raises ModelError."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except Exception as e:  # each backend raises its own kind
        raise ModelError(f"--device {device}: {str(e).splitlines()[0]}", hint="use --device cpu") from None
    return device


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """bf16 on a GPU (Apple's from macOS 14 on), fp32 on a CPU, unless named."""
    import torch

    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        short = device.startswith("cuda") or (device.startswith("mps") and torch.backends.mps.is_macos_or_newer(14, 0))
        return torch.bfloat16 if short else torch.float32
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
    """The processor, padding on the left (right padding misplaces image markers in a batch).

    Of an adapter's folder come the parts that it has: image processor, tokenizer, chat template; the others are the base's.
    """
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin

    _run_no_code()
    own = folders.settings(ckpt.adapter) if ckpt.adapter else folders.Settings()
    source = str(ckpt.adapter) if own.whole else ckpt.base
    try:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
        parts: dict[str, Any] = {}
        if own.tokenizer and not own.whole:
            parts["tokenizer"] = AutoTokenizer.from_pretrained(str(ckpt.adapter), trust_remote_code=False)
        if own.images and not own.whole:
            parts["image_processor"] = AutoImageProcessor.from_pretrained(str(ckpt.adapter), trust_remote_code=False)
        if parts and isinstance(processor, ProcessorMixin):
            processor = _with(processor, source, parts)
    except Exception as e:  # a broken file raises whatever its reader meets first
        raise ModelError(
            f"{ckpt.label}: no usable processor in {source}: {first_line(e)}",
            hint=f"put {_PROCESSOR} into the folder{_FROM_BASE}",
        ) from None
    tokenizer = getattr(processor, "tokenizer", processor)
    if not isinstance(processor, ProcessorMixin) or not hasattr(processor, "image_processor") or not _reads(tokenizer):
        lacks = "tokenizer" if not _reads(tokenizer) else "image processor"
        raise ModelError(f"{ckpt.label}: no {lacks} in {source}", hint=f"put {_PROCESSOR} into the folder{_FROM_BASE}")
    template = own.template or processor.chat_template or tokenizer.chat_template
    processor.chat_template = template.get("default") if isinstance(template, dict) else template
    if not processor.chat_template:
        raise ModelError(
            f"{ckpt.label}: no chat template in {source}", hint=f"put chat_template.jinja into the folder{_FROM_BASE}"
        )
    tokenizer.padding_side = "left"
    return processor


_PROCESSOR = "processor_config.json (or preprocessor_config.json), tokenizer.json and tokenizer_config.json"
_FROM_BASE = ", from the model that it was trained from"


def load_tokenizer(source: str, label: str, **how: Any) -> Any:
    """The tokenizer of a text model, with its chat template. Raises ModelError."""
    from transformers import AutoTokenizer

    _run_no_code()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **how)
    except Exception as e:  # a broken file raises whatever its reader meets first
        raise ModelError(
            f"{label}: no usable tokenizer: {first_line(e)}",
            hint=f"put tokenizer.json and tokenizer_config.json into the folder{_FROM_BASE}",
        ) from None
    if not _reads(tokenizer):
        raise ModelError(
            f"{label}: no tokenizer in {source}", hint=f"put tokenizer.json and tokenizer_config.json into the folder{_FROM_BASE}"
        )
    if not tokenizer.chat_template:
        raise ModelError(f"{label}: no chat template in {source}", hint=f"put chat_template.jinja into the folder{_FROM_BASE}")
    return tokenizer


def _reads(tokenizer: Any) -> bool:
    """Whether it has a vocabulary: without its files transformers makes an empty one in silence."""
    try:
        return bool(tokenizer.decode(tokenizer("the image")["input_ids"], skip_special_tokens=True).strip())
    except Exception:  # not a tokenizer at all
        return False


def _with(processor: Any, source: str, parts: dict[str, Any]) -> Any:
    """The processor made again, with some of its parts taken from elsewhere."""
    about, _ = type(processor).get_processor_dict(source)
    made = [parts.get(name, getattr(processor, name)) for name in processor.get_attributes()]
    return type(processor).from_args_and_dict(made, about)


def _run_no_code() -> None:
    """Some readers inside transformers do not pass `trust_remote_code=False` on and ask on the terminal instead; without
    time to answer they raise."""
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


def first_line(e: BaseException) -> str:
    """What an error says, without the pages that some libraries add."""
    return (str(e).splitlines() or [type(e).__name__])[0]


def load_weights(
    ckpt: Checkpoint, dtype: torch.dtype, device: str, *, merge: bool = True, attention: str = "sdpa", spread: bool = False
) -> Any:
    """The model in eval mode on `device`, with its adapter in it; as a PeftModel where `merge` is False. With `spread` its layers
    are over all devices, without an adapter. Raises ModelError."""
    if spread:
        return _spread(ckpt, load_base(ckpt, dtype=dtype, attn_implementation=attention, device_map="auto"))
    model = load_base(ckpt, dtype=dtype, attn_implementation=attention)
    if ckpt.adapter:
        model = adapters.put_on(model, ckpt.adapter) if merge else adapters.adapt(model, ckpt.adapter)
    return model.to(device).eval()


def load_base(ckpt: Checkpoint, **how: Any) -> Any:
    """The model without its adapter, checked, as `from_pretrained` makes it with `how`. Raises ModelError."""
    from transformers import AutoModelForImageTextToText

    _run_no_code()
    label = ckpt.label if ckpt.adapter is None else f"{ckpt.adapter}: its base {ckpt.base}"
    if Path(ckpt.base).is_dir():
        whole_numbers(label, folders.read_json(Path(ckpt.base) / "config.json"))
    model = weights.load(AutoModelForImageTextToText, ckpt.base, label, use_safetensors=True, **how)
    if "quantization_config" not in how:  # a training may quantise its base itself
        whole_numbers(label, model.config.to_dict())
    return model


def whole_numbers(label: str, config: dict[str, Any]) -> None:
    """Raises ModelError for quantised weights: adapters, checks and number formats here are for weights as they were trained."""
    how = config.get("quantization_config") or config.get("compression_config")
    if how:
        method = how.get("quant_method", "?") if isinstance(how, dict) else "?"
        raise ModelError(
            f"{label}: is quantised ({method}), which is not computed in process",
            hint="give the checkpoint before quantisation; or serve it with vLLM, SGLang or LMDeploy, and give --api-base",
        )


def _spread(ckpt: Checkpoint, model: Any) -> Any:
    """A model whose layers accelerate put where there is room. Raises ModelError where the devices that compute have too little,
    or an adapter would have to follow."""
    if ckpt.adapter:
        raise ModelError(f"{ckpt.label}: is an adapter, and --device-map spreads whole models", hint="merge it first")
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise ModelError(
            f"{ckpt.label}: does not fit on the devices of this machine; some layers would stay in memory or on disk",
            hint="use --dtype bfloat16, more devices, or a server (vLLM, SGLang, LMDeploy) and --api-base",
        )
    return model.eval()


def model_card(ckpt: Checkpoint, model: Any, attention_reason: str | None = None) -> ModelCard:
    return ModelCard(
        name=ckpt.name,
        path=str(ckpt.adapter or ckpt.base) if ckpt.name != "tiny" else "tiny",
        architecture=type(model).__name__,
        parameters=sum(p.numel() for name, p in model.named_parameters() if ".lora_" not in name),
        weights_sha256=weights_sha256(ckpt),
        settings_sha256=settings_sha256(ckpt),
        base=("tiny" if ckpt.base == str(TINY) else ckpt.base) if ckpt.adapter else None,
        trainer=ckpt.trainer,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        attention=model.config._attn_implementation,
        attention_reason=attention_reason,
        adapter=None if ckpt.adapter is None else "beside" if adapters.has_adapter(model) else "merged",
        note=note(ckpt),
    )
