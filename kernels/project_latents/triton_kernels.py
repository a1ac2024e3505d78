"""The device code of the Speculative Sync Kernel: hidden layer, finished plan, latents.

Three kernels are put together from them. `draft_kernel` is launch 1. `latents_kernel` and `stream_kernel` are two forms
of launch 2: one tile of B a program, or a few programs that each keep many tiles on their way. `triton_impl.py`
launches them.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels.project_latents.reference import (
    FRAMES_PER_SLOT,
    MEL_BANDS,
    MEL_LIMIT,
    VISEMES,
    WINDOW_BACK_MEL_FRAMES,
    WINDOW_MEL_FRAMES,
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
DRAFT_WARPS = 8
THREADS = tl.constexpr(32 * DRAFT_WARPS)
BULK = tl.constexpr(1024)  # bytes of one bulk prefetch
LINE, HALF_LINE = tl.constexpr(128), tl.constexpr(64)


@triton.jit
def prefetch_lines(pointers):
    """Ask for the memory under some addresses to come to L2, and go on."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def prefetch_bulk(pointers):
    """Ask for 1024 bytes from each address on to come to L2, whole, and go on (sm_90 and later)."""
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], 1024; mov.u32 $0, 0;",
        "=r,l",
        [pointers],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def prefetch(base, values, program, programs, STRIDE: tl.constexpr):
    """This program's share of an array pulled into L2, one address a thread and turn, so many bytes apart."""
    STEP: tl.constexpr = STRIDE * 8 // base.dtype.element_ty.primitive_bitwidth
    ahead = tl.arange(0, THREADS)
    pieces = values // STEP
    for first in range(program * THREADS, pieces, programs * THREADS):
        pointers = base + tl.minimum(first + ahead, pieces - 1) * STEP
        if STRIDE == BULK:
            prefetch_bulk(pointers)
        else:
            prefetch_lines(pointers)


@triton.jit
def fixed_point(values, scale):
    """Rows of numbers as integers, each column in its own unit."""
    return tl.floor(values * scale[None, :] + 0.5).to(tl.int32)


@triton.jit
def window_values(mel_ptr, frame, live, first_mel_frame, mel_frames, part, PART_VALUES: tl.constexpr):
    """A part of one split of one frame's window for each row, [R S, V]; zero where the recording is not."""
    # floor((2k + 1) * 100 / 60) - 11; frames before 0 are not live, and the clamp keeps the division exact for them.
    start = (2 * tl.maximum(frame, 0) + 1) * 5 // 3 - WINDOW_BACK - first_mel_frame
    split = tl.arange(0, frame.shape[0]) % SPLITS
    value = split[:, None] * SPLIT_VALUES + part * PART_VALUES + tl.arange(0, PART_VALUES)[None, :]
    at = start[:, None] * BANDS + value
    inside = (at >= 0) & (at < mel_frames * BANDS) & live[:, None] & (value < WINDOW_VALUES)
    return tl.load(mel_ptr + at, mask=inside, other=0.0)


@triton.jit
def slab_values(w1_ptr, unit, part, PART_VALUES: tl.constexpr):
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
def product(window, w1, sums, PART_VALUES: tl.constexpr, COMPILED: tl.constexpr):
    """Adds one part's products, each split apart: [S, R, N]."""
    # A value past the limit (or NaN, which fails every comparison) turns its whole row into NaN, and no other.
    window = tl.where(tl.abs(window) <= LIMIT, window, float("nan")).to(w1.dtype)
    # Rows run through the splits first, so that a thread holds many rows of one split. The other way round, the
    # compiler lays shared memory out such that eight rows of a tile meet in the same banks.
    window = tl.reshape(not_before(window, COMPILED), [sums.shape[1], SPLITS, PART_VALUES])
    w1 = tl.reshape(not_before(w1, COMPILED), [sums.shape[2], SPLITS, PART_VALUES])
    window, w1 = tl.permute(window, (1, 0, 2)), tl.permute(w1, (1, 2, 0))  # [S, R, V], [S, V, N]
    return tl.dot(window, w1, sums, input_precision="ieee")


