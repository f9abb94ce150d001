"""This package's own small parquet pair: `rows.parquet` and `images.parquet` (written by tasks/bundle.py).

`rows.parquet` may name another bundle's images in its metadata (`images`), as slake_grounded does SLAKE's.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.data import View
from harness.errors import DataError
from harness.records import ImageRef, Reference, Sample


def bundle(view: View) -> Iterator[Sample]:
    """The rows of a split, in their archive's order."""
    from pyarrow.parquet import ParquetFile  # read_table would import pandas, a second

    root = view.archive.root
    if not (root / "rows.parquet").is_file():
        raise DataError(f"{root / 'rows.parquet'}: no such file", hint="this task has no bundled data; use --data local or hub")
    table = ParquetFile(root / "rows.parquet").read()
    shared = (table.schema.metadata or {}).get(b"images", b".").decode()
    rows = [r for r in table.to_pylist() if r["split"] == view.split]
    if not rows:
        raise DataError(f"{root / 'rows.parquet'}: no rows of split '{view.split}'")
    pixels = ParquetFile(root / shared / "images.parquet").read()
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
            images=(images[row["image"]],),
            question=row["question"],
            reference=Reference(answers=tuple(row["answers"]), reasoning=row.get("reasoning")),
            slices={k: v for k, v in row["slices"].items() if v is not None},
        )
