"""Where a dataset's files are, read by relative name: a folder, a zip, zips that lie in the folder, a hub repo's copy.

    archive = Archive.at(Path("data/slake"))        # the folder, or data/slake.zip
    archive.text("test.json")
    archive.image("imgs/xmlab0/source.jpg")         # from imgs/, or from imgs.zip beside test.json

A zip shows its files where unpacking would put them, whether or not it holds a top folder of its own; what lies in the
folder itself comes first. A zip inside a zip is not opened. Nothing is unpacked to disk.

Names stay inside their root: an absolute name, one with `..`, and a symbolic link that leads out are refused. A hub
snapshot links into its own repo's `blobs/`, which is allowed. The root itself may be a link: whoever gave the folder
made it.
"""

from __future__ import annotations

import io
import os
import re
import socket
import sys
import threading
import unicodedata
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from harness.errors import DataError, RowError
from harness.pictures import Reading
from harness.records import ImageRef
from harness.zips import read_member

#: Seconds within which the hub must answer before `--data auto` goes on without it.
PATIENCE = 4.0


@lru_cache(maxsize=32)
def _members(path: str, stamp: int) -> dict[str, str]:
    """Every name under which a zip's files are found -> the member.

    A member `m` of S.zip is found as `m`, as `S/m`, and, where all members share one top folder, without that folder.
    """
    with zipfile.ZipFile(path) as archive:
        files = [m for m in archive.namelist() if not m.endswith("/") and not m.startswith("__MACOSX/")]
    tops = {m.split("/", 1)[0] for m in files}
    top = f"{tops.pop()}/" if len(tops) == 1 and all("/" in m for m in files) else ""
    stem = Path(path).stem
    index = {m: m for m in files}
    for m in files:
        bare = m.removeprefix(top)
        index.setdefault(f"{stem}/{bare}", m)
        index.setdefault(bare, m)
    return index


def _pattern(glob: str) -> re.Pattern[str]:
    """`**/` is any folders; `*`, `?` and `{name}` stay within a name."""
    out = re.escape(glob).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return re.compile(_NAMED.sub(r"(?P<\1>[^/]*)", out.replace(r"\{", "{").replace(r"\}", "}")))


_NAMED = re.compile(r"\{([A-Za-z_]\w*)\}")


def captured(pattern: str, name: str) -> dict[str, str] | None:
    """What each `{name}` of a pattern stands for in a file's name; None where the pattern does not fit.

    >>> captured("{subject}/test-*.parquet", "Pharmacy/test-0.parquet"), captured("*.csv", "a.json")
    ({'subject': 'Pharmacy'}, None)
    """
    found = _pattern(pattern).fullmatch(name)
    return found.groupdict() if found else None


def unnamed(pattern: str) -> str:
    """The pattern with `*` for every `{name}`."""
    return _NAMED.sub("*", pattern)


def inside(name: str) -> str | None:
    """Why a relative name is refused, or None. Backslashes are not path separators here."""
    if not name or name.startswith("/") or re.match(r"[A-Za-z]:[\\/]", name):
        return "is not a relative path"
    if re.match(r"[a-z][a-z0-9+]*://", name):
        return "is an address, not a file; download it first"
    if ".." in name.split("/"):
        return "leaves its root folder"
    if "\\" in name or "\0" in name:
        return "holds a backslash or a zero byte; write it with '/'"
    return None


