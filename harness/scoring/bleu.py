"""BLEU as the VQA-Med 2019 challenge computed it: a sentence BLEU per answer, averaged over the answers.

The challenge (Ben Abacha et al. 2019, VQA-Med: Overview of the Medical Visual Question Answering Task at ImageCLEF 2019)
left no evaluator that can be had; its organisers' of 2018 (in a participant's copy) and 2020 (github.com/abachaa/VQA-Med-2020,
Evaluator-VQA-Med-2020.py) agree with each other, and this follows them:

1. lower case, the characters of string.punctuation deleted ("x-ray" -> "xray"), split by NLTK's Treebank tokenizer;
2. NLTK's English stop words dropped, the rest stemmed by Snowball's English stemmer;
3. NLTK's sentence_bleu, 4-grams, equal weights, "no smoothing", the best of the acceptable answers;
4. 1 where both sides have no words left.

"No smoothing" is NLTK's up to 3.2.5: the first n-gram order without a match ends the product, and the weights are not
shared out again. So one word right of one is 1.0, one right of two is 0.84, and two right in the wrong order are 1.0. From
NLTK 3.3 on the same call gives about 0 for every answer of fewer than four words, right ones too: the 1,701 different
answers of VQA-Med 2019 (train and validation), each against itself, average 1.000 under 3.2.5 and 0.278 under 3.3. The
challenge's results (best: accuracy 0.624, BLEU 0.644) therefore come from the older one (inferred).

Two departures: where stop words are all that either side has ("no", "both"), 4. would make "not" a perfect answer to "no",
so such a pair is compared with its stop words left in; and an empty answer is 0 (the evaluator refused it). Otherwise the
number is the evaluator's: on 10,309 pairs of VQA-Med answers all but 3, where newer NLTK splits a word at an en dash.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cache
from itertools import takewhile
from typing import Any

_DELETE = str.maketrans("", "", string.punctuation)

#: NLTK's English stop words (Porter et al.; nltk_data is not on PyPI) without those that hold an apostrophe: punctuation
#: is gone before they are looked up.
_STOP_WORDS = """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its
    itself they them their theirs themselves what which who whom this that these those am is are was were be been being have
    has had having do does did doing a an the and but if or because as until while of at by for with about against between
    into through during before after above below to from up down in out on off over under again further then once here there
    when where why how all any both each few more most other some such no nor not only own same so than too very s t can will
    just don should now d ll m o re ve y ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan shouldn
    wasn weren won wouldn
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


@cache
def _tools() -> tuple[Any, Any, Any]:
    """(tokenizer, stemmer, sentence_bleu) of NLTK, none of which needs NLTK's data. Importing NLTK takes seconds."""
    from nltk.stem.snowball import SnowballStemmer  # type: ignore[import-untyped]
    from nltk.tokenize import NLTKWordTokenizer  # type: ignore[import-untyped]
    from nltk.translate.bleu_score import sentence_bleu  # type: ignore[import-untyped]

    # word_tokenize would split into sentences first, with data; without full stops there is one sentence
    return NLTKWordTokenizer().tokenize, SnowballStemmer("english").stem, sentence_bleu


def words(text: str) -> list[str]:
    """The text's words in lower case, without punctuation."""
    return [str(w) for w in _tools()[0](text.lower().translate(_DELETE))]


def content(tokens: Sequence[str]) -> list[str]:
    """Stems of the words that are not stop words."""
    return [str(_tools()[1](w)) for w in tokens if w not in STOP_WORDS]


def sentence(candidate: str, reference: str) -> float:
    """The challenge's BLEU of one answer against one reference, in [0, 1]; 0 for an empty answer.

    >>> sentence("frontal", "axial"), sentence("No.", "no"), sentence("not", "no")
    (0.0, 1.0, 0.0)
    >>> round(sentence("spine and contents", "skull and contents"), 4)
    0.8409
    """
    if not candidate.strip() or not reference.strip():
        return 0.0
    given, right = words(candidate), words(reference)
    if content(given) or content(right):
        given, right = content(given), content(right)
    elif not given and not right:  # punctuation on both sides
        return float(candidate.strip() == reference.strip())
    return _bleu(given, right)


def _bleu(given: list[str], right: list[str]) -> float:
    def until_no_match(precisions: Sequence[Any], **_: object) -> list[Any]:
        return list(takewhile(lambda p: p.numerator, precisions))

    value = _tools()[2]([right], given, smoothing_function=until_no_match)
    return min(1.0, max(0.0, float(value)))
