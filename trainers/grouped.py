"""A GRPO trainer that computes what a group shares once: its image and its prompt.

A group's G completions have one image and one prompt between them. TRL encodes and reads both G times in generation, in
the reference pass and in the policy pass. Here rollouts go through the harness's own engine (prompt prefilled once,
keys and values expanded to G, finished rows leave the batch), and both log-probability passes read each prompt once,
with gradient, before the completions follow on top. Log-probabilities and gradients equal TRL's within fp32 rounding
(tests/test_grouped.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from pydantic import BaseModel
from torch.utils.checkpoint import checkpoint
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from harness.errors import RunError
from harness.models import engine
from harness.models.transformers_model import SHARED_PREFIX, evenly
from harness.records import GenerationArgs, Reference
from harness.runs import append_jsonl
from harness.threads import on_all_cores
from trainers.base import Saves
from trainers.health import Halted
from trainers.rewards import Rollout, Scorer
from trainers.stopping import all_ranks


def split_pixels(
    pixel_values: torch.Tensor, grid_thw: torch.Tensor, num_images: list[int]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each row's own (patches, grid) out of a batch's concatenated ones."""
    patches = torch.split(pixel_values, grid_thw.prod(1).tolist())
    out, at = [], 0
    for n in num_images:
        out.append((torch.cat(patches[at : at + n]), grid_thw[at : at + n]))
        at += n
    return out


def as_inputs(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, pixels: list[tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, Any]:
    """Left-padded prompts and their images' (patches, grid) as the model's inputs."""
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == model.config.image_token_id).int(),
        "pixel_values": torch.cat([p for p, _ in pixels]).to(model.device),
        "image_grid_thw": torch.cat([g for _, g in pixels]).to(model.device),
    }


