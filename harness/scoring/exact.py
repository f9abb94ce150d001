"""Whether an answer is the reference: the one strict reading that the exact judge and `exact_match` share.

A choice question is right when the letter read from the answer is the reference's; a yes/no question when the yes
or no read is; any other when the answer, or the short answer that the text states ("The answer is: ...", "CT. The image shows
..."), equals one of the reference answers after normalisation. No substring and no similarity counts.
"""

from __future__ import annotations

from harness import answers
from harness.records import Reference


def is_correct(answer: str | None, reference: Reference) -> bool:
    """Whether `answer` matches `reference` exactly, read in the reference's own kind.

    >>> is_correct("The answer is (B).", Reference(answers=("B",), choices=("one", "two")))
    True
    >>> is_correct("normal", Reference(answers=("No",)))
    False
    """
    if not answer or not answer.strip():
        return False
    if reference.kind == "choice":
        choices = reference.choices or ()
        right = {answers.letter(a, choices) for a in reference.answers}
        return answers.letter(answer, choices) in right - {None}
    if reference.kind == "yesno":
        return answers.yes_no(answer) in {answers.yes_no(a) for a in reference.answers} - {None}
    return any(same(answer, a) for a in reference.answers)


def same(answer: str, reference: str) -> bool:
    """Whether an answer, or the short answer that it states, is the reference after normalisation. What is nothing but
    punctuation has to match as it stands."""
    x, y = answers.bare(answer), answers.bare(reference)
    if not x or not y:
        return answer.strip() == reference.strip() != ""
    return x == y or answers.bare(answers.short(answer)) == y
