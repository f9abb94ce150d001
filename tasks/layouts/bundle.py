"""This package's own small parquet pair: `rows.parquet` and `images.parquet` (written by tasks/bundle.py).

`rows.parquet` may name another bundle's images in its metadata (`images`), as slake_grounded does SLAKE's.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from harness.archives import Archive
from harness.data import View
from harness.errors import DataError
from harness.records import ImageRef, Reference, Sample


def bundle(view: View) -> Iterator[Sample]:
    """The rows of a split, in their archive's order."""
    archive = view.archive
    if "rows.parquet" not in archive:
        raise DataError(
            f"{archive.label('rows.parquet')}: no such file", hint="this task has no bundled data; use --data local or hub"
        )
    table = _read(archive, "rows.parquet")
    shared = (table.schema.metadata or {}).get(b"images", b".").decode()
    rows = [r for r in table.to_pylist() if r["split"] == view.split]
    if not rows:
        raise DataError(f"{archive.label('rows.parquet')}: no rows of split '{view.split}'")
    if shared == ".":
        pixels = _read(archive, "images.parquet")
    else:  # another bundle's, which lies beside this one
        pixels = _read(Archive(archive.root.parent), posixpath.normpath(f"{archive.root.name}/{shared}/images.parquet"))
    wanted = {r["image"] for r in rows}
    jpegs = pixels.column("jpeg")
    images = {
        name: ImageRef(name=name, data=jpegs[i].as_py())
        for i, name in enumerate(pixels.column("name").to_pylist())
        if name in wanted
    }
    for row in rows:
        yield Sample(
            id=row["id"],
            images=(images.get(row["image"], ImageRef(row["image"])),),
            question=row["question"],
            reference=Reference(answers=tuple(row["answers"]), reasoning=row.get("reasoning")),
            slices={k: v for k, v in row["slices"].items() if v is not None},
        )


def _read(archive: Archive, name: str) -> Any:
    """A parquet file as an Arrow table. Raises DataError, also for a link that leads out of the archive."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile  # read_table would import pandas, a second

    try:
        return ParquetFile(archive.stream(name)).read()
    except (ArrowException, OSError) as e:
        raise DataError(f"{archive.label(name)}: cannot be read as parquet ({str(e).splitlines()[0]})") from None
