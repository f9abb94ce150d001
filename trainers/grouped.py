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
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import gather, gather_object
from pydantic import BaseModel
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from harness.errors import RunError
from harness.models import engine, loading, proof
from harness.models.families import parts
from harness.models.families.prompting import BY_TOKEN
from harness.models.packs import evenly, out_of_memory
from harness.records import GenerationArgs, Reference
from harness.runs import append_jsonl
from harness.threads import on_all_cores
from trainers.health import Halted
from trainers.logps import completion_logps
from trainers.reading import Reader
from trainers.rewards import Rollout, Scorer
from trainers.saving import Saves
from trainers.stopping import all_ranks


def groups_of(rows: Sequence[int]) -> tuple[list[int], list[int]]:
    """(owner, first): which group each row belongs to, and each group's first place. Rows of a group may be apart."""
    found: dict[int, int] = {}
    owner = [found.setdefault(row, len(found)) for row in rows]
    return owner, [owner.index(g) for g in range(len(found))]


def whole(reader: Reader, rows: Sequence[int], ids: torch.Tensor, mask: torch.Tensor, width: int) -> dict[str, Any]:
    """The model's inputs for these rows' prompts, left-padded to `width`, and what ids and mask hold after them."""
    inputs = reader.followed(reader.batch(rows, width), ids[:, width:], mask[:, width:])
    positions = parts.positions(reader.model, inputs)
    return inputs | ({"position_ids": positions} if positions.dim() == 2 else {})  # several axes the model counts itself


class _Shown:
    """A model that is given the pictures of `rows` beside what TRL gives it, batch after batch."""

    def __init__(self, model: Any, reader: Reader, rows: Sequence[int], width: int) -> None:
        self.model, self.reader, self.rows, self.width, self.at = model, reader, rows, width, 0

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
        rows = self.rows[self.at : self.at + len(input_ids)]
        self.at += len(rows)
        return self.model(**whole(self.reader, rows, input_ids, attention_mask, self.width), **kwargs)


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


