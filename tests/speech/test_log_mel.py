"""Features: the stream equals the offline pass bit for bit, and both equal Whisper's where they must."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.audio import log_mel_spectrogram
from whisper.model import ModelDimensions, Whisper

from specsync_lib import units
from specsync_lib.assets import asset, cache_dir
from specsync_lib.errors import InputError
from specsync_lib.speech import whisper_base
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.log_mel import REFERENCE_MAXIMUM, StreamingLogMel, energy_envelopes, log_mel, measure_stream
from specsync_lib.speech.whisper_base import encoder_features, load_whisper, read_ctranslate2, transcribe

needs_whisper = pytest.mark.skipif(
    not (cache_dir() / "whisper-base").is_dir(), reason="run `python -m specsync_lib.assets` first"
)
needs_speech = pytest.mark.skipif(
    not (cache_dir() / "speech-en").is_dir(), reason="the human speech corpus needs apt (asset speech-en)"
)


def noise(count: int, seed: int = 0) -> np.ndarray:
    """Noise that comes and goes, with silent stretches (where the floor clamps)."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(count) * (np.sin(np.arange(count) / 900) > 0) * 0.1).astype(np.float32)


def streamed(samples: np.ndarray, cuts: list[int]) -> np.ndarray:
    stream = StreamingLogMel()
    chunks = np.split(samples, sorted(cuts))
    return np.concatenate([*[stream.push(chunk) for chunk in chunks], stream.flush()])


@settings(max_examples=150)
@given(count=st.integers(0, 6_000), seed=st.integers(0, 99), data=st.data())
def test_any_chunking_gives_the_same_bits(count, seed, data):
    samples = noise(count, seed)
    cuts = data.draw(st.lists(st.integers(0, count), max_size=40))
    assert np.array_equal(streamed(samples, cuts), log_mel(samples))


@pytest.mark.parametrize("chunk", [1, 63, 159, 160, 161, 400, 1_111])
def test_regular_chunks_give_the_same_bits(chunk):
    samples = noise(4_321)
    assert np.array_equal(streamed(samples, list(range(chunk, 4_321, chunk))), log_mel(samples))


@pytest.mark.parametrize(
    ("count", "frames"), [(0, 0), (1, 0), (159, 0), (160, 1), (200, 1), (201, 1), (319, 1), (320, 2), (16_000, 100)]
)
def test_one_frame_per_complete_hop(count, frames):
    mel = log_mel(noise(count))
    assert mel.shape == (frames, 80)
    assert mel.dtype == np.float32
    assert np.isfinite(mel).all()


def test_a_frame_comes_12_5_ms_after_its_centre():
    stream = StreamingLogMel()
    samples = noise(16_000)
    assert len(stream.push(samples[:200])) == 0
    assert len(stream.push(samples[200:201])) == 1  # the mirrored start needs one sample more
    for frame in range(1, 20):
        end = 160 * frame + 200
        assert len(stream.push(samples[end - 160 + (frame == 1) : end - 1])) == 0
        assert len(stream.push(samples[end - 1 : end])) == 1


def test_flush_starts_anew():
    stream = StreamingLogMel()
    first = np.concatenate([stream.push(noise(5_000)), stream.flush()])
    second = np.concatenate([stream.push(noise(5_000)), stream.flush()])
    assert np.array_equal(first, second)


def scaled_to_maximum(samples: np.ndarray, maximum: float) -> np.ndarray:
    """The samples at the level where their largest mel power is 10^maximum."""
    largest = 4 * log_mel_spectrogram(torch.from_numpy(samples)).max().item() - 4
    return samples * 10 ** ((maximum - largest) / 2)


@pytest.mark.parametrize("count", [1_600, 16_000, 16_159, 16_077])
def test_equals_whisper_where_the_maximum_is_the_reference(count):
    samples = scaled_to_maximum(noise(count), REFERENCE_MAXIMUM).astype(np.float32)
    whisper_mel = log_mel_spectrogram(torch.from_numpy(samples)).T.numpy()
    assert log_mel(samples).shape == whisper_mel.shape
    assert np.abs(log_mel(samples) - whisper_mel).max() < 2e-4


def test_a_quieter_clip_is_quieter_not_renormalised():
    loud = scaled_to_maximum(noise(16_000), REFERENCE_MAXIMUM)
    difference = log_mel(loud) - log_mel(loud / 10)  # 20 dB are 2 decades of power, 0.5 after scaling
    above_floor = log_mel(loud / 10) > (REFERENCE_MAXIMUM - 8 + 4) / 4 + 1e-3
    assert above_floor.mean() > 0.3
    assert difference[above_floor] == pytest.approx(0.5, abs=1e-3)


def test_silence_is_the_floor():
    assert np.all(log_mel(np.zeros(16_000, np.float32)) == np.float32((REFERENCE_MAXIMUM - 4) / 4))


def test_each_hop_of_each_pass_is_timed():
    table = measure_stream(noise(1_700), passes=3)
    assert table.groupby("pass_index")["hop"].apply(list).to_dict() == {index: list(range(11)) for index in range(3)}
    assert (table["latency_ms"] > 0).all()


@pytest.mark.parametrize("bands", [1, 3, 8, 80])
def test_envelopes_are_mean_band_power_in_db(bands):
    mel = log_mel(noise(8_000))
    power = 10 ** (4 * mel.astype(np.float64) - 4)
    envelopes = energy_envelopes(mel, bands)
    assert envelopes.shape == (50, bands)
    edges = np.cumsum([0, *[len(group) for group in np.array_split(np.arange(80), bands)]])
    for band, (low, high) in enumerate(pairwise(edges)):
        assert envelopes[:, band] == pytest.approx(10 * np.log10(power[:, low:high].mean(axis=1)), abs=1e-4)


