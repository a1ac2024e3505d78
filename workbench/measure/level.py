"""At what level the ears were trained, and what quiet speech costs with and without the causal gain.

    python -m workbench.measure.level          writes data/measurements/level.json (two minutes on a CPU)
    python -m workbench.measure.level --corpus corpus.jsonl --out level.json         of another corpus

Test prompts are turned down, kept in 16 bits as a recorder would, and drafted as they are and at level.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from kernels.causal_front.reference import FrontWeights
from specsync_lib import units
from specsync_lib.draft.front import front_plan, load_draft_front
from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.measures.draft import frame_table
from specsync_lib.measures.intervals import bootstrap_by_group, drawn_groups, interval, resampling_unit
from specsync_lib.paths import MEASUREMENTS_DIR
from specsync_lib.provenance import machine
from specsync_lib.rows import PROMPTS
from specsync_lib.speech import level
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import clips, prompts_of
from workbench.asked import add_corpus, out_of

QUIETER_DB = (0, 10, 20, 30, 40, 50)
PATH = MEASUREMENTS_DIR / "level.json"


def drafted(samples: np.ndarray, weights: FrontWeights, quieter_db: float, raised: bool) -> DraftPlan:
    """The draft of a recording turned down, raised again or not."""
    quiet = np.round(samples * 10 ** (-quieter_db / 20) * 2**15).astype(np.float32) / 2**15
    return front_plan(level.at_level(quiet) if raised else quiet, weights)


def corpus_levels(corpus: str = PROMPTS) -> dict[str, object]:
    """The slow maximum over a corpus (the pinned one: with the clips), from where it is believed, and what the gain
    changes."""
    believed, loudest, changed, soft_hops = [], [], [], []
    sounds = [*prompts_of(corpus), *(clips() if corpus == PROMPTS else ())]
    for one in tqdm(sounds, desc="levels", unit="recording"):
        samples = load_audio(one.path).samples
        stream, heard = level.StreamingLevel(), []
        for begin in range(0, len(samples), units.HOP_SAMPLES):
            stream.push(samples[begin : begin + units.HOP_SAMPLES])
            heard.append((stream.heard_hops, stream.level_db))
        hops, levels = np.array(heard).T
        believed.append(levels[hops >= level.HEARD_HOPS])
        loudest.append(levels.max())
        soft_hops.append(int(hops[levels >= level.UNTOUCHED_DB].min(initial=hops.max())))
        if not np.array_equal(level.at_level(samples), samples):
            changed.append(one.name)
    every = np.concatenate(believed)
    low, median, high = np.quantile(every, [0.05, 0.5, 0.95]).round(2)
    return {
        "recordings": len(loudest), "median_db": median, "p5_db": low, "p95_db": high,
        "lowest_db": round(float(every.min()), 2), "most_soft_hops": max(soft_hops), "changed_by_the_gain": changed,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.level", description=main.__doc__)
    add_corpus(parser)
    parser.add_argument("--out", type=Path, help="the JSON to write; with --corpus it must be given")
    options = parser.parse_args(arguments)
    try:
        out = out_of(options, PATH)
        write_json(out, measured(options.corpus))
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    return 0


def measured(corpus: str) -> dict[str, object]:
    """What the file holds."""
    weights, prompts, rows = load_draft_front(), prompts_of(corpus, "test"), []
    for quieter_db in QUIETER_DB:
        for raised in (False, True):
            frames = frame_table(prompts, partial(drafted, weights=weights, quieter_db=quieter_db, raised=raised))
            right = (frames["draft"] == frames["truth"]).to_numpy()
            accuracy = bootstrap_by_group(right, drawn_groups(frames), rng=np.random.default_rng(0))
            rows.append({"quieter_db": quieter_db, "at_level": raised, **interval("accuracy", accuracy)})
    command = "python -m workbench.measure.level"
    return {
        "label": "measured",
        "what": "strict frame accuracy of the draft on the corpus' test prompts turned down, as they are and at level; "
        "the corpus' own level (slow maximum over 10 ms hops of sound, dB re full scale)",
        "command": command if corpus == PROMPTS else f"{command} --corpus {Path(corpus).name}",
        "resampling_unit": resampling_unit(frames),
        "n_utterances": len(prompts),
        "rows": rows,
        "corpus": corpus_levels(corpus),
        "provenance": machine(),
    }


if __name__ == "__main__":
    sys.exit(main())
