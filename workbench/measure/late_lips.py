"""What plans cost on the face: lip error in mm against the judge's own plan and against truth, from judged frames.

    python -m workbench.measure.late_lips          writes data/measurements/late_lips.json (a minute on a CPU)
    python -m workbench.measure.late_lips --row my.toml          of a row that `referee` has judged, beside its tables

Of every held-out utterance that `referee` judged, the plans are laid on the mesh (`head.face_tracks`, the mouth alone)
and the gap between the lips is compared frame by frame with that of the judge's plan, and with that of truth. A frame
counts for its own chunk.
"""

import argparse
import sys

import numpy as np
import pandas as pd

from specsync_lib.errors import InputError
from specsync_lib.face.head.head import Head
from specsync_lib.face.head.motion import face_tracks
from specsync_lib.files import write_json
from specsync_lib.measures import rules
from specsync_lib.measures.intervals import bootstrap_by_group, drawn_groups, interval, resampling_unit
from specsync_lib.measures.late_lips import PATH, table
from specsync_lib.measures.referee import FRAMES_FILE
from specsync_lib.paths import display_path
from specsync_lib.provenance import machine
from specsync_lib.units import FRAMES_PER_CHUNK
from specsync_lib.visemes import SyncPlan
from workbench.asked import add_row, beside, results_folder, row_of

# What goes out, and the column of the judged frames that holds it.
PLANS = {
    "the draft stands": "draft",
    **{rules.LIPS_OF[rule]: column for rule, (column, _) in rules.PLANS.items()},
    "truth": "truth",
}


def plan_gaps_mm(plan: SyncPlan, head: Head, frames: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Gap between the lips in mm as a plan lies on the mesh, the mouth alone: of every frame, or of some (an index)."""
    faces, place = np.unique(face_tracks(plan, still=True).units[frames], axis=0, return_inverse=True)
    return np.array([head.lip_aperture(face) for face in faces])[place.ravel()]  # a mouth at rest is measured once


def gaps_mm(frames: pd.DataFrame, head: Head, column: str) -> np.ndarray:
    """The same of every frame, utterance by utterance, as a plan's visemes make one expect it."""
    parts = (part[column] for _, part in frames.groupby("utterance", sort=False))
    return np.concatenate([plan_gaps_mm(SyncPlan.from_names(names), head) for names in parts])


def measure(frames: pd.DataFrame, head: Head, rng: np.random.Generator, label: str = "measured") -> dict:
    """Mean absolute lip error against the judge's plan: over all frames, and over those of chunks with a difference;
    against truth over all frames.

    Parameters
    ----------
    frames : one row a frame, utterances whole: utterance, committed (the judge's viseme), truth, and of the columns of
        ``PLANS`` those that were judged.

    Returns
    -------
    rows: what, lip_error_mm with its interval by utterance, the same in chunks that differ, against_truth_mm, shares of
    frames and chunks that differ, mm_per_wrong_frame (all error over the number of frames with another viseme).
    """
    unit = drawn_groups(frames)
    chunk = pd.factorize(frames["utterance"] + " " + (frames["frame"] // FRAMES_PER_CHUNK).astype(str))[0]
    plans = {what: column for what, column in PLANS.items() if column in frames}
    gaps = {column: gaps_mm(frames, head, column) for column in {*plans.values(), "committed"}}
    judged_mm, rows = gaps["committed"], []
    for what, column in plans.items():
        error_mm, from_truth_mm = (np.abs(gaps[column] - each) for each in (judged_mm, gaps["truth"]))
        wrong = frames[column].to_numpy() != frames["committed"].to_numpy()
        differs = np.isin(chunk, np.unique(chunk[wrong]))
        everywhere = bootstrap_by_group(error_mm, unit, rng=rng, unit="mm")
        rows.append({
            "what": what, **interval("lip_error_mm", everywhere),
            **(interval("in_chunks_that_differ_mm", bootstrap_by_group(error_mm[differs], unit[differs], rng=rng))
               if differs.any() else {}),
            **interval("against_truth_mm", bootstrap_by_group(from_truth_mm, unit, rng=rng)),
            "frames_that_differ": round(float(wrong.mean()), 5),
            "chunks_that_differ": round(len(np.unique(chunk[wrong])) / len(np.unique(chunk)), 5),
            "mm_per_wrong_frame": round(float(error_mm.sum() / max(1, wrong.sum())), 5),
            "n_utterances": frames["utterance"].nunique(), "n_frames": len(frames), "label": label,
        })  # fmt: skip
    return {"rows": rows, "gap_of_the_judges_plan_mm": round(float(judged_mm.mean()), 4)}


def main(arguments: list[str] | None = None) -> int:
    """Measure the judged test split and write the file."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.late_lips", description=main.__doc__)
    add_row(parser)
    options = parser.parse_args(arguments)
    try:
        row = row_of(options)
        folder = results_folder(row)
        source, path = beside(FRAMES_FILE, folder), beside(PATH, folder)
        if not source.is_file():
            raise InputError(f"{display_path(source)}: no such file; run python -m workbench.measure.referee first")
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    frames = pd.read_csv(source)
    frames = frames[frames["split"] == "test"].reset_index(drop=True)
    head = Head(seed=0)
    try:
        content = measure(frames, head, np.random.default_rng(0), row.judge.label)
    finally:
        head.close()
    given = f" --row {row.name}" if row.differences() else ""
    made = machine() | {"command": f"python -m workbench.measure.late_lips{given}", "label": row.judge.label}
    about = {"provenance": made, "source": source.name, "resampling_unit": resampling_unit(frames)}
    write_json(path, about | content)
    print(table(path).round(3).T.to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
