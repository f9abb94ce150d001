"""What a training would do, before any weight is loaded: sizes, lengths, memory, steps, and what it would leave behind.

The model is built on torch's meta device with the recipe's adapter on it, so the counts of parameters, and which of them
train, are those of the training itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from harness.errors import ModelError, UserError
from harness.models import loading
from harness.models.families import parts as families
from harness.models.families.prompting import Ask, Prompting
from harness.records import DataCard, Record
from trainers import dev_scores, disk, freezing, policy, rows, teaching
from trainers.machine import machine_memory
from trainers.memory import GB, Load, Shape, estimate
from trainers.recipe import Recipe

if TYPE_CHECKING:
    from trainers.base import Trainer

SHAPES = Path(__file__).parent / "shapes"
#: Where no tokenizer is at hand: characters a token of English, on the safe side.
CHARACTERS_A_TOKEN = 3.5
#: Share of the memory that may be planned for.
USABLE = 0.95
PROBE_STEPS = 3


class Lengths(Record):
    """Tokens. `longest` is the longest row with its completion; `row` its id."""

    image_min: int
    image_median: int
    image_max: int
    prompt_max: int
    longest: int
    row: str
    #: How text was counted: by the model's tokenizer, or estimated.
    counted: str


class Part(Record):
    """Vision encoder, projector or language model: parameters, its adapter's included, and how many of them train."""

    part: str
    parameters: int
    trainable: int


class Saved(Record):
    """A file or folder that the training leaves, and about how large it is."""

    path: str
    what: str
    bytes: int


class Plan(Record):
    """A training before it starts. Bytes, tokens and seconds."""

    trainer: str
    model: str
    #: Where the model's shape was read from.
    shape: str
    task: DataCard
    dev: DataCard | None
    recipe: Recipe
    rewards: dict[str, float]
    #: Rows with reference reasoning, and how many rows teach each form word for word (SFT).
    explained: int
    targets: dict[str, int]
    prompts: tuple[teaching.Prompted, ...]
    #: The prompt of the dev rows, and how many rows and clusters those are (None: no scores).
    dev_scores: dict[str, Any] | None
    #: What the transformers Trainer is built with, under its own names.
    optimizer: dict[str, Any]
    #: What is allowed, and must be known before the result is believed in.
    caveats: tuple[str, ...]
    steps: int
    rows_per_step: int
    parameters: int
    trainable: int
    parts: tuple[Part, ...]
    vision: int
    #: The vision encoder's parameters that would train; none means that it is frozen.
    vision_trainable: tuple[str, ...]
    lengths: Lengths
    device: str
    memory: dict[str, float]
    memory_total: float
    memory_limit: float | None
    gradient_checkpointing: bool
    why: str
    saved: tuple[Saved, ...]
    #: Bytes that are free where OUT lies.
    disk_free: int
    #: Tokens that the model has positions for, where its configuration says.
    positions: int | None
    seconds_per_step: float | None = None

    @property
    def disk_needed(self) -> int:
        return sum(s.bytes for s in self.saved)

    @property
    def fits(self) -> bool:
        return self.memory_limit is None or self.memory_total <= USABLE * self.memory_limit

    def check(self) -> None:
        """Raises UserError where the training cannot fit: into the model's positions, the memory, or on the disk."""
        if self.positions is not None and self.lengths.longest > self.positions:
            raise UserError(
                f"row {self.lengths.row}: {self.lengths.longest} tokens with its completion, and the model has {self.positions} "
                "positions",
                hint="lower max_pixels or max_completion_length, leave such rows out, or pass --force",
            )
        if not self.fits:
            assert self.memory_limit is not None
            largest = max(self.memory, key=lambda name: self.memory[name])
            ways = ["lower batch_size, max_completion_length or max_pixels"]
            if self.recipe.lora is None:
                ways.append("train an adapter (lora)")
            elif self.recipe.quantize is None:
                ways.append("set quantize=4bit")
            raise UserError(
                f"the plan needs about {self.memory_total / GB:.1f} GB, and {self.memory_limit / GB:.1f} GB are there; "
                f"most of it is {largest} ({self.memory[largest] / GB:.1f} GB)",
                hint=f"{', '.join(ways)}, or pass --force",
            )
        if self.disk_needed > self.disk_free:
            raise UserError(
                f"{self.saved[0].path}: needs about {self.disk_needed / GB:.1f} GB, and {self.disk_free / GB:.1f} GB are free",
                hint="set keep_checkpoints, raise save_steps, give another --out, or pass --force",
            )


