"""Which column of a table holds what: `harness tasks new --from`.

Names say it first, then the values: pictures are known by their endings or bytes, choices by letters, a cluster by ids that
repeat. What is guessed is written down in the YAML, and what is left out is said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from harness.archives import Archive
from harness.columns import Columns
from harness.errors import DataError, UserError
from tasks.layouts import cells, choices, jsons
from tasks.layouts.cells import BadCell
from tasks.layouts.choices import Choices
from tasks.layouts.delimited import open_text
from tasks.layouts.files import header, kind_of, paths, split_part
from tasks.layouts.rows import text
from tasks.layouts.turns import exchange
from tasks.signs import MARKS, holds_bytes, image_folder, image_folders, is_picture, parts

#: Rows that are looked at; of tables that hold pictures fewer.
LOOK = 5000
LOOK_BYTES = 40

#: Entries beside a table among which the files of a column are looked for that is not called as one of images.
MOST_FOLDERS = 200

#: What a column may be called, without case and punctuation, the likelier names first.
_NAMES = {
    "id": ["id", "qid", "questionid", "sampleid", "rowid", "uid", "idx", "index"],
    "image": ["image", "images", "img", "imagepath", "imgpath", "imagepaths", "imagename", "imgname", "imagefile", "filename",
              "filepath", "file", "path", "imageid", "imgid", "picture", "figurepath", "figure", "imagelist", "imageslist",
              "imagefiles", "imagenames", "scan", "photo", "xray", "slide"],
    "messages": ["messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat"],
    "question": ["question", "query", "prompt", "questiontext", "instruction", "problem", "questions", "input", "text",
                 "q"],
    "answer": ["answer", "answers", "correctanswer", "gtanswer", "groundtruth", "label", "target", "gt", "answerlabel",
               "answeridx", "answerindex", "correctindex", "correctoption", "correctchoice", "cop", "correct", "reference",
               "response", "output", "finaldecision", "goldanswer", "referenceanswer", "gpt4answer", "report", "solution",
               "finalanswer", "gold", "ans", "a"],
    "choices": ["choices", "options", "candidates", "choicelist", "optionlist", "answeroptions", "answerchoices", "mcoptions"],
    "reasoning": ["reasoning", "rationale", "explanation", "cot", "reasoningchain", "exp"],
    "split": ["split", "subset", "fold", "partition"],
}  # fmt: skip
#: What may have to stand before a question.
_CONTEXT = {
    "hint",
    "context",
    "contexts",
    "history",
    "clinicalhistory",
    "background",
    "passage",
    "abstract",
    "vignette",
    "caseinfo",
    "indication",
    "input",
    "systemprompt",
}
#: Further right answers, in a column of their own.
_ALIASES = {"answeraliases", "aliases", "alternativeanswers", "acceptableanswers", "synonyms"}
#: What groups rows that are not independent, the widest first (`Columns.cluster_noun`).
_CLUSTERS = [
    "patient", "subject", "participant", "person", "donor", "case", "study", "accession", "exam", "examination", "video",
    "series", "volume", "scan", "slide", "wsi",
]  # fmt: skip
#: Pictures that show the answer, or another one small: named, not asked about.
_ASIDE = re.compile(r"mask|segm|annot|overlay|thumb|heat|saliency|contour|box", re.I)
#: A part of a file: test-00000-of-00003.parquet.
_SHARD = re.compile(r"(.+?)-\d+-of-\d+(\.\w+)")
_ASK = "; `ask` there asks the same of every row"
REPORT = "Write the radiology report of these images."


@dataclass
class Guess:
    """What a skeleton is filled with; `said` is what the user should look at."""

    folder: str = "."
    splits: dict[str, str] = field(default_factory=lambda: {"test": "rows.csv"})
    columns: dict[str, Any] = field(default_factory=dict)
    images: str = "images"
    separator: str | None = None
    encoding: str | None = None
    said: list[str] = field(default_factory=list)


EXAMPLE = Guess(columns={"id": "id", "image": "image", "question": "question", "answer": "answer"})


def guess(file: Path, beside: Path, images: Path | None = None) -> Guess:
    """Which column of a table holds what; `beside` is the folder of the YAML to be, `images` where its pictures lie.

    Raises DataError when the file cannot be read, or has no column that could be the question or the answer.
    """
    archive, name, part = _opened(file, beside)
    out = Guess(folder=os.path.relpath(archive.root.resolve(), beside.resolve()))
    out.encoding = _encoding(archive, name, out)
    splits = _splits(archive, name, part, out)
    first = next(iter(splits.values()))
    columns, rows = _look(archive, name if "*" in first else first, out.encoding, next(iter(splits)))
    if not rows:
        raise DataError(f"{file}: no rows")
    out.splits = splits
    table = _Table(archive, columns, rows, out)
    table.fill(file, images)
    out.columns = table.found
    return out


def _opened(file: Path, beside: Path) -> tuple[Archive, str, str]:
    archive = Archive(file.parent)
    name, part = split_part(file.name, archive)
    path = file.parent / name
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not path.resolve().is_relative_to(beside.resolve()):
        raise UserError(f"{path}: not under {beside}", hint="a task's YAML lies beside its data or above it; see --out")
    return archive, name, part


def _encoding(archive: Archive, name: str, out: Guess) -> str | None:
    """None for UTF-8 and what a byte order mark names; cp1252 where the bytes are western letters in it."""
    if kind_of(name) not in (".csv", ".tsv"):
        return None
    try:
        with open_text(archive, name, None) as f:
            while f.read(1 << 20):
                pass
        return None
    except UnicodeError:
        pass
    high = re.findall(rb"[\x80-\xff]+", archive.read(name))
    letters = [
        h
        for h in high
        if len(h) <= 2 and all(b >= 0xC0 or b in b"\xb0\xb1\xb2\xb3\xb5\xb7\xbd\x91\x92\x93\x94\x96\x97" for b in h)
    ]
    if len(letters) < len(high):
        return None  # reading it will say what to do
    out.said.append(f"{name} is not UTF-8; read as cp1252 (Windows, western): look at its accents")
    return "cp1252"


def _splits(archive: Archive, name: str, part: str, out: Guess) -> dict[str, str]:
    """Our split names -> file, pattern of a file's parts, or FILE#PART for the lists of a JSON object."""
    if shard := _SHARD.fullmatch(name):
        found = {
            m.group(1): f"{m.group(1)}-*{m.group(2)}" for n in archive.glob(f"*{shard.group(2)}") if (m := _SHARD.fullmatch(n))
        }
        out.said.append(f"{name} is one part of several: read with the others, as {', '.join(sorted(found.values()))}")
        return {shard.group(1): found[shard.group(1)], **found}
    stem = PurePosixPath(name).stem
    alone = stem if stem.lower() in jsons.SPLITS else "test"
    if part:
        return {_split_name(part) if part.rpartition(".")[2].lower() in jsons.SPLITS else "test": f"{name}#{part}"}
    if kind_of(name) != ".json" or jsons.has_lines(archive, name, out.encoding):
        return {alone: name}
    value = jsons.tree(archive, name, out.encoding)
    held = {k: v for k, v in jsons.lists(value).items() if v}
    found = {k: f"{name}#{k}" for k in held if k.rpartition(".")[2].lower() in jsons.SPLITS}
    if found and (others := [f"{name}#{k} ({len(v)} rows)" for k, v in held.items() if k not in found]):
        out.said.append(f"not taken as splits: {cells.short(', '.join(others), 200)}; name them under splits to use them")
    return {_split_name(k): v for k, v in found.items()} if isinstance(value, dict) and found else {alone: name}


