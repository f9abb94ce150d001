"""RARL (the paper, section 3.3): GRPO with the reasoning reward and prompting diversity."""

from __future__ import annotations

from trainers.grpo import GRPO


class RARL(GRPO):
    """GRPO plus the reasoning reward where rows have reference reasoning, over the three training prompts."""

    name = "rarl"
    summary = "GRPO with the reasoning reward and prompting diversity"
    default_rewards = {**GRPO.default_rewards, "reasoning": 1.0}
