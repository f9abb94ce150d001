"""Recipes: what a training run is made of, as YAML with known keys. The paper's values are the defaults.

`recipes/NAME.yaml` is a trainer's own recipe (the paper's, for Qwen2-VL-2B on one 40 GB GPU),
`recipes/NAME-tiny.yaml` the one for the tiny model on two CPU cores, and `recipes/presets/` holds named choices of algorithm.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from harness import plugins
from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.prompts import PROMPTS
from harness.specs import Strict, TaskSpec

FOLDER = Path(__file__).parent / "recipes"
PRESETS = FOLDER / "presets"


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic takes true for 1
        raise ValueError(f"is a number, not {str(value).lower()}")
    return value


Positive = Annotated[float, BeforeValidator(_no_switch), Field(gt=0)]
NotNegative = Annotated[float, BeforeValidator(_no_switch), Field(ge=0)]
Count = Annotated[int, BeforeValidator(_no_switch), Field(gt=0)]
Shares = dict[str, Positive]
Part = Literal["vision", "projector", "language"]


class Lora(Strict):
    """Low-rank adapters on the attention projections of what trains, the language model unless `freeze` says otherwise
    (paper, section 2.3)."""

    r: Count = 8
    alpha: Count = 16
    #: Layers of the parts that train: names, `all-linear`, or a regular expression that matches whole dotted names.
    target_modules: tuple[str, ...] | str = ("q_proj", "k_proj", "v_proj", "o_proj")
    dropout: Annotated[float, BeforeValidator(_no_switch), Field(ge=0, lt=1)] = 0.0
    #: DoRA (Liu et al. 2024): direction and length apart. rsLoRA (Kalajdzievski 2023): scaled by alpha / sqrt(r).
    dora: bool = False
    rslora: bool = False
    #: Modules that train whole and are saved beside the adapter, such as `multi_modal_projector`.
    modules_to_save: tuple[str, ...] = ()


class Recipe(Strict):
    """Everything that decides the weights, but for the base model, the rows and the library versions."""

    #: Epochs over the rows (paper: 5), unless `max_steps` is given.
    epochs: Positive = 5
    max_steps: Count | None = None
    #: Train on this many rows: nested subsets drawn by seed, each image giving its share (paper, Table 2). None: all of them.
    samples: Count | None = None
    #: Optimizer: AdamW, linear decay. The paper states no rate; 1e-5 is what its base code uses with LoRA.
    learning_rate: Positive = 1e-5
    #: Parts that do not train. Of the others an adapter is trained, or all weights where `lora` is null.
    freeze: tuple[Part, ...] = ("vision", "projector")
    #: Rates of parts that train at another than `learning_rate`, such as {vision: 1e-6}.
    learning_rates: dict[Part, Positive] = {}
    #: Gradients longer than this are scaled down to it.
    max_grad_norm: Positive = 1.0
    #: Numbers that the model computes with: auto is bfloat16, on a CPU float32. Weights that train are float32 always.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    #: Sequences a step on one device: rows for SFT, completions for GRPO and RARL.
    batch_size: Count = 8
    gradient_accumulation: Count = 1
    lora: Lora | None = Lora()
    #: Load the frozen base in 4 bits (QLoRA, needs a CUDA device and the extra `qlora`).
    quantize: Literal["4bit"] | None = None
    #: Training prompts and their shares, the harness's or the task's own; one is drawn for each row by seed. The task's
    #: default prompt where this is empty.
    prompts: Shares = {}
    #: Other shares for rows of one answer type (the style that suits it); the types left out draw from `prompts`.
    prompts_by_type: dict[Literal["choice", "yesno", "open"], Shares] = {}
    #: What SFT teaches. reasoning: `<think>...</think><answer>...</answer>`, rows without reasoning are left out; answer: the
    #: answer alone, whatever a row has; mixed: each row as it is, two formats; auto: as the rows are, mixed ones are refused.
    target: Literal["auto", "reasoning", "answer", "mixed"] = "auto"
    #: Upper bound on the pixels of an image; None keeps the processor's own.
    max_pixels: Count | None = None
    #: Steps between checkpoints (paper: 100), each scored on the dev split; `best/` is the best of them.
    save_steps: Count = 100
    #: Keep this many checkpoints beside `best/`; None keeps all.
    keep_checkpoints: Count | None = None
    #: Rows that score the checkpoints: auto (the task's validation split, else a tenth of the training images), none, or a split.
    dev: str = "auto"
    #: At most this many dev rows, whole images at a time.
    dev_rows: Count = 200
    #: The prompt that dev rows are asked with: the training's where it has one, else the task's default.
    dev_prompt: str | None = None
    seed: Annotated[int, BeforeValidator(_no_switch), Field(ge=0)] = 0
    #: Stop after this many steps in a row that taught nothing (gradient 0, no spread in any group, the same loss). 0: never.
    stop_without_signal: Annotated[int, BeforeValidator(_no_switch), Field(ge=0)] = 20

    # GRPO and RARL: the defaults give the paper's equations (1)-(3); presets/ holds other choices
    num_generations: Annotated[int, BeforeValidator(_no_switch), Field(ge=2)] = 8
    max_completion_length: Count = 512
    temperature: Positive = 1.0
    beta: NotNegative = 0.04
    #: What KL is measured against where training goes on from an adapter: its base model, or the adapter as it was.
    kl_reference: Literal["base", "init"] = "base"
    epsilon: Positive = 0.2
    loss_type: Literal["grpo", "dapo", "bnpo", "dr_grpo"] = "grpo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    use_bias_correction_kl: bool = False
    importance_sampling_level: Literal["token", "sequence"] = "token"
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    mask_truncated_completions: bool = False
    #: Reward parts and their weights (trainers/rewards.py); the trainer's own where empty.
    rewards: dict[str, Annotated[float, BeforeValidator(_no_switch)]] = {}

    # How it is computed; what is learned is the same within rounding
    #: Encode each image once a run: auto (memory), memory, disk (memory-mapped files), off.
    vision_cache: Literal["auto", "memory", "disk", "off"] = "auto"
    #: Rollouts through the harness's engine, each prompt read once a group.
    grouped_rollouts: bool = True
    #: Reference and policy log-probabilities with each prompt read once a group.
    grouped_logprobs: bool = True
    #: Recompute activations in the backward pass: less memory, more time. auto: where the plan needs it.
    gradient_checkpointing: bool | Literal["auto"] = "auto"

    @field_validator("prompts_by_type")
    @classmethod
    def _shares_are_given(cls, by_type: dict[str, Shares]) -> dict[str, Shares]:
        if empty := next((kind for kind, shares in by_type.items() if not shares), None):
            raise ValueError(f"'{empty}' names no prompt")
        return by_type

    @model_validator(mode="after")
    def _something_trains(self) -> Recipe:
        if set(self.freeze) == {"vision", "projector", "language"} and not (self.lora and self.lora.modules_to_save):
            raise ValueError("freeze names every part: nothing would train")
        if idle := next((part for part in self.learning_rates if part in self.freeze), None):
            raise ValueError(f"learning_rates.{idle}: this part is frozen; leave it out of freeze to train it")
        return self

    def for_task(self, spec: TaskSpec) -> Recipe:
        """The recipe with the prompt that an empty `prompts` stands for. Raises UserError for one that the task does not know."""
        chosen = self if self.prompts else self.model_copy(update={"prompts": {spec.prompt: 1.0}})
        named = {"prompts": chosen.prompts} | {f"prompts_by_type.{k}": v for k, v in chosen.prompts_by_type.items()}
        named |= {"dev_prompt": {chosen.dev_prompt: 1.0}} if chosen.dev_prompt else {}
        for key, shares in named.items():
            for name in shares:
                if name not in {**PROMPTS, **spec.prompts}:
                    close = did_you_mean(name, [*PROMPTS, *spec.prompts])
                    raise UserError(f"recipe key '{key}': task '{spec.name}' knows no prompt named '{name}'", hint=close)
        return chosen


def _merge(data: dict[str, Any], settings: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`--set key=value` (dots go down, values are YAML) over a recipe's data.

    A key below one that the recipe does not give goes over `defaults`: one reward set leaves the trainer's others as they are.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    for setting in settings:
        key, eq, value = setting.partition("=")
        if not eq:
            raise UserError(f"--set {setting}: expected key=value")
        node = data
        *parents, last = key.split(".")
        if parents:
            if parents[0] == "rewards":  # names of rewards hold dots themselves
                parents, last = ["rewards"], key.removeprefix("rewards.")
            if not data.get(parents[0], {}):
                if data.get(parents[0], {}) is None:
                    raise UserError(f"--set {setting}: '{parents[0]}' is null", hint=f"leave {parents[0]}=null out")
                data[parents[0]] = copy.deepcopy(defaults.get(parents[0], {}))
        for p in parents:
            node = node.setdefault(p, {})
            if not isinstance(node, dict):
                raise UserError(f"--set {setting}: '{p}' holds no keys")
        try:
            node[last] = YAML(typ="safe", pure=True).load(value)
        except YAMLError:
            raise UserError(f"--set {setting}: the value is not YAML") from None
    return data


def load(trainer: str, model: str, path: Path | None = None, settings: Sequence[str] = (), preset: str | None = None) -> Recipe:
    """The recipe for a trainer and model: `path`, else the trainer's own; a preset's keys over it, `settings` over both.

    Raises UserError naming file and key.
    """
    default = FOLDER / f"{trainer}{'-tiny' if model == 'tiny' else ''}.yaml"
    source: Path | Literal["defaults"] = path or (default if default.exists() else "defaults")
    data = {} if source == "defaults" else _read(source)
    if preset is not None:
        data |= _read(_preset(preset))
    defaults = Recipe().model_dump(mode="json") | {"rewards": getattr(plugins.load("trainers", trainer), "default_rewards", {})}
    return checked(_merge(data, settings, defaults), source, settings)


def presets() -> dict[str, Recipe]:
    """The named choices of algorithm: paper first, then what differs from it. Each names the same keys, so that it holds
    whatever recipe it is laid over."""
    names = sorted((f.stem for f in PRESETS.glob("*.yaml")), key=lambda n: (n != "paper", n))
    return {n: checked(_read(_preset(n)), _preset(n)) for n in names}


def differences(recipes: Mapping[str, Recipe]) -> dict[str, list[Any]]:
    """The keys in which recipes differ, with each one's value."""
    rows = [r.model_dump(mode="json") for r in recipes.values()]
    return {k: [r[k] for r in rows] for k in Recipe.model_fields if any(r[k] != rows[0][k] for r in rows)}


