"""Speculative verification in one Triton launch: one program per sequence. Same signatures as reference.py."""

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kernels.verify_prefix.reference import NO_TOKEN, Verdict

NONE = tl.constexpr(NO_TOKEN)
MAX_BLOCK_VOCABULARY = 1024
MAX_TILE = 4096  # drafts x vocabulary values a program of the greedy rule holds at once
WARPS = 1  # a viseme row is 15 values: one warp needs no barrier between its steps


@triton.jit
def positive(values):
    """Values above 0; NaN and negative values count as 0."""
    return tl.where(values > 0, values, 0.0)


@triton.jit
def stop_mass(target_ptr, draft_ptr, at_target, at_draft, token, inside, use_residual):
    """p, or max(p - q, 0), for a block of the row where the prefix stopped."""
    p = positive(tl.load(target_ptr + at_target + token, mask=inside, other=0.0))
    q = tl.load(draft_ptr + at_draft + token, mask=inside & use_residual, other=0.0)
    return tl.where(use_residual, positive(p - q), p)


@triton.jit(do_not_specialize=["drafts", "rows", "vocabulary"])
def verify_sampled_kernel(
    target_ptr,  # [batch, rows, vocabulary] float32
    draft_ptr,  # [batch, drafts, vocabulary] float32
    tokens_ptr,  # [batch, drafts] int32
    uniforms_ptr,  # [batch, drafts + 1] float32
    gate_ptr,  # [batch, drafts] int8
    accepted_ptr,  # [batch] int32
    token_ptr,  # [batch] int32
    drafts,
    rows,
    vocabulary,
    BLOCK_DRAFTS: tl.constexpr,
    BLOCK_VOCABULARY: tl.constexpr,
):
    sequence = tl.program_id(0)
    position = tl.arange(0, BLOCK_DRAFTS)
    drafted = position < drafts
    at = sequence * drafts + position
    token = tl.load(tokens_ptr + at, mask=drafted, other=-1)
    known = drafted & (token >= 0) & (token < vocabulary)
    p = tl.load(target_ptr + (sequence * rows + position) * vocabulary + token, mask=known, other=0.0)
    q = tl.load(draft_ptr + at * vocabulary + token, mask=known, other=0.0)
    u = tl.load(uniforms_ptr + sequence * (drafts + 1) + position, mask=drafted, other=0.0)
    gate = tl.load(gate_ptr + at, mask=drafted, other=0) != 0
    kept = (u * q < p) & gate
    accepted = tl.min(tl.where(drafted & (kept == 0), position, drafts), axis=0)
    tl.store(accepted_ptr + sequence, accepted)

    has_row = accepted < rows
    gated = tl.sum(tl.where((position == accepted) & drafted & gate, 1, 0), axis=0) > 0
    at_target = (sequence * rows + accepted) * vocabulary
    at_draft = (sequence * drafts + accepted) * vocabulary
    lane = tl.arange(0, BLOCK_VOCABULARY)
    residual_total = 0.0
    target_total = 0.0
    for first in range(0, vocabulary, BLOCK_VOCABULARY):
        inside = (first + lane < vocabulary) & has_row
        residual_total += tl.sum(
            stop_mass(target_ptr, draft_ptr, at_target, at_draft, first + lane, inside, gated), axis=0
        )
        target_total += tl.sum(
            stop_mass(target_ptr, draft_ptr, at_target, at_draft, first + lane, inside, False), axis=0
        )
    use_residual = gated & (residual_total > 0)  # empty when p == q up to rounding
    total = tl.where(use_residual, residual_total, target_total)
    level = tl.load(uniforms_ptr + sequence * (drafts + 1) + drafts) * total
    below = 0.0
    chosen = vocabulary
    last = -1
    for first in range(0, vocabulary, BLOCK_VOCABULARY):
        inside = (first + lane < vocabulary) & has_row
        mass = stop_mass(target_ptr, draft_ptr, at_target, at_draft, first + lane, inside, use_residual)
        cumulative = below + tl.cumsum(mass, axis=0)
        above = (cumulative > level) & (mass > 0)
        chosen = tl.minimum(chosen, tl.min(tl.where(above, first + lane, vocabulary), axis=0))
        last = tl.maximum(last, tl.max(tl.where(mass > 0, first + lane, -1), axis=0))
        below += tl.sum(mass, axis=0)
    tl.store(token_ptr + sequence, tl.minimum(chosen, last))


