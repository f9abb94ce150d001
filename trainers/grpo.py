"""GRPO by the paper's equations (1)-(3), on TRL's trainer with the settings that give them.

    (1) token-level ratio clipped at epsilon, per-sequence mean, then the group's mean   loss_type="grpo"
    (2) advantages scaled by the group's standard deviation                              scale_rewards="group"
    (3) the k3 estimate of KL to the reference, times beta, without correction           use_bias_correction_kl=False

TRL's own defaults differ in each (DAPO loss, beta 0, bias-corrected KL).
"""

from __future__ import annotations

from typing import Any

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import Reference
from trainers import rewards, rows
from trainers.base import Trainer


class GRPO(Trainer):
    """Group relative policy optimisation with format, length and accuracy rewards."""

    name = "grpo"
    summary = "reinforcement learning with format, length and accuracy rewards"
    default_rewards = {"format": 1.0, "length": 1.0, "accuracy": 1.0}

    def steps(self) -> int:
        self.weights()  # a batch that cuts a group is refused first
        return super().steps()

    def rows_per_step(self) -> int:
        return super().rows_per_step() // self.recipe.num_generations

    def weights(self) -> dict[str, float]:
        """Reward parts and weights. Raises UserError for an unknown part or a batch that cuts a group."""
        weights = self.recipe.rewards or self.default_rewards
        for name in weights:
            if name not in rewards.PARTS:
                raise UserError(f"recipe key 'rewards': no reward named '{name}'", hint=did_you_mean(name, list(rewards.PARTS)))
        size, group = self.recipe.batch_size * self.recipe.gradient_accumulation, self.recipe.num_generations
        if size % group:
            raise UserError(f"recipe: {size} completions a step do not divide into groups of num_generations={group}")
        return weights

    def plan(self) -> dict[str, Any]:
        return super().plan() | {"rewards": self.weights()}

    def _train(self, model: Any) -> tuple[Any, list[dict[str, float]]]:
        from transformers import PrinterCallback
        from trl import GRPOConfig

        from trainers.grouped import GroupedGRPOTrainer

        r, weights = self.recipe, self.weights()
        args = GRPOConfig(
            **self.arguments(),
            num_generations=r.num_generations,
            max_completion_length=r.max_completion_length,
            temperature=r.temperature,
            beta=r.beta,
            epsilon=r.epsilon,
            loss_type="grpo",
            scale_rewards="group",
            use_bias_correction_kl=False,
            importance_sampling_level="token",
            multi_objective_aggregation="sum_then_normalize",
            num_iterations=1,
            mask_truncated_completions=False,
            reward_weights=list(weights.values()),
        )
        trainer = GroupedGRPOTrainer(
            model=model,
            args=args,
            processing_class=self.processor,
            train_dataset=rows.dataset(self.task.samples, r.prompts, r.seed, completions=False),
            reward_funcs=[_for_trl(name) for name in weights],
            peft_config=self.peft_config(),
            callbacks=[self.callback()],
        )
        trainer.remove_callback(PrinterCallback)  # it prints every log to stdout
        trainer.train()
        return trainer.model, trainer.state.log_history


def _for_trl(name: str) -> Any:
    """A reward part in TRL's signature: conversational completions, token ids, dataset columns as keywords."""
    part = rewards.PARTS[name]

    def reward(completions: list[Any], completion_ids: list[Any], reference: list[str], **_: Any) -> list[float | None]:
        return part(
            [
                rewards.Rollout(c[0]["content"], len(ids), Reference.model_validate_json(ref))
                for c, ids, ref in zip(completions, completion_ids, reference, strict=True)
            ]
        )

    reward.__name__ = name
    return reward
