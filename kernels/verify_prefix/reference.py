"""Speculative verification of a drafted prefix, in plain torch.

Glossary
--------
accepted
    The drafted tokens kept: always a prefix.
recovered
    The token drawn in place of the first draft that was not kept.
bonus
    The token drawn after the last draft when every draft was kept; it needs the target's row T.

Papers: Leviathan et al., arXiv 2211.17192, Algorithm 1; Chen et al., arXiv 2302.01318, Algorithm 2.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NO_TOKEN = -1


@dataclass(frozen=True)
class Verdict:
    """Per sequence: how many drafts were kept, and the token that follows them.

    ``token`` is the recovered token when accepted < T, else the bonus. It is -1 when there is none: every draft was
    kept and the target had no row T, or the row holds no positive probability (NaN, all zeros).
    """

    accepted: Int[Tensor, " batch"]
    token: Int[Tensor, " batch"]


def verify_sampled(
    target: Float[Tensor, "batch rows vocabulary"],
    draft: Float[Tensor, "batch drafts vocabulary"],
    draft_tokens: Int[Tensor, "batch drafts"],
    uniforms: Float[Tensor, "batch drafts+1"],
    gate: Bool[Tensor, "batch drafts"] | None = None,
) -> Verdict:
    """The exact rule: what is committed is distributed as the target alone would have made it.

    Draft x at position t is kept when u_t q_t(x) < p_t(x), that is with probability min(1, p/q). At the first draft
    that is not kept, the recovered token is drawn from norm(max(p - q, 0)); after T kept drafts the bonus is drawn from
    p_T. Both use the last uniform, through the inverse of the cumulative sum.

    Parameters
    ----------
    target
        p, with rows T (no bonus) or T + 1.
    draft, draft_tokens
        q and the tokens drawn from it. A token outside the vocabulary is never kept.
    uniforms
        In [0, 1): one per draft, and the last for the recovered or bonus token.
    gate
        False closes a position: its draft is not offered, and the token there is drawn from p itself. The rule stays
        exact as long as the gate was set without looking at the drawn token (a threshold on max q is such a gate).
    """
    batch, drafts, _ = draft.shape
    position = torch.arange(drafts, device=draft.device)
    open_gate = torch.ones_like(draft_tokens, dtype=torch.bool) if gate is None else gate
    kept = (uniforms[:, :drafts] * _probability(draft, draft_tokens) < _probability(target, draft_tokens)) & open_gate
    accepted = torch.where(kept, drafts, position).amin(dim=1)  # [B]: the first position that was not kept
    rows = torch.arange(batch, device=draft.device)
    stopped = accepted < drafts
    at = accepted.clamp(max=drafts - 1)
    has_row = accepted < target.shape[1]
    p = positive(target[rows, accepted.clamp(max=target.shape[1] - 1)]) * has_row[:, None]  # [B, V]
    residual = positive(p - draft[rows, at])
    # Empty when p == q up to rounding, where a rejection has probability 0.
    use_residual = stopped & open_gate[rows, at] & (residual.sum(dim=1) > 0)
    mass = torch.where(use_residual[:, None], residual, p)
    return Verdict(accepted.int(), draw(mass, uniforms[:, drafts]).int())


def verify_greedy(
    target: Float[Tensor, "batch rows vocabulary"],
    draft_tokens: Int[Tensor, "batch drafts"],
    gate: Bool[Tensor, "batch drafts"] | None = None,
) -> Verdict:
    """The greedy rule: a draft is kept when it is the target's most probable token (the lowest index among equals)."""
    batch, drafts = draft_tokens.shape
    mass = positive(target)
    best = torch.where(mass.amax(dim=2) > 0, mass.argmax(dim=2), NO_TOKEN)  # [B, rows]
    kept = (draft_tokens == best[:, :drafts]) & (best[:, :drafts] != NO_TOKEN)
    if gate is not None:
        kept = kept & gate
    accepted = torch.where(kept, drafts, torch.arange(drafts, device=target.device)).amin(dim=1)
    has_row = accepted < target.shape[1]
    token = best[torch.arange(batch, device=target.device), accepted.clamp(max=target.shape[1] - 1)]
    return Verdict(accepted.int(), torch.where(has_row, token, NO_TOKEN).int())


def positive(probabilities: Tensor) -> Tensor:
    """Values above 0; NaN and negative values count as 0."""
    return torch.where(probabilities > 0, probabilities, 0)


def _probability(distribution: Float[Tensor, "b t v"], tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """distribution[b, t, tokens[b, t]], 0 for a token outside the vocabulary."""
    vocabulary = distribution.shape[2]
    known = (tokens >= 0) & (tokens < vocabulary)
    picked = distribution[:, : tokens.shape[1]].gather(2, tokens.clamp(0, vocabulary - 1).long()[:, :, None])
    return torch.where(known, picked.squeeze(2), 0)


def draw(mass: Float[Tensor, "b v"], uniform: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The first token whose cumulative mass exceeds uniform x total; -1 when there is no mass."""
    cumulative = mass.cumsum(dim=1)
    above = (cumulative > uniform[:, None] * cumulative[:, -1:]) & (mass > 0)
    index = torch.arange(mass.shape[1], device=mass.device)
    last = torch.where(mass > 0, index, NO_TOKEN).amax(dim=1)  # rounding can leave no index above
    first = torch.where(above, index, mass.shape[1]).amin(dim=1)
    return torch.minimum(first, last)
