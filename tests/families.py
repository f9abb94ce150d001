"""Tiny random vision-language models with their real processors: sixteen families of transformers, 0.1 to 0.7 M parameters each.

    python -m tests.families OUT [FAMILY ...]

Each has the family's own classes, a vocabulary learnt from SLAKE's questions, and a chat template of the published shape. The
weights are drawn so that texts vary from row to row.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from harness import data, specs

Built = tuple[Any, Any]
#: A smaller or larger model: every size goes with it. 192 gives about 3 M parameters.
WIDTH = 64


def text(**more: Any) -> dict[str, Any]:
    """Sizes that all language models share, and what one has more."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH * 2,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        **more,
    }


def tower(**more: Any) -> dict[str, Any]:
    """Sizes of most image encoders."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH * 2,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 112,
        "patch_size": 14,
        **more,
    }


def axes() -> list[int]:
    """Rotary frequencies of each axis: time, height, width."""
    return [WIDTH // 32, 3 * WIDTH // 64, 3 * WIDTH // 64]


SIDE = {"height": 112, "width": 112}

#: {u}, {a}: what opens the user's and the model's turn; {e}: what ends one; {i}: a picture.
TURNS = (
    "{{% for m in messages %}}{u}{{% for c in m['content'] %}}{{% if c['type'] == 'image' %}}{i}{{% else %}}{{{{ c['text'] }}}}"
    "{{% endif %}}{{% endfor %}}{e}{{% endfor %}}{{% if add_generation_prompt %}}{a}{{% endif %}}"
)
CHATML = {"u": "<|im_start|>user\n", "e": "<|im_end|>\n", "a": "<|im_start|>assistant\n"}
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
ROWS_AND_COLUMNS = [f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)]


def vocabulary(
    special: list[str],
    template: str,
    *,
    bos: str | None = None,
    eos: str,
    pad: str | None = None,
    spaces: bool = False,
    names: dict[str, str] | None = None,
) -> Any:
    """A BPE over SLAKE's questions. With `bos` the tokenizer writes it first; with `spaces` words carry theirs as in Llama 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE(unk_token=special[0]) if spaces else models.BPE())
    if spaces:
        bpe.pre_tokenizer, bpe.decoder = (
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            decoders.Metaspace(prepend_scheme="first"),
        )
    else:
        bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = list(map(chr, range(33, 127))) if spaces else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(_questions(), trainer)
    if bos:
        bpe.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bpe.token_to_id(bos))])
    options: dict[str, Any] = {"extra_special_tokens": names} if names else {}
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        chat_template=template,
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )


@functools.cache
def _questions() -> list[str]:
    ((spec, path),) = specs.find("slake")
    samples = data.load(spec, path, source="bundled").samples
    return [f"{s.question} {' '.join(s.reference.answers)}" for s in samples]


def lively(model: Any) -> Any:
    """Weights for which greedy texts depend on picture and question."""
    draw = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if p.dim() > 1 and "norm" not in name:
            wide = "embed_tokens" in name or "lm_head" in name
            p.data.normal_(0, 0.6 if wide else 1.3 / p[0].numel() ** 0.5, generator=draw)
    return model.float().eval()


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    ids = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def qwen2_vl() -> Built:
    template = TURNS.format(i="<|vision_start|><|image_pad|><|vision_end|>", **CHATML)
    t = vocabulary(QWEN, template, eos="<|im_end|>", pad="<|endoftext|>")
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": axes(), "rope_theta": 1e6}
    config = hf.Qwen2VLConfig(
        text_config=text() | {"vocab_size": len(t), "rope_parameters": rope},
        vision_config={"depth": 2, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": 4, "mlp_ratio": 2},
        **qwen_ids(t),
    )
    images = hf.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=168 * 168)
    processor = hf.Qwen2VLProcessor(
        image_processor=images, tokenizer=t, video_processor=hf.Qwen2VLVideoProcessor(), chat_template=template
    )
    return hf.Qwen2VLForConditionalGeneration(config), processor


