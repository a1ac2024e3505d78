"""How good the draft is, on the path that users run: ``data/models/draft/metrics.json`` from the committed weights.

``python -m workbench.train.draft_card`` needs the English corpus and Whisper in the cache; minutes on two cores.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from specsync_lib import provenance
from specsync_lib.claims import CLAIMED_THRESHOLD
from specsync_lib.draft.plan import MODEL_DIR, draft_plan, load_draft
from specsync_lib.draft.probe import teacher_plan
from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.measures import draft
from specsync_lib.measures.acceptance import expected_calibration_error
from specsync_lib.measures.intervals import Metric, bootstrap_by_group, interval
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import Prompt, aligned, human_prompts


def right(frames: pd.DataFrame) -> Metric:
    """Strict frame accuracy over the 15 visemes, with its interval by utterance."""
    return bootstrap_by_group((frames["draft"] == frames["truth"]).to_numpy(), frames["utterance"].to_numpy())


def confident(name: str, frames: pd.DataFrame) -> dict[str, float]:
    """At CLAIMED_THRESHOLD: the share of frames that reach it, and how many of those are right."""
    kept = frames[frames["confidence"] >= CLAIMED_THRESHOLD]
    return {
        f"coverage_at_085{name}": round(len(kept) / len(frames), 5),
        f"right_at_085{name}": round(float((kept["draft"] == kept["truth"]).mean()), 5),
    }


def openness_fit(prompts: Sequence[Prompt]) -> dict[str, float]:
    """Mean absolute error and correlation of the draft's openness with truth's, over all frames."""
    weights = load_draft()
    pairs = [(draft_plan(load_audio(p.path).samples, weights).openness, aligned(p).openness) for p in prompts]
    drafted, truth = (np.concatenate(side) for side in zip(*pairs, strict=True))
    error, r = np.abs(drafted - truth).mean(), np.corrcoef(drafted, truth)[0, 1]
    return {"openness_mae": round(float(error), 5), "openness_r": round(float(r), 5)}


def evaluate() -> dict:
    """The measured part of metrics.json: held-out prompts for *draft*, the whole corpus for *unseen speaker*."""
    test, everything = human_prompts("test"), human_prompts()
    weights, stranger = load_draft(), load_draft("draft_unseen_speaker")
    own = draft.frame_table(test, partial(draft_plan, weights=weights))
    unseen = draft.frame_table(everything, partial(draft_plan, weights=stranger))
    teacher = draft.frame_table(test, teacher_plan("teacher"))
    teacher_unseen = draft.frame_table(everything, teacher_plan("teacher_unseen_speaker"))
    correct = (own["draft"] == own["truth"]).to_numpy()
    return {
        **interval("accuracy", right(own)),
        "n_frames": len(own),
        "n_utterances": len(test),
        **interval("accuracy_unseen_speaker", right(unseen)),
        "n_frames_unseen_speaker": len(unseen),
        "n_utterances_unseen_speaker": len(everything),
        **interval("teacher_accuracy", right(teacher)),
        **interval("teacher_accuracy_unseen_speaker", right(teacher_unseen)),
        **interval(
            "ece", expected_calibration_error(own["confidence"].to_numpy(), correct, own["utterance"].to_numpy())
        ),
        **confident("", own),
        **confident("_unseen_speaker", unseen),
        **openness_fit(test),
        "temperature": round(float(weights.temperature), 5),
        "bands": weights.band_pool.shape[1],
        "hidden": weights.w1.shape[1],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate the committed draft and write its metrics.json."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.draft_card", description=main.__doc__)
    parser.add_argument("--command", default="", help="the command line that trained the weights: kept in the file")
    parser.add_argument("--seed", type=int, default=0, help="the seed of that run")
    options = parser.parse_args(arguments)
    try:
        numbers = evaluate()
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    numbers |= {
        "label": "measured",
        "resampling_unit": "utterance",
        "commit": provenance.commit(),
        "date": time.strftime("%Y-%m-%d"),
        "seeds": [options.seed],
        "command": options.command,
    }
    path: Path = MODEL_DIR / "metrics.json"
    write_text(path, json.dumps(numbers, indent=1) + "\n")
    print(json.dumps(numbers, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
