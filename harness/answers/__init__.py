"""Reading a model's text: reasoning and answer, choice letters, yes/no, scores, normal forms.

Each reader returns None when the text does not say, never a guess: "normal" is not "no", and a text that names two letters
names none. All of them read the same normal form by the same grammar: a text is cut into pieces at its stops; words that
only lead up to an answer ("so I think the answer is") are passed over; what is denied or doubted is not said.

    thinking.py   markers of reasoning and answer    forms.py    normal forms, pieces, leading words
    polarity.py   yes or no                          letters.py  a letter among choices
    stated.py     the short answer that a text states             scores.py   a judge's 0 or 1
"""

from harness.answers.forms import normalise
from harness.answers.letters import letter
from harness.answers.polarity import is_yes_no, yes_no
from harness.answers.scores import score
from harness.answers.stated import bare, short
from harness.answers.thinking import Reading, Tags, is_marker, left_open, read

__all__ = [
    "VERSION", "Reading", "Tags", "bare", "is_marker", "is_yes_no", "left_open", "letter", "normalise", "read", "score", "short",
    "yes_no",
]  # fmt: skip

#: Raised whenever a reader could take something else from the same text; a run's stored answers are all of one version.
VERSION = 4
