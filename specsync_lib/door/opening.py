"""What the report's opening page shows before anything is unfolded: videos, verdicts, sliders, one figure.

All of it is read from files that the notebooks left; a part whose file is absent is left out or says so.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from specsync_lib.claims import CLAIMED_THRESHOLD, claims
from specsync_lib.door.origins import origin
from specsync_lib.door.words import HEADLINE_SETUPS, SETUP_NAMES, VARIANTS
from specsync_lib.rules_in_words import RULE_WORDS
from specsync_lib.units import VIDEO_FPS, VISEMES

VERDICTS_NAME = "claims_verdicts.csv"
PLAN_NAME = "committed_plan.csv"
SWEEP_NAME, FRAMES_NAME, WORDS_NAME = "recording_sweep.csv", "recording_frames.csv", "words.csv"
NOT_SHOWN = "not shown"
VERDICTS = ("holds", "exceeded", "in part", NOT_SHOWN)
SWEPT = (
    "threshold", "acceptance", "coverage", "agreement_with_judge", "accuracy", "passes_a_second",
    "lip_error_mm_vs_judge", "predicted_ms",
)  # fmt: skip
ROUNDED = 4
UNSPECULATIVE = ("draft", "judge")  # rules: nothing is verified, and nothing is drafted


@dataclass(frozen=True)
class Verdict:
    """A claim, its verdict in one of VERDICTS, the one number it rests on, and where that was measured.

    ``found`` says what the number is of, or why there is none. ``here``: by this run on this machine; else ``place``
    says where and when.
    """

    claim: str
    claimed: str
    verdict: str
    number: str
    found: str
    label: str
    here: bool
    place: str


def run_facts(run_dir: Path) -> dict[str, Any]:
    """`SystemRun.facts` of the run that made the video; empty before there is one."""
    path = run_dir / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def variants(run_dir: Path, plots_dir: Path) -> list[dict[str, Any]]:
    """The short clips of the run's variants that are there: video, title, and the time of its first spoken frame."""
    rule, table = run_facts(run_dir).get("rule", ""), run_dir / PLAN_NAME
    plan = pd.read_csv(table, keep_default_na=False) if table.exists() else pd.DataFrame()
    found = []
    for name, title in VARIANTS.items():
        if (plots_dir / name).exists():
            title += f", rule={rule}" if "committed" in name and rule else ""
            column = Path(name).stem.removeprefix("lipsync_")
            spoken = plan.loc[~plan[column].isin(["", "sil"]), "time_s"] if len(plan) else plan
            found.append({"video": name, "title": title, "spoken_s": float(spoken.iloc[0]) if len(spoken) else 0.0})
    return found


def verdicts(plots_dir: Path) -> list[Verdict]:
    """The eight claims of the source report with what this suite says of each; not shown where nothing was found."""
    path = plots_dir / VERDICTS_NAME
    table = pd.read_csv(path, keep_default_na=False) if path.exists() else pd.DataFrame()
    known = {} if table.empty else {row["claim"]: row for row in table.to_dict("records")}
    return [_verdict(claim, known.get(claim["what"], {})) for claim in claims().values()]


def _verdict(claim: Mapping[str, Any], row: Mapping[str, str]) -> Verdict:
    value, unit = claim["value"], claim["unit"]
    claimed = {"": "no number", "fraction": f"{value or 0:.0%}", "sm": f"sm_{value}"}.get(unit, f"{value} {unit}")
    word = row.get("verdict", "").partition(":")[0]
    made = origin(row["source"]) if row.get("source") else None
    return Verdict(
        claim=claim["what"],
        claimed=claimed,
        verdict=word if word in VERDICTS else NOT_SHOWN,
        number=row.get("number", ""),
        found=row.get("found", ""),
        label=row.get("label", ""),
        here=made is None,
        place=str(made or ""),
    )