def qwen2_5_vl() -> Built:
    system = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    template = system + TURNS.format(i="<|vision_start|><|image_pad|><|vision_end|>", **CHATML)
    t = vocabulary(QWEN, template, eos="<|im_end|>", pad="<|endoftext|>")
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": axes(), "rope_theta": 1e6}
    config = hf.Qwen2_5_VLConfig(
        text_config=text() | {"vocab_size": len(t), "rope_parameters": rope},
        vision_config={
            "depth": 3,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH * 2,
            "num_heads": 4,
            "window_size": 56,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [1],
        },
        **qwen_ids(t),
    )
    processor = hf.Qwen2_5_VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=168 * 168),
        tokenizer=t,
        video_processor=hf.Qwen2VLVideoProcessor(),
        chat_template=template,
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> Built:
    template = TURNS.format(i="<|vision_start|><|image_pad|><|vision_end|>", **CHATML)
    t = vocabulary(QWEN, template, eos="<|im_end|>", pad="<|endoftext|>")
    rope = {"rope_type": "default", "mrope_section": axes(), "mrope_interleaved": True, "rope_theta": 1e6}
    config = hf.Qwen3VLConfig(
        text_config=text() | {"vocab_size": len(t), "head_dim": WIDTH // 4, "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH * 2,
            "num_heads": 4,
            "patch_size": 16,
            "out_hidden_size": WIDTH,
            "num_position_embeddings": 144,
            "deepstack_visual_indexes": [0],
        },
        **qwen_ids(t),
    )
    images = hf.Qwen2VLImageProcessor(patch_size=16, min_pixels=64 * 64, max_pixels=192 * 192)
    processor = hf.Qwen3VLProcessor(
        image_processor=images, tokenizer=t, video_processor=hf.Qwen3VLVideoProcessor(), chat_template=template
    )
    return hf.Qwen3VLForConditionalGeneration(config), processor


GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
GEMMA_TURNS = {"u": "<start_of_turn>user\n", "e": "<end_of_turn>\n", "a": "<start_of_turn>model\n"}
WINDOWS = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "sliding_window": 24}


def gemma3() -> Built:
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    template = "{{ bos_token }}" + TURNS.format(i="<start_of_image>", **GEMMA_TURNS).replace("c['text']", "c['text'] | trim")
    t = vocabulary([*GEMMA, *names.values()], template, bos="<bos>", eos="<eos>", pad="<pad>", names=names)
    ids = t.convert_tokens_to_ids
    config = hf.Gemma3Config(
        text_config=text() | WINDOWS | {"vocab_size": len(t), "head_dim": WIDTH // 4, "query_pre_attn_scalar": WIDTH // 4},
        tie_word_embeddings=False,
        vision_config=tower() | {"vision_use_head": False},
        mm_tokens_per_image=16,
        image_token_index=ids("<image_soft_token>"),
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
    )
    images = hf.Gemma3ImageProcessor(size=SIDE, image_seq_length=16)
    return hf.Gemma3ForConditionalGeneration(config), hf.Gemma3Processor(images, t, chat_template=template, image_seq_length=16)


def gemma4() -> Built:
    names = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    template = "{{ bos_token }}" + TURNS.format(i="<|image|>", u="<|turn>user\n", e="<turn|>\n", a="<|turn>model\n")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", *names.values()]
    t = vocabulary(special, template, bos="<bos>", eos="<turn|>", pad="<pad>", names=names)
    images = hf.Gemma4ImageProcessor(max_soft_tokens=70)
    processor = hf.Gemma4Processor(
        feature_extractor=hf.Gemma4AudioFeatureExtractor(),
        image_processor=images,
        tokenizer=t,
        video_processor=hf.Gemma4VideoProcessor(),
        chat_template=template,
    )
    ids = t.convert_tokens_to_ids
    config = hf.Gemma4Config(
        text_config=text()
        | WINDOWS
        | {
            "vocab_size": len(t),
            "vocab_size_per_layer_input": len(t),
            "head_dim": WIDTH // 4,
            "global_head_dim": WIDTH // 4,
            "hidden_size_per_layer_input": 8,
        },
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH * 2,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": WIDTH // 4,
            "position_embedding_size": 128,
        },
        tie_word_embeddings=False,
        audio_config=None,
        image_token_id=ids("<|image|>"),
        boi_token_id=ids("<|image>"),
        eoi_token_id=ids("<image|>"),
        video_token_id=ids("<|video|>"),
    )
    return hf.Gemma4ForConditionalGeneration(config), processor