@pytest.mark.parametrize("bands", [0, 81, -1])
def test_envelopes_refuse_other_band_counts(bands):
    with pytest.raises(InputError, match=f"bands is {bands}"):
        energy_envelopes(log_mel(noise(1_600)), bands)


@pytest.fixture(scope="module")
def model():
    return load_whisper()


@pytest.fixture(scope="module")
def prompt():
    """'Press 4 to place an outgoing call.'"""
    return load_audio(asset("speech-en") / "vm-tomakecall.g722").samples


@needs_whisper
def test_every_variable_of_the_file_is_used():
    variables = read_ctranslate2(asset("whisper-base") / "model.bin")
    state = whisper_base._whisper_state(variables, layers=6)
    in_file = sum(array.size for array in variables.values() if array.ndim)
    unused_key_biases = 512 * (6 + 6 + 6)  # stored as zeros inside the fused biases
    heads_and_layer = variables["decoder/num_heads"].size + variables["encoder/num_heads"].size
    assert heads_and_layer == 2
    assert sum(tensor.numel() for tensor in state.values()) == in_file - unused_key_biases
    assert not variables["encoder/layer_0/self_attention/linear_0/bias"][512:1024].any()


def test_another_format_version_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes((5).to_bytes(4, "little") + bytes(100))
    with pytest.raises(InputError, match="format v5"):
        read_ctranslate2(tmp_path / "model.bin")


@needs_whisper
@needs_speech
def test_whisper_hears_the_words_and_when(model, prompt):
    words = transcribe(model, prompt)
    text = " ".join(word.text for word in words).lower().replace("four", "4")
    assert text == "press 4 to place an outgoing call."
    assert all(word.start_s <= word.end_s <= len(prompt) / 16_000 for word in words)
    assert [word.start_s for word in words] == sorted(word.start_s for word in words)
    assert words[-1].end_s == pytest.approx(2.5, abs=0.3)
    assert np.mean([word.probability for word in words]) > 0.7


@needs_whisper
def test_silence_has_no_words(model):
    assert transcribe(model, np.zeros(32_000, np.float32)) == []


@pytest.fixture(scope="module")
def small_model():
    """Whisper's architecture, made small, with random weights: for what does not hang on the weights."""
    torch.manual_seed(0)
    return Whisper(ModelDimensions(80, 1500, 16, 2, 3, 51865, 448, 16, 2, 1)).eval()


def test_encoder_layers_agree_with_the_whole(small_model):
    samples = noise(20_000)
    whole = encoder_features(small_model, samples)
    assert whole.shape == (63, 16)  # ceil(20000 / 320)
    last = torch.from_numpy(encoder_features(small_model, samples, layer=3))
    with torch.inference_mode():
        assert np.abs(small_model.encoder.ln_post(last).numpy() - whole).max() < 1e-5
    assert not np.allclose(encoder_features(small_model, samples, layer=2), last)
    for layer in (-1, 4):
        with pytest.raises(InputError, match=f"layer is {layer}"):
            encoder_features(small_model, samples, layer=layer)


@pytest.mark.parametrize("seconds", [0.5, 29.99, 30, 30.005, 54.99, 55, 61, 90.3])
def test_long_recordings_are_covered_once(small_model, seconds):
    """Each position comes from the window it belongs to: the first 27.5 s from the first, then 25 s from each."""
    samples = noise(round(seconds * 16_000))
    samples[:1_600] *= 20  # the clip's maximum, so that the parts below are scaled alike
    encoded = encoder_features(small_model, samples)
    assert len(encoded) == -(-len(samples) // 320)
    first = encoder_features(small_model, samples[: 30 * 16_000])
    handed_over = len(first) if seconds <= 30 else 1_375
    # The cut at 30 s mirrors the end, which reaches the last two positions directly and the others by attention.
    assert np.abs(encoded[:handed_over] - first[:handed_over]).max() < 0.05
    assert np.isfinite(encoded).all()


def test_a_long_recording_is_heard_part_by_part_cut_in_its_pauses(monkeypatch):
    """Whoever waits is told how far it is; a short one is one part, as ever."""
    rate, pauses_s = units.SAMPLE_RATE_HZ, (290, 600.5, 893)
    samples = np.ones(21 * 60 * rate, np.float32)
    for at_s in pauses_s:
        samples[int((at_s - 0.3) * rate) : int((at_s + 0.3) * rate)] = 0
    assert list(whisper_base.parts(samples[: 600 * rate])) == [slice(0, 600 * rate)]
    parts = list(whisper_base.parts(samples))
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == len(samples)
    assert [part.stop / rate for part in parts[:-1]] == pytest.approx(pauses_s, abs=0.06)

    def segments(model, part, language):
        word = {"word": " on", "start": 1.0, "end": len(part) / rate + 9, "probability": 0.5}
        return [{"text": f" {len(part) // rate}", "words": [word]}]

    monkeypatch.setattr(whisper_base, "_segments", segments)
    monkeypatch.setattr(whisper_base, "language_probabilities", lambda model, samples: {"en": 0.9})
    told = []
    heard = whisper_base.hear(None, samples, tell=told.append)
    assert [word.start_s for word in heard.words] == [1 + part.start / rate for part in parts]
    assert [word.end_s for word in heard.words] == [part.stop / rate for part in parts]
    assert heard.text == " ".join(str((part.stop - part.start) // rate) for part in parts)
    assert len(told) == 3 and told[0].startswith("Whisper has heard 5 of 21 min; about 1 min more")