@dataclass(frozen=True)
class Pair:
    """Serial against speculative: milliseconds, what of the serial time is left, and who says so."""

    who: str
    place: str
    label: str
    serial_ms: float
    speculative_ms: float

    @property
    def left(self) -> float:
        """The speculative time as a share of the serial one."""
        return self.speculative_ms / self.serial_ms

    @property
    def saved(self) -> str:
        """What speculation takes away, in per cent; a plus where it takes longer."""
        return f"{100 * (self.left - 1):+.0f} %".replace("-", "−")


def headline(numbers: Mapping[str, Mapping[str, Any]], rule: str = "") -> list[Pair]:
    """The source report's pair, then ours: the full-size setup measured elsewhere, and this run's under its rule; of a
    rule that does not let a judge work beside the generation there is none."""
    said = claims()
    pairs = [
        Pair("source report", "its simulation", "claimed", said["serial_ms"]["value"], said["speculative_ms"]["value"])
    ]
    for setup, region in HEADLINE_SETUPS:
        serial = numbers.get(f"latency.{setup}.serial_p50_ms{region}")
        ways = (numbers.get(f"latency.{setup}.{way}_p50_ms{region}") for way in ("branched", "speculative"))
        ours = next((found for found in ways if found), None)
        if serial and ours:
            place = ", ".join(part for part in (region.strip("_"), str(origin(serial["source"]) or "")) if part)
            pairs.append(Pair(SETUP_NAMES[setup], place, serial["label"], serial["value"], ours["value"]))
            break
    serial, ours = (numbers.get(f"run.{way}_p50_ms") for way in ("serial", "speculative"))
    if serial and ours and rule not in UNSPECULATIVE:
        who = f"this recording, rule={rule}" if rule else "this recording"
        pairs.append(Pair(who, "this run, this machine", serial["label"], serial["value"], ours["value"]))
    return pairs


def recording_points(run_dir: Path) -> dict[str, Any] | None:
    """This recording under every rule and threshold, for the page's slider; None where no table was made.

    Visemes are indices into ``names``; ``by_rule`` holds for every rule its rows in order of the threshold; ``start``:
    the run's own rule (gate before there is a run) and threshold (the source report's where the rule has none).
    """
    sweep_path, frames_path = run_dir / SWEEP_NAME, run_dir / FRAMES_NAME
    if not (sweep_path.exists() and frames_path.exists()):
        return None
    sweep, frames = pd.read_csv(sweep_path), pd.read_csv(frames_path, keep_default_na=False)
    codes = {name: index for index, name in enumerate(VISEMES)}

    def plan(column: str) -> list[int]:
        return [codes[name] for name in frames[column]]

    rows = [
        {"variant": row.variant, "rule": row.rule, "plan": plan(row.variant)}
        | {name: _number(getattr(row, name)) for name in SWEPT}
        for row in sweep.itertuples()
    ]
    strips = {name: plan(name) for name in ("draft", "judge")}
    if (frames["truth"] != "").all():
        strips["truth"] = plan("truth")
    words_path = run_dir / WORDS_NAME
    words = pd.read_csv(words_path, keep_default_na=False) if words_path.exists() else pd.DataFrame()
    end_s = len(frames) / VIDEO_FPS
    made = run_facts(run_dir)
    rules = {rule: words for rule, words in RULE_WORDS.items() if (sweep["rule"] == rule).any()}
    rule, threshold = made.get("rule", "gate"), made.get("threshold")
    return {
        "names": list(VISEMES),
        "start": {
            "rule": rule if rule in rules else next(iter(rules)),
            "threshold": CLAIMED_THRESHOLD if threshold is None else threshold,
        },
        "strips": strips,
        "recalibrated": [round(value, ROUNDED) for value in frames["recalibrated"].tolist()],
        "words": [
            [row.word, round((row.start_s + row.end_s) / 2, 3)]
            for row in words.itertuples()
            if (row.start_s + row.end_s) / 2 < end_s
        ],
        "rules": list(rules.items()),
        "by_rule": {rule: [row for row in rows if row["rule"] == rule] for rule in RULE_WORDS},
    }


def _number(value: float) -> float | None:
    return round(float(value), ROUNDED) if math.isfinite(value) else None
