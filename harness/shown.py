"""How numbers and names are written: one function for each, used by the terminal, the pages, the exports and the judges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from rich.text import Text

    from harness.records import DataCard


class Estimated(Protocol):
    """A value and its limits, as judges.agreement.Estimate."""

    @property
    def value(self) -> float | None: ...

    @property
    def low(self) -> float | None: ...

    @property
    def high(self) -> float | None: ...


#: Dollars; "unknown" where a price is not known; None where nothing was bought.
Cost = float | Literal["unknown"] | None


def percent(share: float | None) -> str:
    """One decimal; an en dash where there is nothing.

    >>> percent(1.0), percent(0.0), percent(0.4575), percent(None)
    ('100.0', '0.0', '45.8', '–')
    """
    return "–" if share is None else f"{100 * share:.1f}"


def between(low: float | None, high: float | None) -> str:
    """An interval of shares, in percent: as low and high, for few are as wide on both sides.

    >>> between(0.2512, 1.0), between(None, None)
    ('25.1 – 100.0', '–')
    """
    return "–" if low is None or high is None else f"{percent(low)} – {percent(high)}"


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """
    >>> with_interval(0.875, 0.529, 0.978), with_interval(0.875, None, None), with_interval(None, None, None)
    ('87.5 (52.9 – 97.8)', '87.5', '–')
    """
    return percent(value) + (f" ({between(low, high)})" if value is not None and low is not None else "")


def coefficient(found: Estimated) -> str:
    """A coefficient of agreement, such as kappa, with its interval where there is one."""
    if found.value is None:
        return "–"
    return f"{found.value:.3f}" + (f" ({found.low:.3f} – {found.high:.3f})" if found.low is not None else "")


def points(difference: float) -> str:
    """A difference of shares in points, with its sign.

    >>> points(-0.0421), points(0.0)
    ('-4.2', '+0.0')
    """
    return f"{100 * difference:+.1f}"


def points_of(parts: Sequence[float]) -> list[str]:
    """`points` of parts, rounded so that what is printed adds up to the sum as it is printed.

    >>> points_of([0.0124, 0.0124, -0.004]), points(0.0208)
    (['+1.3', '+1.2', '-0.4'], '+2.1')
    """
    tenths = [1000 * part for part in parts]
    whole = [math.floor(t) for t in tenths]
    lacking = round(10 * float(points(math.fsum(parts)))) - sum(whole)
    last = sorted(range(len(parts)), key=lambda i: whole[i] - tenths[i])[:lacking]
    return [f"{(w + (i in last)) / 10:+.1f}" for i, w in enumerate(whole)]


def p_number(p: float) -> str:
    """
    >>> p_number(0.0123), p_number(1e-9)
    ('0.012', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_value(p: float) -> str:
    """
    >>> p_value(0.0123), p_value(1e-9)
    ('p = 0.012', 'p < 0.001')
    """
    return f"p {p_number(p)}" if p < 0.001 else f"p = {p_number(p)}"


def cost_of(usage: dict[str, object]) -> Cost:
    """What a card's record of use (harness.models.usage.Usage.row) says was paid."""
    if not usage.get("answered"):
        return None
    cost = usage.get("cost_usd")
    return float(cost) if isinstance(cost, int | float) else "unknown"


def dollars(cost: Cost) -> str:
    """
    >>> dollars(1.5), dollars(0.00001), dollars(0.0), dollars("unknown"), dollars(None)
    ('$1.5000', '< $0.0001', '$0.0000', 'unknown', '–')
    """
    if cost is None or cost == "unknown":
        return cost or "–"
    return "< $0.0001" if 0 < cost < 0.00005 else f"${cost:.4f}"


def duration(seconds: float) -> str:
    """
    >>> duration(2.995), duration(59.97), duration(84), duration(3598), duration(7500)
    ('3.0 s', '1.0 min', '1.4 min', '1.0 h', '2.1 h')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if round(seconds / 60, 1) < 60 else f"{seconds / 3600:.1f} h"


def count(number: int, one: str) -> str:
    """
    >>> count(1, "image"), count(1061, "question"), count(2, "entry")
    ('1 image', '1,061 questions', '2 entries')
    """
    return f"{number:,} {one if number == 1 else plural(one)}"


def plural(one: str) -> str:
    """
    >>> plural("image"), plural("study"), plural("day"), plural("series")
    ('images', 'studies', 'days', 'series')
    """
    if one.endswith("ies"):
        return one
    return f"{one[:-1]}ies" if one.endswith("y") and one[-2] not in "aeiou" else f"{one}s"


def asked(rows: int, repeats: int = 1) -> str:
    """How many questions these rows are, where each question was asked `repeats` times (--num-samples).

    >>> asked(1), asked(1061), asked(300, 3)
    ('1 question', '1,061 questions', '100 questions x 3 samples')
    """
    questions = count(rows // repeats, "question")
    return questions if repeats == 1 else f"{questions} x {count(repeats, 'sample')}"


def answers(n: int, repeats: int = 1) -> str:
    """What `n` judged rows are: questions, or, where each was asked several times, answers.

    >>> answers(299), answers(299, 3)
    ('299 questions', '299 answers')
    """
    return count(n, "question" if repeats == 1 else "answer")


def cluster_of(data: DataCard) -> str:
    """What the rows that belong together share, and intervals count: an image, a patient; without images, the question.

    Cards of older runs say only whether there were images.
    """
    return data.cluster_of or ("image" if data.images else "question")


def harmless(text: str) -> str:
    """The text, each character that a terminal would act on, or that turns the direction of writing, as U+FFFD.

    >>> harmless("red\\x1b[31m left\\u202eright")
    'red\ufffd[31m left\ufffdright'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def plain(text: str, style: str = "") -> Text:
    """For rich: text from files, servers and people, in which nothing is markup or an emoji's name, or moves the cursor."""
    from rich.text import Text

    return Text(harmless(text), style)
