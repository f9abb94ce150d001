"""What is loaded is what was saved, or it is refused: checkpoints as other tools, older versions and accidents leave them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import ModelError, RunError
from harness.models import TINY, loading

Tensors = dict[str, torch.Tensor]
PEFT = "base_model.model."
#: A recipe of the adapter's shape.
MATCHING = ("--set", "lora.r=4", "--set", "lora.alpha=8", "--set", "lora.target_modules=[q_proj, v_proj]", "--set", "max_steps=1",
            "--data", "bundled", "--device", "cpu")  # fmt: skip


def write(tensors: Tensors, path: Path) -> None:
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def weights() -> Tensors:
    return load_file(TINY / "model.safetensors")


@pytest.fixture(scope="module")
def lora(tmp_path_factory) -> Path:
    """An adapter on tiny that changes it a good deal."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base(), config)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    model.peft_config["default"].base_model_name_or_path = "tiny"
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def base() -> torch.nn.Module:
    return loading.load_weights(loading.resolve("tiny"), torch.float32, "cpu")


def load(folder: Path) -> Tensors:
    return loading.load_weights(loading.resolve(str(folder)), torch.float32, "cpu").state_dict()


def refused(folder: Path) -> str:
    """What is said of a checkpoint that cannot be used, with the way out."""

    def use() -> None:
        checkpoint = loading.resolve(str(folder))
        loading.load_processor(checkpoint)
        loading.load_weights(checkpoint, torch.float32, "cpu")

    with pytest.raises(ModelError) as e:
        use()
    assert str(folder) in str(e.value)
    assert e.value.hint
    assert "\n" not in str(e.value)
    return f"{e.value} | {e.value.hint}"


@pytest.fixture
def full(tmp_path) -> Callable[..., Path]:
    """A folder like tiny's with other tensors."""

    def make(tensors: Tensors | None = None, **config: object) -> Path:
        folder = tmp_path / "full"
        shutil.copytree(TINY, folder)
        if tensors is not None:
            write(tensors, folder / "model.safetensors")
        about = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(about | config))
        return folder

    return make


@pytest.fixture
def adapter(tmp_path, lora) -> Callable[..., Path]:
    """A folder like the adapter's with other tensors."""

    def make(change: Callable[[Tensors], Tensors] = dict, **config: object) -> Path:
        folder = tmp_path / "adapter"
        shutil.copytree(lora, folder)
        write(change(load_file(lora / "adapter_model.safetensors")), folder / "adapter_model.safetensors")
        about = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(about | config))
        return folder

    return make


def same(found: Tensors, wanted: Tensors) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


# -- full models ------------------------------------------------------------------------------------------------------


def new_name(name: str) -> str:
    return f"model.{name}" if name.startswith("visual") else name.replace("model.", "model.language_model.", 1)


LOADS = {
    "as saved": lambda w: w,
    "new names": lambda w: {new_name(k): v for k, v in w.items()},
    "old and new names mixed": lambda w: {new_name(k) if "layers.1" in k else k: v for k, v in w.items()},
    "fp32": lambda w: {k: v.float() for k, v in w.items()},
    "the tied head too": lambda w: w | {"lm_head.weight": w["model.embed_tokens.weight"]},
    "a buffer that older versions saved": lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)},
}


@pytest.mark.parametrize("case", LOADS)
def test_a_whole_model_loads_as_it_is(case, full, weights) -> None:
    assert same(load(full(LOADS[case](weights))), base().state_dict())


def test_fp16_is_read_as_fp16(full, weights) -> None:
    found = load(full({k: v.half() for k, v in weights.items()}))
    assert torch.equal(found["model.language_model.norm.weight"], weights["model.norm.weight"].half().float())


def test_a_head_of_its_own_is_loaded_though_the_configuration_ties_it(full, weights) -> None:
    found = load(full(weights | {"lm_head.weight": -weights["model.embed_tokens.weight"]}))
    assert torch.equal(found["lm_head.weight"], -weights["model.embed_tokens.weight"].float())


