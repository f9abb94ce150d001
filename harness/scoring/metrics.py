"""Named metrics: a score in [0, 1] for each prediction against its reference.

A metric takes (prediction, reference) pairs and gives one float a pair, or None where it does not apply to the question.
It reads `Prediction.answer`, as the judges do; an empty or unreadable answer is 0. No metric gives NaN or fails on any
text, and an answer that equals an acceptable one after `answers.normalise` is exactly 1 in each of them.

The similarities (token_f1, bleu, bertscore) take the best of the acceptable answers. On a choice question they compare
the words of the choice that was read with the words of the right one: "(B)" against "B) two" is 1, not half. Those of reports
(harness/scoring/reports.py) compare whole texts.

    METRICS["token_f1"]([(prediction, reference), ...])    # [0.667, ...]
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from harness import answers
from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import Prediction, Reference
from harness.scoring import bertscore as _bertscore
from harness.scoring import bleu as _bleu
from harness.scoring.exact import is_correct, same
from harness.scoring.reports import SIMILARITIES, Similarity

Pair = tuple[Prediction, Reference]
Metric = Callable[[Sequence[Pair]], list[float | None]]


def exact_match(pairs: Sequence[Pair]) -> list[float | None]:
    """1 where the answer is the reference, read as the exact judge reads it (harness/scoring/exact.py), else 0; None without."""
    return [float(is_correct(p.answer, r)) if r.answers else None for p, r in pairs]


def choice_accuracy(pairs: Sequence[Pair]) -> list[float | None]:
    """`exact_match` on questions with choices; None on all others."""
    return [float(is_correct(p.answer, r)) if r.kind == "choice" else None for p, r in pairs]


def token_f1(pairs: Sequence[Pair]) -> list[float | None]:
    """The F1 of the two multisets of words (Rajpurkar et al. 2016, SQuAD's evaluate-v1.1)."""
    return _best(pairs, lambda texts: [word_f1(a, b) for a, b in texts])


def bleu(pairs: Sequence[Pair]) -> list[float | None]:
    """The VQA-Med 2019 challenge's BLEU (Ben Abacha et al. 2019); harness/scoring/bleu.py says exactly which."""
    return _best(pairs, lambda texts: [_bleu.sentence(a, b) for a, b in texts])


def bertscore(pairs: Sequence[Pair]) -> list[float | None]:
    """BERTScore F1 of the normalised texts (Zhang et al. 2020), on the offline MiniLM; not rescaled, so rarely near 0."""
    return _best(pairs, lambda texts: _bertscore.bertscore_f1([(answers.normalise(a), answers.normalise(b)) for a, b in texts]))


def _report(similarity: Similarity) -> Metric:
    """A metric of whole texts; of choice questions it compares words, as the other similarities do."""
    return lambda pairs: _best(pairs, similarity, lambda text, ref: _in_words(text, ref) if ref.choices else text)


METRICS: dict[str, Metric] = {
    "exact_match": exact_match,
    "choice_accuracy": choice_accuracy,
    "token_f1": token_f1,
    "bleu": bleu,
    "bertscore": bertscore,
    **{name: _report(similarity) for name, similarity in SIMILARITIES.items()},
}

#: Metrics whose values are 0 or 1 only: what an aggregate can be taken over.
BINARY = ("exact_match", "choice_accuracy")


def check(names: Iterable[str]) -> tuple[str, ...]:
    """The names without repetitions. Raises UserError with the nearest name for one that is not in METRICS."""
    out = tuple(dict.fromkeys(names))
    for name in out:
        if name not in METRICS:
            raise UserError(f"no metric named '{name}'", hint=did_you_mean(name, list(METRICS)))
    return out


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_words(text: str) -> list[str]:
    """SQuAD's words: lower case, punctuation deleted ("x-ray" -> "xray"), articles dropped, split at blanks."""
    text = unicodedata.normalize("NFKC", text).lower().translate(_PUNCTUATION)
    return _ARTICLES.sub(" ", text).split()


def word_f1(answer: str, reference: str) -> float:
    """SQuAD's F1 of two texts; where either has no words left, 1 if neither has, else 0 (as SQuAD 2.0 does).

    >>> word_f1("the left lung", "Left lower lung."), word_f1("lung", "liver")
    (0.8, 0.0)
    """
    a, b = squad_words(answer), squad_words(reference)
    if not a or not b:
        return float(same(answer, reference))
    common = (Counter(a) & Counter(b)).total()
    return 2 * common / (len(a) + len(b))


def _in_words(text: str, reference: Reference) -> str:
    """The chosen option's words where the question has choices and the text names one; else the answer that the text states."""
    letter = answers.letter(text, reference.choices) if reference.choices else None
    return reference.choices[ord(letter) - 65] if letter and reference.choices else answers.short(text)


def _best(pairs: Sequence[Pair], similarity: Similarity, read: Callable[[str, Reference], str] = _in_words) -> list[float | None]:
    """The similarity to the nearest acceptable answer, both as `read`: 0 for an empty answer, None without a reference."""
    out: list[float | None] = [0.0] * len(pairs)
    ask: list[tuple[int, str, str]] = []
    for i, (prediction, reference) in enumerate(pairs):
        answer = read(prediction.said or "", reference).strip()
        right = [a for a in (read(a, reference).strip() for a in reference.answers) if a]
        if not right:
            out[i] = None
        elif any(same(answer, a) for a in right):
            out[i] = 1.0
        elif answer:
            ask += [(i, answer, a) for a in right]
    for (i, _, _), value in zip(ask, similarity([(a, b) for _, a, b in ask]) if ask else (), strict=True):
        out[i] = max(out[i] or 0.0, value)
    return out


def right_letter(reference: Reference) -> str | None:
    """The letter of the right choice; None without choices, or where the reference names none or several."""
    letters = {answers.letter(a, reference.choices) for a in reference.answers} if reference.choices else set()
    return letters.pop() if len(letters) == 1 else None
