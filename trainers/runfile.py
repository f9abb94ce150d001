"""OUT/run.yaml: what a training is, written before its first step and read to go on with it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from harness.errors import RunError

#: What every run.yaml holds.
KEYS = ("trainer", "model", "weights_sha256", "data_fingerprint", "dev_fingerprint", "recipe")


def as_yaml(data: dict[str, Any]) -> str:
    """YAML in the data's own order: prompts are drawn, and rewards summed, in the order a recipe names them."""
    from ruamel.yaml import YAML

    yaml, out = YAML(typ="safe", pure=True), io.StringIO()
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(data, out)
    return out.getvalue()


def read_run(out: Path) -> dict[str, Any]:
    """OUT/run.yaml. Raises RunError where it is missing, damaged, or of another version of the recipe."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load((out / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as e:
        raise RunError(
            f"{out / 'run.yaml'}: cannot be read ({str(e).splitlines()[0]})", hint="give the --out folder of a training"
        ) from None
    missing = [key for key in KEYS if key not in data] if isinstance(data, dict) else list(KEYS)
    if missing:
        raise RunError(
            f"{out / 'run.yaml'}: is not what a training leaves (no {', '.join(missing)})",
            hint="give the --out folder of a training",
        )
    return data  # type: ignore[no-any-return]
