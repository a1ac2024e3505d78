"""What ``simulate_research.py`` does: simulate, print, draw. Every number and figure is labelled simulated."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import matplotlib

matplotlib.use("agg")  # files only, on machines without a screen too

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from specsync_lib.errors import INTERRUPTED_EXIT_CODE, InputError
from specsync_lib.figures import latency as latency_figures
from specsync_lib.figures import style
from specsync_lib.files import require_place
from specsync_lib.measures import claims, latency_tables
from specsync_lib.paths import PLOTS_DIR, display_path, expanded
from specsync_lib.pipeline import simulate, stage_times
from specsync_lib.pipeline.answers import measured_answers
from specsync_lib.pipeline.chips import chip_table
from specsync_lib.values import on_one_line

SUBFOLDER = "simulated"
MOST_CHUNKS = 5_000
RATES = np.linspace(0, 0.5, 6)
CASES = (("256px", 2), ("384px", 2), ("384px", 5), ("512px", 2), ("720p", 2))  # region, denoising steps
SHOWN = ("384px", 2)


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help shows what it takes")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises
    ------
    InputError: anything it does not take.
    """
    parser = _OneLineParser(
        prog="simulate_research.py", description="Simulate both pipelines on stage times measured on an H200."
    )
    parser.add_argument("--out", type=expanded, default=PLOTS_DIR / SUBFOLDER, help="folder; default: plots/simulated")
    parser.add_argument("--chunks", type=int, default=200, help=f"chunks of a run, 1 to {MOST_CHUNKS}; default: 200")
    parser.add_argument("--seed", type=int, default=0, help="start of the random generator; default: 0")
    options = parser.parse_args(list(arguments))
    if not 1 <= options.chunks <= MOST_CHUNKS:
        raise InputError(f"--chunks {options.chunks}: expected 1 to {MOST_CHUNKS}")
    if options.seed < 0:
        raise InputError(f"--seed {options.seed}: expected 0 or more")
    require_place(options.out, "--out")
    return options


def run(options: argparse.Namespace) -> list[Path]:
    """Simulate and write; returns the pictures."""
    style.use_style()
    rng = np.random.default_rng(options.seed)
    answers, source = measured_answers()
    setups = {case: stage_times.reference_setup(case[0], steps=case[1]) for case in CASES}
    shown = setups[SHOWN]
    print(f"simulated: stage times from {shown.source} ({shown.label}); the judge's answers: {source}")

    rows: list[dict] = latency_tables.claimed_rows()
    for setup in setups.values():
        rows += latency_tables.simulated_rows(setup, answers, rng, options.chunks)
    latency = pd.DataFrame(rows)
    totals = latency[latency["label"] == simulate.LABEL].drop_duplicates(["setup", "mode"])
    totals = totals.pivot_table("p50_ms", "setup", "mode", sort=False)
    print(f"\nsimulated: median latency of a chunk (ms)\n{totals.round(1).to_string()}")
    late, serial_ms = latency_tables.late_tables([shown], RATES, rng, options.chunks)
    chips = chip_table(shown, SHOWN[0], answers["speculative"], rng, chunks=options.chunks)
    told = ["chip", "chips", "reasoner", "serial_p50_ms", "speculative_p50_ms", "reduction", "break_even_rate"]
    print(f"\nsimulated: other chips\n{chips[told].round(2).to_string(index=False)}")
    print(
        "break_even_rate: share of rejected chunks above which serial is faster; inf where even a rejected one is not"
    )
    needed = claims.needed_by_claim(shown)
    print(f"\nsimulated: what the claimed latencies would need\n{needed.round(1).to_string(index=False)}")
    return [
        draw("latency_simulated", latency, latency_figures.draw_comparison, (11, 7), options.out),
        draw_late(late, serial_ms[shown.name], shown.name, options.out),
        draw("latency_chips", chips, latency_figures.draw_chips, (10, 4), options.out),
    ]


def draw(stem: str, table: pd.DataFrame, how, size: tuple[float, float], folder: Path) -> Path:
    """One table as one figure."""
    fig, ax = plt.subplots(figsize=size)
    how(table, ax)
    path = style.save_figure(fig, stem, table, folder)
    plt.close(fig)
    return path


def draw_late(late: pd.DataFrame, serial_ms: float, title: str, folder: Path) -> Path:
    """What late verdicts cost, in latency and in error."""
    fig, axes = plt.subplots(1, 2, figsize=(13, 4.6))
    latency_figures.draw_late_latency(late, serial_ms, axes[0])
    latency_figures.draw_late_error(late, axes[1])
    fig.suptitle(title)
    path = style.save_figure(fig, "late_verdicts", late, folder)
    plt.close(fig)
    return path


def main(arguments: Sequence[str]) -> int:
    """Simulate; what the command does not take, or cannot write, is one line."""
    try:
        pictures = run(parse(arguments))
    except InputError as error:
        print(f"simulate_research: {on_one_line(str(error))}", file=sys.stderr)
        return InputError.EXIT_CODE
    except OSError as error:
        print(f"simulate_research: {error}; is the folder writable?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsimulate_research: interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    print("\n" + "\n".join(f"wrote {display_path(path)}" for path in pictures))
    return 0
