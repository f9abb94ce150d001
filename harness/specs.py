"""Task specs: YAML -> a validated TaskSpec, found by name. Errors name file:line, the key and the nearest valid name.

A spec says what to ask and where the rows are: on the hub, in a local archive, bundled with the package; each source with
its own layout, splits and columns. YAML here is data: tags are refused (nothing can run code), keys must be known, and
paths stay in their root.
"""

from __future__ import annotations

import codecs
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, Field, ValidationError, ValidationInfo
from pydantic import field_validator as check

from harness import plugins
from harness.archives import inside
from harness.columns import Columns as Columns
from harness.columns import Names
from harness.columns import Strict as Strict
from harness.errors import SpecError, UserError
from harness.pictures import Frame, Window
from harness.plugins import did_you_mean
from harness.prompts import PROMPTS, Prompt


def _inside(path: str) -> str:
    if why := inside(path):
        raise ValueError(f"'{path}' {why}; give a relative path without '..'")
    return path


def _folder(path: str) -> str:
    """A folder of images may be absolute: whoever wrote the YAML says where they lie. Names within data may not."""
    return path if Path(path).is_absolute() or path.startswith("~/") else _inside(path)


def _encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"no encoding named '{name}'; common ones are utf-8, latin-1, cp1252, utf-16, gbk") from None
    return name


RelativePath = Annotated[str, AfterValidator(_inside)]
Metric = Literal[
    "exact_match", "choice_accuracy", "token_f1", "bleu", "bertscore",
    "report_bleu", "rouge1", "rouge2", "rougeL", "report_bertscore",
    "radgraph", "chexbert_5", "chexbert_14", "ratescore", "green", "radeval_bertscore",
]  # fmt: skip

M = TypeVar("M", bound=BaseModel)

#: The slices that every row has, derived where the data does not give them (see harness/data.py).
DERIVED = ("form", "question_word")


class Origin(Strict):
    """What the hub's copy and a local one have in common."""

    layout: str = "table"
    """Who reads the files: `table` (JSONL, JSON, CSV, TSV, parquet), or another entry point under harness.layouts."""
    splits: Annotated[dict[str, RelativePath], Field(min_length=1)]
    """Our split names -> what the layout calls them; for `table` a file, or a pattern such as data/test-*.parquet.
    rows.json#test is the list `test` of an object. "{subject}/test-*.parquet" gives the rows a column `subject`, by folder;
    rows.json#{subset}.test one by list."""
    columns: Columns = Columns()
    images: RelativePath = "."
    """Folder that image paths are relative to; or a pattern for names without ending, such as "imgs/{}.jpg"."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """Splits one text cell (CSV) into several answers, choices or images."""
    encoding: Annotated[str, AfterValidator(_encoding)] | None = None
    """Of text files that are not UTF-8: latin-1, cp1252, gbk ... A byte order mark is seen without it."""
    note: str | None = None
    """Said whenever rows are read from here."""


class Hub(Origin):
    """A dataset repo on the hub."""

    repo: Annotated[str, Field(pattern=r"^[\w.\-]+/[\w.\-]+$")]
    revision: str | None = None
    """A commit, for the same rows for ever; the default branch where this is left out. The commit used is recorded."""
    files: list[RelativePath] = []
    """Patterns of the files to fetch; "{split}" stands for the split's value. By default that value alone."""


class Local(Origin):
    """The official archive, unpacked or zipped, under `--data-dir`; beside the YAML when no such folder is given."""

    folder: RelativePath = "."
    """The archive's folder, or the zip of that name."""
    images: Annotated[str, AfterValidator(_folder)] = "."
    """Folder that image paths are relative to, which may lie elsewhere (an absolute path; --images overrides it); or a
    pattern for names without ending, such as "imgs/{}.jpg"."""
    extra: dict[str, RelativePath] = {}
    """Further folders that the layout uses where they exist."""


class Bundled(Strict):
    """Small real data in the folder `bundled/` beside the YAML."""

    folder: RelativePath
    resolution: str
    """Recorded with every score, so that small images are never taken for the original ones."""
    splits: dict[str, str] | None = None
    """Our split names -> the bundle's; by default those of the other sources."""
    note: str | None = None
    """Said whenever rows are read from here."""


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_\-]*$")]


