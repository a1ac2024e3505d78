"""Faults of the judge: the policy decides, the chunk is counted, and the person is told.

Faults of a verdict are played by synthetic stages with their threads, under both policies; faults of the rows that a
model gives go through the whole system (the shipped draft, a toy judge, a toy face) under every rule that asks.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from specsync_lib.pipeline import system as whole
from specsync_lib.pipeline.models import Models
from specsync_lib.pipeline.run import Pipeline
from specsync_lib.pipeline.stages import Policy, Request, Verdict
from tests.toys.judges import FAULTS
from tests.toys.schedules import MALFORMED
from tests.toys.streams import BAD_JUDGES, TARGET_PLAN, Bad, fast, no_threads_left, stages
from tests.toys.systems import SPEECH, ToyHead, ToyReasoner, ToyStream, log_odds_policy
from tests.toys.waiting import HeldClock
from workbench.measure.trials.outcome import Outcome, one_line, require, survived

SHORT_EVERY = 12
WENT_ON, STOPPED = "went on under the draft, counted and told", "ended with one line, as the policy is"
DEADLINE_S, STRICT_S, PATIENT_S, GRACE_S = 0.15, 1.0, 60.0, 0.1
RULES = {"exact": None, "mouth": None, "lenient": None, "gate": 0.95}


def rain(request: Request, deliver: Callable) -> None:
    """Says the wrong thing a thousand times."""
    for _ in range(1_000):
        deliver(Verdict(request.audio.index, (99,) * request.audio.frames))


def late(request: Request, deliver: Callable) -> None:
    """Answers when nobody waits any more."""
    time.sleep(STRICT_S + 2 * DEADLINE_S)
    deliver(Verdict(request.audio.index, request.draft.tokens))


def past(request: Request, deliver: Callable) -> None:
    """Answers for a chunk that is long gone."""
    deliver(Verdict(request.audio.index - 5, request.draft.tokens))


def guesses(request: Request, deliver: Callable) -> None:
    """Never comes to an end."""
    deliver(Verdict(request.audio.index, request.draft.tokens, 1, final=False))


def raising(error: BaseException) -> Callable:
    """A judge that raises this."""

    def judge(request: Request, deliver: Callable) -> None:
        raise error

    return judge


def saying(make: Callable) -> Callable:
    """A judge that delivers what this makes of the chunk's index and frames."""
    return lambda request, deliver: deliver(make(request.audio.index, request.audio.frames))


def hangs_for_good(request: Request, deliver: Callable) -> None:
    """Does not even leave when the run is over."""
    time.sleep(1.5)


SAID = {
    "floats": lambda index, frames: Verdict(index, (0.0,) * frames),
    "numpy floats": lambda index, frames: Verdict(index, np.zeros(frames)),
    "booleans of another length": lambda index, frames: Verdict(index, (True,) * (frames + 3)),
    "words": lambda index, frames: Verdict(index, "sil" * 4),
    "a generator": lambda index, frames: Verdict(index, (token for token in range(3))),
    "a matrix": lambda index, frames: Verdict(index, np.zeros((frames, 15))),
    "infinity": lambda index, frames: Verdict(index, (float("inf"),) * frames),
    "huge": lambda index, frames: Verdict(index, (2**70,) * frames),
    "openness of another length": lambda index, frames: Verdict(index, (0,) * frames, openness=np.zeros(frames + 1)),
    "openness of words": lambda index, frames: Verdict(index, (0,) * frames, openness=np.array(["wide"] * frames)),
    "a dictionary": lambda index, frames: {"chunk": index, "tokens": (0,) * frames},
    "an index of words": lambda index, frames: Verdict("first", (0,) * frames),
    "passes of words": lambda index, frames: Verdict(index, (0,) * frames, passes="two"),
    "passes of NaN": lambda index, frames: Verdict(index, (0,) * frames, passes=float("nan")),
    "deciders that are none": lambda index, frames: Verdict(index, (0,) * frames, by=None),
    "best tokens that are none": lambda index, frames: Verdict(index, (0,) * frames, judged=None),
    **{f"malformed {number:02d}": make for number, make in enumerate(MALFORMED)},
}
RAISED = {
    "many lines": ValueError("one\ntwo\r\nthree"),
    "no words": ValueError(),
    "a long story": RuntimeError("story " * 2_000),
    "out of memory": MemoryError(),
    "interrupted": KeyboardInterrupt(),
    "no more": StopIteration(),
    "no module": ModuleNotFoundError("No module named 'judge'"),
    "too deep": RecursionError("maximum recursion depth exceeded"),
    "connection": ConnectionResetError(104, "Connection reset by peer"),
    "bytes that are no text": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
}


@cache
def verdicts() -> dict[str, tuple[Callable, bool]]:
    """Judges with an odd ``verify``, and whether their fault shows before the deadline."""
    shows = {"dies", "exits", "abstains", "spoils the sound", "spoils the draft"}
    found = {name: (judge, name in shows) for name, judge in BAD_JUDGES.items()}
    found |= {"rains": (rain, False), "late": (late, False), "past": (past, False), "guesses": (guesses, False)}
    found |= {"hangs for good": (hangs_for_good, False)}
    found |= {f"raises: {name}": (raising(error), True) for name, error in RAISED.items()}
    return found | {f"says: {name}": (saying(make), False) for name, make in SAID.items()}


