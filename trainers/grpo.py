"""GRPO by the paper's equations (1)-(3), on TRL's trainer with the settings that give them.

    (1) token-level ratio clipped at epsilon, per-sequence mean, then the group's mean   loss_type: grpo
    (2) advantages scaled by the group's standard deviation                              scale_rewards: group
    (3) the k3 estimate of KL to the reference, times beta, without correction           use_bias_correction_kl: false

TRL's own defaults differ in each (DAPO loss, beta 0, bias-corrected KL): `--preset modern` takes them.
"""

from __future__ import annotations

from typing import Any

from harness.errors import UserError
from trainers import rewards, rows
from trainers.base import Trainer

#: Recipe keys that TRL knows by the same name.
_SAME = (
    "num_generations", "max_completion_length", "temperature", "beta", "epsilon", "loss_type", "scale_rewards",
    "use_bias_correction_kl", "importance_sampling_level", "multi_objective_aggregation", "mask_truncated_completions",
)  # fmt: skip


class GRPO(Trainer):
    """Group relative policy optimisation with format, length and accuracy rewards."""

    name = "grpo"
    summary = "reinforcement learning with format, length and accuracy rewards"
    default_rewards = {"format": 1.0, "length": 1.0, "accuracy": 1.0}

    def steps(self) -> int:
        self.weights()  # a batch that cuts a group is refused first
        return super().steps()

    def steps_per_epoch(self) -> float:
        """TRL leaves out the rows of an epoch that do not fill a step."""
        return len(self.task.samples) // self.rows_per_step()

    def rows_per_step(self) -> int:
        return self.sequences_per_step() // self.recipe.num_generations

    def weights(self) -> dict[str, float]:
        """Reward parts and weights; a part with weight 0 is left out.

        Raises UserError for an unknown part, a batch that cuts a group, more questions a step than rows, or nothing to learn
        from.
        """
        weights = {name: weight for name, weight in (self.recipe.rewards or self.default_rewards).items() if weight}
        if not weights:
            raise UserError("recipe key 'rewards': every weight is 0", hint="set one, such as --set rewards.accuracy=1")
        for name in weights:
            rewards.check(name)
        size, group = self.sequences_per_step(), self.recipe.num_generations
        if size % group:
            raise UserError(f"recipe: {size} completions a step do not divide into groups of num_generations={group}")
        if size // group > len(self.task.samples):  # batches are whole: not one would be drawn
            raise UserError(
                f"recipe: a step takes {size // group} questions, and there are {len(self.task.samples)} training rows",
                hint=f"lower batch_size (completions a step), to at most {group * len(self.task.samples)} in all",
            )
        if all(rewards.needs_reasoning(name) for name in weights) and not any(s.reference.reasoning for s in self.task.samples):
            raise UserError(
                f"task '{self.task.spec.name}': no row has reference reasoning, and the only reward is for reasoning",
                hint="add another part, such as --set rewards.accuracy=1, or take a task with reasoning",
            )
        return weights

    def about(self) -> dict[str, Any]:
        return super().about() | {"rewards": self.weights()}

    def _trainer(self, model: Any) -> Any:
        from trl import GRPOConfig

        from trainers.grouped import GroupedGRPOTrainer

        r, weights = self.recipe, self.weights()
        args = GRPOConfig(
            **self.arguments(),
            **{key: getattr(r, key) for key in _SAME},
            num_iterations=1,  # more would make a resumed run differ, except between cycles
            reward_weights=list(weights.values()),
        )
        cache = self.vision_cache(model)
        trainer = GroupedGRPOTrainer(
            **self.adapted(model),
            args=args,
            processing_class=cache.processor if cache else self.processor,
            train_dataset=rows.dataset(self.task.samples, r, completions=False),
            scorer=rewards.Scorer(list(weights), [s.reference for s in self.task.samples]),
            callbacks=[self.watch()],
            grouped_rollouts=r.grouped_rollouts,
            grouped_logprobs=r.grouped_logprobs,
            completions_log=self.out / "completions.jsonl",
        )
        if r.kl_reference == "base" and "ref" in getattr(trainer.model, "peft_config", {}):
            trainer.model.delete_adapter("ref")  # TRL's copy of the adapter as it was; without it, the base is the reference
        return self.ready(trainer, cache)
