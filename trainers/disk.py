"""A disk that is full, read-only or over its quota: one line that names the folder, and what was half written goes."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import RunError
from trainers import checkpoint

#: What a file system says when it takes no more.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
#: How libraries in C++ and Rust say so: torch.save and safetensors raise errors of their own, without a number.
SAID = ("PytorchStreamWriter", "inline_container", *(f"os error {n})" for n in sorted(FULL)))


class DiskError(RunError):
    """The training's files could not be written. Exit code 1."""

    exit_code = 1


def why_full(error: BaseException) -> str | None:
    """What the file system said, where `error` comes from a write that it refused."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in FULL else None
    said = str(error)
    if any(mark in said for mark in SAID):
        return next((line for line in said.splitlines() if line.strip()), type(error).__name__)
    return None


@contextmanager
def kept(out: Path) -> Iterator[None]:
    """Raises DiskError for a write under OUT that the file system refused; the last whole checkpoint is left as it is."""
    try:
        yield
    except Exception as e:
        why = why_full(e)
        if why is None:
            raise
        _clear(out)
        last, _ = checkpoint.last_whole(out)
        left = f"{last} is whole, and the same command goes on from it" if last else "no checkpoint was reached"
        where = getattr(e, "filename", None) or out
        raise DiskError(f"{where}: could not be written: {why}", hint=f"make room; {left}") from None


def _clear(out: Path) -> None:
    """Remove what was half written: it only takes up the room that is missing."""
    for folder in checkpoint.checkpoints(out):
        if not (folder / checkpoint.SUMS).exists():
            shutil.rmtree(folder, ignore_errors=True)
    for part in [*out.glob(".*.part"), *out.glob(".*.tmp"), *out.glob("*/.*.tmp")]:
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def free(folder: Path) -> int:
    """Bytes that are free where `folder` is, or will be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
