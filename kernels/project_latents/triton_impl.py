"""The Speculative Sync Kernel in Triton: at most two launches, no allocation, no host synchronisation.

Launch 1 (`draft_kernel`) splits the hidden layer into slabs, one per program. A program gathers its frames' windows
from the mel, multiplies them with its slab of W1 on the tensor cores, and adds its share of the logits and slot
coefficients to a small workspace, in fixed point: integer sums have the same bits in any order. The last program of a
row block to arrive (it draws the last ticket) turns the sums into logits, confidence, openness and c.

Launch 2 reads the basis once: z = z0 + c B. It starts early (programmatic dependent launch): its tiles of B and z0 are
on their way while launch 1 still runs. It has two forms. `stream_kernel`, the default up to 32 slots: few programs that
each keep several tiles of B on their way to shared memory; the last ones write the plan in launch 1's place.
`latents_kernel`: one tile of columns per program, for any number of slots.

README.md has the derivation, the byte floor and the reasons for each choice. The device code is in `triton_kernels.py`.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import triton
from jaxtyping import Float
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.checks import require
from kernels.project_latents.reference import (
    FRAMES_PER_SLOT,
    MEL_BANDS,
    VISEMES,
    WINDOW_MEL_FRAMES,
    ProjectionOutput,
    ProjectionWeights,
)
from kernels.project_latents.triton_kernels import (
    BULK,
    DRAFT_WARPS,
    HEADS,
    LINE,
    SPLIT_VALUES,
    SPLITS,
    draft_kernel,
    latents_kernel,
    stream_kernel,
)

LATENT_BLOCK_SLOTS = 32  # slots per program of launch 2, at most: up to 32 slots read B once
# Sums over hidden units are integers: a tanh is at most 1, so a sum is at most the weights' absolute sum, and that is
# scaled to this. A 64th part is then rounded to 1e-9 of the bound, and no sum can overflow.
FIXED_POINT_RANGE = 2.0**30
MOST_TILES_HELD = 12
MOST_STREAMED_COEFFICIENTS = 64  # of a default config: more were not measured
INTERPRETED_PROGRAMS = 16  # of a streaming launch in the interpreter: few, so that each takes several turns
STREAM_BLOCK_BYTES = 100 * 1024  # of an SM's shared memory, for one streaming program and the system's 1 KiB


@dataclass(frozen=True)
class Config:
    """Launch geometry. Every config here fits sm_120's 99 KiB of shared memory and compiles without spills."""

    block_rows: int = 16  # frames per program of launch 1
    block_hidden: int = 16  # hidden units per program of launch 1
    block_latent: int = 128  # columns of B per tile of launch 2
    latent_warps: int = 4
    early_launch: bool = True  # programmatic dependent launch of launch 2 (sm_90 and later)
    prefetch: bool = True  # launch 1 pulls B into L2 while it works
    swap_operands: bool = False  # z^T = B^T c^T, so that the tall operand is B and Hopper can use wgmma
    bulk: bool = False  # prefetches ask for runs of 1024 bytes (sm_90 and later) instead of lines
    part_values: int = 64  # values of a split per step of the hidden layer
    parts_ahead: int = 3  # steps whose loads are on their way at once, in registers
    lean: bool = False  # launch 1 sums its splits free of bank conflicts and gives each warp its own part of c
    draft_registers: int = 0  # the most a thread of launch 1 may take where launch 2 follows; 0: as many as it likes
    stream_kib: int = 0  # tiles of B and z0 that a program of launch 2 keeps on their way; 0: one tile a program
    copy_engine: bool = False  # those tiles of B come by the bulk copy engine (sm_90 and later)

    @property
    def label(self) -> str:
        launch = f"{'early' if self.early_launch else 'plain'}{'-prefetch' if self.prefetch else ''}"
        draft = f"r{self.block_rows}h{self.block_hidden}"
        added = [
            "swap" if self.swap_operands else "",
            "bulk" if self.bulk else "",
            f"lean{self.parts_ahead}x{self.part_values}" if self.lean else "",
            f"stream{self.stream_kib}" if self.stream_kib else "",
            "engine" if self.copy_engine else "",
        ]
        return "-".join([f"{draft}-d{self.block_latent}w{self.latent_warps}-{launch}", *filter(None, added)])


