"""Bad and odd sound files: what each is, and what the right answer is."""

import contextlib
import gzip
import io
import os
import socket
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from specsync_lib.door.inputs import heard
from specsync_lib.door.parameters import parse_arguments
from specsync_lib.errors import InputError
from specsync_lib.speech.audio import load_audio
from specsync_lib.values import is_line
from tests.door.test_bad_input import BAD, GOOD, floats, wav
from tests.toys.sounds import Sound, between, id3, lag, level_db, resampled, speech, write_sounds
from workbench.measure.trials.outcome import REFUSED, RIGHT, Outcome, one_line, require, survived

RATE_HZ = 16_000
SPEECH = speech()
SECONDS = len(SPEECH) / RATE_HZ
S16 = {"codec": "pcm_s16le", "sample_format": "s16"}
F32 = {"codec": "pcm_f32le", "sample_format": "flt"}
MP3 = {"codec": "libmp3lame", "sample_format": "s16p"}
OPUS = {"codec": "libopus", "sample_format": "flt"}
FLAC = {"codec": "flac", "sample_format": "s16"}
SHORT_EVERY = 25


@dataclass(frozen=True)
class Heard:
    """The speech, or part of it, is the right answer.

    seconds : of the recording, within ``slack_s``; at_s : where the clip begins in it, within ``late_s``; part : of the
    clip in s that is compared; gain_db : re the clip, within ``slack_db``; warns : what the line says, None: no line.
    """

    seconds: float = SECONDS
    at_s: float = 0.0
    part: tuple[float, float] = (0.3, 6.5)
    gain_db: float | None = 0.0
    warns: str | None = None
    slack_s: float = 0.09
    late_s: float = 0.035
    slack_db: float = 1.5
    likeness: float = 0.9


@dataclass(frozen=True)
class Length:
    """So many seconds of whatever it is, with this line or none."""

    seconds: float
    warns: str | None = None
    slack_s: float = 0.09
    silent: bool | None = None


@dataclass(frozen=True)
class Refused:
    """One line that says this."""

    says: str


@dataclass(frozen=True)
class Either:
    """Whichever: the right sound, or one line."""

    answer: Heard | Length


Answer = Heard | Length | Refused | Either


@dataclass(frozen=True)
class Case:
    """A file: made in a folder, under its own name; and the answer."""

    make: Callable[[Path], Path]
    answer: Answer
    track: int = 0


# --- makers -----------------------------------------------------------------------------------------------------------


@cache
def at_rate(rate_hz: int) -> np.ndarray:
    """The clip at another rate."""
    return SPEECH if rate_hz == RATE_HZ else resampled(SPEECH, rate_hz)


def sound(rate_hz: int = RATE_HZ, **changes) -> Sound:
    """The clip as a track; in as many channels as the layout has."""
    samples = at_rate(rate_hz)
    count = {"stereo": 2, "5.1": 6, "7.1": 8}.get(changes.get("layout"), 1)
    return Sound(np.tile(samples, (count, 1)) if count > 1 else samples, rate_hz, **changes)


def written(name: str, *sounds: Sound, **options) -> Callable[[Path], Path]:
    """A file of these tracks."""
    return lambda folder: write_sounds(folder / name, *(sounds or (sound(),)), **options)


