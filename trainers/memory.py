"""Peak memory of a training step by part, from the architecture and the lengths of the rows. Bytes throughout.

Activations follow a formula fitted to what autograd keeps of transformers' Qwen2-VL layers; the rest is arithmetic. It is an
estimate: allocators and kernels add their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainers.recipe import Recipe

GB = 1e9
#: What a CUDA context, cuBLAS and the allocator's gaps take beside the tensors.
CUDA_OVERHEAD = 1.5e9
#: What a process takes before it holds a tensor: Python, torch, transformers, TRL and datasets, and what an allocator keeps of
#: a step's odds and ends; and what collating rows of text and images takes beside it (supervised training). Measured as the
#: peak of whole trainings on a CPU, of models of 2.9, 64 and 176 M parameters; on a GPU it is the host's memory.
PROCESS, COLLATING = 1.15e9, 0.45e9
#: The BERTScore encoder (MiniLM, 22.7 M parameters in fp32) and its activations.
REWARD_MODEL = 0.2e9
#: Logits of this many bytes are held at a time (trainers/logps.py), with about four copies of them.
MOST_LOGITS, LOGIT_COPIES = 256e6, 4
#: Supervised training holds the logits of every token, its prompt's too, with their log-probabilities, gradients and entropies.
SUPERVISED_COPIES = 6


@dataclass(frozen=True)
class Shape:
    """What a model's size comes from. `parameters` counts: total, vision, trainable, and the largest matrices' share."""

    layers: int
    hidden: int
    intermediate: int
    kv_width: int  # key-value heads x head size
    vocabulary: int
    total: int
    vision: int
    trainable: int
    adapters: int  # how many matrices a layer have an adapter
    vision_layers: int = 0
    vision_hidden: int = 0

    @classmethod
    def of(cls, config: Any, *, total: int, vision: int, trainable: int, adapters: int) -> Shape:
        text = config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        sight = getattr(config, "vision_config", None)
        depth = getattr(sight, "depth", None) or getattr(sight, "num_hidden_layers", None) or 0
        width = getattr(sight, "embed_dim", None) or getattr(sight, "hidden_size", None) or 0
        return cls(
            text.num_hidden_layers, text.hidden_size, text.intermediate_size, text.num_key_value_heads * head,
            text.vocab_size, total, vision, trainable, adapters, depth, width,
        )  # fmt: skip


@dataclass(frozen=True)
class Load:
    """The longest step on one device. `groups` prompts of `prompt` tokens; `rows` completions of `completion` tokens."""

    groups: int
    rows: int
    prompt: int
    completion: int
    images: int  # in the whole dataset, for the vision cache
    image_tokens: int  # of the largest image
    grouped: bool  # each prompt is read once a group
    vision_trains: bool = False  # its activations are kept, of about four patches for each image token
    dev: bool = False  # checkpoints are scored between steps, by a second model


def activations_per_token(shape: Shape, size: int) -> float:
    """Bytes a layer keeps for a token's backward pass, where computation takes `size` bytes a number.

    Counted with hooks on what autograd saves, for hidden sizes of 192 to 768 (tests/test_train_plan.py counts again): with
    adapters about 20 bytes a hidden number (norms in fp32, adapters' inputs, queries, attention's output) and three
    numbers of the MLP's width and of the keys' each; without adapters every matrix keeps its input as well.
    """
    if shape.adapters:
        return 20 * shape.hidden + 3 * size * (shape.kv_width + shape.intermediate)
    return (32 if size == 4 else 24) * shape.hidden + size * (2 * shape.kv_width + 4 * shape.intermediate)


def estimate(recipe: Recipe, shape: Shape, load: Load, *, device: str, reinforce: bool) -> dict[str, float]:
    """Bytes by part at the peak of a step, `checkpointed` or not as the recipe says (`auto` counts as not)."""
    cuda = device.startswith("cuda")
    half = recipe.precision == "bfloat16" or (recipe.precision == "auto" and cuda)
    size = 2 if half else 4
    weight = 2 if recipe.lora is not None and cuda and recipe.precision != "float32" else 4
    frozen = shape.total - (shape.trainable if recipe.lora is None else 0)
    resident: float = frozen * weight
    if recipe.quantize:
        resident = frozen * 0.55 + shape.vocabulary * shape.hidden * size  # nf4 with its scales; embeddings are kept whole
    checkpointed = recipe.gradient_checkpointing is True
    shared = load.grouped and not checkpointed
    tokens = (load.groups if shared else load.rows) * load.prompt + load.rows * load.completion
    per_token = activations_per_token(shape, size)
    kept = tokens * shape.layers * per_token
    if checkpointed:  # each layer's input, and one layer computed anew
        kept = tokens * (shape.layers * size * shape.hidden + per_token)
    expanded = load.rows * load.prompt * shape.layers * 2 * shape.kv_width * size if shared else 0
    logits = _logits(shape, load, reinforce)
    cached = recipe.vision_cache in ("auto", "memory")
    parts = {
        "weights": resident,
        "trainable weights, gradients, Adam": 16.0 * shape.trainable,
        "weights cast to bf16": 2.0 * shape.total if half and recipe.lora is None else 0.0,
        "reference model": shape.total * weight if reinforce and recipe.lora is None and recipe.beta > 0 else 0.0,
        "activations": kept,
        "prompt keys and values, expanded": expanded,
        "logits": logits,
        "vision cache": load.images * load.image_tokens * shape.hidden * size if cached else 0.0,
        "vision encoder, one image": load.image_tokens * 4 * shape.hidden * size * 8,
        "vision encoder, training": _vision(shape, load, size) if load.vision_trains else 0.0,
        "rewards": REWARD_MODEL if reinforce else 0.0,
        "CUDA context and gaps": CUDA_OVERHEAD if cuda else 0.0,
        "this process": 0.0 if cuda else PROCESS + (0 if reinforce else COLLATING),
    }
    if load.dev:  # a whole model, merged, where a step's own tensors were
        parts["dev scoring, beyond a step"] = max(0.0, shape.total * size - kept - expanded - logits)
    return {name: float(b) for name, b in parts.items() if b}


def _vision(shape: Shape, load: Load, size: int) -> float:
    """Bytes that the encoder keeps for its backward pass: every matrix its input, with an MLP four times as wide."""
    patches = 4.0 * load.image_tokens * (load.groups if load.grouped else load.rows)
    return patches * shape.vision_layers * shape.vision_hidden * (32 + 16 * size)


def _logits(shape: Shape, load: Load, reinforce: bool) -> float:
    """Bytes of logits, and of what is computed from them."""
    if not reinforce:
        return SUPERVISED_COPIES * 4.0 * load.rows * (load.prompt + load.completion) * shape.vocabulary
    a_row = 4.0 * load.completion * shape.vocabulary
    return LOGIT_COPIES * min(load.rows * a_row, max(MOST_LOGITS, a_row))
