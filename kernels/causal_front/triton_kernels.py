"""The causal front's Triton kernels: one general product of a few rows, and what stands between the products.

A chunk has 20 rows or so, so that every product is a walk over its weights: each program takes a strip of columns,
reads the rows again from cache, and folds what comes before (layer norm) and after (bias, GELU, residual) into the same
launch. A convolution is the same product with overlapping rows.
"""

import triton
import triton.language as tl


@triton.jit
def prepare_kernel(
    mel_ptr, rows_ptr, whole_rows_ptr, whole_ptr, rows, skipped, positions,
    MEL_LIMIT: tl.constexpr, BANDS: tl.constexpr, TAIL: tl.constexpr, POSITION_TAIL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_BANDS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr,
):  # fmt: skip
    """New rows behind the tail with what is broken set to 0, and which rows and positions are whole."""
    row = tl.arange(0, BLOCK_ROWS)
    band = tl.arange(0, BLOCK_BANDS)
    inside = (row < rows)[:, None] & (band < BANDS)[None, :]
    mel = tl.load(mel_ptr + row[:, None] * BANDS + band[None, :], mask=inside, other=0.0)
    broken = tl.sum((inside & ~(tl.abs(mel) <= MEL_LIMIT)).to(tl.int32), axis=1)  # a comparison with NaN is False
    mended = tl.where((broken == 0)[:, None], mel, 0.0)
    tl.store(
        rows_ptr + (TAIL + row)[:, None] * BANDS + band[None, :], mended.to(rows_ptr.dtype.element_ty), mask=inside
    )
    tl.store(whole_rows_ptr + TAIL + row, (broken == 0).to(tl.int32), mask=row < rows)
    tl.debug_barrier()
    position = tl.arange(0, BLOCK_POSITIONS)
    whole = position < positions
    for tap in tl.static_range(5):
        flag = tl.load(whole_rows_ptr + skipped + 2 * position + tap, mask=position < positions, other=0)
        whole = whole & (flag != 0)
    tl.store(whole_ptr + POSITION_TAIL + position, whole.to(tl.int32), mask=position < positions)


