"""A commented YAML for a new task: `harness tasks new`, filled with what `tasks.guess` found in a table."""

from __future__ import annotations

import json
import re
from typing import Any

from tasks.guess import Guess
from tasks.layouts.files import KINDS

_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "~")


def _yaml(value: Any) -> str:
    """A value on one line; quoted where YAML would read it otherwise."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml(k)}: {_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    plain = re.fullmatch(r"[A-Za-z_./][\w./\-]*", value) and value.lower() not in _WORDS
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


#: What a skeleton says about each column.
_ABOUT = {
    "id": "the row's number where this is left out",
    "image": "a path, a list of paths, bytes or base64; none for questions without an image",
    "images_optional": "true: rows without an image are asked without one",
    "messages": "a conversation that holds question and answer",
    "ask": "the same question for every row, where there is no column of questions",
    "question": "",
    "answer": "a text, a number, or a list of acceptable answers",
    "choices": "a list, an object by letter, or one column for each: [A, B, C, D]",
    "choices_in": "question: the choices stand in it",
    "answer_as": "how the answer names a choice: letter, words, index (from 0), number (from 1); or yesno",
    "reasoning": "reference reasoning",
    "split": "holds the split's name, where one file holds them all",
    "cluster": "patient, study or case: rows of one are not independent",
    "slices": "what scores are broken down by: [modality, organ]",
}


def _line(code: str, about: str) -> str:
    return f"{code:<34}  # {about}" if about else code


def _evaluated(g: Guess) -> str:
    return next((s for s in g.splits if s.lower().endswith("test")), next(iter(g.splits)))


def write(name: str, g: Guess) -> str:
    """The YAML's text."""
    kinds = ", ".join(k.removeprefix(".") for k in KINDS)
    lines = [
        "# yaml-language-server: $schema=task.schema.json",
        "# Completion in an editor: harness tasks schema > task.schema.json",
        f"# Check this file and all that it names: harness tasks validate {name}.yaml",
        "",
        f"name: {_yaml(name)}",
        f"title: {_yaml(name)}",
        _line("license: unknown", "the data's licence"),
        _line("may_leave_machine: false", "true only if an API model or judge may ever see these rows"),
        "",
        _line("local:", "under --data-dir, else beside this file"),
        f"  folder: {_yaml(g.folder)}",
        _line(f"  splits: {_yaml(g.splits)}", f"{kinds}; or a pattern: data/test-*.parquet"),
        _line(f"  images: {_yaml(g.images)}", "folder, or zip of that name, of the images; or a pattern: imgs/{}.jpg"),
        _line(
            f"  {'' if g.separator else '# '}separator: {_yaml(g.separator or '|')}",
            "splits one cell into several answers, choices or images",
        ),
        *([_line(f"  encoding: {_yaml(g.encoding)}", "what the table's text is, where it is not UTF-8")] if g.encoding else []),
        "  columns:",
        *(
            _line(f"    {key}: {_yaml(g.columns[key])}" if key in g.columns else f"    # {key}:", about)
            for key, about in _ABOUT.items()
        ),
        "",
        _line(f"split: {_yaml(_evaluated(g))}", "the split that is evaluated"),
        _line("# where: {modality: CT}", "keep only rows whose slice has this value"),
        _line("# drop: {row_id: why}", "rows known to be unusable; counted and shown"),
        "",
        _line("prompt: reasoning", "or non_reasoning, question, or one of your own:"),
        '# prompts: {short: "{question} Answer in one word."}',
        "max_new_tokens: 512",
        _line(
            f"metrics: [exact_match, {'choice_accuracy' if {'choices', 'choices_in'} & set(g.columns) else 'token_f1'}]",
            "also choice_accuracy, token_f1, bleu, bertscore",
        ),
    ]
    return "\n".join(lines) + "\n"
