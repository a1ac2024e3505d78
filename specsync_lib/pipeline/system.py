"""The whole system on one recording: sound in; video, committed plan, another face's curves and the run's facts out.

    system = load_system()                                # models, a person, a device: once
    run = system.run(samples, "gate", 0.6, video="plots/talk.mp4")
    write_run(run, "data/run")

A run is the pipeline under a *rule*: ``exact`` (what the judge alone would have written), ``mouth`` (exact on lip
shapes), ``lenient`` (within a frame), ``gate`` (sure frames are not asked about), ``draft`` (no judge), ``judge`` (the
judge writes, one stage after the other, nothing is drafted). Each chunk's sound comes when the chunk before is out, so
that every latency is a chunk's own; frames are laid into the picture and encoded as they are committed.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from specsync_lib import provenance, units
from specsync_lib.devices import resolve, usable_threads
from specsync_lib.errors import InputError
from specsync_lib.face import generation
from specsync_lib.face.compositing import FACE_BOX, composite, cut, idle_tracks, inside, reader_box, speaking_tracks
from specsync_lib.face.compositing import resting_frames as resting
from specsync_lib.face.video import GrowingVideo, VideoInfo
from specsync_lib.files import atomic_path, write_json
from specsync_lib.judge.rules import PROMISES, RUN_RULES, RunRule
from specsync_lib.judge.verify import run_options
from specsync_lib.pipeline.models import Models, load_models, station_threads
from specsync_lib.pipeline.outcome import PipelineReport, frame_ages
from specsync_lib.pipeline.run import AHEAD_CHUNKS, run_speculative
from specsync_lib.pipeline.serial import run_serial
from specsync_lib.pipeline.sound import AudioPiece, samples_for_chunk
from specsync_lib.pipeline.stages import Commit, Policy, Stages, Station, Stopped
from specsync_lib.rows import DEFAULT as DEFAULT_ROW
from specsync_lib.rows import Row
from specsync_lib.rows import read as read_row
from specsync_lib.speech.ears import anyone_speaks, as_heard
from specsync_lib.speech.level import at_level
from specsync_lib.units import CHUNK, VIDEO_FPS, VISEMES, ChunkSize
from specsync_lib.visemes import SyncPlan

if TYPE_CHECKING:
    from specsync_lib.face.head.head import Head
    from specsync_lib.face.head.motion import FaceTracks

DEFAULT_RULE: RunRule = "exact"
DEFAULT_THRESHOLD = 0.85  # of the gate
# A judge that fails, or takes this long, costs its chunk the verdict and not the run its video.
POLICY = Policy(on_silence="draft", deadline_s=120.0, hold_before="last step")
CONFIDENCE = "recalibrated: the probability that the judge lets a frame stand"  # that a threshold meets
COMPARED_FRAMES = 300  # 10 s: how much of a recording is kept as pictures, whatever its length
NOTED_FAULTS = 5  # of the stream, and of a judge's passes
PLAN_COLUMNS = (
    "time_s", "frame", "chunk", "draft", "confidence", "recalibrated", "judge", "committed", "openness", "by", "passes",
)  # fmt: skip


@dataclass(frozen=True)
class SystemRun:
    """What a run did.

    Attributes
    ----------
    rule, threshold, device, decoder, label : how it was run; threshold is None but for the gate, decoder one of
        `decoders.rows.ROWS`, label "measured" or "real-shape".
    models : what each part of the row is.
    report : the pipeline's own; its commits carry no frames.
    video : what was written; None where nothing was.
    shown, under : squares [side, side, 3] (`compositing.reader_box`) of the first COMPARED_FRAMES: with the generated
        face, and the resting head beneath.
    idle : what the head did besides speaking.
    seconds : of sound.
    """

    rule: RunRule
    threshold: float | None
    device: str
    decoder: str
    label: str
    models: Mapping[str, str]
    report: PipelineReport
    video: VideoInfo | None
    shown: list[np.ndarray]
    under: list[np.ndarray]
    idle: "FaceTracks"
    seconds: float

    @property
    def plan(self) -> SyncPlan:
        """The committed plan."""
        commits = self.report.commits
        openness = np.concatenate([np.zeros(0, np.float32), *[commit.openness for commit in commits]])
        return SyncPlan(self.report.plan, openness)

    @property
    def guarantee(self) -> str:
        """What rule and policy together promise, in words."""
        unverified = self.report.counts.get("unverified", 0)
        kept = f"; {unverified} of {len(self.report.commits)} chunks went out unverified, as drafted" * (unverified > 0)
        return PROMISES[self.rule] + kept

    def frames(self) -> pd.DataFrame:
        """PLAN_COLUMNS, a row a frame; draft and confidence are empty where nothing was drafted, judge where it gave no
        opinion."""
        rows = [row for commit in self.report.commits for row in _frame_rows(commit, len(self.report.commits))]
        return pd.DataFrame(rows, columns=list(PLAN_COLUMNS))

    def ages(self) -> pd.DataFrame:
        """`outcome.frame_ages`."""
        return frame_ages(self.report, round(self.seconds * units.SAMPLE_RATE_HZ))

    def tracks(self) -> "FaceTracks":
        """The committed plan as units and pose, on this run's idle motion."""
        from specsync_lib.face.head.motion import face_tracks

        return speaking_tracks(face_tracks(self.plan), self.idle)

    def facts(self) -> dict:
        """What ``run.json`` holds; ``same_plan`` is for who compares runs."""
        chunks, ages = self.report.chunks(), self.ages()
        return {
            "rule": self.rule,
            "threshold": self.threshold,
            "confidence": None if self.threshold is None else CONFIDENCE,
            "guarantee": self.guarantee,
            "device": self.device,
            "label": self.label,
            "models": dict(self.models) | {"decoder": self.decoder}
            | ({"judge": "none", "engine": "none"} if self.rule == "draft" else {}),
            "chunk_slots": self.report.chunk.slots,
            "seconds": self.seconds,
            "frames": self.report.frame_count,
            "chunks": len(chunks),
            "wall_s": round(self.report.wall_s, 3),
            "counts": self.report.counts,
            "frames_by": dict(sorted(self.frames()["by"].value_counts().items())),
            "passes": int(chunks["passes"].sum()),
            "notes": list(self.report.notes),
            "latency_ms": quantiles(self.report.own_latency_s() * 1e3),
            "sound_to_frame_ms": {name: quantiles(ages[name]) for name in ages.columns if name.endswith("_ms")},
            "same_plan": None,
            "machine": provenance.machine(),
        }  # fmt: skip


