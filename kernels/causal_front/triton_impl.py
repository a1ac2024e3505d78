"""The causal front through Triton: what ``reference.front_chunk`` says, in a fixed set of launches, one graph a chunk.

A :class:`FrontPlan` holds the prepared weights; its caches hold the buffers of a stream, and on a GPU the captured
graphs of the chunk layouts that came (a layout hangs on the chunk's length and on its first frame modulo 3).
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import triton
from jaxtyping import Float
from torch import Tensor

from kernels.causal_front import reference, triton_kernels
from kernels.causal_front.reference import (
    HEAD_WIDTH,
    LONGEST_CHUNK_FRAMES,
    MEL_BANDS,
    MEL_LIMIT,
    NORM_EPSILON,
    POSITION_TAIL,
    READ_POSITIONS,
    ROW_TAIL,
    VISEMES,
    WHEEL,
    WIDTH,
    FrontOutput,
    FrontWeights,
)

MOST_ROWS, MOST_POSITIONS = 64, 32  # buffers; a stream's first chunk of 12 frames has 45 and 22
WARPS = 4
CONV1_DEPTH = 512  # 3 x 80, padded: at 256 the compiler spills


@dataclass(frozen=True)
class Tile:
    """How a product of a few rows is cut: columns a program, depth a step, warps, steps whose loads are in flight."""

    columns: int = 16
    depth: int = 128
    warps: int = 4
    stages: int = 3

    @property
    def label(self) -> str:
        """For tables."""
        return f"{self.columns} columns, depth {self.depth}, {self.warps} warps, {self.stages} stages"


# What bench_causal_front.py compares; the first is the default.
TILES = (Tile(depth=512, stages=1), Tile())


@dataclass(frozen=True)
class PlanCache:
    """A stream's place; its buffers are shared by all handles of the stream, so only the newest handle may be used."""

    stream: str
    next_frame: int
    state: "StreamState"


class StreamState:
    """The buffers of one stream and the graphs captured over them."""

    def __init__(self, plan: "FrontPlan") -> None:
        def zeros(*shape: int, dtype: torch.dtype = plan.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=plan.device)

        integers = {"dtype": torch.int32}
        self.newest_frame = 0
        self.mel = zeros(MOST_ROWS, MEL_BANDS, dtype=torch.float32)
        self.rows = zeros(ROW_TAIL + MOST_ROWS, MEL_BANDS)
        self.whole_rows = torch.ones(ROW_TAIL + MOST_ROWS, device=plan.device, **integers)
        self.whole = torch.ones(POSITION_TAIL + MOST_POSITIONS, device=plan.device, **integers)
        self.whole_ring = zeros(plan.ring, **integers)
        self.place = zeros(1, **integers)
        self.keys = [zeros(block.heads, plan.ring, HEAD_WIDTH) for block in plan.blocks]
        self.values = [zeros(block.heads, plan.ring, HEAD_WIDTH) for block in plan.blocks]
        self.hidden_rows = zeros(MOST_ROWS, WIDTH)
        self.x = zeros(MOST_POSITIONS, WIDTH, dtype=torch.float32)
        self.outputs = zeros(POSITION_TAIL + MOST_POSITIONS, WIDTH)
        self.features = zeros(LONGEST_CHUNK_FRAMES, plan.hidden)
        self.kept = zeros(LONGEST_CHUNK_FRAMES, plan.hidden)
        self.logits = zeros(LONGEST_CHUNK_FRAMES, VISEMES, dtype=torch.float32)
        self.confidence, self.openness = zeros(2, LONGEST_CHUNK_FRAMES, dtype=torch.float32)
        self.graphs: dict[tuple, torch.cuda.CUDAGraph] = {}


@dataclass(frozen=True)
class Block:
    """A block's weights as the kernels read them, and its scratch."""

    heads: int
    weights: dict[str, Tensor]
    qkv: Tensor
    attended: Tensor
    inner: Tensor


@dataclass(frozen=True)
class Layout:
    """What a chunk's launches need to know of its place on the time base."""

    frames: int
    rows: int
    positions: int
    skipped: int
    starts: bool
    conv1_at: Tensor
    reads: Tensor
    reads_at: Tensor
    place_bias: Tensor


