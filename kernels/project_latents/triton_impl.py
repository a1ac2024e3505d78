"""The Speculative Sync Kernel in Triton: two launches, no allocation, no host synchronisation.

Launch 1 (`draft_kernel`) splits the hidden layer into slabs, one per program. A program gathers its frames' windows
from the mel, multiplies them with its slab of W1 on the tensor cores, and adds its share of the logits and slot
coefficients to a small workspace, in fixed point: integer sums have the same bits in any order. The last program of a
row block to arrive (it draws the last ticket) turns the sums into logits, confidence, openness and c.

Launch 2 (`latents_kernel`) streams the basis once: z = z0 + c B, one tile of columns per program. It starts early
(programmatic dependent launch): its tiles of B and z0 are on their way while launch 1 still runs.

README.md has the derivation, the byte floor and the reasons for each choice.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels.checks import require
from kernels.project_latents.reference import (
    FRAMES_PER_SLOT,
    MEL_BANDS,
    MEL_LIMIT,
    VISEMES,
    WINDOW_BACK_MEL_FRAMES,
    WINDOW_MEL_FRAMES,
    ProjectionOutput,
    ProjectionWeights,
)

WINDOW_VALUES = tl.constexpr(WINDOW_MEL_FRAMES * MEL_BANDS)  # 1440: a window is one contiguous run of the mel
WINDOW_BACK = tl.constexpr(WINDOW_BACK_MEL_FRAMES)
BANDS = tl.constexpr(MEL_BANDS)
LIMIT = tl.constexpr(MEL_LIMIT)
SLOT_FRAMES = tl.constexpr(FRAMES_PER_SLOT)
OPEN_HEAD = tl.constexpr(VISEMES)  # heads 0..14 are the visemes, head 15 is openness:
HEADS = tl.constexpr(VISEMES + 1)  # exactly one 16-wide tensor-core tile
# Each warp sums its own eighth of the window: eight short chains of dependent products instead of one long one.
SPLITS = tl.constexpr(8)
SPLIT_VALUES = tl.constexpr(192)  # 8 x 192 >= 1440
PART_VALUES = tl.constexpr(64)  # a split is read in three parts
LATENT_BLOCK_SLOTS = 32  # slots per program of launch 2, at most: up to 32 slots read B once
DRAFT_WARPS = 8
PREFETCH_LINES = tl.constexpr(256)  # one a thread
# Sums over hidden units are integers: a tanh is at most 1, so a sum is at most the weights' absolute sum, and that is
# scaled to this. A 64th part is then rounded to 1e-9 of the bound, and no sum can overflow.
FIXED_POINT_RANGE = 2.0**30


@dataclass(frozen=True)
class Config:
    """Launch geometry. Every config here fits sm_120's 99 KiB of shared memory and compiles without spills."""

    block_rows: int = 16  # frames per program of launch 1
    block_hidden: int = 16  # hidden units per program of launch 1
    block_latent: int = 128  # columns of B per program of launch 2
    latent_warps: int = 4
    early_launch: bool = True  # programmatic dependent launch of launch 2 (sm_90 and later)
    prefetch: bool = True  # launch 1 pulls B into L2 while it works
    swap_operands: bool = False  # z^T = B^T c^T, so that the tall operand is B and Hopper can use wgmma

    @property
    def label(self) -> str:
        launch = f"{'early' if self.early_launch else 'plain'}{'-prefetch' if self.prefetch else ''}"
        draft = f"r{self.block_rows}h{self.block_hidden}"
        return f"{draft}-d{self.block_latent}w{self.latent_warps}-{launch}{'-swap' if self.swap_operands else ''}"


# The first is the default; the others are what the search tries. Kept small: each is here because of one question.
CONFIGS = (
    Config(block_latent=64, latent_warps=2),  # the fastest measured, by less than two runs differ
    Config(),
    Config(block_latent=256, latent_warps=8),  # do larger tiles in flight beat more of them?
    Config(block_latent=128, swap_operands=True),  # wgmma on Hopper: B from shared memory instead of registers
)
# How the kernel came to be: each version is the one before with one thing changed (README.md, notebook 02).
VERSIONS = {
    "v1 two launches": Config(early_launch=False, prefetch=False),
    "v2 early launch": Config(prefetch=False),
    "v3 L2 prefetch": Config(),
}


