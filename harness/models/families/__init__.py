"""All that is known of a model's architecture stands here and nowhere else.

    prompting.py   the model's own prompt, token for token, and where it can be cut between picture and question
    parts.py       vision encoder, projector, language model; positions; what a cache can do; how long a prompt may be

No family is named where the general case serves: what a processor and a model of transformers say about themselves decides.
A family that nobody named is tried by the general case, and a run proves it on its own rows (harness/models/proof.py).
"""