def names(short: bool) -> list[str]:
    """Verdicts under both policies, rows under every rule."""
    found = [f"{name}, policy {policy}" for name in verdicts() for policy in ("draft", "stop")]
    found += [f"rows: {fault}, rule {rule}" for fault in FAULTS for rule in RULES]
    return found[:: SHORT_EVERY if short else 1]


def attempt(name: str, folder: Path) -> Outcome:
    """One faulty judge."""
    what, _, how = name.rpartition(", ")
    if what.startswith("rows: "):
        return faulty_rows(what.removeprefix("rows: "), how.removeprefix("rule "))
    return faulty_verdicts(*verdicts()[what], how.removeprefix("policy "))


def faulty_verdicts(judge: Callable, shows: bool, on_silence: str) -> Outcome:
    """Five chunks; every second one's draft is wrong where the judge would have said so."""

    def good_once(request: Request, deliver: Callable) -> None:
        if on_silence == "draft" or request.audio.index:
            clock.let_go()
            judge(request, deliver)
        else:
            deliver(Verdict(0, TARGET_PLAN[:12]))

    clock = HeldClock()
    policy = Policy(
        on_silence=on_silence, deadline_s=PATIENT_S if shows else DEADLINE_S if on_silence == "draft" else STRICT_S
    )
    report = Pipeline(fast(), stages(judge=Bad(good_once)), policy, clock=clock, grace_s=GRACE_S).run()
    for line in (*report.notes, *([report.error] if report.error else [])):
        require("\n" not in line and len(line) < 700, f"not one line: {line[:200]!r}")
    if on_silence == "stop":
        require(report.ended == "failed", f"it ended {report.ended}")
        require(report.plan.tolist() == TARGET_PLAN[:12], "what was decided before the fault is not what went out")
        require("the policy is to stop" in one_line(report.error), f"another line: {report.error}")
        return finished(STOPPED, report.error)
    require(report.ended == "complete" and report.frame_count == 60, f"{report.ended}: {report.error}")
    require({commit.how for commit in report.commits} == {"unverified"}, "a chunk counts as verified")
    require(all(commit.tokens == commit.drafted for commit in report.commits), "not the draft's frames")
    require(report.counts["unverified"] == 5, f"counted: {report.counts}")
    require(all(np.isfinite(commit.openness).all() for commit in report.commits), "broken openness went out")
    return finished(WENT_ON, "; ".join(report.notes))


def finished(how: str, shown: str) -> Outcome:
    """Nothing may be left, once a judge that does not listen has returned."""
    require(threads_end(), "a thread is left")
    return survived(how, shown)


def threads_end(within_s: float = 60.0) -> bool:
    """Whether every stage leaves when its call returns; a crowded machine may take its time over that."""
    until = time.monotonic() + within_s
    for thread in threading.enumerate():
        if thread.name.startswith("specsync-"):
            thread.join(max(0.0, until - time.monotonic()))
    return no_threads_left()


@cache
def system() -> whole.System:
    """The shipped draft; a toy judge, ears and face."""
    from specsync_lib.draft.front import load_draft_front
    from specsync_lib.face.generation import FaceGenerator
    from tests.toys.fronts import toy_ears
    from tests.toys.generation import toy_models, toy_reference

    face = FaceGenerator(*toy_models(), toy_reference())
    models = Models(load_draft_front(), toy_ears(), ToyReasoner(), face, policy=log_odds_policy())
    return whole.System(models, ToyHead(), "cpu")


def faulty_rows(fault: str, rule: str) -> Outcome:
    """The whole system with a judge whose rows are spoilt."""

    class Spoilt(ToyStream):
        def score(self, draft: np.ndarray) -> np.ndarray:
            with np.errstate(all="ignore"):
                return FAULTS[fault](super().score(draft))

    class Reasoner(ToyReasoner):
        def stream(self) -> ToyStream:
            return Spoilt()

    broken = whole.System(replace(system().models, reasoner=Reasoner()), system().head, "cpu")
    run = broken.run(SPEECH, rule, RULES[rule], progress=False, say=lambda line: None)
    table, chunks = run.frames(), len(run.report.commits)
    require(run.report.ended == "complete" and len(table) == 44, f"{run.report.ended}: {run.report.error}")
    require((table["committed"] == table["draft"]).all(), "frames that are not the draft's")
    asked = table["by"] == "policy"
    require(asked.any() and "judge" not in set(table["by"]), f"decided by {set(table['by'])}")
    require(run.report.counts["unverified"] == table["chunk"][asked].nunique(), f"counted: {run.report.counts}")
    require(f"of {chunks} chunks went out unverified" in run.guarantee, f"not told: {run.guarantee}")
    notes = run.facts()["notes"]
    require(bool(notes) and all("\n" not in line for line in notes), f"notes: {notes}")
    return survived(WENT_ON, notes[0])