@triton.jit
def linear_kernel(
    a_ptr, at_ptr, w_ptr, bias_ptr, norm_w_ptr, norm_b_ptr, residual_ptr, place_ptr, out_ptr, rows, zero_rows,
    K: tl.constexpr, N: tl.constexpr, BIAS_STRIDE: tl.constexpr, NORM: tl.constexpr, GELU: tl.constexpr,
    RESIDUAL: tl.constexpr, WHEEL: tl.constexpr, EPSILON: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[m] = after(before(a[at[m] : at[m] + K]) @ w.T + bias): layer norm before; GELU, residual after.

    RESIDUAL 1: the row of the same number; 2: the position table's row, round the wheel from ``place``.
    """
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = m < rows
    at = tl.load(at_ptr + m, mask=there, other=0)
    operand = w_ptr.dtype.element_ty
    if NORM:
        total = tl.zeros((BLOCK_M,), tl.float32)
        squares = tl.zeros((BLOCK_M,), tl.float32)
        for start in range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            a = tl.load(a_ptr + at[:, None] + k[None, :], mask=there[:, None], other=0.0).to(tl.float32)
            total += tl.sum(a, axis=1)
            squares += tl.sum(a * a, axis=1)
        mean = total / K
        scale = 1.0 / tl.sqrt(tl.maximum(squares / K - mean * mean, 0.0) + EPSILON)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(a_ptr + at[:, None] + k[None, :], mask=there[:, None], other=0.0)
        if NORM:
            a = (a.to(tl.float32) - mean[:, None]) * scale[:, None]
            a = a * tl.load(norm_w_ptr + k)[None, :] + tl.load(norm_b_ptr + k)[None, :]
        w = tl.load(w_ptr + n[None, :] * K + k[:, None])
        sums = tl.dot(a.to(operand), w, sums, input_precision=PRECISION)
    into = there[:, None] & (n < N)[None, :]
    sums += tl.load(bias_ptr + m[:, None] * BIAS_STRIDE + n[None, :], mask=into, other=0.0)
    if GELU:
        sums = 0.5 * sums * (1.0 + tl.erf(sums * 0.7071067811865476))
    if RESIDUAL == 1:
        sums += tl.load(residual_ptr + m[:, None] * N + n[None, :], mask=into, other=0.0)
    if RESIDUAL == 2:
        place = (tl.load(place_ptr) + m) % WHEEL
        sums += tl.load(residual_ptr + place[:, None] * N + n[None, :], mask=into, other=0.0)
    sums = tl.where((m < zero_rows)[:, None], 0.0, sums)
    tl.store(out_ptr + m[:, None] * N + n[None, :], sums.to(out_ptr.dtype.element_ty), mask=into)


@triton.jit
def attention_kernel(
    qkv_ptr, keys_ptr, values_ptr, whole_ring_ptr, whole_ptr, place_ptr, out_ptr, positions,
    INNER: tl.constexpr, PAST: tl.constexpr, RING: tl.constexpr, HEAD: tl.constexpr, POSITION_TAIL: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """One head of a chunk: its queries over the ring's keys and the chunk's own, which then enter the ring.

    A slot of the ring holds the last position before the chunk that falls on it. New positions overwrite slots that no
    query of this chunk sees (RING >= PAST + a chunk).
    """
    head = tl.program_id(0)
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, HEAD)
    slot = tl.arange(0, RING)
    there = m < positions
    place = tl.load(place_ptr)
    row = qkv_ptr + m[:, None] * (3 * INNER) + head * HEAD + d[None, :]
    query = tl.load(row, mask=there[:, None], other=0.0)
    key = tl.load(row + INNER, mask=there[:, None], other=0.0)
    value = tl.load(row + 2 * INNER, mask=there[:, None], other=0.0)
    ring = head * RING * HEAD + slot[:, None] * HEAD + d[None, :]
    # absolute position that a slot holds: the last one before `place` that is equal to it modulo RING
    held = place - 1 - (place - 1 - slot + RING) % RING
    known = (held >= 0) & (tl.load(whole_ring_ptr + slot) != 0)
    old = tl.load(keys_ptr + ring)
    scale: tl.constexpr = HEAD**-0.5
    seen = known[None, :] & ((place + m)[:, None] - held[None, :] <= PAST)
    past = tl.where(seen, tl.dot(query, tl.trans(old), input_precision=PRECISION) * scale, -1e30)
    mine = there & (tl.load(whole_ptr + POSITION_TAIL + m, mask=there, other=0) != 0)
    near = mine[None, :] & ((m[:, None] - m[None, :]) <= PAST)
    own = tl.where(near, tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale, -1e30)
    peak = tl.maximum(tl.max(past, axis=1), tl.max(own, axis=1))
    past = tl.where(seen, tl.exp(past - peak[:, None]), 0.0)
    own = tl.where(near, tl.exp(own - peak[:, None]), 0.0)
    total = tl.sum(past, axis=1) + tl.sum(own, axis=1)
    found = tl.dot(past.to(value.dtype), tl.load(values_ptr + ring), input_precision=PRECISION)
    found += tl.dot(own.to(value.dtype), value, input_precision=PRECISION)
    found = found / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out_ptr + m[:, None] * INNER + head * HEAD + d[None, :], found.to(value.dtype), mask=there[:, None])
    tl.debug_barrier()
    into = head * RING * HEAD + ((place + m) % RING)[:, None] * HEAD + d[None, :]
    tl.store(keys_ptr + into, key, mask=there[:, None])
    tl.store(values_ptr + into, value, mask=there[:, None])


@triton.jit
def norm_kernel(
    x_ptr, norm_w_ptr, norm_b_ptr, out_ptr, WIDTH: tl.constexpr, EPSILON: tl.constexpr, POSITION_TAIL: tl.constexpr
):
    """A position's normalised output, behind the tail."""
    m = tl.program_id(0)
    k = tl.arange(0, WIDTH)
    x = tl.load(x_ptr + m * WIDTH + k)
    x = x - tl.sum(x, axis=0) / WIDTH
    x = x / tl.sqrt(tl.sum(x * x, axis=0) / WIDTH + EPSILON)
    x = x * tl.load(norm_w_ptr + k) + tl.load(norm_b_ptr + k)
    tl.store(out_ptr + (POSITION_TAIL + m) * WIDTH + k, x.to(out_ptr.dtype.element_ty))


@triton.jit
def heads_kernel(
    hidden_ptr, heads_ptr, bias_ptr, reads_ptr, whole_ptr, kept_ptr, logits_ptr, confidence_ptr, openness_ptr, frames,
    HIDDEN: tl.constexpr, VISEMES: tl.constexpr, READS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Visemes (the temperature is in the weights), confidence and openness; a broken frame says nothing."""
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, 16)  # 15 visemes, openness
    there = m < frames
    first = tl.load(reads_ptr + m, mask=there, other=0)
    usable = there
    for read in tl.static_range(READS):
        usable = usable & (tl.load(whole_ptr + first + read, mask=there, other=0) != 0)
    sums = tl.zeros((BLOCK_M, 16), tl.float32)
    for start in range(0, HIDDEN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = there[:, None] & (k < HIDDEN)[None, :]
        hidden = tl.load(hidden_ptr + m[:, None] * HIDDEN + k[None, :], mask=inside, other=0.0)
        kept = tl.where(usable[:, None], hidden, 0.0)
        tl.store(kept_ptr + m[:, None] * HIDDEN + k[None, :], kept, mask=inside)
        w = tl.load(heads_ptr + n[None, :] * HIDDEN + k[:, None], mask=(k < HIDDEN)[:, None], other=0.0)
        sums = tl.dot(hidden, w, sums, input_precision=PRECISION)
    sums += tl.load(bias_ptr + n)[None, :]
    viseme = (n < VISEMES)[None, :]
    peak = tl.max(tl.where(viseme, sums, -1e30), axis=1)
    confidence = 1.0 / tl.sum(tl.where(viseme, tl.exp(sums - peak[:, None]), 0.0), axis=1)
    openness = tl.sum(tl.where(n[None, :] == VISEMES, 1.0 / (1.0 + tl.exp(-sums)), 0.0), axis=1)
    logits = tl.where(usable[:, None], sums, 0.0)
    tl.store(logits_ptr + m[:, None] * VISEMES + n[None, :], logits, mask=there[:, None] & viseme)
    tl.store(confidence_ptr + m, tl.where(usable, confidence, 0.0), mask=there)
    tl.store(openness_ptr + m, tl.where(usable, openness, 0.0), mask=there)


@triton.jit
def advance_kernel(
    rows_ptr, whole_rows_ptr, outputs_ptr, whole_ptr, whole_ring_ptr, place_ptr, rows, positions,
    BANDS: tl.constexpr, WIDTH: tl.constexpr, TAIL: tl.constexpr, RING: tl.constexpr, BLOCK_BANDS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
):  # fmt: skip
    """The last rows and positions become the tail; the place moves on."""
    tail = tl.arange(0, TAIL)  # rows and positions keep as many
    band = tl.arange(0, BLOCK_BANDS)
    wide = tl.arange(0, WIDTH)
    m = tl.arange(0, BLOCK_POSITIONS)
    last_rows = tl.load(
        rows_ptr + (rows + tail)[:, None] * BANDS + band[None, :], mask=(band < BANDS)[None, :], other=0.0
    )
    last_whole_rows = tl.load(whole_rows_ptr + rows + tail)
    last_outputs = tl.load(outputs_ptr + (positions + tail)[:, None] * WIDTH + wide[None, :])
    last_whole = tl.load(whole_ptr + positions + tail)
    fresh = tl.load(whole_ptr + TAIL + m, mask=m < positions, other=0)
    place = tl.load(place_ptr)
    tl.debug_barrier()
    tl.store(rows_ptr + tail[:, None] * BANDS + band[None, :], last_rows, mask=(band < BANDS)[None, :])
    tl.store(whole_rows_ptr + tail, last_whole_rows)
    tl.store(outputs_ptr + tail[:, None] * WIDTH + wide[None, :], last_outputs)
    tl.store(whole_ptr + tail, last_whole)
    tl.store(whole_ring_ptr + (place + m) % RING, fresh, mask=m < positions)
    tl.store(place_ptr, place + positions)