def quantiles(values) -> dict[str, float | int]:
    """p50, p99, worst and how many."""
    p50, p99, worst = np.percentile(values, [50, 99, 100]) if len(values) else (0.0, 0.0, 0.0)
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "worst": round(float(worst), 3), "n": len(values)}


def _frame_rows(commit: Commit, chunks: int) -> Iterator[tuple]:
    names = lambda tokens: [VISEMES[token] for token in tokens] or [""] * len(commit.tokens)  # noqa: E731
    drafted = () if commit.how == "written" else commit.drafted
    sure = commit.confidence if drafted else np.full(len(commit.tokens), np.nan)
    recalibrated = np.full(len(commit.tokens), np.nan) if commit.recalibrated is None else commit.recalibrated
    first = commit.first_frame
    for k, (draft, judge, committed) in enumerate(
        zip(names(drafted), names(commit.judged), names(commit.tokens), strict=True)
    ):
        yield (
            (first + k) / VIDEO_FPS, first + k, commit.index, draft, sure[k], recalibrated[k], judge, committed,
            commit.openness[k], commit.by[k], commit.passes,
        )  # fmt: skip


class System:
    """Models and a person on a device; every `run` is a new stream.

    Parameters
    ----------
    models : from `load_models`, on the face that ``head`` shows at rest.
    head : draws what lies around the generated square.
    seed : of the idle motion and of the noise.
    """

    def __init__(self, models: Models, head: "Head", device: str, seed: int = 0) -> None:
        self.models, self.head, self.device, self.seed = models, head, device, seed

    def run(
        self,
        samples: np.ndarray,
        rule: RunRule = DEFAULT_RULE,
        threshold: float | None = None,
        *,
        heard: np.ndarray | None = None,
        video: str | Path | None = None,
        under: list[np.ndarray] | None = None,
        progress: bool = True,
        say: Callable[[str], None] = print,
        watch: Callable[[Commit], None] | None = None,
        stop: threading.Event | None = None,
    ) -> SystemRun:
        """Run the pipeline over a recording.

        Parameters
        ----------
        samples : [n] floats, 16 kHz mono in [-1, 1]; put into the video as they are.
        heard : what draft and judge hear of it, as long (`ears.as_heard`); by default all of it, at level.
        rule, threshold : as `checked_rule` gives them.
        video : where the MP4 goes; None: no picture around the face is drawn.
        under : another run's squares, to lay this one's faces on.
        progress : whether to show a bar.
        say : where lines for a person go.
        watch : told of every commit; what it raises ends the run and is raised here.
        stop : set it from another thread to end the run: after the denoising step, the judge's pass, the decoded slot
            and the picture in hand.

        Raises
        ------
        Stopped: ``stop`` was set before all frames were there.
        InputError: the pipeline ended early; the line names the part file, which plays what was committed.
        """
        frames = units.frame_count(len(samples))
        if not frames:
            raise InputError(f"recording of {len(samples)} samples: shorter than half a video frame; give a longer one")
        heard = at_level(samples) if heard is None else heard
        if len(heard) != len(samples):
            raise InputError(f"recording of {len(samples)} samples: {len(heard)} are to be heard; give as many")
        idle = idle_tracks(frames, self.seed)
        stop = threading.Event() if stop is None else stop
        canvas = _Canvas(self.head, idle, video, under, stop=stop)
        bar = tqdm(total=frames, desc=f"{rule}, {self.device}", unit="frame", disable=not progress)

        def take(commit: Commit) -> None:
            canvas.lay(commit)
            bar.update(len(commit.tokens))
            kept.append(replace(commit, frames=np.empty((0, *commit.frames.shape[1:]), np.uint8)))
            if watch is not None:
                watch(commit)

        kept: list[Commit] = []
        try:
            report = self._pipeline(heard, rule, threshold, idle, canvas, take, stop)
            report = replace(report, commits=tuple(kept))
            if stop.is_set():
                raise Stopped
            if report.ended != "complete":
                raise InputError(f"the run ended after {report.frame_count} frames: {report.error}")
            info = canvas.finish(samples)
        except BaseException as error:
            if line := canvas.stopped():
                say(line)
                error.add_note(line)
            raise
        finally:
            bar.close()
        threshold = threshold if rule == "gate" else None
        seconds = len(samples) / units.SAMPLE_RATE_HZ
        how = rule, threshold, self.device, self.models.face.decoder.row, self.models.label, self.models.names
        return SystemRun(*how, report, info, canvas.shown, canvas.under, idle, seconds)

    def _pipeline(
        self,
        samples: np.ndarray,
        rule: RunRule,
        threshold: float | None,
        idle: "FaceTracks",
        canvas: "_Canvas",
        take: Callable[[Commit], None],
        stop: threading.Event | None = None,
    ) -> PipelineReport:
        stages = self.models.stages(
            options=run_options(rule, threshold),
            drafted=rule != "judge",
            seed=self.seed,
            idle=generation.idle_rows(idle),
        )
        source = _chunkwise(samples, canvas.draw, self.models.chunk)
        report = run_stream(
            source, stages, rule, threshold, device=self.device, policy=POLICY, ahead=1, on_commit=take, stop=stop
        )
        return replace(report, notes=(*report.notes[:NOTED_FAULTS], *stages.judge.faults[:NOTED_FAULTS]))

    def expected_s(
        self, samples: np.ndarray, rule: RunRule, threshold: float | None = None, video: bool = True
    ) -> float:
        """How long a run will take here, by its first chunk, which is also what warms the models up."""
        first = samples[: samples_for_chunk(0, self.models.chunk)]
        # The first call of anything is slow; a head was drawn when it was loaded.
        self._expected(first, rule, threshold, video=False)
        frames = max(1, units.frame_count(len(first)))
        return self._expected(first, rule, threshold, video) * units.frame_count(len(samples)) / frames

    def _expected(self, samples: np.ndarray, rule: RunRule, threshold: float | None, video: bool) -> float:
        idle = idle_tracks(units.frame_count(len(samples)), self.seed)
        canvas = _Canvas(self.head, idle, None, None, drawn=video)
        started = time.perf_counter()
        self._pipeline(at_level(samples), rule, threshold, idle, canvas, canvas.lay)
        return time.perf_counter() - started


