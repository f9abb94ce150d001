"""Recipes: what a training run is made of, as YAML with known keys. The paper's values are the defaults.

`recipes/NAME.yaml` is a trainer's own recipe (the paper's, for Qwen2-VL-2B on one 40 GB GPU) and
`recipes/NAME-tiny.yaml` the one for the tiny model on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.prompts import PROMPTS
from harness.specs import Strict

FOLDER = Path(__file__).parent / "recipes"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class Lora(Strict):
    """Low-rank adapters on the attention projections of the language model (paper, section 2.3)."""

    r: Count = 8
    alpha: Count = 16
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


class Recipe(Strict):
    """Everything that decides the weights, but for the base model, the rows and the library versions."""

    #: Epochs over the rows (paper: 5), unless `max_steps` is given.
    epochs: Positive = 5
    max_steps: Count | None = None
    #: Optimizer: AdamW, linear decay. The paper states no rate; 1e-5 is what its base code uses with LoRA.
    learning_rate: Positive = 1e-5
    #: Sequences a step on one device: rows for SFT, completions for GRPO and RARL.
    batch_size: Count = 8
    gradient_accumulation: Count = 1
    lora: Lora | None = Lora()
    #: Training prompts and their shares; one is drawn for each row by seed.
    prompts: dict[str, Positive] = {"reasoning": 1.0}
    #: Upper bound on the pixels of an image; None keeps the processor's own.
    max_pixels: Count | None = None
    save_steps: Count = 100
    seed: Annotated[int, Field(ge=0)] = 0

    # GRPO and RARL
    num_generations: Annotated[int, Field(ge=2)] = 8
    max_completion_length: Count = 512
    temperature: Positive = 1.0
    beta: Annotated[float, Field(ge=0)] = 0.04
    epsilon: Positive = 0.2
    #: Reward parts and their weights (trainers/rewards.py).
    rewards: dict[str, float] = {}

    @model_validator(mode="after")
    def _prompts_exist(self) -> Recipe:
        for name in self.prompts:
            if name not in PROMPTS:
                raise ValueError(f"prompts: no prompt named '{name}'; {did_you_mean(name, list(PROMPTS))}")
        return self


def _merge(data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """`--set key=value` (dots go down, values are YAML) over a recipe's data."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    for setting in settings:
        key, eq, value = setting.partition("=")
        if not eq:
            raise UserError(f"--set {setting}: expected key=value")
        node = data
        *parents, last = key.split(".")
        for p in parents:
            node = node.setdefault(p, {})
            if not isinstance(node, dict):
                raise UserError(f"--set {setting}: '{p}' holds no keys")
        try:
            node[last] = YAML(typ="safe", pure=True).load(value)
        except YAMLError:
            raise UserError(f"--set {setting}: the value is not YAML") from None
    return data


def load(trainer: str, model: str, path: Path | None = None, settings: Sequence[str] = ()) -> Recipe:
    """The recipe for a trainer and model: `path`, else the trainer's own. Raises UserError naming file and key."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    default = FOLDER / f"{trainer}{'-tiny' if model == 'tiny' else ''}.yaml"
    source: Path | Literal["defaults"] = path or (default if default.exists() else "defaults")
    try:
        data = {} if source == "defaults" else YAML(typ="safe", pure=True).load(source.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, YAMLError) as e:
        raise UserError(f"{source}: cannot be read as YAML: {str(e).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise UserError(f"{source}: expected keys and values at the top level")
    try:
        return Recipe.model_validate(_merge(data, settings))
    except ValidationError as e:
        err = e.errors()[0]
        key = ".".join(str(x) for x in err["loc"]) or "recipe"
        if err["type"] == "extra_forbidden":
            fields = Lora.model_fields if len(err["loc"]) > 1 and err["loc"][0] == "lora" else Recipe.model_fields
            raise UserError(f"{source}: unknown key '{key}'", hint=did_you_mean(str(err["loc"][-1]), list(fields))) from None
        raise UserError(f"{source}: key '{key}': {err['msg'].removeprefix('Value error, ')}") from None