def make(trainer: Trainer, *, gpu_memory: float | None = None) -> Plan:
    """The plan of a trainer; `gpu_memory` in GB plans for a GPU of that size, wherever this runs."""
    if not gpu_memory:
        policy.check_device(trainer.recipe, trainer.device)
    device = "cuda" if gpu_memory else loading.pick_device(trainer.device)
    limit = gpu_memory * GB if gpu_memory else available(device)
    from peft.tuners.tuners_utils import BaseTunerLayer

    config, source = shape_of(trainer.model_name)
    model = on_meta(config, trainer)
    named = list(model.named_parameters())
    base = model.get_base_model() if trainer.recipe.lora else model
    where = families.names(base)
    by_part = {part: [(n, p) for n, p in named if families.part_of(where, n) == part] for part in families.PARTS}
    counts = tuple(
        Part(part=part, parameters=sum(p.numel() for _, p in mine), trainable=sum(p.numel() for _, p in mine if p.requires_grad))
        for part, mine in by_part.items()
        if mine
    )
    vision = by_part["vision"]
    adapters = {n.rpartition(".")[2] for n, m in base.named_modules() if isinstance(m, BaseTunerLayer)}
    shape = Shape.of(
        config, total=sum(c.parameters for c in counts), vision=sum(p.numel() for _, p in vision),
        trainable=sum(c.trainable for c in counts), adapters=len(adapters),
    )  # fmt: skip
    found = lengths(trainer)
    rewards = trainer.weights()
    reinforce = bool(rewards)
    frozen = not any(c.trainable for c in counts if c.part != "language")
    load = _load(trainer, found, reinforce, frozen and families.why_no_features(base) is None)
    load = dataclasses.replace(load, vision_trains=any(p.requires_grad for _, p in vision))
    recipe, memory, why = _checkpointing(trainer.recipe, shape, load, device, reinforce, limit)
    settings = trainer.optimizer() | {"gradient_checkpointing": recipe.gradient_checkpointing is True}
    if gpu_memory:  # built here, for there
        settings["bf16"] = trainer.recipe.precision != "float32"
    return Plan(
        trainer=trainer.name,
        model=trainer.model_name,
        shape=source,
        task=trainer.task.card,
        dev=trainer.dev.card if trainer.dev else None,
        recipe=trainer.recipe,
        rewards=rewards,
        explained=trainer.explained(),
        targets=trainer.targets(),
        prompts=teaching.prompted(trainer, _processor(trainer)),
        dev_scores=dev_scores.about(trainer) if trainer.dev else None,
        optimizer=settings,
        caveats=(*teaching.caveats(trainer), *_uncapped(trainer)),
        steps=trainer.steps(),
        rows_per_step=trainer.rows_per_step(),
        parameters=shape.total,
        trainable=shape.trainable,
        parts=counts,
        vision=shape.vision,
        vision_trainable=tuple(n for n, p in vision if p.requires_grad),
        lengths=found,
        device=device,
        memory=memory,
        memory_total=sum(memory.values()),
        memory_limit=limit,
        gradient_checkpointing=recipe.gradient_checkpointing is True,
        why=why,
        saved=_saved(trainer, shape),
        disk_free=disk.free(trainer.out),
        positions=families.longest_prompt(config),
    )


def _uncapped(trainer: Trainer) -> list[str]:
    if not trainer.uncapped:
        return []
    return [f"max_pixels does nothing here: the model's {trainer.uncapped} knows no bound on an image's pixels"]


def available(device: str) -> float | None:
    """Bytes of the device's memory: a GPU's own, else this machine's or what its container may use."""
    import torch

    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()


