"""Model backends."""

from pathlib import Path

#: The tiny model that ships with the package; `--model tiny` means this folder.
TINY = Path(__file__).parent / "tiny"
