"""The pages as HTML. What models and data wrote is hostile text: escaped, and made visible, as the viewer does it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.shown import duration
from judges.human.desk import Desk
from judges.human.site import guide
from leaderboard.share import Said
from leaderboard.site import text
from leaderboard.site.pages import HERE as VIEWER
from leaderboard.site.pictures import NoPictureError, Pictures

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent


def guide_page(desk: Desk, rater: str) -> str:
    """The first page: what counts as right, and where to go on."""
    examples = list(zip(guide.rows(), guide.EXAMPLES, strict=True))
    return _render("guide", desk, rater, examples=examples, go_on=desk.next(rater))


def question_page(desk: Desk, pictures: Pictures, rater: str, place: int) -> str:
    """One place. Nothing on it says which model wrote the answer, or what anybody else said."""
    card, row = desk.row(rater, place)
    images: list[str] = []
    try:
        images = [f"{place}.{n}.png" for n in range(len(pictures.find(card, row)))]
        problem = ""
    except NoPictureError:  # the reason may name a file or a row, which the person who serves this is told
        problem = "it is not on this machine" if row.images else "this question has none"
    assert row.prediction is not None, "only answers are drawn"
    return _render(
        "question", desk, rater,
        place=place,
        item=desk.item(rater, place),
        row=row,
        prediction=row.prediction,
        label=desk.said(rater).get(place),
        # a name for the image, so that the browser keeps its zoom and window from one question to the next
        picture=desk.opaque(row.pictured or row.cluster),
        images=images,
        problem=problem,
        go_on=desk.next(rater, place),
    )  # fmt: skip


def missing_page(what: str) -> str:
    return _environment().get_template("missing.html.j2").render(what=what)


def _render(template: str, desk: Desk, rater: str, **values: Any) -> str:
    done, places = len(desk.done(rater)), desk.places(rater)
    shared = {"rater": rater, "done": done, "places": places, "spent": desk.seconds(rater)}
    return _environment().get_template(f"{template}.html.j2").render(shared | values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader([HERE / "templates", VIEWER / "templates"]), autoescape=True, undefined=StrictUndefined,
        finalize=text.visible, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters |= {"duration": duration, "said": Said}
    return env