def linear_constants(k: int, n: int, rows: int, precision: str, tile: Tile, **what: int) -> dict:
    """Constants of a product of a few rows."""
    depth = tile.depth
    while k % depth:
        depth //= 2
    found = {"BIAS_STRIDE": 0, "NORM": False, "GELU": False, "RESIDUAL": 0, **what}
    return found | {
        "K": k, "N": n, "WHEEL": WHEEL, "EPSILON": NORM_EPSILON, "PRECISION": precision,
        "BLOCK_M": 32 if rows > 16 else 16,
        "BLOCK_N": tile.columns, "BLOCK_K": depth,
    }  # fmt: skip


def attention_constants(inner: int, past: int, ring: int, precision: str) -> dict:
    """Constants of a block's attention."""
    return {
        "INNER": inner, "PAST": past, "RING": ring, "HEAD": HEAD_WIDTH, "POSITION_TAIL": POSITION_TAIL,
        "PRECISION": precision, "BLOCK_M": MOST_POSITIONS,
    }  # fmt: skip


class FrontPlan:
    """A front's weights prepared for the kernels.

    Parameters
    ----------
    weights
        The front, in any dtype.
    dtype
        Of operands and caches: bfloat16 on a GPU; float16 or float32 anywhere. Sums and residuals are float32.
    captured
        Replay a CUDA graph a chunk; needs a GPU.
    tile
        How the products are cut.
    """

    def __init__(
        self,
        weights: FrontWeights,
        *,
        dtype: torch.dtype,
        device: str | torch.device,
        captured: bool,
        tile: Tile = TILES[0],
    ) -> None:
        self.tile = tile
        self.device, self.dtype, self.captured, self.past = torch.device(device), dtype, captured, weights.past
        self.ring = triton.next_power_of_2(weights.past + MOST_POSITIONS - 10)
        self.precision = "ieee" if dtype == torch.float32 else "tf32"
        self.hidden = len(weights.hidden_b)

        def operand(tensor: Tensor) -> Tensor:
            return tensor.detach().to(self.device, dtype).contiguous()

        def plain(tensor: Tensor) -> Tensor:
            return tensor.detach().to(self.device, torch.float32).contiguous()

        # taps, then channels: as rows lie; padded with zeros
        self.conv1_w = operand(F.pad(weights.conv1_w.transpose(1, 2).flatten(1), (0, CONV1_DEPTH - 3 * MEL_BANDS)))
        self.conv2_w = operand(weights.conv2_w.transpose(1, 2).flatten(1))
        self.conv1_b, self.conv2_b = plain(weights.conv1_b), plain(weights.conv2_b)
        self.positions = plain(weights.positions)
        self.norm_w, self.norm_b = plain(weights.norm_w), plain(weights.norm_b)
        self.hidden_w = operand(weights.hidden_w)
        self.places = plain(weights.phase_w), plain(weights.left_w), plain(weights.hidden_b)
        scale = 1 / weights.temperature.detach().float()
        self.heads_w = operand(torch.cat([weights.viseme_w.float() * scale, weights.open_w.float()]))
        self.heads_b = plain(torch.cat([weights.viseme_b.float() * scale, weights.open_b.float()]))
        self.blocks = []
        for block in weights.blocks:
            inner, ffn = block.heads * HEAD_WIDTH, block.up_w.shape[0]
            named = {name: getattr(block, name) for name in block.__dataclass_fields__}
            wide = ("qkv_w", "out_w", "up_w", "down_w")
            prepared = {name: operand(t) if name in wide else plain(t) for name, t in named.items()}
            scratch = [torch.zeros(MOST_POSITIONS, n, dtype=dtype, device=self.device) for n in (3 * inner, inner, ffn)]
            self.blocks.append(Block(block.heads, prepared, *scratch))
        self.layouts: dict[tuple, Layout] = {}
        self.each_row = {n: torch.arange(MOST_ROWS, dtype=torch.int32, device=self.device) * n for n in self._strides()}

    def _strides(self) -> set[int]:
        inner = {block.heads * HEAD_WIDTH for block in self.blocks} | {block.inner.shape[1] for block in self.blocks}
        return {WIDTH, 2 * WIDTH, *inner}

    def new_cache(self, stream: str) -> PlanCache:
        """The cache of a stream that has heard nothing."""
        return PlanCache(stream, 0, StreamState(self))

    def front_chunk(
        self, mel: Float[Tensor, "1 rows 80"], cache: PlanCache, *, stream: str, first_frame: int, frames: int
    ) -> tuple[FrontOutput, PlanCache]:
        """As :func:`reference.front_chunk`, for one stream. The output's tensors are copies.

        Raises
        ------
        ValueError: as the reference; also for a handle that is not its stream's newest.
        """
        state = cache.state
        if cache.stream != stream:
            raise ValueError(
                f"cache: expected stream {stream!r}, got the cache of {cache.stream!r}; keep one per stream"
            )
        if not cache.next_frame == state.newest_frame == first_frame:
            raise ValueError(
                f"chunk: expected frame {state.newest_frame} next, got {first_frame} with a cache at "
                f"{cache.next_frame}; "
                "give chunks in order, each with the cache that the one before returned"
            )
        if not 1 <= frames <= LONGEST_CHUNK_FRAMES:
            raise ValueError(f"frames: expected 1 to {LONGEST_CHUNK_FRAMES}, got {frames}")
        layout = self.layout(first_frame, frames)
        if tuple(mel.shape) != (1, layout.rows, MEL_BANDS):
            raise ValueError(f"mel: expected shape [1, {layout.rows}, {MEL_BANDS}], got {list(mel.shape)}")
        state.mel[: layout.rows].copy_(mel[0])
        self.run(state, layout, (frames, first_frame % reference.PHASES, first_frame == 0))
        state.newest_frame = first_frame + frames
        output = FrontOutput(
            hidden=state.kept[None, :frames].clone(),
            logits=state.logits[None, :frames].clone(),
            confidence=state.confidence[None, :frames].clone(),
            openness=state.openness[None, :frames].clone(),
        )
        return output, replace(cache, next_frame=state.newest_frame)

    def layout(self, first_frame: int, frames: int) -> Layout:
        """The chunk's layout; equal for equal places modulo 3 frames, the stream's first chunk apart."""
        key = (frames, first_frame % reference.PHASES, first_frame == 0)
        if key not in self.layouts:
            rows, added = reference.new_rows(first_frame, frames), reference.new_positions(first_frame, frames)
            skipped = 2 * added.start - 2 - (rows.start - ROW_TAIL)
            oldest = reference.read_positions(first_frame, frames, self.device)[:, 0]
            reads = (oldest - (added.start - POSITION_TAIL)).int()
            phase, left = reference.places(first_frame, frames, self.device)
            phase_w, left_w, bias = self.places
            at = (skipped + torch.arange(MOST_ROWS, dtype=torch.int32, device=self.device)) * MEL_BANDS
            self.layouts[key] = Layout(
                frames, len(rows), len(added), skipped, first_frame == 0, at.int(), reads, (reads * WIDTH).contiguous(),
                (phase_w[phase] + left_w[left] + bias).contiguous(),
            )  # fmt: skip
        return self.layouts[key]

    def run(self, state: StreamState, layout: Layout, key: tuple) -> None:
        """All launches of a chunk whose rows lie in ``state.mel``; by a graph where one is wanted."""
        if not self.captured:
            self._launch(state, layout)
            return
        if key not in state.graphs:
            before = {name: t.clone() for name, t in self._memory(state).items()}
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._launch(state, layout)  # compiles
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._launch(state, layout)
            state.graphs[key] = graph
            for name, tensor in self._memory(state).items():
                tensor.copy_(before[name])
        state.graphs[key].replay()

    @staticmethod
    def _memory(state: StreamState) -> dict[str, Tensor]:
        """What a chunk leaves to the next."""
        lists = {f"{name}{i}": t for name in ("keys", "values") for i, t in enumerate(getattr(state, name))}
        names = ("rows", "whole_rows", "whole", "whole_ring", "place", "outputs")
        return {name: getattr(state, name) for name in names} | lists

    def _launch(self, state: StreamState, layout: Layout) -> None:
        rows, positions = layout.rows, layout.positions
        triton_kernels.prepare_kernel[(1,)](
            state.mel, state.rows, state.whole_rows, state.whole, rows, layout.skipped, positions, MEL_LIMIT=MEL_LIMIT,
            BANDS=MEL_BANDS, TAIL=ROW_TAIL, POSITION_TAIL=POSITION_TAIL, BLOCK_ROWS=MOST_ROWS, BLOCK_BANDS=128,
            BLOCK_POSITIONS=MOST_POSITIONS, num_warps=WARPS,
        )  # fmt: skip
        self._linear(
            state, state.rows, layout.conv1_at, self.conv1_w, self.conv1_b, state.hidden_rows, 2 * positions + 1,
            GELU=True,
            zero_rows=int(layout.starts),
        )  # fmt: skip
        self._linear(
            state, state.hidden_rows, self.each_row[2 * WIDTH], self.conv2_w, self.conv2_b, state.x, positions,
            GELU=True, RESIDUAL=2, residual=self.positions,
        )  # fmt: skip
        for block, keys, values in zip(self.blocks, state.keys, state.values, strict=True):
            w, x_at, inner = block.weights, self.each_row[WIDTH], block.heads * HEAD_WIDTH
            self._linear(
                state,
                state.x,
                x_at,
                w["qkv_w"],
                w["qkv_b"],
                block.qkv,
                positions,
                norm=(w["attn_norm_w"], w["attn_norm_b"]),
            )
            triton_kernels.attention_kernel[(block.heads,)](
                block.qkv, keys, values, state.whole_ring, state.whole, state.place, block.attended, positions,
                **attention_constants(inner, self.past, self.ring, self.precision), num_warps=WARPS,
            )  # fmt: skip
            self._linear(
                state, block.attended, self.each_row[inner], w["out_w"], w["out_b"], state.x, positions, RESIDUAL=1,
                residual=state.x,
            )  # fmt: skip
            self._linear(
                state, state.x, x_at, w["up_w"], w["up_b"], block.inner, positions, GELU=True,
                norm=(w["mlp_norm_w"], w["mlp_norm_b"]),
            )  # fmt: skip
            self._linear(
                state, block.inner, self.each_row[block.inner.shape[1]], w["down_w"], w["down_b"], state.x, positions,
                RESIDUAL=1, residual=state.x,
            )  # fmt: skip
        triton_kernels.norm_kernel[(positions,)](
            state.x, self.norm_w, self.norm_b, state.outputs, WIDTH=WIDTH, EPSILON=NORM_EPSILON,
            POSITION_TAIL=POSITION_TAIL, num_warps=WARPS,
        )  # fmt: skip
        self._linear(
            state, state.outputs, layout.reads_at, self.hidden_w, layout.place_bias, state.features, layout.frames,
            GELU=True, BIAS_STRIDE=self.hidden,
        )  # fmt: skip
        triton_kernels.heads_kernel[(1,)](
            state.features, self.heads_w, self.heads_b, layout.reads, state.whole, state.kept, state.logits,
            state.confidence, state.openness, layout.frames, HIDDEN=self.hidden, VISEMES=VISEMES, READS=READ_POSITIONS,
            PRECISION=self.precision, BLOCK_M=16, BLOCK_K=64, num_warps=WARPS,
        )  # fmt: skip
        triton_kernels.advance_kernel[(1,)](
            state.rows, state.whole_rows, state.outputs, state.whole, state.whole_ring, state.place, rows, positions,
            BANDS=MEL_BANDS, WIDTH=WIDTH, TAIL=ROW_TAIL, RING=self.ring, BLOCK_BANDS=128,
            BLOCK_POSITIONS=MOST_POSITIONS, num_warps=WARPS,
        )  # fmt: skip

    def _linear(self, state, a, at, w, bias, out, rows, *, norm=None, residual=None, zero_rows=0, **what) -> None:
        n, k = w.shape
        constants = linear_constants(k, n, rows, self.precision, self.tile, NORM=norm is not None, **what)
        norm_w, norm_b = norm or (bias, bias)
        grid = (triton.cdiv(n, self.tile.columns), triton.cdiv(rows, constants["BLOCK_M"]))
        triton_kernels.linear_kernel[grid](
            a, at, w, bias, norm_w, norm_b, out if residual is None else residual, state.place, out, rows, zero_rows,
            **constants, num_warps=self.tile.warps, num_stages=self.tile.stages,
        )  # fmt: skip