class Archive:
    """Files by name relative to `root`, which is a folder or a zip. `trusted` are folders that links may lead to."""

    def __init__(self, root: Path, trusted: Sequence[Path] = ()) -> None:
        self.root = root
        self._zipped = not root.is_dir()
        self._roots = [os.path.realpath(root), *(os.path.realpath(t) for t in trusted)]
        self._zips: dict[str, list[Path]] = {}
        self._images: dict[str, ImageRef] = {}

    @classmethod
    def at(cls, folder: Path, within: Path | None = None) -> Archive | None:
        """The folder, or the zip of its name beside it; None where there is neither.

        `within`: refuse (DataError) a folder or zip whose link leads out of this one.
        """
        zipped = folder.with_name(f"{folder.name}.zip") if folder.name else folder
        found = next((p for p in (folder, zipped) if p.is_dir() or (p.suffix == ".zip" and p.is_file())), None)
        if found is None:
            return None
        if within and not _contained(os.path.realpath(found), [os.path.realpath(within)]):
            raise DataError(f"{found}: leads out of {within}", hint="a task's own files must lie beside its YAML")
        return cls(found)

    def __str__(self) -> str:
        return str(self.root)

    def label(self, name: str) -> str:
        """The name as a message shows it."""
        return str(self.root / name)

    def locate(self, name: str, where: str = "") -> tuple[Path, str | None] | None:
        """(file, None), or (zip, member), or None where there is no such file.

        Raises RowError, with `where` (file and row) in front, when the name or its link leaves the root.
        """
        if why := inside(name):
            raise RowError(f"{where or self.root}: path '{name}' {why}")
        if not self._zipped:
            path = self.root / name
            if os.path.exists(path):  # Path.exists raises for a name that is too long
                self._keep_inside(path, name, where)
                return path, None
        for folder, zipped in self._beside(name):
            if member := _index(zipped).get(name[len(folder) :]):
                return zipped, member
        return None

    def _keep_inside(self, path: Path, name: str, where: str) -> None:
        if not _contained(os.path.realpath(path), self._roots):
            raise RowError(f"{where or self.root}: path '{name}' is a link that leads out of {self.root}")

    def _beside(self, name: str) -> list[tuple[str, Path]]:
        """The zips that may hold `name`: ("folder/", zip) for each folder on the way to it."""
        if self._zipped:
            return [("", self.root)]
        parts = name.split("/")
        out = []
        for depth in range(len(parts)):
            folder = "".join(f"{p}/" for p in parts[:depth])
            if folder not in self._zips:
                try:
                    found = sorted(e.path for e in os.scandir(self.root / folder) if e.name.endswith(".zip") and e.is_file())
                except OSError:  # the folder is in a zip, or is not there
                    found = []
                self._zips[folder] = [Path(p) for p in found]
                for path in self._zips[folder]:
                    self._keep_inside(path, f"{folder}{path.name}", "")
            out += [(folder, z) for z in self._zips[folder]]
        return out

    def existing(self, name: str, where: str = "") -> str | None:
        """The name under which there is such a file: itself, or one whose accents are composed otherwise (NFC, NFD)."""
        if self.locate(name, where):
            return name
        if name.isascii():
            return None
        forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
        if not self._zipped:  # folder and file may differ in form
            parts: list[str] = []
            for part in name.split("/"):
                known = _composed(str(self.root.joinpath(*parts)))
                parts.append(known.get(unicodedata.normalize("NFC", part), part))
            forms.add("/".join(parts))
        return next((form for form in sorted(forms) if self.locate(form, where)), None)

    def __contains__(self, name: str) -> bool:
        return self.locate(name) is not None

    def glob(self, pattern: str) -> list[str]:
        """Names that match, sorted. `*`, `?` and `{name}` stay within a folder, `**/` is any folders; without any, the name."""
        pattern = unnamed(pattern)
        if not any(c in pattern for c in "*?"):
            return [pattern] if pattern in self else []
        if why := inside(pattern):
            raise DataError(f"{self.root}: path '{pattern}' {why}")
        found: set[str] = set()
        zips = self._beside(pattern)
        if not self._zipped:
            found.update(p.relative_to(self.root).as_posix() for p in self.root.glob(pattern) if p.is_file())
            if "**/" in pattern:
                fixed = pattern.split("**/")[0]
                deeper = (p for p in self.root.glob(f"{fixed}**/*.zip") if p.is_file())
                zips += [(p.relative_to(self.root).as_posix()[: -len(p.name)], p) for p in sorted(deeper)]
        matcher = _pattern(pattern)
        taken: set[tuple[Path, str]] = set()
        for folder, zipped in zips:
            for name, member in _index(zipped).items():
                if (zipped, member) not in taken and matcher.fullmatch(folder + name):
                    taken.add((zipped, member))
                    found.add(folder + name)
        return sorted(found)

    def read(self, name: str, where: str = "") -> bytes:
        """A file's bytes. Raises DataError when it is missing, damaged or outside."""
        found = self.locate(name, where)
        if found is None:
            raise DataError(f"{where + ': ' if where else ''}{self.label(name)}: no such file", hint=_MISSING)
        path, member = found
        try:
            return read_member(path, member) if member is not None else path.read_bytes()
        except (OSError, ValueError) as e:
            raise DataError(f"{where + ': ' if where else ''}{e}") from None

    def text(self, name: str, where: str = "") -> str:
        """A file as UTF-8 text, a byte order mark dropped. Raises DataError, also when it is not UTF-8."""
        try:
            return self.read(name, where).decode("utf-8-sig")
        except UnicodeDecodeError as e:
            raise DataError(f"{self.label(name)}: not UTF-8 text ({e.reason} at byte {e.start})") from None

    def stream(self, name: str) -> Path | IO[bytes]:
        """A file for a reader that seeks: its path, or its bytes where it is in a zip."""
        found = self.locate(name)
        return found[0] if found and found[1] is None else io.BytesIO(self.read(name))

    def image(self, name: str, where: str = "") -> ImageRef:
        """An image by name, not read yet; one object for all questions about it. "stack.tif#3" is its third frame.

        A missing file is not an error here: reading the image says so. Raises RowError when the name leaves the root.
        """
        if name not in self._images:
            file, frame = self.frame_of(name, where)
            path, member = self.locate(file, where) or (self.root if self._zipped else self.root / file, None)
            missing = self._zipped and member is None
            self._images[name] = ImageRef(name, path, member=file if missing else member, reading=Reading(frame=frame))
        return self._images[name]

    def frame_of(self, name: str, where: str = "") -> tuple[str, int | None]:
        """(file, frame) of an image's name. A file whose own name ends in "#3" is that file. Raises RowError for frame 0."""
        named = re.fullmatch(r"(.+)#(\d{1,9})", name, re.S)
        if named and not self.locate(name, where) and self.locate(named[1], where):
            if int(named[2]) == 0:
                raise RowError(f"{where or self.root}: path '{name}': frames are counted from 1")
            return named[1], int(named[2])
        return name, None


