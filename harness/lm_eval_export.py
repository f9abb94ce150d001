"""Our tasks as lm-eval's: a YAML without code, the rows as JSONL, the images as files.

    harness export lm-eval DIR --tasks slake
    lm_eval run --include_path DIR --tasks slake_reasoning --model hf-multimodal --model_args pretrained=CKPT \\
        --apply_chat_template

    DIR/TASK_PROMPT.yaml
    DIR/NAME-model                          with --model, where lm-eval would send a model's opening token twice: its files, so
                                            that it does not
    DIR/TASK-SPLIT-ROWS/metadata.jsonl      id, question, answers, file_names, slices; ROWS hashes the rows
    DIR/TASK-SPLIT-ROWS/images/HASH.jpg     each image once

lm-eval finds data by the working directory, so the YAML names the folder by its absolute path: export again after moving it.
The score is exact match without regard to case, on what stands in the last <answer> or after the thinking (in any marker that
harness/answers/thinking.py knows) or, without any, on the whole text. Our
exact judge is kinder (punctuation, "Yes, it is"), so compare numbers made by one of the two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import __version__
from harness.answers.thinking import ANSWER as ANSWER_MARKERS
from harness.answers.thinking import THINKING
from harness.data import LoadedTask
from harness.errors import DataError, UserError
from harness.images import portable
from harness.prompts import Prompt, placed
from harness.records import Sample
from harness.runs import slug, write_atomic

IMAGE = "<image>"  # lm-eval's placeholder
_OPEN, _CLOSE = ("|".join(marker[i] for marker in THINKING) for i in (0, 1))
_BEGIN, _END = ("|".join(marker[i] for marker in ANSWER_MARKERS) for i in (0, 1))
#: Takes from a text what `harness.answers.read` calls its answer: the last answer block, else what follows the thinking, else,
#: where nothing is marked, all of it.
ANSWER = (
    rf"(?ism)(?:{_BEGIN})((?:(?!{_BEGIN}|{_CLOSE}).)*?)(?:{_END}|\Z)|(?:{_CLOSE})((?:(?!{_BEGIN}|{_CLOSE}).)*)\Z"
    rf"|\A((?:(?!{_OPEN}|{_CLOSE}|{_BEGIN}|{_END}).)*)(?:{_END})?\s*\Z"
)


def targets(sample: Sample) -> list[str]:
    """The texts that count as right. For a choice: its letter in the usual spellings, and its own words."""
    reference = sample.reference
    if reference.kind != "choice":
        return list(reference.answers)
    from harness.answers import letter

    choices = reference.choices or ()
    right = {found for a in reference.answers if (found := letter(a, choices))}
    spelt = [s for x in sorted(right) for s in (x, f"({x})", f"{x}.", f"{x})", choices[ord(x) - 65])]
    return list(dict.fromkeys([*reference.answers, *spelt]))


def template(prompt: Prompt, images: int) -> str:
    """The prompt as a Jinja template with lm-eval's image placeholders. Raises UserError for one that cannot be written."""
    for part in (prompt.before, prompt.after):
        if IMAGE in part or "{% endraw" in part:
            raise UserError(f"prompt '{prompt.name}': holds {IMAGE} or '{{% endraw', which lm-eval would read as its own")

    def quoted(part: str) -> str:
        return f"{{% raw %}}{part}{{% endraw %}}" if "{" in part else part

    return IMAGE * images + quoted(prompt.before) + "{{question}}" + quoted(prompt.after)


