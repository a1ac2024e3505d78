"""Verification of groups of tokens: the same rules on the groups' probabilities, then a token inside the group.

p and q are summed by group and go, with the drafts' groups, through `verify_sampled` or `verify_greedy` as they are; so
what those rules say of tokens holds of groups, on either backend, with nothing to prove again. A kernel of its own
would save three small launches beside a target's pass that takes a thousand times as long, and double what is proven.

Paper: coarse-grained acceptance over groups of tokens, arXiv 2511.13732.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernels.verify_prefix.reference import NO_TOKEN, Verdict, draw, positive


def by_group(
    probabilities: Float[Tensor, "*batch vocabulary"], groups: Int[Tensor, " vocabulary"]
) -> Float[Tensor, "*batch groups"]:
    """Probabilities summed by group; NaN and negative ones count as 0, and groups without a token stay at 0.

    Takes groups x vocabulary values a row: nothing for visemes, too much for a text vocabulary.
    """
    member = groups == torch.arange(int(groups.max()) + 1, device=groups.device)[:, None]  # [groups, vocabulary]
    return torch.where(member, positive(probabilities)[..., None, :], 0).sum(dim=-1)


def group_of(tokens: Int[Tensor, "*batch"], groups: Int[Tensor, " vocabulary"]) -> Int[Tensor, "*batch"]:
    """The group of each token; -1, which no rule keeps, for one outside the vocabulary."""
    known = (tokens >= 0) & (tokens < len(groups))
    return torch.where(known, groups[tokens.clamp(0, len(groups) - 1).long()], NO_TOKEN).to(tokens.dtype)


def token_of_group(
    target: Float[Tensor, "batch rows vocabulary"],
    verdict: Verdict,
    groups: Int[Tensor, " vocabulary"],
    uniforms: Float[Tensor, " batch"] | None = None,
) -> Verdict:
    """A verdict on groups with its group replaced by a token of it: the target's most probable, or one drawn from it.

    uniforms : in [0, 1), for the draw by the inverse of the cumulative sum; None takes the most probable token, the
    lowest index among equals. A verdict without a group stays without a token.
    """
    batch = torch.arange(len(target), device=target.device)
    p = target[batch, verdict.accepted.clamp(max=target.shape[1] - 1).long()]
    mass = torch.where(groups == verdict.token[:, None], positive(p), 0)  # [batch, vocabulary]
    if uniforms is not None:
        return Verdict(verdict.accepted, draw(mass, uniforms).int())
    return Verdict(verdict.accepted, torch.where(mass.amax(dim=1) > 0, mass.argmax(dim=1), NO_TOKEN).int())


def require_groups(groups: Int[Tensor, " vocabulary"], target: Tensor) -> None:
    """Raise ValueError unless there is one group from 0 on for every token of the target."""
    vocabulary = target.shape[-1]
    if groups.shape != (vocabulary,) or groups.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"groups: expected {vocabulary} integers, got {list(groups.shape)} of {groups.dtype}")
    if groups.device != target.device:
        raise ValueError(f"groups: expected them on {target.device}, got {groups.device}")
    if int(groups.min()) < 0:
        raise ValueError(f"groups: expected numbers from 0 on, got {int(groups.min())}")