def draft_constants(config: Config, slabs: int, coef_block: int, early_launch: bool, compiled: bool) -> dict:
    """Compile-time constants of launch 1."""
    return {
        "SLABS": slabs,
        "COEF": coef_block,
        "BLOCK_ROWS": config.block_rows,
        "BLOCK_HIDDEN": config.block_hidden,
        "EARLY_LAUNCH": early_launch,
        "COMPILED": compiled,
        "PREFETCH_BASIS": compiled and config.prefetch and coef_block > 0,
    }


def latents_constants(config: Config, slots: int, coef_block: int, early_launch: bool) -> dict:
    """Compile-time constants of launch 2. Tensor-core tiles have at least 16 rows."""
    return {
        "COEF": coef_block,
        "BLOCK_SLOTS": min(LATENT_BLOCK_SLOTS, max(16, triton.next_power_of_2(slots))),
        "BLOCK_LATENT": config.block_latent,
        "EARLY_LAUNCH": early_launch,
        "SWAP_OPERANDS": config.swap_operands,
    }


@triton.jit
def prefetch_l2(pointers):
    """Ask for the 128-byte lines under some addresses, and go on."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def fixed_point(values, scale):
    """Rows of numbers as integers, each column in its own unit."""
    return tl.floor(values * scale[None, :] + 0.5).to(tl.int32)


@triton.jit
def window_values(mel_ptr, frame, live, first_mel_frame, mel_frames, part):
    """A part of one split of one frame's window for each row, [R S, V]; zero where the recording is not."""
    # floor((2k + 1) * 100 / 60) - 11; frames before 0 are not live, and the clamp keeps the division exact for them.
    start = (2 * tl.maximum(frame, 0) + 1) * 5 // 3 - WINDOW_BACK - first_mel_frame
    split = tl.arange(0, frame.shape[0]) % SPLITS
    value = split[:, None] * SPLIT_VALUES + part * PART_VALUES + tl.arange(0, PART_VALUES)[None, :]
    at = start[:, None] * BANDS + value
    inside = (at >= 0) & (at < mel_frames * BANDS) & live[:, None] & (value < WINDOW_VALUES)
    return tl.load(mel_ptr + at, mask=inside, other=0.0)


@triton.jit
def slab_values(w1_ptr, unit, part):
    """The same part of W1 for one split of one hidden unit a row, [N S, V]."""
    split = tl.arange(0, unit.shape[0]) % SPLITS
    value = split[:, None] * SPLIT_VALUES + part * PART_VALUES + tl.arange(0, PART_VALUES)[None, :]
    return tl.load(w1_ptr + unit[:, None] * (SPLITS * SPLIT_VALUES) + value)


@triton.jit
def not_before(values, COMPILED: tl.constexpr):
    """The values, as if they were made here: the compiler cannot use them before the loads written above it."""
    if not COMPILED:
        return values
    if values.dtype.primitive_bitwidth == 16:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [values], values.dtype, is_pure=False, pack=2)
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [values], values.dtype, is_pure=False, pack=1)


@triton.jit
def product(window, w1, sums, COMPILED: tl.constexpr):
    """Adds one part's products, each split apart: [S, R, N]."""
    # A value past the limit (or NaN, which fails every comparison) turns its whole row into NaN, and no other.
    window = tl.where(tl.abs(window) <= LIMIT, window, float("nan")).to(w1.dtype)
    # Rows run through the splits first, so that a thread holds many rows of one split. The other way round, the
    # compiler lays shared memory out such that eight rows of a tile meet in the same banks.
    window = tl.reshape(not_before(window, COMPILED), [sums.shape[1], SPLITS, PART_VALUES])
    w1 = tl.reshape(not_before(w1, COMPILED), [sums.shape[2], SPLITS, PART_VALUES])
    window, w1 = tl.permute(window, (1, 0, 2)), tl.permute(w1, (1, 2, 0))  # [S, R, V], [S, V, N]
    return tl.dot(window, w1, sums, input_precision="ieee")