# How the kernel came to be: each version is the one before with one thing changed, but for the last, which is v5 with
# larger blocks in launch 1 and the copy engine (README.md and notebook 02: what was predicted, what moved).
_LEAN = Config(bulk=True, lean=True)
# Beside a program of launch 1 an SM's 65,536 registers hold two streaming ones: 256 x 168 + 2 x 128 x 80; of v6 one.
_STREAM = replace(_LEAN, prefetch=False, block_latent=64, stream_kib=90, draft_registers=168)
_WIDE = replace(_STREAM, copy_engine=True, block_latent=128, stream_kib=80)
_TALL = replace(
    _STREAM,
    copy_engine=True,
    block_rows=32,
    block_hidden=32,
    part_values=16,
    parts_ahead=2,
    draft_registers=192,
)
VERSIONS = {
    "v1 two launches": Config(early_launch=False, prefetch=False),
    "v2 early launch": Config(prefetch=False),
    "v3 L2 prefetch": Config(),
    "v4 lean launch 1": _LEAN,
    "v5 streamed": _STREAM,
    "v6 copy engine, wide tiles": _WIDE,
    "v7 blocks of 32 frames": _TALL,
}
# What the search times beside the versions. The first is the default up to 16 slots, the second up to 32.
CONFIGS = (
    _WIDE,
    _TALL,
    Config(swap_operands=True),  # wgmma on Hopper: B from shared memory instead of registers
)


def draft_options(config: Config, coef_block: int) -> dict:
    """Launch options of launch 1."""
    limit = {"maxnreg": config.draft_registers} if config.draft_registers and coef_block else {}
    return {"num_warps": DRAFT_WARPS} | limit


def prefetch_stride(config: Config) -> int:
    """Bytes between two requests of the prefetch of B; 0: no prefetch."""
    return (BULK if config.bulk else LINE).value * config.prefetch


