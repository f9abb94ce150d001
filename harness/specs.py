"""Task specs: YAML -> a validated TaskSpec. Errors name file:line, the key and the nearest valid name.

YAML here is data. Tags are refused (nothing can run code), keys must be known, and paths stay in their root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness import plugins
from harness.errors import SpecError, UserError
from harness.plugins import did_you_mean
from harness.prompts import PROMPTS, Prompt

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedBase


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path:
        raise ValueError(f"'{path}' leaves its root folder; give a relative path without '..'")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bundled(Strict):
    """Small real data inside the package."""

    folder: RelativePath
    resolution: str


class TaskSpec(Strict):
    """One benchmark: which rows, how they are asked, what may be done with them."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_\-]*$")]
    title: str
    version: int = 1
    description: str = ""
    license: str
    homepage: str | None = None
    citation: str | None = None
    #: Whether an API model or judge may see questions and answers, once the user allows external calls.
    may_leave_machine: bool = False
    #: The reader of the official archive, by its name under the entry point `harness.layouts`.
    layout: str
    #: The archive's folder under `--data-dir`.
    local: RelativePath | None = None
    bundled: Bundled | None = None
    #: Our split names -> the archive's.
    splits: dict[str, str]
    split: str = "test"
    #: Keep only rows whose slice has this value.
    where: dict[str, str] = {}
    #: Rows known to be unusable: id -> why. Counted and shown.
    drop: dict[str, str] = {}
    slices: list[str] = []
    prompt: str = "reasoning"
    prompts: dict[str, str] = {}
    max_new_tokens: Annotated[int, Field(gt=0)] = 512
    groups: list[str] = []

    @model_validator(mode="after")
    def _names_exist(self) -> TaskSpec:
        if self.split not in self.splits:
            raise ValueError(f"split '{self.split}' is not among splits; {did_you_mean(self.split, list(self.splits))}")
        known = {**PROMPTS, **self.prompts}
        if self.prompt not in known:
            raise ValueError(f"prompt '{self.prompt}' is unknown; {did_you_mean(self.prompt, list(known))}")
        for name, template in self.prompts.items():
            if template.count("{question}") != 1:
                raise ValueError(f"prompt '{name}' needs exactly one {{question}}")
        return self

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


def _plain(node: CommentedBase | Any, path: Path, loc: tuple[str | int, ...] = (), root: Any = None) -> Any:
    """Plain Python data; any tag is refused, because a spec never needs one."""
    root = node if root is None else root
    tag = getattr(node, "tag", None)
    value = getattr(tag, "value", tag)
    if value:
        raise SpecError(
            f"{path}:{_line(root, loc)}: key '{'.'.join(map(str, loc))}': YAML tag {value} is not allowed",
            hint="specs are plain data",
        )
    if isinstance(node, dict):
        return {str(k): _plain(v, path, (*loc, k), root) for k, v in node.items()}
    if isinstance(node, list):
        return [_plain(v, path, (*loc, i), root) for i, v in enumerate(node)]
    return node if node is None or isinstance(node, bool) else _scalar(node)


def _scalar(node: Any) -> Any:
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _known_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    fields = TaskSpec.model_fields
    if len(loc) > 1 and loc[0] == "bundled":
        fields = Bundled.model_fields
    return list(fields)


def parse(text: str, path: Path) -> TaskSpec:
    """Validate a spec's YAML. Raises SpecError with file:line for every way it can be wrong."""
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
    try:
        return TaskSpec.model_validate(_plain(tree, path))
    except ValidationError as e:
        # a misspelt key is reported before the missing one that it leaves behind
        err = min(e.errors(), key=lambda x: x["type"] != "extra_forbidden")
        loc = tuple(err["loc"])
        key = ".".join(str(x) for x in loc) or "task"
        hint = None
        if err["type"] == "extra_forbidden":
            message, hint = f"unknown key '{key}'", did_you_mean(str(loc[-1]), _known_keys(TaskSpec, loc))
        elif err["type"] == "missing":
            message = f"key '{key}' is missing"
        else:
            message = f"key '{key}': {err['msg'].removeprefix('Value error, ')}"
        more = f" (and {len(e.errors()) - 1} more)" if len(e.errors()) > 1 else ""
        raise SpecError(f"{path}:{_line(tree, loc)}: {message}{more}", hint=hint) from None


def read(path: Path) -> TaskSpec:
    """The spec in a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise SpecError(f"{path}: cannot be read ({e})") from None
    return parse(text, path)


def _spec_files() -> Iterator[Path]:
    for name in plugins.available("tasks"):
        yield from sorted(Path(plugins.load("tasks", name)).glob("*.yaml"))


def catalog() -> dict[str, Path]:
    """Every installed task by name (a YAML's name is its file's stem)."""
    return {p.stem: p for p in _spec_files()}


def find(names: str) -> list[tuple[TaskSpec, Path]]:
    """The specs that a comma-separated `--tasks` means: names, or paths to YAML files.

    Returns (spec, the YAML's path) pairs in the order asked. Raises UserError for an unknown name.
    """
    known = catalog()
    out = []
    for name in filter(None, (n.strip() for n in names.split(","))):
        if name in known:
            path = known[name]
        elif name.endswith((".yaml", ".yml")):
            path = Path(name)
            if not path.is_file():
                raise UserError(f"{name}: no such task file")
        else:
            raise UserError(f"no task named '{name}'", hint=did_you_mean(name, list(known)))
        out.append((read(path), path))
    if not out:
        raise UserError("--tasks names no task", hint=f"known: {', '.join(sorted(known))}")
    return out
