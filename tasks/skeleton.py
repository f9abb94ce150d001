"""A commented YAML for a new task: `harness tasks new`, with columns guessed from a table where one is given."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.archives import Archive
from harness.errors import DataError, UserError
from tasks.layouts.files import KINDS, header

#: Rows that are looked at.
LOOK = 5000

#: What a column may be called, without case and punctuation, the likelier names first.
_NAMES = {
    "id": ["id", "qid", "questionid", "sampleid", "rowid", "uid", "idx", "index"],
    "image": ["image", "images", "img", "imagepath", "imgpath", "imagename", "imgname", "imagefile", "filename", "filepath",
              "file", "path", "imageid", "imgid", "picture"],
    "question": ["question", "query", "prompt", "instruction", "text"],
    "answer": ["answer", "answers", "label", "target", "groundtruth", "gt", "reference", "response", "output"],
    "choices": ["choices", "options"],
    "reasoning": ["reasoning", "rationale", "explanation", "cot"],
    "split": ["split", "subset", "fold"],
}  # fmt: skip
_SPLITS = {"train", "val", "valid", "validation", "dev", "test"}
_SUFFIXES = (".jpg", ".png", ".jpeg")


@dataclass
class Guess:
    """What a skeleton is filled with."""

    folder: str = "."
    splits: dict[str, str] = field(default_factory=lambda: {"test": "rows.csv"})
    columns: dict[str, Any] = field(default_factory=dict)
    images: str = "images"
    separator: str | None = None


EXAMPLE = Guess(columns={"id": "id", "image": "image", "question": "question", "answer": "answer"})


def guess(file: Path, beside: Path) -> Guess:
    """Which column of a table holds what; `beside` is the folder of the YAML to be.

    Raises DataError when the file cannot be read, or has no column that could be the question or the answer.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if not file.resolve().is_relative_to(beside.resolve()):
        raise UserError(f"{file}: not under {beside}", hint="a task's YAML lies beside its data or above it; see --out")
    archive = Archive(file.parent)
    columns, rows = header(archive, file.name, LOOK)
    if not rows:
        raise DataError(f"{file}: no rows")
    found: dict[str, Any] = {}
    for role, names in _NAMES.items():
        if column := _named(columns, names, taken=found.values()):
            found[role] = column
    for role in ("question", "answer"):
        if role not in found:
            raise DataError(f"{file}: no column looks like the {role}", hint=f"found: {', '.join(columns)}")
    if "id" in found and len({str(r.get(found["id"])) for r in rows}) != len(rows):
        del found["id"]  # an id that repeats is something else's
    if "choices" not in found and (lettered := _lettered(columns)):
        found["choices"] = lettered
    out = Guess(folder=os.path.relpath(file.parent.resolve(), beside.resolve()), splits={"test": file.name})
    if "split" in found:
        values = list(dict.fromkeys(str(r.get(found["split"])) for r in rows))
        if set(values) <= _SPLITS:
            out.splits = dict.fromkeys(values, file.name)
        else:
            del found["split"]
    if "choices" in found and isinstance(found["choices"], str):
        out.separator = _separator(r.get(found["choices"]) for r in rows)
    out.images = _image_folder(archive, [r.get(found["image"]) for r in rows[:5]]) if "image" in found else "."
    if slices := _slices(columns, rows, found):
        found["slices"] = slices
    out.columns = found
    return out


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _named(columns: list[str], names: list[str], taken: Iterable[Any]) -> str | None:
    by_plain = {_plain(c): c for c in reversed(columns) if c not in set(taken)}
    return next((by_plain[n] for n in names if n in by_plain), None)


def _lettered(columns: list[str]) -> list[str] | None:
    """Columns A, B, C ... or option_a, option_b ..., as far as they go."""
    by_plain = {_plain(c): c for c in columns}
    for start in ("", "option", "choice"):
        run = []
        for letter in "abcdefghij":
            if start + letter not in by_plain:
                break
            run.append(by_plain[start + letter])
        if len(run) > 1:
            return run
    return None


def _separator(cells: Iterable[Any]) -> str | None:
    """What splits a cell of choices that is not a list."""
    told = [c for c in cells if isinstance(c, str) and c.strip() and not c.lstrip().startswith("[")]
    return next((s for s in ("|", ";", ",") if told and all(s in c for c in told)), None)


def _image_folder(archive: Archive, values: list[Any]) -> str:
    """Where the first image lies: the root, a folder beside the table, with an ending where the names have none."""
    first = next((v for v in values if isinstance(v, str) and v), None)
    if first is None:  # bytes, or a list
        return "."
    folders = [".", *sorted(p.name for p in archive.root.iterdir() if p.is_dir() or p.suffix == ".zip")]
    for folder in folders:
        stem = folder.removesuffix(".zip")
        for suffix in ("", *_SUFFIXES):
            name = first + suffix if folder == "." else f"{stem}/{first}{suffix}"
            try:
                if name in archive:
                    return stem if not suffix else ("" if stem == "." else f"{stem}/") + "{}" + suffix
            except DataError:  # not a path that could be read; validate will say so
                return "."
    return "."


def _slices(columns: list[str], rows: list[dict[str, Any]], found: dict[str, Any]) -> list[str]:
    """Other columns of few different short texts."""
    used = {c for v in found.values() for c in (v if isinstance(v, list) else [v])}
    out = []
    for column in columns:
        values = [r.get(column) for r in rows]
        texts = {v for v in values if isinstance(v, str) and v.strip()}
        few = 2 <= len(texts) <= min(20, len(rows) // 2) and all(len(t) <= 40 for t in texts)
        if column not in used and few and all(v is None or isinstance(v, str) for v in values):
            out.append(column)
    return out


_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "~")


def _yaml(value: Any) -> str:
    """A value on one line; quoted where YAML would read it otherwise."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml(k)}: {_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    plain = re.fullmatch(r"[A-Za-z_./][\w./\-]*", value) and value.lower() not in _WORDS
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


#: What a skeleton says about each column.
_ABOUT = {
    "id": "the row's number where this is left out",
    "image": "a path, a list of paths, or bytes; none for questions without an image",
    "question": "",
    "answer": "a text, a number, or a list of acceptable answers",
    "choices": "a list, or one column for each: [A, B, C, D]",
    "answer_as": "how the answer names a choice: letter, words, index (from 0), number (from 1)",
    "reasoning": "reference reasoning",
    "split": "holds the split's name, where one file holds them all",
    "slices": "what scores are broken down by: [modality, organ]",
}


def _line(code: str, about: str) -> str:
    return f"{code:<34}  # {about}" if about else code


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
        "  columns:",
        *(
            _line(f"    {key}: {_yaml(g.columns[key])}" if key in g.columns else f"    # {key}:", about)
            for key, about in _ABOUT.items()
        ),
        "",
        _line(f"split: {'test' if 'test' in g.splits else next(iter(g.splits))}", "the split that is evaluated"),
        _line("# where: {modality: CT}", "keep only rows whose slice has this value"),
        _line("# drop: {row_id: why}", "rows known to be unusable; counted and shown"),
        "",
        _line("prompt: reasoning", "or non_reasoning, question, or one of your own:"),
        '# prompts: {short: "{question} Answer in one word."}',
        "max_new_tokens: 512",
        _line(
            f"metrics: [exact_match, {'choice_accuracy' if 'choices' in g.columns else 'token_f1'}]",
            "also choice_accuracy, token_f1, bleu, bertscore",
        ),
    ]
    return "\n".join(lines) + "\n"