@triton.jit(do_not_specialize=["drafts", "rows", "vocabulary"])
def verify_greedy_kernel(
    target_ptr,  # [batch, rows, vocabulary] float32
    tokens_ptr,  # [batch, drafts] int32
    gate_ptr,  # [batch, drafts] int8
    accepted_ptr,  # [batch] int32
    token_ptr,  # [batch] int32
    drafts,
    rows,
    vocabulary,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_VOCABULARY: tl.constexpr,
):
    sequence = tl.program_id(0)
    position = tl.arange(0, BLOCK_ROWS)
    lane = tl.arange(0, BLOCK_VOCABULARY)
    best = tl.full([BLOCK_ROWS], NONE, tl.int32)
    best_mass = tl.zeros([BLOCK_ROWS], tl.float32)
    for first in range(0, vocabulary, BLOCK_VOCABULARY):
        at = (sequence * rows + position)[:, None] * vocabulary + first + lane[None, :]
        inside = (position < rows)[:, None] & (first + lane < vocabulary)[None, :]
        mass = positive(tl.load(target_ptr + at, mask=inside, other=0.0))
        largest = tl.max(mass, axis=1)
        # The lowest index among equals, in a block and (by the strict comparison) across blocks.
        where = tl.min(tl.where(mass == largest[:, None], first + lane[None, :], vocabulary), axis=1)
        better = largest > best_mass
        best = tl.where(better, where, best)
        best_mass = tl.where(better, largest, best_mass)
    drafted = position < drafts
    token = tl.load(tokens_ptr + sequence * drafts + position, mask=drafted, other=-1)
    gate = tl.load(gate_ptr + sequence * drafts + position, mask=drafted, other=0) != 0
    kept = (token == best) & (best >= 0) & gate
    accepted = tl.min(tl.where(drafted & (kept == 0), position, drafts), axis=0)
    tl.store(accepted_ptr + sequence, accepted)
    tl.store(token_ptr + sequence, tl.max(tl.where(position == accepted, best, NONE), axis=0))


def sampled_constants(drafts: int, vocabulary: int) -> dict[str, int]:
    """Compile-time constants of the sampling rule."""
    return {
        "BLOCK_DRAFTS": triton.next_power_of_2(drafts),
        "BLOCK_VOCABULARY": min(MAX_BLOCK_VOCABULARY, triton.next_power_of_2(vocabulary)),
    }


def greedy_constants(drafts: int, vocabulary: int) -> dict[str, int]:
    """Compile-time constants of the greedy rule: one more row than drafts, for the bonus."""
    rows = triton.next_power_of_2(drafts + 1)
    return {"BLOCK_ROWS": rows, "BLOCK_VOCABULARY": min(max(1, MAX_TILE // rows), triton.next_power_of_2(vocabulary))}


class VerifyPlan:
    """Outputs for one shape, made once: a call is one launch without allocation or host synchronisation."""

    def __init__(self, batch: int, drafts: int, vocabulary: int, *, device: torch.device | str = "cuda"):
        if min(batch, drafts, vocabulary) < 1:
            raise ValueError(
                f"batch, drafts, vocabulary: expected at least 1 each, got {batch}, {drafts}, {vocabulary}"
            )
        self.batch, self.drafts, self.vocabulary = batch, drafts, vocabulary
        self.accepted = torch.empty(batch, device=device, dtype=torch.int32)
        self.token = torch.empty(batch, device=device, dtype=torch.int32)
        self.open_gate = torch.ones(batch, drafts, device=device, dtype=torch.int8)
        if self.accepted.device.type != "cuda" and not triton.knobs.runtime.interpret:
            raise ValueError(f"device: expected a CUDA device, got {device}; use backend='torch' on a CPU")

    def sampled(
        self,
        target: Float[Tensor, "batch rows vocabulary"],
        draft: Float[Tensor, "batch drafts vocabulary"],
        draft_tokens: Int[Tensor, "batch drafts"],
        uniforms: Float[Tensor, "batch drafts+1"],
        gate: Bool[Tensor, "batch drafts"] | None = None,
    ) -> Verdict:
        """`reference.verify_sampled`; the verdict's tensors are the plan's own."""
        verify_sampled_kernel[(self.batch,)](
            target,
            draft,
            draft_tokens,
            uniforms,
            self.open_gate if gate is None else gate.view(torch.int8),
            self.accepted,
            self.token,
            self.drafts,
            target.shape[1],
            self.vocabulary,
            **sampled_constants(self.drafts, self.vocabulary),
            num_warps=WARPS,
        )
        return Verdict(self.accepted, self.token)

    def greedy(
        self,
        target: Float[Tensor, "batch rows vocabulary"],
        draft_tokens: Int[Tensor, "batch drafts"],
        gate: Bool[Tensor, "batch drafts"] | None = None,
    ) -> Verdict:
        """`reference.verify_greedy`; the verdict's tensors are the plan's own."""
        verify_greedy_kernel[(self.batch,)](
            target,
            draft_tokens,
            self.open_gate if gate is None else gate.view(torch.int8),
            self.accepted,
            self.token,
            self.drafts,
            target.shape[1],
            self.vocabulary,
            **greedy_constants(self.drafts, self.vocabulary),
            num_warps=WARPS,
        )
        return Verdict(self.accepted, self.token)


def verify_sampled(
    target: Float[Tensor, "batch rows vocabulary"],
    draft: Float[Tensor, "batch drafts vocabulary"],
    draft_tokens: Int[Tensor, "batch drafts"],
    uniforms: Float[Tensor, "batch drafts+1"],
    gate: Bool[Tensor, "batch drafts"] | None = None,
) -> Verdict:
    """The exact rule, for one call; for a stream keep a `VerifyPlan`."""
    return VerifyPlan(*draft.shape, device=target.device).sampled(target, draft, draft_tokens, uniforms, gate)


def verify_greedy(
    target: Float[Tensor, "batch rows vocabulary"],
    draft_tokens: Int[Tensor, "batch drafts"],
    gate: Bool[Tensor, "batch drafts"] | None = None,
) -> Verdict:
    """The greedy rule, for one call; for a stream keep a `VerifyPlan`."""
    return VerifyPlan(*draft_tokens.shape, target.shape[2], device=target.device).greedy(target, draft_tokens, gate)
