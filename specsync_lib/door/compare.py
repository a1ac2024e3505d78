"""Named runs side by side: their videos, their plans and their numbers.

What is shown of a run is read once, whole, by `read`: a run at work, a damaged one and an older one raise there.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from specsync_lib import rows, summary
from specsync_lib.door.parameters import PARAMETERS
from specsync_lib.door.project import Project
from specsync_lib.door.stamps import read_stamp, still_valid
from specsync_lib.errors import InputError
from specsync_lib.units import SLOTS_PER_CHUNK, VIDEO_FPS
from specsync_lib.values import Value, shown

VIDEO_NAME = "lipsync_720p30.mp4"
POSTER_NAME = "poster.jpg"
PLAN_NAME, PLAN_COLUMNS = "committed_plan.csv", ("committed", "openness", "by")
SHOWN_SECONDS = 20
STRIP_WIDTH, STRIP_HEIGHT, BAND_HEIGHT = 600, 84, 14
# Parameters that `chosen` names, that name a run, whose content is compared instead (hash, words), and a mere limit.
NOT_TOLD_APART = frozenset({"rule", "threshold", "chunk_slots", "name", "audio", "transcript_file", "max_seconds"})
NUMBER_PATTERNS = ("run.", "video.", "sync.", "report.")


@dataclass(frozen=True)
class Stretch:
    """Neighbouring frames that the same part decided: who, and where in the strip."""

    by: str
    x: float
    width: float


@dataclass(frozen=True)
class Run:
    """What a finished run has for the comparison."""

    project: Project
    parameters: dict[str, Any]
    chosen: str
    committed: pd.Series | None
    openness: str
    stretches: Sequence[Stretch]
    numbers: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Column:
    """One run as a column of the comparison; an address is relative to the page that shows it."""

    title: str
    chosen: str
    page: str
    video: str
    poster: str
    openness: str
    stretches: Sequence[Stretch]
    numbers: dict[str, dict[str, Any]]
    differing: str


def settings_of(project: Project) -> dict[str, Any]:
    """What a run was asked for when it last finished, and the recording's hash; empty for one that never has.

    Raises
    ------
    InputError: the file is damaged.
    """
    path = project.run / "benchmark.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} can not be read ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("parameters", {}), dict):
        raise InputError(f"{path.name} does not say what it was asked for")
    return found


def heard(project: Project) -> tuple:
    """Which excerpt of which recording a run heard when it last finished; empty for one that never has."""
    asked = settings_of(project)
    parameters = asked.get("parameters", {})
    excerpt = (parameters.get(name) for name in ("track", "start_s", "duration_s"))
    return (asked["recording"], *excerpt) if asked.get("recording") else ()


def check_whole(project: Project) -> None:
    """Refuse a run whose files are not those of the parameters with which it last finished.

    Raises
    ------
    InputError: it was stopped since then, is at work, or something was changed or lost; or an older suite made it.
    """
    asked = settings_of(project)
    if not isinstance(asked.get("keys"), dict):
        raise InputError("an older version of the suite made it")
    for notebook, key in asked["keys"].items():
        stamp = read_stamp(project, notebook)
        if stamp is None or stamp.key != key:
            raise InputError(f"it was begun anew and has not finished ({notebook})")
        if not still_valid(stamp, key, project):
            raise InputError(f"what {notebook} made is not as it left it")
    row = project.run / "row.json"
    if row.exists() and json.loads(row.read_text(encoding="utf-8"))["row"] != asked["parameters"].get("row"):
        raise InputError("it was begun anew and has not finished (row)")


def read(project: Project) -> Run:
    """All that the comparison shows of a run; what is damaged raises whatever it does."""
    parameters = settings_of(project).get("parameters", {})
    rows.read(parameters.get("row", rows.DEFAULT), present=False)  # `what_differs` names it
    plan = read_plan(project)
    return Run(
        project=project,
        parameters=parameters,
        chosen=chosen(parameters),
        committed=None if plan is None else plan["committed"],
        openness=openness_points(plan),
        stretches=stretches(plan),
        numbers=numbers_of(project),
    )


def columns(runs: Sequence[Run], folder: Path) -> list[Column]:
    """The columns of the runs, for a page in ``folder``; none where there is nothing to compare."""
    if len(runs) < 2:
        return []
    return [
        Column(
            title=run.project.title,
            chosen=", ".join([run.chosen, *apart]),
            page=address(run.project.plots / "report" / "index.html", folder),
            video=address(video, folder) if (video := run.project.plots / VIDEO_NAME).exists() else "",
            poster=address(run.project.plots / "report" / POSTER_NAME, folder),
            openness=run.openness,
            stretches=run.stretches,
            numbers=run.numbers,
            differing=differing(run.committed, runs[0].committed),
        )
        for run, apart in zip(runs, what_differs([run.parameters for run in runs]), strict=True)
    ]


def chosen(parameters: dict[str, Any]) -> str:
    """Rule and, where it acts, threshold; the chunks' slots where they are not the usual ones."""
    slots = parameters.get("chunk_slots", SLOTS_PER_CHUNK)
    size = "" if slots == SLOTS_PER_CHUNK else f", chunk_slots {slots}"
    if parameters.get("rule") == "gate":
        return f"rule gate, threshold {parameters['threshold']:g}{size}"
    return f"rule {parameters.get('rule', 'unknown')}{size}"


