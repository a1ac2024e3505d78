"""Speech to face at the pace of speech: a recording, or a microphone, into an MP4 that is written as it goes.

    ./run_all.sh live --audio talk.wav --rule gate --threshold 0.6
    ./run_all.sh live --audio mic --out talk.mp4

Every frame carries its age, from the sound at its centre to the frame in memory. Ctrl-C ends the stream; what was shown
by then is a whole file with its sound. Beside the video lies a table with a row a frame (``.csv``).
"""

import argparse
import contextlib
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.face.video import GrowingVideo
from specsync_lib.figures.live import stamped
from specsync_lib.files import atomic_path, require_place
from specsync_lib.jobs.arguments import OneLineParser
from specsync_lib.jobs.ending import ended
from specsync_lib.judge.rules import RUN_RULES
from specsync_lib.paths import PLOTS_DIR, display_path, expanded
from specsync_lib.pipeline.live import LiveFrame, run_live
from specsync_lib.pipeline.sound import AudioPiece, pieces
from specsync_lib.pipeline.system import checked_rule, load_system
from specsync_lib.rows import DEFAULT as DEFAULT_ROW
from specsync_lib.rows import read as read_row
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.level import StreamingLevel, at_level
from specsync_lib.values import LARGEST_SEED, Parameter, Range

MICROPHONE = "mic"
VIDEO_SUFFIX = ".mp4"
BLOCK_SAMPLES = units.SAMPLE_RATE_HZ // 25  # 40 ms
QUEUED_BLOCKS = 100  # 4 s; what a stream that stands does not take is missing sound
LINE_EVERY_S = 1.0
SEED = Parameter("--seed", int, 0, Range(0, LARGEST_SEED), "start of every random generator")


class Microphone:
    """The default input of this machine, mono at 16 kHz, as pieces and as what was heard.

    Raises
    ------
    InputError: the library or a microphone is not there.
    """

    def __init__(self, stop: threading.Event) -> None:
        try:
            import sounddevice
        except (ImportError, OSError) as error:  # the second where PortAudio is missing
            raise InputError(
                f"--audio mic: {error}; install it with `.venv/bin/pip install sounddevice==0.5.3` and the system's "
                "PortAudio, or give a file"
            ) from error
        self._stop, self._blocks = stop, queue.Queue(QUEUED_BLOCKS)
        self._first, self.heard = 0, []
        try:
            self._stream = sounddevice.InputStream(
                units.SAMPLE_RATE_HZ, BLOCK_SAMPLES, channels=1, dtype="float32", callback=self._take
            )
            self._stream.start()
        except Exception as error:  # sounddevice.PortAudioError, and what a host's driver raises
            raise InputError(f"--audio mic: no microphone ({error}); plug one in, or give a file") from error

    def _take(self, block: np.ndarray, count: int, when: object, status: object) -> None:
        """From the sound driver's own thread: never waits. A block without room becomes a hole in the stream."""
        first, self._first = self._first, self._first + count
        with contextlib.suppress(queue.Full):
            self._blocks.put_nowait((first, block[:, 0].copy()))

    def pieces(self) -> Iterator[AudioPiece]:
        """What it hears, brought to level, until it is told to stop."""
        level, expected = StreamingLevel(), 0
        while not self._stop.is_set():
            try:
                first, samples = self._blocks.get(timeout=0.1)
            except queue.Empty:
                continue
            self.heard += [np.zeros(first - expected, np.float32), samples]
            expected = first + len(samples)
            yield AudioPiece(first, level.push(samples))
        self._stream.close()

    def samples(self) -> np.ndarray:
        """All that was heard, holes as silence."""
        return np.concatenate([np.zeros(0, np.float32), *self.heard])


class Console:
    """A line a second: how far, how old, what was held."""

    def __init__(self) -> None:
        self._spoken_s = -LINE_EVERY_S

    def show(self, frame: LiveFrame) -> None:
        """The newest frame."""
        if (now_s := time.monotonic()) - self._spoken_s >= LINE_EVERY_S:
            self._spoken_s = now_s
            print(f"{(frame.index + 1) / units.VIDEO_FPS:6.1f} s shown, {1e3 * frame.age_s:5.0f} ms old", flush=True)


