"""The rules side by side, from the judged tables: what stands, what it costs in passes, how far it ends from the judge.

One row a rule, over the test split; every interval is 95 % by utterance. Passes are those of a judge whose first pass
verifies the probe's guess, as the pipeline's does (lenient: one pass over the draft).
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from specsync_lib.claims import CLAIMED_THRESHOLD
from specsync_lib.judge.mouth import load_mouth_shapes
from specsync_lib.judge.recordings import GATED
from specsync_lib.judge.rules import same_viseme, within_one_frame
from specsync_lib.measures.intervals import bootstrap_by_group, drawn_groups, interval
from specsync_lib.visemes import viseme_codes

# Columns of the frame table and of the chunk table that hold each rule's plan and passes; None: one pass a chunk.
PLANS: dict[str, tuple[str, str | None]] = {
    "exact": ("committed", "guessed_passes"),
    "mouth": ("mouth", "mouth_passes"),
    "lenient": ("lenient", None),
    **{f"gate at {threshold:g}": (run, f"{run}_passes") for run, threshold in GATED.items()},
}
LIPS_OF = {rule: f"the {rule} rule's plan" for rule in PLANS}  # the rows of `late_lips`
DEFINITIONS = {
    "stands": "frames whose draft is committed; under mouth: whose drafted lip shape is",
    "at_085": f"of frames with recalibrated confidence >= {CLAIMED_THRESHOLD} the share that stands; a gate of a lower "
    "threshold commits them all",
    "agreement": "frames committed as in the judge's own plan",
    "same_shape": "frames committed with the lip shape of the judge's own plan",
    "accuracy": "frames committed as truth has them",
    "unasked": "frames committed because they were sure, whatever the judge would have said",
    "chunks_unasked": "chunks that took no pass",
    "passes_a_chunk": "forward passes of the judge; ratio: how many times fewer than token by token",
}


def standing(frames: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """Rule, the column of its plan, and which drafts stand under it, of every rule that the frame table holds."""
    draft, groups = viseme_codes(frames["draft"]), np.array(load_mouth_shapes().groups)
    for rule, (column, _) in PLANS.items():
        if column in frames and frames[column].notna().all():
            plan = viseme_codes(frames[column])
            yield rule, column, groups[draft] == groups[plan] if rule == "mouth" else same_viseme(draft, plan)


def rule_rows(frames: pd.DataFrame, chunks: pd.DataFrame, rng: np.random.Generator) -> list[dict]:
    """What each rule did with one speaker's test split; see DEFINITIONS."""
    unit, groups = drawn_groups(frames), np.array(load_mouth_shapes().groups)
    judged, covered = viseme_codes(frames["committed"]), (frames["recalibrated"] >= CLAIMED_THRESHOLD).to_numpy()
    rows = []
    for rule, column, stands in standing(frames):
        plan, passes_column = viseme_codes(frames[column]), PLANS[rule][1]
        sure = (frames["recalibrated"] >= GATED.get(column, np.inf)).to_numpy()
        passes = chunks[passes_column].to_numpy() if passes_column else np.ones(len(chunks))
        sizes = {"n_utterances": frames["utterance"].nunique(), "n_frames": len(frames)}
        row = {"rule": rule, **sizes, "label": "measured"}
        for name, hits in {
            "stands": stands,
            "agreement": plan == judged,
            "same_shape": groups[plan] == groups[judged],
            "accuracy": plan == viseme_codes(frames["truth"]),
            "unasked": sure,
        }.items():
            row |= interval(name, bootstrap_by_group(hits, unit, rng=rng))
        if covered.any():
            row |= interval("at_085", bootstrap_by_group(stands[covered], unit[covered], rng=rng))
        row |= pass_ratio(chunks, passes, rng)
        row |= interval("chunks_unasked", bootstrap_by_group(passes == 0, drawn_groups(chunks), rng=rng))
        rows.append(row)
    return rows


def lenient_rows(frames: pd.DataFrame, rng: np.random.Generator) -> list[dict]:
    """What the lenient rule lets stand, of all frames and of covered ones, by what it can see of the judge.

    live: one pass a chunk, so that a chunk's last frame has no neighbour after it; both neighbours: the same passes,
    seen from the end of the recording; own plan: the judge's own plan of the whole recording, the headline's.
    """
    utterance, unit = frames["utterance"].to_numpy(), drawn_groups(frames)
    draft = viseme_codes(frames["draft"])
    covered = (frames["recalibrated"] >= CLAIMED_THRESHOLD).to_numpy()
    sights = {
        "live": same_viseme(draft, viseme_codes(frames["lenient"])),
        "both neighbours": within_one_frame(draft, viseme_codes(frames["lenient_best"]), utterance),
        "own plan": within_one_frame(draft, viseme_codes(frames["committed"]), utterance),
    }
    return [
        {"sight": sight, "label": "measured"}
        | interval("stands", bootstrap_by_group(stands, unit, rng=rng))
        | (interval("at_085", bootstrap_by_group(stands[covered], unit[covered], rng=rng)) if covered.any() else {})
        for sight, stands in sights.items()
    ]


def pass_ratio(chunks: pd.DataFrame, passes: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Passes a chunk, and how many times fewer than one a frame."""
    columns = np.column_stack([chunks["frames"], passes]).astype(float)
    unit = drawn_groups(chunks)
    ratio = bootstrap_by_group(columns, unit, lambda sums, _: sums[..., 0] / sums[..., 1], rng=rng)
    return interval("passes_a_chunk", bootstrap_by_group(columns[:, 1], unit, rng=rng)) | interval("ratio", ratio)


def whole_chunks(chunks: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """Shares of chunks under the exact rule: whole, no draft rejected; one pass, decided by the first one (over the
    draft, over the probe's guess)."""
    unit, facts = drawn_groups(chunks), {"n_chunks": len(chunks)}
    for name, hits in {
        "whole": (chunks["rejected"] == "").to_numpy(),
        "one_pass_from_draft": (chunks["passes"] == 1).to_numpy(),
        **({"one_pass": (chunks["guessed_passes"] == 1).to_numpy()} if "guessed_passes" in chunks else {}),
    }.items():
        facts |= interval(name, bootstrap_by_group(hits, unit, rng=rng))
    return facts


def rules_table(rows: list[dict], lips: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows as a table by rule, with the lip errors of `late_lips` where they were measured."""
    table = pd.DataFrame(rows).set_index("rule")
    if lips is None:
        return table
    columns = [name for name in lips if name.startswith(("lip_error_mm", "against_truth_mm"))]
    return table.join(lips[columns].rename(index={what: rule for rule, what in LIPS_OF.items()}))
