"""The causal front in plain torch: Whisper base's convolutions and first blocks as a stream, one call a chunk.

This is the definition. The Triton version beside it has the same signature and layout; README.md has the derivation.
It runs on any device and in any floating dtype, is differentiable, and never imports triton.

Shapes: batch B, new log-mel rows R, positions P (two rows each), width D = 512, heads h of 64, hidden features H.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# The time base, as in specsync_lib.units (a test holds the two equal; kernels import nothing from above them).
MEL_BANDS = 80
MEL_FRAMES_PER_SECOND = 100
VIDEO_FPS = 30
VISEMES = 15
LOOK_AHEAD_MEL_FRAMES = 6  # rows heard after the row at a frame's centre: 52.5 ms after the end of 12 frames
MEL_LIMIT = 1e4  # past it (NaN and Inf too) a row is broken input, as in project_latents

WIDTH, HEAD_WIDTH = 512, 64
WHEEL = 1500  # Whisper's table of positions, 30 s; a stream goes round it
READ_POSITIONS = 5  # a frame reads its last position and the four before: 100 ms
ROW_TAIL = 4  # rows of the past that the next chunk's first convolution still needs
POSITION_TAIL = READ_POSITIONS - 1
LONGEST_CHUNK_FRAMES = 12
PHASES = 3  # a frame's centre lies 0, 1/3 or 2/3 of a row behind its row
NORM_EPSILON = 1e-5


# ----------------------------------------------------------------------------------------------------- the time base


def last_row(frame: int) -> int:
    """The last log-mel row that frame ``k`` and its chunk may hear: floor((k + 1/2) x 100/30) + 6, exact; -1 before."""
    if frame < 0:
        return -1
    return (2 * frame + 1) * MEL_FRAMES_PER_SECOND // (2 * VIDEO_FPS) + LOOK_AHEAD_MEL_FRAMES


def last_position(frame: int) -> int:
    """The last position whose rows (2p - 2 … 2p + 2) end by :func:`last_row`; -1 before the stream."""
    return -1 if frame < 0 else (last_row(frame) - 2) // 2


def new_rows(first_frame: int, frames: int) -> range:
    """The rows that a chunk adds to the stream: 40 for 12 frames, 13 or 14 for 4 (their ends are no whole rows)."""
    return range(last_row(first_frame - 1) + 1, last_row(first_frame + frames - 1) + 1)


def new_positions(first_frame: int, frames: int) -> range:
    """The positions that a chunk adds: 20 for 12 frames (22 for a stream's first), 6 or 7 for 4."""
    return range(last_position(first_frame - 1) + 1, last_position(first_frame + frames - 1) + 1)


# ----------------------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class BlockWeights:
    """One block in Whisper's form (pre-norm attention, then GELU feed-forward); heads and inner width may be fewer."""

    attn_norm_w: Float[Tensor, " 512"]
    attn_norm_b: Float[Tensor, " 512"]
    qkv_w: Float[Tensor, "3*inner 512"]  # queries, keys, values, each heads x 64 rows
    qkv_b: Float[Tensor, " 3*inner"]
    out_w: Float[Tensor, "512 inner"]
    out_b: Float[Tensor, " 512"]
    mlp_norm_w: Float[Tensor, " 512"]
    mlp_norm_b: Float[Tensor, " 512"]
    up_w: Float[Tensor, "ffn 512"]
    up_b: Float[Tensor, " ffn"]
    down_w: Float[Tensor, "512 ffn"]
    down_b: Float[Tensor, " 512"]

    @property
    def heads(self) -> int:
        """Attention heads of 64."""
        return self.out_w.shape[1] // HEAD_WIDTH


@dataclass(frozen=True)
class FrontWeights:
    """Weights of the front and of its heads. ``past`` is how many positions of the past attention sees (100: 2 s)."""

    conv1_w: Float[Tensor, "512 80 3"]
    conv1_b: Float[Tensor, " 512"]
    conv2_w: Float[Tensor, "512 512 3"]
    conv2_b: Float[Tensor, " 512"]
    positions: Float[Tensor, "1500 512"]
    blocks: tuple[BlockWeights, ...]
    norm_w: Float[Tensor, " 512"]
    norm_b: Float[Tensor, " 512"]
    hidden_w: Float[Tensor, "hidden 2560"]  # oldest of the five positions first
    hidden_b: Float[Tensor, " hidden"]
    phase_w: Float[Tensor, "3 hidden"]  # a frame's place between rows
    left_w: Float[Tensor, "12 hidden"]  # frames that follow it in its chunk: how much more it has in view
    viseme_w: Float[Tensor, "15 hidden"]
    viseme_b: Float[Tensor, " 15"]
    open_w: Float[Tensor, "1 hidden"]
    open_b: Float[Tensor, " 1"]
    temperature: Float[Tensor, ""]
    past: int = 100

    def __post_init__(self):
        hidden = self.hidden_w.shape[0] if self.hidden_w.ndim else 0
        expected = {
            "conv1_w": (WIDTH, MEL_BANDS, 3), "conv1_b": (WIDTH,), "conv2_w": (WIDTH, WIDTH, 3), "conv2_b": (WIDTH,),
            "positions": (WHEEL, WIDTH), "norm_w": (WIDTH,), "norm_b": (WIDTH,),
            "hidden_w": (hidden, READ_POSITIONS * WIDTH), "hidden_b": (hidden,), "phase_w": (PHASES, hidden),
            "left_w": (LONGEST_CHUNK_FRAMES, hidden), "viseme_w": (VISEMES, hidden), "viseme_b": (VISEMES,),
            "open_w": (1, hidden), "open_b": (1,), "temperature": (),
        }  # fmt: skip
        for name, shape in expected.items():
            _fits(name, getattr(self, name), shape)
        for index, block in enumerate(self.blocks):
            inner, ffn = HEAD_WIDTH * max(1, block.heads), block.up_w.shape[0]
            shapes = {
                "attn_norm_w": (WIDTH,), "attn_norm_b": (WIDTH,), "qkv_w": (3 * inner, WIDTH), "qkv_b": (3 * inner,),
                "out_w": (WIDTH, inner), "out_b": (WIDTH,), "mlp_norm_w": (WIDTH,), "mlp_norm_b": (WIDTH,),
                "up_w": (ffn, WIDTH), "up_b": (ffn,), "down_w": (WIDTH, ffn), "down_b": (WIDTH,),
            }  # fmt: skip
            for name, shape in shapes.items():
                _fits(f"blocks.{index}.{name}", getattr(block, name), shape)
        if not self.blocks or self.past < POSITION_TAIL:
            raise ValueError(
                f"front weights: expected blocks and a past of at least {POSITION_TAIL} positions, "
                f"got {len(self.blocks)} and {self.past}"
            )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; a block's as ``blocks.0.qkv_w``."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("blocks", "past")}
        for index, block in enumerate(self.blocks):
            named |= {f"blocks.{index}.{f.name}": getattr(block, f.name) for f in fields(BlockWeights)}
        return named

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], past: int) -> "FrontWeights":
        """The inverse of :meth:`tensors`.

        Raises
        ------
        ValueError: a tensor is missing, unknown or misshapen; the line names it, what was expected and what came.
        """
        outer = {f.name for f in fields(cls)} - {"blocks", "past"}
        inner = [f.name for f in fields(BlockWeights)]
        count = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
        expected = outer | {f"blocks.{index}.{name}" for index in range(count) for name in inner}
        if odd := expected ^ tensors.keys():
            name = min(odd)
            raise ValueError(
                f"{name}: {'expected, but missing' if name in expected else 'unknown tensor, expected none'}"
            )
        blocks = tuple(
            BlockWeights(**{name: tensors[f"blocks.{index}.{name}"] for name in inner}) for index in range(count)
        )
        return cls(**{name: tensors[name] for name in outer}, blocks=blocks, past=past)

    def to(self, *args, **kwargs) -> "FrontWeights":
        """A copy with every tensor moved or cast, as ``Tensor.to``."""
        return self.from_tensors(
            {name: tensor.to(*args, **kwargs) for name, tensor in self.tensors().items()}, self.past
        )


