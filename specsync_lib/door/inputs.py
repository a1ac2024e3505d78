"""What lies outside the project and decides a run's results: recording, transcript, the row's files, the device."""

import codecs
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from specsync_lib.door.parameters import Options, Value
from specsync_lib.door.stamps import file_hash, tree_hash
from specsync_lib.errors import InputError
from specsync_lib.paths import TINY_DECODER, display_path, expanded
from specsync_lib.rows import Row

LARGEST_TRANSCRIPT_BYTES = 2**20


def facts(path: Path) -> list[tuple[str, int, int, int]]:
    """What changes where a file, or one in a folder, is replaced or written to: size, time, inode; nothing is read."""
    found = []
    for one in sorted(path.rglob("*")) if os.path.isdir(path) else [path]:  # noqa: PTH112 - raises for no name
        with suppress(OSError):  # what is not there has no facts
            seen = one.stat()
            found.append((str(one), seen.st_size, seen.st_mtime_ns, seen.st_ino))
    return found


@dataclass(frozen=True)
class Seen:
    """An input as it was when the run began; ``read`` hashes it again."""

    path: Path
    digest: str
    facts: list[tuple[str, int, int, int]]
    read: Callable[[], str]

    def require_unchanged(self) -> None:
        """Check that it still is what the run's keys say.

        Raises
        ------
        InputError: it is another now, or gone.
        """
        if facts(self.path) == self.facts:
            return
        with suppress(OSError):
            if self.read() == self.digest:
                return
        raise InputError(
            f"{display_path(self.path)} changed while the run worked on it; run again with what is there now"
        )


@dataclass(frozen=True)
class Inputs:
    """What lies outside the project and decides its results: hashes, and how long the recording is."""

    recording: str
    assets: str
    seconds: Fraction = Fraction(0)
    row: Mapping[str, str] = field(default_factory=dict)  # of the files that the row names, and of what it measured
    seen: Sequence[Seen] = ()  # must stay as they are while the run works


def measured_of(row: Row) -> dict[str, str]:
    """A hash of what the workbench measured of a row of one's own; empty where it measured nothing."""
    folder = row.own_results()
    return {"measured": tree_hash([path for path in folder.iterdir() if path.is_file()], folder)} if folder else {}


def recording_of(options: Options) -> Path:
    """The recording's file.

    Raises
    ------
    InputError: it is an address, or lies in a home that is not there.
    """
    from specsync_lib.speech import corpus
    from specsync_lib.speech.audio import local_file

    return local_file(options.values["audio"] or corpus.default_recording().path)[0]


def heard(options: Options) -> tuple[str, Fraction]:
    """The recording's hash and its length in seconds; a warning about it is one line.

    Raises
    ------
    InputError: the recording can not be used, or the excerpt does not lie in it.
    """
    from specsync_lib.speech import corpus
    from specsync_lib.speech.excerpt import load_excerpt

    path = options.values["audio"] or corpus.default_recording().path
    recording = load_excerpt(path, **excerpt_of(options))
    if recording.warning:
        print(f"specsync: {recording.warning}", file=sys.stderr)
    return file_hash(recording_of(options)), recording.duration


def seen_and_heard(options: Options) -> tuple[Seen, Fraction]:
    """The recording as it is now, and its length in seconds; see ``heard``."""
    path = recording_of(options)
    before = facts(path)
    digest, seconds = heard(options)
    return Seen(path, digest, before, lambda: file_hash(path)), seconds


def seen_of(row: Row) -> list[Seen]:
    """The files and folders that a row names, as they are now."""
    before = {key: facts(path) for key, path in row.paths().items()}
    digests = row.digests()
    return [
        Seen(path, digests[key], before[key], lambda key=key: row.digests()[key]) for key, path in row.paths().items()
    ]


def excerpt_of(options: Options) -> dict[str, Value]:
    """What of the recording is taken: the options of ``load_excerpt``."""
    return {name: options.values[name] for name in ("track", "start_s", "duration_s", "max_seconds")}


def resolved(options: Options) -> Options:
    """The options with what this machine knows: paths become absolute, a transcript's file its text, auto a device.

    Raises
    ------
    InputError: the transcript's file can not be read, there is no such device, or no trained decoder.
    """
    from specsync_lib.devices import resolve
    from specsync_lib.speech.audio import local_file

    values = dict(options.values)
    if values["transcript_file"]:
        values["transcript"] = read_transcript(values["transcript_file"])
    if values["audio"]:
        values["audio"] = str(local_file(values["audio"])[0].absolute())
    values["device"] = resolve(values["device"])
    own = options.row.video.decoder_file != "auto"
    if values["decoder"] == "tiny" and not own and not TINY_DECODER.is_file():
        raise InputError(f"decoder=tiny: {display_path(TINY_DECODER)} is absent; train it, or choose decoder=wan")
    return replace(options, values=values)


def read_transcript(given: str) -> str:
    """The text of a transcript's file.

    Raises
    ------
    InputError: it can not be read, is no text in UTF-8, or UTF-16 with its mark, is empty or far too long.
    """
    name = repr(given)
    path = expanded(given)
    try:
        if not path.is_file():
            raise InputError(f"transcript_file {name} is not a file: give a text file with the words")
        if path.stat().st_size > LARGEST_TRANSCRIPT_BYTES:
            raise InputError(f"transcript_file {name} is larger than 1 MiB: give the words of this recording alone")
        first = path.read_bytes()[:4]
        marked = first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and first != codecs.BOM_UTF32_LE
        text = path.read_text(encoding="utf-16" if marked else "utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"transcript_file {name} is not text in UTF-8: save it as such") from error
    except OSError as error:
        raise InputError(f"transcript_file {name} cannot be read ({error.strerror}): check the path") from error
    if not text or "\0" in text:
        raise InputError(f"transcript_file {name} holds no words: write what is said in it, or leave it out")
    return text
