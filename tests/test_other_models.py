"""A checkpoint that transformers cannot load, or loads and cannot ask with chat and picture: one message, never a traceback."""

import json
import shutil

import pytest
import transformers as hf

from harness.errors import ModelError
from harness.models import TINY, loading
from harness.models.transformers_model import TransformersModel

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
D_MODEL = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}


def _vit_gpt2() -> hf.PreTrainedModel:
    decoder = hf.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=300, add_cross_attention=True)
    return hf.VisionEncoderDecoderModel(
        hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(hf.ViTConfig(**TOWER), decoder)
    )


KINDS = {
    "a text model": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)),
    "an old text model": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=300)),
    "a text encoder": lambda: hf.BertModel(hf.BertConfig(**SIZES)),
    "a text encoder and decoder": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, vocab_size=300)
    ),
    "speech": lambda: hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(**D_MODEL, vocab_size=300, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    ),
    "pictures and texts in one space": lambda: hf.CLIPModel(hf.CLIPConfig(text_config=SIZES, vision_config=TOWER)),
    "a picture classifier": lambda: hf.ViTForImageClassification(hf.ViTConfig(**TOWER)),
    "captions": lambda: hf.GitForCausalLM(hf.GitConfig(vision_config=TOWER, **SIZES)),
    "captions by BLIP": lambda: hf.BlipForConditionalGeneration(
        hf.BlipConfig(text_config={**SIZES, "encoder_hidden_size": 32}, vision_config=TOWER)
    ),
    "a picture's encoder and a text's decoder": _vit_gpt2,
    "a state space model": lambda: hf.MambaForCausalLM(hf.MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=300)),
}  # fmt: skip


def refused(folder) -> str:
    with pytest.raises(ModelError) as e:
        TransformersModel(str(folder), device="cpu")
    message = f"{e.value} {e.value.hint}"
    assert "\n" not in message
    assert e.value.hint
    return message


@pytest.mark.parametrize("beside", ["alone", "with a processor"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_model(kind, beside, tmp_path):
    folder = tmp_path / "model"
    KINDS[kind]().save_pretrained(folder)
    if beside == "with a processor":  # what turns a chat into tokens is there, and of another model
        for file in TINY.iterdir():
            if file.is_file() and not (folder / file.name).exists() and file.suffix != ".safetensors":
                shutil.copy(file, folder / file.name)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": None}, {"model_type": "not_a_model"}, {"model_type": 7}, {"text_config": 3},
        {"architectures": ["NoModel"], "model_type": "clip"}, {"vision_config": {"depth": -1}},
        {"quantization_config": {"quant_method": "awq"}}, {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"compression_config": {"format": "pack-quantized"}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_configuration_that_is_no_models(change, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= change
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None or k != "model_type"}))
    assert str(folder) in refused(folder)


def test_layers_are_spread_whole_or_not_at_all(tmp_path):
    """On this machine they all have one place; where some had none, or an adapter had to follow, it is refused."""
    from types import SimpleNamespace

    spread = TransformersModel("tiny", device="cpu", spread=True)
    assert spread.why_plain is None
    checkpoint = loading.resolve("tiny")
    fits = SimpleNamespace(hf_device_map={"a": 0, "b": 1}, eval=lambda: "model")
    assert loading._spread(checkpoint, fits) == "model"
    for elsewhere in ("cpu", "disk"):
        with pytest.raises(ModelError, match="does not fit on the devices"):
            loading._spread(checkpoint, SimpleNamespace(hf_device_map={"a": 0, "b": elsewhere}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device-map", "balanced"], "--device-map balanced: expected auto"),
        (["--device-map", "auto", "--device", "cpu"], "takes all devices itself"),
        (["--device-map", "auto", "--backend", "vllm"], "vLLM"),
        (["--backend", "sglang"], "--backend sglang: unknown"),
        (["--backend", "vllm"], "vLLM is not installed"),
        (["--backend", "vllm", "--api-base", "http://127.0.0.1:1/v1"], "for a checkpoint in process"),
    ],
)
def test_backends_that_cannot_be(command, tmp_path, words, said):
    code, _, err = command("run", "--model", "tiny", "--tasks", "slake", "--limit", "2", "--runs", tmp_path, *words)
    assert code in (1, 2)
    assert said in err
    assert "Traceback" not in err


def test_apples_gpu_is_picked_with_its_format(monkeypatch):
    """Untested on a real one."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert loading.pick_device("auto") == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: True)
    assert loading.pick_dtype("auto", "mps") is torch.bfloat16
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: False)
    assert loading.pick_dtype("auto", "mps") is torch.float32
    assert loading.pick_attention("auto", "mps", torch.float32)[0] == "sdpa"