def _fits(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}; see FrontWeights")


# ------------------------------------------------------------------------------------------------------------- cache


@dataclass(frozen=True)
class FrontCache:
    """What a stream keeps between chunks; handed in, and a new one handed out. Holds finite numbers only."""

    stream: str
    next_frame: int
    rows: Float[Tensor, "B 4 80"]  # the last rows, broken ones as zeros
    whole_rows: Bool[Tensor, "B 4"]
    keys: tuple[Float[Tensor, "B h past 64"], ...]  # one a block
    values: tuple[Float[Tensor, "B h past 64"], ...]
    whole: Bool[Tensor, "B past"]  # positions that are there and heard no broken row
    tail: Float[Tensor, "B 4 512"]  # the last positions' normalised outputs


def new_cache(weights: FrontWeights, stream: str, *, batch: int = 1) -> FrontCache:
    """The cache of a stream that has heard nothing; dtype and device are the weights'."""
    like = weights.conv1_w

    def zeros(*shape: int) -> Tensor:
        return like.new_zeros(shape)

    past = [(batch, block.heads, weights.past, HEAD_WIDTH) for block in weights.blocks]
    return FrontCache(
        stream=stream,
        next_frame=0,
        rows=zeros(batch, ROW_TAIL, MEL_BANDS),
        whole_rows=torch.ones(batch, ROW_TAIL, dtype=torch.bool, device=like.device),
        keys=tuple(zeros(*shape) for shape in past),
        values=tuple(zeros(*shape) for shape in past),
        whole=torch.zeros(batch, weights.past, dtype=torch.bool, device=like.device),
        tail=zeros(batch, POSITION_TAIL, WIDTH),
    )