def internvl() -> Built:
    template = TURNS.format(i="<IMG_CONTEXT>\n", **CHATML)
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    t = vocabulary([*QWEN[:3], *names.values()], template, eos="<|im_end|>", pad="<|endoftext|>", names=names)
    config = hf.InternVLConfig(
        text_config=text() | {"model_type": "qwen2", "vocab_size": len(t)},
        vision_config=tower() | {"image_size": [112, 112], "patch_size": [14, 14]},
        image_token_id=t.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
    )
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(size=SIDE, crop_to_patches=True, max_patches=4),
        t,
        hf.InternVLVideoProcessor(size=SIDE),
        image_seq_length=16,
        chat_template=template,
    )
    return hf.InternVLForConditionalGeneration(config), processor


LLAMA = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
VICUNA = {"u": "USER: ", "e": " ", "a": "ASSISTANT:"}


def clip() -> dict[str, Any]:
    return tower(model_type="clip_vision_model", num_hidden_layers=3, projection_dim=WIDTH)


def llava() -> Built:
    template = TURNS.format(i="<image>\n", **VICUNA)
    t = vocabulary(LLAMA, template, bos="<s>", eos="</s>", pad="<pad>", spaces=True)
    config = hf.LlavaConfig(
        text_config=text() | {"model_type": "llama", "vocab_size": len(t)},
        vision_config=clip(),
        image_token_index=3,
        image_seq_length=64,
    )
    images = hf.CLIPImageProcessor(size={"shortest_edge": 112}, crop_size=SIDE)
    processor = hf.LlavaProcessor(
        images, t, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=template
    )
    return hf.LlavaForConditionalGeneration(config), processor


def llava_next() -> Built:
    template = TURNS.format(i="<image>\n", u="[INST] ", e=" [/INST]", a="")
    t = vocabulary(LLAMA, template, bos="<s>", eos="</s>", pad="<pad>", spaces=True)
    grid = [[112, 224], [224, 112], [224, 224]]
    config = hf.LlavaNextConfig(
        text_config=text() | {"model_type": "mistral", "vocab_size": len(t), "sliding_window": None},
        vision_config=clip(),
        image_token_index=3,
        image_grid_pinpoints=grid,
    )
    images = hf.LlavaNextImageProcessor(size={"shortest_edge": 112}, crop_size=SIDE, image_grid_pinpoints=grid)
    processor = hf.LlavaNextProcessor(
        images, t, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=template
    )
    return hf.LlavaNextForConditionalGeneration(config), processor


def llava_onevision() -> Built:
    template = TURNS.format(i="<image>\n", **CHATML)
    t = vocabulary([*QWEN[:3], "<image>", "<video>"], template, eos="<|im_end|>", pad="<|endoftext|>")
    grid = [[112, 112], [112, 224], [224, 112], [224, 224]]
    config = hf.LlavaOnevisionConfig(
        text_config=text() | {"model_type": "qwen2", "vocab_size": len(t)},
        vision_config=tower() | {"model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=3,
        video_token_index=4,
        image_grid_pinpoints=grid,
    )
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=SIDE, image_grid_pinpoints=grid),
        t,
        hf.LlavaOnevisionVideoProcessor(size=SIDE),
        num_image_tokens=64,
        vision_feature_select_strategy="full",
        chat_template=template,
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def _tiled(opening: str, bos: bool) -> Any:
    """Tokenizer of Idefics 3 and SmolVLM: a picture is a table of tiles and a small whole."""
    template = opening + TURNS.format(i="<image>", u="User:", e="<end_of_utterance>\n", a="Assistant:")
    special = [
        "<pad>",
        opening,
        "<fake_token_around_image>",
        "<image>",
        "<end_of_utterance>",
        "<global-img>",
        "<video>",
        *ROWS_AND_COLUMNS,
    ]
    return vocabulary(special, template, bos=opening if bos else None, eos="<end_of_utterance>", pad="<pad>"), template


