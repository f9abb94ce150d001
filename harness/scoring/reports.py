"""Similarities of written reports, the whole text with the whole reference: one number a study.

report_bleu, rouge1, rouge2, rougeL    words in common, as RadEval 2.2 counts them; they need nothing
report_bertscore                       word vectors of the offline MiniLM; a text beyond 512 tokens is cut
radgraph, chexbert_5 ...               RadEval's clinical ones (`RADEVAL`): the extra `reports`, and weights from the hub

RadEval (Xu et al. 2025, github.com/jbdel/RadEval) gives the clinical numbers. It is loaded when one of them is asked for, and
what it lacks is named. Its BLEU and ROUGE are computed here: importing it asks the network for NLTK's data.

    SIMILARITIES["rougeL"]([("No pleural effusion.", "Pleural effusion.")])    # [0.8]
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple
from unittest import mock

from harness import answers
from harness.errors import UserError
from harness.scoring.bertscore import bertscore_f1

#: A similarity of (answer, acceptable answer) texts, neither of them empty, in [0, 1].
Similarity = Callable[[Sequence[tuple[str, str]]], list[float]]


class Clinical(NamedTuple):
    """One of RadEval's metrics: its name there, the key of its values for each study, and the hub repo of its weights."""

    metric: str
    key: str
    weights: str


#: RadGraph F1 as RadEval's `partial` (entities with their relations counted as present); CheXbert as the share of the 5 or 14
#: labels on which a study's two texts agree, since an F1 of labels belongs to many studies and not to one.
RADEVAL = {
    "radgraph": Clinical("radgraph", "radgraph_partial", "StanfordAIMI/RRG_scorers"),
    "chexbert_5": Clinical("f1chexbert", "f1chexbert_sample_acc_5", "StanfordAIMI/RRG_scorers"),
    "chexbert_14": Clinical("f1chexbert", "f1chexbert_sample_acc_all", "StanfordAIMI/RRG_scorers"),
    "ratescore": Clinical("ratescore", "ratescore", "Angelakeke/RaTE-NER-Deberta"),
    "green": Clinical("green", "green", "StanfordAIMI/GREEN-radllama2-7b"),
    "radeval_bertscore": Clinical("radeval_bertscore", "radeval_bertscore", "IAMJB/RadEvalModernBERT"),
}


def bleu4(text: str, reference: str) -> float:
    """BLEU up to 4-grams of one text (Papineni et al. 2002), smoothed as the COCO caption code does it, rounded to 6 decimals.

    Words are what blanks separate, case and punctuation included.

    >>> bleu4("no acute cardiopulmonary process seen", "no acute cardiopulmonary process is seen")
    0.57893
    """
    given, right = text.split(), reference.split()
    grams = [(_grams(given, n), _grams(right, n)) for n in range(1, 5)]
    precisions = [((mine & theirs).total() + 1e-15) / (mine.total() + 1e-9) for mine, theirs in grams]
    ratio = (len(given) + 1e-15) / (len(right) + 1e-9)
    short = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return round(min(1.0, math.prod(precisions) ** 0.25 * short), 6)


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _bleu(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [bleu4(text, reference) for text, reference in pairs]


@cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=True)


def _rouge(kind: str, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """The F1 of words, pairs of words or the longest common sequence of words, stemmed (Lin 2004)."""
    return [float(_rouge_scorer(kind).score(reference, text)[kind].fmeasure) for text, reference in pairs]


def _bertscore(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return bertscore_f1([(answers.normalise(a), answers.normalise(b)) for a, b in pairs])


def _clinical(name: str, pairs: Sequence[tuple[str, str]]) -> list[float]:
    scorer, key = _radeval(name), RADEVAL[name].key
    if not pairs:
        return []
    with contextlib.redirect_stdout(sys.stderr):
        values = scorer(refs=[reference for _, reference in pairs], hyps=[text for text, _ in pairs])[key]
    return [min(1.0, max(0.0, float(v))) for v in values]


SIMILARITIES: dict[str, Similarity] = {
    "report_bleu": _bleu,
    **{kind: partial(_rouge, kind) for kind in ("rouge1", "rouge2", "rougeL")},
    "report_bertscore": _bertscore,
    **{name: partial(_clinical, name) for name in RADEVAL},
}


def prepare(names: Iterable[str]) -> None:
    """Load what these metrics need. Raises UserError naming what is absent, so that no answer is generated in vain."""
    for name in names:
        if name in RADEVAL:
            _radeval(name)


@cache
def _radeval(name: str) -> Any:
    """RadEval with one metric, its weights loaded. Raises UserError."""
    wanted = RADEVAL[name]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # NLTK's complaint that it cannot reach the network
            import radeval
    except ImportError:
        raise UserError(f"metric '{name}' needs RadEval", hint="pip install 'medvlm-harness[reports]'") from None
    sys.modules.setdefault("RadEval", radeval)  # 2.2.1's RadGraph imports the package by its former name
    try:
        with contextlib.redirect_stdout(sys.stderr), _no_code_from_the_hub():
            return radeval.RadEval(metrics=[wanted.metric], per_sample=True, show_progress=False)
    except Exception as e:
        why = (str(e).strip().splitlines() or [type(e).__name__])[0]
        hint = f"RadEval fetches {wanted.weights} from the hub when it is first asked; do that once where there is a network"
        if "numpy" in why:  # medspacy holds spaCy below 3.8 there, which was built for NumPy 1
            hint = "on Python 3.11 a package that it needs knows NumPy 1 only; Python 3.12 has a newer one"
        raise UserError(f"metric '{name}' cannot be loaded: {why}", hint=hint) from None


@contextlib.contextmanager
def _no_code_from_the_hub() -> Iterator[None]:
    """RadEval trusts the code beside GREEN's weights, which are a plain Llama's and need none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with contextlib.ExitStack() as patched:
        for auto in (AutoModelForCausalLM, AutoTokenizer):
            plain = partial(_plainly, auto.from_pretrained)
            patched.enter_context(mock.patch.object(auto, "from_pretrained", plain))
        yield


def _plainly(load: Callable[..., Any], *given: Any, **options: Any) -> Any:
    return load(*given, **options | {"trust_remote_code": False})