class TaskSpec(Strict):
    """One benchmark: which rows, how they are asked, how they are scored, what may be done with them."""

    name: Name
    title: str
    version: int = 1
    description: str = ""
    license: str
    homepage: str | None = None
    citation: str | None = None
    kind: Literal["picture", "text", "report", "rubric"] = "picture"
    """Questions on pictures, questions in words alone, reports to be written, or conversations marked by a rubric."""
    gate: str | None = None
    """What must be agreed to or asked for before the rows can be had."""
    verified: bool = True
    """Whether rows of the source itself were read with this spec; else it is written from what is published of them."""
    may_leave_machine: bool = False
    """Whether an API model or judge may see questions and answers, once the user allows external calls."""
    hub: Hub | None = None
    local: Local | None = None
    bundled: Bundled | None = None
    split: Annotated[str, Field(validate_default=True)] = "test"
    """The split that is evaluated."""
    rows: dict[str, Annotated[int, Field(gt=0)]] = {}
    """Usable rows of a split, as published: `harness tasks validate` says when it finds another number."""
    where: dict[str, Names] = {}
    """Keep only rows whose slice has this value, or one of these."""
    window: Window | None = None
    """The grey values that are shown of DICOM and of grey of more than 8 bits; else the file's own window, or all of them."""
    frame: Frame | None = None
    """Which frame of stacks and animations is shown: a number from 1, first, middle or last. A row names its own as PATH#N."""
    drop: dict[str, str] = {}
    """Rows known to be unusable: id -> why. Counted and shown."""
    slices: list[str] = Field(default_factory=lambda given: _default_slices(given))
    """What scores are broken down by; by default the columns' slices, `form` and `question_word`."""
    prompts: dict[str, str] = {}
    """Prompts of the task's own, each with one {question}."""
    prompt: str = "reasoning"
    """The default prompt; --prompt overrides it."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 512
    metrics: list[Metric] = ["exact_match", "token_f1"]
    """Measured beside the judges' verdicts."""
    aggregate: Literal["cv_bench"] | None = None
    """The benchmark's own formula over its slices."""

    @check("split")
    @classmethod
    def _split_exists(cls, split: str, info: ValidationInfo) -> str:
        sources = [info.data.get(k) for k in ("local", "hub", "bundled")]
        if {"local", "hub", "bundled"} <= info.data.keys():  # else one of them is wrong, and that is said
            if not any(sources):
                raise ValueError("the task names no data; give at least one of hub, local, bundled")
            if split not in (known := _splits(sources)):
                raise ValueError(f"split '{split}' is not among splits; {did_you_mean(split, known)}")
        return split

    @check("rows")
    @classmethod
    def _rows_of_splits(cls, rows: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        known = _splits([info.data.get(k) for k in ("local", "hub", "bundled")])
        if unknown := next((name for name in rows if name not in known), None):
            raise ValueError(f"'{unknown}' is no split; {did_you_mean(unknown, known)}")
        return rows

    @check("where", "slices")
    @classmethod
    def _slices_known(cls, value: Any, info: ValidationInfo) -> Any:
        sources = [s for k in ("local", "hub") if (s := info.data.get(k))]
        if sources and not info.data.get("bundled") and all(s.layout == "table" for s in sources):
            known = [*dict.fromkeys(name for s in sources for name in s.columns.slices), *DERIVED]
            if unknown := next((name for name in value if name not in known), None):
                raise ValueError(f"no slice '{unknown}' (name its column under columns.slices); {did_you_mean(unknown, known)}")
        return value

    @check("prompts")
    @classmethod
    def _one_question(cls, prompts: dict[str, str]) -> dict[str, str]:
        for name, template in prompts.items():
            if template.count("{question}") != 1:
                raise ValueError(f"prompt '{name}' needs exactly one {{question}}")
        return prompts

    @check("prompt")
    @classmethod
    def _prompt_exists(cls, prompt: str, info: ValidationInfo) -> str:
        known = {**PROMPTS, **info.data.get("prompts", {})}
        if prompt not in known:
            raise ValueError(f"prompt '{prompt}' is unknown; {did_you_mean(prompt, list(known))}")
        return prompt

    @property
    def splits(self) -> list[str]:
        """Every split that some source has."""
        return _splits([self.local, self.hub, self.bundled])

    def get_prompt(self, name: str | None = None) -> Prompt:
        """A prompt by name: the spec's own, else the harness's. Raises UserError with the nearest name."""
        name = name or self.prompt
        if name in self.prompts:
            return Prompt(name, self.prompts[name], f"task {self.name}")
        if name in PROMPTS:
            return PROMPTS[name]
        raise UserError(f"no prompt named '{name}'", hint=did_you_mean(name, [*PROMPTS, *self.prompts]))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def _splits(sources: list[Any]) -> list[str]:
    found = {name: None for s in sources if s for name in s.splits or {}}
    return list(found) or ["test"]  # a bundle may leave its splits unsaid


def _default_slices(given: Mapping[str, Any]) -> list[str]:
    columns = [s.columns.slices for s in (given.get("local"), given.get("hub")) if s]
    return list(dict.fromkeys([*(name for c in columns for name in c), *DERIVED]))


class Group(Strict):
    """A YAML that stands for several tasks."""

    group: Name
    title: str = ""
    tasks: Annotated[list[str], Field(min_length=1)]
    """Task names, name patterns, other groups, or paths to YAML files relative to this one."""


# -- YAML ------------------------------------------------------------------------------------------------------------


def _line(node: Any, loc: tuple[str | int, ...]) -> int:
    """The 1-based line of the deepest key along `loc` that the YAML has."""
    line = 1
    for key in loc:
        lc = getattr(node, "lc", None)
        if lc is None or not isinstance(node, dict | list):
            break
        try:
            line = (lc.key(key) if isinstance(node, dict) else lc.item(key))[0] + 1
            node = node[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            break
    return line


#: A spec of more values than this is a YAML alias bomb, not a spec.
MOST_VALUES = 10_000


def _plain(tree: Any, path: Path) -> Any:
    """Plain Python data; any tag is refused, because a spec never needs one."""
    left = MOST_VALUES

    def plain(node: Any, loc: tuple[str | int, ...]) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise SpecError(
                f"{path}:{_line(tree, loc)}: more than {MOST_VALUES:,} values", hint="aliases that repeat each other?"
            )
        tag = getattr(node, "tag", None)
        value = getattr(tag, "value", tag)
        if value:
            key = ".".join(map(str, loc))
            raise SpecError(
                f"{path}:{_line(tree, loc)}: key '{key}': YAML tag {value} is not allowed", hint="specs are plain data"
            )
        if isinstance(node, dict):
            return {str(k): plain(v, (*loc, k)) for k, v in node.items()}
        if isinstance(node, list):
            return [plain(v, (*loc, i)) for i, v in enumerate(node)]
        if isinstance(node, bool):
            return node
        return next((kind(node) for kind in (int, float, str) if isinstance(node, kind)), node)

    return plain(tree, ())


def _tree(text: str, path: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        raise SpecError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {e.problem or e.context}") from None
    except Exception as e:  # a reader error (control characters) carries no mark
        raise SpecError(f"{path}:1: not valid YAML: {str(e).splitlines()[0]}") from None
    if not isinstance(tree, dict):
        raise SpecError(f"{path}:1: expected keys and values at the top level")
    return tree


def _validated(model: type[M], tree: Any, path: Path) -> M:
    try:
        return model.model_validate(_plain(tree, path))
    except ValidationError as e:
        # a misspelt key is reported before the missing one that it leaves behind; a default that waits for both is no error
        errors = [err for err in e.errors() if err["type"] != "default_factory_not_called"]
        said = [_said(model, tree, path, err) for err in sorted(errors, key=lambda x: x["type"] != "extra_forbidden")]
        raise SpecError("\n".join(message for message, _ in said), hint=next((h for _, h in said if h), None)) from None


def _said(model: type[BaseModel], tree: Any, path: Path, err: Any) -> tuple[str, str | None]:
    """One thing that is wrong, with its line, and the nearest valid name where there is one."""
    loc = tuple(err["loc"])
    key = ".".join(str(x) for x in loc) or model.__name__
    hint = None
    if err["type"] == "extra_forbidden":
        message, hint = f"unknown key '{key}'", did_you_mean(str(loc[-1]), _keys(model, loc[:-1]))
    elif err["type"] == "missing":
        message = f"key '{key}' is missing"
    elif err["type"] == "string_pattern_mismatch" and loc == ("name",):
        slug = re.sub(r"[^a-z0-9]+", "_", str(err["input"]).lower()).strip("_") or "my_task"
        message = f"key 'name': '{err['input']}' is not of lower-case letters, digits, _ and -"
        hint = f"such as '{slug}'"
    else:
        message = f"key '{key}': {err['msg'].removeprefix('Value error, ')}"
        if err["type"] == "literal_error" and isinstance(err["input"], str):
            hint = did_you_mean(err["input"], re.findall(r"'([^']*)'", str(err["ctx"]["expected"])))
    return f"{path}:{_line(tree, loc)}: {message}", hint


def _keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The keys that are known at `loc`."""
    for part in loc:
        field = model.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    return list(model.model_fields)


def parse(text: str, path: Path) -> TaskSpec:
    """Validate a spec's YAML. Raises SpecError with file:line for every way it can be wrong."""
    return _validated(TaskSpec, _tree(text, path), path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise SpecError(f"{path}: cannot be read ({e})") from None


def read(path: Path) -> TaskSpec:
    """The spec in a YAML file."""
    return parse(_text(path), path)


def read_group(path: Path) -> Group:
    return _validated(Group, _tree(_text(path), path), path)


def schema() -> str:
    """The JSON schema of a task YAML, for editors; docs/task.schema.json is this text."""
    found = TaskSpec.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **found}, indent=2) + "\n"


# -- by name ---------------------------------------------------------------------------------------------------------


def folders() -> Iterator[Path]:
    """The folders of installed task YAMLs."""
    for name in plugins.available("tasks"):
        yield Path(plugins.load("tasks", name))


def catalog() -> dict[str, Path]:
    """Every installed task by name (a YAML's name is its file's stem)."""
    return {p.stem: p for folder in folders() for p in sorted(folder.glob("*.yaml"))}


def groups() -> dict[str, Path]:
    """Every installed group by name: the YAMLs in `groups/` beside the tasks."""
    return {p.stem: p for folder in folders() for p in sorted((folder / "groups").glob("*.yaml"))}


def find(names: str) -> list[tuple[TaskSpec, Path]]:
    """The specs that a comma-separated `--tasks` means: names, name patterns, groups, paths to YAML files.

    Returns (spec, the YAML's path) pairs in the order asked, each once. Raises UserError for an unknown name, and for two
    YAMLs whose tasks have one name.
    """
    known, grouped = catalog(), groups()
    paths = [p for name in names.split(",") if name.strip() for p in _paths(name.strip(), Path(), known, grouped, ())]
    if not paths:
        raise UserError("--tasks names no task", hint=f"known: {', '.join(sorted([*known, *grouped]))}")
    found: dict[str, tuple[TaskSpec, Path]] = {}
    for path in dict.fromkeys(paths):
        spec = read(path)
        if spec.name in found:
            raise UserError(f"{found[spec.name][1]} and {path}: two tasks named '{spec.name}'", hint="rename one of them")
        found[spec.name] = (spec, path)
    return list(found.values())


def _paths(name: str, base: Path, known: Mapping[str, Path], grouped: Mapping[str, Path], within: tuple[Path, ...]) -> list[Path]:
    """The YAML files that one name stands for. `base` is where a path starts, `within` the groups being expanded."""
    if name in known:
        return [known[name]]
    if name in grouped:
        path = grouped[name]
    elif name.endswith((".yaml", ".yml")):
        path = base / name
        if within and (why := inside(name)):
            raise UserError(f"{within[-1]}: task '{name}' {why}")
        if within and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(base)):
            raise UserError(f"{within[-1]}: task '{name}' is a link that leads out of {base}")
        if not path.is_file():
            raise UserError(f"{path}: no such task file")
        if "group" not in _tree(_text(path), path):
            return [path]
    elif any(c in name for c in "*?["):
        if matched := [known[n] for n in sorted(fnmatch.filter(known, name))]:
            return matched
        raise UserError(f"no task matches '{name}'", hint=f"known: {', '.join(sorted(known))}")
    else:
        where = f"{within[-1]}: " if within else ""
        raise UserError(f"{where}no task named '{name}'", hint=did_you_mean(name, [*known, *grouped]))
    if path in within:
        raise UserError(f"{path}: the group contains itself")
    return [p for member in read_group(path).tasks for p in _paths(member, path.parent, known, grouped, (*within, path))]