_MISSING = "point --data-dir (or HARNESS_DATA_DIR) at the folder that holds the archive"


def _contained(path: str, roots: Sequence[str]) -> bool:
    return any(path == r or path.startswith(r.rstrip(os.sep) + os.sep) for r in roots)


@lru_cache(maxsize=64)
def _composed(folder: str) -> dict[str, str]:
    """NFC name -> the name that a folder holds."""
    try:
        return {unicodedata.normalize("NFC", entry): entry for entry in os.listdir(folder)}
    except OSError:
        return {}


def nearest(path: Path) -> str | None:
    """The name in a missing file's folder that is most like its own: another case or ending, a typing error."""
    from rapidfuzz import fuzz, process

    try:
        there = os.listdir(path.parent)
    except OSError:  # there is no such folder: perhaps one of nearly its name holds the file
        folder = nearest(path.parent)
        return f"{folder}/{path.name}" if folder and (path.parents[1] / folder / path.name).exists() else None
    same = [n for n in there if n.casefold() == path.name.casefold()] or [n for n in there if Path(n).stem == path.stem]
    if same:
        return min(same)
    found = process.extractOne(path.name, there, scorer=fuzz.ratio, score_cutoff=80) if len(there) < 10_000 else None
    return found[0] if found else None


def _index(zipped: Path) -> dict[str, str]:
    try:
        return _members(str(zipped), zipped.stat().st_mtime_ns)
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as e:
        raise DataError(f"{zipped}: cannot be read as a zip ({e})") from None