def check_cache(
    cache: FrontCache, weights: FrontWeights, mel: Tensor, *, stream: str, first_frame: int, frames: int
) -> None:
    """Refuse a cache of another stream, batch, dtype, device or model, a chunk out of order, or rows that do not fit.

    Raises
    ------
    ValueError: one line that names what was expected and what came.
    """
    if cache.stream != stream:
        raise ValueError(f"cache: expected stream {stream!r}, got the cache of {cache.stream!r}; keep one per stream")
    if cache.next_frame != first_frame:
        raise ValueError(
            f"chunk: expected frame {cache.next_frame} next, got {first_frame}; "
            "give chunks in order, each with the cache that the one before returned"
        )
    if not 1 <= frames <= LONGEST_CHUNK_FRAMES:
        raise ValueError(f"frames: expected 1 to {LONGEST_CHUNK_FRAMES}, got {frames}")
    rows = len(new_rows(first_frame, frames))
    if mel.ndim != 3 or mel.shape[1:] != (rows, MEL_BANDS):
        raise ValueError(f"mel: expected shape [batch, {rows}, {MEL_BANDS}], got {list(mel.shape)}")
    if len(cache.rows) != len(mel):
        raise ValueError(f"cache: expected batch {len(mel)}, got {len(cache.rows)}")
    if cache.rows.dtype != weights.conv1_w.dtype:
        raise ValueError(f"cache: expected {weights.conv1_w.dtype}, got {cache.rows.dtype}")
    if cache.rows.device != weights.conv1_w.device:
        raise ValueError(f"cache: expected it on {weights.conv1_w.device}, got {cache.rows.device}")
    wanted = [(block.heads, weights.past) for block in weights.blocks]
    got = [tuple(keys.shape[1:3]) for keys in cache.keys]
    if wanted != got:
        raise ValueError(f"cache: expected (heads, past) {wanted} a block, got {got}; it belongs to another model")


# ------------------------------------------------------------------------------------------------------------ layers


@dataclass(frozen=True)
class FrontOutput:
    """What the front says about a chunk's frames."""

    hidden: Float[Tensor, "B frames H"]  # what W_v, W_open and W_c read; 0 for a broken frame
    logits: Float[Tensor, "B frames 15"]  # divided by the temperature; 0 for a broken frame
    confidence: Float[Tensor, "B frames"]  # max softmax(logits); 0 for a broken frame
    openness: Float[Tensor, "B frames"]  # in [0, 1]; 0 for a broken frame