def shape_of(name: str) -> tuple[Any, str]:
    """(configuration, where it was read): the checkpoint's own, the hub cache's, or one that comes with the package.

    Raises ModelError for a hub model that is neither cached nor known.
    """
    from transformers import AutoConfig

    checkpoint = loading.resolve(name)
    if Path(checkpoint.base).is_dir():
        return AutoConfig.from_pretrained(checkpoint.base, trust_remote_code=False), "the checkpoint's config.json"
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(checkpoint.base, "config.json")
    if isinstance(cached, str):
        return AutoConfig.from_pretrained(Path(cached).parent, trust_remote_code=False), "config.json in the hub cache"
    known = SHAPES / f"{checkpoint.base.rpartition('/')[2]}.json"
    if not known.exists():
        raise ModelError(
            f"{name}: its shape is not known here",
            hint=f"download its config.json first; known without: {', '.join(f.stem for f in SHAPES.glob('*.json'))}",
        )
    data = json.loads(known.read_text(encoding="utf-8"))
    config = AutoConfig.for_model(**data)
    return config, "the published configuration, as it comes with this package (nothing was downloaded)"


def on_meta(config: Any, trainer: Trainer) -> Any:
    """The model without weights, frozen and with its adapter as it would be trained."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        freezing.freeze(model, trainer.recipe.freeze)
        adapter = policy.peft_config(model, trainer.recipe)
        if trainer.checkpoint.adapter:
            policy.same_adapter(trainer.model_name, model, trainer.checkpoint.adapter, trainer.recipe)
        try:
            model = get_peft_model(model, adapter) if adapter else model
        except ValueError as e:
            raise UserError(f"recipe key 'lora': {loading.first_line(e)}") from None
    freezing.check(model, trainer.recipe.freeze)
    return model


def _processor(trainer: Trainer) -> Any:
    """The model's processor, or one with Qwen2-VL's published image settings and no tokenizer."""
    if Path(trainer.checkpoint.base).is_dir():
        processor = loading.load_processor(trainer.checkpoint)
    else:
        from transformers import Qwen2VLImageProcessor

        processor = SimpleNamespace(image_processor=Qwen2VLImageProcessor(), tokenizer=None)
    trainer.cap_pixels(processor)
    return processor


def lengths(trainer: Trainer) -> Lengths:
    """Tokens of images, prompts and completions: the model's own prompt for blank pictures of the same sizes."""
    processor, samples, recipe = _processor(trainer), trainer.task.samples, trainer.recipe
    rows.check(samples)
    sizes = {i.sha256: i.size for s in samples for i in s.images}
    drawn = rows.draw_prompts(samples, recipe, trainer.task.spec.get_prompt)
    prompts = [p.render(s.question) for p, s in zip(drawn, samples, strict=True)]
    answers = [rows.target(s.reference, recipe.target) for s in samples]
    if processor.tokenizer is None:
        per_image = {size: _published(processor.image_processor, size) for size in set(sizes.values())}
        prompt = [
            _estimate(t + (s.system or "")) + 32 + sum(per_image[sizes[i.sha256]] for i in s.images)
            for t, s in zip(prompts, samples, strict=True)
        ]
        completion = [_estimate(t) for t in answers]
    else:
        prompting = Prompting(processor, trainer.checkpoint.name)
        per_image = {size: prompting.image_tokens(size) for size in set(sizes.values())}
        asked = [Ask(tuple(sizes[i.sha256] for i in s.images), t, s.system) for s, t in zip(samples, prompts, strict=True)]
        prompt = prompting.count(asked)
        completion = [len(ids) for ids in processor.tokenizer(answers)["input_ids"]]
    if trainer.weights():
        completion = [recipe.max_completion_length] * len(samples)
    total = [a + b for a, b in zip(prompt, completion, strict=True)]
    longest = max(range(len(total)), key=total.__getitem__)
    return Lengths(
        image_min=min(per_image.values()),
        image_median=int(statistics.median(per_image[size] for size in sizes.values())),
        image_max=max(per_image.values()),
        prompt_max=max(prompt),
        longest=total[longest],
        row=samples[longest].id,
        counted="by the model's tokenizer"
        if processor.tokenizer
        else f"text estimated at {CHARACTERS_A_TOKEN} characters a token",
    )


