"""Whisper, the pinned base or a checkpoint of any size: the encoder's features, and words with their times."""

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from whisper import _ALIGNMENT_HEADS
from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim
from whisper.model import ModelDimensions, Whisper

from specsync_lib import units
from specsync_lib.assets import asset
from specsync_lib.errors import InputError
from specsync_lib.rows import Hearing
from specsync_lib.speech.whisper_checkpoint import hub_folder, load_checkpoint

# Long recordings are encoded in 30 s windows that overlap; each hands over in the middle of the overlap.
ENCODER_OVERLAP_MEL_FRAMES = 500
# The language is told from the 30 s after the first sound of a tenth of the peak, and half a second before it.
FIRST_SOUND, BEFORE_SOUND_S = 0.1, 0.5
# A recording of more than two such parts is heard part by part, so that whoever waits is told how far it is. The cut is
# the quietest half second near the part's end.
PART_S, CUT_WITHIN_S, QUIET_S = 300, 15, 0.5
COMPRESSION_RATIO_THRESHOLD = 2.4  # openai-whisper, transcribe: above it a decoding has failed


PINNED = "whisper-base"


def load_whisper(part: Hearing | None = None) -> Whisper:
    """The Whisper of a row (the default one's without), float32 on the CPU, in eval mode, alignment heads set for word
    times.

    Raises
    ------
    InputError
        If the asset is absent, or its file is not CTranslate2's format v6; if a checkpoint is absent or damaged.
    """
    if part is not None and part.whisper != PINNED:
        return load_checkpoint(hub_folder(part.whisper))
    model = Whisper(
        ModelDimensions(
            n_mels=80, n_audio_ctx=1500, n_audio_state=512, n_audio_head=8, n_audio_layer=6,
            n_vocab=51865, n_text_ctx=448, n_text_state=512, n_text_head=8, n_text_layer=6,
        )
    )  # fmt: skip
    variables = read_ctranslate2(asset(PINNED) / "model.bin")
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

    Raises
    ------
    InputError: the encoder has no such block.
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
    return _words(_segments(model, samples, language), len(samples) / units.SAMPLE_RATE_HZ)


def _segments(model: Whisper, samples: np.ndarray, language: str | None) -> list[dict]:
    """Whisper's own segments, but for those that are failures by its own rule."""
    heard = model.transcribe(
        samples.astype(np.float32),
        language=language,
        word_timestamps=True,
        temperature=0.0,
        fp16=False,
        condition_on_previous_text=False,
        verbose=None,
    )
    # In noise it may write one syllable a hundred times.
    return [one for one in heard["segments"] if one["compression_ratio"] <= COMPRESSION_RATIO_THRESHOLD]


def _words(segments: list[dict], end_s: float) -> list[Word]:
    return [
        Word(
            text=word["word"].strip(),
            start_s=min(float(word["start"]), end_s),
            end_s=min(float(word["end"]), end_s),
            probability=float(word["probability"]),
        )
        for segment in segments
        for word in segment["words"]
    ]


@dataclass(frozen=True)
class Heard:
    """What Whisper makes of a recording.

    Attributes
    ----------
    words
        In order; none where it hears no speech.
    text
        The same on one line, as it is written: "$5.99" is one sum, though its two words have their own times.
    language
        Whisper's code of what is spoken: its own finding, or the given one.
    probability
        Whisper's for that language, whoever named it; means nothing without words (about 0.5 in noise).
    language_given
        Whether the language was given.
    """

    words: list[Word]
    text: str
    language: str
    probability: float
    language_given: bool


def parts(samples: Float[np.ndarray, " n"]) -> Iterator[slice]:
    """The parts in which a recording is heard: the whole, or pieces of about ``PART_S`` that end in pauses."""
    start, quiet, rate = 0, round(QUIET_S * units.SAMPLE_RATE_HZ), units.SAMPLE_RATE_HZ
    while len(samples) - start > 2 * PART_S * rate:
        low = start + (PART_S - CUT_WITHIN_S) * rate
        near = np.square(samples[low : low + 2 * CUT_WITHIN_S * rate], dtype=np.float64)
        total = np.concatenate([[0.0], np.cumsum(near)])
        end = low + int(np.argmin(total[quiet:] - total[:-quiet])) + quiet // 2
        yield slice(start, end)
        start = end
    yield slice(start, len(samples))


def hear(
    model: Whisper,
    samples: Float[np.ndarray, " n"],
    language: str = "auto",
    tell: Callable[[str], None] = lambda line: None,
) -> Heard:
    """Words, and the language that they are in: Whisper's own detection, or a code that it knows.

    ``tell`` is given a line after every part of a long recording (``parts``): how far it is, how long it will take.
    """
    probabilities = language_probabilities(model, samples)
    spoken = max(probabilities, key=probabilities.get) if language == "auto" else language
    words, texts, began = [], [], time.monotonic()
    for part in parts(samples):
        segments = _segments(model, samples[part], spoken)
        at_s, length_s = (count / units.SAMPLE_RATE_HZ for count in (part.start, part.stop - part.start))
        words += [
            replace(word, start_s=at_s + word.start_s, end_s=at_s + word.end_s) for word in _words(segments, length_s)
        ]
        texts += [segment["text"] for segment in segments]
        if part.stop < len(samples):
            left_s = (time.monotonic() - began) * (len(samples) / part.stop - 1)
            minutes = (f"{count / units.SAMPLE_RATE_HZ / 60:.0f}" for count in (part.stop, len(samples)))
            tell(f"Whisper has heard {' of '.join(minutes)} min; about {max(1, round(left_s / 60))} min more")
    text = " ".join("".join(texts).split())
    return Heard(words, text, spoken, probabilities[spoken], language != "auto")


def language_probabilities(model: Whisper, samples: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Whisper's probability of each language that it knows, by code: its detection over 30 s from the first sound.

    One that was trained on English alone knows no other.
    """
    level = np.abs(samples)
    first = int(np.argmax(level >= FIRST_SOUND * level.max()) - BEFORE_SOUND_S * units.SAMPLE_RATE_HZ)
    begun = torch.from_numpy(samples[max(first, 0) :]).float()
    if not model.is_multilingual:
        return {"en": 1.0}
    mel = log_mel_spectrogram(pad_or_trim(begun), model.dims.n_mels)
    return model.detect_language(mel.to(model.device))[1]
