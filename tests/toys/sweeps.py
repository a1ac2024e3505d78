"""A recording's sweep, made up: the tables that sliders and the report's page read."""

import numpy as np
import pandas as pd

from specsync_lib.measures.recording import SWEEP_COLUMNS, variants
from specsync_lib.units import FRAMES_PER_CHUNK, VIDEO_FPS, VISEMES


def sweep_of(frames: int, truth: bool = True, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Frame table, sweep table, words."""
    rng = np.random.default_rng(seed)
    names = np.array(VISEMES)
    draft, judge = (names[np.repeat(rng.integers(0, 15, frames // 4 + 1), 4)[:frames]] for _ in range(2))
    sure = rng.random(frames)
    plan = {"judge": judge, "exact": judge, "mouth": judge, "lenient": draft, "draft": draft}
    kinds = variants()
    for name, (rule, threshold) in kinds.items():
        if rule == "gate":
            plan[name] = np.where(sure >= threshold, draft, judge)
    number = np.arange(frames)
    table = pd.DataFrame(
        {
            "time_s": number / VIDEO_FPS,
            "frame": number,
            "chunk": number // FRAMES_PER_CHUNK,
            "draft": draft,
            "confidence": sure,
            "recalibrated": sure,
            "accepted": draft == judge,
            "truth": judge if truth else [""] * frames,
        }
        | {name: plan[name] for name in kinds if name != "draft"}
    )
    rows = []
    for name, (rule, threshold) in kinds.items():
        covered = sure >= (2 if threshold is None else threshold)
        share = np.nan if threshold is None else covered.mean()
        same = (plan[name] == judge).mean()
        accuracy = same if truth else np.nan
        rows.append(
            (name, rule, threshold, share, share, covered.sum(), 0.5, same, accuracy, 0.1, 3.0, 0.4, 1200.0, frames, 3)
        )
    words = pd.DataFrame({"word": ["one", "two"], "start_s": [0.0, 0.5], "end_s": [0.4, 0.9]})
    return table, pd.DataFrame(rows, columns=list(SWEEP_COLUMNS)), words
