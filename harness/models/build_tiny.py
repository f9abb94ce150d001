"""Pre-train the tiny model: a real Qwen2-VL of 2.9 M parameters, from random weights, on 2 CPU cores.

    harness model build tiny --out DIR

It sees SLAKE's bundled training rows *without* the 716 abnormality rows, so that these stay a new domain for the
trainers. Half of the time a row is answered directly, half as `<think>...</think><answer>...</answer>`; each
of the harness's prompts is used, and each of their fixed texts is one token of its vocabulary (2.9 M parameters
are better spent on images than on reading the same 40 words a thousand times).

The recipe is seeded; the same library versions on the same machine give the same weights.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.prompts import PROMPTS, Prompt
from harness.records import Sample

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
           "<|video_pad|>"]  # fmt: skip
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DIRECT = [PROMPTS["question"], PROMPTS["non_reasoning"]]
THINKING = [PROMPTS[n] for n in ("reasoning", "explanation", "short_form", "open_ended")]

VOCABULARY = 2000
BATCH = 32
LEARNING_RATE = 1.5e-3
SIDE = 168  # pixels: at most 36 image tokens


def think(sample: Sample, rng: random.Random) -> str:
    """What the row's own annotation says of the image, in one or two sentences."""
    modality = {"X-Ray": "an x-ray", "CT": "a CT", "MRI": "an MRI"}[sample.slices["modality"]]
    text = f"This is {modality} of the {sample.slices['organ'].replace('_', ' ').lower()}."
    if rng.random() < 0.5:
        text += f" So the answer is {sample.reference.answers[0].lower()}."
    return text


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE over `texts`, with the chat, vision and tag markers and the prompts as tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    pieces = {p.strip() for prompt in PROMPTS.values() for p in (prompt.before, prompt.after) if p.strip()}
    bpe.add_tokens([AddedToken(t, normalized=False, special=False) for t in TAGS + sorted(pieces, key=len, reverse=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left", chat_template=TEMPLATE
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLForConditionalGeneration:
    """Qwen2-VL's architecture at 2.9 M parameters, with random weights."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    token = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer), "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
            "max_position_embeddings": 2048, "bos_token_id": token("<|im_start|>"), "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": True,
        },
        vision_config={"depth": 4, "embed_dim": 128, "hidden_size": 192, "num_heads": 4, "mlp_ratio": 2},
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    image = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=SIDE * SIDE)
    return Qwen2VLProcessor(
        image_processor=image, tokenizer=tokenizer, video_processor=Qwen2VLVideoProcessor(), chat_template=TEMPLATE
    )


class Batches:
    """Shuffled training batches; images are preprocessed once and kept."""

    def __init__(self, samples: Sequence[Sample], processor: Qwen2VLProcessor, rng: random.Random) -> None:
        self.samples, self.processor, self.rng = list(samples), processor, rng
        self.pixels: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def _image(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        if sample.pictured not in self.pixels:
            out = self.processor.image_processor(images=[sample.images[0].open()], return_tensors="pt")
            self.pixels[sample.pictured] = (out["pixel_values"], out["image_grid_thw"])
        return self.pixels[sample.pictured]

    def _text(self, sample: Sample) -> tuple[Prompt, str]:
        answer = sample.reference.answers[0].lower()
        if self.rng.random() < 0.5:
            return self.rng.choice(DIRECT), answer
        return self.rng.choice(THINKING), f"<think>{think(sample, self.rng)}</think><answer>{answer}</answer>"

    def batch(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Left-padded inputs; labels cover the assistant's words alone."""
        import torch

        merge = self.processor.image_processor.merge_size**2
        images = [self._image(s) for s in samples]
        prompts, answers = [], []
        for s, (_, grid) in zip(samples, images, strict=True):
            prompt, answer = self._text(s)
            message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.render(s.question)}]}]
            text = self.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            prompts.append(text.replace("<|image_pad|>", "<|image_pad|>" * (int(grid.prod()) // merge)))
            answers.append(answer + "<|im_end|>")
        tok = self.processor.tokenizer
        enc = tok([p + a for p, a in zip(prompts, answers, strict=True)], padding=True, return_tensors="pt")
        labels = torch.full_like(enc["input_ids"], -100)
        for i, a in enumerate(answers):
            n = len(tok(a)["input_ids"])
            labels[i, -n:] = enc["input_ids"][i, -n:]
        return {
            "input_ids": enc["input_ids"],
            "attention_mask": enc["attention_mask"],
            "mm_token_type_ids": (enc["input_ids"] == tok.convert_tokens_to_ids("<|image_pad|>")).int(),
            "labels": labels,
            "pixel_values": torch.cat([p for p, _ in images]),
            "image_grid_thw": torch.cat([g for _, g in images]),
        }

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            self.rng.shuffle(self.samples)
            for k in range(0, len(self.samples) - BATCH + 1, BATCH):
                yield self.batch(self.samples[k : k + BATCH])


def build(
    train: Sequence[Sample], out: Path, *, epochs: int = 8, seed: int = 0, report: Callable[[int, int, float], Any] | None = None
) -> None:
    """Train on `train` (SLAKE rows with modality and organ slices) and save model and processor to `out`.

    `report(step, steps, loss)` is called after every step.
    """
    import torch

    rng = random.Random(seed)
    torch.manual_seed(seed)
    rows = [s for s in train if s.reference.answers and s.slices["content_type"] != "Abnormality"]
    texts = [f"{s.question} {s.reference.answers[0]} {think(s, rng)}" for s in rows for _ in range(2)]
    processor = make_processor(make_tokenizer(texts + ["user assistant no lesion is marked. it shows"] * 50))
    model = make_model(processor.tokenizer)

    steps = epochs * (len(rows) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1)
    model.train()
    for step, batch in enumerate(Batches(rows, processor, rng), start=1):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if report:
            report(step, steps, loss.item())
        if step == steps:
            break
    model.to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)
