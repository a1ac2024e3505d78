"""Speculative verification behind one door: check everything, then run the backend that was asked for."""

from types import ModuleType
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kernels.checks import require
from kernels.verify_prefix import reference
from kernels.verify_prefix.grouped import by_group, group_of, require_groups, token_of_group
from kernels.verify_prefix.reference import NO_TOKEN, Verdict

__all__ = ["NO_TOKEN", "Verdict", "verify_greedy", "verify_grouped_greedy", "verify_grouped_sampled", "verify_sampled"]

Backend = Literal["torch", "triton"]


def verify_sampled(
    target: Float[Tensor, "batch rows vocabulary"],
    draft: Float[Tensor, "batch drafts vocabulary"],
    draft_tokens: Int[Tensor, "batch drafts"],
    uniforms: Float[Tensor, "batch drafts+1"],
    gate: Bool[Tensor, "batch drafts"] | None = None,
    *,
    backend: Backend,
) -> Verdict:
    """The exact sampling rule: `reference.verify_sampled`, checked. Raises ValueError before any launch."""
    _require_drafts(target, draft_tokens, gate)
    require(draft, "draft", (*draft_tokens.shape, target.shape[2]), torch.float32, target.device)
    batch, drafts = draft_tokens.shape
    require(uniforms, "uniforms", (batch, drafts + 1), torch.float32, target.device)
    return _implementation(backend).verify_sampled(target, draft, draft_tokens, uniforms, gate)


def verify_greedy(
    target: Float[Tensor, "batch rows vocabulary"],
    draft_tokens: Int[Tensor, "batch drafts"],
    gate: Bool[Tensor, "batch drafts"] | None = None,
    *,
    backend: Backend,
) -> Verdict:
    """The greedy rule: `reference.verify_greedy`, checked. Raises ValueError before any launch."""
    _require_drafts(target, draft_tokens, gate)
    return _implementation(backend).verify_greedy(target, draft_tokens, gate)


def verify_grouped_sampled(
    target: Float[Tensor, "batch rows vocabulary"],
    draft: Float[Tensor, "batch drafts vocabulary"],
    draft_tokens: Int[Tensor, "batch drafts"],
    groups: Int[Tensor, " vocabulary"],
    uniforms: Float[Tensor, "batch drafts+2"],
    gate: Bool[Tensor, "batch drafts"] | None = None,
    *,
    backend: Backend,
) -> Verdict:
    """The exact sampling rule on groups of tokens: the group of what is committed is distributed as the target's.

    Within an accepted group the drafted token stays. The recovered (or bonus) group comes from norm(max(P - Q, 0)),
    P and Q being p and q summed by group, and its token from p within it.

    Parameters
    ----------
    groups
        The group of every token, from 0 on.
    uniforms
        In [0, 1): one per draft, one for the recovered or bonus group, the last for its token.

    Otherwise as `verify_sampled`. Source: arXiv 2511.13732. Raises ValueError before any launch.
    """
    require_groups(groups, target)
    require(uniforms, "uniforms", (len(draft_tokens), draft_tokens.shape[1] + 2), torch.float32, target.device)
    verdict = verify_sampled(
        by_group(target, groups),
        by_group(draft, groups),
        group_of(draft_tokens, groups),
        uniforms[:, :-1].contiguous(),
        gate,
        backend=backend,
    )
    return token_of_group(target, verdict, groups, uniforms[:, -1])


def verify_grouped_greedy(
    target: Float[Tensor, "batch rows vocabulary"],
    draft_tokens: Int[Tensor, "batch drafts"],
    groups: Int[Tensor, " vocabulary"],
    gate: Bool[Tensor, "batch drafts"] | None = None,
    *,
    backend: Backend,
) -> Verdict:
    """The greedy rule on groups: a draft is kept when its group is the target's most probable (lowest among equals).

    Within it the drafted token stays. The recovered (or bonus) token is the target's most probable one of the most
    probable group; that group need not hold the most probable token of all. Raises ValueError before any launch.
    """
    require_groups(groups, target)
    verdict = verify_greedy(by_group(target, groups), group_of(draft_tokens, groups), gate, backend=backend)
    return token_of_group(target, verdict, groups)


def _require_drafts(target: Tensor, draft_tokens: Tensor, gate: Tensor | None) -> None:
    require(target, "target", (None, None, None), torch.float32)
    require(draft_tokens, "draft_tokens", (len(target), None), torch.int32, target.device)
    drafts = draft_tokens.shape[1]
    if target.shape[1] not in (drafts, drafts + 1):
        raise ValueError(f"target: expected {drafts} rows, or {drafts + 1} for a bonus, got {target.shape[1]}")
    if gate is not None:
        require(gate, "gate", tuple(draft_tokens.shape), torch.bool, target.device)


def _implementation(backend: Backend) -> ModuleType:
    if backend == "torch":
        return reference
    if backend == "triton":
        from kernels.verify_prefix import triton_impl

        return triton_impl
    raise ValueError(f"backend: expected 'torch' or 'triton', got {backend!r}")
