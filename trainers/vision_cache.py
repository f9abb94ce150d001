"""A frozen vision encoder answers the same image in the same way every time, so each image is encoded once a run.

TRL passes every image through the image processor 2G times a step and through the encoder about 5G times. Here the image
processor hands out numbers in place of pixels, and the model looks the features up by number; a number not seen before is
encoded then. Loss, gradients and weights are those of the model alone, to the last bit (tests/test_vision_cache.py).

    cache = VisionCache(model, processor)
    trainer = GRPOTrainer(model=model, processing_class=cache.processor, ...)
    cache.check(trainer.model)             # switches itself off, with a reason, if the encoder trains after all
"""

from __future__ import annotations

import copy
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import xxhash

from harness.models.transformers_model import SHARED_PREFIX


def freeze(model: Any) -> None:
    """Freeze the vision encoder of a Qwen2-VL, and keep gradients out of it when activations are checkpointed.

    Checkpointing asks for gradients at every input embedding, the encoder's patches among them: it would be run backward
    for nothing, and transformers adds its hooks anew at every step. Here only the text embeddings get the hook, once.
    """
    for p in model.model.visual.parameters():
        p.requires_grad_(False)
    hooks: list[Any] = []

    def enable_input_require_grads() -> None:
        if not hooks:
            embeddings = model.get_input_embeddings()
            hooks.append(embeddings.register_forward_hook(lambda module, given, out: out.requires_grad_(True)))

    model.enable_input_require_grads = enable_input_require_grads


def trainable_vision(model: Any) -> list[str]:
    """Names of the vision encoder's parameters that train (adapters in it included)."""
    return [n for n, p in model.named_parameters() if p.requires_grad and ".visual." in f".{n}"]


def sharded() -> bool:
    """Whether accelerate will divide the parameters among processes."""
    return any(os.environ.get(f"ACCELERATE_USE_{kind}") == "true" for kind in ("FSDP", "DEEPSPEED"))


def why_off(model: Any, *, asked: str, sharded: bool = False) -> str | None:
    """None where the cache gives the model's own features, else the reason why it must not be used."""
    if asked == "off":
        return "asked for"
    if type(model).__name__ not in SHARED_PREFIX:
        return f"{type(model).__name__} is not a Qwen2-VL or Qwen2.5-VL"
    if sharded:
        return "parameters are sharded, and the processes would have to encode in step"
    return None


