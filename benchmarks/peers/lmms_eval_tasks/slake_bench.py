"""What lmms-eval calls for each row of slake_bench.yaml."""


def visual(doc):
    return [doc["image"].convert("RGB")]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