def play(options: argparse.Namespace) -> int:
    """Load, warm up, stream; returns the exit code.

    Raises
    ------
    InputError: one line that says what to change.
    """
    rule, threshold, line = checked_rule(options.rule, options.threshold)
    if line:
        print(line)
    out = options.out
    require_place(out.parent, "--out")
    if out.suffix.lower() != VIDEO_SUFFIX or out.is_dir():
        raise InputError(f"--out: {out} can not be a video's file; give a name that ends in {VIDEO_SUFFIX}")
    chunk, seed = units.ChunkSize(options.chunk_slots), SEED.parse(options.seed)
    stop = threading.Event()
    microphone = options.audio == MICROPHONE
    recording = None if microphone else load_audio(options.audio, track=options.track)
    if recording is not None and recording.warning:
        print(recording.warning)
    samples = None if recording is None else recording.samples
    system = load_system(options.device, seed, row=read_row(options.row), chunk=chunk)
    warm_up = np.zeros(chunk.samples(2), np.float32) if microphone else samples
    chunks = units.frame_count(len(warm_up)) / chunk.frames
    chunk_s = system.expected_s(warm_up, rule, threshold, video=False) / max(1, chunks)
    print(
        f"about {1e3 * chunk_s:.0f} ms for a chunk of {chunk.ms:.0f} ms on this machine ({system.device}), "
        "one after the other"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    source = Microphone(stop) if microphone else None
    heard = source.pieces() if microphone else pieces(at_level(samples))
    video, console = GrowingVideo(out, preset="ultrafast"), Console()

    def show(frame: LiveFrame) -> None:
        video.push(stamped(frame))
        console.show(frame)

    failure = None
    try:
        live = run_live(system, heard, rule, threshold, show=show, stop=stop)
    except InputError as error:
        failure = error
    if not video.frame_count:
        video.stop()
        raise failure or InputError(f"{options.audio}: ended before a frame was shown; nothing is written")
    sound = source.samples() if microphone else samples
    shown = round(video.frame_count * units.SAMPLE_RATE_HZ / units.VIDEO_FPS)
    video.finish(np.pad(sound[:shown], (0, max(0, shown - len(sound)))))
    if failure:
        print(f"what was shown until then: {display_path(out)}")
        raise failure
    frames = live.frames()
    with atomic_path(out.with_suffix(".csv")) as path:
        frames.round(3).to_csv(path, index=False)
    age_ms, by = frames["age_ms"], frames["kept_up"].value_counts()
    whose = "the rule's own plan" if live.same_plan else "not all of it the rule's own plan"
    print(
        f"{len(frames)} frames, age p50 {age_ms.quantile(0.5):.0f} ms, p99 {age_ms.quantile(0.99):.0f} ms (measured, "
        f"this machine); {by.get('fewer', 0)} with fewer steps, {by.get('held', 0)} with the mouth held; {whose}"
    )
    print(f"video: {display_path(out)}")
    return 0


def main(arguments: Sequence[str]) -> int:
    """The command; bad input is one line and exit code 2, Ctrl-C before the stream runs one line and 130."""
    what = "Speech to face at the pace of speech: a recording, or a microphone, into an MP4 that is written as it goes."
    parser = OneLineParser(prog="./run_all.sh live", description=what, allow_abbrev=False)
    parser.add_argument("--audio", required=True, help="a sound or video file, or mic for this machine's microphone")
    parser.add_argument("--track", type=int, default=0, help="of a file, from 1; 0 takes the best that decodes")
    parser.add_argument("--rule", choices=[rule for rule in RUN_RULES if rule != "judge"], help="as for a run")
    parser.add_argument("--threshold", type=float, help="of the gate; given without a rule it selects the gate")
    parser.add_argument("--out", type=expanded, default=PLOTS_DIR / "live.mp4", help="the video [plots/live.mp4]")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--row", default=DEFAULT_ROW, help="which models: a name in data/rows, or a TOML file")
    parser.add_argument(
        "--chunk-slots",
        type=int,
        default=units.SLOTS_PER_CHUNK,
        help="1, 2 or 3 slots of 4 video frames at a time: fewer are shown sooner and cost more [3]",
    )
    parser.add_argument("--seed", default="0")
    return ended(lambda: play(parser.parse_args(list(arguments))))
