"""Columns of large values, read a page's value at a time, give what pyarrow gives."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.archives import Archive
from tasks.layouts import files, pages

random.seed(7)
FLAT = bytes(3000) + b"abcabcabc" * 400
VALUES = [random.randbytes(random.randrange(0, 9000)) if i % 3 else FLAT[: 90 * i] for i in range(90)]


def rows():
    """Pictures with a path, without bytes, and missing; some twice; bytes, text and a small column beside them."""
    for i, value in enumerate(VALUES):
        picture = None if i % 17 == 5 else {"bytes": None if i % 11 == 4 else VALUES[i // 2 * 2], "path": f"{i}.png"}
        several = [None if k == 2 else {"bytes": VALUES[i - k], "path": f"{k}.png"} for k in range(i % 5)]
        yield {
            "id": i, "image": picture, "raw": None if i % 7 == 3 else value, "text": f"{i}: {value.hex()}", "alone": {"x": value},
            "images": None if i % 13 == 6 else several,
        }  # fmt: skip


@pytest.fixture(params=["none", "snappy", "gzip", "zstd", "brotli"])
def codec(request):
    return request.param


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("group", [90, 40])
def test_the_rows_are_pyarrows(tmp_path, monkeypatch, codec, version, dictionary, group):
    path = tmp_path / "rows.parquet"
    table = pa.Table.from_pylist(list(rows()))
    pq.write_table(
        table, path, compression=codec, data_page_version=version, use_dictionary=dictionary, row_group_size=group,
        write_batch_size=16, data_page_size=20_000, dictionary_pagesize_limit=40_000,
    )  # fmt: skip
    monkeypatch.setattr(pages, "LARGE_VALUE", 64)
    monkeypatch.setattr(pages, "LARGE", 1000)
    taken = []
    real = pages.values
    monkeypatch.setattr(
        pages, "values", lambda path, column, *how: taken.append(column.path_in_schema) or real(path, column, *how)
    )
    found = list(files.rows_of(Archive(tmp_path), "rows.parquet", []))
    assert found == table.to_pylist()
    assert set(taken) == {"image.bytes", "raw", "text", "alone.x", "images.list.element.bytes"}
    some = list(files.rows_of(Archive(tmp_path), "rows.parquet", ["raw"]))
    assert some == [{"raw": r["raw"]} for r in found]


def test_lists_of_bytes_alone_and_small_columns_are_left_to_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "LARGE_VALUE", 64)
    monkeypatch.setattr(pages, "LARGE", 1000)
    monkeypatch.setattr(pages, "values", None)
    table = pa.table({"images": [[b"x" * 900, b"y" * 900], [], None], "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert list(files.rows_of(Archive(tmp_path), "rows.parquet", [])) == table.to_pylist()
