"""What the source report's claims would need, and the verdict on each."""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from specsync_lib.claims import claims
from specsync_lib.measures.kernels import measurement, results_table, select
from specsync_lib.measures.latency_tables import EXACT, NOT_MEASURED, first_measured, headline
from specsync_lib.paths import display_path
from specsync_lib.pipeline.chips import REASONER_PARAMETERS
from specsync_lib.pipeline.simulate import CHUNK_MS, LABEL
from specsync_lib.pipeline.stage_times import Setup
from specsync_lib.rows import NOT_MEASURED as UNMEASURED
from specsync_lib.rows import Row
from specsync_lib.units import FRAMES_PER_CHUNK

NOTICED_OFFSET_MS, STEADY_RATIO, NEAR_PERFECT_R = 45.0, 1.5, 0.95


def needed_by_claim(setup: Setup) -> pd.DataFrame:
    """Which stage times the claimed latencies would need, beside this setup's; columns what, needed, here, unit.

    Speculation can hide the reasoner and nothing else, so the claimed difference is all of the reasoner's time, and the
    claimed speculative latency is everything else.
    """
    claimed = claims()
    serial, speculative = claimed["serial_ms"]["value"], claimed["speculative_ms"]["value"]
    hidden = serial - speculative
    token = hidden / FRAMES_PER_CHUNK
    copy_gb_per_s = 4270.0
    rows = [
        ("the reasoner's visible time, a chunk", hidden, setup.plan.median_ms, "ms"),
        ("one token of the plan, 12 a chunk", token, setup.token.median_ms, "ms"),
        ("tokens a chunk at this token's time", hidden / setup.token.median_ms, FRAMES_PER_CHUNK, "tokens"),
        ("reasoner in bf16 at this memory's pace", copy_gb_per_s * token / 2e3, REASONER_PARAMETERS / 1e9, "B weights"),
        ("everything but the reasoner", speculative, setup.draft.median_ms + setup.generation_ms, "ms"),
        ("video that must come out meanwhile", speculative, CHUNK_MS, "ms"),
    ]
    return pd.DataFrame(rows, columns=["what", "needed", "here", "unit"]).assign(label=LABEL, setup=setup.name)


def verdict_table(
    summary: Mapping[str, Mapping], directory: Path | None = None, row: Row | None = None, no_truth: str = ""
) -> pd.DataFrame:
    """The source report's claims, what this suite found, and a verdict computed from files.

    Parameters
    ----------
    summary : the run's recorded numbers (`summary.merged`).
    row : whose models ran; what a committed file says of others is not measured for it.
    no_truth : why the recording has no truth; empty where it has one.

    Returns
    -------
    Columns claim, claimed, number, found, label, verdict, source; number is the one that the verdict rests on, found
    says what it is of, or why there is none. Verdicts: holds, missed, exceeded, in part, "not shown: " and why where
    there is no truth to hold the lips against, or "not measured yet" where the file is absent.
    """
    said, columns = claims(), ["claim", "claimed", "number", "found", "label", "verdict", "source"]
    rows = [
        _latency_verdict(said["serial_ms"], ("serial",), directory),
        _latency_verdict(said["speculative_ms"], EXACT, directory),
        _reduction_verdict(said["reduction"], directory),
        _acceptance_verdict(said["acceptance_at_085"], summary),
        _kernel_verdict(said["kernel_overhead_ms"]),
        _summary_verdict(
            said["video"], summary, ("video.frame_count_error", "video.av_end_difference_ms"), {"video.*ms": 34.0}
        ),
        _lip_sync_verdict(said["lip_sync"], summary, no_truth),
        _sm120_verdict(said["sm_120"], summary),
    ]
    table = pd.DataFrame(rows, columns=columns)
    if row is not None:
        others = ~table["source"].map(row.holds)
        table.loc[others, ["number", "found", "label", "verdict", "source"]] = ["", UNMEASURED, "", NOT_MEASURED, ""]
    return table


def _said(claim: Mapping) -> str:
    value = claim["value"]
    if value is None:
        return "no number"
    return f"{value:.0%}" if claim["unit"] == "fraction" else f"{value:g} {claim['unit']}"


def _row(claim: Mapping, number: str, found: str, label: str, verdict: str, source: str) -> tuple:
    return claim["what"], _said(claim), number, found, label, verdict, source


def _absent(claim: Mapping) -> tuple:
    return _row(claim, "", NOT_MEASURED, "", NOT_MEASURED, "")


def _latency_verdict(claim: Mapping, modes: Sequence[str], directory: Path | None) -> tuple:
    measured = headline(directory)
    if measured is None:
        return _absent(claim)
    content, region, runs, path = measured
    found = runs[first_measured(modes, runs)]["p50_ms"]
    verdict = "holds" if abs(found / claim["value"] - 1) <= 0.1 else "exceeded" if found < claim["value"] else "missed"
    where = f"median of a chunk, {content['setup']}, {region}"
    return _row(claim, f"{found:,.0f} ms", where, content["label"], verdict, display_path(path))


