"""Log-probabilities of a group's completions, their prompt read once and with gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from harness.models import engine
from harness.models.families import parts
from harness.models.families.prompting import IndivisibleError

#: Logits held at a time, in bytes of fp32; a larger batch's are computed in parts, and once more in the backward pass.
MOST_LOGITS = 256_000_000


def completion_logps(
    model: Any,
    prompts: dict[str, Any],
    owner: torch.Tensor,
    completion: torch.Tensor,
    completion_mask: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(log-probabilities, entropies) of the completion tokens, both (rows, completion length), each prompt read once.

    `prompts` are left-padded inputs, one row a group; completion (rows, C), right-padded; owner (rows,) says which group a row
    is in. Gradients flow through the shared prompts. The entropies carry none.
    """
    out, positions, following = engine.read_prompts(model, prompts)
    cache = out.past_key_values
    if why := parts.why_cache_not_expanded(cache):
        raise IndivisibleError(why)
    cache.batch_select_indices(owner)
    prompt_mask = prompts["attention_mask"]
    steps = torch.arange(completion.shape[1], device=completion.device)
    position = steps + following[owner][:, None]
    goes_on = {k: prompts[k][owner, -1:] for k in parts.GOES_ON if k in prompts}
    hidden = model.model(
        input_ids=completion,
        attention_mask=torch.cat([prompt_mask[owner], completion_mask], 1),
        position_ids=position if positions.dim() == 2 else position.expand(positions.shape[0], -1, -1),
        past_key_values=cache,
        use_cache=True,
        **{k: v.expand(-1, completion.shape[1], *v.shape[2:]) for k, v in goes_on.items()},
    ).last_hidden_state[:, :-1]

    def score(rows: slice, hidden: torch.Tensor, opening: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        logits = torch.cat([opening, parts.logits(model, hidden)], 1).float() / temperature
        logps = torch.log_softmax(logits, -1)
        spread = -(logps.exp() * logps).sum(-1).detach() if entropy else None
        return logps.gather(-1, completion[rows, :, None])[..., 0] * completion_mask[rows], spread

    opening = out.logits[owner]
    a_row = 4 * completion.shape[1] * opening.shape[-1]
    size = max(1, MOST_LOGITS // a_row)
    scored = []
    for start in range(0, len(completion), size):
        rows = slice(start, start + size)
        if size >= len(completion):
            scored.append(score(rows, hidden, opening))
        else:
            scored.append(checkpoint(score, rows, hidden[rows], opening[rows], use_reentrant=False))
    logps, spreads = zip(*scored, strict=True)
    return torch.cat(logps), torch.cat(spreads) if entropy else None