def sharded(folder: Path, weights: Tensors, *, skip: str = "") -> Path:
    """The folder's weights in two files with an index."""
    (folder / "model.safetensors").unlink()
    names = {k: f"model-{1 + k.startswith('visual')}-of-2.safetensors" for k in weights}
    for file in set(names.values()) - {skip}:
        write({k: v for k, v in weights.items() if names[k] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def test_shards_are_read_together_and_none_may_be_missing(full, weights, tmp_path) -> None:
    folder = sharded(full(), weights)
    assert same(load(folder), base().state_dict())
    (folder / "model-2-of-2.safetensors").unlink()
    assert "1 of 2 files that model.safetensors.index.json names are missing (model-2-of-2.safetensors)" in refused(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="no weight_map"):
        loading.resolve(str(folder))
    (folder / "model.safetensors.index.json").unlink()
    assert "no model.safetensors and no model.safetensors.index.json, only model-1-of-2.safetensors" in refused(folder)


def without(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda w: {k: v for k, v in w.items() if not any(p in k for p in parts)}


def under(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda w: {prefix + k: v for k, v in w.items()}


def spoilt(part: str, value: float) -> Callable[[Tensors], Tensors]:
    """One number in one tensor."""

    def change(w: Tensors) -> Tensors:
        name = next(k for k in w if part in k)
        tensor = w[name].float().clone()
        tensor.view(-1)[-1] = value
        return w | {name: tensor}

    return change


def reshaped(part: str, tensor: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda w: {k: tensor if part in k else v for k, v in w.items()}


def twice(w: Tensors) -> Tensors:
    return w | {"model.language_model.norm.weight": w["model.norm.weight"] * 2}


BROKEN = {
    "no vision tower": (without("visual"), "55 of the model's 106 tensors are missing"),
    "no projector": (without("visual.merger"), "visual.merger"),
    "no patch embedding": (without("patch_embed"), "1 of the model's 106 tensors are missing (model.visual.patch_embed.proj"),
    "a layer too few": (without("model.layers.2."), "12 of the model's 106 tensors are missing"),
    "a block too few": (without("visual.blocks.3."), "visual.blocks.3"),
    "a bias too few": (without("layers.1.self_attn.q_proj.bias"), "1 of the model's 106 tensors are missing"),
    "no embeddings": (without("embed_tokens"), "embed_tokens"),
    "no last norm": (without("model.norm"), "model.language_model.norm.weight"),
    "a layer too many": (
        lambda w: w | {"model.layers.9.mlp.down_proj.weight": w["model.layers.0.mlp.down_proj.weight"]},
        "1 are not the model's (model.language_model.layers.9.mlp.down_proj.weight)",
    ),
    "something else": (lambda w: w | {"value_head.weight": torch.zeros(1, 192)}, "1 are not the model's (value_head.weight)"),
    "module.": (under("module."), "every name begins with 'module.'"),
    "_orig_mod.": (under("_orig_mod."), "every name begins with '_orig_mod.'"),
    "base_model.model.": (under("base_model.model."), "every name begins with 'base_model.model.'"),
    "policy.module.": (under("policy.module."), "every name begins with 'policy.module.'"),
    "another shape": (
        reshaped("model.norm", torch.ones(191)),
        "1 have another shape (model.language_model.norm.weight [191] for",
    ),
    "shards that were not gathered": (reshaped("q_proj.weight", torch.empty(0)), "4 have another shape"),
    "NaN in the vision tower": (spoilt("visual.blocks.2.mlp", float("nan")), "1 of 106 tensors are not finite (model.visual"),
    "NaN in the projector": (spoilt("visual.merger", float("nan")), "model.visual.merger"),
    "infinity in the language model": (spoilt("layers.3.mlp.up", float("inf")), "1 of 106 tensors are not finite"),
    "minus infinity in a bias": (spoilt("k_proj.bias", float("-inf")), "1 of 106 tensors are not finite"),
    "NaN in the embeddings": (spoilt("embed_tokens", float("nan")), "tensors are not finite"),
    "one tensor by two names": (twice, "twice"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_model_that_is_not_what_was_saved_is_refused(case, full, weights) -> None:
    change, said = BROKEN[case]
    assert said in refused(full(change(weights)))


def test_a_model_of_another_size_is_refused(full, weights) -> None:
    about = json.loads((TINY / "config.json").read_text())
    assert "12 of the model's 118 tensors are missing" in refused(
        full(weights, text_config=about["text_config"] | {"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5})
    )


def test_weights_that_overflow_in_half_precision_are_refused(full, weights) -> None:
    folder = full(spoilt("model.norm", 1e6)(weights))
    load(folder)
    with pytest.raises(ModelError, match="not finite") as e:
        loading.load_weights(loading.resolve(str(folder)), torch.float16, "cpu")
    assert "--dtype bfloat16" in str(e.value.hint)


@pytest.mark.parametrize("keep", [0, 5, 200, 100_000])
def test_a_file_that_was_cut_off_is_refused(keep, full) -> None:
    folder = full()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors: is damaged or cut off" in refused(folder)


# -- folders ----------------------------------------------------------------------------------------------------------

FOREIGN = {
    "DeepSpeed": (["config.json", "zero_to_fp32.py", "global_step40/mp_rank_00_model_states.pt"], "zero_to_fp32.py {} OUT"),
    "DeepSpeed, the inner folder": (["mp_rank_00_model_states.pt"], "sharded weights of DeepSpeed"),
    "FSDP": (["config.json", "pytorch_model_fsdp_0/__0_0.distcp"], "accelerate merge-weights {}/pytorch_model_fsdp_0 OUT"),
    "FSDP, the inner folder": (["__0_0.distcp", ".metadata"], "sharded weights of FSDP"),
    "pickled": (["config.json", "pytorch_model.bin", "training_args.bin"], "pickled weights, which can run code (pytorch_model"),
    "GGUF": (["model-Q4_K_M.gguf"], "GGUF weights of llama.cpp"),
    "flax": (["config.json", "flax_model.msgpack"], "weights of another framework"),
    "only checkpoints": (
        ["run.yaml", "checkpoint-50/config.json", "checkpoint-100/config.json"],
        "the models in it are checkpoint-50, checkpoint-100 | give {}/checkpoint-100",
    ),
    "only adapters' checkpoints": (["checkpoint-9/adapter_config.json"], "give {}/checkpoint-9"),
    "nothing": ([], "is empty"),
    "no weights": (["config.json", "training_args.bin"], "no *.safetensors"),
    "a pickled adapter": (["adapter_config.json", "adapter_model.bin"], "pickled weights, which can run code (adapter_model"),
    "an adapter under DeepSpeed": (
        ["adapter_config.json", "global_step3/x.pt", "zero_to_fp32.py"],
        "sharded weights of DeepSpeed",
    ),
    "an adapter without weights": (["adapter_config.json"], "no adapter_model.safetensors"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_of_other_files_is_told_by_what_it_holds(case, tmp_path) -> None:
    files, said = FOREIGN[case]
    folder = tmp_path / "other"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text('{"base_model_name_or_path": "tiny"}')
    assert said.format(folder) in refused(folder)


def test_code_that_came_with_a_checkpoint_is_not_run(full) -> None:
    code = {"auto_map": {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.X"}}
    assert "needs code of its own (auto_map in config.json), which is not run" in refused(full(model_type="x", **code))


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "fp8"])
def test_quantised_weights_are_refused_before_they_are_read(method, full) -> None:
    how = {"quant_method": method, "bits": 4, "group_size": 128, "load_in_4bit": True}
    assert f"is quantised ({method}), which is not computed in process" in refused(full(quantization_config=how))


def test_a_text_model_is_no_image_text_model(full) -> None:
    assert "image-text model" in refused(full(model_type="llama", architectures=["LlamaForCausalLM"]))


# -- tokenizer, template, processor -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["chat_template.jinja"], "no chat template"),
        (["tokenizer.json", "tokenizer_config.json"], "no tokenizer"),
        (["tokenizer.json"], "tokenizer"),
        (["processor_config.json"], "processor"),
        (["processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"], "processor"),
    ],
)  # fmt: skip
def test_a_model_without_what_turns_a_question_into_tokens_is_refused(gone, said, full) -> None:
    folder = full()
    for name in gone:
        (folder / name).unlink()
    message = refused(folder)
    assert said in message
    assert "from the model that it was trained from" in message


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.json"])
def test_a_chat_template_is_found_where_older_versions_kept_it(place, full) -> None:
    folder = full()
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    about = json.loads((folder / place).read_text()) if (folder / place).exists() else {}
    (folder / place).write_text(json.dumps(about | {"chat_template": template}))
    assert loading.load_processor(loading.resolve(str(folder))).chat_template == template


def more_tokens(folder: Path, n: int) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens([f"<extra_{i}>" for i in range(n)])
    tokenizer.save_pretrained(folder)


def test_tokens_without_an_embedding_are_refused(full, adapter, command, tmp_path) -> None:
    for n, folder in enumerate([full(), adapter()]):
        more_tokens(folder, 3)
        code, _, said = command(
            "run", "--model", folder, "--tasks", "slake", "--limit", "4", "--device", "cpu", "--runs", tmp_path / f"runs{n}"
        )
        assert code == 2
        assert f"{folder}: 3 tokens of the tokenizer have no embedding: the model has 1375 rows, and '<extra_0>' is 1375" in said
        assert not (tmp_path / f"runs{n}").exists()


def test_more_embeddings_than_tokens_are_padding(full, weights) -> None:
    about = json.loads((TINY / "config.json").read_text())
    padded = torch.cat([weights["model.embed_tokens.weight"], torch.zeros(25, 192)])
    folder = full(weights | {"model.embed_tokens.weight": padded}, text_config=about["text_config"] | {"vocab_size": 1400})
    checkpoint = loading.resolve(str(folder))
    model = loading.load_weights(checkpoint, torch.float32, "cpu")
    from harness.models.weights import check_vocabulary

    check_vocabulary("padded", model, loading.load_processor(checkpoint))


# -- adapters ---------------------------------------------------------------------------------------------------------


def old_names(w: Tensors) -> Tensors:
    """As PEFT wrote them while transformers named the language model `model.layers`."""
    return {k.replace("model.model.language_model.layers", "model.model.layers"): v for k, v in w.items()}


def no_prefix(w: Tensors) -> Tensors:
    return {k.removeprefix(PEFT): v for k, v in w.items()}


@pytest.mark.parametrize("change", [dict, old_names, no_prefix], ids=["as saved", "old names", "no prefix"])
def test_an_adapter_changes_the_base_by_what_it_holds(change, adapter, lora) -> None:
    found, tiny, held = load(adapter(change)), base().state_dict(), load_file(lora / "adapter_model.safetensors")
    moved = {k for k in tiny if not torch.equal(tiny[k], found[k])}
    assert moved == {k.removeprefix(PEFT).split(".lora_")[0] + ".weight" for k in held}
    for name in moved:
        a, b = (held[f"{PEFT}{name.removesuffix('.weight')}.lora_{x}.weight"] for x in "AB")
        assert torch.allclose(found[name], tiny[name] + 2 * b @ a, atol=1e-6)


def test_an_adapter_in_half_precision_loads(adapter) -> None:
    found = load(adapter(lambda w: {k: v.bfloat16() for k, v in w.items()}))
    assert not torch.equal(
        found["model.language_model.layers.0.self_attn.q_proj.weight"],
        base().state_dict()["model.language_model.layers.0.self_attn.q_proj.weight"],
    )


def like(name: str, part: str) -> Callable[[Tensors], Tensors]:
    """One more tensor, of another's shape."""
    return lambda w: w | {name: next(v for k, v in w.items() if part in k)}


L0 = f"{PEFT}model.language_model.layers.0"
BROKEN_ADAPTERS = {
    "unknown names": (lambda w: {k.replace("language_model", "foo"): v for k, v in w.items()}, "16 of the model's 16 tensors"),
    "the adapter's name left in": (lambda w: {k.replace(".weight", ".default.weight"): v for k, v in w.items()}, "16 are not"),
    "module.": (under("module."), "16 of the model's 16 tensors are missing"),
    "PEFT around PEFT": (under(PEFT), "16 of the model's 16 tensors are missing"),
    "half its layers": (without("layers.2", "layers.3"), "8 of the model's 16 tensors are missing"),
    "A alone": (without("lora_B"), "8 of the model's 16 tensors are missing"),
    "B alone": (without("lora_A"), "8 of the model's 16 tensors are missing"),
    "one module": (without("v_proj"), "8 of the model's 16 tensors are missing"),
    "a layer beyond the model's": (
        like(f"{PEFT}model.language_model.layers.9.self_attn.q_proj.lora_A.weight", "lora_A"),
        "1 are not the model's",
    ),
    "a module that its configuration does not name": (
        like(f"{L0}.self_attn.o_proj.lora_A.weight", "lora_A"),
        "1 are not the model's",
    ),
    "the vision tower": (like(f"{PEFT}model.visual.blocks.0.attn.qkv.lora_A.weight", "lora_A"), "1 are not the model's"),
    "a weight of the base": (lambda w: w | {f"{PEFT}model.language_model.norm.weight": torch.ones(192)}, "1 are not the model's"),
    "a head that is not trained": (lambda w: w | {f"{PEFT}score.weight": torch.ones(2, 192)}, "1 are not the model's"),
    "NaN in A": (spoilt("layers.1.self_attn.q_proj.lora_A", float("nan")), "1 of 16 tensors are not finite"),
    "infinity in B": (spoilt("layers.3.self_attn.v_proj.lora_B", float("inf")), "1 of 16 tensors are not finite"),
    "another rank": (lambda w: {k: v[:2] if "lora_A" in k else v[:, :2] for k, v in w.items()}, "16 have another shape"),
    "another base's width": (lambda w: {k: v.repeat(1, 2) if "lora_A" in k else v for k, v in w.items()}, "8 have another shape"),
    "shards that were not gathered": (lambda w: {k: torch.empty(0) for k in w}, "16 have another shape"),
    "a resized vocabulary": (
        lambda w: w | {f"{PEFT}model.language_model.embed_tokens.weight": torch.ones(1379, 192)},
        "1 have another shape (base_model.model.model.language_model.embed_tokens.weight [1379, 192] for [1375, 192])",
    ),
    "old names and new": (lambda w: old_names(w) | w, "twice"),
}


@pytest.mark.parametrize("case", BROKEN_ADAPTERS)
def test_an_adapter_that_is_not_what_was_saved_is_refused(case, adapter) -> None:
    change, said = BROKEN_ADAPTERS[case]
    assert said in refused(adapter(change))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 8}, "16 have another shape"),
        ({"target_modules": ["q_proj"]}, "8 are not the model's"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "8 of the model's 24 tensors are missing"),
        ({"target_modules": ["query"]}, "does not fit the base"),
        ({"layers_to_transform": [0, 1]}, "8 are not the model's"),
        ({"modules_to_save": ["lm_head"]}, "1 of the model's 17 tensors are missing (base_model.model.lm_head.weight)"),
        ({"use_dora": True}, "8 of the model's 24 tensors are missing"),
        ({"alpha_pattern": {"layers.0.self_attn.k_proj": 64}}, "alpha_pattern names 'layers.0.self_attn.k_proj'"),
        ({"rank_pattern": {"q_proj": 2}}, "have another shape"),
        ({"use_tomorrows_lora": True}, "PEFT does not know (use_tomorrows_lora)"),
        ({"peft_type": "NOVEL"}, "does not fit the base"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "adapter"),
        ({"base_model_name_or_path": "./gone/away"}, "is missing"),
    ],
)  # fmt: skip
def test_an_adapter_under_another_configuration_is_refused(config, said, adapter) -> None:
    assert said in refused(adapter(**config))


def test_old_names_in_an_adapters_configuration_are_renamed(adapter, tmp_path) -> None:
    paths = [f"model.layers.{n}.self_attn.{m}_proj" for n in range(4) for m in "qv"]
    found = load(adapter(old_names, target_modules=paths, alpha_pattern={paths[0]: 16}))
    shutil.rmtree(tmp_path / "adapter")
    alike = load(adapter(alpha_pattern={r"layers\.0\.self_attn\.q_proj": 16}))
    assert same(found, alike)


def test_tensors_that_are_saved_whole_are_loaded_whole(tmp_path) -> None:
    """modules_to_save, and the embeddings that PEFT adds when asked to, by old names too."""
    from peft import LoraConfig, get_peft_model

    for n, modules in enumerate([["model.visual.merger.mlp.2"], ["norm"]]):
        model = get_peft_model(base(), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=modules, task_type="CAUSAL_LM"))
        for name, p in model.named_parameters():
            if "modules_to_save" in name or "lora_B" in name:
                p.data += 0.5
        model.peft_config["default"].base_model_name_or_path = "tiny"
        folder = tmp_path / f"adapter{n}"
        model.save_pretrained(folder, save_embedding_layers=True)
        saved = load_file(folder / "adapter_model.safetensors")
        found = load(folder)
        whole = {k.removeprefix(PEFT): v for k, v in saved.items() if "lora_" not in k}
        assert whole
        assert all(torch.equal(found[k], v) for k, v in whole.items())
        write(
            old_names({k.replace("model.model.language_model.", "model.model."): v for k, v in saved.items()}),
            folder / "adapter_model.safetensors",
        )
        assert same(load(folder), found)
        write({k: v for k, v in saved.items() if "lora_" in k}, folder / "adapter_model.safetensors")
        assert "tensors are missing" in refused(folder)


def test_the_base_of_an_adapter_is_checked_as_any_model(adapter, full, weights) -> None:
    folder = adapter(base_model_name_or_path=str(full(without("visual")(weights))))
    message = refused(folder)
    assert "its base" in message
    assert "55 of the model's 106 tensors are missing" in message


def test_an_adapters_own_tokenizer_and_template_are_used(adapter, tiny) -> None:
    from transformers import AutoTokenizer

    folder = adapter()
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "helper\n")
    tokenizer.save_pretrained(folder)
    checkpoint = loading.resolve(str(folder))
    found = loading.load_processor(checkpoint)
    assert found.chat_template == tokenizer.chat_template != tiny.processor.chat_template
    assert found.image_processor.size == tiny.processor.image_processor.size
    assert found.tokenizer.padding_side == "left"
    ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it normal?"}]}]
    assert found.apply_chat_template(ask, add_generation_prompt=True, tokenize=False).endswith("helper\n")
    before = loading.settings_sha256(checkpoint)
    (folder / "chat_template.jinja").unlink()
    assert loading.load_processor(checkpoint).chat_template == tiny.processor.chat_template
    assert loading.settings_sha256(checkpoint) != before


def test_an_adapters_own_image_settings_are_used(adapter, tiny) -> None:
    folder = adapter()
    about = json.loads((TINY / "processor_config.json").read_text())
    about["image_processor"]["size"]["longest_edge"] = 3136
    (folder / "processor_config.json").write_text(json.dumps(about))
    found = loading.load_processor(loading.resolve(str(folder)))
    assert found.image_processor.size["longest_edge"] == 3136
    assert found.tokenizer.get_vocab() == tiny.processor.tokenizer.get_vocab()


def test_a_small_adapter_is_not_rounded_away_in_bf16(adapter, tmp_path) -> None:
    """tiny's weights are bf16 numbers: what is smaller than half a step of one is lost when it is added in bf16."""
    from trainers.export import export

    folder = adapter(lambda w: {k: v / 1000 if "lora_B" in k else v for k, v in w.items()})
    checkpoint = loading.resolve(str(folder))
    plain = loading.load_weights(loading.resolve("tiny"), torch.bfloat16, "cpu")
    found = loading.load_weights(checkpoint, torch.bfloat16, "cpu")
    assert type(found) is type(plain)
    layer = found.model.language_model.layers[0].self_attn.q_proj
    added = layer.get_delta_weight("default")
    assert 0 < float(((layer.base_layer.weight + added).bfloat16() != layer.base_layer.weight).float().mean()) < 0.2
    question = torch.randn(4, 192, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    wanted = question.float() @ (layer.base_layer.weight.float() + added).T + layer.base_layer.bias.float()
    assert torch.allclose(layer(question).float(), wanted, rtol=2**-7, atol=1e-3)
    card = loading.model_card(checkpoint, found)
    assert card.adapter == "beside"
    assert card.parameters == sum(p.numel() for p in plain.parameters())
    assert loading.model_card(checkpoint, loading.load_weights(checkpoint, torch.float32, "cpu")).adapter == "merged"
    said: list[str] = []
    export(folder, tmp_path / "merged", merge=True, say=said.append)
    assert re.search(r"rounded to bf16 they would keep \d+ % of what the adapter adds", said[0])


def test_an_adapter_that_adds_nothing_is_said(adapter, command, tmp_path) -> None:
    folder = adapter(lambda w: {k: 0 * v if "lora_B" in k else v for k, v in w.items()})
    run = ("--tasks", "slake", "--limit", "4", "--max-new-tokens", "4", "--device", "cpu", "--data", "bundled")
    code, _, said = command("run", "--model", folder, *run, "--runs", tmp_path / "runs")
    assert code == 0, said
    assert f"{folder}: the adapter adds nothing to its base" in said


KINDS = {
    "tied embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "a head of its own": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "every linear layer": {"target_modules": "all-linear"},
    "ranks and scales of their own": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 32},
    },
    "DoRA": {"target_modules": ["q_proj"], "use_dora": True},
    "biases": {"target_modules": ["q_proj"], "bias": "all"},
    "new tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6, 7]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_gives_the_logits_it_was_saved_with(kind, tmp_path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(base(), LoraConfig(r=2, task_type="CAUSAL_LM", **KINDS[kind]))
    for p in model.parameters():
        if p.requires_grad:
            p.data += 0.05 * torch.randn_like(p)
    model.peft_config["default"].base_model_name_or_path = "tiny"
    model.eval().save_pretrained(tmp_path / "adapter")
    ids = torch.arange(20, 60)[None]
    with torch.inference_mode():
        wanted = model(input_ids=ids).logits
        found = loading.load_weights(loading.resolve(str(tmp_path / "adapter")), torch.float32, "cpu")(input_ids=ids).logits
    assert torch.allclose(found, wanted, atol=1e-4)


def test_an_adapter_beside_its_base_gives_the_same_text_in_packs_and_in_batches(lora, slake) -> None:
    from harness.models.transformers_model import TransformersModel
    from harness.prompts import PROMPTS
    from harness.records import GenerationArgs

    answers = {}
    for share, dtype in (("auto", "bfloat16"), ("auto", "float32"), ("off", "float32")):
        model = TransformersModel(str(lora), device="cpu", dtype=dtype, share_prefix=share)
        assert model.why_plain == (None if share == "auto" else "asked for")
        done = model.generate(slake.samples[:12], PROMPTS["non_reasoning"], GenerationArgs(max_new_tokens=6))
        answers[share, dtype] = {p.sample_id: p.text for batch in done for p in batch}
    assert answers["auto", "float32"] == answers["off", "float32"]
    assert set(answers["auto", "bfloat16"]) == set(answers["off", "float32"])


# -- merging, training, judging ---------------------------------------------------------------------------------------


def test_merging_proves_that_the_weights_changed(adapter, tmp_path, monkeypatch) -> None:
    from harness.models import adapters as checks
    from trainers.export import export

    folder = adapter(old_names)
    merged = load(export(folder, tmp_path / "merged", merge=True))
    assert same(merged, load(folder))

    def unmerged(adapted, _):
        return adapted.unload()

    whole = checks.merged
    for n, wrong in enumerate([unmerged, lambda a, f: whole(a, f).bfloat16()]):
        monkeypatch.setattr(checks, "merged", wrong)
        with pytest.raises(RunError, match=r"8 weights are not the base's with the adapter's added \(model\.language_model"):
            export(folder, tmp_path / f"wrong{n}", merge=True)
        assert not (tmp_path / f"wrong{n}").exists()
        assert not list(tmp_path.glob(".wrong*"))


@pytest.mark.parametrize("what", ["export", "train", "show"])
def test_every_way_to_a_model_refuses_what_was_not_saved_whole(what, adapter, tmp_path, command) -> None:
    folder = adapter(without("layers.2"), target_modules=["q_proj", "v_proj"])
    out = tmp_path / "out"
    code, _, said = {
        "export": lambda: command("train", "export", folder, out, "--merge"),
        "train": lambda: command("train", "sft", "--model", folder, "--task", "slake_grounded", "--out", out, *MATCHING),
        "show": lambda: command("model", "show", folder),
    }[what]()
    assert code == 2, said
    assert f"{folder}: what was saved is not this model: 4 of the model's 16 tensors are missing" in said
    assert not list(tmp_path.glob("*out*"))


def test_an_adapter_on_another_base_than_it_was_trained_on_is_said(tmp_path, adapter, full, weights, command) -> None:
    folder = adapter(base_model_name_or_path=str(full()))
    (folder / "trained.json").write_text(json.dumps({"base_weights_sha256": loading.sha256_of(TINY)}))
    run = ("--tasks", "slake", "--limit", "4", "--max-new-tokens", "4", "--device", "cpu", "--data", "bundled")
    code, _, said = command("run", "--model", folder, *run, "--runs", tmp_path / "one")
    assert code == 0, said
    assert "another base" not in said

    write(spoilt("model.norm", 0.5)(weights), tmp_path / "full" / "model.safetensors")
    code, _, said = command("run", "--model", folder, *run, "--runs", tmp_path / "two", "--quiet")
    assert code == 0, said
    note = f"{folder}: is put on another base than it was trained on"
    assert note in said
    (card,) = (tmp_path / "two").rglob("card.json")
    assert note in json.loads(card.read_text())["model"]["note"]
    code, _, said = command("train", "export", folder, tmp_path / "merged", "--merge")
    assert code == 0, said
    assert note in said


@pytest.mark.slow
def test_a_training_writes_down_which_base_it_trained(tmp_path, full, command) -> None:
    code, _, said = command("train", "sft", "--model", full(), "--task", "slake_grounded", "--out", tmp_path / "out", *MATCHING)
    assert code == 0, said
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-1"):
        assert json.loads((folder / "trained.json").read_text())["base_weights_sha256"] == loading.sha256_of(TINY)


def test_a_judge_is_checked_as_any_model(full, weights, adapter) -> None:
    from judges.local import LocalModel

    with pytest.raises(ModelError, match="55 of the model's 106 tensors are missing"):
        LocalModel(str(full(without("visual")(weights))), "cpu").load()
    with pytest.raises(ModelError, match="8 of the model's 16 tensors are missing"):
        LocalModel(str(adapter(without("lora_B"))), "cpu").load()


@pytest.fixture(scope="module")
def text_model(tmp_path_factory) -> Path:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("text") / "llama"
    config = LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=1375)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


def test_a_text_model_that_judges_is_checked_too(text_model, tmp_path) -> None:
    from judges.local import LocalModel

    LocalModel(str(text_model), "cpu").load()
    held = load_file(text_model / "model.safetensors")
    cases = {
        "2 of the model's 21 tensors are missing": lambda f: write(without("norm.weight")(held), f / "model.safetensors"),
        "not finite": lambda f: write(spoilt("up_proj", float("nan"))(held), f / "model.safetensors"),
        "no tokenizer": lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")],
        "no chat template": lambda f: (f / "chat_template.jinja").unlink(),
    }
    for n, (said, spoil) in enumerate(cases.items()):
        folder = tmp_path / str(n)
        shutil.copytree(text_model, folder)
        spoil(folder)
        with pytest.raises(ModelError) as e:
            LocalModel(str(folder), "cpu").load()
        assert said.split(" ", 1)[-1] in str(e.value)
        assert str(folder) in str(e.value)
