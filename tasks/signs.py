"""Signs that a cell is a picture or names one, and where the named ones lie."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from harness.archives import Archive, inside
from harness.errors import DataError
from tasks.layouts import cells
from tasks.layouts.pictures import is_base64_image

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".dcm", ".dicom", ".jp2", ".nii", ".svs"}
_SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".bmp", ".tif", ".dcm")
#: What may stand between several names in one cell.
MARKS = ";|,"


def holds_bytes(value: Any) -> bool:
    return (
        isinstance(value, bytes) or (isinstance(value, dict) and isinstance(value.get("bytes"), bytes)) or is_base64_image(value)
    )


def is_picture(value: Any) -> bool:
    """Whether a cell is a picture, or names one or several by their endings."""
    if isinstance(value, dict):
        return holds_bytes(value) or (isinstance(value.get("path"), str) and is_picture(value["path"]))
    if isinstance(value, list | tuple) or (isinstance(value, str) and value.lstrip()[:1] in ("[", "(")):
        told = [v for v in cells.items(value, None, most=1 << 28) if not cells.empty(v)]
        return bool(told) and told != [value] and all(is_picture(v) for v in told)
    if isinstance(value, str) and len(value) < 1000 and "\n" not in value:
        return PurePosixPath(re.sub(r"(?:\?.*|#\d+)$", "", value.strip().lower())).suffix in _ENDINGS or is_base64_image(value)
    return holds_bytes(value)


def image_folder(archive: Archive, names: list[str]) -> str | None:
    """The first of `image_folders`; None where no such image is found."""
    return next(iter(image_folders(archive, names)), None)


def image_folders(archive: Archive, names: list[str]) -> list[str]:
    """Where most of these images lie: the root, a folder beside the table, with an ending where the names have none.

    Several where pictures of these names lie in several folders.
    """
    firsts = [first for n in names if not inside(first := (parts(n) or [n])[0].strip())]
    folders = ["."]
    if archive.root.is_dir():
        folders += sorted({p.name.removesuffix(".zip") for p in archive.root.iterdir() if p.is_dir() or p.suffix == ".zip"})
    best, places = 0, list[str]()
    for folder in folders:
        for suffix in ("", *_SUFFIXES):
            before = "" if folder == "." else f"{folder}/"
            try:
                found = sum(_is_file(archive, f"{before}{name}{suffix}") for name in firsts)
            except DataError:  # not a path that could be read; validate will say so
                return []
            if found and found >= best:
                places = [*(places if found == best else []), f"{before}{{}}{suffix}" if suffix else folder]
                best = found
    return places


def parts(cell: str, marks: str = MARKS) -> list[str] | None:
    """The names of several pictures in one cell; None for one name, which may hold such a mark itself."""
    for mark in marks if cell.lstrip()[:1] not in ("[", "(") else "":
        parts = cell.split(mark)
        if len(parts) > 1 and all(is_picture(p) for p in parts):
            return parts
    return None


def _is_file(archive: Archive, name: str) -> bool:
    found = archive.existing(name)
    return found is not None and not (archive.root / found).is_dir()