def _estimate(text: str) -> int:
    return int(len(text) / CHARACTERS_A_TOKEN) + 1


def _published(image_processor: Any, size: tuple[int, int]) -> int:
    """Tokens that an image of this width and height takes by Qwen2-VL's published settings."""
    width, height = size
    return int(image_processor.get_number_of_image_patches(height, width, {})) // int(image_processor.merge_size) ** 2


def _load(trainer: Trainer, found: Lengths, reinforce: bool, cached: bool) -> Load:
    """The longest step, by group where trainers/grouped.py would compute it so. Images are kept encoded where they can be."""
    from trainers.vision_cache import sharded

    recipe = trainer.recipe
    sequences = recipe.batch_size
    return Load(
        groups=max(1, sequences // recipe.num_generations) if reinforce else sequences,
        rows=sequences,
        prompt=found.prompt_max,
        completion=found.longest - found.prompt_max if found.longest > found.prompt_max else 1,
        images=trainer.task.card.images if cached and not sharded() else 0,
        image_tokens=found.image_max,
        grouped=reinforce and recipe.grouped_logprobs and trainer.rank.count == 1,
        dev=trainer.dev is not None,
    )


def _checkpointing(
    recipe: Recipe, shape: Shape, load: Load, device: str, reinforce: bool, limit: float | None
) -> tuple[Recipe, dict[str, float], str]:
    """The recipe with `gradient_checkpointing` decided, its memory, and why."""

    def with_(value: bool) -> tuple[Recipe, dict[str, float]]:
        chosen = recipe.model_copy(update={"gradient_checkpointing": value})
        return chosen, estimate(chosen, shape, load, device=device, reinforce=reinforce)

    if recipe.gradient_checkpointing != "auto":
        return *with_(recipe.gradient_checkpointing), "the recipe says so"
    off, memory = with_(False)
    if limit is None or sum(memory.values()) <= USABLE * limit:
        return off, memory, "everything fits without"
    on, less = with_(True)
    fits = sum(less.values()) <= USABLE * limit
    return on, less, "activations would not fit otherwise" if fits else "and even so it does not fit"


def _saved(trainer: Trainer, shape: Shape) -> tuple[Saved, ...]:
    trained = shape.trainable if trainer.recipe.lora else shape.total
    model = trained * 4
    out, steps, every = trainer.out, trainer.steps(), trainer.recipe.save_steps
    count = min(-(-steps // every), trainer.recipe.keep_checkpoints or steps)
    kind = "adapter" if trainer.recipe.lora else "weights"
    both = f"{count} x {kind} and optimizer, every {every} steps"
    found = [
        Saved(path=str(out), what=f"the {kind} at the end, processor, logs, curves", bytes=model),
        Saved(path=f"{out}/checkpoint-N", what=both, bytes=count * (model + 8 * shape.trainable)),
    ]
    if trainer.dev:
        found.append(Saved(path=f"{out}/best", what=f"the {kind} with the best dev score", bytes=model))
    return tuple(found)


def probe(trainer: Trainer) -> float:
    """Seconds of a step, measured: three steps of the training itself in a folder that is thrown away (weights are loaded)."""
    from harness.runs import read_jsonl

    folder = Path(tempfile.mkdtemp(prefix="probe-"))
    try:
        short = trainer.recipe.model_copy(update={"max_steps": PROBE_STEPS + 1, "save_steps": PROBE_STEPS + 1})
        stamps: list[float] = []
        run = type(trainer)(
            trainer.model_name, trainer.task, short, folder / "probe", device=trainer.device,
            report=lambda *_: stamps.append(time.perf_counter()), force=trainer.force,
        )  # fmt: skip
        run.fit()
        assert len(list(read_jsonl(folder / "probe" / "log.jsonl"))) == PROBE_STEPS + 1
        return statistics.median(b - a for a, b in itertools.pairwise(stamps))  # the first one warms up
    finally:
        shutil.rmtree(folder, ignore_errors=True)
