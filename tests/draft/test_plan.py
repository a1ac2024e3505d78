"""The draft: causal normalisation, the window's reach, the committed weights and what is refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from specsync_lib import units
from specsync_lib.assets import asset
from specsync_lib.draft import plan as draft
from specsync_lib.draft.plan import CausalNormaliser, DraftPlan, draft_plan, load_draft, normalise
from specsync_lib.errors import InputError
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import aligned, default_is_human, human_prompts
from specsync_lib.speech.log_mel import log_mel

needs_corpus = pytest.mark.skipif(not default_is_human(), reason="the human corpus is not in the cache")


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose level rises and falls like speech."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(round(seconds * units.SAMPLE_RATE_HZ)).astype(np.float32)
    return 0.1 * samples * np.abs(np.sin(np.arange(len(samples)) / 3000)).astype(np.float32)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(0, 2**31), st.booleans())
def test_streamed_normalisation_has_the_offline_bits(sizes, seed, broken):
    mel = np.random.default_rng(seed).normal(0.2, 0.4, (sum(sizes) + 3, units.MEL_BANDS)).astype(np.float32)
    if broken:
        mel[len(mel) // 2] = np.nan
    stream = CausalNormaliser()
    pieces = [stream.push(piece) for piece in np.split(mel, np.cumsum(sizes))]
    np.testing.assert_array_equal(np.concatenate(pieces), normalise(mel))


def test_normalisation_is_causal_and_forgets_a_broken_row():
    mel = np.random.default_rng(0).normal(0.2, 0.4, (300, units.MEL_BANDS)).astype(np.float32)
    changed = mel.copy()
    changed[200:] += 1
    np.testing.assert_array_equal(normalise(mel)[:200], normalise(changed)[:200])
    changed[100] = np.inf
    rows = normalise(changed)
    assert not np.isfinite(rows[100]).any() and np.isfinite(np.delete(rows, 100, axis=0)).all()


def test_normalisation_takes_out_a_constant_level_and_colour():
    rng = np.random.default_rng(0)
    mel = rng.normal(0.2, 0.2, (6000, units.MEL_BANDS))
    colour = 0.4 * np.sin(np.linspace(0, 3, units.MEL_BANDS)) - 0.5  # 20 dB softer, 16 dB of tilt
    difference = np.abs(normalise(mel + colour) - normalise(mel))
    assert difference[0].max() > 1  # the prior still rules
    assert difference[-1000:].max() < 0.01  # after 50 s nothing of it is left


def test_normalisation_refuses_another_number_of_bands():
    with pytest.raises(InputError, match=r"\[rows, 80\], got \[5, 40\]"):
        normalise(np.zeros((5, 40)))


@given(st.integers(0, 44))
@settings(max_examples=12)
def test_a_frame_hears_at_most_60_ms_ahead(frame):
    """Samples behind the window's last analysis window change no frame up to it."""
    weights, samples = load_draft(), noise(1.5)
    ahead = units.window_start_mel_frame(frame) + units.WINDOW_MEL_FRAMES - 1
    first_unheard = ahead * units.HOP_SAMPLES + units.STFT_SAMPLES // 2
    changed = samples.copy()
    changed[first_unheard:] = noise(1.5, seed=1)[first_unheard:]
    before, after = (draft_plan(x, weights).probabilities[: frame + 1] for x in (samples, changed))
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_a_frame_hears_110_ms_back_and_older_sound_only_through_the_running_mean():
    weights, samples = load_draft(), noise(1.5)
    frame = 30
    first_row = units.window_start_mel_frame(frame)
    mel = normalise(log_mel(samples))
    changed = mel.copy()
    changed[:first_row] = 0.0
    logits = [
        draft.project_latents(torch.from_numpy(rows), frame + 1, None, weights).logits[frame] for rows in (mel, changed)
    ]
    torch.testing.assert_close(*logits, rtol=0, atol=0)
    changed[first_row] += 1.0
    moved = draft.project_latents(torch.from_numpy(changed), frame + 1, None, weights).logits[frame]
    assert (moved - logits[0]).abs().max() > 1e-3


def test_weights_are_small_and_calibrated():
    weights = load_draft()
    assert weights.temperature > 0
    assert weights.w1.shape[1] <= 1024 and weights.band_pool.shape[1] <= units.MEL_BANDS
    everything = draft.MODEL_DIR.parent.rglob("*.safetensors")  # a clone should stay quick
    assert sum(path.stat().st_size for path in everything) < 41 * 2**20


def test_a_plan_has_a_distribution_for_every_frame():
    samples = noise(2.0)
    plan = draft_plan(samples, load_draft())
    frames = units.frame_count(len(samples))
    assert isinstance(plan, DraftPlan) and plan.probabilities.shape == (frames, len(units.VISEMES))
    np.testing.assert_allclose(plan.probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(plan.confidence, plan.probabilities.max(axis=1), atol=1e-6)
    assert len(plan.plan) == frames and ((plan.openness >= 0) & (plan.openness <= 1)).all()
    assert len(draft_plan(np.zeros(0, np.float32), load_draft()).plan) == 0


def test_chunks_of_frames_do_not_show(monkeypatch):
    weights, samples = load_draft(), noise(1.5)
    whole = draft_plan(samples, weights)
    monkeypatch.setattr(draft, "FRAMES_PER_CALL", 7)
    np.testing.assert_allclose(draft_plan(samples, weights).probabilities, whole.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "spoil", "message"),
    [
        ("w1", lambda w: w[:-1], "'?w1'?: expected shape"),
        ("b1", lambda b: b * float("nan"), "'b1' holds values that are not finite"),
        ("temperature", lambda t: -t, "'temperature' is"),
        ("w_open", None, "'w_open' is missing"),
    ],
)
def test_spoilt_weights_are_refused_by_file_and_tensor(tmp_path, key, spoil, message):
    tensors = load_file(draft.MODEL_DIR / "draft.safetensors")
    if spoil is None:
        del tensors[key]
    else:
        tensors[key] = spoil(tensors[key]).contiguous()
    path = tmp_path / "spoilt.safetensors"
    save_file(tensors, path)
    with pytest.raises(InputError, match=message) as refusal:
        load_draft(str(path))
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_absent_and_truncated_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_draft("no_such_draft")
    path = tmp_path / "cut.safetensors"
    path.write_bytes((draft.MODEL_DIR / "draft.safetensors").read_bytes()[:1000])
    with pytest.raises(InputError, match="not a safetensors file"):
        load_draft(str(path))


def test_an_unknown_backend_is_refused():
    with pytest.raises(InputError, match="backend is 'cuda'"):
        draft_plan(noise(0.5), load_draft(), backend="cuda")


@needs_corpus
def test_the_weights_are_as_good_as_their_card_says():
    """Every fourth held-out prompt: the accuracy lies around the stated one, and far above the commonest viseme's."""
    card = json.loads((draft.MODEL_DIR / "metrics.json").read_text())
    weights, hits, truths = load_draft(), [], []
    for prompt in human_prompts("test")[::4]:
        truth = aligned(prompt).visemes
        hits.append(draft_plan(load_audio(prompt.path).samples, weights).plan.visemes == truth)
        truths.append(truth)
    accuracy = np.concatenate(hits).mean()
    assert abs(accuracy - card["accuracy"]) < 0.04
    assert accuracy > 3 * np.bincount(np.concatenate(truths)).max() / len(np.concatenate(truths))
    assert asset("speech-en").is_dir()