# -- the hub -------------------------------------------------------------------------------------------------------


class HubError(DataError):
    """A hub repo that cannot be had; the message says why."""


class Snapshot(NamedTuple):
    """Files of a hub repo, the commit they are of, and why the hub was not asked for a newer one, if it should have been."""

    archive: Archive
    commit: str
    stale: str | None = None


_unreachable: dict[str, str] = {}


def from_hub(repo: str, revision: str | None, patterns: Sequence[str], *, fresh: bool) -> Snapshot:
    """The files of a hub dataset repo that match `patterns`, downloaded where they are not cached.

    `fresh` asks the hub what `revision` (None: the default branch) stands for now; otherwise what is cached whole is used
    without a word over the network. With HF_HUB_OFFLINE set nothing is ever asked. Raises HubError with the reason.
    """
    from huggingface_hub import constants

    stored = Path(constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}"
    cached = _snapshot(repo, revision, patterns, offline=True) if (stored / "snapshots").is_dir() else None
    if cached and not fresh:
        return cached
    if constants.HF_HUB_OFFLINE:
        if cached:
            return cached._replace(stale="HF_HUB_OFFLINE is set")
        raise HubError(f"hub dataset {repo}: not in the cache, and HF_HUB_OFFLINE is set")
    try:
        _ask(repo, revision)
        found = _snapshot(repo, revision, patterns, offline=False)
    except HubError as e:
        if cached:
            return cached._replace(stale=str(e))
        raise
    assert found
    return found


def _snapshot(repo: str, revision: str | None, patterns: Sequence[str], *, offline: bool) -> Snapshot | None:
    """None where `offline` and not everything is cached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        folder = Path(
            snapshot_download(
                repo, repo_type="dataset", revision=revision, allow_patterns=list(patterns), local_files_only=offline
            )
        )
    except LocalEntryNotFoundError as e:
        if offline:
            return None
        raise HubError(f"hub dataset {repo}: {_brief(e)}") from None
    except Exception as e:  # network and disk errors of several libraries; all mean that the data cannot be had
        raise HubError(f"hub dataset {repo}: {_brief(e)}") from None
    return Snapshot(Archive(folder, trusted=[folder.parent.parent / "blobs"]), folder.name)


def _ask(repo: str, revision: str | None) -> None:
    """Raise HubError unless the hub answers within PATIENCE that it has this revision.

    Asked in a thread, because a name server or a proxy that does not answer obeys no timeout of ours; remembered for the
    process, so that seven tasks do not wait seven times.
    """
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT
    if endpoint not in _unreachable:
        answer: list[Exception | None] = []
        thread = threading.Thread(target=lambda: answer.append(_answer(endpoint, repo, revision)), daemon=True, name="hub")
        thread.start()
        thread.join(PATIENCE + 1)
        error = answer[0] if answer else TimeoutError(f"no answer within {PATIENCE:.0f} s")
        if isinstance(error, HubError):
            raise error
        if error:
            _unreachable[endpoint] = f"{endpoint} cannot be reached ({_brief(error)})"
    if endpoint in _unreachable:
        raise HubError(f"hub dataset {repo}: {_unreachable[endpoint]}")


def _answer(endpoint: str, repo: str, revision: str | None) -> Exception | None:
    """None when the hub has the revision, HubError when it says no, what went wrong when it does not say."""
    try:
        url = urlsplit(endpoint)
        if not getproxies():  # before a second of imports: is anybody there at all?
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname or "", port), timeout=PATIENCE).close()
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            HfApi().dataset_info(repo, revision=revision, timeout=PATIENCE)
        except HfHubHTTPError as e:
            if e.response.status_code >= 500:
                return e
            return HubError(
                f"hub dataset {repo}: {_brief(e)}",
                hint="a gated dataset needs its terms accepted on the hub and `hf auth login`",
            )
    except Exception as e:
        return e
    return None


def _brief(e: Exception) -> str:
    """An error's first line."""
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
