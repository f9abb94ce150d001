"""Interchangeable trainers: supervised fine-tuning, GRPO and RARL. Their checkpoints load with `harness run --model`."""
