"""Readers of datasets, registered under the entry point `harness.layouts`. One file each.

table.py          JSONL, JSON, CSV, TSV, parquet and Arrow by column names: what a task of one's own needs. Its parts:
                  files.py (delimited.py, jsons.py, parquet.py, pages.py) finds the rows, cells.py a column in a row; choices.py,
                  yesno.py, turns.py and pictures.py read what is in it
slake.py          SLAKE's archive; its abnormality rows with derived or with the physicians' reasoning
vqa_rad.py        VQA-RAD's archive
vqa_med_2019.py   VQA-Med 2019's archive
bundle.py         the small parquet pair that this package holds
rows.py           what they share

A reader takes a `harness.data.View` and yields samples in the archive's own order.
"""