def convolve(
    rows: Float[Tensor, "B rows 80"], weights: FrontWeights, first_position: int
) -> Float[Tensor, "B positions 512"]:
    """Whisper's two convolutions over rows ``2 first_position - 2`` … ; before the stream both see zeros."""
    hidden = F.gelu(F.conv1d(rows.transpose(1, 2), weights.conv1_w, weights.conv1_b))  # rows 2 p0 - 1 …
    if first_position == 0:
        before = torch.zeros_like(hidden[..., :1])
        hidden = torch.cat([before, hidden[..., 1:]], dim=2)
    return F.gelu(F.conv1d(hidden, weights.conv2_w, weights.conv2_b, stride=2)).transpose(1, 2)


def add_positions(x: Float[Tensor, "B P 512"], weights: FrontWeights, first_position: int) -> Float[Tensor, "B P 512"]:
    """Whisper's position table, which a stream goes round every 30 s."""
    place = torch.arange(first_position, first_position + x.shape[1], device=x.device) % WHEEL
    return x + weights.positions[place].to(x.dtype)


def split_heads(x: Float[Tensor, "B P h*64"]) -> Float[Tensor, "B h P 64"]:
    """[B, P, heads x 64] to [B, heads, P, 64]."""
    return x.unflatten(2, (-1, HEAD_WIDTH)).transpose(1, 2)


def queries_keys_values(x: Tensor, block: BlockWeights) -> tuple[Tensor, Tensor, Tensor]:
    """A block's normalised input as queries, keys and values, [B, h, P, 64] each."""
    normal = F.layer_norm(x, (WIDTH,), block.attn_norm_w, block.attn_norm_b, NORM_EPSILON)
    return tuple(split_heads(part) for part in F.linear(normal, block.qkv_w, block.qkv_b).chunk(3, dim=2))


def after_attention(x: Tensor, attended: Float[Tensor, "B h P 64"], block: BlockWeights) -> Float[Tensor, "B P 512"]:
    """The rest of a block: output projection, residual, feed-forward."""
    x = x + F.linear(attended.transpose(1, 2).flatten(2), block.out_w, block.out_b)
    normal = F.layer_norm(x, (WIDTH,), block.mlp_norm_w, block.mlp_norm_b, NORM_EPSILON)
    return x + F.linear(F.gelu(F.linear(normal, block.up_w, block.up_b)), block.down_w, block.down_b)


def attend(
    queries: Float[Tensor, "B h P 64"],
    keys: Float[Tensor, "B h K 64"],
    values: Float[Tensor, "B h K 64"],
    seen: Bool[Tensor, "#B 1 P K"],
) -> Float[Tensor, "B h P 64"]:
    """Softmax attention over the seen keys; a query that sees none gives 0."""
    any_seen = seen.any(dim=3, keepdim=True)
    found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen | ~any_seen)
    return torch.where(any_seen, found, 0)


def read_positions(first_frame: int, frames: int, device: torch.device) -> Int[Tensor, "frames 5"]:
    """The positions that each frame reads, oldest first, on the device (:func:`last_position` and the four before)."""
    frame = torch.arange(first_frame, first_frame + frames, device=device)
    row = (
        torch.div((2 * frame + 1) * MEL_FRAMES_PER_SECOND, 2 * VIDEO_FPS, rounding_mode="floor") + LOOK_AHEAD_MEL_FRAMES
    )
    last = torch.div(row - 2, 2, rounding_mode="floor")
    return last[:, None] + torch.arange(1 - READ_POSITIONS, 1, device=device)


def read(
    outputs: Float[Tensor, "B P 512"], first_position: int, places: Int[Tensor, "frames 5"]
) -> Float[Tensor, "B frames 2560"]:
    """Each frame's five positions; positions before the stream are zeros."""
    padded = F.pad(outputs, (0, 0, READ_POSITIONS, 0))
    return padded[:, (places - first_position + READ_POSITIONS).clamp(min=0)].flatten(2)