def yaml_text(task: LoadedTask, prompt: Prompt, data: Path, name: str, max_new_tokens: int) -> str:
    """The task as YAML; values are JSON, which YAML 1.1 and 1.2 read alike."""
    counts = {len(s.images) for s in task.samples}
    if len(counts) != 1:
        raise UserError(f"task '{task.spec.name}': rows with {sorted(counts)} images cannot share one lm-eval template")
    (images,) = counts
    config: dict[str, Any] = {
        "task": name,
        "dataset_path": "imagefolder" if images else "json",
        "dataset_kwargs": {
            "data_files": {"test": [str(data / "metadata.jsonl"), *([str(data / "images" / "*")] if images else [])]}
        },
        "test_split": "test",
        "output_type": "generate_until",
        **({"doc_to_image": "images"} if images else {}),
        "doc_to_text": template(prompt, images),
        "doc_to_target": "answers",
        "generation_kwargs": {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": max_new_tokens},
        "filter_list": [
            {
                "name": "answer",
                "filter": [
                    {"function": "regex", "regex_pattern": ANSWER, "group_select": -1, "fallback": ""},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}],
        "metadata": {"version": float(task.spec.version), "data_fingerprint": task.card.fingerprint, "prompt": prompt.name},
    }
    head = [
        f"{task.spec.title}, split {task.card.split}, {len(task.samples)} rows ({task.card.resolution})",
        f"licence of the data: {task.spec.license}",
        f"written by medvlm-harness {__version__}; run with --apply_chat_template",
    ]
    lines = [f"# {' '.join(h.split())}" for h in head] + [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in config.items()]
    return "\n".join(lines) + "\n"


def model_folder(name: str, out: Path) -> Path | str:
    """What to give lm-eval as `pretrained` so that it sends this checkpoint's own prompts.

    lm-eval renders the chat template and lets the processor tokenise it, which writes the opening token once more where the
    template has written it (Gemma 3, Pixtral, Mllama, ...). For such a model this makes a folder under `out` with links to its
    files and a tokenizer that leaves the opening token to the template; any other is returned as it is. Raises ModelError.
    """
    from huggingface_hub import try_to_load_from_cache
    from tokenizers.processors import TemplateProcessing

    from harness.models import loading
    from harness.models.families.prompting import Prompting

    found = loading.resolve(name)
    processor = loading.load_processor(found)
    if not Prompting(processor, found.name).writes_opening():
        return found.base
    if found.adapter:
        raise UserError(f"{name}: is an adapter", hint="merge it first: harness train export CKPT OUT --merge")
    base = Path(found.base)
    if not base.is_dir():
        cached = try_to_load_from_cache(found.base, "config.json")
        if not isinstance(cached, str):
            raise UserError(f"{name}: is not in the local cache", hint="run it once, or give a folder")
        base = Path(cached).parent
    folder = out.resolve() / f"{slug(found.name)}-model"
    folder.mkdir(parents=True, exist_ok=True)
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    processor.tokenizer.add_bos_token = False
    processor.save_pretrained(folder)
    for file in base.resolve().iterdir():
        if file.is_file() and not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())
    return folder


def _row(sample: Sample, files: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"id": sample.id, "question": sample.question, "answers": targets(sample), "slices": sample.slices}
    return row | ({"file_names": list(files)} if files else {})


def export(task: LoadedTask, prompt: Prompt, out: Path, *, max_new_tokens: int | None = None) -> Path:
    """Write one task under `out` and return its YAML. `max_new_tokens` None is the task's own.

    Raises DataError for a row that lm-eval would misread, UserError for a prompt or a task that its format cannot hold.
    """
    split = task.card.split
    if prompt.system or prompt.shots:
        raise UserError(f"prompt '{prompt.label}': a system turn and examples are for lm-eval's own flags to give")
    name = "_".join([task.spec.name, *([split] if split != task.spec.split else []), prompt.name])
    data = out.resolve() / f"{task.spec.name}-{split}-{task.card.fingerprint[:8]}"
    text = yaml_text(task, prompt, data, name, max_new_tokens or task.spec.max_new_tokens)
    for sample in task.samples:
        if sample.system or sample.history or not sample.reference.answers or placed(sample.question, len(sample.images)):
            kinds = {"a system turn": sample.system, "earlier turns": sample.history, "no answer": not sample.reference.answers}
            what = next((kind for kind, there in kinds.items() if there), "images within its question")
            raise DataError(f"task '{task.spec.name}', row {sample.id}: {what}, which lm-eval's task format cannot hold")
        if IMAGE in sample.question:
            raise DataError(f"task '{task.spec.name}', row {sample.id}: the question holds {IMAGE}, lm-eval's own placeholder")
    (data / "images").mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    rows = []
    for sample in task.samples:
        for image in sample.images:
            if image.sha256 not in written:
                file = portable(image)
                written[image.sha256] = f"images/{image.sha256[:24]}{file.suffix}"
                (data / written[image.sha256]).write_bytes(file.data)
        rows.append(_row(sample, [written[i.sha256] for i in sample.images]))
    write_atomic(data / "metadata.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    path = out / f"{name}.yaml"
    write_atomic(path, text)
    return path
