"""The causal front against itself: stream and offline, hours in, broken rows, caches that do not fit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.causal_front import reference
from kernels.causal_front.random_case import random_rows, random_weights
from kernels.causal_front.reference import front_chunk, front_offline, new_cache, new_rows
from specsync_lib import units

chunk_lists = st.lists(st.sampled_from([4, 8, 12, 1, 5]), min_size=1, max_size=9)


def weights(blocks: int = 1, **shape) -> reference.FrontWeights:
    return random_weights(
        blocks, torch.Generator().manual_seed(blocks), **{"heads": 2, "ffn": 96, "hidden": 32, **shape}
    )


def run_stream(mel, front, chunk_frames, cache=None, first_frame=0):
    """All chunks of a stream whose first row is ``mel[:, 0]``: outputs end to end, and the last cache."""
    cache = cache or new_cache(front, "a", batch=len(mel))
    outputs, frame, begin = [], first_frame, new_rows(first_frame, 1).start
    for frames in chunk_frames:
        span = new_rows(frame, frames)
        rows = mel[:, span.start - begin : span.stop - begin]
        output, cache = front_chunk(rows, cache, front, stream="a", first_frame=frame, frames=frames)
        outputs.append(output)
        frame += frames
    names = ("hidden", "logits", "confidence", "openness")
    return {name: torch.cat([getattr(one, name) for one in outputs], dim=1) for name in names}, cache


def rows_for(chunk_frames, batch=1, seed=0):
    count = len(new_rows(0, sum(chunk_frames)))
    return random_rows(batch, count, torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(chunk_lists, st.integers(0, 99), st.integers(1, 2), st.sampled_from([7, 30]))
def test_stream_equals_offline(chunk_frames, seed, blocks, past):
    front = weights(blocks, past=past)
    mel = rows_for(chunk_frames, batch=2, seed=seed)
    streamed, cache = run_stream(mel, front, chunk_frames)
    offline = front_offline(mel, front, chunk_frames)
    assert cache.next_frame == sum(chunk_frames)
    for name, got in streamed.items():
        assert (got - getattr(offline, name)).abs().max() < 1e-5, name


def test_full_size_stream_equals_offline():
    front = random_weights(2, torch.Generator().manual_seed(5))
    mel = rows_for([12] * 8)
    streamed, _ = run_stream(mel, front, [12] * 8)
    assert (streamed["logits"] - front_offline(mel, front, [12] * 8).logits).abs().max() < 1e-5


def test_one_chunk_of_unlimited_past_is_whispers_encoder():
    from whisper.model import AudioEncoder

    torch.manual_seed(0)
    encoder = AudioEncoder(80, reference.WHEEL, reference.WIDTH, 8, 1).eval()
    front = random_weights(1, torch.Generator().manual_seed(1))
    block, theirs = front.blocks[0], encoder.blocks[0]
    inner = reference.WIDTH
    with torch.no_grad():
        for name, tensor in {"conv1": front.conv1_w, "conv2": front.conv2_w}.items():
            getattr(encoder, name).weight.copy_(tensor)
            getattr(encoder, name).bias.copy_(getattr(front, f"{name}_b"))
        qkv_b = block.qkv_b.clone()
        qkv_b[inner : 2 * inner] = 0  # Whisper's keys have no bias
        for part, layer in enumerate((theirs.attn.query, theirs.attn.key, theirs.attn.value)):
            layer.weight.copy_(block.qkv_w[part * inner : (part + 1) * inner])
            if layer.bias is not None:
                layer.bias.copy_(qkv_b[part * inner : (part + 1) * inner])
        for layer, name in ((theirs.attn.out, "out"), (theirs.mlp[0], "up"), (theirs.mlp[2], "down"),
                            (theirs.attn_ln, "attn_norm"), (theirs.mlp_ln, "mlp_norm")):  # fmt: skip
            layer.weight.copy_(getattr(block, f"{name}_w"))
            layer.bias.copy_(getattr(block, f"{name}_b"))
        front = replace(front, positions=encoder.positional_embedding, blocks=(replace(block, qkv_b=qkv_b),))
        mel = rows_for([12])  # 45 rows, 22 positions
        x = torch.nn.functional.gelu(encoder.conv1(mel.transpose(1, 2)))
        x = torch.nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)[:, :22]
        # the 23rd position hears a row that the chunk does not have
        expected = theirs(x + encoder.positional_embedding[:22])
        got = reference.add_positions(
            reference.convolve(torch.nn.functional.pad(mel, (0, 0, 2, 0)), front, 0), front, 0
        )
        got = reference.after_attention(
            got[:, :22],
            reference.attend(
                *reference.queries_keys_values(got[:, :22], front.blocks[0]), torch.ones(1, 1, 22, 22, dtype=bool)
            ),
            front.blocks[0],
        )
    assert (got - expected).abs().max() < 1e-4


@pytest.mark.parametrize("hours", [1, 7])
def test_hours_in_the_stream_still_equals_offline(hours):
    """Positions wrap every 30 s: a cache moved on by a whole number of rounds gives the same numbers."""
    front = weights(2)
    before, after = [12] * 3, [4, 8, 12, 4, 4]
    mel = rows_for(before + after)
    split = len(new_rows(0, sum(before)))
    _, cache = run_stream(mel[:, :split], front, before)
    expected = front_offline(mel, front, before + after).logits[:, sum(before) :]
    rounds = 30 * units.VIDEO_FPS * 120 * hours
    got, _ = run_stream(mel[:, split:], front, after, replace(cache, next_frame=36 + rounds), 36 + rounds)
    assert (got["logits"] - expected).abs().max() < 1e-5


@settings(max_examples=20, deadline=None)
@given(chunk_lists, st.data())
def test_broken_rows_stay_where_they_are(chunk_frames, data):
    """NaN anywhere: the cache stays finite, frames that hear it say nothing, and what was broken is never heard."""
    front = weights(1, past=20)
    mel = rows_for(chunk_frames)
    row = data.draw(st.integers(0, mel.shape[1] - 1))
    value = data.draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e9]))
    broken = mel.clone()
    broken[:, row, data.draw(st.integers(0, 79))] = value
    streamed, cache = run_stream(broken, front, chunk_frames)
    offline = front_offline(broken, front, chunk_frames)
    for name, got in streamed.items():
        assert torch.isfinite(got).all()
        assert (got - getattr(offline, name)).abs().max() < 1e-5
    for held in (cache.rows, cache.tail, *cache.keys, *cache.values):
        assert torch.isfinite(held).all()
    for frame in range(sum(chunk_frames)):
        end = reference.last_position(frame)
        hears = max(0, 2 * (end - 4) - 2) <= row <= 2 * end + 2
        assert (streamed["confidence"][0, frame] == 0) == hears
    # whatever the broken row was, nothing else depends on its other bands
    other = broken.clone()
    other[:, row] = float("nan")
    again, _ = run_stream(other, front, chunk_frames)
    assert torch.equal(again["logits"], streamed["logits"])


def test_a_stream_recovers_from_a_broken_second():
    front = weights(2, past=30)
    chunks = [12] * 8
    mel = rows_for(chunks)
    mel[:, 60:160] = float("nan")
    said, cache = run_stream(mel, front, chunks)
    assert (said["confidence"][0, -36:] > 0).all() and cache.whole.all()
    assert (said["confidence"][0, 20:44] == 0).all()


def test_no_frame_hears_past_its_chunks_look_ahead():
    front, chunks = weights(1), [4, 12, 8]
    mel = rows_for(chunks)
    expected = front_offline(mel, front, chunks).logits
    changed = mel.clone()
    changed[:, new_rows(0, 16).stop :] += 1
    got = front_offline(changed, front, chunks).logits
    assert torch.equal(got[:, :16], expected[:, :16]) and not torch.equal(got[:, 16:], expected[:, 16:])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**7), st.sampled_from([4, 8, 12]))
def test_the_time_base_is_exact(first_frame, frames):
    last = first_frame + frames - 1
    assert reference.last_row(last) == units.centre_mel_frame(last) + units.WINDOW_AHEAD_MEL_FRAMES
    rows = new_rows(first_frame, frames)
    # what the last row's window ends with, after the chunk's last frame: 49 to 56 ms
    late = rows[-1] * units.HOP_SAMPLES + units.STFT_SAMPLES // 2 - (last + 1) * units.SAMPLE_RATE_HZ / units.VIDEO_FPS
    assert 0.049 < late / units.SAMPLE_RATE_HZ < 0.056
    added = reference.new_positions(first_frame, frames)
    assert 2 * added[-1] + 2 <= rows[-1] <= 2 * added[-1] + 3
    if first_frame:
        assert 2 * added[0] - 2 >= rows[0] - reference.ROW_TAIL
        assert reference.last_position(first_frame) - 4 >= added[0] - reference.POSITION_TAIL


def test_constants_are_the_suites():
    ours = (reference.MEL_BANDS, reference.MEL_FRAMES_PER_SECOND, reference.VIDEO_FPS, reference.LOOK_AHEAD_MEL_FRAMES)
    assert ours == (units.MEL_BANDS, units.MEL_FRAMES_PER_SECOND, units.VIDEO_FPS, units.WINDOW_AHEAD_MEL_FRAMES)
    assert len(units.VISEMES) == reference.VISEMES and units.FRAMES_PER_CHUNK == reference.LONGEST_CHUNK_FRAMES


@pytest.mark.parametrize(
    "change, message",
    [
        ({"stream": "b"}, r"expected stream 'b', got the cache of 'a'"),
        ({"first_frame": 12}, r"expected frame 0 next, got 12"),
        ({"mel": torch.zeros(1, 44, 80)}, r"expected shape \[batch, 45, 80\], got \[1, 44, 80\]"),
        ({"mel": torch.zeros(2, 45, 80)}, r"expected batch 2, got 1"),
        ({"dtype": torch.float64}, r"expected torch.float64, got torch.float32"),
        ({"frames": 13}, r"expected 1 to 12, got 13"),
        ({"blocks": 2}, r"expected \(heads, past\) \[\(2, 100\), \(2, 100\)\] a block, got \[\(2, 100\)\]"),
    ],
)
def test_a_cache_that_does_not_fit_is_refused(change, message):
    cache = new_cache(weights(1), "a")
    front = weights(change.get("blocks", 1)).to(change.get("dtype", torch.float32))
    call = {"stream": "a", "first_frame": 0, "frames": 12} | {
        k: v for k, v in change.items() if k in ("stream", "first_frame", "frames")
    }
    with pytest.raises(ValueError, match=message):
        front_chunk(change.get("mel", torch.zeros(1, 45, 80)), cache, front, **call)


def test_weights_are_checked_by_name():
    front = weights(1)
    tensors = front.tensors()
    again = reference.FrontWeights.from_tensors(tensors, front.past)
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(ValueError, match=r"blocks\.0\.up_w: expected, but missing"):
        reference.FrontWeights.from_tensors({k: v for k, v in tensors.items() if k != "blocks.0.up_w"}, 100)
    with pytest.raises(ValueError, match="extra: unknown tensor"):
        reference.FrontWeights.from_tensors(tensors | {"extra": front.norm_w}, 100)
    with pytest.raises(ValueError, match=r"conv1_b: expected shape \[512\], got \[511\]"):
        reference.FrontWeights.from_tensors(tensors | {"conv1_b": front.conv1_b[1:]}, 100)


# ------------------------------------------------------------------------------------------------------------- Triton

CUDA = torch.cuda.is_available()
# Triton's interpreter multiplies bf16 wrongly, so bf16 is tested compiled only. Largest |error| over (1 + largest).
TRITON_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2} | ({torch.bfloat16: 6e-2} if CUDA else {})


def run_triton(mel, front, chunk_frames, dtype, device):
    from kernels.causal_front.triton_impl import FrontPlan

    plan = FrontPlan(front, dtype=dtype, device=device, captured=CUDA)
    cache, outputs, frame = plan.new_cache("a"), [], 0
    for frames in chunk_frames:
        span = new_rows(frame, frames)
        rows = mel[:, span.start : span.stop].to(device)
        output, cache = plan.front_chunk(rows, cache, stream="a", first_frame=frame, frames=frames)
        outputs.append(output)
        frame += frames
    names = ("hidden", "logits", "confidence", "openness")
    return {n: torch.cat([getattr(one, n) for one in outputs], dim=1).float().cpu() for n in names}, plan, cache


TRITON_CASES = [
    ([12, 12, 12], 30, torch.float32),
    ([4, 8, 1, 12, 4], 17, torch.float32),
    ([12, 4, 8], 100, torch.float16),
]
TRITON_CASES += [([12] * 6, past, torch.bfloat16) for past in (30, 100, 200) if CUDA]


@pytest.mark.parametrize("chunk_frames, past, dtype", TRITON_CASES)
def test_triton_says_what_the_reference_says(device, chunk_frames, past, dtype):
    front = weights(1, past=past)
    mel = rows_for(chunk_frames)
    mel[:, 30] = float("nan")
    got, *_ = run_triton(mel, front, chunk_frames, dtype, device)
    want = front_offline(mel.double(), front.to(torch.float64), chunk_frames)
    for name, tensor in got.items():
        expected = getattr(want, name)
        error = (tensor - expected).abs().max() / (1 + expected.abs().max())
        assert error < TRITON_TOLERANCE[dtype], (name, error)
    assert torch.equal(got["confidence"] == 0, want.confidence == 0)


def test_triton_refuses_an_older_cache(device):
    front, mel = weights(1, past=17), rows_for([4, 4])
    _, plan, cache = run_triton(mel[:, :18], front, [4], torch.float32, device)
    with pytest.raises(ValueError, match="expected frame 4 next, got 0 with a cache at 0"):
        plan.front_chunk(mel[:, :18].to(device), replace(cache, next_frame=0), stream="a", first_frame=0, frames=4)
    with pytest.raises(ValueError, match="expected stream 'b'"):
        plan.front_chunk(mel[:, 18:].to(device), cache, stream="b", first_frame=4, frames=4)
    with pytest.raises(ValueError, match=r"expected shape \[1, 14, 80\], got"):
        plan.front_chunk(mel[:, :3].to(device), cache, stream="a", first_frame=4, frames=4)