def idefics3() -> Built:
    t, template = _tiled("<|begin_of_text|>", bos=True)
    config = hf.Idefics3Config(
        text_config=text() | {"model_type": "llama", "vocab_size": len(t), "pad_token_id": 0},
        vision_config=tower(),
        image_token_id=3,
        scale_factor=2,
        pad_token_id=0,
    )
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 224}, max_image_size={"longest_edge": 112})
    return hf.Idefics3ForConditionalGeneration(config), hf.Idefics3Processor(images, t, image_seq_len=16, chat_template=template)


def smolvlm() -> Built:
    t, template = _tiled("<|im_start|>", bos=False)
    config = hf.SmolVLMConfig(
        text_config=text() | {"model_type": "llama", "vocab_size": len(t), "pad_token_id": 0},
        vision_config=tower(),
        image_token_id=3,
        scale_factor=2,
        pad_token_id=0,
    )
    sizes: dict[str, Any] = {"max_image_size": {"longest_edge": 112}}
    processor = hf.SmolVLMProcessor(
        hf.SmolVLMImageProcessor(size={"longest_edge": 224}, **sizes),
        t,
        hf.SmolVLMVideoProcessor(size={"longest_edge": 112}, **sizes),
        image_seq_len=16,
        chat_template=template,
    )
    return hf.SmolVLMForConditionalGeneration(config), processor


