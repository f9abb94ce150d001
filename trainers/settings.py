"""The settings that decide what is learned, read from the arguments that TRL's trainer is built with.

Nothing is copied from a recipe or a manual: a default that a library changes is shown, and kept in trained.json, as it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

#: By their names in transformers' TrainingArguments and TRL's SFTConfig and GRPOConfig; each has the ones it knows.
DECIDING = (
    "optim", "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "seed", "data_seed", "bf16", "fp16", "tf32",
    "label_smoothing_factor", "neftune_noise_alpha", "average_tokens_across_devices", "dataloader_drop_last",
    "completion_only_loss", "assistant_only_loss", "max_length", "packing", "loss_type", "num_generations",
    "max_completion_length", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "beta", "epsilon",
    "epsilon_high", "delta", "num_iterations", "steps_per_generation", "scale_rewards", "reward_weights",
    "importance_sampling_level", "multi_objective_aggregation", "mask_truncated_completions",
    "use_bias_correction_kl", "top_entropy_quantile", "sync_ref_model", "disable_dropout",
)  # fmt: skip


def deciding(args: Any) -> dict[str, Any]:
    """Name and value of each such setting of a transformers TrainingArguments, as JSON takes them."""
    known = {f.name for f in dataclasses.fields(args)}
    return {name: _plain(getattr(args, name)) for name in DECIDING if name in known}


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)  # an enum
    return value if value is None or isinstance(value, bool | int | float | str | list | dict) else str(value)