class VisionCache:
    """Image features by image and processor settings, in memory or, with `folder`, in memory-mapped files.

    `processor` is what a trainer must use in place of the given one. `encoded` counts the images that went through the
    encoder.
    """

    def __init__(self, model: Any, processor: Any, folder: Path | None = None) -> None:
        self.inner = model.model
        self.folder = folder
        self.encoded = 0
        self.off: str | None = None
        self._encode = self.inner.get_image_features
        self._keys: list[str] = []
        self._numbers: dict[str, int] = {}
        self._grids: list[torch.Tensor] = []  # each (1, 3)
        self._pixels: dict[int, torch.Tensor] = {}  # (patches, patch features), until they are encoded
        self._features: dict[int, torch.Tensor] = {}  # (image tokens, hidden size)
        self.processor = copy.copy(processor)
        self.processor.image_processor = _Tickets(self, processor.image_processor)
        #: What decides the features beside pixels and settings; files may outlive the model that wrote them.
        self.identity = _identity(model.model.visual) if folder else b""
        self._lock = threading.Lock()
        self._served: list[tuple[Any, Any]] = []
        self.serve(model)

    def serve(self, model: Any) -> None:
        """Answer for `model` too: a copy with the same frozen encoder, such as a full reference model."""
        self._served.append((model.model, model.model.get_image_features))
        model.model.get_image_features = self._get_image_features

    def check(self, model: Any) -> str | None:
        """Switch off if any vision parameter of the model, as it will be trained, has gradients. Returns the reason."""
        if names := trainable_vision(model):
            self.off = f"the vision encoder trains ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
            for inner, encode in self._served:
                inner.get_image_features = encode
        return self.off

    def number(self, key: str, image: Any) -> int:
        """The image's number; an image not seen before is processed now and encoded when it is first looked up."""
        if key not in self._numbers:
            n = self._numbers[key] = len(self._keys)
            self._keys.append(key)
            processed = self.processor.image_processor.real(images=[image], return_tensors="pt")
            self._grids.append(processed["image_grid_thw"])
            if self.folder is None or not _readable(self.folder / f"{key}.safetensors"):
                self._pixels[n] = processed["pixel_values"]
        return self._numbers[key]

    def grid(self, number: int) -> torch.Tensor:
        return self._grids[number]

    def _get_image_features(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **kwargs: Any) -> Any:
        """Stands in for the model's own; `pixel_values` (patches, 1) holds each patch's image number."""
        if pixel_values.is_floating_point():
            return self._encode(pixel_values, image_grid_thw, **kwargs)
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        starts = image_grid_thw.prod(-1).cumsum(0) - image_grid_thw.prod(-1)
        features = [self._look_up(n) for n in pixel_values[starts, 0].tolist()]
        return BaseModelOutputWithPooling(pooler_output=tuple(features))

    def _look_up(self, number: int) -> torch.Tensor:
        with self._lock:  # rollouts may come from several threads
            return self._known(number)

    def _known(self, number: int) -> torch.Tensor:
        if number in self._features:
            return self._features[number].to(self.inner.device)
        if self.folder is None:
            features = self._features[number] = self._encoded(number)
            return features
        # files are mapped: what is not in use stays on disk, whatever the size of the dataset
        from safetensors.torch import load_file, save_file

        path = self.folder / f"{self._keys[number]}.safetensors"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            save_file({"features": self._encoded(number).cpu()}, part)
            os.replace(part, path)
        mapped = self._features[number] = load_file(path)["features"]
        return mapped.to(self.inner.device)

    def _encoded(self, number: int) -> torch.Tensor:
        """The encoder's features of one image alone. A plain tensor even when asked for during inference."""
        pixels, grid = self._pixels.pop(number), self._grids[number]
        device = self.inner.device
        with torch.inference_mode(False), torch.no_grad():
            (features,) = self._encode(pixels.to(device), grid.to(device)).pooler_output
        self.encoded += 1
        return features.detach()  # type: ignore[no-any-return]


def _identity(encoder: Any) -> bytes:
    """Hash over an encoder's weights and their precision."""
    digest = hashlib.blake2b(digest_size=16)
    for name, p in sorted(encoder.state_dict().items()):
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


class _Tickets:
    """Stands in for the image processor: the grids of the images, and numbers in place of their patches."""

    def __init__(self, cache: VisionCache, real: Any) -> None:
        self.cache, self.real = cache, real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        if self.cache.off:
            return self.real(images, **kwargs)
        from transformers import BatchFeature

        settings = self._settings()
        flat = list(_flat(images))
        keys = {i: self._key(image, settings) for i, image in {id(image): image for image in flat}.items()}
        numbers = [self.cache.number(keys[id(image)], image) for image in flat]
        grids = torch.cat([self.cache.grid(n) for n in numbers])
        tickets = torch.repeat_interleave(torch.tensor(numbers), grids.prod(-1))[:, None]
        return BatchFeature({"pixel_values": tickets, "image_grid_thw": grids})

    def _settings(self) -> bytes:
        """Hash over the processor's settings as they are now (they can be changed after it was built)."""
        settings = repr(sorted(self.real.to_dict().items(), key=lambda item: item[0]))
        return hashlib.sha256(settings.encode()).digest() + self.cache.identity

    def _key(self, image: Any, settings: bytes) -> str:
        """Hash over the pixels and everything that decides how they are cut into patches."""
        digest = xxhash.xxh3_128(settings + f"{image.mode}:{image.size}".encode())
        digest.update(image.tobytes())
        return digest.hexdigest()


def _flat(images: Any) -> Iterator[Any]:
    """The images of a batch, which may come nested by row."""
    if isinstance(images, list | tuple):
        for i in images:
            yield from _flat(i)
    else:
        yield images
