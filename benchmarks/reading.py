"""How long reading a large table takes, and how much memory. `python -m benchmarks.reading`

1 GB of parquet, in pictures of several sizes, stored as one row group and as the hub stores it (100 rows a group), by two codecs;
as a picture a row and as a list of them; its first ten rows; 200,000 rows of JSONL. Each is read by `harness tasks validate` or `--limit 10` in a process of its own,
whose peak is what Linux says of it (VmHWM). Needs 3 GB of disk (TMPDIR).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.pipeline import hardware

RESULTS = Path(__file__).parent / "results" / "reading.json"
TOTAL = 1_000_000_000
#: (megabytes a picture, rows a group or None for one group, codec, whether each row has a list of one picture)
TABLES = [
    (0.1, None, "snappy", False), (0.5, None, "snappy", False), (2.0, None, "snappy", False), (2.0, None, "zstd", False),
    (2.0, None, "snappy", True), (0.5, 100, "snappy", False),
]  # fmt: skip
LINES = 200_000
SPEC = """name: big
title: Big
license: none
local:
  splits: {{test: {file}}}
  columns: {{id: id, image: {image}, question: question, answer: answer, images_optional: true}}
"""
#: Reads rows in a process that then tells its time and its peak.
READ = """
import json, sys, time
from pathlib import Path
from harness import data, specs
from tasks import survey
path, limit = Path(sys.argv[1]), int(sys.argv[2]) or None
start = time.perf_counter()
found, seen = data.Split(specs.read(path), path, limit=limit), survey.Survey()
for sample in found:
    seen.add(sample)
assert not found.view.bad, found.view.bad
status = Path("/proc/self/status").read_text()
peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
print(json.dumps({"rows": seen.tally.rows, "s": round(time.perf_counter() - start, 2), "peak_mb": round(peak / 1024)}))
"""


def png(noise: bytes) -> bytes:
    """A small picture that carries so many bytes beside its pixels: what is measured is reading, not decoding."""
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    Image.new("L", (16, 16), noise[0]).save(out, "PNG")
    head, tail = out.getvalue()[:33], out.getvalue()[33:]
    body = b"noIs" + noise
    return head + len(noise).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + tail


def write_table(path: Path, megabytes: float, group: int | None, codec: str, listed: bool) -> None:
    rows = round(TOTAL / (megabytes * 1e6))
    random = np.random.default_rng(0)
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cell = pa.list_(cell) if listed else cell
    schema = pa.schema([("id", pa.string()), ("image", cell), ("question", pa.string()), ("answer", pa.string())])

    def rows_of(start: int, stop: int) -> Iterator[dict[str, Any]]:
        for i in range(start, stop):
            image = {"bytes": png(random.bytes(int(megabytes * 1e6))), "path": f"{i}.png"}
            yield {
                "id": str(i),
                "image": [image] if listed else image,
                "question": f"Is it number {i}?",
                "answer": ("yes", "no")[i % 2],
            }

    size = group or rows
    with pq.ParquetWriter(path, schema, compression=codec) as writer:
        for i in range(0, rows, size):
            writer.write_table(pa.Table.from_pylist(list(rows_of(i, min(rows, i + size))), schema), row_group_size=size)


def write_lines(path: Path) -> None:
    with path.open("w") as file:
        for i in range(LINES):
            file.write(
                json.dumps({"id": i, "question": f"Is finding {i} in view?", "answer": ("yes", "no")[i % 2], "image": None})
                + "\n"
            )


def read(folder: Path, file: str, limit: int = 0) -> dict[str, Any]:
    spec = folder / "big.yaml"
    spec.write_text(SPEC.format(file=file, image="image"))
    done = subprocess.run([sys.executable, "-c", READ, str(spec), str(limit)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for megabytes, group, codec, listed in TABLES:
            write_table(folder / "rows.parquet", megabytes, group, codec, listed)
            about = {
                "table": "parquet, 1 GB",
                "picture_mb": megabytes,
                "group_rows": group or "all",
                "codec": codec,
                "list": listed,
            }
            measured.append(about | {"all": read(folder, "rows.parquet"), "first_10": read(folder, "rows.parquet", 10)})
            print(json.dumps(measured[-1]), file=sys.stderr)
            (folder / "rows.parquet").unlink()
        write_lines(folder / "rows.jsonl")
        measured.append(
            {"table": "JSONL, 200,000 rows", "all": read(folder, "rows.jsonl"), "first_10": read(folder, "rows.jsonl", 10)}
        )
    document = {"measured": measured, "hardware": hardware(), "python": sys.version.split()[0]}
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
