"""What the draft and the reasoner hear: a streaming log-mel, its band energies, and Whisper's encoder and words."""

import struct
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from whisper import _ALIGNMENT_HEADS
from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, mel_filters
from whisper.model import ModelDimensions, Whisper

from specsync_lib import units
from specsync_lib.assets import asset
from specsync_lib.errors import InputError

# Whisper clamps its log-mel to (the clip's maximum - 8), which a stream cannot know. Here the maximum is a constant, in
# decades of power: the median over the English corpus' 553 spoken prompts (measured 1.49; 5 to 95 %: 1.14 to 1.71).
REFERENCE_MAXIMUM = 1.5
DYNAMIC_RANGE = 8.0  # decades of power, Whisper's own
POWER_FLOOR = 1e-10  # Whisper's own
OFFLINE_PIECE_SAMPLES = 10 * units.SAMPLE_RATE_HZ
HALF_WINDOW_SAMPLES = units.STFT_SAMPLES // 2

# Long recordings are encoded in 30 s windows that overlap; each hands over in the middle of the overlap.
ENCODER_OVERLAP_MEL_FRAMES = 500


class StreamingLogMel:
    """Whisper's log-mel as a stream: the same samples in any chunking give the same bits.

    Frame ``j`` is centred on ``j/100`` s and needs the 12.5 ms after it. Every step (framing, one FFT a frame, the mel
    bands summed bin by bin, the logarithm) treats a frame by itself and in a fixed order, so that neither the number
    of frames at hand nor a BLAS can change its value. The ends are mirrored, as in Whisper.

    After ``flush`` a new recording may begin.
    """

    def __init__(self) -> None:
        self._samples = np.zeros(0)  # [n] float64: what later frames still need
        self._taken = 0  # samples pushed
        self._given = 0  # frames returned

    def push(self, samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "new_frames 80"]:
        """Take samples (16 kHz mono in [-1, 1], any number of them) and return the frames they complete."""
        self._samples = np.concatenate([self._samples, samples])
        started = self._taken > HALF_WINDOW_SAMPLES
        self._taken += len(samples)
        if self._taken <= HALF_WINDOW_SAMPLES:
            return np.zeros((0, units.MEL_BANDS), np.float32)
        if not started:
            self._mirror_start()
        return self._complete((len(self._samples) - units.STFT_SAMPLES) // units.HOP_SAMPLES + 1)

    def flush(self) -> Float32[np.ndarray, "rest 80"]:
        """End the recording: the last frames, so that ``n`` samples gave ``n // 160`` frames in all."""
        rest = self._taken // units.HOP_SAMPLES - self._given
        if rest > 0:
            if self._taken <= HALF_WINDOW_SAMPLES:
                self._mirror_start()
            needed = (rest - 1) * units.HOP_SAMPLES + units.STFT_SAMPLES
            self._samples = np.pad(self._samples, (0, max(0, needed - len(self._samples))), mode="reflect")
        frames = self._complete(rest)
        self.__init__()
        return frames

    def _mirror_start(self) -> None:
        self._samples = np.pad(self._samples, (HALF_WINDOW_SAMPLES, 0), mode="reflect")

    def _complete(self, count: int) -> Float32[np.ndarray, "count 80"]:
        """The next ``count`` frames; the samples that no later frame needs are dropped."""
        if count <= 0:
            return np.zeros((0, units.MEL_BANDS), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(self._samples, units.STFT_SAMPLES)
        spectrum = np.fft.rfft(windows[: count * units.HOP_SAMPLES : units.HOP_SAMPLES] * _HANN)  # [count, 201]
        power = spectrum.real**2 + spectrum.imag**2
        mel = np.zeros((count, units.MEL_BANDS))
        for bins, weights in zip(_BAND_BINS, _BAND_WEIGHTS, strict=True):
            mel += power[:, bins] * weights
        self._samples = self._samples[count * units.HOP_SAMPLES :].copy()
        self._given += count
        log_power = np.log10(np.maximum(mel, POWER_FLOOR))
        return _scale(np.maximum(log_power, REFERENCE_MAXIMUM - DYNAMIC_RANGE)).astype(np.float32)


def _scale(log_power: np.ndarray) -> np.ndarray:
    """Whisper's scaling of log10 power to about [-1, 1]."""
    return (log_power + 4) / 4


def _band_tables() -> tuple[np.ndarray, np.ndarray]:
    """Whisper's mel filters as (bins, weights), both [widest band, 80]: the i-th bin of every band and its weight."""
    filters = mel_filters("cpu", units.MEL_BANDS).numpy().astype(np.float64)  # [80, 201]
    first = (filters > 0).argmax(axis=1)
    widest = (filters > 0).sum(axis=1).max()
    bins = np.minimum(first + np.arange(widest)[:, None], filters.shape[1] - 1)
    weights = filters[np.arange(units.MEL_BANDS), bins]
    # A bin counted twice at the upper end would count double.
    weights[1:][bins[1:] == bins[:-1]] = 0
    return bins, weights


_HANN = torch.hann_window(units.STFT_SAMPLES, dtype=torch.float64).numpy()  # [400], periodic
_BAND_BINS, _BAND_WEIGHTS = _band_tables()


def log_mel(samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "mel_frames 80"]:
    """The offline pass: what :class:`StreamingLogMel` gives for the whole recording, bit for bit.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono in [-1, 1].

    Returns
    -------
    [n // 160, 80] float32; frame ``j`` is centred on ``j/100`` s. Values are Whisper's ``(log10 power + 4) / 4``, not
    below ``(REFERENCE_MAXIMUM - 8 + 4) / 4``; where a clip's own maximum is REFERENCE_MAXIMUM they are Whisper's.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", arXiv 2212.04356, section 2.2;
    openai-whisper's ``log_mel_spectrogram`` and mel filters.
    """
    stream = StreamingLogMel()
    # In pieces, because a spectrum of the whole would take far more memory than its log-mel; the bits are the same.
    pieces = np.split(samples, range(OFFLINE_PIECE_SAMPLES, len(samples), OFFLINE_PIECE_SAMPLES))
    return np.concatenate([*[stream.push(piece) for piece in pieces], stream.flush()])


def measure_stream(samples: Float[np.ndarray, " n"], passes: int) -> pd.DataFrame:
    """Time the stream, one hop of 160 samples after the other, as live sound would come.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono; at least one hop.
    passes
        How often the recording is streamed, after one pass that only warms up.

    Returns
    -------
    One row a hop: pass_index, hop, latency_ms (from the hop's arrival to its frame; the 12.5 ms of sound that a frame
    needs after its centre come on top).
    """
    hops = np.split(samples, range(units.HOP_SAMPLES, len(samples), units.HOP_SAMPLES))
    rows = []
    for pass_index in range(-1, passes):
        stream = StreamingLogMel()
        for hop, chunk in enumerate(hops):
            begin = time.perf_counter()
            stream.push(chunk)
            rows.append((pass_index, hop, 1000 * (time.perf_counter() - begin)))
    table = pd.DataFrame(rows, columns=["pass_index", "hop", "latency_ms"])
    return table[table["pass_index"] >= 0].reset_index(drop=True)


def energy_envelopes(
    mel: Float32[np.ndarray, "mel_frames 80"], bands: int = 8
) -> Float32[np.ndarray, "mel_frames {bands}"]:
    """Energy over time in a few bands of neighbouring mel filters.

    Parameters
    ----------
    mel
        [mel_frames, 80] from :func:`log_mel`.
    bands
        Number of bands, 1 to 80, as even as can be, low to high.

    Returns
    -------
    [mel_frames, bands] in dB: 10 log10 of the mean mel power in the band (0 dB: mean mel power 1).
    """
    if not 1 <= bands <= units.MEL_BANDS:
        raise InputError(f"bands is {bands}: give 1 to {units.MEL_BANDS}")
    power = 10 ** (4 * mel.astype(np.float64) - 4)
    means = [group.mean(axis=1) for group in np.array_split(power, bands, axis=1)]
    return 10 * np.log10(np.stack(means, axis=1)).astype(np.float32)


def load_whisper() -> Whisper:
    """Whisper base with its real weights, float32 on the CPU, in eval mode, alignment heads set for word times.

    Raises
    ------
    InputError
        If the asset is absent, or its file is not CTranslate2's format v6.
    """
    model = Whisper(
        ModelDimensions(
            n_mels=80, n_audio_ctx=1500, n_audio_state=512, n_audio_head=8, n_audio_layer=6,
            n_vocab=51865, n_text_ctx=448, n_text_state=512, n_text_head=8, n_text_layer=6,
        )
    )  # fmt: skip
    variables = read_ctranslate2(asset("whisper-base") / "model.bin")
    model.load_state_dict(_whisper_state(variables, layers=6), strict=True)
    model.set_alignment_heads(_ALIGNMENT_HEADS["base"])
    return model.eval().requires_grad_(False)


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 binary, format v6: plain (name, shape, dtype, bytes) records, little-endian.

    Source: CTranslate2, ``python/ctranslate2/specs/model_spec.py``, ``ModelSpec._serialize``.
    """
    dtypes = (np.float32, np.int8, np.int16, np.int32, np.float16)
    with Path(path).open("rb") as file:
        version = _unpack(file, "I")
        if version != 6:
            raise InputError(f"{path}: CTranslate2 format v{version}, expected v6: fetch the asset again")
        _name(file)  # the specification's class
        _unpack(file, "I")  # its revision
        variables = {}
        for _ in range(_unpack(file, "I")):
            name = _name(file)
            shape = [_unpack(file, "I") for _ in range(_unpack(file, "B"))]
            dtype = np.dtype(dtypes[_unpack(file, "B")])
            content = file.read(_unpack(file, "I"))
            if len(content) != dtype.itemsize * prod(shape):
                raise InputError(f"{path}: variable {name} is cut short: fetch the asset again")
            variables[name] = np.frombuffer(content, dtype).reshape(shape)
    return variables


def _unpack(file: BinaryIO, form: str) -> int:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0]


def _name(file: BinaryIO) -> str:
    return file.read(_unpack(file, "H"))[:-1].decode()  # stored with a closing NUL


def _whisper_state(variables: dict[str, np.ndarray], layers: int) -> dict[str, torch.Tensor]:
    """CTranslate2's Whisper variables under openai-whisper's names, float32; fused projections are split."""
    state = {}

    def take(source: str, target: str, parts: tuple[str, ...] = ("",)) -> None:
        """Copy weight and bias; a fused linear has several ``parts``. Whisper's keys have no bias."""
        for kind in ("weight", "bias"):
            tensor = torch.from_numpy(variables[f"{source}/{kind}"].astype(np.float32))
            for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True):
                if not (part == "key" and kind == "bias"):
                    state[".".join(filter(None, (target, part, kind)))] = piece

    def take_norm(source: str, target: str) -> None:
        for theirs, ours in (("gamma", "weight"), ("beta", "bias")):
            state[f"{target}.{ours}"] = torch.from_numpy(variables[f"{source}/{theirs}"].astype(np.float32))

    for side in ("encoder", "decoder"):
        positions = variables[f"{side}/position_encodings/encodings"].astype(np.float32)
        state[f"{side}.positional_embedding"] = torch.from_numpy(positions)
        for layer in range(layers):
            theirs, ours = f"{side}/layer_{layer}", f"{side}.blocks.{layer}"
            take_norm(f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln")
            take(f"{theirs}/self_attention/linear_0", f"{ours}.attn", ("query", "key", "value"))
            take(f"{theirs}/self_attention/linear_1", f"{ours}.attn.out")
            if side == "decoder":
                take_norm(f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
                take(f"{theirs}/attention/linear_0", f"{ours}.cross_attn.query")
                take(f"{theirs}/attention/linear_1", f"{ours}.cross_attn", ("key", "value"))
                take(f"{theirs}/attention/linear_2", f"{ours}.cross_attn.out")
            take_norm(f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")
            take(f"{theirs}/ffn/linear_0", f"{ours}.mlp.0")
            take(f"{theirs}/ffn/linear_1", f"{ours}.mlp.2")
    take("encoder/conv1", "encoder.conv1")
    take("encoder/conv2", "encoder.conv2")
    take_norm("encoder/layer_norm", "encoder.ln_post")
    take_norm("decoder/layer_norm", "decoder.ln")
    embeddings = variables["decoder/embeddings/weight"].astype(np.float32)
    state["decoder.token_embedding.weight"] = torch.from_numpy(embeddings)
    return state


@torch.inference_mode()
def encoder_features(
    model: Whisper, samples: Float[np.ndarray, " n"], layer: int | None = None
) -> Float32[np.ndarray, "positions 512"]:
    """Whisper's encoder over a recording of any length.

    Parameters
    ----------
    model
        From :func:`load_whisper`.
    samples
        [n] floats, 16 kHz mono in [-1, 1].
    layer
        None: the encoder's output (after ``ln_post``). Else the output of block ``layer``, counted from 1, without
        ``ln_post``; 0 is the input of the first block.

    Returns
    -------
    [ceil(n / 320), state] float32; position ``p`` stands for [p/50, (p+1)/50) s. Up to 30 s this is Whisper's own
    window; longer recordings take overlapping windows and hand over in the middle of the overlap.
    """
    blocks = len(model.encoder.blocks)
    if layer is not None and not 0 <= layer <= blocks:
        raise InputError(f"layer is {layer}: Whisper's encoder here has 0 to {blocks}")
    positions = -(-len(samples) // (units.HOP_SAMPLES * units.ENCODER_POSITION_MEL_FRAMES))
    # The clip's own maximum, as Whisper was trained: the teacher hears offline, only the draft must stream.
    mel = log_mel_spectrogram(torch.from_numpy(samples).float(), model.dims.n_mels, padding=N_SAMPLES)  # [80, frames]
    step = N_FRAMES - ENCODER_OVERLAP_MEL_FRAMES
    trimmed = ENCODER_OVERLAP_MEL_FRAMES // 2 // units.ENCODER_POSITION_MEL_FRAMES
    pieces, done = [], 0
    for start in range(0, mel.shape[1], step):
        window = F.pad(mel[:, start : start + N_FRAMES], (0, max(0, start + N_FRAMES - mel.shape[1])))
        encoded = _encode(model, window[None].to(model.device), layer)[0]
        first = start // units.ENCODER_POSITION_MEL_FRAMES
        last = first + len(encoded)
        until = positions if last >= positions else last - trimmed
        pieces.append(encoded[done - first : until - first].float().cpu().numpy())
        done = until
        if done == positions:
            break
    return np.concatenate(pieces)


def _encode(model: Whisper, mel: torch.Tensor, layer: int | None) -> torch.Tensor:
    """[batch, 80, 3000] to [batch, 1500, state]: ``AudioEncoder.forward``, stopped after a block if asked to."""
    if layer is None:
        return model.encoder(mel)
    x = F.gelu(model.encoder.conv1(mel))
    x = F.gelu(model.encoder.conv2(x)).permute(0, 2, 1) + model.encoder.positional_embedding
    for block in model.encoder.blocks[:layer]:
        x = block(x)
    return x


@dataclass(frozen=True)
class Word:
    """A word as heard: its text, when it sounds (seconds) and Whisper's mean token probability."""

    text: str
    start_s: float
    end_s: float
    probability: float


def transcribe(model: Whisper, samples: Float[np.ndarray, " n"], language: str | None = "en") -> list[Word]:
    """Words with times, greedy and deterministic.

    Parameters
    ----------
    model
        From :func:`load_whisper`.
    samples
        [n] floats, 16 kHz mono in [-1, 1], any length.
    language
        Whisper's language code; None detects it from the first 30 s.

    Returns
    -------
    The words in order, times within the recording; empty where Whisper hears no speech.
    """
    heard = model.transcribe(
        samples.astype(np.float32),
        language=language,
        word_timestamps=True,
        temperature=0.0,
        fp16=False,
        condition_on_previous_text=False,
        verbose=None,
    )
    end_s = len(samples) / units.SAMPLE_RATE_HZ
    words = [word for segment in heard["segments"] for word in segment["words"]]
    return [
        Word(
            text=word["word"].strip(),
            start_s=min(float(word["start"]), end_s),
            end_s=min(float(word["end"]), end_s),
            probability=float(word["probability"]),
        )
        for word in words
    ]