class GroupedGRPOTrainer(Saves, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer with `_generate_single_turn` and `_get_per_token_logps_and_entropies` computed by group.

    `why_plain` is None where that is possible, else the reason why TRL's own passes are used. Rewards come from one scorer,
    and every completion is written to `completions_log` with what each part gave it.
    """

    def __init__(
        self,
        *args: Any,
        scorer: Scorer,
        reader: Reader,
        grouped_rollouts: bool = True,
        grouped_logprobs: bool = True,
        completions_log: Path | None = None,
        **kwargs: Any,
    ) -> None:
        self.scorer, self.completions_log, self.reader = scorer, completions_log, reader
        self.grouped_rollouts, self.grouped_logprobs = grouped_rollouts, grouped_logprobs
        #: Why rollouts or passes are not computed by group, as rows of the training showed (None: they are).
        self.proved: dict[str, str | None] = {}
        self._scored: list[Completed] = []
        self._rows: list[int] = []
        super().__init__(*args, reward_funcs=[_Named(name) for name in scorer.names], **kwargs)
        assert self._tokenizer.padding_side == "left", "padding on the right misplaces image markers"
        self.generation_config.suppress_tokens = parts.placeholders(self.inner(self.model))

    def inner(self, model: Any) -> Any:
        """The model under accelerate's and PEFT's wrappings (an adapter's layers are in it)."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def why_plain(self) -> str | None:
        if self.accelerator.num_processes > 1:
            return "several processes (gradients are reduced by the wrapped model's own forward)"
        if self.args.gradient_checkpointing:
            return "gradient checkpointing keeps no key-value cache"
        return None

    def _shares(self, what: str, asked: bool, prove: Callable[[], str | None]) -> bool:
        """Whether `what` is computed by group; the first time it is proved on rows of the training."""
        if not asked or self.use_vllm or self.why_plain:
            return False
        if what not in self.proved:
            self.proved[what] = why = prove()
            if why:
                warnings.warn(f"{what} are not computed by group: {why}", stacklevel=1)
        return self.proved[what] is None

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return EpochSampler(self)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        """(completions of all processes, parts), NaN where a part gives none."""
        rollouts = [
            Rollout(c[0]["content"], len(ids), Reference.model_validate_json(row["reference"]), row["question"])
            for row, c, ids in zip(inputs, completions, completion_ids_list, strict=True)
        ]
        found = self._parts(rollouts)
        self._scored = [
            Completed(
                step=self.state.global_step + 1,
                sample_id=row["sample_id"],
                text=r.text,
                tokens=r.tokens,
                rewards={name: values[i] for name, values in found.items()},
            )
            for i, (row, r) in enumerate(zip(inputs, rollouts, strict=True))
        ]
        table = [[math.nan if v is None else v for v in values] for values in found.values()]
        every: torch.Tensor = gather(torch.tensor(table, dtype=torch.float32, device=self.accelerator.device).T.contiguous())
        return every

    def _parts(self, rollouts: Sequence[Rollout]) -> dict[str, list[float | None]]:
        """Each reward's values; where one gives what cannot be learned from, in any process, the training stops here."""
        problem: tuple[str, str | None] | None = None
        found: dict[str, list[float | None]] = {}
        try:
            found = self.scorer(rollouts)
        except RunError as e:
            problem = (str(e), e.hint)
        for said in filter(None, all_ranks(problem)):
            raise Halted(f"stopped at step {self.state.global_step + 1}: {said[0]}", hint=said[1])
        return found

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._rows = [self.reader.places[row["sample_id"]] for row in inputs]
        out = super()._generate_and_score_completions(inputs)
        # TRL shuffles and divides what it knows; a row's place goes along where it keeps pixels
        out["pixel_values"] = torch.tensor(self._rows, device=self.accelerator.device)
        advantages = out["advantages"].tolist()
        weights = dict(zip(self.scorer.names, self.reward_weights.tolist(), strict=True))
        for row, advantage in zip(self._scored, advantages, strict=True):
            row.total = sum(weights[k] * v for k, v in row.rewards.items() if v is not None)
            row.advantage = round(advantage, 6)
        rows = gather_object(self._scored)
        if self.completions_log and self.accelerator.is_main_process:
            append_jsonl(self.completions_log, rows)
        return out

    def _tokenize_prompts(self, prompts: Any) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.reader.ids(self._rows), None, {}

    def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any) -> Any:
        if self._shares("rollouts", self.grouped_rollouts, self._prove_rollouts):
            return self._rollouts(self._rows), None
        if not self.use_vllm:
            inputs = self.reader.batch(self._rows)
            multimodal_fields = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)

    def _rollouts(self, places: Sequence[int]) -> list[list[int]]:
        """A completion for each row."""
        model = self.inner(self.model)
        owner, first = groups_of([self.reader.same[i] for i in places])
        step, rank = self.state.global_step, self.accelerator.process_index
        prompts = [places[i] for i in first]
        last = [ids[-1] for ids in self.reader.ids(prompts)]
        rows = [engine.Row(g, [last[g]], f"{step}:{rank}:{i}") for i, g in enumerate(owner)]
        args = GenerationArgs(
            max_new_tokens=self.max_completion_length, temperature=self.temperature, top_p=self.args.top_p, seed=self.args.seed
        )
        markers = parts.placeholders(model)
        training = model.training
        model.eval()

        def write(groups: Sequence[int]) -> list[tuple[int, engine.Completion]]:
            place = {g: i for i, g in enumerate(groups)}
            mine = [i for i, row in enumerate(rows) if row.prefix in place]
            with self.accelerator.autocast():  # the precision of the passes that follow
                shared = engine.prefill(model, opened(self.reader.batch([prompts[g] for g in groups])))
                asked = [dataclasses.replace(rows[i], prefix=place[rows[i].prefix]) for i in mine]
                done = engine.complete(
                    model, shared, asked, args, pad=self.reader.prompting.pad, end=set(self.eos_token_ids), never=markers
                )
            return list(zip(mine, done, strict=True))

        # on a CPU each core takes some groups whole; a text depends on its own row alone
        cores = torch.get_num_threads() if model.device.type == "cpu" else 1
        written = on_all_cores(write, evenly(range(len(prompts)), -(-len(prompts) // cores)))
        done = [completion for _, completion in sorted((w for part in written for w in part), key=lambda w: w[0])]
        model.train(training)
        return [c.tokens + ([] if c.end is None else [c.end]) for c in done]

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **kwargs: Any
    ) -> Any:
        places = kwargs.pop("pixel_values", None)
        rows = self._rows if places is None else places.tolist()
        width = input_ids.shape[1] - logits_to_keep
        kept = {k: kwargs[k] for k in ("batch_size", "compute_entropy", "compute_aux_loss") if k in kwargs}

        def plain(mine: Sequence[int], padding: int = 0, **kept: Any) -> Any:
            shown = _Shown(model, self.reader, [rows[i] for i in mine], width - padding)
            ids, mask = (F.pad(t[mine], (-padding, 0)) for t in (input_ids, attention_mask))  # a negative one cuts
            return super(GroupedGRPOTrainer, self)._get_per_token_logps_and_entropies(shown, ids, mask, logits_to_keep, **kept)

        def grouped(mine: Sequence[int], entropy: bool = False) -> Any:
            owner, first = groups_of([self.reader.same[rows[i]] for i in mine])
            with self.accelerator.autocast():
                return completion_logps(
                    self.inner(model),
                    self.reader.batch([rows[mine[i]] for i in first], width),
                    torch.tensor(owner, device=input_ids.device),
                    input_ids[mine, width:],
                    attention_mask[mine, width:],
                    temperature=self.temperature,
                    entropy=entropy,
                )

        every, padding = list(range(len(rows))), (attention_mask == 0).int().cumprod(1).sum(1).tolist()
        few = sorted({every[round(k * (len(rows) - 1) / (proof.ROWS - 1))] for k in range(proof.ROWS)})
        if not self._shares("log-probabilities", self.grouped_logprobs, lambda: self._prove_logps(few, padding, plain, grouped)):
            return plain(every, **kept)
        return *grouped(every, kept.get("compute_entropy", False)), None

    # -- proofs: a model that counts positions, windows or masks in a way of its own must not train on other numbers ----------

    @torch.no_grad()
    def _prove_rollouts(self) -> str | None:
        """None where a few of the first prompts get the same greedy text by group and by the model's own `generate`."""
        model, reader = self.inner(self.model), self.reader
        rows = list(dict.fromkeys(reader.same[i] for i in self._rows))[: proof.ROWS]
        training, end = model.training, set(self.eos_token_ids)
        model.eval()
        try:
            with self.accelerator.autocast():
                plain = proof.generated(model, reader.batch(rows), end)
                shared = engine.prefill(model, opened(reader.batch(rows)))
                asked = [engine.Row(i, [ids[-1]], str(i)) for i, ids in enumerate(reader.ids(rows))]
                traces = proof.shared(model, shared, asked, reader.prompting.pad, end)
                return proof.why_not(
                    traces,
                    plain,
                    lambda: [t for row in rows for t in proof.generated(model, reader.batch([row]), end)],
                    self._computed_in,
                )
        except Exception as e:  # whatever an unknown model raises: its own generate decides what is an error
            return _unable(e)
        finally:
            model.train(training)

    @torch.no_grad()
    def _prove_logps(
        self, rows: list[int], padding: list[int], plain: Callable[..., Any], grouped: Callable[..., Any]
    ) -> str | None:
        """None where a few rows' log-probabilities are TRL's own, within rounding.

        In a shorter format than fp32: one step of the format, or twice what TRL's own differ by when each row is read alone, with
        less padding or more.
        """
        training = self.model.training
        self.model.eval()  # so that no dropout makes them differ
        try:
            theirs, ours = plain(rows)[0], grouped(rows)[0]
            most = float(theirs.abs().max().clamp(min=1))
            difference = float((ours - theirs).abs().max()) / most
            allowed = proof.ROUNDING
            if difference > allowed and self._computed_in != torch.float32:
                alone = [torch.cat([plain([i], less(i))[0] for i in rows]) for less in (padding.__getitem__, lambda _: -7)]
                spread = max(float((a - theirs).abs().max()) for a in alone) / most
                allowed = max(torch.finfo(self._computed_in).eps, 2 * spread)
        except Exception as e:
            return _unable(e)
        finally:
            self.model.train(training)
        if difference <= allowed:
            return None
        return f"compared with TRL's own they differ by {difference:.1g} of their size"

    @property
    def _computed_in(self) -> torch.dtype:
        kept: torch.dtype = self.inner(self.model).dtype
        return torch.bfloat16 if self.args.bf16 else kept


def _unable(e: Exception) -> str:
    if out_of_memory(e):
        raise e
    return f"the model cannot go on from a shared prompt ({type(e).__name__}: {loading.first_line(e)})"


def opened(prompts: dict[str, Any]) -> dict[str, Any]:
    """Left-padded prompts without their last token, from which every completion starts."""
    return {k: v[:, :-1] if k in BY_TOKEN else v for k, v in prompts.items()}