def hidden_features(
    heard: Float[Tensor, "B frames 2560"], weights: FrontWeights, phase: Tensor, left: Tensor
) -> Float[Tensor, "B frames H"]:
    """What the heads read: GELU of one layer over a frame's positions and its place."""
    place = weights.phase_w[phase] + weights.left_w[left]
    return F.gelu(F.linear(heard, weights.hidden_w, weights.hidden_b) + place.to(heard.dtype))


def front_output(
    heard: Float[Tensor, "B frames 2560"],
    whole: Bool[Tensor, "B frames"],
    weights: FrontWeights,
    phase: Tensor,
    left: Tensor,
) -> FrontOutput:
    """The heads on hidden features; broken frames say nothing."""
    hidden = hidden_features(heard, weights, phase, left)
    logits = F.linear(hidden, weights.viseme_w, weights.viseme_b) / weights.temperature
    openness = torch.sigmoid(F.linear(hidden, weights.open_w, weights.open_b))[..., 0]
    return FrontOutput(
        hidden=torch.where(whole[..., None], hidden, 0),
        logits=torch.where(whole[..., None], logits, 0),
        confidence=torch.where(whole, logits.softmax(dim=2).amax(dim=2), 0),
        openness=torch.where(whole, openness, 0),
    )


def places(first_frame: int, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A chunk's frames: place between rows (0 … 2), and how many frames of the chunk follow (11 … 0)."""
    frame = torch.arange(first_frame, first_frame + frames, device=device)
    return frame % PHASES, first_frame + frames - 1 - frame


def mend(mel: Float[Tensor, "B rows 80"]) -> tuple[Float[Tensor, "B rows 80"], Bool[Tensor, "B rows"]]:
    """Rows with what is broken set to 0, and which rows are whole."""
    whole = (mel.abs() <= MEL_LIMIT).all(dim=2)  # a comparison with NaN is False
    return torch.where(whole[..., None], mel, 0), whole


def whole_positions(whole_rows: Bool[Tensor, "B rows"]) -> Bool[Tensor, "B P"]:
    """Positions whose five rows (the convolutions' view, from row 0 of the argument on) are all whole."""
    return whole_rows.unfold(1, 5, 2).all(dim=2)


# ------------------------------------------------------------------------------------------------- stream and offline


def front_chunk(
    mel: Float[Tensor, "B rows 80"],
    cache: FrontCache,
    weights: FrontWeights,
    *,
    stream: str,
    first_frame: int,
    frames: int,
) -> tuple[FrontOutput, FrontCache]:
    """The next chunk of a stream.

    Parameters
    ----------
    mel
        Exactly the rows :func:`new_rows` of this chunk, in Whisper's range, of every stream of the batch.
    cache
        From :func:`new_cache`, or what the chunk before returned.
    stream, first_frame
        The stream's name and the chunk's first frame: they must be the cache's.
    frames
        1 to 12; a stream may change it from chunk to chunk.

    A row that is not finite, or past ``MEL_LIMIT``, breaks the positions that hear it: no other position attends to
    them, the frames that read them have confidence 0, and the cache stays finite.

    Raises
    ------
    ValueError: see :func:`check_cache`.

    Source: the derivation in README.md beside this file.
    """
    check_cache(cache, weights, mel, stream=stream, first_frame=first_frame, frames=frames)
    added = new_positions(first_frame, frames)
    mended, whole_rows = mend(mel.to(cache.rows.dtype))
    rows = torch.cat([cache.rows, mended], dim=1)
    whole_rows = torch.cat([cache.whole_rows, whole_rows], dim=1)
    # The tail begins ROW_TAIL rows before the new ones; the first new position hears from row 2 p - 2 on.
    skipped = 2 * added.start - 2 - (new_rows(first_frame, frames).start - ROW_TAIL)
    heard_rows = slice(skipped, skipped + 2 * len(added) + 3)
    x = add_positions(convolve(rows[:, heard_rows], weights, added.start), weights, added.start)
    whole = torch.cat([cache.whole, whole_positions(whole_rows[:, heard_rows])], dim=1)  # [B, past + P]
    age = (
        torch.arange(len(added), device=x.device)[:, None]
        + weights.past
        - torch.arange(whole.shape[1], device=x.device)
    )
    seen = whole[:, None, None] & (age <= weights.past)  # [B, 1, P, past + P]

    keys, values = [], []
    for block, old_keys, old_values in zip(weights.blocks, cache.keys, cache.values, strict=True):
        query, key, value = queries_keys_values(x, block)
        key, value = torch.cat([old_keys, key], dim=2), torch.cat([old_values, value], dim=2)
        x = after_attention(x, attend(query, key, value, seen), block)
        keys.append(key[:, :, -weights.past :])
        values.append(value[:, :, -weights.past :])

    normal = F.layer_norm(x, (WIDTH,), weights.norm_w, weights.norm_b, NORM_EPSILON)
    outputs = torch.cat([cache.tail, normal], dim=1)
    first_output = added.start - POSITION_TAIL
    place = read_positions(first_frame, frames, x.device)
    usable = (whole[:, place - first_output + weights.past - POSITION_TAIL] | (place < 0)).all(dim=2)  # [B, frames]
    phase, left = places(first_frame, frames, x.device)
    output = front_output(read(outputs, first_output, place), usable, weights, phase, left)
    return output, replace(
        cache,
        next_frame=first_frame + frames,
        rows=rows[:, -ROW_TAIL:],
        whole_rows=whole_rows[:, -ROW_TAIL:],
        keys=tuple(keys),
        values=tuple(values),
        whole=whole[:, -weights.past :],
        tail=outputs[:, -POSITION_TAIL:],
    )


def chunk_mask(chunk_frames: Sequence[int], past: int) -> Bool[Tensor, "P P"]:
    """Who sees whom when chunks of the given lengths come one after the other: the whole chunk, and ``past`` before."""
    ends, frame = [], 0
    for frames in chunk_frames:
        ends += [last_position(frame + frames - 1)] * len(new_positions(frame, frames))
        frame += frames
    place = torch.arange(len(ends))
    return (place[:, None] - place <= past) & (place <= torch.tensor(ends)[:, None])


def front_offline(mel: Float[Tensor, "B rows 80"], weights: FrontWeights, chunk_frames: Sequence[int]) -> FrontOutput:
    """The same for a whole recording at once: what the stream must equal. ``mel``: all rows that the chunks hear."""
    frames = sum(chunk_frames)
    rows = len(new_rows(0, frames))
    if mel.ndim != 3 or mel.shape[1:] != (rows, MEL_BANDS):
        raise ValueError(f"mel: expected shape [batch, {rows}, {MEL_BANDS}], got {list(mel.shape)}")
    mended, whole_rows = mend(mel.to(weights.conv1_w.dtype))
    padding = (2, 0)
    rows = F.pad(mended, (0, 0, *padding))
    whole = whole_positions(F.pad(whole_rows, padding, value=True))
    count = len(new_positions(0, frames))
    x = add_positions(convolve(rows, weights, 0)[:, :count], weights, 0)
    whole = whole[:, :count]
    seen = chunk_mask(chunk_frames, weights.past).to(x.device) & whole[:, None, None]
    for block in weights.blocks:
        x = after_attention(x, attend(*queries_keys_values(x, block), seen), block)
    normal = F.layer_norm(x, (WIDTH,), weights.norm_w, weights.norm_b, NORM_EPSILON)
    place = read_positions(0, frames, x.device)
    usable = (whole[:, place.clamp(min=0)] | (place < 0)).all(dim=2)
    starts = [sum(chunk_frames[:index]) for index in range(len(chunk_frames))]
    spans = [places(*span, x.device) for span in zip(starts, chunk_frames, strict=True)]
    phase, left = (torch.cat(parts) for parts in zip(*spans, strict=True))
    return front_output(read(normal, 0, place), usable, weights, phase, left)
