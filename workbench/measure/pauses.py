"""Is the mouth shut where nobody speaks? The gap between the lips in mm in truth's silent frames, clean and in noise.

    python -m workbench.measure.pauses             writes data/measurements/pauses.json (two minutes on a CPU)
    python -m workbench.measure.pauses --speakers DIR     also of a folder's recordings (list.tsv: file, speaker, words)
    python -m workbench.measure.pauses --corpus corpus.jsonl --out pauses.json         of another corpus

A recording is heard as a run hears it, drafted as a stream, and the plan is laid on the mesh, the mouth alone. Truth's
own plan lies there too: lips that come from a sound or go to one are apart in silent frames as well. A draft is
therefore measured in all silent frames, and in those in which truth's own mouth is shut. Noise is 10 dB below the
active speech; noise alone is the same without the speech. Babble is speech of others, and heard as such by right.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from specsync_lib.draft.front import front_plan, load_draft_front
from specsync_lib.draft.plan import DraftPlan, draft_plan, load_draft
from specsync_lib.errors import InputError
from specsync_lib.face.head.head import Head
from specsync_lib.files import write_json
from specsync_lib.measures.intervals import bootstrap_by_group, drawn_groups, interval, resamples, resampling_unit
from specsync_lib.paths import MEASUREMENTS_DIR
from specsync_lib.provenance import machine
from specsync_lib.rows import PROMPTS
from specsync_lib.speech.ears import as_heard
from specsync_lib.visemes import VISEME_INDEX, SyncPlan
from workbench.asked import add_corpus, out_of
from workbench.measure.late_lips import plan_gaps_mm
from workbench.train.front_card import NOISE_DB, Recording, noise_under, noisy, speakers, trained_speaker

PATH = MEASUREMENTS_DIR / "pauses.json"
SHUT_MM = 0.5
NOISES = ("white", "pink", "babble")
NO_NOISE = "none"
TRUTH = "truth"
RESAMPLES = 1000
SILENT = VISEME_INDEX["sil"]

Draft = Callable[[np.ndarray], DraftPlan]  # samples as heard -> plan


def closed(drafted: DraftPlan) -> DraftPlan:
    """A mend that was tried: a frame is shut by as much as it is silence, as one of PP is by as much as it is PP."""
    return replace(drafted, openness=drafted.openness * (1 - drafted.probabilities[:, SILENT]))


def people(recordings: Sequence[Recording]) -> pd.DataFrame:
    """A row a recording, for the bootstrap: utterance, talker."""
    return pd.DataFrame([{"utterance": one.name, "talker": one.speaker} for one in recordings])


def laid(
    recordings: Sequence[Recording], plans: Sequence[SyncPlan], head: Head, *, everywhere: bool = False
) -> pd.DataFrame:
    """A row for every frame that truth calls silent, or ``everywhere``: utterance, talker, heard_silent, gap_mm."""
    parts = []
    for one, plan in zip(recordings, plans, strict=True):
        chosen = np.flatnonzero((one.truth.visemes == SILENT) | everywhere)
        if len(chosen):
            heard, gaps = plan.visemes[chosen] == SILENT, plan_gaps_mm(plan, head, chosen)
            said = {"utterance": one.name, "talker": one.speaker, "heard_silent": heard, "gap_mm": gaps}
            parts.append(pd.DataFrame(said))
    if not parts:
        raise InputError("pauses: truth has no silent frame in any recording; give some with pauses")
    return pd.concat(parts, ignore_index=True)


def share(name: str, frames: pd.DataFrame, hit: pd.Series) -> dict[str, float]:
    """Share of the frames that are hit, with its interval by `drawn_groups`."""
    return interval(name, bootstrap_by_group(hit.to_numpy(), drawn_groups(frames), rng=np.random.default_rng(0)))


def p95_mm(name: str, frames: pd.DataFrame) -> dict[str, float]:
    """The gap that 95 % of the frames do not exceed, with its interval by `drawn_groups`."""
    gaps = frames["gap_mm"].to_numpy()
    drawn = resamples(drawn_groups(frames), RESAMPLES, np.random.default_rng(0))
    low, high = np.percentile([np.quantile(gaps[chosen], 0.95) for chosen in drawn], [2.5, 97.5])
    ends = {"": np.quantile(gaps, 0.95), "_low": low, "_high": high}
    return {f"{name}{end}": round(float(value), 3) for end, value in ends.items()}


def in_pauses(frames: pd.DataFrame, truth_shut: np.ndarray) -> dict[str, float]:
    """What the file says of one plan: in all silent frames, and in those that truth's own mouth shuts.

    Parameters
    ----------
    frames : of :func:`laid`.
    truth_shut : [silent frames] bool, truth's own gap is at most ``SHUT_MM``.
    """
    found = {}
    for name, part in (("silent", frames), ("truth_shut", frames[truth_shut])):
        found[f"{name}_frames"] = len(part)
        if len(part):
            found |= share(f"{name}_shut", part, part["gap_mm"] <= SHUT_MM) | p95_mm(f"{name}_p95_mm", part)
            found |= share(f"{name}_heard", part, part["heard_silent"])
    return found


def openness_error(recordings: Sequence[Recording], plans: Sequence[SyncPlan]) -> dict[str, float]:
    """Mean distance of a plan's openness from truth's over all frames: what a tighter mouth costs in speech."""
    error = [np.abs(plan.openness - one.truth.openness) for one, plan in zip(recordings, plans, strict=True)]
    groups = np.repeat(drawn_groups(people(recordings)), [len(each) for each in error])
    return interval("openness_error", bootstrap_by_group(np.concatenate(error), groups, rng=np.random.default_rng(0)))


def pauses(recordings: Sequence[Recording], drafts: Mapping[str, Draft], head: Head) -> list[dict]:
    """A row per plan and noise; truth's own plan first. Recordings keep their truth under noise.

    Raises
    ------
    InputError: truth has no silent frame.
    """
    truth = laid(recordings, [one.truth for one in recordings], head)
    truth_shut = (truth["gap_mm"] <= SHUT_MM).to_numpy()
    rows = [{"plan": TRUTH, "noise": NO_NOISE, **in_pauses(truth, truth_shut)}]
    for noise in (NO_NOISE, *NOISES):
        heard = recordings if noise == NO_NOISE else noisy(recordings, noise)
        for name, draft in drafts.items():
            plans = [draft(as_heard(one.samples, True)).plan for one in tqdm(heard, desc=f"{name}, {noise}")]
            found = in_pauses(laid(recordings, plans, head), truth_shut) | openness_error(recordings, plans)
            rows.append({"plan": name, "noise": noise, **found})
    return rows


def noise_alone(recordings: Sequence[Recording], drafts: Mapping[str, Draft], head: Head) -> list[dict]:
    """A row per plan and noise, without the recordings' speech: how often a viseme is heard, how often the mouth is
    shut."""
    rows = []
    for noise in NOISES:
        sounds = noise_under(recordings, noise)
        for name, draft in drafts.items():
            plans = [draft(as_heard(sound, True)).plan for sound in tqdm(sounds, desc=f"{name}, {noise} alone")]
            frames = laid(recordings, plans, head, everywhere=True)
            rows.append({
                "plan": name, "noise": noise, "frames": len(frames),
                **share("not_sil", frames, ~frames["heard_silent"]),
                **share("shut", frames, frames["gap_mm"] <= SHUT_MM),
            })  # fmt: skip
    return rows


def measured(sets: Mapping[str, Sequence[Recording]], drafts: Mapping[str, Draft], head: Head) -> dict[str, object]:
    """What the file holds but its provenance."""
    return {
        "label": "measured",
        "what": f"gap between the lips on the mesh in truth's silent frames: share of at most {SHUT_MM} mm, and the "
        "gap that 95 % do not exceed; silent_*: in all of them, truth_shut_*: in those in which truth's own plan shuts "
        f"the mouth; heard: named sil. Noise {NOISE_DB:.0f} dB below the active speech. noise_alone: the same noise "
        "without speech; not_sil: share of frames with another viseme; babble is speech of others. openness_error: "
        "mean distance from truth's openness (0 to 1) over all frames. draft_closed: a mend that was tried and is not "
        "used, the draft's openness times 1 - p(sil)",
        "shut_mm": SHUT_MM,
        "sets": {name: {"utterances": len(recordings), "resampling_unit": resampling_unit(people(recordings))}
                 for name, recordings in sets.items()},
        "rows": [{"set": name, **row} for name, recordings in sets.items()
                 for row in pauses(recordings, drafts, head)],
        "noise_alone": [{"set": name, **row} for name, recordings in sets.items()
                        for row in noise_alone(recordings, drafts, head)],
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.pauses", description=main.__doc__)
    parser.add_argument("--speakers", type=Path, help="a folder with list.tsv: file, speaker, words")
    add_corpus(parser)
    parser.add_argument("--out", type=Path, help="the JSON to write; with --corpus it must be given")
    options = parser.parse_args(arguments)
    try:
        out = out_of(options, PATH)
        real = {} if options.speakers is None else {"real_speakers": speakers(options.speakers)}
        sets = {"trained_speaker": trained_speaker("test", options.corpus)} | real
        front = partial(front_plan, weights=load_draft_front())
        drafts = {
            "draft": front,
            "draft_closed": lambda samples: closed(front(samples)),
            "window_network": partial(draft_plan, weights=load_draft()),
        }
        with Head(seed=0) as head:
            content = measured(sets, drafts, head)
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    command = ["python -m workbench.measure.pauses", *(["--speakers DIR"] if options.speakers else [])]
    command += [f"--corpus {Path(options.corpus).name}"] if options.corpus != PROMPTS else []
    write_json(out, content | {"provenance": machine() | {"command": " ".join(command)}})
    for row in content["rows"]:
        print(row["set"], row["plan"], row["noise"], row.get("silent_shut"), row.get("truth_shut_shut"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