def what_differs(asked: Sequence[dict[str, Any]]) -> list[list[str]]:
    """For each run's parameters those in words that `chosen` does not name and that are not the same in all of them."""
    told = []
    for name, parameter in PARAMETERS.items():
        values = [parameters.get(name, parameter.default) for parameters in asked]
        if name not in NOT_TOLD_APART and any(value != values[0] for value in values):
            told.append(rows_in_words(values) if name == "row" else [in_words(name, value) for value in values])
    return [[each[place] for each in told] for place in range(len(asked))]


def in_words(name: str, value: Value) -> str:
    """A parameter and its value."""
    if value == "":
        return f"no {name}"
    return f"{name} {shown(value) if name == 'transcript' else value}"


def rows_in_words(texts: Sequence[str]) -> list[str]:
    """Rows by name, with what differs from the default one in some of them and not in all."""
    found = [rows.read(text, present=False) for text in texts]
    in_all = set.intersection(*(set(row.differences()) for row in found))
    own = [", ".join(one for one in row.differences() if one not in in_all) for row in found]
    return [f"row {row.name}{f' ({what})' if what else ''}" for row, what in zip(found, own, strict=True)]


def address(path: Path, folder: Path) -> str:
    """A file's address from a page in ``folder``."""
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def read_plan(project: Project) -> pd.DataFrame | None:
    """The PLAN_COLUMNS of the committed plan of a run; None where there is none."""
    path = project.run / PLAN_NAME
    return pd.read_csv(path, keep_default_na=False, usecols=PLAN_COLUMNS) if path.exists() else None


def openness_points(plan: pd.DataFrame | None) -> str:
    """The mouth's opening over the first seconds as the points of an SVG polygon; empty without a plan."""
    if plan is None:
        return ""
    shown = plan["openness"].iloc[: SHOWN_SECONDS * VIDEO_FPS].astype(float)
    step, base = STRIP_WIDTH / len(shown), STRIP_HEIGHT - BAND_HEIGHT
    points = [f"{(k + 0.5) * step:.1f},{base * (1 - value):.1f}" for k, value in enumerate(shown)]
    return " ".join([f"0,{base}", *points, f"{STRIP_WIDTH},{base}"])


def stretches(plan: pd.DataFrame | None) -> list[Stretch]:
    """Who decided, over the same seconds."""
    if plan is None:
        return []
    by = plan["by"].iloc[: SHOWN_SECONDS * VIDEO_FPS]
    step = STRIP_WIDTH / len(by)
    groups = by.groupby((by != by.shift()).cumsum())
    return [Stretch(group.iloc[0], group.index[0] * step, len(group) * step) for _, group in groups]


def differing(committed: pd.Series | None, first: pd.Series | None) -> str:
    """How many committed frames differ from the first run's, in words."""
    if committed is None or first is None:
        return "no committed plan"
    if len(committed) != len(first):
        return f"{len(committed)} frames, not {len(first)}"
    count = int((committed.to_numpy() != first.to_numpy()).sum())
    return f"{count} of {len(committed)} ({100 * count / len(committed):.1f} %)"


def numbers_of(project: Project) -> dict[str, dict[str, Any]]:
    """The summary's entries that belong to one recording."""
    merged = summary.merged(project.run / "summary")
    return {key: entry for key, entry in merged.items() if key.startswith(NUMBER_PATTERNS)}
