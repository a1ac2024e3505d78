"""The claim that sound projects straight into Wan's latents: its measured table, read and recorded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from specsync_lib.errors import InputError
from specsync_lib.face.head.look import REFERENCE
from specsync_lib.paths import MEASUREMENTS_DIR
from specsync_lib.units import FRAMES_PER_SLOT

if TYPE_CHECKING:
    import pandas as pd


RESULT, LIPS, LIPS_FACTS, PREVIEW = "claim.json", "claim_lips.csv", "lips.json", "preview.png"
OTHER_LIPS = "claim_lips_speakers.csv"  # of other people's sentences
CLAIM_FILE = MEASUREMENTS_DIR / RESULT
CONDITIONS = {
    "vae": "truth's render through the VAE: its ceiling",
    "truth_coefficients": "truth's own latents on B: the basis' ceiling",
    "kernel": "the full kernel",
    "ordered": "the kernel's hidden layer, pooled with the order of a slot's halves",
    "energy": "loudness alone, the same fit",
    "shuffled": "the full kernel on another sentence's sound",
}
SUMMARY_KEYS = {
    "latent.claim_r": ("kernel", "r", "ratio"),
    "latent.claim_lag_ms": ("kernel", "lag_ms", "ms"),
    "latent.energy_only_r": ("energy", "r", "ratio"),
    "latent.basis_ceiling_r": ("truth_coefficients", "r", "ratio"),
    "latent.shuffled_r": ("shuffled", "r", "ratio"),
}
LAG_NEEDS_R = 0.2  # a curve that does not follow another has no lag behind it


@dataclass(frozen=True)
class Claim:
    """The claim's table and what it was made of.

    Attributes
    ----------
    table : DataFrame
        A row per identity and condition: r, lag_ms, error_mm, inside_slot_r with ``_low`` and ``_high``, utterances,
        frames. A measure that does not exist (the lag of unrelated curves) is NaN.
    lips : DataFrame
        A row per frame, gaps in mm.
    facts : dict
    """

    table: "pd.DataFrame"
    lips: "pd.DataFrame"
    facts: dict

    def number(self, condition: str, measure: str = "r") -> tuple[float, float, float]:
        """A value of the table with its interval, on the reference identity."""
        rows = self.table[(self.table["condition"] == condition) & (self.table["identity"] == REFERENCE)]
        return tuple(float(rows[f"{measure}{end}"].iloc[0]) for end in ("", "_low", "_high"))

    def by_speakers(self) -> "pd.DataFrame":
        """The table; where other people's sentences were read too, theirs below it. Index: whose sentences."""
        import pandas as pd

        others = self.facts.get("other_speakers")
        tables = {"the corpus' speaker": self.table} | ({"other speakers": pd.DataFrame(others)} if others else {})
        return pd.concat(tables, names=["sentences of"]).droplevel(1)


def tabulate(lips: "pd.DataFrame", seed: int = 0) -> "pd.DataFrame":
    """Correlation, lag and error of the lips in each condition against truth's; intervals resample utterances.

    ``inside_slot_r`` correlates what is left of both curves when each slot's mean is taken away: the motion inside a
    slot, which a pool without order can only guess.
    """
    import pandas as pd

    from specsync_lib.measures.intervals import Metric, bootstrap_by_group, pearson_columns, pearson_of_sums
    from specsync_lib.measures.sync import av_offset

    def spread(name: str, metric: Metric | None) -> dict[str, float]:
        ends = (np.nan,) * 3 if metric is None else (metric.value, metric.low, metric.high)
        return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))

    def correlation(read: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> Metric:
        return bootstrap_by_group(
            pearson_columns(read, truth), groups, pearson_of_sums, rng=np.random.default_rng(seed)
        )

    def mean(values: list[float], groups: list[str], unit: str) -> Metric:
        return bootstrap_by_group(np.array(values), np.array(groups), rng=np.random.default_rng(seed), unit=unit)

    rows = []
    for identity, part in lips.groupby("identity", sort=False):
        groups, truth = part["utterance"].to_numpy(), part["truth_mm"].to_numpy()
        slot = [part["utterance"], part["frame"] // FRAMES_PER_SLOT]
        inside = part.groupby(slot)["truth_mm"].transform("mean").to_numpy()
        for condition in ("mesh", *CONDITIONS):
            read = part[f"{condition}_mm"].to_numpy()
            r = correlation(read, truth, groups)
            lags = {}
            if r.low >= LAG_NEEDS_R:
                for name, one in part.groupby("utterance", sort=False):
                    lags[name] = av_offset(one["truth_mm"].to_numpy(), one[f"{condition}_mm"].to_numpy()).value
            read_inside = part.groupby(slot)[f"{condition}_mm"].transform("mean").to_numpy()
            rows.append(
                {
                    "identity": identity,
                    "condition": condition,
                    **spread("r", r),
                    **spread("lag_ms", mean(list(lags.values()), list(lags), "ms") if lags else None),
                    **spread("error_mm", mean(list(np.abs(read - truth)), list(groups), "mm")),
                    **spread("inside_slot_r", correlation(read - read_inside, truth - inside, groups)),
                    "utterances": r.n,
                    "frames": len(part),
                }
            )
    return pd.DataFrame(rows)


def load_claim(folder: Path = MEASUREMENTS_DIR) -> Claim:
    """What :func:`write_table` left, for a notebook.

    Raises
    ------
    InputError: not there.
    """
    import pandas as pd

    try:
        content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        lips = pd.read_csv(folder / LIPS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / RESULT}: not readable ({error}); run python -m workbench.measure.latent_claim"
        ) from error
    table = pd.DataFrame(content["table"])
    numbers = table.columns.difference(["identity", "condition"])
    return Claim(table.astype(dict.fromkeys(numbers, float)), lips, content)


def record_summary(claim: Claim, source: Path = CLAIM_FILE) -> None:
    """Record the claim's headline numbers for the running notebook."""
    from specsync_lib.summary import record

    for key, entry in claim.facts["summary"].items():
        record(key, **entry, source=source)
