"""From predictions and verdicts to numbers.

exact.py     is an answer the reference? (the one reading that judge and metric share)
metrics.py   named per-row scores: exact_match, choice_accuracy, token_f1, bleu, bertscore, and those of reports
reports.py   similarities of written reports: BLEU, ROUGE, BERTScore, RadEval's clinical ones
sampling.py  several answers to one question: pass@k, majority vote
aggregates.py  a benchmark's own formula over its slices: cv_bench
summary.py   what scores.json holds
"""
