"""A fuzzer for the decoder's front (atheris, its own environment): any bytes give a recording or one line, soon.

    python tests/fuzz/fuzz_audio.py [folder of start files] -max_total_time=120 -rss_limit_mb=2048 -timeout=20

With no folder of its own it starts from short files of every container that it writes itself.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["specsync_lib"]):
    import numpy as np

    from specsync_lib.errors import InputError
    from specsync_lib.speech.audio import Recording, load_audio
    from specsync_lib.speech.level import at_level

SECONDS = 0.3
KINDS = {
    "wav": ("pcm_s16le", "s16"),
    "flac": ("flac", "s16"),
    "mp3": ("libmp3lame", "s16p"),
    "m4a": ("aac", "fltp"),
    "mov": ("pcm_s16le", "s16"),
    "mkv": ("aac", "fltp"),
    "ogg": ("libopus", "flt"),
    "webm": ("libopus", "flt"),
    "ts": ("aac", "fltp"),
    "flv": ("aac", "fltp"),
    "avi": ("libmp3lame", "s16p"),
    "aiff": ("pcm_s16be", "s16"),
    "caf": ("pcm_s16le", "s16"),
    "aac": ("aac", "fltp"),
}


def write_seeds(folder: Path) -> None:
    """One short file of every kind."""
    from tests.toys.sounds import Sound, write_sounds

    for suffix, (codec, sample_format) in KINDS.items():
        rate_hz = 48_000 if codec == "libopus" else 16_000
        samples = 0.3 * np.sin(np.arange(round(SECONDS * rate_hz)) / 20)
        write_sounds(folder / f"seed.{suffix}", Sound(samples, rate_hz, codec, sample_format))


def check(path: Path, content: bytes) -> None:
    """Decode; anything but a whole recording or one line is a finding."""
    path.write_bytes(content)
    for track in (0, 1):
        try:
            recording = load_audio(path, max_seconds=60, track=track)
        except InputError as error:
            assert len(str(error).splitlines()) == 1, repr(str(error))
        else:
            assert isinstance(recording, Recording)
            assert np.isfinite(recording.samples).all()
            assert np.abs(recording.samples).max() <= 1
            assert len(recording.warning.splitlines()) <= 1, repr(recording.warning)
            assert len(at_level(recording.samples)) == len(recording.samples)


def main() -> None:
    """Fuzz until the time is over or something is found."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    with tempfile.TemporaryDirectory() as folder:
        arguments = list(sys.argv)
        if not any(Path(argument).is_dir() for argument in arguments[1:]):
            seeds = Path(folder) / "seeds"
            seeds.mkdir()
            write_seeds(seeds)
            arguments.append(str(seeds))
        path = Path(folder) / "sound.bin"
        atheris.Setup(arguments, lambda content: check(path, content))
        with contextlib.suppress(KeyboardInterrupt):
            atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
