"""Chunks of 1, 2 and 3 slots, and of sizes that there are not: through run, live, and a row's judge behind a server.

The shipped draft with a toy judge, toy ears and a toy face (`judges.system`). A recording ends within, with and after a
chunk; every frame of it goes out once, and what *exact* commits is what the judge alone writes, at every size.
"""

import contextlib
import io
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from unittest import mock

import numpy as np

from specsync_lib import units
from specsync_lib.door import parameters
from specsync_lib.errors import InputError
from specsync_lib.face.video import video_info
from specsync_lib.jobs import live
from specsync_lib.judge.loading import load_judge
from specsync_lib.pipeline import system as whole
from specsync_lib.rows import LOCAL, Judge
from specsync_lib.speech.audio import write_flac
from specsync_lib.units import CHUNK_SLOTS, ChunkSize
from tests.toys.reasoner import byte_tokenizer, tiny_llama
from tests.toys.servers import KINDS, ToyServer, serving
from tests.toys.systems import SPEECH
from workbench.measure.trials.judges import RULES, system
from workbench.measure.trials.outcome import RIGHT, Outcome, one_line, require, survived
from workbench.measure.trials.rows import refused, said_of

SHORT_EVERY = 24
LONGEST = units.frame_count(len(SPEECH))  # frames
RUN_RULES, LIVE_RULES = ("exact", "draft", "gate"), ("exact", "draft")
WRITTEN = ("0", "4", "-1", "1.5", "three", "", " ", "1e0", "0x2", "2 slots", "9" * 30, "nan", "None", "[1]", "1,2")
GIVEN = {"none": 0, "four": 4, "negative": -1, "half": 1.5, "float": 2.0, "text": "2", "nothing": None, "list": [1]}
IN_ROWS = {"alone": "chunk_slots = 2", "of the judge": "[judge]\nchunk_slots = 2", "a part": "[chunks]\nslots = 2"}


def lengths(size: ChunkSize) -> list[int]:
    """Recordings in frames: one, and to just before, at and after a chunk's end."""
    return [1, size.frames - 1, size.frames, size.frames + 1, LONGEST]


@cache
def cases() -> dict[str, Callable[[Path], Outcome]]:
    """By name."""
    found: dict[str, Callable[[Path], Outcome]] = {}
    for size in map(ChunkSize, CHUNK_SLOTS):
        for frames in lengths(size):
            for rule in RUN_RULES:
                found[f"run: {size.slots} slots, {frames} frames, rule {rule}"] = partial(ran, size, frames, rule)
            for rule in LIVE_RULES:
                found[f"live: {size.slots} slots, {frames} frames, rule {rule}"] = partial(lived, size, frames, rule)
        for kind in KINDS:
            found[f"row: {kind}, {size.slots} slots"] = partial(served, size, kind)
    for text in WRITTEN:
        found[f"run_all.sh: chunk_slots={text}"] = partial(written, parameters.main, ("-p", f"chunk_slots={text}"))
        found[f"live: --chunk-slots {text}"] = partial(
            written, live.main, ("--audio", "none.wav", f"--chunk-slots={text}")
        )
    found |= {f"run: a size as {what}": partial(given, value) for what, value in GIVEN.items()}
    found |= {f"row: a key {what}": partial(in_row, text) for what, text in IN_ROWS.items()}
    return found


def names(short: bool) -> list[str]:
    """Sizes that there are, then the others."""
    return list(cases())[:: SHORT_EVERY if short else 1]


def attempt(name: str, folder: Path) -> Outcome:
    """One of them."""
    return cases()[name](folder)


def of_size(size: ChunkSize, **models: object) -> whole.System:
    """The toy system in chunks of a size, with other models in it."""
    usual = system()
    return whole.System(replace(usual.models, face=usual.models.face.fresh(size), **models), usual.head, "cpu")


