"""Other people's rules: the same answers, scored as public harnesses and papers score them.

    protocol.py   what a protocol is: rows, reading, rule; its score
    texts.py      forms of text that several rules share
    plain.py      exact, strict, vqa-rad-hub, medgemma, vqa-med, vqa-med-bleu
    llava_med.py  medevalkit.py  lmms_eval.py  evalscope.py  vlmevalkit.py

Each rule is written from its source's behaviour. Under every protocol an all-correct run scores 1 and an all-wrong run 0; where
the source does otherwise, that fault is kept under a name that ends in -asis. docs/protocols.md has the table.

    find("llava-med/closed").mark(prediction, sample)
"""

from collections.abc import Iterable

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.scoring.protocols import evalscope, llava_med, lmms_eval, medevalkit, plain, vlmevalkit
from harness.scoring.protocols.protocol import ANSWER, PARTS, Counting, Mark, Protocol, Rule, closed, part_of, score

__all__ = [
    "ANSWER", "PARTS", "PREFIX", "PROTOCOLS", "Counting", "Mark", "Protocol", "Rule", "closed", "find", "find_all",
    "fractional", "score",
]  # fmt: skip

#: Of a judge's name, and of the metric of the same name.
PREFIX = "protocol:"
PROTOCOLS: dict[str, Protocol] = {
    p.name: p for family in (plain, llava_med, medevalkit, lmms_eval, evalscope, vlmevalkit) for p in family.ENTRIES
}


def find(name: str) -> Protocol:
    """The protocol of NAME, NAME/PART or NAME/answer, with or without "protocol:" before it.

    Raises UserError with the nearest name.
    """
    wanted, *parts = name.strip().removeprefix(PREFIX).split("/")
    if wanted not in PROTOCOLS:
        raise UserError(f"no protocol named '{wanted}'", hint=did_you_mean(wanted, list(PROTOCOLS)))
    found = PROTOCOLS[wanted]
    for part in dict.fromkeys(parts):
        if part not in (*PARTS, ANSWER):
            raise UserError(f"protocol '{name}': no part named '{part}'", hint=did_you_mean(part, [*PARTS, ANSWER]))
        found = part_of(found, part)
    return found


def find_all(names: str) -> list[Protocol]:
    """The protocols of a comma-separated list, each once: `all` is each that repeats no fault, all/PART is that part of each.

    Raises UserError where it names none.
    """
    found: dict[str, Protocol] = {}
    for name in filter(None, (n.strip() for n in names.split(","))):
        everyone, slash, parts = name.partition("/")
        meant = [n for n, p in PROTOCOLS.items() if not p.as_is] if everyone == "all" else [everyone]
        found |= {p.name: p for p in (find(n + slash + parts) for n in meant)}
    if not found:
        raise UserError("no protocol is named", hint=f"known: {', '.join(PROTOCOLS)}")
    return list(found.values())


def fractional(judges: Iterable[str]) -> list[str]:
    """Those of the judges (NAME or NAME@VERSION) whose rule gives values between 0 and 1, so that it is a metric too."""
    names = [judge.partition("@")[0] for judge in judges if judge.startswith(PREFIX)]
    known = [n for n in names if n.removeprefix(PREFIX).partition("/")[0] in PROTOCOLS]
    return [n for n in dict.fromkeys(known) if find(n).fractional]