def draft_constants(config: Config, slabs: int, coef_block: int, early_launch: bool, compiled: bool) -> dict:
    """Compile-time constants of launch 1."""
    return {
        "SLABS": slabs,
        "COEF": coef_block,
        "BLOCK_ROWS": config.block_rows,
        "BLOCK_HIDDEN": config.block_hidden,
        "PART_VALUES": config.part_values,
        "PARTS_AHEAD": config.parts_ahead,
        "LEAN": config.lean,
        "FINISH": not (config.stream_kib and coef_block),
        "EARLY_LAUNCH": early_launch,
        "COMPILED": compiled,
        "PREFETCH": prefetch_stride(config) if compiled and coef_block else 0,
        "PREFETCH_SLAB": compiled and config.bulk and config.parts_ahead * config.part_values < SPLIT_VALUES.value,
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


def stream_constants(
    config: Config, slots: int, coef_block: int, early_launch: bool, compiled: bool, itemsize: int
) -> dict:
    """Compile-time constants of the streaming launch 2."""
    constants = latents_constants(config, slots, coef_block, early_launch)
    del constants["SWAP_OPERANDS"]
    tile_bytes = (coef_block + constants["BLOCK_SLOTS"]) * config.block_latent * itemsize
    tiles_held = min(MOST_TILES_HELD, max(1, config.stream_kib * 1024 // tile_bytes))
    return constants | {
        "BLOCK_ROWS": config.block_rows,
        "STAGES": tiles_held + 1,  # the pipeliner holds one tile fewer than it has stages
        "COMPILED": compiled,
        "COPY_ENGINE": config.copy_engine,
    }


def _padded_to(tensor: Tensor, dim: int, multiple: int) -> Tensor:
    """Zeros appended along one dimension up to a multiple."""
    missing = -tensor.shape[dim] % multiple
    padding = [0] * (2 * (tensor.ndim - 1 - dim % tensor.ndim)) + [0, missing]
    return F.pad(tensor, padding)


def _fixed_point_scale(weights: Tensor) -> Tensor:
    """Fixed-point units per unit for products of a tanh with the columns of [H, N] weights: float32 [N]."""
    bound = weights.double().abs().sum(dim=0)
    return (FIXED_POINT_RANGE / torch.where(bound > 0, bound, 1.0)).float()


def default_config(slots: int, coefficients: int, copy_engine: bool = True) -> Config:
    """The config that measured best for a shape (data/measurements/kernel_project_latents_h200.json).

    Streaming was measured up to 32 slots and 64 coefficients. What is larger, and a chip without the copy engine
    (before sm_90), takes the best version whose programs hold one tile each: it fits any shape.
    """
    if not copy_engine:
        return VERSIONS["v3 L2 prefetch"]
    if slots > LATENT_BLOCK_SLOTS or coefficients > MOST_STREAMED_COEFFICIENTS:
        return VERSIONS["v4 lean launch 1"]
    return CONFIGS[0] if slots <= 16 else CONFIGS[1]


class ProjectionPlan:
    """Packed weights, workspace and outputs for one shape: make it once, call it for every chunk.

    A call launches two kernels at most, allocates nothing and never waits for the device, so it can be captured in a
    CUDA graph. The outputs are the plan's own buffers: the next call overwrites them.

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
        self.compiled = not triton.knobs.runtime.interpret
        capability = torch.cuda.get_device_capability(self.device) if self.compiled else (9, 0)
        hopper_or_later = capability >= (9, 0)
        self.config = config or default_config(self.slots, self.coefficients_count, hopper_or_later)
        # A config that this device or its other options cannot honour is refused, never bent.
        if self.config.copy_engine and not self.config.stream_kib:
            raise ValueError(f"config: copy_engine needs stream_kib > 0, got {self.config.label}")
        if (self.config.bulk or self.config.copy_engine) and not hopper_or_later:
            raise ValueError(f"config: bulk and copy_engine need compute capability 9.0, got {capability}")
        self.early_launch = bool(self.compiled and latents and self.config.early_launch and hopper_or_later)
        self.streamed = bool(self.slots and self.config.stream_kib)
        self._pack(weights)
        self._allocate()
        if self.streamed:
            self._stream_grid = self._grid_of_streams()
            rows = self.basis.view(-1, self.config.block_latent)
            block = [self.coef_block, self.config.block_latent]
            self.basis_rows = TensorDescriptor.from_tensor(rows, block) if self.config.copy_engine else self.basis

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
        self.tiles = triton.cdiv(self.latent, self.config.block_latent)
        rows = self.row_blocks * self.config.block_rows
        empty = lambda *shape, dtype=torch.float32: torch.empty(shape, device=self.device, dtype=dtype)  # noqa: E731
        zeros = lambda *shape: torch.zeros(shape, device=self.device, dtype=torch.int32)  # noqa: E731
        self.head_sums, self.coef_sums = zeros(2, rows, HEADS.value), zeros(2, rows // FRAMES_PER_SLOT, self.coef_block)
        self.broken, self.tickets = zeros(2, rows), zeros(self.row_blocks)
        self.turn = zeros(2)
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
            if self.streamed:
                self._launch_stream(z0)
            else:
                self._launch_latents(z0)
        coefficients = self.coefficients[:, : self.coefficients_count]
        return ProjectionOutput(self.logits, self.confidence, self.openness, coefficients, self.latents)

    def _launch_draft(self, mel: Tensor, first_frame: int, first_mel_frame: int) -> CompiledKernel:
        return draft_kernel[(self.slabs, self.row_blocks)](
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
            self.turn,
            self.logits,
            self.confidence,
            self.openness,
            self.coefficients,
            self.coef_operand,
            len(mel),
            self.frames,
            first_frame,
            first_mel_frame,
            self.basis.numel(),
            **draft_constants(self.config, self.slabs, self.coef_block, self.early_launch, self.compiled),
            **draft_options(self.config, self.coef_block),
        )

    def _launch_latents(self, z0: Tensor) -> CompiledKernel:
        constants = latents_constants(self.config, self.slots, self.coef_block, self.early_launch)
        return latents_kernel[(self.tiles, triton.cdiv(self.slots, constants["BLOCK_SLOTS"]))](
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

    def _stream_constants(self) -> dict:
        return stream_constants(
            self.config, self.slots, self.coef_block, self.early_launch, self.compiled, self.basis.itemsize
        )

    def _grid_of_streams(self) -> tuple[int, int]:
        """Programs of the streaming launch: all resident at once, and none without a tile."""
        resident = INTERPRETED_PROGRAMS
        if self.compiled:
            chip = torch.cuda.get_device_properties(self.device)
            resident = chip.multi_processor_count * (chip.shared_memory_per_multiprocessor // STREAM_BLOCK_BYTES)
        slot_blocks = triton.cdiv(self.slots, self._stream_constants()["BLOCK_SLOTS"])
        streams = min(self.tiles, resident // slot_blocks - self.row_blocks)
        if streams < 1:
            raise ValueError(
                f"frames: expected at most as many as {resident} resident programs can stream, got {self.frames}; "
                "use a config without stream_kib"
            )
        return streams + self.row_blocks, slot_blocks

    def _launch_stream(self, z0: Tensor) -> CompiledKernel:
        return stream_kernel[self._stream_grid](
            self.heads_bias,
            self.heads_scale,
            self.coef_scale,
            self.basis,
            self.basis_rows,
            self.head_sums,
            self.coef_sums,
            self.broken,
            self.turn,
            self.logits,
            self.confidence,
            self.openness,
            self.coefficients,
            self.coef_operand,
            z0,
            self.latents,
            self.frames,
            self.slots,
            self.latent,
            self.tiles,
            self.row_blocks,
            **self._stream_constants(),
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
