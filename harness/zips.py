"""Members of zips, read where they lie: nothing is unpacked to disk."""

from __future__ import annotations

import os
import zipfile
from functools import lru_cache
from pathlib import Path

#: Refuse to unpack a member that says it is larger than this: a decompression bomb, not a dataset's file.
MAX_MEMBER = 1 << 31


@lru_cache(maxsize=32)
def _zip(path: str, stamp: int, process: int) -> zipfile.ZipFile:
    """One open handle for each zip and process: reading its directory anew for every image would cost more than the image.

    Threads may share it (zipfile locks around its reads); a forked process gets its own, because the file offset is shared.
    """
    return zipfile.ZipFile(path)


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip, open. Raises ValueError where it is none."""
    try:
        return _zip(str(path), path.stat().st_mtime_ns, os.getpid())
    except (OSError, zipfile.BadZipFile) as e:
        raise ValueError(f"{path}: cannot be read as a zip ({e})") from None


def read_member(path: Path, member: str) -> bytes:
    """A member of a zip, its checksum verified. Raises ValueError naming both when it is missing, damaged or too large."""
    archive = open_zip(path)
    try:
        size = archive.getinfo(member).file_size
        if size > MAX_MEMBER:
            raise ValueError(f"{path}: {member}: {size} bytes unpacked, above the limit of {MAX_MEMBER}")
        return archive.read(member)
    except KeyError:
        raise ValueError(f"{path}: {member}: No such file in the zip") from None
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as e:  # damaged, encrypted, unknown method
        raise ValueError(f"{path}: {member}: cannot be unpacked ({e})") from None
    except Exception as e:  # zlib's own error type is not part of zipfile's interface
        if isinstance(e, ValueError):
            raise
        raise ValueError(f"{path}: {member}: cannot be unpacked ({type(e).__name__}: {e})") from None
