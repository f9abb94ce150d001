"""Build the bundled data from the official archives: the same rows, images at most 224 px wide and high.

    python -m tasks.bundle --data-dir DIR      # DIR holds slake/ and vqa_rad/ as their authors publish them

Writes `tasks/bundled/{slake,slake_grounded,vqa_rad}/`, deterministically for given library versions.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.archives import Archive
from harness.data import View
from harness.records import ImageRef, Sample
from tasks.layouts.slake import slake, slake_grounded
from tasks.layouts.vqa_rad import vqa_rad

SIDE = 224
QUALITY = 90
OUT = Path(__file__).parent / "bundled"


def shrink(image: Image.Image) -> bytes:
    """JPEG bytes of the image, its longer side at most SIDE pixels, aspect kept."""
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    red, green, blue = (band.tobytes() for band in image.split())
    if red == green == blue:  # most radiographs are grey stored as colour
        image = image.convert("L")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


def write(name: str, splits: dict[str, Iterable[Sample]], images_of: str | None = None) -> None:
    """Write one bundle; `images_of` names the bundle whose images it shares instead of holding its own."""
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    images: dict[str, ImageRef] = {}
    for split, samples in splits.items():
        for s in samples:
            (image,) = s.images
            images.setdefault(image.name, image)
            rows.append(
                {
                    "split": split,
                    "id": s.id,
                    "image": image.name,
                    "question": s.question,
                    "answers": list(s.reference.answers),
                    "reasoning": s.reference.reasoning,
                    "slices": s.slices,
                }
            )
    keys = sorted({k for r in rows for k in r["slices"]})
    text = pa.string()
    schema = pa.schema(
        [("split", text), ("id", text), ("image", text), ("question", text), ("answers", pa.list_(text)), ("reasoning", text),
         ("slices", pa.struct([(k, text) for k in keys]))],
        metadata={"images": f"../{images_of}"} if images_of else None,
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "rows.parquet", compression="zstd")
    if not images_of:
        table = pa.table({"name": list(images), "jpeg": [shrink(i.open()) for i in images.values()]})
        pq.write_table(table, folder / "images.parquet", compression="none", use_dictionary=False)
    size = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
    print(f"{folder.name}: {len(rows)} rows, {len(images)} images, {size:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    root: Path = parser.parse_args().data_dir

    def splits(layout: Callable[[View], Iterator[Sample]], folder: str, names: dict[str, str]) -> dict[str, Iterable[Sample]]:
        archive = Archive(root / folder)
        return {ours: layout(View(archive, theirs, ours)) for ours, theirs in names.items()}

    in_slake = {"train": "train", "validation": "validate", "test": "test"}
    write("slake", splits(slake, "slake", in_slake))
    write("slake_grounded", splits(slake_grounded, "slake", in_slake), images_of="slake")
    write("vqa_rad", splits(vqa_rad, "vqa_rad", {"train": "train", "test": "test"}))


if __name__ == "__main__":
    main()
