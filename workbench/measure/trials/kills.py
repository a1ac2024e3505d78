"""Runs that are killed at a random moment and begun again: nothing lost, nothing torn, no process left.

Two kinds. *small*: the real runner, its real kernels, stamps, lock and report, on two notebooks of its own that decode,
draft and stream 1.2 s of a clip through the pipeline into a 720p video, with the shipped draft and synthetic stages in
place of the judge and the face. *smoke*: ``--profile smoke`` itself, all five notebooks, on 1.2 s.

A case is a chain: several kills, each of a run that goes on from what the one before it left, then a run to the end,
whose files must be those of a run that nobody killed. A small run begins afresh every other time. A smoke chain begins
where another run has finished some of the notebooks, none to four of them, and a kill falls anywhere in the notebook
that comes next, so that a chain costs minutes and every notebook, the report too, meets its kills.
"""

import atexit
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import psutil

from specsync_lib.door.project import Project
from specsync_lib.door.stamps import Finished, adopt, file_hash, forget, read_stamp
from specsync_lib.errors import INTERRUPTED_EXIT_CODE
from specsync_lib.face.video import video_info
from specsync_lib.files import LEFT_BEHIND
from specsync_lib.paths import CLIPS_DIR, PROJECT_ROOT
from specsync_lib.speech.audio import load_audio
from workbench.measure.trials import small_run
from workbench.measure.trials.outcome import Lost, Outcome, require

KILLS = {"smoke": 8, "small": 4}  # of a chain
CHAINS = {"smoke": 13, "small": 24}
DURATION_S = 1.2
AUDIO = CLIPS_DIR / "closures.flac"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
LEAVES_WITHIN_S = 30  # what a killed run started ends by itself
TORN = "torn"
HELD = ("env", "--block-signal=INT")
if shutil.which("env") is None or subprocess.run([*HELD, "true"], capture_output=True, check=False).returncode:
    HELD = ()
# Made the same way in every run, to the byte.
SAME = (
    "speech.flac", "draft.csv", "plan.csv", "committed_plan.csv", "arkit.csv", "draft_plan.csv", "truth_plan.csv",
    "words.csv", "recording_frames.csv", "recording_sweep.csv", "acceptance_frames.csv", "features.safetensors",
)  # fmt: skip


def names(short: bool) -> list[str]:
    """The chains; the short form is one small one of a single kill."""
    if short:
        return ["small 00: 1"]
    return [f"{kind} {number:02d}: {KILLS[kind]}" for kind in KILLS for number in range(CHAINS[kind])]


# --- a run, its end, and what it left ---------------------------------------------------------------------------------