def changed(name: str, make: Callable[[Path], Path], change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """A file of another one's bytes."""

    def maker(folder: Path) -> Path:
        (folder / "whole").mkdir()
        content = make(folder / "whole").read_bytes()
        (folder / name).write_bytes(change(content))
        return folder / name

    return maker


def joined(name: str, *makes: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """A file of the bytes of several."""
    return lambda folder: put(
        folder / name, lambda path: path.write_bytes(b"".join([make(folder).read_bytes() for make in makes]))
    )


def content(name: str, data: bytes) -> Callable[[Path], Path]:
    """A file of these bytes."""

    def maker(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return maker


def channels(layout: str, *gains: float, noise: tuple[float, ...] = ()) -> Callable[[Path], Path]:
    """A WAV whose channels are the clip with these gains."""
    rows = np.outer(gains, SPEECH)
    if noise:
        rows += np.outer(noise, 0.1 * np.random.default_rng(0).standard_normal(len(SPEECH)))
    return written("channels.wav", Sound(rows, layout=layout, **F32))


def scaled(gain_db: float, **kind) -> Callable[[Path], Path]:
    """The clip at another level."""
    return written("level.wav", Sound(SPEECH * 10 ** (gain_db / 20), **(kind or F32)))


def put(path: Path, act: Callable[[Path], object]) -> Path:
    """A path after something was done to it."""
    act(path)
    return path


def chunk(tag: bytes, data: bytes) -> bytes:
    """A RIFF chunk, padded to an even length."""
    return tag + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def riff(*chunks: bytes, form: bytes = b"RIFF") -> bytes:
    """A WAV file of chunks."""
    body = b"WAVE" + b"".join(chunks)
    return form + struct.pack("<I", len(body)) + body


PCM = (SPEECH * 2**15).astype("<i2").tobytes()
FMT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16))


def extensible(count: int, mask: int) -> bytes:
    """A WAVE_FORMAT_EXTENSIBLE of some channels with a mask of speakers; the clip in all of them."""
    sub = bytes.fromhex("0100000000001000800000aa00389b71")
    form = struct.pack("<HHIIHHHHI", 0xFFFE, count, RATE_HZ, 2 * count * RATE_HZ, 2 * count, 16, 22, 16, mask) + sub
    return riff(chunk(b"fmt ", form), chunk(b"data", np.repeat((SPEECH * 2**15).astype("<i2"), count).tobytes()))


def rf64(sound_bytes: int, data: bytes) -> bytes:
    """A WAV with 64-bit sizes, 0: those of a recorder that was switched off."""
    sizes = chunk(b"ds64", struct.pack("<QQQI", sound_bytes and sound_bytes + 72, sound_bytes, 0, 0))
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + FMT + b"data\xff\xff\xff\xff" + data


def sparse(path: Path) -> None:
    """10 GB of zeros that take no room."""
    with path.open("wb") as file:
        file.truncate(10 * 10**9)


def zipped() -> bytes:
    """An archive with the clip in it."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("talk.wav", wav(PCM))
    return memory.getvalue()


def listening(path: Path) -> None:
    """A socket's file."""
    here = Path.cwd()
    os.chdir(path.parent)  # its name may be 107 bytes
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def opposite(folder: Path) -> Path:
    """A stereo file whose right channel is late by a millisecond and inverted."""
    late = np.concatenate([np.zeros(16), SPEECH[:-16]])
    return write_sounds(folder / "late.wav", Sound(np.stack([SPEECH, -late]), layout="stereo", **F32))


# --- the cases --------------------------------------------------------------------------------------------------------


def _codecs() -> dict[str, Case]:
    """Every common codec and container as it should be: the speech, no word."""
    lossy = {"slack_db": 2.5}
    rows = [
        ("wav u8", "a.wav", sound(codec="pcm_u8", sample_format="u8"), {}),
        ("wav s24", "a.wav", sound(48_000, codec="pcm_s24le", sample_format="s32"), {}),
        ("wav s32", "a.wav", sound(codec="pcm_s32le", sample_format="s32"), {}),
        ("wav f64", "a.wav", sound(codec="pcm_f64le", sample_format="dbl"), {}),
        ("wav A-law", "a.wav", sound(8_000, codec="pcm_alaw", sample_format="s16"), lossy),
        ("wav mu-law", "a.wav", sound(8_000, codec="pcm_mulaw", sample_format="s16"), lossy),
        ("wav IMA ADPCM", "a.wav", sound(22_050, codec="adpcm_ima_wav", sample_format="s16p"), lossy),
        ("wav MS ADPCM", "a.wav", sound(22_050, codec="adpcm_ms", sample_format="s16"), lossy),
        ("wav Yamaha ADPCM", "a.wav", sound(22_050, codec="adpcm_yamaha", sample_format="s16"), lossy),
        ("wav MP3 inside", "a.wav", sound(44_100, **MP3), {"late_s": 0.06}),
        ("wav G.726", "a.wav", sound(8_000, codec="g726", sample_format="s16"), lossy),
        ("aiff", "a.aiff", sound(44_100, codec="pcm_s16be", sample_format="s16"), {}),
        ("aiff s24", "a.aif", sound(48_000, codec="pcm_s24be", sample_format="s32"), {}),
        ("au mu-law", "a.au", sound(8_000, codec="pcm_mulaw", sample_format="s16"), lossy),
        ("au s16", "a.au", sound(codec="pcm_s16be", sample_format="s16"), {}),
        ("caf ALAC", "a.caf", sound(44_100, codec="alac", sample_format="s16p"), {}),
        ("caf float", "a.caf", sound(codec="pcm_f32be", sample_format="flt"), {}),
        ("w64", "a.w64", sound(**S16), {}),
        ("flac 24 bit 96 kHz", "a.flac", sound(96_000, codec="flac", sample_format="s32"), {}),
        ("ogg FLAC", "a.oga", sound(**FLAC), {}),
        ("opus 8 kHz", "a.opus", sound(8_000, **OPUS), lossy),
        ("mka FLAC", "a.mka", sound(**FLAC), {}),
        ("mka PCM", "a.mka", sound(**S16), {}),
        ("mkv AC-3", "a.mkv", sound(48_000, codec="ac3"), lossy),
        ("mkv E-AC-3 5.1", "a.mkv", sound(48_000, codec="eac3", layout="5.1"), lossy | {"gain_db": None}),
        ("m4a ALAC", "a.m4a", sound(44_100, codec="alac", sample_format="s16p"), {}),
        ("m4a stereo", "a.m4a", sound(44_100, layout="stereo"), lossy),
        ("mp4 MP3", "a.mp4", sound(44_100, **MP3), lossy),
        ("mp4 Opus", "a.mp4", sound(48_000, **OPUS), lossy),
        ("mp4 FLAC", "a.mp4", sound(44_100, **FLAC), {}),
        ("mp4 AC-3", "a.mp4", sound(48_000, codec="ac3"), lossy),
        ("mov mu-law", "a.mov", sound(8_000, codec="pcm_mulaw", sample_format="s16"), lossy),
        ("mov IMA", "a.mov", sound(22_050, codec="adpcm_ima_qt", sample_format="s16p"), lossy),
        ("3gp AMR", "a.3gp", sound(8_000, codec="libopencore_amrnb", sample_format="s16"), lossy),
        ("3g2 AAC", "a.3g2", sound(44_100), lossy),
        ("amr", "a.amr", sound(8_000, codec="libopencore_amrnb", sample_format="s16"), lossy),
        ("avi AAC", "a.avi", sound(44_100), lossy | {"late_s": 0.08}),
        ("wav FLAC inside", "a.wav", sound(**FLAC), {}),
        ("wav G.722 inside", "a.wav", sound(codec="g722", sample_format="s16"), lossy),
        ("avi PCM", "a.avi", sound(**S16), {}),
        ("avi MP3", "a.avi", sound(44_100, **MP3), lossy | {"late_s": 0.08}),
        ("avi AC-3", "a.avi", sound(48_000, codec="ac3"), lossy),
        ("flv MP3", "a.flv", sound(44_100, **MP3), lossy | {"late_s": 0.08}),
        ("flv AAC", "a.flv", sound(44_100), lossy | {"late_s": 0.06}),
        ("ts MP3", "a.ts", sound(44_100, **MP3), lossy | {"late_s": 0.06}),
        ("ts AC-3", "a.ts", sound(48_000, codec="ac3"), lossy),
        ("ts Opus", "a.ts", sound(48_000, **OPUS), lossy),
        ("mpg MP2", "a.mpg", sound(44_100, codec="mp2", sample_format="s16"), lossy | {"late_s": 0.06}),
        ("vob AC-3", "a.vob", sound(48_000, codec="ac3"), lossy),
        ("mp2", "a.mp2", sound(44_100, codec="mp2", sample_format="s16"), lossy | {"late_s": 0.06}),
        ("WavPack", "a.wv", sound(44_100, codec="wavpack", sample_format="s16p"), {}),
        ("mp3 8 kHz", "a.mp3", sound(8_000, **MP3), lossy | {"late_s": 0.15, "slack_s": 0.2}),
        ("aac 8 kHz", "a.aac", sound(8_000), lossy | {"late_s": 0.15, "slack_s": 0.3}),
    ]
    found = {f"codec: {name}": Case(written(file, one), Heard(**more)) for name, file, one, more in rows}
    for name, file, one in [
        ("tta", "a.tta", sound(44_100, codec="tta", sample_format="s16")),
        ("bare AC-3", "a.ac3", sound(48_000, codec="ac3")),
        ("voc", "a.voc", sound(**S16)),
        ("sox", "a.sox", sound(codec="pcm_s32le", sample_format="s32")),
        ("Nut", "a.nut", sound(**S16)),
    ]:
        found[f"container that is not taken: {name}"] = Case(written(file, one), Either(Heard(late_s=0.06)))
    return found


def _rates_and_levels() -> dict[str, Case]:
    found = {
        f"rate: {rate_hz} Hz": Case(written("a.wav", sound(rate_hz, **S16)), Heard(slack_db=2.0))
        for rate_hz in (
            8_000,
            11_025,
            12_000,
            22_050,
            24_000,
            32_000,
            37_800,
            44_056,
            88_200,
            176_400,
            192_000,
            384_000,
        )
    }
    found |= {
        "rate: 999 Hz": Case(content("a.wav", wav(PCM, rate_hz=999)), Refused("sample rate of 999")),
        "rate: 768,001 Hz": Case(content("a.wav", wav(PCM, rate_hz=768_001)), Refused("sample rate of 768001")),
        "rate: 2,000 Hz is a long recording": Case(content("a.wav", wav(PCM, rate_hz=2_000)), Length(8 * SECONDS)),
        "level: -30 dB": Case(scaled(-30), Heard(gain_db=-30)),
        "level: -60 dB": Case(scaled(-60), Heard(gain_db=-60)),
        "level: -90 dB in float": Case(scaled(-90), Heard(gain_db=-90)),
        "level: +30 dB, clipped": Case(scaled(30, **S16), Heard(gain_db=None, likeness=0.7)),
        "level: float above full scale": Case(
            scaled(20 * np.log10(4)), Heard(gain_db=None, likeness=0.8, warns="lie beyond full scale and are clipped")
        ),
        "level: float unscaled": Case(scaled(80), Refused("full scale is 1")),
        "level: constant offset": Case(
            written("a.wav", Sound(0.5 * SPEECH + 0.5, **F32)), Heard(gain_db=None, likeness=-1)
        ),
        "level: quiet beside a constant offset": Case(
            written("a.wav", Sound(0.02 * SPEECH + 0.05, **F32)), Heard(gain_db=None, likeness=-1)
        ),
        "level: silence": Case(written("a.wav", Sound(np.zeros(32_000), **S16)), Length(2.0, silent=True)),
        "level: full-scale square": Case(
            written("a.wav", Sound(np.sign(np.sin(np.arange(32_000) / 20)), **S16)), Length(2.0, silent=False)
        ),
        "level: one click": Case(
            written("a.wav", Sound(np.eye(1, 32_000, 16_000)[0], **S16)), Length(2.0, silent=False)
        ),
        "level: NaN in the last sample": Case(
            content("a.wav", floats(np.append(SPEECH, np.nan))), Refused("NaN or infinite")
        ),
        "level: smallest denormals": Case(content("a.wav", floats(np.full(RATE_HZ, 1e-42))), Length(1.0)),
        "length: half a video frame": Case(content("a.wav", wav(PCM[: 2 * 267])), Length(0.0167, slack_s=0.001)),
        "length: less than half": Case(content("a.wav", wav(PCM[: 2 * 266])), Refused("at least one video frame")),
        "length: no sample": Case(content("a.wav", riff(FMT, chunk(b"data", b""))), Refused("")),
        "length: more than an hour": Case(
            content("a.wav", wav(bytes(3_601 * 2 * 1_000), rate_hz=1_000)), Refused("longer than 3600 s")
        ),
    }
    return found


def _layouts() -> dict[str, Case]:
    half = -6.02
    return {
        "layout: left only": Case(channels("stereo", 1, 0), Heard(gain_db=half)),
        "layout: right only": Case(channels("stereo", 0, 1), Heard(gain_db=half)),
        "layout: both": Case(channels("stereo", 1, 1), Heard()),
        "layout: inverted": Case(channels("stereo", 1, -1), Heard(warns="opposite in phase")),
        "layout: inverted beside a constant offset": Case(
            written("a.wav", Sound(np.stack([SPEECH, -SPEECH]) + 0.3, layout="stereo", **F32)),
            Heard(gain_db=None, likeness=-1, warns="opposite in phase"),
        ),
        "layout: inverted, 70 %": Case(channels("stereo", 1, -0.7), Heard(warns="opposite in phase")),
        "layout: inverted and late": Case(opposite, Heard(warns="", slack_db=3)),
        "layout: late by a millisecond": Case(
            written("a.wav", Sound(np.stack([SPEECH, np.roll(SPEECH, RATE_HZ // 1_000)]), layout="stereo", **F32)),
            Heard(warns="or one late"),
        ),
        "layout: 5.1, low frequencies alone": Case(channels("5.1", 0, 0, 0, 1, 0, 0), Heard()),
        "layout: 2.1": Case(channels("2.1", 1, 1, 0), Heard()),
        "layout: 3.0, centre": Case(channels("3.0", 0, 0, 1), Heard()),
        "layout: quad": Case(channels("quad", 1, 1, 1, 1), Heard()),
        "layout: 5.0, centre": Case(channels("5.0", 0, 0, 1, 0, 0), Heard()),
        "layout: 5.1, centre in noise behind": Case(
            channels("5.1", 0, 0, 1, 0, 0, 0, noise=(0, 0, 0, 0, 0.1, 0.1)), Heard(slack_db=2, likeness=0.8)
        ),
        "layout: 6.1": Case(channels("6.1", 0, 0, 1, 0, 0, 0, 0), Heard()),
        "layout: 7.1": Case(channels("7.1", 0, 0, 1, 0, 0, 0, 0, 0), Heard()),
        "layout: 5.1 with inverted fronts": Case(
            channels("5.1", 1, -1, 0, 0, 0, 0), Heard(warns="opposite in phase", slack_db=6)
        ),
        "layout: centre against inverted fronts": Case(
            channels("3.0", -0.7, -0.7, 1), Heard(warns="opposite in phase", slack_db=6)
        ),
        "layout: three channels without a mask": Case(content("a.wav", extensible(3, 0)), Heard()),
        "layout: a mask of another count": Case(content("a.wav", extensible(2, 0x3F)), Heard()),
        "layout: a mask of unknown speakers": Case(content("a.wav", extensible(2, 0x80000000)), Heard()),
        "layout: 16 channels": Case(content("a.wav", extensible(16, 0)), Heard()),
        "layout: 64 channels": Case(content("a.wav", extensible(64, 0)), Either(Heard())),
    }


def _cut_and_joined() -> dict[str, Case]:
    kinds = {
        "mp3": sound(44_100, **MP3),
        "flac": sound(**FLAC),
        "ogg": sound(48_000, **OPUS),
        "wav": sound(**S16),
        "aiff": sound(codec="pcm_s16be", sample_format="s16"),
        "caf": sound(codec="pcm_s16be", sample_format="s16"),
        "w64": sound(**S16),
        "mkv": sound(44_100),
        "webm": sound(48_000, **OPUS),
        "aac": sound(44_100),
        "amr": sound(8_000, codec="libopencore_amrnb", sample_format="s16"),
        "avi": sound(44_100, **MP3),
        "wv": sound(44_100, codec="wavpack", sample_format="s16p"),
        "au": sound(codec="pcm_s16be", sample_format="s16"),
        "oga": sound(**FLAC),
        "wma": sound(44_100, codec="wmav2", bit_rate=64_000),
        "mpg": sound(44_100, codec="mp2", sample_format="s16"),
    }
    found = {}
    for suffix, one in kinds.items():
        whole = written(f"a.{suffix}", one)
        part = Heard(0.72 * SECONDS, part=(0.3, 3.0), warns="truncated", slack_s=1.0, slack_db=2.5, late_s=0.15)
        found[f"cut: {suffix} at 72 %"] = Case(
            changed(f"b.{suffix}", whole, lambda data: data[: int(0.72 * len(data)) + 5]), part
        )
        found[f"cut: {suffix} at 20 %"] = Case(
            changed(f"b.{suffix}", whole, lambda data: data[: int(0.2 * len(data)) + 5]),
            Either(Heard(0.2 * SECONDS, part=(0.2, 0.9), warns="truncated", slack_s=0.5, late_s=0.15, slack_db=3)),
        )
    for suffix in ("mp3", "flac", "ogg", "aac", "mkv", "webm", "oga"):
        twice = Heard(2 * SECONDS, warns="", slack_s=0.25, slack_db=2.5, late_s=0.06)
        found[f"joined: {suffix} twice"] = Case(
            changed(f"b.{suffix}", written(f"a.{suffix}", kinds[suffix]), lambda data: data + data), twice
        )
    for suffix in ("mp3", "aac", "flac"):
        found[f"joined: {suffix} ten times"] = Case(
            changed(f"b.{suffix}", written(f"a.{suffix}", kinds[suffix]), lambda data: 10 * data),
            Heard(10 * SECONDS, warns="", slack_s=1.2, slack_db=2.5, late_s=0.06),
        )
    found |= {
        f"joined: {name}": Case(
            joined(f"b.{suffix}", *(written(f"a.{suffix}", one, **more) for one, more in parts)),
            Heard(2 * SECONDS, warns=warns, slack_s=0.25, slack_db=2.5, late_s=0.06),
        )
        for name, suffix, warns, *parts in _chains()
    }
    found["joined: m4a twice, of which players play the first"] = Case(
        changed("b.m4a", written("a.m4a"), lambda data: data + data),
        Heard(2 * SECONDS, warns="follow each other", slack_s=0.25, slack_db=2.5),
    )
    found["joined: wav twice, of which players play the first"] = Case(
        content("b.wav", 2 * wav(PCM)), Heard(2 * SECONDS)
    )
    found |= {
        f"joined: {suffix} twice": Case(
            changed(f"b.{suffix}", written(f"a.{suffix}", kinds[suffix]), lambda data: data + data),
            Heard(2 * SECONDS, warns="", slack_s=0.25, slack_db=2.5, late_s=0.06),
        )
        for suffix in ("w64", "aiff", "caf", "wma")
    }
    found["cut: wv, 40 bytes damaged in its middle"] = Case(
        changed("b.wv", written("a.wv", kinds["wv"]), _wounded),
        Heard(part=(5.3, 6.5), warns="do not decode and are silent"),
    )
    found["cut: webm, its last third zeros"] = Case(
        changed(
            "b.webm",
            written("a.webm", kinds["webm"]),
            lambda data: data[: int(0.7 * len(data))].ljust(len(data), b"\0"),
        ),
        Heard(0.7 * SECONDS, part=(0.3, 3.0), warns="are zeros", slack_s=0.3),
    )
    found["cut: wav, of which the header states a half"] = Case(
        content("b.wav", wav(PCM, data_bytes=len(PCM) // 4 * 2)),
        Heard(SECONDS / 2, part=(0.3, 3.0), warns="behind which lie"),
    )
    found["cut: caf, a hole of zeros in ALAC"] = Case(
        changed("b.caf", written("a.caf", sound(codec="alac", sample_format="s16p")), _with_hole),
        Heard(part=(5.3, 6.5), warns="do not decode and are silent"),
    )
    found["cut: m4a with its index at the end"] = Case(
        changed("b.m4a", written("a.m4a"), lambda data: data[: int(0.9 * len(data))]), Refused("its index")
    )
    found["cut: the first 1,000 bytes are gone, mp3"] = Case(
        changed("b.mp3", written("a.mp3", sound(44_100, **MP3)), lambda data: data[1_000:]),
        Heard(SECONDS, part=(1, 6), warns="", slack_s=0.3, late_s=0.3, slack_db=2),
    )
    found["cut: the first 1,000 bytes are gone, wav"] = Case(content("b.wav", wav(PCM)[1_000:]), Refused(""))
    found["cut: half of the file is zeros, mp3"] = Case(
        changed(
            "b.mp3", written("a.mp3", sound(44_100, **MP3)), lambda data: data[: len(data) // 3].ljust(len(data), b"\0")
        ),
        Refused(""),
    )
    found["cut: a download with a hole of zeros, mp3"] = Case(
        changed(
            "b.mp3",
            written("a.mp3", sound(44_100, **MP3)),
            lambda data: data[: len(data) // 2] + bytes(len(data) // 8) + data[len(data) // 2 + len(data) // 8 :],
        ),
        Heard(warns="", slack_s=0.3, slack_db=2.5, part=(0.3, 3.0)),
    )
    return found


def _with_hole(data: bytes) -> bytes:
    """Zeros instead of a part of the middle."""
    first, last = (int(share * len(data)) for share in (0.45, 0.6))
    return data[:first] + bytes(last - first) + data[last:]


def _wounded(data: bytes) -> bytes:
    """Noise instead of 40 bytes of the middle."""
    middle = len(data) // 2
    return data[:middle] + np.random.default_rng(1).bytes(40) + data[middle + 40 :]


def _chains() -> list[tuple]:
    """Of other kinds than the part before: name, suffix, what the line says, and the parts with their options."""
    stereo = {"layout": "stereo"}
    opus, flac, ts = sound(48_000, **OPUS), sound(**FLAC), sound(44_100)
    other = {"options": {"mpegts_start_pid": "300"}}
    return [
        ("opus, mono and stereo", "opus", "follow each other", (opus, {}), (sound(48_000, **OPUS, **stereo), {})),
        ("ogg, FLAC and Opus", "ogg", "follow each other", (flac, {}), (opus, {})),
        ("ogg, FLAC of two rates", "oga", "follow each other", (flac, {}), (sound(44_100, **FLAC, **stereo), {})),
        ("flac, two rates", "flac", "follow each other", (flac, {}), (sound(44_100, **FLAC, **stereo), {})),
        ("mkv, FLAC and AAC", "mkv", "follow each other", (flac, {}), (ts, {})),
        ("ts, another place", "ts", "follow each other", (ts, {}), (ts, other)),
        ("ts, another place and a clock that goes on", "ts", None, (ts, {}), (sound(44_100, start_s=SECONDS), other)),
        ("ts, another codec", "ts", "follow each other", (ts, {}), (sound(44_100, **MP3), other)),
    ]


def _tags() -> dict[str, Case]:
    mp3 = written("a.mp3", sound(44_100, **MP3))
    near = Heard(slack_s=0.1, slack_db=2)
    return {
        "tag: ID3v2 with a picture of 300 KB": Case(changed("b.mp3", mp3, lambda data: id3(300_000) + data), near),
        "tag: ID3v2.4 with a footer": Case(changed("b.mp3", mp3, lambda data: id3(2_000, 4, True) + data), near),
        "tag: two ID3v2": Case(changed("b.mp3", mp3, lambda data: id3(5_000) + id3(9_000) + data), near),
        "tag: ID3v2 with a picture of 300 KB between two": Case(
            changed("b.mp3", mp3, lambda data: data + id3(300_000) + data),
            Heard(2 * SECONDS, slack_s=0.1, slack_db=2),
        ),
        "tag: ID3v2 in front of FLAC": Case(
            changed("b.flac", written("a.flac", sound(**FLAC)), lambda data: id3(5_000) + data), Heard()
        ),
        "tag: ID3v2 in front of AAC": Case(
            changed("b.aac", written("a.aac", sound(44_100)), lambda data: id3(5_000) + data),
            Heard(slack_db=2, late_s=0.06),
        ),
        "tag: ID3v2 in front of WAV": Case(content("b.wav", id3(5_000) + wav(PCM)), Either(Heard())),
        "tag: ID3v1 and APE behind": Case(
            changed("b.mp3", mp3, lambda data: data + b"APETAGEX\xd0\x07\0\0" + bytes(500) + b"TAG" + bytes(125)), near
        ),
        "tag: 500 KB of text behind": Case(
            changed("b.mp3", mp3, lambda data: data + b"some words here " * 32_000), near
        ),
        "tag: a web page behind": Case(
            changed("b.mp3", mp3, lambda data: data + b"<!DOCTYPE html><html>" + b"<p>x</p>" * 4_000), near
        ),
        "chunk: LIST before the sound": Case(
            content("b.wav", riff(FMT, chunk(b"LIST", b"INFOINAM\x05\0\0\0title\0"), chunk(b"data", PCM))), Heard()
        ),
        "chunk: bext and JUNK of odd length": Case(
            content("b.wav", riff(chunk(b"JUNK", bytes(27)), chunk(b"bext", bytes(603)), FMT, chunk(b"data", PCM))),
            Heard(),
        ),
        "chunk: sound before its format": Case(content("b.wav", riff(chunk(b"data", PCM), FMT)), Either(Heard())),
        "chunk: two data chunks": Case(content("b.wav", riff(FMT, chunk(b"data", PCM), chunk(b"data", PCM))), Heard()),
        "chunk: RIFF length 0": Case(content("b.wav", b"RIFF\0\0\0\0" + wav(PCM)[8:]), Heard()),
        "chunk: data length 0, as a recorder that was switched off leaves it": Case(
            content("b.wav", wav(PCM, data_bytes=0)), Either(Heard())
        ),
        "chunk: RF64": Case(content("b.wav", rf64(len(PCM), PCM)), Heard()),
        "chunk: RF64, cut": Case(
            content("b.wav", rf64(len(PCM), PCM[: len(PCM) // 5 * 4])),
            Heard(0.8 * SECONDS, part=(0.3, 5), warns="truncated"),
        ),
        "chunk: BW64, cut": Case(
            content("b.wav", b"BW64" + rf64(len(PCM), PCM[: len(PCM) // 5])[4:]), Refused("truncated")
        ),
        "chunk: RF64 that was never finished": Case(content("b.wav", rf64(0, PCM)), Refused("never finished")),
        "chunk: RIFX": Case(
            content(
                "b.wav",
                b"RIFX"
                + struct.pack(">I", 36 + len(PCM))
                + b"WAVEfmt "
                + struct.pack(">IHHIIHH", 16, 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
                + b"data"
                + struct.pack(">I", len(PCM))
                + (SPEECH * 2**15).astype(">i2").tobytes(),
            ),
            Refused("RIFX"),
        ),
        "chunk: 24 bits in 32": Case(
            content(
                "b.wav",
                riff(
                    chunk(
                        b"fmt ",
                        struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE_HZ, 4 * RATE_HZ, 4, 32, 22, 24, 4)
                        + bytes.fromhex("0100000000001000800000aa00389b71"),
                    ),
                    chunk(b"data", ((SPEECH * 2**23).astype("<i4") << 8).tobytes()),
                ),
            ),
            Either(Heard()),  # FFmpeg takes it for floats
        ),
        "chunk: an alignment that does not fit": Case(
            content("b.wav", wav(PCM, align=7)), Either(Length(SECONDS, slack_s=9))
        ),
        "chunk: a byte too many": Case(content("b.wav", wav(PCM + b"\x01")), Heard()),
    }


def _clocks() -> dict[str, Case]:
    hole = {"lose": between(2.0, 2.6)}
    after = {"part": (3.0, 6.4), "slack_db": 2.5, "late_s": 0.05}
    found = {
        f"hole: {suffix}": Case(
            written(f"a.{suffix}", sound(rate_hz, **kind, **hole)),
            Heard(warns="timestamps leave out", slack_s=0.15, **after),
        )
        for suffix, rate_hz, kind in (
            ("mkv", 44_100, {}),
            ("mp4", 44_100, {}),
            ("webm", 48_000, OPUS),
            ("ts", 44_100, {}),
            ("mkv", 48_000, {"codec": "ac3"}),
        )
    }
    found |= {
        f"damage: {suffix}": Case(
            written(f"a.{suffix}", sound(rate_hz, **kind, spoil=between(2.0, 2.6))),
            Heard(warns="do not decode", slack_s=0.2, **after),
        )
        for suffix, rate_hz, kind in (
            ("m4a", 44_100, {}),
            ("mkv", 44_100, {}),
            ("mp3", 44_100, MP3),
            ("ts", 44_100, {}),
            ("mkv", 48_000, {"codec": "ac3"}),
            ("flac", 16_000, FLAC),
        )
    }
    found |= {
        f"late: {suffix}": Case(
            written(f"a.{suffix}", sound(44_100, start_s=1.5), picture_s=9),
            Heard(SECONDS + 1.5, at_s=1.5, warns="its sound begins at", slack_s=0.15, slack_db=2.5),
        )
        for suffix in ("mp4", "mkv", "mov")
    }
    noisy = np.random.default_rng(3).uniform(0, 0.02, 999)
    found |= {
        "clock: jitter of 20 ms": Case(
            written("a.mkv", sound(44_100, jitter=lambda time_s: noisy[int(43 * time_s) % 999]), picture_s=8),
            Heard(slack_db=2.5, late_s=0.05),
        ),
        "clock: drifts 2 %": Case(
            written("a.mkv", sound(44_100, jitter=lambda time_s: 0.02 * time_s), picture_s=8),
            Heard(1.02 * SECONDS, part=(0.3, 0.9), slack_s=0.2, slack_db=2.5, warns=""),
        ),
        "clock: half as fast as its sound": Case(
            written("a.mkv", sound(44_100, jitter=lambda time_s: -0.5 * time_s)),
            Heard(warns="no clock", slack_s=0.15, slack_db=2.5, late_s=0.05),
        ),
        "clock: segments that all begin at 0": Case(
            joined("b.ts", *(written("a.ts", Sound(part)) for part in np.split(SPEECH[: 8 * 12_800], 8))),
            Length(6.9, warns="no clock", slack_s=0.6, silent=False),
        ),
        "clock: two parts that overlap": Case(
            joined("b.ts", *(written("a.ts", sound(44_100, start_s=at)) for at in (0, SECONDS - 0.5))),
            Heard(2 * SECONDS - 0.5, warns="overlap", slack_s=0.15, slack_db=2.5, late_s=0.06),
        ),
        "clock: an edit list that begins with 20 s of nothing": Case(
            written("a.m4a", sound(start_s=20.0)), Heard(warns="taken for its start", slack_s=0.2, late_s=0.1)
        ),
        **{
            f"clock: a pause of 4.5 s, {suffix}": Case(
                written(f"a.{suffix}", sound(48_000, lose=between(1, 5.5), **OPUS)),
                Heard(warns="timestamps leave out", part=(5.6, 6.6), slack_db=2.5),
            )
            for suffix in ("ogg", "webm")
        },
        "clock: jumps an hour ahead": Case(
            written("a.mkv", sound(44_100, jitter=lambda time_s: 3_000.0 * (time_s > 3)), picture_s=8),
            Heard(warns="follow each other", slack_s=0.3, slack_db=2.5),
        ),
        "clock: from the middle of a tape": Case(
            written("a.mkv", sound(44_100, start_s=5_000.0)), Heard(slack_db=2.5, slack_s=0.15)
        ),
        "film: no sound": Case(_silent_film, Refused("has no sound")),
        "film: fragments": Case(
            written("a.mp4", sound(44_100), picture_s=8, options={"movflags": "+frag_keyframe+empty_moov"}),
            Heard(slack_db=2.5, late_s=0.06),
        ),
        "film: index first": Case(
            written("a.mp4", sound(44_100), picture_s=8, options={"movflags": "+faststart"}), Heard(slack_db=2.5)
        ),
        "film: live webm": Case(written("a.webm", sound(48_000, **OPUS), options={"live": "1"}), Heard(slack_db=2.5)),
        "tracks: foreign default, English second": Case(
            written("a.mkv", Sound(SPEECH[::-1].copy(), 16_000, language="fra", default=True), sound(language="eng")),
            Heard(slack_db=2.5),
        ),
        "tracks: en-GB beside a foreign default": Case(
            written("a.mkv", Sound(SPEECH[::-1].copy(), language="fra", default=True), sound(language="en-GB")),
            Heard(slack_db=2.5, slack_s=0.15),
        ),
        "tracks: a silent default": Case(
            written("a.mkv", Sound(np.zeros(len(SPEECH)), default=True), sound()),
            Heard(warns="its track 1 is silent, track 2 is taken", slack_db=2.5, slack_s=0.15),
        ),
        "tracks: a default of one packet": Case(
            written("a.mkv", Sound(SPEECH[20_000:20_800], default=True), sound()),
            Heard(warns="s long, track 2 is taken", slack_db=2.5, slack_s=0.15),
        ),
        "tracks: a default of hiss": Case(
            written("a.mkv", Sound(2e-4 * np.sin(np.arange(len(SPEECH))), default=True), sound()),
            Heard(warns="its track 1 is all but silent, track 2 is taken", slack_db=2.5, slack_s=0.15),
        ),
        "tracks: the first one damaged": Case(
            written("a.mkv", sound(spoil=between(-1, 99), default=True), sound()), Heard(slack_db=2.5)
        ),
        "tracks: a number that is not there": Case(
            written("a.mkv", sound(), sound()), Refused("has no track 3"), track=3
        ),
        "tracks: twenty": Case(written("a.mkv", *[sound(**S16)] * 20), Heard()),
        "change: mono to stereo, ADTS": Case(
            _mono_then_stereo, Heard(2 * SECONDS, slack_s=0.35, slack_db=2.5, late_s=0.06, warns="")
        ),
        "change: rate, mp3": Case(_two_rates, Heard(2 * SECONDS, slack_s=0.35, slack_db=2.5, late_s=0.06, warns="")),
    }
    return found


def _silent_film(folder: Path) -> Path:
    import av

    with av.open(str(folder / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for _ in range(25):
            film.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        film.mux(stream.encode(None))
    return folder / "film.mp4"


def _mono_then_stereo(folder: Path) -> Path:
    parts = [write_sounds(folder / f"{k}.aac", sound(44_100, layout=k)).read_bytes() for k in ("mono", "stereo")]
    return put(folder / "joined.aac", lambda path: path.write_bytes(b"".join(parts)))


def _two_rates(folder: Path) -> Path:
    parts = [write_sounds(folder / f"{hz}.mp3", sound(hz, **MP3)).read_bytes() for hz in (44_100, 24_000)]
    return put(folder / "joined.mp3", lambda path: path.write_bytes(b"".join(parts)))


def _no_sounds() -> dict[str, Case]:
    rng = np.random.default_rng(5)
    data = {
        "zip": zipped(),
        "gzip": gzip.compress(wav(PCM)),
        "pdf": b"%PDF-1.7\n" + rng.bytes(9_000),
        "json": b'{"a": [1, 2]}' * 99,
        "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + rng.bytes(20_000),
        "midi": b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0",
        "elf": b"\x7fELF\2\1\1" + rng.bytes(20_000),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "subtitles": b"1\n00:00:01,000 --> 00:00:02,000\nhello\n" * 50,
        "UTF-16 text": "not a sound".encode("utf-16") * 500,
        "large-file pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 999\n",
        "resource fork": b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4_000),
        "random": rng.bytes(300_000),
        "one byte": b"\0",
        "sync words alone": b"\xff\xfb" * 9_000,
        "cue sheet": b'FILE "a.wav" WAVE\n  TRACK 01 AUDIO\n',
        "concat list": b"file 'a.wav'\nfile '/etc/passwd'\n",
        "XSPF": b"<?xml version='1.0'?><playlist/>",
        "an OGG that begins and ends": b"OggS" + bytes(300),
        "fLaC and nothing": b"fLaC",
        "EBML and nothing": b"\x1aE\xdf\xa3",
    }
    suffix = {"pdf": "pdf", "zip": "zip", "subtitles": "srt", "midi": "mid", "jpeg": "jpg"}
    found = {
        f"no sound: {name}": Case(content(f"talk.{suffix.get(name, 'wav')}", one), Refused(""))
        for name, one in data.items()
    }
    found["no sound: empty"] = Case(content("talk.mp3", b""), Refused("is empty"))
    found["no sound: 10 GB of zeros"] = Case(lambda folder: put(folder / "a.wav", sparse), Refused(""))
    return found


def _paths() -> dict[str, Case]:
    def file(name: str | bytes) -> Callable[[Path], Path]:
        def maker(folder: Path) -> Path:
            path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))  # noqa: PTH118
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wav(PCM))
            return path

        return maker

    def link(folder: Path, target: str) -> Path:
        return put(folder / "link.wav", lambda path: path.symlink_to(target))

    names = {
        "spaces": "a b .wav",
        "quotes": "a'b\"c.wav",
        "dollar": "$(touch x) `id`.wav",
        "percent": "a%20b%s.wav",
        "leading dash": "-i.wav",
        "unicode": "größe 音声 🎤.wav",
        "combining": "e\u0301a.wav",
        "right to left": "שלום.wav",
        "two suffixes": "a.mp3.wav",
        "no suffix": "talk",
        "a dot": ".wav",
        "equals": "a=b.wav",
        "colon": "C:talk.wav",
        "bidi override": "a\u202egpj.wav",
        "narrow no-break space": "Screen Recording 9.41.00\u202fAM.wav",
        "zero-width joiner": "\U0001f469\u200d\U0001f4bb.wav",
        "255 bytes": "x" * 251 + ".wav",
        "backslash": "a\\b.wav",
        "hash": "a#t=10.wav",
        "star": "*.wav",
        "braces": "{a,b}.wav",
        "deep": "a/" * 60 + "b.wav",
    }
    found = {f"path: {name}": Case(file(text), Heard()) for name, text in names.items()}
    found |= {
        "path: bytes that are no UTF-8": Case(file(b"caf\xe9.wav"), Refused("not UTF-8")),
        "path: a link": Case(lambda folder: (file("a.wav")(folder), link(folder, "a.wav"))[1], Heard()),
        "path: a link to nothing": Case(lambda folder: link(folder, "gone.wav"), Refused("does not exist")),
        "path: a link to itself": Case(lambda folder: link(folder, "link.wav"), Refused("")),
        "path: absent": Case(lambda folder: folder / "absent.wav", Refused("does not exist")),
        "path: a folder": Case(lambda folder: folder, Refused("is a directory")),
        "path: a file as a folder": Case(lambda folder: file("a.wav")(folder) / "b.wav", Refused("")),
        "path: FIFO": Case(lambda folder: put(folder / "pipe.wav", os.mkfifo), Refused("not a regular file")),
        "path: socket": Case(lambda folder: put(folder / "s.wav", listening), Refused("not a regular file")),
        "path: /dev/null": Case(lambda _: Path("/dev/null"), Refused("not a regular file")),
        "path: /dev/zero": Case(lambda _: Path("/dev/zero"), Refused("not a regular file")),
        "path: /proc file of length 0": Case(lambda _: Path("/proc/self/status"), Refused("")),
        "path: too long": Case(lambda folder: folder / ("y" * 300 + ".wav"), Refused("")),
        "path: one of 5,000 letters": Case(lambda folder: folder / ("z/" * 2_500), Refused("")),
        "path: an unreadable file": Case(
            lambda folder: put(file("a.wav")(folder), lambda path: path.chmod(0)),
            Either(Heard()),  # root may read it
        ),
        "path: an unreadable folder": Case(
            lambda folder: put(file("b/a.wav")(folder), lambda path: path.parent.chmod(0)), Either(Heard())
        ),
        "path: an unknown home": Case(lambda _: Path("~nobody_of_this_name/a.wav"), Refused("")),
        "path: an address": Case(lambda _: Path("https://example.com/a.wav"), Refused("")),
    }
    return found


def _known() -> dict[str, Case]:
    """The suite's own bad and odd files."""
    found = {}
    for name, make in GOOD.items():
        seconds = {"one video frame.wav": 534 / RATE_HZ}.get(name, 1.0)
        found[f"odd: {name}"] = Case(
            lambda folder, name=name, make=make: put(folder / name, lambda path: path.write_bytes(make(folder))),
            Length(seconds, slack_s=0.002) if is_line(name) else Refused("the path of a sound or video file"),
        )
    for name, (make, says) in BAD.items():
        found[f"bad: {name}"] = Case(
            lambda folder, name=name, make=make: put(folder / name, lambda path: path.write_bytes(make(folder))),
            Refused(says or ""),
        )
    return found


@cache
def cases() -> dict[str, Case]:
    """All by name."""
    groups = (_codecs, _rates_and_levels, _layouts, _cut_and_joined, _tags, _clocks, _no_sounds, _paths, _known)
    return {name: case for group in groups for name, case in group().items()}


def names(short: bool) -> list[str]:
    """Of the cases."""
    return list(cases())[:: SHORT_EVERY if short else 1]


# --- trying -----------------------------------------------------------------------------------------------------------


def envelope(samples: np.ndarray) -> np.ndarray:
    """Level every 20 ms in dB, not below -60 re the loudest."""
    whole = samples[: len(samples) // 320 * 320].astype(np.float64).reshape(-1, 320)
    level = 10 * np.log10(np.square(whole).mean(axis=1) + 1e-20)
    return np.maximum(level, level.max(initial=-200) - 60)


def check_heard(samples: np.ndarray, answer: Heard) -> None:
    """The clip is where it should be, at its level."""
    first, last = (round(RATE_HZ * (answer.at_s + second)) for second in answer.part)
    piece, clip = samples[first:last], SPEECH[first - round(RATE_HZ * answer.at_s) :][: last - first]
    shift = lag(piece, clip)
    require(abs(shift) <= answer.late_s * RATE_HZ, f"the speech is {1000 * shift / RATE_HZ:+.0f} ms off")
    moved = np.roll(piece, -shift)
    keep = slice(abs(shift), len(clip) - abs(shift))
    likeness = float(np.corrcoef(envelope(moved[keep]), envelope(clip[keep]))[0, 1])
    require(likeness >= answer.likeness, f"its level over time is like the clip's by {likeness:.2f} alone")
    if answer.gain_db is not None:
        gain_db = level_db(moved[keep]) - level_db(clip[keep])
        require(abs(gain_db - answer.gain_db) <= answer.slack_db, f"its level is {gain_db:+.1f} dB re the clip's")


def attempt(name: str, folder: Path) -> Outcome:
    """Give one file to the door and to the decoder."""
    case = cases()[name]
    path = case.make(folder)
    errors = io.StringIO()
    answer = case.answer.answer if isinstance(case.answer, Either) else case.answer
    try:
        with contextlib.redirect_stderr(errors):
            _, seconds = heard(parse_arguments(["-p", f"audio={path}", "-p", f"track={case.track}"]))
            recording = load_audio(path, track=case.track)
            require(seconds == recording.duration, "door and decoder disagree")
    except InputError as error:
        line = one_line(str(error))
        require(not isinstance(case.answer, Heard | Length), f"refused: {line}")
        require(not isinstance(answer, Refused) or answer.says in line, f"another line: {line}")
        return survived(REFUSED, line)
    line = recording.warning or "no line"
    require(not isinstance(answer, Refused), f"taken for {float(recording.duration):.2f} s of sound, {line}")
    samples = recording.samples
    require(bool(np.isfinite(samples).all()) and np.abs(samples).max() <= 1, "not finite, or beyond full scale")
    require(len(errors.getvalue().splitlines()) == (recording.warning != ""), "lines shown")
    seconds = float(recording.duration)
    require(abs(seconds - answer.seconds) <= answer.slack_s, f"{seconds:.3f} s of {answer.seconds:.3f}, {line}")
    if answer.warns != "":
        require((answer.warns or "") in recording.warning, f"{line!r} does not say {answer.warns!r}")
        require(answer.warns is not None or not recording.warning, f"a line where none is due: {line}")
    if isinstance(answer, Heard):
        check_heard(samples, answer)
    elif answer.silent is not None:
        require(answer.silent == (not samples.any()), "silence")
    return survived(RIGHT, recording.warning)