class _Canvas:
    """Frames on their way out: the head around the face, drawn before a chunk is heard, and the video."""

    def __init__(
        self,
        head: "Head",
        idle: "FaceTracks",
        video: str | Path | None,
        under: list[np.ndarray] | None,
        drawn: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        self.shown: list[np.ndarray] = []
        self.under: list[np.ndarray] = [] if under is None else under
        self._laid_on = under is not None
        self._video = None if video is None else GrowingVideo(video)
        self._resting = resting(head, idle) if video is not None or drawn else None
        self._drawn: deque[np.ndarray] = deque()  # by the thread that feeds the sound, taken by the one that lays
        self._box, self._inner = reader_box(), inside(FACE_BOX, reader_box())
        self._stop = threading.Event() if stop is None else stop

    def draw(self, frames: int) -> None:
        """So many more frames of the resting head."""
        for frame in () if self._resting is None else islice(self._resting, frames):
            self._drawn.append(frame)
            if self._stop.is_set():
                raise Stopped

    def lay(self, commit: Commit) -> None:
        """A chunk's faces into their frames."""
        for index, face in enumerate(commit.frames, start=commit.first_frame):
            if self._stop.is_set():
                raise Stopped
            keep = index < COMPARED_FRAMES
            if self._resting is not None:
                under = self._drawn.popleft()
                picture = composite(under, face, FACE_BOX)
                if self._video is not None:
                    self._video.push(picture)
                if keep:
                    self.under.append(under[self._box.slices].copy())
                    self.shown.append(picture[self._box.slices].copy())
            elif self._laid_on and index < len(self.under):
                self.shown.append(composite(self.under[index], face, self._inner))

    def finish(self, samples: np.ndarray) -> VideoInfo | None:
        """The whole video."""
        return None if self._video is None else self._video.finish(samples)

    def stopped(self) -> str | None:
        """Where what was committed can be seen, as one line."""
        part = None if self._video is None else self._video.stop()
        if part is None:
            return None
        frames = self._video.frame_count
        return f"stopped: {part} plays the {frames} frames ({frames / VIDEO_FPS:.1f} s) that were committed"


def _chunkwise(samples: np.ndarray, draw: Callable[[int], None], size: ChunkSize) -> Iterator[AudioPiece]:
    """A recording chunk by chunk, each as soon as there is room, with what must be drawn before it."""
    first = chunk = 0
    left = units.frame_count(len(samples))
    while first < len(samples):
        end = samples_for_chunk(chunk, size)
        # what is left when the sound ends here comes in one or two chunks
        count = left if end >= len(samples) else size.frames
        draw(count)
        yield AudioPiece(first, samples[first:end])
        first, chunk, left = end, chunk + 1, left - count


def run_stream(
    source: Iterable[AudioPiece],
    stages: Stages,
    rule: RunRule,
    threshold: float | None = None,
    *,
    device: str,
    policy: Policy,
    ahead: int = AHEAD_CHUNKS,
    threads: Mapping[Station, int] | None = None,
    reasoning_tokens: int = 0,
    on_commit: Callable[[Commit], None] | None = None,
    stop: threading.Event | None = None,
) -> PipelineReport:
    """A stream through stages as the device runs them best: every run's way and that of every measurement of it.

    ``judge`` runs serially, on all of a CPU's cores; under every other rule the stations share them. The report keeps
    no commits.

    Parameters
    ----------
    policy : but for its gate, which follows from rule and threshold.
    ahead : as for `run.Pipeline`; 1 measures each chunk by itself.
    threads : a CPU's other seats than `seats` gives.
    reasoning_tokens : that ``judge`` writes before each plan.
    """
    seated = seats(device, rule, threads)
    if rule == "judge":
        with _computing_on(seated):
            more = {"on_commit": on_commit, "keep_commits": False, "stop": stop}
            return run_serial(source, stages, policy, reasoning_tokens=reasoning_tokens, **more)
    policy = replace(policy, gate=gate_of(rule, threshold))
    return run_speculative(
        source, stages, policy, ahead=ahead, on_commit=on_commit, keep_commits=False, stop=stop, threads=seated
    )


def seats(device: str, rule: RunRule, threads: Mapping[Station, int] | None = None) -> int | dict[Station, int] | None:
    """A stream's threads on a CPU: by station, all of them where it runs serially. On a GPU None: torch's own."""
    if device != "cpu":
        return None
    return usable_threads() if rule == "judge" else station_threads(usable_threads()) | dict(threads or {})


@contextmanager
def _computing_on(threads: int | None) -> Iterator[None]:
    """torch computes on so many threads in this one; None: on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def checked_rule(rule: str | None, threshold: float | None) -> tuple[RunRule, float | None, str | None]:
    """A run's rule and threshold, and a line for the reader where one was chosen or has no use.

    Raises
    ------
    InputError: an unknown rule, or a threshold outside [0, 1].
    """
    if rule is not None and rule not in RUN_RULES:
        raise InputError(f"rule is {rule!r}: expected one of {', '.join(RUN_RULES)}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}: expected a share from 0 to 1")
    if rule is None and threshold is not None:
        return "gate", threshold, f"a threshold and no rule: rule=gate, threshold={threshold:g}"
    rule = rule or DEFAULT_RULE
    if rule == "gate":
        return rule, DEFAULT_THRESHOLD if threshold is None else threshold, None
    line = None if threshold is None else f"warning: rule={rule} has no use for threshold={threshold:g}; it is ignored"
    return rule, None, line


def gate_of(rule: RunRule, threshold: float | None) -> float | None:
    """`Policy.gate` of a rule: nobody is asked under ``draft``, sure chunks are not under ``gate``."""
    return {"draft": 0.0, "gate": threshold}.get(rule)


def load_system(
    device: str = "auto",
    seed: int = 0,
    head: "Head | None" = None,
    *,
    row: Row | None = None,
    decoder: str | None = None,
    chunk: ChunkSize = CHUNK,
) -> System:
    """The models of a row (the default one's without) on a device, and the reference head. ``decoder``, ``chunk``: as
    for `load_models`.

    Raises
    ------
    InputError: weights are absent or unfit, or there is no such device.
    """
    from specsync_lib.face.head.head import Head

    device, row = resolve(device), Row() if row is None else row
    head = Head(seed=seed) if head is None else head
    reference = cut(head.render(np.zeros(52, np.float32)), FACE_BOX, row.video.pixels)
    models = load_models(row, device=device, reference=reference, seed=seed, decoder=decoder, chunk=chunk)
    return System(models, head, device, seed)


def write_run(run: SystemRun, folder: str | Path, **facts: object) -> None:
    """``committed_plan.csv``, ``arkit.csv`` (52 face units, a row a frame at 30 fps) and ``run.json`` of a run.

    Parameters
    ----------
    facts : replace or join `SystemRun.facts`.
    """
    from specsync_lib.face.head.mesh import unit_names

    folder = Path(folder)
    tables = {
        "committed_plan.csv": run.frames().round(5),
        "arkit.csv": pd.DataFrame(run.tracks().units, columns=list(unit_names())).round(5),
    }
    for name, table in tables.items():
        with atomic_path(folder / name) as path:
            table.to_csv(path, index=False)
    write_json(folder / "run.json", run.facts() | facts)


def write_latency(runs: Mapping[str, SystemRun], folder: str | Path) -> None:
    """``run_chunks.csv``, ``run_ages.csv`` and ``run_trace.csv`` of named runs, in column ``run``, and the first one's
    trace for Perfetto, ``latency_trace.json``."""
    tables = {
        "run_chunks.csv": {
            name: one.report.chunks().assign(own_latency_ms=1e3 * one.report.own_latency_s())
            for name, one in runs.items()
        },
        "run_ages.csv": {name: one.ages() for name, one in runs.items()},
        "run_trace.csv": {name: one.report.trace.table() for name, one in runs.items()},
    }
    for name, parts in tables.items():
        with atomic_path(Path(folder) / name) as path:
            pd.concat(parts, names=["run"]).droplevel(1).reset_index().round(6).to_csv(path, index=False)
    next(iter(runs.values())).report.trace.write_perfetto(Path(folder) / "latency_trace.json")


def compared_samples(size: ChunkSize) -> int:
    """How much of a long recording a second run must hear to show COMPARED_FRAMES: a whole number of chunks."""
    return samples_for_chunk(-(-COMPARED_FRAMES // size.frames) - 1, size)


def agreement(one: SystemRun, other: SystemRun) -> tuple[float, int]:
    """Share of frames whose committed viseme is the same in two runs, and of how many.

    One may have heard a shorter excerpt: its chunks that heard the same are compared.
    """
    frames, size = min(one.report.frame_count, other.report.frame_count), one.report.chunk
    if one.seconds != other.seconds:
        heard = round(min(one.seconds, other.seconds) * units.SAMPLE_RATE_HZ)
        whole = sum(samples_for_chunk(chunk, size) <= heard for chunk in range(frames // size.frames + 1))
        frames = min(frames, size.first_frame(whole))
    return float((one.report.plan[:frames] == other.report.plan[:frames]).mean()), frames


def run(
    audio: str | Path | np.ndarray,
    rule: str | None = None,
    threshold: float | None = None,
    *,
    out: str | Path = "specsync_run",
    device: str = "auto",
    decoder: str | None = None,
    chunk_slots: int = CHUNK.slots,
    seed: int = 0,
    track: int = 0,
    start_s: float = 0.0,
    duration_s: float = 0.0,
    row: str | Path = DEFAULT_ROW,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> SystemRun:
    """The system on a recording, for a notebook of one's own: ``specsync_lib.run``.

    Parameters
    ----------
    audio : a sound or video file, or [n] samples at 16 kHz, mono, in [-1, 1].
    rule : exact (the default), mouth, lenient, gate, draft or judge.
    threshold : of the gate; given without a rule it selects the gate.
    out : folder for ``talk.mp4``, ``committed_plan.csv``, ``arkit.csv`` and ``run.json``.
    device : auto, cpu or cuda.
    decoder : what makes pictures of latents: wan, light or tiny; None: the row's.
    chunk_slots : 1, 2 or 3 slots (4, 8 or 12 frames) at a time.
    track : of a file's sound tracks, from 1; 0: the best that decodes.
    start_s, duration_s : an excerpt; a duration of 0 goes to the end.
    row : which models, by a name in data/rows or a TOML file.

    Raises
    ------
    InputError: one line that says what to change.

    Examples
    --------
    >>> import specsync_lib
    >>> run = specsync_lib.run("talk.wav", rule="gate", threshold=0.6, out="gate_060")  # doctest: +SKIP
    >>> run.frames().query("by == 'draft'")  # doctest: +SKIP
    """
    from specsync_lib.speech.excerpt import cut, load_excerpt

    rule, threshold, line = checked_rule(rule, threshold)
    if line:
        say(line)
    if isinstance(audio, np.ndarray):
        samples = cut(np.asarray(audio, np.float32), start_s, duration_s)
    else:
        recording = load_excerpt(audio, start_s=start_s, duration_s=duration_s, track=track)
        samples = recording.samples
        if recording.warning:
            say(recording.warning)
    parts = read_row(row)
    system = load_system(device, seed, row=parts, decoder=decoder, chunk=ChunkSize(chunk_slots))
    expected_s = system.expected_s(samples, rule, threshold)
    seconds = len(samples) / units.SAMPLE_RATE_HZ
    say(f"{seconds:.1f} s of sound: about {expected_s:.0f} s expected on this machine ({system.device}), by one chunk")
    if not (speech := anyone_speaks(samples, parts.hearing)):
        say("Whisper hears no speech: the mouth stays shut")
    heard, video = as_heard(samples, speech), Path(out) / "talk.mp4"
    done = system.run(samples, rule, threshold, heard=heard, video=video, progress=progress, say=say)
    write_run(done, out)
    return done
