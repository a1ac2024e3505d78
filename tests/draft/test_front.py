"""The stored front and its stream: what is stored comes back, what does not fit is refused, chunks equal the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kernels.causal_front.random_case import random_weights
from kernels.causal_front.reference import front_offline, new_rows
from specsync_lib import units
from specsync_lib.draft import front, front_weights
from specsync_lib.draft.front_weights import Kept, load_front, narrowed, quantise, restored, save_front
from specsync_lib.draft.plan import CausalNormaliser
from specsync_lib.errors import InputError
from specsync_lib.speech.log_mel import log_mel
from tests.toys.fronts import toy_base


@pytest.fixture(scope="module")
def base() -> dict[str, torch.Tensor]:
    return toy_base(1)


@pytest.fixture(scope="module")
def trained(base):
    """A front a little away from the base."""
    other = random_weights(1, torch.Generator().manual_seed(4)).tensors()
    moved = {name: base[name] + 0.05 * tensor if name in base else tensor for name, tensor in other.items()}
    return front_weights.FrontWeights.from_tensors(moved | {"positions": base["positions"]}, past=100)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.sampled_from([4, 8]), st.sampled_from([(3, 8), (5, 2, 3), (1, 6)]), st.floats(1e-4, 10))
def test_quantised_differences_come_back_within_half_a_step(seed, bits, shape, scale):
    difference = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    whole, step = quantise(difference, bits)
    again = restored(whole, step, difference.shape)
    gap = (again - difference).abs().flatten(1).amax(dim=1)
    assert (gap <= 0.5001 * step).all()
    assert whole.dtype == (torch.int8 if bits == 8 else torch.uint8)
    twice, _ = quantise(again, bits)
    assert torch.equal(twice, whole)


@pytest.mark.parametrize("bits, tolerance", [(8, 2e-3), (4, 4e-2)])
def test_a_stored_front_comes_back(base, trained, bits, tolerance, tmp_path):
    save_front(tmp_path / "f.safetensors", trained, base, bits=bits)
    again = load_front(tmp_path / "f.safetensors", base)
    assert again.past == trained.past
    for name, tensor in again.tensors().items():
        gap = (tensor - trained.tensors()[name]).abs().max() / (1e-3 + trained.tensors()[name].abs().max())
        assert gap < tolerance, name


def test_a_narrowed_front_comes_back(base, tmp_path):
    kept = {0: Kept((1, 4), tuple(range(0, 200, 2)))}
    tensors = random_weights(1, torch.Generator().manual_seed(5), heads=2, ffn=100).tensors()
    narrow = front_weights.FrontWeights.from_tensors(tensors | narrowed(base, kept), past=30)
    save_front(tmp_path / "n.safetensors", narrow, base, bits=8, kept=kept)
    again = load_front(tmp_path / "n.safetensors", base)
    assert again.blocks[0].heads == 2
    assert torch.equal(again.blocks[0].qkv_w[:64], base["blocks.0.qkv_w"][64:128])
    assert torch.equal(again.blocks[0].down_w, base["blocks.0.down_w"][:, range(0, 200, 2)])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("conv2_w.step"), "conv2_w: expected rows .* and steps .512., got .* None"),
        (lambda t: t.pop("norm_b"), "norm_b: expected, but missing"),
        (lambda t: t.update(odd=torch.zeros(1)), "odd: unknown tensor"),
        (lambda t: t.update({"blocks.7.up_b": torch.zeros(1)}), "blocks.7.up_b: unknown tensor"),
        (lambda t: t.update(conv1_b=torch.zeros(3)), r"conv1_b: expected shape \[512\], got \[3\]"),
        (lambda t: t.update(hidden_b=torch.full((256,), float("nan"))), "hidden_b: expected finite"),
        (lambda t: t.update(viseme_b=torch.zeros(14)), r"viseme_b: expected shape \[15\], got \[14\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(base, trained, change, message, tmp_path):
    path = tmp_path / "f.safetensors"
    save_front(path, trained, base, bits=8)
    tensors = load_file(path)
    change(tensors)
    header = {"format": front_weights.FORMAT, "base": "whisper-base", "blocks": "1", "past": "100", "kept": "{}"}
    save_file(tensors, path, metadata=header)
    with pytest.raises(InputError, match=message):
        load_front(path, base)


def test_no_front_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_front(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_front(tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="expected format"):
        load_front(tmp_path / "other.safetensors")


@settings(max_examples=10, deadline=None)
@given(st.integers(600, 40_000), st.sampled_from([4, 8, 12]))
def test_the_stream_of_a_recording_is_its_offline_plan(trained, length, chunk):
    samples = (0.1 * np.random.default_rng(length).standard_normal(length)).astype(np.float32)
    plan = front.front_plan(samples, trained, chunk_frames=chunk)
    frames = units.frame_count(length)
    assert len(plan.confidence) == frames
    assert np.allclose(plan.probabilities.sum(axis=1), 1, atol=1e-5)
    lengths = [min(chunk, frames - first) for first in range(0, frames, chunk)]
    mel = torch.from_numpy(CausalNormaliser().push(log_mel(samples)))
    needed = len(new_rows(0, frames)) if frames else 0
    mel = torch.cat([mel, mel[-1:].expand(max(0, needed - len(mel)), -1)])[:needed]
    if frames:
        want = front_offline(front.whisper_range(mel)[None], trained, lengths)
        assert np.abs(plan.confidence - want.confidence[0].numpy()).max() < 1e-5
        assert np.abs(plan.openness - want.openness[0].numpy()).max() < 1e-5


def test_a_stream_waits_for_its_rows_and_keeps_what_is_early(trained):
    mel = np.random.default_rng(0).standard_normal((200, 80)).astype(np.float32)
    whole, pieces = front.FrontStream(trained), front.FrontStream(trained)
    first = whole.draft(mel[:45]).plan, whole.draft(mel[45:85]).plan
    with pytest.raises(InputError, match="expected 45 rows for frames 0 to 11, got 30; wait for more"):
        pieces.draft(mel[:30])
    early = pieces.draft(mel[:70]).plan, pieces.draft(mel[70:85]).plan
    for one, other in zip(first, early, strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)
    assert pieces.next_frame == 24
    rest = pieces.draft(mel[:0], 5, ended=True)  # no rows left: the last one stands for them
    assert rest.plan.confidence.shape == (5,) and (rest.plan.confidence > 0).all() and rest.hidden.shape == (5, 256)


def test_broken_rows_have_no_confidence(trained):
    mel = np.random.default_rng(1).standard_normal((85, 80)).astype(np.float32)
    mel[20] = np.nan
    stream = front.FrontStream(trained)
    said = stream.draft(mel[:45]).plan
    assert (said.confidence == 0).any() and np.isfinite(said.probabilities).all()
    assert (stream.draft(mel[45:]).plan.confidence > 0).all()


def test_temperature_changes_confidence_alone(trained):
    mel = np.random.default_rng(2).standard_normal((45, 80)).astype(np.float32)
    cold = front.FrontStream(replace(trained, temperature=torch.tensor(0.5))).draft(mel).plan
    warm = front.FrontStream(replace(trained, temperature=torch.tensor(2.0))).draft(mel).plan
    assert (cold.confidence > warm.confidence).all()
    assert np.array_equal(cold.probabilities.argmax(1), warm.probabilities.argmax(1))


@pytest.mark.parametrize("name, blocks, past", [("draft", 2, 100), ("ears", 4, 200)])
def test_the_shipped_fronts_load_and_hear_silence_as_silence(name, blocks, past):
    from specsync_lib.assets import asset

    try:
        asset("whisper-base")
    except InputError:
        pytest.skip("needs the whisper-base asset")
    weights = front.load_draft_front(name)
    assert len(weights.blocks) == blocks and weights.past == past
    noise = (0.003 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)
    plan = front.front_plan(noise, weights)
    assert (plan.probabilities.argmax(axis=1) == units.VISEMES.index("sil")).all()
    assert np.quantile(plan.openness, 0.95) < 0.05


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 30), st.booleans())
def test_looking_ahead_moves_nothing(trained, frames, surplus, begun):
    """What the next chunk would be if its last row went on; the chunk that comes is what it would have been."""
    mel = np.random.default_rng(frames).standard_normal((85, 80)).astype(np.float32)
    plain, looked = front.FrontStream(trained), front.FrontStream(trained)
    heard = 45 if begun else 0
    if begun:
        plain.draft(mel[: 45 + surplus]), looked.draft(mel[: 45 + surplus])
        ahead = looked.ahead(frames)
        assert ahead.confidence.shape == (frames,) and looked.next_frame == 12
        standing = np.concatenate([mel[45 : 45 + surplus], np.repeat(mel[44 + surplus : 45 + surplus], 40, axis=0)])
        other = front.FrontStream(trained)
        other.draft(mel[:45])
        want = other.draft(standing[: len(new_rows(12, frames))], frames).plan
        np.testing.assert_allclose(ahead.probabilities, want.probabilities, atol=1e-4)
    rest = mel[heard + surplus * begun :]
    one, two = plain.draft(rest).plan, looked.draft(rest).plan
    assert np.array_equal(one.probabilities, two.probabilities)


def test_features_keep_their_name_when_only_the_heads_change(base, trained, tmp_path):
    path = tmp_path / "f.safetensors"
    names = []
    for change in ({}, {"temperature": torch.tensor(0.7)}, {"hidden_b": trained.hidden_b + 1}):
        save_front(path, replace(trained, **change), base, bits=4)
        names.append((front_weights.features_sha256(path), front_weights.front_sha256(path)))
    features, whole = zip(*names, strict=True)
    assert features[0] == features[1] != features[2] and len(set(whole)) == 3
    with pytest.raises(InputError, match="no such file"):
        front_weights.features_sha256(tmp_path / "none.safetensors")
