"""GRPO by the paper's equations (1)-(3), on TRL's trainer with the settings that give them.

    (1) token-level ratio clipped at epsilon, per-sequence mean, then the group's mean   loss_type: grpo
    (2) advantages scaled by the group's standard deviation                              scale_rewards: group
    (3) the k3 estimate of KL to the reference, times beta, without correction           use_bias_correction_kl: false

TRL's own defaults differ in each (DAPO loss, beta 0, bias-corrected KL): `--preset modern` takes them.
"""

from __future__ import annotations

from typing import Any

from harness.errors import UserError
from trainers import rewards
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
        if self.recipe.target != "auto":
            raise UserError(
                f"recipe key 'target': means nothing to {self.name}, which has no targets", hint="leave it out, or train with sft"
            )
        return super().steps()

    def steps_per_epoch(self) -> int:
        """TRL leaves out the rows of an epoch that do not fill a step."""
        return len(self.task.samples) // self.rows_per_step()

    def rows_per_step(self) -> int:
        return self.sequences_per_step() // self.recipe.num_generations

    def weights(self) -> dict[str, float]:
        """Reward parts and weights; a part with weight 0 is left out.

        Raises UserError for an unknown part, a batch that cuts a group, more questions a step than rows, a part for reasoning
        where no row has any, or nothing to learn from.
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
        blind = [name for name in weights if rewards.needs_reasoning(name)]
        if blind and not self.explained():
            raise UserError(
                f"task '{self.task.spec.name}': no row has reference reasoning, which reward '{blind[0]}' compares with: "
                "it would give nothing, all along",
                hint=f"--set rewards.{blind[0]}=0 trains without it"
                if len(blind) < len(weights)
                else "add another part, such as --set rewards.accuracy=1, or take a task with reasoning",
            )
        return weights

    def about(self) -> dict[str, Any]:
        return super().about() | {"rewards": self.weights()}

    def config(self) -> Any:
        from trl import GRPOConfig

        return GRPOConfig(
            **self.arguments(),
            **{key: getattr(self.recipe, key) for key in _SAME},
            num_iterations=1,  # more would make a resumed run differ, except between cycles
            reward_weights=list(self.weights().values()),
        )

    def _trainer(self, model: Any) -> Any:
        from trainers.grouped import GroupedGRPOTrainer

        r = self.recipe
        reader = self.reader(model)
        trainer = GroupedGRPOTrainer(
            **self.adapted(model),
            args=self.config(),
            processing_class=self.processor,
            train_dataset=self.dataset(completions=False).remove_columns("images"),  # the reader has them
            reader=reader,
            scorer=rewards.Scorer(list(self.weights()), [s.reference for s in self.task.samples]),
            callbacks=[self.watch()],
            grouped_rollouts=r.grouped_rollouts,
            grouped_logprobs=r.grouped_logprobs,
            completions_log=self.out / "completions.jsonl",
        )
        if r.kl_reference == "base" and "ref" in getattr(trainer.model, "peft_config", {}):
            trainer.model.delete_adapter("ref")  # TRL's copy of the adapter as it was; without it, the base is the reference
        return self.ready(trainer, reader)