def speech(frames: int) -> np.ndarray:
    """A recording of so many frames."""
    return SPEECH[: -(-frames * units.SAMPLE_RATE_HZ // units.VIDEO_FPS)]


@contextlib.contextmanager
def loading(toy: whole.System, module: object) -> Iterator[None]:
    """Entries get this system, and somebody speaks; a stream's signals are put back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with mock.patch.object(module, "load_system", lambda *_, **__: toy):
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)


def ran(size: ChunkSize, frames: int, rule: str, folder: Path) -> Outcome:
    """``specsync_lib.run`` on samples."""
    toy, samples = of_size(size), speech(frames)
    with loading(toy, whole), mock.patch.object(whole, "anyone_speaks", lambda *_: True):
        run = whole.run(
            samples, rule, RULES.get(rule), out=folder / "out", chunk_slots=size.slots,
            progress=False, say=lambda line: None,
        )  # fmt: skip
    check_frames(run, size, frames)
    require(video_info(folder / "out" / "talk.mp4").frame_count == frames, "the video has other frames")
    if rule == "exact":
        alone = toy.run(samples, "judge", progress=False, say=lambda line: None)
        require(run.report.plan.tolist() == alone.report.plan.tolist(), "exact is not the judge's own plan")
    return survived(RIGHT)


def check_frames(run: whole.SystemRun, size: ChunkSize, frames: int) -> None:
    """Every frame once, in chunks of that size."""
    table, chunks = run.frames(), run.facts()["chunks"]
    require(run.report.ended == "complete", f"{run.report.ended}: {run.report.error}")
    require(table["frame"].tolist() == list(range(frames)), f"frames {table['frame'].tolist()}")
    require(table["chunk"].tolist() == [frame // size.frames for frame in range(frames)], "frames of other chunks")
    require(chunks == -(-frames // size.frames), f"{chunks} chunks")
    require("policy" not in set(table["by"]), "a chunk went out unverified")


def lived(size: ChunkSize, frames: int, rule: str, folder: Path) -> Outcome:
    """``run_all.sh live`` on a file."""
    write_flac(folder / "talk.flac", speech(frames))
    out = folder / "talk.mp4"
    arguments = ["--audio", folder / "talk.flac", "--rule", rule, "--chunk-slots", size.slots, "--out", out]
    errors = io.StringIO()
    with loading(of_size(size), live), contextlib.redirect_stdout(errors), contextlib.redirect_stderr(errors):
        code = live.main(list(map(str, arguments)))
    require(code == 0, f"exit code {code}: {errors.getvalue()[-300:]!r}")
    require(video_info(out).frame_count == frames, f"{video_info(out).frame_count} frames were shown")
    return survived(RIGHT)


def served(size: ChunkSize, kind: str, folder: Path) -> Outcome:
    """A judge behind a server decides chunks of any size as the same one does in this process."""
    byte_tokenizer().save_pretrained(folder / "tiny")
    tiny_llama().save_pretrained(folder / "tiny")
    local, quiet = Judge(LOCAL, str(folder / "tiny"), weights="random", adapter="none"), {"progress": False}
    with serving(ToyServer()) as url:
        judge = load_judge(replace(local, kind=kind, url=url, timeout_s=60.0))
        run = of_size(size, reasoner=judge).run(SPEECH, "exact", **quiet)
    check_frames(run, size, LONGEST)
    here = of_size(size, reasoner=load_judge(local)).run(SPEECH, "exact", **quiet)
    require(run.report.plan.tolist() == here.report.plan.tolist(), "another plan than the same model's here")
    return survived(RIGHT)


def written(main: Callable, arguments: tuple[str, ...], folder: Path) -> Outcome:
    """A size that there is not, on a command line."""
    code, lines = said_of(main, arguments)
    return refused(code, lines, "slots")


def given(value: object, folder: Path) -> Outcome:
    """A size that there is not, from a person's own notebook."""
    try:
        whole.run(SPEECH, out=folder / "out", chunk_slots=value, say=lambda line: None)
    except InputError as error:
        require(not (folder / "out").exists(), "something is left")
        return refused(error.EXIT_CODE, [one_line(str(error))], "expected 1, 2 or 3 slots")
    return Outcome(lost=[f"{value!r} was taken"])


def in_row(text: str, folder: Path) -> Outcome:
    """A row picks models, no sizes: the key is unknown there."""
    path = folder / "mine.toml"
    path.write_text(text)
    code, lines = said_of(parameters.main, ["--row", str(path)])
    return refused(code, lines, "is unknown")