def paligemma() -> Built:
    turn = "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% endif %}{% endfor %}{{ bos_token }}"
    turn += "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"
    template = "{% for m in messages %}" + turn + "{% endfor %}"
    names = {"image_token": "<image>"}
    t = vocabulary(["<pad>", "<eos>", "<bos>", "<unk>", "<image>"], template, bos="<bos>", eos="<eos>", pad="<pad>", names=names)
    images = hf.SiglipImageProcessor(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(images, t, chat_template=template)
    config = hf.PaliGemmaConfig(
        text_config=text() | {"model_type": "gemma", "vocab_size": len(t), "head_dim": WIDTH // 4},
        vision_config=tower()
        | {"model_type": "siglip_vision_model", "image_size": 56, "vision_use_head": False, "projection_dim": WIDTH},
        tie_word_embeddings=False,
        image_token_index=4,
        projection_dim=WIDTH,
        hidden_size=WIDTH,
    )
    return hf.PaliGemmaForConditionalGeneration(config), processor


MISTRAL = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
MISTRAL_TEMPLATE = "{{ bos_token }}" + TURNS.format(i="[IMG]", u="[INST]", e="[/INST]", a="")


def _patches(side: int) -> Any:
    return hf.PixtralImageProcessor(size={"longest_edge": 112}, patch_size={"height": side, "width": side})


def pixtral() -> Built:
    t = vocabulary(MISTRAL, MISTRAL_TEMPLATE, bos="<s>", eos="</s>", pad="<pad>")
    config = hf.LlavaConfig(
        text_config=text() | {"model_type": "mistral", "head_dim": WIDTH // 4, "vocab_size": len(t), "sliding_window": None},
        vision_config=tower(model_type="pixtral"),
        image_token_index=6,
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = hf.PixtralProcessor(_patches(14), t, patch_size=14, chat_template=MISTRAL_TEMPLATE)
    return hf.LlavaForConditionalGeneration(config), processor


def mistral3() -> Built:
    t = vocabulary(MISTRAL, MISTRAL_TEMPLATE, bos="<s>", eos="</s>", pad="<pad>")
    config = hf.Mistral3Config(
        text_config=text() | {"model_type": "mistral", "head_dim": WIDTH // 4, "vocab_size": len(t), "sliding_window": None},
        vision_config=tower(model_type="pixtral"),
        image_token_index=6,
        spatial_merge_size=2,
    )
    processor = hf.PixtralProcessor(_patches(28), t, patch_size=14, spatial_merge_size=2, chat_template=MISTRAL_TEMPLATE)
    return hf.Mistral3ForConditionalGeneration(config), processor


def glm4v() -> Built:
    opening = "[gMASK]<sop>"
    template = opening + TURNS.format(i="<|begin_of_image|><|image|><|end_of_image|>", u="<|user|>\n", e="", a="<|assistant|>\n")
    special = [
        "<|endoftext|>",
        "[gMASK]",
        "<sop>",
        "<|user|>",
        "<|assistant|>",
        "<|begin_of_image|>",
        "<|image|>",
        "<|end_of_image|>",
        "<|begin_of_video|>",
        "<|video|>",
        "<|end_of_video|>",
    ]
    t = vocabulary(special, template, eos="<|user|>", pad="<|endoftext|>")
    ids = t.convert_tokens_to_ids
    rope = {"rope_type": "default", "mrope_section": axes(), "partial_rotary_factor": 1.0, "rope_theta": 1e4}
    config = hf.Glm4vConfig(
        text_config=text() | {"vocab_size": len(t), "pad_token_id": 0, "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "hidden_size": WIDTH,
            "num_heads": 4,
            "intermediate_size": WIDTH * 2,
            "out_hidden_size": WIDTH,
            "image_size": 112,
        },
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )
    images = hf.Glm4vImageProcessor(size={"shortest_edge": 112 * 112, "longest_edge": 2 * 168 * 168})
    processor = hf.Glm4vProcessor(images, t, hf.Glm4vVideoProcessor(), chat_template=template)
    return hf.Glm4vForConditionalGeneration(config), processor


def mllama() -> Built:
    turn = "<|start_header_id|>{}<|end_header_id|>\n\n"
    template = "{{ bos_token }}" + TURNS.format(i="<|image|>", u=turn.format("user"), e="<|eot_id|>", a=turn.format("assistant"))
    special = ["<|begin_of_text|>", "<|eot_id|>", "<|pad|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>"]
    t = vocabulary(special, template, bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|pad|>")
    size = len(t)
    t.add_special_tokens({"additional_special_tokens": ["<|image|>"]})  # its id is the first beyond the output's, as in Llama 3.2
    config = hf.MllamaConfig(
        text_config=text()
        | {
            "num_hidden_layers": 4,
            "vocab_size": size,
            "cross_attention_layers": [1, 3],
            "pad_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        },
        vision_config={
            "hidden_size": WIDTH,
            "num_hidden_layers": 3,
            "num_global_layers": 1,
            "attention_heads": 4,
            "intermediate_size": WIDTH * 2,
            "image_size": 112,
            "patch_size": 14,
            "vision_output_dim": WIDTH * 3,
            "intermediate_layers_indices": [0, 2],
            "max_num_tiles": 4,
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        image_token_index=size,
    )
    images = hf.MllamaImageProcessor(size=SIDE, max_image_tiles=4)
    return hf.MllamaForConditionalGeneration(config), hf.MllamaProcessor(images, t, chat_template=template)


FAMILIES: dict[str, Callable[[], Built]] = {
    f.__name__: f
    for f in (
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        gemma3,
        gemma4,
        internvl,
        llava,
        llava_next,
        llava_onevision,
        idefics3,
        smolvlm,
        paligemma,
        pixtral,
        mistral3,
        glm4v,
        mllama,
    )
}


def build(family: str, root: Path, width: int = 64) -> Path:
    """The family's folder under `root`, written unless it is there."""
    global WIDTH
    WIDTH = width
    folder = root / family
    if not folder.exists():
        torch.manual_seed(0)
        model, processor = FAMILIES[family]()
        t = processor.tokenizer
        model = lively(model)
        end = [
            t.eos_token_id,
            *(i for i in [t.convert_tokens_to_ids("<end_of_turn>")] if isinstance(i, int) and i != t.unk_token_id),
        ]
        model.generation_config.update(eos_token_id=end, pad_token_id=t.pad_token_id, bos_token_id=t.bos_token_id)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    for name in sys.argv[2:] or FAMILIES:
        print(build(name, Path(sys.argv[1])))
