"""The small decoder's headline numbers: what its pictures are worth on held-out people, and what a chunk costs."""

import json
from pathlib import Path

import pandas as pd

from specsync_lib.errors import InputError
from specsync_lib.measures.intervals import bootstrap_by_group
from specsync_lib.paths import MEASUREMENTS_DIR, TINY_DECODER
from specsync_lib.summary import record

METRICS = TINY_DECODER.with_name("metrics.json")
UNITS = {"psnr_db": "dB", "mouth_psnr_db": "dB", "ssim": "ratio", "flicker_grey": "grey levels"}
# What `workbench.measure.decoders` timed: its file, the region in px, the summary's key, its unit, units a millisecond.
TIMES = (
    (MEASUREMENTS_DIR / "decoder_cpu.json", 256, "decoder.cpu_ms_per_chunk", "ms", 1),
    (MEASUREMENTS_DIR / "decoder_h200.json", 384, "decoder.h200_us_per_chunk_384px", "us", 1000),
)


def quality(path: Path = METRICS, split: str = "test") -> pd.DataFrame:
    """A row a decoder, the VAE's own ("wan") and those trained beside each other: UNITS' means with their intervals.

    Intervals draw clips. ``in_use`` marks the one whose weights `paths.TINY_DECODER` holds.

    Raises
    ------
    InputError: its metrics are absent or of another kind.
    """
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        rows = []
        for name, splits in metrics["final"].items():
            part, clips = splits[split], pd.DataFrame(splits[split]["per_clip"])
            row = {"decoder": name, "in_use": name == metrics["in_use"], "clips": part["clips"]}
            for key in UNITS:
                spread = bootstrap_by_group(clips[key].to_numpy(), clips["clip"].to_numpy())
                row |= {key: part[key], f"{key}_low": spread.low, f"{key}_high": spread.high}
            rows.append(row)
        return pd.DataFrame(rows)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: no decoder's metrics ({error}); train one with workbench.train.decoder") from error


def record_summary(metrics: Path = METRICS, times: tuple = TIMES) -> None:
    """Record what is known of the small decoder for the running notebook; nothing before one is trained."""
    if not metrics.is_file():
        return
    table = quality(metrics)
    used = table[table["in_use"]].iloc[0]
    for key, unit in UNITS.items():
        ends = used[f"{key}_low"], used[f"{key}_high"]
        record(f"decoder.{key}", used[key], unit, "measured", metrics, *ends, int(used["clips"]))
    for path, region_px, key, unit, scale in times:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
        timed = [
            row
            for row in rows
            if (row["decoder"], row["region_px"], row["slots"]) == ("tiny", region_px, 3) and row.get("agrees", True)
        ]
        if timed:  # the way that one would take
            best = min(timed, key=lambda row: row["median_ms"])
            ends = best["p20_ms"] * scale, best["p80_ms"] * scale
            record(key, best["median_ms"] * scale, unit, best["label"], path, *ends, best["n"])