def _reduction_verdict(claim: Mapping, directory: Path | None) -> tuple:
    measured = headline(directory)
    if measured is None:
        return _absent(claim)
    content, region, runs, path = measured
    found = 1 - runs[first_measured(EXACT, runs)]["p50_ms"] / runs["serial"]["p50_ms"]
    verdict = "exceeded" if found > claim["value"] + 0.02 else "holds" if found >= claim["value"] - 0.02 else "missed"
    where = f"of the serial median, {content['setup']}, {region}"
    return _row(claim, f"{found:.0%}", where, content["label"], verdict, display_path(path))


def _acceptance_verdict(claim: Mapping, summary: Mapping[str, Mapping]) -> tuple:
    for key, coverage_key, judge in (
        ("acceptance.at_085", "acceptance.coverage_at_085", "language model"),
        ("draft.acceptance_at_085", "draft.coverage_at_085", "truth, not a reasoner"),
    ):
        if key in summary:
            entry, coverage = summary[key], summary.get(coverage_key)
            kept = f"of the {coverage['value']:.0%} of frames kept; " if coverage else ""
            if judge == "language model":
                verdict = "holds" if entry["value"] >= claim["value"] else "missed"
            else:
                verdict = "in part: the judge is another"
            number = f"{entry['value']:.0%}"
            return _row(claim, number, f"{kept}judge: {judge}", entry["label"], verdict, entry["source"])
    return _absent(claim)


def _kernel_verdict(claim: Mapping) -> tuple:
    measured = measurement("project_latents")
    if measured is None:
        return _absent(claim)
    rows = select(results_table(measured), region="720p", slots=8, implementation="kernel", method="host call to ready")
    found = rows["median_us"].item() / 1e3
    verdict = "exceeded" if found < claim["value"] / 10 else "holds" if found <= claim["value"] else "missed"
    source = "data/measurements/kernel_project_latents_h200.json"
    return _row(claim, f"{found:.3f} ms", "host call to result, H200, 720p", rows["label"].item(), verdict, source)


def _summary_verdict(
    claim: Mapping, summary: Mapping[str, Mapping], keys: Sequence[str], limits: Mapping[str, float]
) -> tuple:
    """A claim that holds where recorded numbers are small: 0 is wanted, up to the limit of a key's pattern is fine."""
    found = {key: summary[key] for key in keys if key in summary}
    if not found:
        return _absent(claim)
    text = ", ".join(f"{_in_words(key)} {_with_unit(entry)}" for key, entry in found.items())
    within = all(
        abs(entry["value"]) <= next((limit for pattern, limit in limits.items() if fnmatch.fnmatch(key, pattern)), 0)
        for key, entry in found.items()
    )
    entry = max(found.values(), key=lambda entry: abs(entry["value"]) if entry["unit"] == "ms" else -1)
    number = _with_unit(entry)
    complete = len(found) == len(keys)
    verdict = ("holds" if within else "missed") if complete else f"in part: {NOT_MEASURED} are the others"
    return _row(claim, number, text, entry["label"], verdict, entry["source"])


def _in_words(key: str) -> str:
    """A key's own part, without its unit."""
    return key.partition(".")[2].removesuffix("_ms").replace("_", " ")


def _with_unit(entry: Mapping) -> str:
    """A recorded number; one that is a ratio has no unit."""
    return f"{entry['value']:.3g} {'' if entry['unit'] in ('1', 'ratio') else entry['unit']}".rstrip()


def _lip_sync_verdict(claim: Mapping, summary: Mapping[str, Mapping], no_truth: str) -> tuple:
    """In step and steady, by limits that a viewer would set; near-perfect only if the lips also follow truth's.

    Source of the offset's limit: ITU-R BT.1359-1, where viewers begin to notice sound that comes early.
    """
    if no_truth:
        return _row(claim, "", no_truth, "", f"not shown: {no_truth}", "")
    timing = ("sync.av_offset_ms", "sync.jitter_ratio")
    found = _summary_verdict(claim, summary, timing, {"sync.*_ms": NOTICED_OFFSET_MS, "sync.*_ratio": STEADY_RATIO})
    lips = summary.get("sync.lip_r")
    if found[5] != "holds" or lips is None:
        return found
    verdict = "holds" if lips["value"] >= NEAR_PERFECT_R else "in part: in step and steady, the lips not near-perfect"
    text = f"of the lips with truth's; {found[3]}"
    return _row(claim, f"r = {lips['value']:.3g}", text, lips["label"], verdict, lips["source"])


def _sm120_verdict(claim: Mapping, summary: Mapping[str, Mapping]) -> tuple:
    entry = summary.get("kernel.sm120_max_shared_kib")
    if entry is None:
        return _absent(claim)
    fits = entry["value"] <= 99
    found = "of the 99 KiB of shared memory; compiled ahead of time, run on sm_90 alone"
    return _row(
        claim,
        f"{entry['value']:.0f} KiB",
        found,
        entry["label"],
        "in part: never run there" if fits else "missed",
        entry["source"],
    )
