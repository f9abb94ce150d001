"""A frozen vision encoder answers the same image in the same way every time, so each image is encoded once a run.

TRL passes every image through the image processor 2G times a step and through the encoder about 5G times. Here the model gets
numbers in place of pixels, and looks the features up by number; what was not seen before is encoded then. Loss, gradients and
weights are those of the model alone, to the last bit (tests/test_vision_cache.py).

    cache = VisionCache(model)
    number = cache.number(images, settings, inputs)   # pictures that a prompt shows, and what the processor made of them
    cache.check(trainer.model)                        # switches itself off, with a reason, if the encoder trains after all
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import xxhash

from harness.models.families import parts

#: What a language model takes of its encoder's output.
_FIELDS = ("pooler_output", "deepstack_features")


def sharded() -> bool:
    """Whether accelerate will divide the parameters among processes."""
    return any(os.environ.get(f"ACCELERATE_USE_{kind}") == "true" for kind in ("FSDP", "DEEPSPEED"))


def why_off(model: Any, *, asked: str, sharded: bool = False) -> str | None:
    """None where the cache gives the model's own features, else the reason why it must not be used."""
    if asked == "off":
        return "asked for"
    if why := parts.why_no_features(model):
        return why
    if sharded:
        return "parameters are sharded, and the processes would have to encode in step"
    return None


class VisionCache:
    """Image features by the pictures of a prompt and processor settings, in memory or, with `folder`, in memory-mapped files.

    `encoded` counts the sets of pictures that went through the encoder.
    """

    def __init__(self, model: Any, folder: Path | None = None) -> None:
        self.inner = model.model
        self.folder = folder
        self.encoded = 0
        self.off: str | None = None
        self._encode = self.inner.get_image_features
        self._keys: list[str] = []
        self._numbers: dict[str, int] = {}
        self._inputs: dict[int, dict[str, Any]] = {}  # until they are encoded
        self._features: dict[int, dict[str, torch.Tensor]] = {}
        self._dtype = next(parts.vision(model).parameters()).dtype
        #: What decides the features beside pixels and settings; files may outlive the model that wrote them.
        self.identity = _identity(model) if folder else b""
        self._lock = threading.Lock()
        self._served: list[tuple[Any, Any]] = []
        self.serve(model)

    def serve(self, model: Any) -> None:
        """Answer for `model` too: a copy with the same frozen encoder, such as a full reference model."""
        self._served.append((model.model, model.model.get_image_features))
        model.model.get_image_features = self._get_image_features

    def check(self, model: Any) -> str | None:
        """Switch off if any parameter that makes the features has gradients in the model as it will be trained: the reason."""
        where = parts.names(_base(model))
        trained = [n for n, p in model.named_parameters() if p.requires_grad]
        for part, what in (("vision", "the vision encoder"), ("projector", "the projector")):
            if names := [n for n in trained if parts.part_of(where, n) == part]:
                self.off = f"{what} trains ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
                for inner, encode in self._served:
                    inner.get_image_features = encode
                break
        return self.off

    def number(self, images: Sequence[Any], settings: str, inputs: dict[str, Any]) -> int:
        """The number of these pictures under these settings of the processor, which gave `inputs` for them."""
        digest = xxhash.xxh3_128(hashlib.sha256(settings.encode()).digest() + self.identity)
        for image in images:
            digest.update(f"{image.mode}:{image.size}".encode())
            digest.update(image.tobytes())
        key = digest.hexdigest()
        if key not in self._numbers:
            n = self._numbers[key] = len(self._keys)
            self._keys.append(key)
            if self.folder is None or not _readable(self.folder / f"{key}.safetensors"):
                self._inputs[n] = parts.of_pictures(inputs)
        return self._numbers[key]

    def _get_image_features(self, pixel_values: Any, *args: Any, **kwargs: Any) -> Any:
        """Stands in for the model's own; `pixel_values` (rows, 1) holds each prompt's number."""
        if not isinstance(pixel_values, torch.Tensor) or pixel_values.is_floating_point():
            return self._encode(pixel_values, *args, **kwargs)
        return _joined([self._look_up(n) for n in pixel_values[:, 0].tolist()])

    def _look_up(self, number: int) -> Any:
        with self._lock:  # rollouts may come from several threads
            held = self._known(number)
        return _unpacked({k: v.to(self.inner.device) for k, v in held.items()})

    def _known(self, number: int) -> dict[str, torch.Tensor]:
        if number in self._features:
            return self._features[number]
        if self.folder is None:
            features = self._features[number] = self._encoded(number)
            return features
        # files are mapped: what is not in use stays on disk, whatever the size of the dataset
        from safetensors.torch import load_file, save_file

        path = self.folder / f"{self._keys[number]}.safetensors"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            save_file({k: v.cpu().contiguous() for k, v in self._encoded(number).items()}, part)
            os.replace(part, path)
        mapped = self._features[number] = load_file(path)
        return mapped

    def _encoded(self, number: int) -> dict[str, torch.Tensor]:
        """The encoder's features of one prompt's pictures alone. Plain tensors even when asked for during inference."""
        inputs, device = self._inputs.pop(number), self.inner.device
        with torch.inference_mode(False), torch.no_grad():
            output = parts.encode(self._encode, parts.on_device(inputs, device, self._dtype))
            found = {name: getattr(output, name) for name in _FIELDS if getattr(output, name, None) is not None}
        self.encoded += 1
        return {k: v.detach() for name, value in found.items() for k, v in _packed(name, value).items()}


def _packed(name: str, value: Any) -> dict[str, torch.Tensor]:
    """Tensors by name: NAME, NAME.IMAGE, or NAME.LAYER.IMAGE."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    return {k: v for i, part in enumerate(value) for k, v in _packed(f"{name}.{i:04d}", part).items()}


def _unpacked(held: dict[str, torch.Tensor]) -> Any:
    """What `_packed` took apart, as a model reads it."""

    def value(prefix: str) -> Any:
        if prefix in held:
            return held[prefix]
        under = sorted({name[len(prefix) + 1 :].split(".")[0] for name in held if name.startswith(f"{prefix}.")})
        return tuple(value(f"{prefix}.{i}") for i in under)

    return SimpleNamespace(**{name: value(name) for name in {k.split(".")[0] for k in held}})


def _joined(rows: Sequence[Any]) -> Any:
    """Several prompts' features as one batch's: in the order of the prompts, in each layer where there are several."""

    def joined(values: Sequence[Any]) -> Any:
        if isinstance(values[0], torch.Tensor):
            return torch.cat(list(values))
        if isinstance(values[0][0], torch.Tensor):
            return tuple(v for row in values for v in row)
        return [joined(layer) for layer in zip(*values, strict=True)]

    return SimpleNamespace(**{name: joined([getattr(r, name) for r in rows]) for name in vars(rows[0])})


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _identity(model: Any) -> bytes:
    """Hash over the weights that make the features, and their precision."""
    digest = hashlib.blake2b(digest_size=16)
    where = parts.names(model)
    for name, p in sorted(model.state_dict().items()):
        if parts.part_of(where, name) != "language":
            digest.update(f"{name}:{p.dtype}:{tuple(p.shape)}".encode())
            digest.update(p.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _readable(path: Path) -> bool:
    """Whether features are there; a file that was torn (a full disk, a crash) is removed, to be written again."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):
            return True
    except FileNotFoundError:
        return False
    except SafetensorError:
        path.unlink()
        return False