def _split_name(path: str) -> str:
    return path.replace(".", "_")


def _look(archive: Archive, file: str, encoding: str | None, split: str) -> tuple[list[str], list[dict[str, Any]]]:
    columns, rows = header(archive, file, LOOK_BYTES, split=split, encoding=encoding)
    if not any(holds_bytes(v) for r in rows[:5] for v in r.values()):
        columns, rows = header(archive, file, LOOK, split=split, encoding=encoding)
    flat = list(dict.fromkeys(p for r in rows[:200] for p in paths(r)))
    return [c for c in flat if c in columns or "." in c], rows


class _Table:
    """A table's first rows, and what was found in them so far."""

    def __init__(self, archive: Archive, columns: list[str], rows: list[dict[str, Any]], out: Guess) -> None:
        self.archive, self.columns, self.rows, self.out = archive, columns, rows, out
        self.found: dict[str, Any] = {}
        self.pictures: list[str] = []
        self.values = {c: [None if (v := cells.pick(r, c)) is cells.MISSING else v for r in rows] for c in columns}
        self.pictures = [c for c in columns if self.pictured(c)]
        stems = {_stem(c) for c in self.pictures}
        # image_4 of a table of image_1, image_2 ... is filled further down, if nowhere here
        self.pictures = [c for c in columns if c in self.pictures or (_stem(c) in stems and self.blank(c))]

    def fill(self, file: Path, images: Path | None) -> None:
        pictured = self.pictures
        self.take("messages", lambda c: self.conversation(c))
        self.take("id", lambda c: c not in pictured and self.unique(c))
        self.choices()
        roles = ("question", "answer", "reasoning") if "messages" not in self.found else () if self.answered() else ("answer",)
        for role in roles:
            self.take(role, lambda c: c not in pictured and not self.inner(c))
        self.images(pictured, images)
        self.report()
        for role in ("question", "answer"):
            if role not in self.found and "messages" not in self.found and not (role == "question" and "ask" in self.found):
                raise DataError(
                    f"{file}: no column looks like the {role} (found: {cells.short(', '.join(self.columns), 300)})",
                    hint=f"call it '{role}' in the table (its first line names the columns); or fill in the YAML that `harness "
                    f"tasks new` writes without --from{_ASK if role == 'question' else ''}",
                )
        self.split()
        self.context()
        self.answer_as()
        self.split_answers()
        self.aliases()
        self.cluster()
        if slices := self.slices():
            self.found["slices"] = slices

    # -- by name ------------------------------------------------------------------------------------------------------

    def used(self) -> set[str]:
        """The columns that have a role."""
        given = [c for v in self.found.values() for c in (v if isinstance(v, list) else [v])]
        return {name for column in given for name in cells.names(column)}

    def take(self, role: str, fits: Any) -> None:
        """The likeliest column of a role by its name, or by the last part of its path."""
        for short in (False, True):
            by_plain: dict[str, str] = {}
            for c in reversed(self.columns):
                if c not in self.used() and ("." in c) == short and fits(c):
                    by_plain[_plain(c.rpartition(".")[2] if short else c)] = c
            if column := next((by_plain[n] for n in _NAMES[role] if n in by_plain), None):
                self.found[role] = column
                return

    def inner(self, column: str) -> bool:
        """Whether a column holds objects: what is in them is meant, not they."""
        return any(isinstance(v, dict) for v in self.values[column][:20])

    def unique(self, column: str) -> bool:
        told = [str(v) for v in self.values[column] if not cells.empty(v)]
        return len(told) == len(self.rows) and len(set(told)) == len(told)

    def blank(self, column: str) -> bool:
        return all(cells.empty(v) for v in self.values[column])

    def conversation(self, column: str) -> bool:
        try:
            for v in self.values[column][:5]:
                exchange(v, column, "")
        except (BadCell, DataError) as e:
            return "turns (" in str(e)  # a longer one: validate says so
        return True

    def answered(self) -> bool:
        """Whether the conversations hold answers too."""
        try:
            return exchange(self.values[self.found["messages"]][0], "", "").answer is not None
        except (BadCell, DataError):
            return True

    def context(self) -> None:
        """Columns that a question may need, and that only the user can tell."""
        asked = f"{{{self.found['question']}}}" if "question" in self.found else self.found.get("ask", "...")
        for column in self.columns:
            named = any(_plain(part) in _CONTEXT for part in (column, column.rpartition(".")[2]))
            if named and column not in self.used() and not self.inner(column) and not self.blank(column):
                self.out.said.append(
                    f"column '{column}' is not shown; if the question needs it: question: \"{{{column}}}\\n{asked}\""
                )

    # -- pictures -----------------------------------------------------------------------------------------------------

    def pictured(self, column: str) -> bool:
        """Whether the filled cells are pictures: by their bytes, their ending, or an object of bytes and path."""
        told = [v for v in self.values[column] if not cells.empty(v)][:50]
        if any("." in column and self.pictured_parent(column, n) for n in range(1, column.count(".") + 1)):
            return False
        return any(map(holds_bytes, told)) or sum(map(is_picture, told)) > len(told) / 2

    def pictured_parent(self, column: str, n: int) -> bool:
        parent = ".".join(column.split(".")[:n])
        return parent in self.values and any(is_picture(v) for v in self.values[parent][:5])

    def split_answers(self) -> None:
        """The one separator of choices and images splits answers too."""
        answers = self.values.get(str(self.found.get("answer")), [])
        mark = self.out.separator
        if mark and (split := next((a for a in answers if isinstance(a, str) and mark in a), None)):
            self.out.said.append(
                f"separator {mark!r} makes several right answers of one that holds it, such as '{cells.short(split)}': if that "
                "is wrong, give choices or images a list or columns of their own"
            )

    def aliases(self) -> None:
        """Further right answers beside the answer."""
        answer = self.found.get("answer")
        more = [c for c in self.columns if _plain(c) in _ALIASES and c not in self.used() and not self.blank(c)]
        if more and isinstance(answer, str) and answer in self.columns and not {"choices", "choices_in"} & set(self.found):
            self.found["answer"] = [answer, *more]
            self.out.said.append(f"column '{', '.join(more)}' holds further right answers, each as good as '{answer}'")

    def images(self, pictured: list[str], folder: Path | None) -> None:
        if not pictured:
            self.take("image", lambda c: any(isinstance(v, str | int) for v in self.values[c][:20]))
            if (column := self.found.get("image")) and not self.located(column, folder):
                del self.found["image"]
                self.out.said.append(f"column '{column}' is named as one of images, and no such file was found: not taken")
            pictured = [self.found["image"]] if "image" in self.found else self.by_files(folder)
        held = [c for c in pictured if any(holds_bytes(v) for v in self.values[c])]
        held += [c for c in pictured if self.blank(c) and _stem(c) in map(_stem, held)]
        asked = [c for c in pictured if not _ASIDE.search(c)] or pictured
        kept = [c for c in asked if c in held] or [c for c in asked if self.located(c, folder)] or asked
        kept = _in_order(self.distinct(kept))
        for c in pictured:
            if c not in kept:
                self.out.said.append(f"column '{c}' holds pictures or their names and is not shown to the model")
        if not kept:
            self.out.images = "."
            return
        self.found["image"] = kept if len(kept) > 1 else kept[0]
        if any(not any(not cells.empty(self.values[c][i]) for c in kept) for i in range(len(self.rows))):
            self.out.said.append("some rows have no image and are bad rows; images_optional: true asks them without one")
        if folder is None:
            places = next((where for c in kept if (where := image_folders(self.archive, self.first(c)))), ["."])
            places.sort(key=lambda place: bool(_ASIDE.search(place)))
            self.out.images = places[0]
            if len(places) > 1:
                self.out.said.append(
                    f"images of these names lie in {', '.join(places)}: taken from '{places[0]}'; images: says which"
                )
        else:
            self.out.images = str(folder.resolve())
        self.several([v for c in kept for v in self.values[c] if isinstance(v, str) and not holds_bytes(v)])

    def by_files(self, folder: Path | None) -> list[str]:
        """The first column whose values are names of files, whatever it is called."""
        if sum(1 for _ in self.archive.root.iterdir()) > MOST_FOLDERS:  # each would be looked into for each column
            return []
        unused = (c for c in self.columns if c not in self.used())
        return [c for c in unused if self.first(c) and self.located(c, folder)][:1]

    def several(self, names: list[str]) -> None:
        """What separates the names of several pictures in one cell."""
        mark = next((m for m in MARKS if any(parts(n, m) for n in names)), None)
        if mark is None or self.out.separator is not None:
            return
        answers = self.values.get(self.found.get("answer", ""), [])
        if any(isinstance(a, str) and mark in a for a in answers):
            self.out.said.append(
                f"cells of images seem to hold several, and '{mark}' stands in answers too: split them into columns"
            )
        else:
            self.out.separator = mark

    def first(self, column: str) -> list[str]:
        """Some names of pictures in a column."""
        found: list[str] = []
        for v in self.values[column][:200]:
            for one in cells.items(v, None, most=1 << 28):
                name = one.get("path") if isinstance(one, dict) and one.get("bytes") is None else one
                if isinstance(name, str | int) and not cells.empty(name) and not holds_bytes(name):
                    found.append(str(name).replace("\\", "/"))
        return found[:5]

    def located(self, column: str, folder: Path | None) -> bool:
        names = self.first(column)
        if folder is not None and (elsewhere := Archive.at(folder)):
            return image_folder(elsewhere, names) is not None
        return not names or image_folder(self.archive, names) is not None

    def distinct(self, columns: list[str]) -> list[str]:
        """Without a column that names the pictures of another one again, whole or as the end of its path, in every row."""
        kept: dict[str, list[str]] = {}
        for c in columns:
            told = [f"/{v}".replace("\\", "/") if isinstance(v, str) and not holds_bytes(v) else "" for v in self.values[c]]
            if not any(told) or not any(all(map(_same_path, told, other)) for other in kept.values()):
                kept[c] = told
        return list(kept)

    # -- choices and answers ------------------------------------------------------------------------------------------

    def choices(self) -> None:
        self.take("choices", lambda c: any(not cells.empty(v) for v in self.values[c]))
        if "choices" in self.found:
            self.out.separator = _separator(self.values[self.found["choices"]])
        elif lettered := _lettered(self.columns):
            self.found["choices"] = lettered

    def report(self) -> None:
        """A table of reports has no question: findings and impression are the answer."""
        if "messages" in self.found:
            return
        by_plain = {_plain(c): c for c in self.columns}
        sections = [by_plain[n] for n in ("findings", "impression") if n in by_plain]
        if "answer" not in self.found and sections:
            whole = "\n".join(f"{_plain(c).capitalize()}: {{{c}}}" for c in sections)
            listed = any(isinstance(v, list) for c in sections for v in self.values[c])  # of sentences, not of right answers
            self.found["answer"] = whole if len(sections) > 1 or listed else sections[0]
        if "question" not in self.found and (sections or "report" in _plain(str(self.found.get("answer", "")))):
            self.found["ask"] = REPORT
            self.out.said.append("the table has no question: every row is asked the one under `ask`")

    def answer_as(self) -> None:
        """How the answers name their choices, where the values tell; choices that stand in the question."""
        if "messages" in self.found and "answer" not in self.found:
            questions, answers = self.exchanges()
        elif "answer" in self.found and isinstance(self.found.get("question"), str):
            questions = [v if isinstance(v, str) else "" for v in self.values.get(self.found["question"], [])]
            answers = [text("", v) if isinstance(v, str | int | float) else "" for v in self.values.get(self.found["answer"], [])]
        else:
            return
        told = [a for a in answers if a]
        if "choices" in self.found and told and all(re.fullmatch(r"\d{1,2}", a) for a in told):
            counts = [len(c.words) for r in self.rows if (c := self.read_choices(r))]
            numbers = {int(a) for a in told}
            if self.labelled_by_number() or not counts:
                return
            if self.numbers_are_words(answers):
                self.found["answer_as"] = "words"
                self.out.said.append("the answers are numbers that stand among the choices: taken as their words, not counted")
                return
            if 0 in numbers and max(numbers) < max(counts):
                self.found["answer_as"] = "index"
            elif max(numbers) == max(counts):
                self.found["answer_as"] = "number"
            else:
                self.out.said.append("the answers are numbers that may count from 0 or from 1: set answer_as to index or number")
        elif "choices" not in self.found and told:
            listed = [(choices.lettered(q), a) for q, a in zip(questions, answers, strict=False) if a]
            fits = sum(bool(f) and _names_one(a, f[1]) for f, a in listed if f)
            if fits > 0.8 * len(told):
                self.found["choices_in"] = "question"

    def exchanges(self) -> tuple[list[str], list[str]]:
        """(questions, answers) of the conversations that hold one of each."""
        found = []
        for v in self.values[self.found["messages"]][:200]:
            try:
                found.append(exchange(v, "", ""))
            except (BadCell, DataError):
                continue
        return [e.question for e in found], [e.answer or "" for e in found]

    def read_choices(self, row: dict[str, Any]) -> Choices | None:
        columns = self.found["choices"]
        columns = columns if isinstance(columns, list) else [columns]
        try:
            return choices.read([cells.pick(row, c) for c in columns], "", self.out.separator, "")
        except (BadCell, DataError):
            return None

    def numbers_are_words(self, answers: list[str]) -> bool:
        found = [(a, c) for a, r in zip(answers, self.rows, strict=True) if a and (c := self.read_choices(r))]
        return all(a in c.words for a, c in found)

    def labelled_by_number(self) -> bool:
        return any(c.labels and c.labels[0].isdecimal() for r in self.rows[:20] if (c := self.read_choices(r)))

    # -- splits, clusters, slices -------------------------------------------------------------------------------------

    def split(self) -> None:
        if len(self.out.splits) > 1:
            return
        self.take("split", lambda c: True)
        if not (column := self.found.get("split")):
            return
        told = [text("", v) for v in self.values[column] if isinstance(v, str | int | float) and not cells.empty(v)]
        values = list(dict.fromkeys(told))
        if len(values) <= 10 and any(v.lower() in jsons.SPLITS for v in values):
            self.out.splits = dict.fromkeys(values, next(iter(self.out.splits.values())))
        else:
            del self.found["split"]

    def cluster(self) -> None:
        """An id that repeats."""
        found = {_noun(c): c for c in reversed(self.columns) if c not in self.used() and c not in self.pictures}
        for noun in [n for n in _CLUSTERS if n in found]:
            column = found[noun]
            told = [v for v in self.values[column] if isinstance(v, str | int | float) and not cells.empty(v)]
            values = [text("", v) for v in told]
            # a subject may be what a question is about, a case what happened: ids hold digits, or are called so
            ids = noun == "patient" or _is_named_id(column) or all(re.search(r"\d", v) for v in values)
            if not ids or not 1 < len(set(values)) < len(values):
                continue
            if len(values) < len(self.rows):
                self.out.said.append(
                    f"column '{column}' repeats, and some rows have none: fill them, and name it under cluster; until then rows "
                    f"of one {noun} count as independent"
                )
                continue
            self.found["cluster"] = column
            self.out.said.append(f"column '{column}' repeats: rows of one {noun} are taken as one cluster")
            return

    def slices(self) -> list[str]:
        """Other columns of few different short texts."""
        used = self.used()
        out = []
        for column in self.columns:
            values = self.values[column]
            texts = {v for v in values if isinstance(v, str) and v.strip()}
            few = 2 <= len(texts) <= min(20, len(self.rows) // 2) and all(len(t) <= 40 and "\n" not in t for t in texts)
            plain = all(v is None or isinstance(v, str) for v in values)
            told = _plain(column.rpartition(".")[2]) in _NAMES["answer"]  # the right letter beside the right words
            if few and plain and not told and not _is_id(column) and column not in used and column not in self.pictures:
                out.append(column)
        return out


def _is_id(column: str) -> bool:
    return _noun(column) in set(_CLUSTERS) - {"subject", "case", "study", "exam", "examination"} or _is_named_id(column)


def _is_named_id(column: str) -> bool:
    return bool(re.search(r"(?:^|[^a-z])(?:id|uid|no|nr|number|hash|path|file)$|(?:ID|Id)$", column))


def _same_path(a: str, b: str) -> bool:
    return bool(a) == bool(b) and (a.endswith(b) or b.endswith(a))


def _stem(column: str) -> str:
    """A name without its number: "image" for image_2."""
    return re.sub(r"[\s_.\-]*\d+(?=\D*$)", "#", column).removesuffix("#")


def _in_order(columns: list[str]) -> list[str]:
    """Columns that differ by a number alone in the order of the numbers, wherever they stand in the table."""
    places: dict[str, list[str]] = {}
    for c in columns:
        places.setdefault(_stem(c), []).append(c)
    ordered = {k: iter(sorted(v, key=_number)) for k, v in places.items()}
    return [next(ordered[_stem(c)]) for c in columns]


def _number(column: str) -> int:
    return int(next(iter(re.findall(r"\d+(?=\D*$)", column)), 1))


def _names_one(answer: str, words: Sequence[str]) -> bool:
    try:
        choices.choice(answer, Choices(tuple(words)), Columns())
    except BadCell:
        return False
    return True


def _noun(column: str) -> str:
    return Columns(cluster=column).cluster_noun or ""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _lettered(columns: list[str]) -> list[str] | None:
    """Columns A, B, C ... or option_a, opa, "Choice A", option1, choice_0 ..., as far as they go."""
    by_plain = {_plain(c): c for c in columns}
    for start in ("", "option", "choice", "op", "opt", "candidate", "answer", "ans"):
        first = 0 if f"{start}0" in by_plain else 1
        for labels in ("abcdefghijklmnopqrstuvwxyz", [str(i) for i in range(first, 27)]):
            run = []
            for label in labels:
                if start + label not in by_plain or not start + label:
                    break
                run.append(by_plain[start + label])
            if len(run) > 1 and (start or not labels[0].isdecimal()):
                if more := next(
                    (by_plain[start + x] for x in labels[len(run) + 1 : len(run) + 3] if start + x in by_plain), None
                ):
                    raise DataError(
                        f"columns {', '.join(run)} hold choices, the next one is missing, and then comes {more}",
                        hint="rename them, or add the missing one, empty: choices keep their letters",
                    )
                return run
    return None


def _separator(values: Iterable[Any]) -> str | None:
    """What splits a cell of choices that is no list and lists no letters."""
    told = [c for c in values if isinstance(c, str) and c.strip() and c.lstrip()[:1] not in ("[", "{", "(")]
    if any(choices.lettered(c) for c in told[:20]):
        return None
    return next((s for s in ("|", ";", "\n", ",") if told and all(s in c for c in told)), None)