class Chain:
    """One project and the runs in it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        run, plots = folder / "data" / "run", folder / "plots"
        if kind == "small":
            self.project = small_run.make(folder)
            command = ["-m", "workbench.measure.trials.small_run", str(folder)]
        else:
            self.project = Project(PROJECT_ROOT, PROJECT_ROOT / "notebooks", run, plots)
            command = ["-m", "specsync_lib.door.runner", "--profile", "smoke"]
        excerpt = {"audio": AUDIO, "duration_s": DURATION_S, "start_s": 0.5}
        options = [part for key, value in excerpt.items() for part in ("-p", f"{key}={value}")]
        # As run_all.sh starts it: Ctrl-C is held back until it listens, where env can do so.
        self.command = [*HELD, sys.executable, "-P", *command, *options]
        self.environment = os.environ | {
            "SPECSYNC_RUN_DIR": str(run),
            "SPECSYNC_PLOTS_DIR": str(plots),
            "PYTHONPATH": str(PROJECT_ROOT),
        }

    def start(self, *more: str) -> subprocess.Popen:
        """Begin a run, as a shell does: in a group of its own, Ctrl-C not ignored."""
        with (self.folder / "stderr.txt").open("wb") as errors:
            return subprocess.Popen(
                [*self.command, *more],
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def said(self) -> str:
        """On standard error, by the latest run."""
        return (self.folder / "stderr.txt").read_text(encoding="utf-8", errors="replace")

    def left(self) -> list[int]:
        """Processes of this project that are still there."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("SPECSYNC_RUN_DIR") == self.environment["SPECSYNC_RUN_DIR"]
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def files(self) -> dict[str, Path]:
        """What lies under a final name."""
        found = {}
        for folder in (self.project.run, self.project.plots):
            for path in folder.rglob("*"):
                hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
                unfinished = "unfinished" in path.parts or path.name.endswith((".part.mp4", ".lock"))
                if path.is_file() and not hidden and not unfinished:
                    found[str(path.relative_to(self.folder))] = path
        return found

    def stamps(self) -> dict[str, Finished]:
        """The finished notebooks."""
        kept = {path.stem: read_stamp(self.project, path.stem) for path in (self.project.run / "stamps").glob("*.json")}
        require(None not in kept.values(), "a torn stamp")
        return kept

    def finish(self) -> None:
        """A run to its end."""
        process = self.start()
        try:
            code = process.wait(1500)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Lost("a run that does not end") from None
        require(code == 0, f"exit code {code}: {self.said()[-300:]!r}")
        hidden = [path for path in self.folder.rglob(".*") if path.is_file() and LEFT_BEHIND.fullmatch(path.name)]
        require(not hidden, f"beginnings of files are left: {[path.name for path in hidden][:3]}")
        require(not list(self.project.plots.rglob("*.part.mp4")), "a part of a video is left")

    def hashes(self) -> dict[str, str]:
        """Of what every run makes the same."""
        return {name: file_hash(path) for name, path in self.files().items() if path.name in SAME}


@dataclass(frozen=True)
class Reference:
    """A run that nobody killed: how long it took, the files that every run makes the same, its videos, its stamps."""

    chain: Chain
    wall_s: float
    hashes: dict[str, str]
    videos: dict[str, tuple[int, float]]
    stamps: dict[str, Finished]

    def check(self, chain: Chain) -> None:
        """Everything under a final name is complete."""
        for name, path in chain.files().items():
            check_whole(path, self.videos.get(name))

    def until_next(self, finished: Collection[str]) -> float:
        """Seconds of a run until the first notebook that is not finished will be; of a small one, all it takes."""
        outside_s = self.wall_s - sum(one.wall_s for one in self.stamps.values())
        waiting = [name for name in sorted(self.stamps) if name not in finished]
        if self.chain.kind == "small":
            return self.wall_s
        return outside_s + (self.stamps[waiting[0]].wall_s if waiting else 0.0)


def shape(path: Path) -> tuple[int, float]:
    """A video's pictures, and how many milliseconds later than they its sound ends."""
    info = video_info(path)
    return info.frame_count, round(info.av_end_difference_ms, 1)


def check_whole(path: Path, video: tuple[int, float] | None = None) -> None:
    """A file under its final name is complete; a video has this shape."""
    try:
        match path.suffix:
            case ".json" | ".ipynb":
                require(bool(json.loads(path.read_text(encoding="utf-8"))), "is empty")
            case ".csv":
                rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
                require(bool(rows) and {len(row) for row in rows} == {len(rows[0])}, "has a torn row")
            case ".flac":
                require(not load_audio(path).warning, "is cut")
            case ".mp4":
                require(video in (None, shape(path)), f"is {shape(path)}, not {video}")
            case ".png":
                require(path.read_bytes()[-8:-4] == b"IEND", "is cut")
            case ".html":
                require("</html>" in path.read_text(encoding="utf-8")[-200:], "is cut")
    except Lost as lost:
        raise Lost(f"{TORN}: {path.name} {lost}") from None
    except Exception as error:
        raise Lost(f"{TORN}: {path.name}: {type(error).__name__} {str(error)[:100]}") from None


