"""Speculative verification behind one door: check everything, then run the backend that was asked for."""

from types import ModuleType
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kernels.checks import require
from kernels.verify_prefix import reference
from kernels.verify_prefix.reference import NO_TOKEN, Verdict

__all__ = ["NO_TOKEN", "Verdict", "verify_greedy", "verify_sampled"]

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