@triton.jit
def sum_of_splits(sums, LEAN: tl.constexpr):
    """[S, R, N] to [R, N]. A warp holds one split, so the sum crosses warps through shared memory."""
    if not LEAN:
        return tl.sum(sums, axis=0)  # writes with the splits innermost: sixteen lanes meet in a bank
    # One exchange brings a number's splits together in a thread's registers and its neighbours' (the compiler swizzles
    # an exchange free of conflicts); what is left to add is then in the same warp.
    sums = tl.reshape(tl.permute(sums, (1, 2, 0)), [sums.shape[1], sums.shape[2], SPLITS // 2, 2])
    even, odd = tl.split(sums)
    return tl.sum(even + odd, axis=2)


@triton.jit
def hidden_sums(
    mel_ptr,  # [mel_frames, 80] float32
    w1_ptr,  # [H, 8 * 192], window values contiguous, zeros past 1440
    b1_ptr,  # [H] float32
    heads_ptr,  # [H, 16]: visemes / temperature, openness
    heads_scale_ptr,  # [16] float32: fixed-point units per unit
    w_coef_ptr,  # [H, COEF]
    coef_scale_ptr,  # [COEF] float32
    basis_ptr,  # what launch 2 will read: only prefetched here
    head_sums_ptr,  # [rows, 16] int32: this row of sums and the two below are added to
    coef_sums_ptr,  # [rows / 4, COEF] int32
    broken_ptr,  # [rows] int32
    mel_frames,
    frames,
    first_frame,
    first_mel_frame,
    basis_values,
    slab,
    row_block,
    SLABS: tl.constexpr,
    COEF: tl.constexpr,  # 0: no latents wanted
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    PART_VALUES: tl.constexpr,
    PARTS_AHEAD: tl.constexpr,
    LEAN: tl.constexpr,
    EARLY_LAUNCH: tl.constexpr,
    COMPILED: tl.constexpr,
    PREFETCH: tl.constexpr,  # 0, or the bytes between two requests
    PREFETCH_SLAB: tl.constexpr,
):
    """One slab of hidden units for one block of frames, added to the workspace."""
    if PREFETCH_SLAB:  # what is loaded later must be on its way before launch 2 fills the memory's queues
        slab_size: tl.constexpr = BLOCK_HIDDEN * SPLITS * SPLIT_VALUES
        prefetch(w1_ptr + slab * slab_size, slab_size, 0, 1, BULK)
        prefetch(mel_ptr, mel_frames * BANDS, row_block * SLABS + slab, tl.num_programs(1) * SLABS, HALF_LINE)
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

    # Two or three parts are asked for before anything is used: memory's latency is paid once for all of them.
    split_unit = slab * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN * SPLITS) // SPLITS  # [N S]
    split_row = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS * SPLITS) // SPLITS  # [R S]
    split_frame = first_frame + split_row
    split_live = (split_row < frames) & (split_frame >= 0)
    w1_0 = slab_values(w1_ptr, split_unit, 0, PART_VALUES)
    w1_1 = slab_values(w1_ptr, split_unit, 1, PART_VALUES)
    if PARTS_AHEAD > 2:
        w1_2 = slab_values(w1_ptr, split_unit, 2, PART_VALUES)
    window_0 = window_values(mel_ptr, split_frame, split_live, first_mel_frame, mel_frames, 0, PART_VALUES)
    window_1 = window_values(mel_ptr, split_frame, split_live, first_mel_frame, mel_frames, 1, PART_VALUES)
    if PARTS_AHEAD > 2:
        window_2 = window_values(mel_ptr, split_frame, split_live, first_mel_frame, mel_frames, 2, PART_VALUES)
    if EARLY_LAUNCH:
        # Launch 2 reads nothing of ours before its own wait; behind these loads its stream of B delays no one.
        gdc_launch_dependents()
    if PREFETCH:  # B is streamed into L2 while this launch computes: memory never idles
        prefetch(basis_ptr, basis_values, row_block * SLABS + slab, tl.num_programs(1) * SLABS, PREFETCH)

    sums = tl.zeros([SPLITS, BLOCK_ROWS, BLOCK_HIDDEN], tl.float32)
    for part in tl.static_range(SPLIT_VALUES // PART_VALUES):
        sums = product(window_0, w1_0, sums, PART_VALUES, COMPILED)
        w1_0, window_0 = w1_1, window_1
        if PARTS_AHEAD > 2:
            w1_1, window_1 = w1_2, window_2
        if part + PARTS_AHEAD < SPLIT_VALUES // PART_VALUES:
            later = part + PARTS_AHEAD
            w1 = slab_values(w1_ptr, split_unit, later, PART_VALUES)
            window = window_values(mel_ptr, split_frame, split_live, first_mel_frame, mel_frames, later, PART_VALUES)
            if PARTS_AHEAD > 2:
                w1_2, window_2 = w1, window
            else:
                w1_1, window_1 = w1, window
    pre = sum_of_splits(sums, LEAN) + bias[None, :]  # [R, N]

    usable = live & (tl.min((pre == pre).to(tl.int32), axis=1) > 0)  # [R]
    hidden = 2 * tl.sigmoid(2 * pre) - 1  # tanh
    hidden = tl.where(usable[:, None], hidden, 0.0)
    if LEAN:  # as a batch of one: two small products in a row make the compiler give every warp the whole of both
        head_sums = tl.reshape(
            tl.dot(hidden.to(heads.dtype)[None, :, :], heads[None, :, :], input_precision="ieee"), [BLOCK_ROWS, HEADS]
        )
    else:
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


@triton.jit
def finish_rows(
    head_sums_ptr,
    coef_sums_ptr,
    broken_ptr,
    zero_heads_ptr,  # what is left empty for a later call: the same workspace, or the one of the next call
    zero_coefs_ptr,
    zero_broken_ptr,
    heads_bias_ptr,  # [16] float32
    heads_scale_ptr,
    coef_scale_ptr,
    logits_ptr,  # [frames, 15] float32
    confidence_ptr,  # [frames] float32
    openness_ptr,  # [frames] float32
    coef_ptr,  # [slots, COEF] float32
    coef_operand_ptr,  # [slots, COEF] in the basis' dtype: what latents_kernel multiplies
    frames,
    row_block,
    COEF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """The sums of one block of frames as the plan: confidence, openness, logits, and c."""
    rows = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # [R]
    column = tl.arange(0, HEADS)
    at_head = rows[:, None] * HEADS + column[None, :]
    head_total = tl.load(head_sums_ptr + at_head, cache_modifier=".cg")
    broken = tl.load(broken_ptr + rows, cache_modifier=".cg")
    heads_scale = tl.load(heads_scale_ptr + column)
    heads_bias = tl.load(heads_bias_ptr + column)
    if COEF > 0:
        SLOTS: tl.constexpr = BLOCK_ROWS // SLOT_FRAMES
        coefs = tl.arange(0, COEF)
        slot = row_block * SLOTS + tl.arange(0, SLOTS)
        at_coef = slot[:, None] * COEF + coefs[None, :]
        coef = tl.load(coef_sums_ptr + at_coef, cache_modifier=".cg").to(tl.float32)
        coef = coef / tl.load(coef_scale_ptr + coefs)[None, :]
        whole = (slot < frames // SLOT_FRAMES)[:, None]
        tl.store(coef_operand_ptr + at_coef, coef.to(coef_operand_ptr.dtype.element_ty), mask=whole)
        tl.store(coef_ptr + at_coef, coef, mask=whole)
    tl.debug_barrier()  # all is read: what held it may be emptied
    tl.store(zero_heads_ptr + at_head, tl.zeros([BLOCK_ROWS, HEADS], tl.int32))
    tl.store(zero_broken_ptr + rows, tl.zeros([BLOCK_ROWS], tl.int32))
    if COEF > 0:
        tl.store(zero_coefs_ptr + at_coef, tl.zeros([SLOTS, COEF], tl.int32))
    sound = broken == 0  # [R]
    total = head_total.to(tl.float32) / heads_scale[None, :]
    total = tl.where(sound[:, None], total + heads_bias[None, :], 0.0)
    viseme = column < OPEN_HEAD
    largest = tl.max(tl.where(viseme[None, :], total, float("-inf")), axis=1)
    mass = tl.sum(tl.where(viseme[None, :], tl.exp(total - largest[:, None]), 0.0), axis=1)
    openness = tl.sum(tl.where(viseme[None, :], 0.0, tl.sigmoid(total)), axis=1)
    kept = rows < frames
    tl.store(logits_ptr + rows[:, None] * OPEN_HEAD + column[None, :], total, mask=kept[:, None] & viseme[None, :])
    tl.store(confidence_ptr + rows, tl.where(sound, 1.0 / mass, 0.0), mask=kept)  # softmax's largest entry
    tl.store(openness_ptr + rows, tl.where(sound, openness, 0.0), mask=kept)


@triton.jit(do_not_specialize=["mel_frames", "frames", "first_frame", "first_mel_frame", "basis_values"])
def draft_kernel(
    mel_ptr,
    w1_ptr,
    b1_ptr,
    heads_ptr,
    heads_bias_ptr,
    heads_scale_ptr,
    w_coef_ptr,
    coef_scale_ptr,
    basis_ptr,
    head_sums_ptr,  # workspace [2, rows, 16] int32, zero between calls; the second half is for FINISH False
    coef_sums_ptr,  # workspace [2, rows / 4, COEF] int32, likewise
    broken_ptr,  # workspace [2, rows] int32, likewise
    tickets_ptr,  # workspace [row blocks] int32, zero between calls
    turn_ptr,  # workspace [2] int32: calls made, and the same for launch 2 to read
    logits_ptr,
    confidence_ptr,
    openness_ptr,
    coef_ptr,
    coef_operand_ptr,
    mel_frames,
    frames,
    first_frame,
    first_mel_frame,
    basis_values,
    SLABS: tl.constexpr,
    COEF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    PART_VALUES: tl.constexpr,
    PARTS_AHEAD: tl.constexpr,
    LEAN: tl.constexpr,
    FINISH: tl.constexpr,  # the last program of a row block to draw a ticket writes the plan; else stream_kernel does
    EARLY_LAUNCH: tl.constexpr,
    COMPILED: tl.constexpr,  # not in the interpreter
    PREFETCH: tl.constexpr,
    PREFETCH_SLAB: tl.constexpr,
):
    slab = tl.program_id(0)
    row_block = tl.program_id(1)
    if not FINISH:
        # Two workspaces take turns: launch 2 empties the one of the next call while this call's is being read.
        turn = tl.load(turn_ptr)
        if (slab == 0) & (row_block == 0):
            tl.store(turn_ptr + 1, turn)
        rows = (turn & 1) * tl.num_programs(1) * BLOCK_ROWS
        head_sums_ptr += rows * HEADS
        coef_sums_ptr += rows // SLOT_FRAMES * COEF
        broken_ptr += rows
    hidden_sums(
        mel_ptr, w1_ptr, b1_ptr, heads_ptr, heads_scale_ptr, w_coef_ptr, coef_scale_ptr, basis_ptr,
        head_sums_ptr, coef_sums_ptr, broken_ptr, mel_frames, frames, first_frame, first_mel_frame, basis_values,
        slab, row_block, SLABS, COEF, BLOCK_ROWS, BLOCK_HIDDEN, PART_VALUES, PARTS_AHEAD, LEAN, EARLY_LAUNCH,
        COMPILED, PREFETCH, PREFETCH_SLAB,
    )  # fmt: skip
    if FINISH:
        # Every thread's sums are under way before the ticket is drawn; the ticket publishes them and sees the others'.
        tl.debug_barrier()
        ticket = tl.atomic_add(tickets_ptr + row_block, 1, sem="acq_rel")
        if ticket == SLABS - 1:
            tl.store(tickets_ptr + row_block, 0)
            finish_rows(
                head_sums_ptr, coef_sums_ptr, broken_ptr, head_sums_ptr, coef_sums_ptr, broken_ptr,
                heads_bias_ptr, heads_scale_ptr, coef_scale_ptr, logits_ptr, confidence_ptr, openness_ptr,
                coef_ptr, coef_operand_ptr, frames, row_block, COEF, BLOCK_ROWS,
            )  # fmt: skip


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


@triton.jit(do_not_specialize=["frames", "slots", "tiles", "row_blocks"])
def stream_kernel(
    heads_bias_ptr,
    heads_scale_ptr,
    coef_scale_ptr,
    basis_ptr,  # [tiles, COEF, BLOCK_LATENT]
    basis_rows,  # a descriptor of the same memory as [tiles * COEF, BLOCK_LATENT], for COPY_ENGINE
    head_sums_ptr,  # workspaces as in draft_kernel
    coef_sums_ptr,
    broken_ptr,
    turn_ptr,
    logits_ptr,
    confidence_ptr,
    openness_ptr,
    coef_ptr,
    coef_operand_ptr,
    z0_ptr,  # [slots, latent]
    z_ptr,  # [slots, latent]
    frames,
    slots,
    latent,
    tiles,
    row_blocks,
    COEF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY_LAUNCH: tl.constexpr,
    COMPILED: tl.constexpr,
    COPY_ENGINE: tl.constexpr,  # tiles of B come by the bulk copy engine: no thread waits in line to ask for them
):
    """All but the last programs stream tiles of B; the last ones, one a row block, write the plan meanwhile."""
    program = tl.program_id(0)
    streams = tl.num_programs(0) - row_blocks
    rows = row_blocks * BLOCK_ROWS
    head_values = rows * HEADS
    coef_values = rows // SLOT_FRAMES * COEF
    if program < streams:
        coefs = tl.arange(0, COEF)
        lane = tl.arange(0, BLOCK_LATENT)
        slot = tl.program_id(1) * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)  # [T]
        coef_scale = tl.load(coef_scale_ptr + coefs)
        c = tl.zeros([BLOCK_SLOTS, COEF], basis_ptr.dtype.element_ty)
        for tile in tl.range(program, tiles, streams, num_stages=STAGES):
            column = tile * BLOCK_LATENT + lane  # [L]
            kept = (slot < slots)[:, None] & (column < latent)[None, :]
            at = slot[:, None] * latent + column[None, :]
            z0 = tl.load(z0_ptr + at, mask=kept, other=0.0)
            if COPY_ENGINE:
                basis = basis_rows.load([tile * COEF, 0])
            else:
                at_tile = tile * (COEF * BLOCK_LATENT) + coefs[:, None] * BLOCK_LATENT
                basis = tl.load(basis_ptr + at_tile + lane[None, :])
            # The pipeliner asks for this program's first tiles before the loop, so the wait for launch 1 stands here,
            # in the first turn: while they are on their way to shared memory.
            if tile == program:
                if EARLY_LAUNCH:
                    gdc_wait()
                half = tl.load(turn_ptr + 1) & 1
                # Both workspaces are read before it is known which one counts: one wait instead of two.
                sums = coef_sums_ptr + slot[:, None] * COEF + coefs[None, :]
                known = (slot < slots)[:, None]
                even = tl.load(sums, mask=known, other=0, cache_modifier=".cg")
                odd = tl.load(sums + coef_values, mask=known, other=0, cache_modifier=".cg")
                total = tl.where(half == 0, even, odd).to(tl.float32)
                c = (total / coef_scale[None, :]).to(c.dtype)  # [T, COEF]
            moved = tl.dot(c, basis, input_precision="ieee")  # [T, L]
            # The same addresses, made again: those of every tile on its way would be held in registers otherwise.
            column = not_before(tile, COMPILED) * BLOCK_LATENT + lane
            kept = (slot < slots)[:, None] & (column < latent)[None, :]
            at = slot[:, None] * latent + column[None, :]
            tl.store(z_ptr + at, (z0.to(tl.float32) + moved).to(z_ptr.dtype.element_ty), mask=kept)
    else:
        if EARLY_LAUNCH:
            gdc_wait()
        turn = tl.load(turn_ptr + 1)
        if tl.program_id(1) == 0:
            now, later = turn & 1, (turn + 1) & 1
            row_block = program - streams
            if row_block == 0:
                tl.store(turn_ptr, turn + 1)  # launch 1 has left the copy that every program here reads
            finish_rows(
                head_sums_ptr + now * head_values, coef_sums_ptr + now * coef_values, broken_ptr + now * rows,
                head_sums_ptr + later * head_values, coef_sums_ptr + later * coef_values, broken_ptr + later * rows,
                heads_bias_ptr, heads_scale_ptr, coef_scale_ptr, logits_ptr, confidence_ptr, openness_ptr,
                coef_ptr, coef_operand_ptr, frames, row_block, COEF, BLOCK_ROWS,
            )  # fmt: skip
