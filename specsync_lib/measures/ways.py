"""Ways of working compared: passes of the reasoner, and how often each ends up wrong."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from specsync_lib.judge.policy import chunk_of
from specsync_lib.judge.recordings import BRANCHED, USUALLY_BRANCHED
from specsync_lib.measures.intervals import Metric, bootstrap_by_group, drawn_groups, interval
from specsync_lib.units import VIDEO_FPS

EXACT_PLANS = ("committed", "guessed", *BRANCHED)  # columns of the frame table, all the judge's own
WAYS = {
    "token_by_token": "frames",
    "classic": "classic_passes",
    "verified": "passes",
    "guessed": "guessed_passes",
    **{run: f"{run}_passes" for run in BRANCHED},
}


def pass_facts(chunks: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """Forward passes of the reasoner, by way: a chunk, a second, and how many times fewer than token by token.

    token_by_token; classic: after a rejection the kernel's draft again; verified: after a rejection the judge's own
    rows; guessed: those, and the probe's tokens in the first pass (where that was run); branched_N: several plans a
    pass, over N frames; branched_N_M: over N in the first pass and M in every later one.
    """
    ways = {way: column for way, column in WAYS.items() if column in chunks and chunks[column].notna().all()}
    columns = chunks[[*ways.values(), "first_accepted"]].to_numpy(float)  # [chunks, ways + 1]; the first is frames
    unit = drawn_groups(chunks)
    statistics = {
        "passes_a_chunk": bootstrap_by_group(columns, unit, rng=rng),
        "passes_a_second": bootstrap_by_group(columns, unit, lambda sums, _: VIDEO_FPS * sums / sums[..., :1], rng=rng),
        "ratio": bootstrap_by_group(columns, unit, lambda sums, _: sums[..., :1] / sums, rng=rng),
    }
    facts: dict[str, float] = {"n_chunks": len(chunks), "n_utterances": int(chunks["utterance"].nunique())}
    for index, way in enumerate(ways):
        for name, metric in statistics.items():
            facts |= interval(f"{way}_{name}", _part(metric, index))
    facts |= interval("first_accepted_frames", _part(statistics["passes_a_chunk"], len(ways)))
    return facts | {"fallback_frames": int(chunks["fallbacks"].sum())}


def _part(metric: Metric, index: int) -> Metric:
    """One of a metric's outputs."""
    return replace(metric, **{name: float(getattr(metric, name)[index]) for name in ("value", "low", "high")})


def gated(frames: pd.DataFrame, chunks: pd.DataFrame, score: str, cuts: Iterable[float]) -> pd.DataFrame:
    """Verify only the chunks whose score lies under a cut: passes a second of speech, and error against truth.

    The verdicts are those of the run in which every chunk was verified, put together anew: that a skipped chunk would
    have changed the context of the next ones is left out.

    Parameters
    ----------
    frames, chunks : of one speaker's test split.
    score : "least_confidence", or "no_rejection" (1 - any_rejection).
    """
    values = 1 - chunks["any_rejection"] if score == "no_rejection" else chunks[score]
    index = chunks.assign(value=values).set_index(["utterance", "chunk"])
    here = index.loc[list(zip(frames["utterance"], chunk_of(frames["frame"]), strict=True))]
    value, passes = here["value"].to_numpy(), (here["passes"] / here["frames"]).to_numpy()
    right = {name: (frames[name] == frames["truth"]).to_numpy() for name in ("draft", "committed")}
    rows = []
    for cut in cuts:
        verified = value < cut
        wrong = ~np.where(verified, right["committed"], right["draft"])
        rows.append((cut, VIDEO_FPS * (passes * verified).sum() / len(frames), wrong.mean(), verified.mean()))
    return pd.DataFrame(rows, columns=["cut", "passes_a_second", "error", "verified"]).assign(score=score)


def ways_of_working(frames: pd.DataFrame, chunks: pd.DataFrame) -> pd.DataFrame:
    """What whole ways of working cost and how often they end up wrong: columns what, passes_a_second, error, role.

    frames, chunks : of one speaker's test split. All exact ways commit the same plan, so they share their error.
    """
    error = {name: float((frames[name] != frames["truth"]).mean()) for name in ("draft", "committed", "lenient")}
    passes = {way: chunks[column].sum() for way, column in WAYS.items() if column in chunks}
    rows = [
        ("draft alone", 0, error["draft"], "draft"),
        ("lenient, one pass", len(chunks), error["lenient"], "coverage"),
        ("exact, several plans a pass", passes.get(USUALLY_BRANCHED, np.nan), error["committed"], "rejected"),
        ("exact, guess from the ears", passes.get("guessed", np.nan), error["committed"], "corrected"),
        ("exact", passes["verified"], error["committed"], "accepted"),
        ("classic speculative", passes["classic"], error["committed"], "baseline"),
        ("token by token", passes["token_by_token"], error["committed"], "target"),
    ]
    table = pd.DataFrame(rows, columns=["what", "passes_a_second", "error", "role"]).dropna()
    return table.assign(passes_a_second=VIDEO_FPS * table["passes_a_second"] / len(frames))
