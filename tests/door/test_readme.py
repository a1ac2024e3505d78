"""README's latency tables, number by number, against the files that they are of."""

import json
import re

import numpy as np

from specsync_lib.measures.latency import sound_to_frame_ms
from specsync_lib.measures.latency_tables import FEWEST_FOR_P99
from specsync_lib.paths import MEASUREMENTS_DIR, PROJECT_ROOT
from specsync_lib.units import ChunkSize

EXACT, BRANCHED, ONE_PASS = "speculative", "speculative_branched", "speculative_lenient"
SPEED = [  # each row's setup and region
    ("h200x2", "384px"), ("h200x2_fp8", "384px"), *(("h200", region) for region in ("384px", "512px", "720p")),
    *(("h200x2", region) for region in ("256px", "512px", "720p")), ("own_models_h200", "256px"), ("cpu", "256px"),
]  # fmt: skip
SLOTS = [(setup, slots) for setup in ("h200x2", "h200x2_fp8", "h200") for slots in (3, 2, 1)]
TRIPLES = {  # each row's setup, and which of a chunk's regions it has; "" leaves the cell empty
    "h200": (regions := ("256px", "384px", "384px_2slot", "384px_1slot", "512px", "720p")), "h200x2": regions,
    "h200x2_fp8": ("", *regions[1:4], "", ""), "cpu": ("256px", *[""] * 5),
}  # fmt: skip


def cells(head: str) -> list[list[str]]:
    """The rows of the table with this head, without their names."""
    lines = iter((PROJECT_ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    while not next(lines).startswith(head):
        pass
    next(lines)
    return [re.split(r" *\| *", row)[2:-1] for row in iter(lines.__next__, "")]


def measured(setup: str, region: str) -> dict:
    """What a file holds of a region; a short chunk's has a file of its own."""
    _, _, short = region.partition("_")
    name = setup if "models" in setup else f"pipeline_{setup}" + (f"_{short}" if short else "")
    return json.loads((MEASUREMENTS_DIR / f"{name}.json").read_text(encoding="utf-8"))["regions"][region]


def shown(runs: dict, mode: str, saves: bool = False) -> str:
    """A mode's cell: median, p99 where there are enough chunks, what it saves against serial."""
    if mode not in runs:
        return ""
    run, serial_ms = runs[mode], runs["serial"]["p50_ms"]
    p99 = f" ({run['p99_ms']:,.0f})" if run["n"] >= FEWEST_FOR_P99 else ""
    saved = f", −{100 - 100 * run['p50_ms'] / serial_ms:.0f} %" if saves else ""
    return f"{run['p50_ms']:,.0f}{p99}{saved}"


def test_speeds_and_savings():
    wanted = []
    for setup, region in SPEED:
        runs = measured(setup, region)["runs"]
        wanted.append([shown(runs, mode, mode in (EXACT, BRANCHED)) for mode in ("serial", EXACT, BRANCHED, ONE_PASS)])
    assert cells("| median (p99), ms | serial") == wanted


def test_short_chunks():
    wanted = []
    for setup, slots in SLOTS:
        runs = measured(setup, "384px" if slots == 3 else f"384px_{slots}slot")["runs"]
        age = np.percentile(sound_to_frame_ms(runs[BRANCHED]["latency_ms"], ChunkSize(slots)), 99)
        medians = [shown(runs, mode) for mode in ("serial", EXACT, BRANCHED, ONE_PASS)]
        wanted.append([str(4 * slots), *medians, f"{age:.0f}"])
    assert [[cell.strip("*") for cell in row] for row in cells("| median (p99), ms | frames a chunk")] == wanted


def test_alone_end_to_end_and_after_silence():
    def triple(setup: str, region: str) -> str:
        if not region:
            return ""
        one = measured(setup, region)
        end_ms = one["runs"].get(BRANCHED, one["runs"][EXACT])["p50_ms"]
        start_ms = np.percentile(one["after_silence"]["latency_ms"], 99)
        return f"{one['generation_alone']['p50_ms']:.0f}, {end_ms:.0f}, {start_ms:.0f}"

    wanted = [[triple(setup, region) for region in regions] for setup, regions in TRIPLES.items()]
    assert cells("| median, median, p99, ms | 256 px") == wanted