@triton.jit(do_not_specialize=["mel_frames", "frames", "first_frame", "first_mel_frame", "basis_lines"])
def draft_kernel(
    mel_ptr,  # [mel_frames, 80] float32
    w1_ptr,  # [H, 8 * 192], window values contiguous, zeros past 1440
    b1_ptr,  # [H] float32
    heads_ptr,  # [H, 16]: visemes / temperature, openness
    heads_bias_ptr,  # [16] float32
    heads_scale_ptr,  # [16] float32: fixed-point units per unit
    w_coef_ptr,  # [H, COEF]
    coef_scale_ptr,  # [COEF] float32
    basis_ptr,  # what launch 2 will read: only prefetched here
    head_sums_ptr,  # workspace [rows, 16] int32, zero between calls
    coef_sums_ptr,  # workspace [rows / 4, COEF] int32, zero between calls
    broken_ptr,  # workspace [rows] int32, zero between calls
    tickets_ptr,  # workspace [row blocks] int32, zero between calls
    logits_ptr,  # [frames, 15] float32
    confidence_ptr,  # [frames] float32
    openness_ptr,  # [frames] float32
    coef_ptr,  # [slots, COEF] float32
    coef_operand_ptr,  # [slots, COEF] in the basis' dtype, what launch 2 multiplies
    mel_frames,
    frames,
    first_frame,
    first_mel_frame,
    basis_lines,  # 128-byte lines of the basis
    SLABS: tl.constexpr,
    COEF: tl.constexpr,  # 0: no latents wanted
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    EARLY_LAUNCH: tl.constexpr,
    COMPILED: tl.constexpr,  # not in the interpreter
    PREFETCH_BASIS: tl.constexpr,
):
    slab = tl.program_id(0)
    row_block = tl.program_id(1)
    rows = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [R]
    frame = first_frame + rows
    live = (rows < frames) & (frame >= 0)
    unit = slab * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN)  # [N]

    # These small loads start first: they are needed last and would stall the end.
    bias = tl.load(b1_ptr + unit)
    column = tl.arange(0, HEADS)
    heads = tl.load(heads_ptr + unit[:, None] * HEADS + column[None, :])  # [N, 16]
    heads_scale = tl.load(heads_scale_ptr + column)
    if COEF > 0:
        coefs = tl.arange(0, COEF)
        w_coef = tl.load(w_coef_ptr + unit[:, None] * COEF + coefs[None, :])  # [N, COEF]
        coef_scale = tl.load(coef_scale_ptr + coefs)

    # Everything this program reads is asked for before anything is used: memory's latency is paid once.
    split_unit = slab * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN * SPLITS) // SPLITS  # [N S]
    split_row = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS * SPLITS) // SPLITS  # [R S]
    split_frame = first_frame + split_row
    split_live = (split_row < frames) & (split_frame >= 0)
    w1_0 = slab_values(w1_ptr, split_unit, 0)
    w1_1 = slab_values(w1_ptr, split_unit, 1)
    w1_2 = slab_values(w1_ptr, split_unit, 2)
    window_0 = window_values(mel_ptr, split_frame, split_live, first_mel_frame, mel_frames, 0)
    window_1 = window_values(mel_ptr, split_frame, split_live, first_mel_frame, mel_frames, 1)
    window_2 = window_values(mel_ptr, split_frame, split_live, first_mel_frame, mel_frames, 2)
    if EARLY_LAUNCH:
        # Launch 2 reads nothing of ours before its own wait; behind these loads its stream of B delays no one.
        gdc_launch_dependents()

    if PREFETCH_BASIS:
        # B is streamed into L2 while this launch computes: memory never idles.
        VALUES: tl.constexpr = 1024 // basis_ptr.dtype.element_ty.primitive_bitwidth
        program = row_block * SLABS + slab
        ahead = tl.arange(0, PREFETCH_LINES)
        for first in range(program * PREFETCH_LINES, basis_lines, tl.num_programs(1) * SLABS * PREFETCH_LINES):
            prefetch_l2(basis_ptr + tl.minimum(first + ahead, basis_lines - 1) * VALUES)

    sums = tl.zeros([SPLITS, BLOCK_ROWS, BLOCK_HIDDEN], tl.float32)
    sums = product(window_0, w1_0, sums, COMPILED)
    sums = product(window_1, w1_1, sums, COMPILED)
    sums = product(window_2, w1_2, sums, COMPILED)
    pre = tl.sum(sums, axis=0) + bias[None, :]  # [R, N]

    usable = live & (tl.min((pre == pre).to(tl.int32), axis=1) > 0)  # [R]
    hidden = 2 * tl.sigmoid(2 * pre) - 1  # tanh
    hidden = tl.where(usable[:, None], hidden, 0.0)
    head_sums = tl.dot(hidden.to(heads.dtype), heads, input_precision="ieee")  # [R, 16]
    at_head = rows[:, None] * HEADS + column[None, :]
    tl.atomic_add(head_sums_ptr + at_head, fixed_point(head_sums, heads_scale), sem="relaxed")
    tl.atomic_add(broken_ptr + rows, 1, mask=usable == 0, sem="relaxed")
    if COEF > 0:
        SLOTS: tl.constexpr = BLOCK_ROWS // SLOT_FRAMES
        row_coef = tl.dot(hidden.to(w_coef.dtype), w_coef, input_precision="ieee")  # [R, COEF]
        slot_coef = tl.sum(
            tl.reshape(row_coef, [SLOTS, SLOT_FRAMES, COEF]), axis=1
        )  # [R / 4, COEF], broken rows added 0
        share = tl.sum(tl.reshape(usable.to(tl.float32), [SLOTS, SLOT_FRAMES]), axis=1)
        slot_coef = slot_coef / tl.maximum(share, 1.0)[:, None]
        slot = row_block * SLOTS + tl.arange(0, SLOTS)
        at_coef = slot[:, None] * COEF + coefs[None, :]
        tl.atomic_add(coef_sums_ptr + at_coef, fixed_point(slot_coef, coef_scale), sem="relaxed")

    # Every thread's sums are under way before the ticket is drawn; the ticket publishes them and sees the others'.
    tl.debug_barrier()
    ticket = tl.atomic_add(tickets_ptr + row_block, 1, sem="acq_rel")
    if ticket == SLABS - 1:
        head_total = tl.load(head_sums_ptr + at_head, cache_modifier=".cg")
        broken = tl.load(broken_ptr + rows, cache_modifier=".cg")
        if COEF > 0:
            coef = tl.load(coef_sums_ptr + at_coef, cache_modifier=".cg").to(tl.float32) / coef_scale[None, :]
            whole = (slot < frames // SLOT_FRAMES)[:, None]
            tl.store(coef_operand_ptr + at_coef, coef.to(coef_operand_ptr.dtype.element_ty), mask=whole)
            tl.store(coef_ptr + at_coef, coef, mask=whole)
        tl.debug_barrier()  # all is read: leave the workspace as it was found
        tl.store(tickets_ptr + row_block, 0)
        tl.store(head_sums_ptr + at_head, tl.zeros([BLOCK_ROWS, HEADS], tl.int32))
        tl.store(broken_ptr + rows, tl.zeros([BLOCK_ROWS], tl.int32))
        if COEF > 0:
            tl.store(coef_sums_ptr + at_coef, tl.zeros([SLOTS, COEF], tl.int32))
        sound = broken == 0  # [R]
        total = head_total.to(tl.float32) / heads_scale[None, :]
        total = tl.where(sound[:, None], total + tl.load(heads_bias_ptr + column)[None, :], 0.0)
        viseme = column < OPEN_HEAD
        largest = tl.max(tl.where(viseme[None, :], total, float("-inf")), axis=1)
        mass = tl.sum(tl.where(viseme[None, :], tl.exp(total - largest[:, None]), 0.0), axis=1)
        openness = tl.sum(tl.where(viseme[None, :], 0.0, tl.sigmoid(total)), axis=1)
        kept = rows < frames
        tl.store(logits_ptr + rows[:, None] * OPEN_HEAD + column[None, :], total, mask=kept[:, None] & viseme[None, :])
        tl.store(confidence_ptr + rows, tl.where(sound, 1.0 / mass, 0.0), mask=kept)  # softmax's largest entry
        tl.store(openness_ptr + rows, tl.where(sound, openness, 0.0), mask=kept)


@triton.jit(do_not_specialize=["slots"])
def latents_kernel(
    coef_ptr,  # [slots, COEF] in the basis' dtype
    basis_ptr,  # [tiles, COEF, BLOCK_LATENT]: a tile is one contiguous run
    z0_ptr,  # [slots, latent]
    z_ptr,  # [slots, latent]
    slots,
    latent,
    COEF: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
    EARLY_LAUNCH: tl.constexpr,
    SWAP_OPERANDS: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK_LATENT + tl.arange(0, BLOCK_LATENT)  # [L]
    inside = column < latent
    coefs = tl.arange(0, COEF)
    slot = tl.program_id(1) * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)  # [T]
    kept = (slot < slots)[:, None] & inside[None, :]
    # Neither z0 nor B comes from launch 1: both are on their way before the wait. z0 goes first, because B's
    # values are parked in shared memory as soon as they arrive.
    at = slot[:, None] * latent + column[None, :]
    z0 = tl.load(z0_ptr + at, mask=kept, other=0.0)
    tile = tl.program_id(0) * COEF * BLOCK_LATENT
    basis = tl.load(basis_ptr + tile + coefs[:, None] * BLOCK_LATENT + tl.arange(0, BLOCK_LATENT)[None, :])
    if EARLY_LAUNCH:
        gdc_wait()
    c = tl.load(coef_ptr + slot[:, None] * COEF + coefs[None, :], mask=(slot < slots)[:, None], other=0.0)  # [T, COEF]
    if SWAP_OPERANDS:
        moved = tl.trans(tl.dot(tl.trans(basis), tl.trans(c), input_precision="ieee"))
    else:
        moved = tl.dot(c, basis, input_precision="ieee")  # [T, L]
    tl.store(z_ptr + at, (z0.to(tl.float32) + moved).to(z_ptr.dtype.element_ty), mask=kept)


def _padded_to(tensor: Tensor, dim: int, multiple: int) -> Tensor:
    """Zeros appended along one dimension up to a multiple."""
    missing = -tensor.shape[dim] % multiple
    padding = [0] * (2 * (tensor.ndim - 1 - dim % tensor.ndim)) + [0, missing]
    return F.pad(tensor, padding)


def _fixed_point_scale(weights: Tensor) -> Tensor:
    """Fixed-point units per unit for products of a tanh with the columns of [H, N] weights: float32 [N]."""
    bound = weights.double().abs().sum(dim=0)
    return (FIXED_POINT_RANGE / torch.where(bound > 0, bound, 1.0)).float()


def default_config(slots: int, latent: int) -> Config:
    """The config that measured best for a shape (data/measurements/kernel_project_latents_h200.json)."""
    return CONFIGS[0]


class ProjectionPlan:
    """Packed weights, workspace and outputs for one shape: make it once, call it for every chunk.

    A call launches one kernel (two with latents), allocates nothing and never waits for the device, so it can be
    captured in a CUDA graph. The outputs are the plan's own buffers: the next call overwrites them.

    Parameters
    ----------
    frames
        Video frames per call; with latents 4 x slots.
    dtype
        Of basis, z0 and latents. The hidden layer runs in float16 (float32 when dtype is float32), sums in float32.
    latents
        Whether z is wanted; needs weights with a basis.
    """

    def __init__(
        self,
        weights: ProjectionWeights,
        frames: int,
        *,
        latents: bool = True,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cuda",
        config: Config | None = None,
    ):
        self.device = torch.empty(0, device=device).device  # with its index
        if self.device.type != "cuda" and not triton.knobs.runtime.interpret:
            raise ValueError(f"device: expected a CUDA device, got {self.device}; use backend='torch' on a CPU")
        if dtype not in (torch.bfloat16, torch.float16, torch.float32):
            raise ValueError(f"dtype: expected bfloat16, float16 or float32, got {dtype}")
        if frames < 1 or (latents and frames % FRAMES_PER_SLOT):
            raise ValueError(f"frames: expected a positive number{', 4 x slots' if latents else ''}, got {frames}")
        if latents and weights.basis is None:
            raise ValueError("latents: wanted, but the weights hold no basis; pass latents=False or fit a basis")
        self.frames, self.dtype = frames, dtype
        self.slots = frames // FRAMES_PER_SLOT if latents else 0
        self.latent = weights.basis.shape[1] if latents else 0
        self.coefficients_count = weights.basis.shape[0] if latents else 0
        self.config = config or default_config(self.slots, self.latent)
        self.compiled = not triton.knobs.runtime.interpret
        self.early_launch = bool(
            self.compiled
            and latents
            and self.config.early_launch
            and torch.cuda.get_device_capability(self.device)[0] >= 9
        )
        self._pack(weights)
        self._allocate()

    def _pack(self, weights: ProjectionWeights) -> None:
        """Weights in the kernels' layout.

        Band pooling is linear, so it is folded into W1 and the pooled envelope is never stored; the temperature is
        folded into the viseme head. Hidden units are padded with zeros to whole slabs: tanh(0) x 0 adds nothing.
        """
        hidden_dtype = torch.float32 if self.dtype == torch.float32 else torch.float16
        exact = weights.to(self.device, torch.float64)
        bands, hidden = exact.band_pool.shape[1], exact.w1.shape[1]
        folded = torch.einsum("mf,jfh->jmh", exact.band_pool, exact.w1.view(WINDOW_MEL_FRAMES, bands, hidden))
        folded = _padded_to(folded.reshape(WINDOW_MEL_FRAMES * MEL_BANDS, hidden), 0, SPLITS.value * SPLIT_VALUES.value)
        heads = torch.cat([exact.w_viseme / exact.temperature, exact.w_open], dim=1)  # [H, 16]

        def slabs(tensor: Tensor, dtype: torch.dtype) -> Tensor:
            return _padded_to(tensor, 0, self.config.block_hidden).to(dtype).contiguous()

        self.w1 = slabs(folded.T, hidden_dtype)
        self.b1 = slabs(exact.b1, torch.float32)
        self.heads = slabs(heads, hidden_dtype)
        self.heads_bias = torch.cat([exact.b_viseme / exact.temperature, exact.b_open]).float()
        self.slabs = len(self.b1) // self.config.block_hidden
        self.heads_scale = _fixed_point_scale(self.heads)
        self.coef_block = 0
        self.w_coef = self.basis = self.heads  # never read without latents
        self.coef_scale = self.heads_scale
        if self.slots:
            self.coef_block = max(16, triton.next_power_of_2(self.coefficients_count))
            self.w_coef = slabs(_padded_to(exact.w_coef, 1, self.coef_block), hidden_dtype)
            self.coef_scale = _fixed_point_scale(self.w_coef)
            basis = _padded_to(weights.basis.to(self.device, self.dtype), 0, self.coef_block)
            tiles = _padded_to(basis, 1, self.config.block_latent).view(self.coef_block, -1, self.config.block_latent)
            self.basis = tiles.transpose(0, 1).contiguous()
        if not all(
            t.isfinite().all() for t in (self.w1, self.b1, self.heads, self.heads_bias, self.w_coef, self.basis)
        ):
            raise ValueError(f"weights: expected values finite in {hidden_dtype} and {self.dtype}, got NaN or Inf")

    def _allocate(self) -> None:
        """Workspace and outputs, once."""
        self.row_blocks = triton.cdiv(self.frames, self.config.block_rows)
        rows = self.row_blocks * self.config.block_rows
        empty = lambda *shape, dtype=torch.float32: torch.empty(shape, device=self.device, dtype=dtype)  # noqa: E731
        zeros = lambda *shape: torch.zeros(shape, device=self.device, dtype=torch.int32)  # noqa: E731
        self.head_sums, self.coef_sums = zeros(rows, HEADS.value), zeros(rows // FRAMES_PER_SLOT, self.coef_block)
        self.broken, self.tickets = zeros(rows), zeros(self.row_blocks)
        self.logits = empty(self.frames, VISEMES)
        self.confidence, self.openness = empty(self.frames), empty(self.frames)
        self.coefficients = empty(self.slots, self.coef_block)
        self.coef_operand = empty(self.slots, self.coef_block, dtype=self.dtype)
        self.latents = empty(self.slots, self.latent, dtype=self.dtype)

    def __call__(
        self,
        mel: Float[Tensor, "mel_frames 80"],
        z0: Float[Tensor, "slots latent"] | None = None,
        *,
        first_frame: int = 0,
        first_mel_frame: int = 0,
    ) -> ProjectionOutput:
        """Draft this plan's frames. Broken mel (NaN, Inf) is handled on the device: confidence 0, z = z0.

        Raises
        ------
        ValueError
            Before any launch, for a wrong shape, dtype, device or layout.
        """
        require(mel, "mel", (None, MEL_BANDS), torch.float32, self.device)
        if (z0 is not None) != bool(self.slots):
            raise ValueError(
                f"z0: this plan was made with latents={bool(self.slots)}, got z0 {z0 if z0 is None else list(z0.shape)}"
            )
        if z0 is not None:
            require(z0, "z0", (self.slots, self.latent), self.dtype, self.device)
        with torch.cuda.device(self.device) if self.compiled else nullcontext():
            self._launch_draft(mel, first_frame, first_mel_frame)
            if z0 is None:
                return ProjectionOutput(self.logits, self.confidence, self.openness)
            self._launch_latents(z0)
        coefficients = self.coefficients[:, : self.coefficients_count]
        return ProjectionOutput(self.logits, self.confidence, self.openness, coefficients, self.latents)

    def _launch_draft(self, mel: Tensor, first_frame: int, first_mel_frame: int) -> None:
        draft_kernel[(self.slabs, self.row_blocks)](
            mel,
            self.w1,
            self.b1,
            self.heads,
            self.heads_bias,
            self.heads_scale,
            self.w_coef,
            self.coef_scale,
            self.basis,
            self.head_sums,
            self.coef_sums,
            self.broken,
            self.tickets,
            self.logits,
            self.confidence,
            self.openness,
            self.coefficients,
            self.coef_operand,
            len(mel),
            self.frames,
            first_frame,
            first_mel_frame,
            self.basis.nbytes // 128,
            **draft_constants(self.config, self.slabs, self.coef_block, self.early_launch, self.compiled),
            num_warps=DRAFT_WARPS,
        )

    def _launch_latents(self, z0: Tensor) -> None:
        constants = latents_constants(self.config, self.slots, self.coef_block, self.early_launch)
        tiles = triton.cdiv(self.latent, self.config.block_latent), triton.cdiv(self.slots, constants["BLOCK_SLOTS"])
        latents_kernel[tiles](
            self.coef_operand,
            self.basis,
            z0,
            self.latents,
            self.slots,
            self.latent,
            **constants,
            num_warps=self.config.latent_warps,
            launch_pdl=self.early_launch,
        )


def project_latents(
    mel: Float[Tensor, "mel_frames 80"],
    frames: int,
    z0: Float[Tensor, "slots latent"] | None,
    weights: ProjectionWeights,
    *,
    first_frame: int = 0,
    first_mel_frame: int = 0,
) -> ProjectionOutput:
    """The reference's signature, for one call. It packs the weights each time: for a stream keep a `ProjectionPlan`."""
    dtype = torch.bfloat16 if z0 is None else z0.dtype
    if z0 is not None and frames != FRAMES_PER_SLOT * len(z0):
        raise ValueError(f"frames: expected 4 x slots = {FRAMES_PER_SLOT * len(z0)}, got {frames}; pass whole slots")
    plan = ProjectionPlan(weights, frames, latents=z0 is not None, dtype=dtype, device=mel.device)
    return plan(mel, z0, first_frame=first_frame, first_mel_frame=first_mel_frame)