def kill_one(chain: Chain, rng: np.random.Generator, reference: Reference) -> str:
    """Start, kill, look; returns which signal it was."""
    before = chain.stamps()
    fresh = chain.kind == "small" and bool(before) and rng.random() < 0.5
    sent = SIGNALS[int(rng.integers(len(SIGNALS)))]
    within_s = reference.until_next(before)
    process = chain.start(*(["--fresh"] if fresh else []))
    ended_before = True
    try:
        process.wait(float(rng.random()) * within_s)
    except subprocess.TimeoutExpired:
        ended_before = False
        os.kill(process.pid, sent) if sent == signal.SIGKILL or rng.random() < 0.5 else os.killpg(process.pid, sent)
    try:
        code = process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise Lost(f"{sent.name}: it does not end") from None
    until = time.monotonic() + LEAVES_WITHIN_S
    while (left := chain.left()) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    require(not left, f"{sent.name}: {len(left)} processes are left")
    said = chain.said()
    require("Traceback (most" not in said, f"{sent.name}: a traceback: {said[said.find('Traceback') - 150 :][:900]!r}")
    if not ended_before and sent != signal.SIGKILL:
        # A second interruption on the way out ends Python by SIGINT, which a shell shows as INTERRUPTED_EXIT_CODE too.
        ends = (INTERRUPTED_EXIT_CODE, -sent, -signal.SIGINT, 0)
        require(code in ends, f"{sent.name}: exit code {code}, {said[-200:]!r}")
    reference.check(chain)
    if not fresh:
        after = chain.stamps()
        require(before.items() <= after.items(), f"{sent.name}: a finished notebook is lost")
    return "ended before its kill" if ended_before else sent.name


def attempt(name: str, folder: Path) -> Outcome:
    """One chain."""
    kind, number, kills = name.replace(":", "").split()
    rng = np.random.default_rng(int(number) + 1_000 * (kind == "smoke"))
    reference, chain, outcome, how = undisturbed(kind), Chain(kind, folder), Outcome(), Counter()
    if kind == "smoke":
        begin(chain, reference, int(number) % len(reference.stamps))
    for number in range(int(kills)):
        for _ in range(5):  # a run that ended before its moment is no kill
            try:
                sent = kill_one(chain, rng, reference)
            except Lost as lost:
                outcome.lost.append(f"kill {number}: {lost}")
                break
            if sent in signal.Signals.__members__:
                how[sent] += 1
                break
            if kind == "smoke":
                begin(chain, reference, int(rng.integers(len(reference.stamps))))
    try:
        chain.finish()
        reference.check(chain)
        other = {file for file, digest in reference.hashes.items() if chain.hashes().get(file) != digest}
        require(not other, f"the last run's files are not those of one that nobody killed: {sorted(other)}")
    except Lost as lost:
        how, outcome.lost = Counter(), [*outcome.lost, *[f"in the end: {lost}"] * how.total()]
    outcome.how = Counter({f"{kind}, {sent}": count for sent, count in how.items()})
    return outcome


def begin(chain: Chain, reference: Reference, finished: int) -> None:
    """Leave the chain where the first so many notebooks are finished, as copies of the reference's."""
    for number, name in enumerate(sorted(reference.stamps)):
        forget(chain.project, name)
        if number < finished:
            require(
                adopt(reference.chain.project, chain.project, name, reference.stamps[name].key) is not None,
                f"{name}: a finished notebook cannot be copied",
            )


@cache
def undisturbed(kind: str) -> Reference:
    """A run that nobody kills, begun from nothing."""
    folder = tempfile.mkdtemp(prefix="undisturbed-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    chain, started = Chain(kind, Path(folder)), time.monotonic()
    chain.finish()
    wall_s = time.monotonic() - started
    videos = {name: shape(path) for name, path in chain.files().items() if path.suffix == ".mp4"}
    return Reference(chain, wall_s, chain.hashes(), videos, chain.stamps())