def group_rows(prompts: list[tuple[int, ...]], pixels: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[list[int], list[int]]:
    """(owner, first): which group each row belongs to, and each group's first row. Rows of a group may be apart."""
    first: list[int] = []
    candidates: dict[tuple[int, ...], list[int]] = {}
    owner = []
    for i, prompt in enumerate(prompts):
        for g in candidates.setdefault(prompt, []):
            if pixels[i][0].shape == pixels[first[g]][0].shape and torch.equal(pixels[i][0], pixels[first[g]][0]):
                break
        else:
            g = len(first)
            first.append(i)
            candidates[prompt].append(g)
        owner.append(g)
    return owner, first


class Completed(BaseModel):
    """A line of completions.jsonl."""

    step: int
    sample_id: str
    text: str
    tokens: int
    rewards: dict[str, float | None]
    total: float = 0.0
    advantage: float | None = None


class _Named:
    """TRL wants a function a reward part, for its name; the scorer gives their values together."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, **_: Any) -> list[float]:
        raise TypeError("the scorer gives this part's values")


class EpochSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's sampler, with each epoch's order known from the epoch: a resumed run goes on in the order it was in.

    TRL's own draws the orders one after the other and begins again with the first after a resume.
    """

    def __init__(self, trainer: Any) -> None:
        args = trainer.args
        super().__init__(
            data_source=trainer.train_dataset,
            mini_repeat_count=trainer.num_generations,
            batch_size=args.generation_batch_size // trainer.num_generations,
            repeat_count=trainer.num_iterations * args.steps_per_generation,
            shuffle=trainer.shuffle_dataset,
            seed=args.seed,
        )
        self.trainer = trainer

    def __iter__(self) -> Any:
        self.generator.manual_seed(self.seed)
        for _ in range(int(self.trainer.state.epoch or 0)):
            torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()


class Once(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of a dataset, each read once for a batch that asks for it several times: a group's rows share one decoded image."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]  # type: ignore[no-any-return]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        read = {i: self.rows[i] for i in dict.fromkeys(indices)}
        return [dict(read[i]) for i in indices]


class GroupedGRPOTrainer(Saves, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer with `_generate_single_turn` and `_get_per_token_logps_and_entropies` computed by group.

    `why_plain` is None where that is possible, else the reason why TRL's own passes are used. Rewards come from one scorer,
    and every completion is written to `completions_log` with what each part gave it.
    """

    def __init__(
        self,
        *args: Any,
        scorer: Scorer,
        grouped_rollouts: bool = True,
        grouped_logprobs: bool = True,
        completions_log: Path | None = None,
        **kwargs: Any,
    ) -> None:
        self.scorer, self.completions_log = scorer, completions_log
        self.grouped_rollouts, self.grouped_logprobs = grouped_rollouts, grouped_logprobs
        self._scored: list[Completed] = []
        super().__init__(*args, reward_funcs=[_Named(name) for name in scorer.names], **kwargs)
        assert self._tokenizer.padding_side == "left", "padding on the right misplaces image markers"

    def inner(self, model: Any) -> Any:
        """The Qwen2-VL under accelerate's and PEFT's wrappings (an adapter's layers are in it)."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def why_plain(self) -> str | None:
        if type(self.inner(self.model)).__name__ not in SHARED_PREFIX:
            return f"{type(self.inner(self.model)).__name__} is not a Qwen2-VL"
        if self.accelerator.num_processes > 1:
            return "several processes (gradients are reduced by the wrapped model's own forward)"
        if self.args.gradient_checkpointing:
            return "gradient checkpointing keeps no key-value cache"
        return None

    def get_train_dataloader(self) -> Any:
        rows = self.train_dataset  # type: ignore[has-type]
        self.train_dataset = Once(rows)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = rows

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return EpochSampler(self)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        """(completions of all processes, parts), NaN where a part gives none."""
        rollouts = [
            Rollout(c[0]["content"], len(ids), Reference.model_validate_json(row["reference"]), row["question"])
            for row, c, ids in zip(inputs, completions, completion_ids_list, strict=True)
        ]
        parts = self._parts(rollouts)
        self._scored = [
            Completed(
                step=self.state.global_step + 1,
                sample_id=row["sample_id"],
                text=r.text,
                tokens=r.tokens,
                rewards={name: values[i] for name, values in parts.items()},
            )
            for i, (row, r) in enumerate(zip(inputs, rollouts, strict=True))
        ]
        table = [[math.nan if v is None else v for v in values] for values in parts.values()]
        every: torch.Tensor = gather(torch.tensor(table, dtype=torch.float32, device=self.accelerator.device).T.contiguous())
        return every

    def _parts(self, rollouts: Sequence[Rollout]) -> dict[str, list[float | None]]:
        """Each reward's values; where one gives what cannot be learned from, in any process, the training stops here."""
        problem: tuple[str, str | None] | None = None
        parts: dict[str, list[float | None]] = {}
        try:
            parts = self.scorer(rollouts)
        except RunError as e:
            problem = (str(e), e.hint)
        for said in filter(None, all_ranks(problem)):
            raise Halted(f"stopped at step {self.state.global_step + 1}: {said[0]}", hint=said[1])
        return parts

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        out = super()._generate_and_score_completions(inputs)
        advantages = out["advantages"].tolist()
        weights = dict(zip(self.scorer.names, self.reward_weights.tolist(), strict=True))
        for row, advantage in zip(self._scored, advantages, strict=True):
            row.total = sum(weights[k] * v for k, v in row.rewards.items() if v is not None)
            row.advantage = round(advantage, 6)
        rows = gather_object(self._scored)
        if self.completions_log and self.accelerator.is_main_process:
            append_jsonl(self.completions_log, rows)
        return out

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, **kwargs: Any
    ) -> Any:
        if self.why_plain or self.use_vllm or not self.grouped_rollouts or not images:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, **kwargs)
        model, tokenizer = self.inner(self.model), self._tokenizer
        pixels = split_pixels(
            torch.as_tensor(multimodal_fields["pixel_values"]),
            torch.as_tensor(multimodal_fields["image_grid_thw"]),
            [len(i) for i in images],
        )
        owner, first = group_rows([tuple(p) for p in prompt_ids], pixels)
        # the prefix is the whole prompt but its last token, from which every completion starts
        prefixes = [list(prompt_ids[i][:-1]) for i in first]
        step, rank = self.state.global_step, self.accelerator.process_index
        rows = [engine.Row(g, [prompt_ids[i][-1]], f"{step}:{rank}:{i}") for i, g in enumerate(owner)]
        args = GenerationArgs(
            max_new_tokens=self.max_completion_length, temperature=self.temperature, top_p=self.args.top_p, seed=self.args.seed
        )
        training = model.training
        model.eval()
        markers = (model.config.image_token_id, model.config.video_token_id)
        pad, end = tokenizer.pad_token_id, set(self.eos_token_ids)

        def write(groups: Sequence[int]) -> list[tuple[int, engine.Completion]]:
            place = {g: i for i, g in enumerate(groups)}
            mine = [i for i, row in enumerate(rows) if row.prefix in place]
            with self.accelerator.autocast():  # the precision of the passes that follow
                ids, mask = engine.left_pad([prefixes[g] for g in groups], pad, model.device)
                shared = engine.prefill(model, as_inputs(model, ids, mask, [pixels[first[g]] for g in groups]))
                asked = [dataclasses.replace(rows[i], prefix=place[rows[i].prefix]) for i in mine]
                done = engine.complete(model, shared, asked, args, pad=pad, end=end, never=markers)
            return list(zip(mine, done, strict=True))

        # on a CPU each core takes some groups whole; a text depends on its own row alone
        cores = torch.get_num_threads() if model.device.type == "cpu" else 1
        written = on_all_cores(write, evenly(range(len(prefixes)), -(-len(prefixes) // cores)))
        done = [completion for _, completion in sorted((w for part in written for w in part), key=lambda w: w[0])]
        model.train(training)
        return [c.tokens + ([] if c.end is None else [c.end]) for c in done], None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **kwargs: Any
    ) -> Any:
        if self.why_plain or not self.grouped_logprobs or kwargs.get("pixel_values") is None:
            return super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        prompt = input_ids[:, :-logits_to_keep]
        completion, tail = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
        pixels = split_pixels(kwargs["pixel_values"], kwargs["image_grid_thw"], kwargs["num_images"])
        owner, first = group_rows([tuple(p) for p in prompt.tolist()], pixels)
        with self.accelerator.autocast():
            logps, entropies = completion_logps(
                self.inner(model),
                prompt[first],
                attention_mask[first, :-logits_to_keep],
                [pixels[i] for i in first],
                torch.tensor(owner, device=input_ids.device),
                completion,
                tail,
                temperature=self.temperature,
                entropy=kwargs.get("compute_entropy", False),
            )
        return logps, entropies, None


#: Logits held at a time, in bytes of fp32; a larger batch's are computed in parts, and once more in the backward pass.
MOST_LOGITS = 256_000_000


def completion_logps(
    model: Any,
    prompt: torch.Tensor,
    prompt_mask: torch.Tensor,
    pixels: list[tuple[torch.Tensor, torch.Tensor]],
    owner: torch.Tensor,
    completion: torch.Tensor,
    completion_mask: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(log-probabilities, entropies) of the completion tokens, both (rows, completion length), each prompt read once.

    prompt (groups, P), left-padded; completion (rows, C), right-padded; owner (rows,) says which group a row is in.
    Gradients flow through the shared prompts. The entropies carry none.
    """
    out, _, following = engine.read_prompts(model, as_inputs(model, prompt, prompt_mask, pixels))
    cache = out.past_key_values
    cache.batch_select_indices(owner)
    steps = torch.arange(completion.shape[1], device=completion.device)
    hidden = model.model(
        input_ids=completion,
        attention_mask=torch.cat([prompt_mask[owner], completion_mask], 1),
        position_ids=(steps + following[owner][:, None]).expand(3, -1, -1),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, :-1]

    def score(rows: slice, hidden: torch.Tensor, opening: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        logits = torch.cat([opening, model.lm_head(hidden)], 1).float() / temperature
        logps = torch.log_softmax(logits, -1)
        spread = -(logps.exp() * logps).sum(-1).detach() if entropy else None
        return logps.gather(-1, completion[rows, :, None])[..., 0] * completion_mask[rows], spread

    opening = out.logits[owner]
    a_row = 4 * completion.shape[1] * opening.shape[-1]
    size = max(1, MOST_LOGITS // a_row)
    parts = []
    for start in range(0, len(completion), size):
        rows = slice(start, start + size)
        if size >= len(completion):
            parts.append(score(rows, hidden, opening))
        else:
            parts.append(checkpoint(score, rows, hidden[rows], opening[rows], use_reentrant=False))
    logps, spreads = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(spreads) if entropy else None