def _preset(name: str) -> Path:
    file = PRESETS / f"{name}.yaml"
    if not file.exists():
        raise UserError(f"--preset {name}: no such preset", hint=did_you_mean(name, [f.stem for f in PRESETS.glob("*.yaml")]))
    return file


def _read(source: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(source.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, YAMLError) as e:
        raise UserError(f"{source}: cannot be read as YAML: {str(e).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise UserError(f"{source}: expected keys and values at the top level")
    return data


def checked(data: dict[str, Any], source: Path | str, settings: Sequence[str] = ()) -> Recipe:
    """`data` as a recipe. Raises UserError naming the key, and the file or which of `settings` (key=value) gave it."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as e:
        err = e.errors()[0]
        key = ".".join(str(x) for x in err["loc"]) or "recipe"
        given = [s for s in settings if f"{key}.".startswith(f"{s.partition('=')[0]}.")]
        source = f"--set {given[-1]}" if given else source
        if err["type"] == "extra_forbidden":
            fields = Lora.model_fields if len(err["loc"]) > 1 and err["loc"][0] == "lora" else Recipe.model_fields
            raise UserError(f"{source}: unknown key '{key}'", hint=did_you_mean(str(err["loc"][-1]), list(fields))) from None
        raise UserError(f"{source}: key '{key}': {err['msg'].removeprefix('Value error, ')}") from None
