"""One stream of 10,000 chunks with its threads in real time: neither slower nor larger in the end."""

from collections import Counter
from pathlib import Path

from workbench.measure.soak import CHUNKS, soak
from workbench.measure.trials.outcome import Outcome, require

SHORT_CHUNKS = 200
HIGHEST_P99_RATIO, HIGHEST_GROWTH = 1.1, 0.01


def names(short: bool) -> list[str]:
    """The stream; the short one is too short for its bounds."""
    return [f"chunks {SHORT_CHUNKS if short else CHUNKS}"]


def attempt(name: str, folder: Path) -> Outcome:
    """Run it."""
    chunks = int(name.removeprefix("chunks "))
    facts = soak(chunks)
    require(facts["ended"] == "complete" and facts["chunks"] == chunks, f"{facts['ended']}: {facts['error']}")
    require(facts["plan_is_the_targets"], "the committed plan is not the target's")
    facts["p99_of_the_last_tenth_within_1_1_of_the_first"] = facts["p99_ratio"] <= HIGHEST_P99_RATIO
    facts["memory_grew_less_than_1_percent"] = facts["rss_growth"] < HIGHEST_GROWTH
    return Outcome(Counter({"committed as the target's own": chunks}), facts={"soak": facts})
