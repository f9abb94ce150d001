"""`harness report`: the viewer's pages as one folder that needs no server, its plots, and a summary of it in a single file.

Links are the server's own. What asks a server there is written out here: a page a row (shared by the runs that answered it),
a page for each two runs of a table, filters that hide rows in the browser. Written aside and renamed, so that the folder is
whole or not there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from harness.errors import UserError
from harness.records import BadImageError
from harness.runs import slug
from leaderboard.browse import Filter, Row
from leaderboard.site import summary
from leaderboard.site.drawings import draw, names
from leaderboard.site.library import Library, Run, Shelf
from leaderboard.site.pages import HERE, PICKABLE, Site
from leaderboard.site.pictures import NoPictureError, Pictures, encode
from leaderboard.site.rows import Asked, Turn

#: Files have no server to set headers; 'self' is the folder.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
#: Says that a folder is a report, and may be replaced by a newer one.
MARK = ".harness-report"
#: What a browser loads; nothing else is copied.
STATIC = ("site.css", "theme.js", "app.js", "film.js", "icon.svg")

Report = Callable[[str, int, int], None]


@dataclass
class FileLinks:
    """Rows and pictures as files. A picture is encoded when a page first links to it."""

    pictures: Pictures
    folder: Path
    most: int
    files: bool = True
    _numbers: dict[str, dict[str, int]] = field(default_factory=dict)

    def number(self, run: Run, sample_id: str) -> int:
        """Rows are numbered by the rows' fingerprint: an id may be no file name."""
        known = self._numbers.setdefault(run.card.data.fingerprint, {})
        return known.setdefault(sample_id, len(known) + 1)

    def sample(self, run: Run, sample_id: str, asked: Asked | None = None) -> str:
        return f"row-{slug(run.card.data.task)}-{run.card.data.fingerprint[:8]}-{self.number(run, sample_id)}.html"

    def image(self, run: Run, row: Row, number: int) -> str:
        name = f"{slug(row.cluster)}-{number}.png"
        path = self.folder / "images" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            try:
                path.write_bytes(encode(self.pictures.find(run.card, {"id": row.id, "images": row.images, "cluster": row.cluster})[number]))
            except BadImageError as e:
                raise NoPictureError(str(e)) from None
        return f"images/{name}"
