"""The referee's numbers, from the two tables that `referee` writes: accuracy, acceptance, passes, policy, fronts.

Everything here is arithmetic on tables, so that a notebook draws the same numbers without running a judge.

A frame table has one row a frame: speaker, split, utterance, frame; the plans, by viseme name: truth, draft, probe,
one_pass, committed and where they were run the other rules' (`rules.PLANS`), alone, without_probe; confidence,
recalibrated, judge_confidence, judge_of_draft (what the judge gave the draft's viseme), energy. A chunk table: see
`workbench.measure.referee.chunk_rows`.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from specsync_lib import provenance
from specsync_lib.claims import CLAIMED_THRESHOLD
from specsync_lib.errors import InputError
from specsync_lib.judge.recordings import BRANCHED, USUALLY_BRANCHED
from specsync_lib.judge.rules import within_one_frame
from specsync_lib.measures import draft as evaluation
from specsync_lib.measures import late_lips, rules
from specsync_lib.measures.acceptance import (
    THRESHOLDS,
    acceptance_table,
    at_threshold,
    expected_calibration_error,
)
from specsync_lib.measures.bounds import bad_accept_bound, conformal_threshold, ranking_skill
from specsync_lib.measures.intervals import bootstrap_by_group, drawn_groups, interval, resampling_unit
from specsync_lib.measures.ways import EXACT_PLANS, pass_facts
from specsync_lib.paths import MEASUREMENTS_DIR, display_path
from specsync_lib.rows import PROMPTS, Row
from specsync_lib.summary import record
from specsync_lib.units import VIDEO_FPS, VISEMES
from specsync_lib.visemes import viseme_codes

FRAMES_FILE, CHUNKS_FILE = MEASUREMENTS_DIR / "judged_frames.csv.gz", MEASUREMENTS_DIR / "judged_chunks.csv"
REFEREE_FILE, PATTERN_FILE = MEASUREMENTS_DIR / "referee.json", MEASUREMENTS_DIR / "acceptance_pattern.json"
UNSEEN_FILE = MEASUREMENTS_DIR / "referee_unseen.json"
UNSEEN_FRAMES_FILE = MEASUREMENTS_DIR / "judged_frames_unseen.csv.gz"

SAME_DRAFT = 0.999  # another machine's arithmetic may turn a tie
AROUND_S = 0.6  # how far the words shown beside a rejection reach
# Frames of a chunk, separated by blanks; columns of the chunk table.
PLACES = ("rejected", "lenient_rejected", "mouth_rejected")
RISK = 0.05  # what the conformal threshold allows: one frame in twenty covered and rejected

# Rows of the referee table: what is shown, and the column of the frame table that holds its plan.
PARTIES = {
    "majority class": "majority",
    "energy threshold": "energy_rule",
    "draft": "draft",
    "the judge's ears": "probe",
    "reasoner without the probe": "without_probe",
    "reasoner, token by token": "alone",
    "reasoner, one pass over the draft": "one_pass",
    "committed, exact greedy": "committed",
    "committed, live: no words": "live",
    "committed, mouth shapes": "mouth",
    "committed, lenient": "lenient",
}
PARTIES_BY_COLUMN = {column: what for what, column in PARTIES.items()}


def with_simple_rules(frames: pd.DataFrame, corpus: str = PROMPTS) -> pd.DataFrame:
    """The frame table with the plans of the two rules that any draft must beat, fitted on a corpus' training split."""
    truth, energy = evaluation.truth_and_energy(evaluation.training_prompts(corpus)[::5])
    rule = evaluation.EnergyRule.fit(energy, truth)
    names = np.array(VISEMES)
    return frames.assign(
        majority=names[evaluation.majority_viseme(truth)], energy_rule=names[rule.predict(frames["energy"].to_numpy())]
    )


def referee_table(frames: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Accuracy of every party against truth, strict and within ±1 frame, on the test split, by speaker row."""
    rows = []
    for speaker, test in frames[frames["split"] == "test"].groupby("speaker", sort=False):
        truth, utterance = viseme_codes(test["truth"]), test["utterance"].to_numpy()
        unit = drawn_groups(test)
        for what, column in PARTIES.items():
            if column not in test or test[column].isna().any():
                continue
            plan = viseme_codes(test[column])
            strict = bootstrap_by_group(plan == truth, unit, rng=rng)
            near = bootstrap_by_group(within_one_frame(plan, truth, utterance), unit, rng=rng)
            scores = interval("accuracy", strict) | interval("within_one_frame", near)
            sizes = {"n_utterances": test["utterance"].nunique(), "n_frames": len(test)}
            rows.append({"speaker": speaker, "what": what, **scores, **sizes})
    return pd.DataFrame(rows).assign(label="measured")


def verdicts_of(frames: pd.DataFrame) -> pd.DataFrame:
    """The judge's verdicts on the draft: columns exact (same frame) and lenient (within ±1 frame)."""
    draft, plan = viseme_codes(frames["draft"]), viseme_codes(frames["committed"])
    recording = frames.groupby([name for name in ("speaker", "utterance") if name in frames], sort=False).ngroup()
    lenient = within_one_frame(draft, plan, recording.to_numpy())
    return frames.assign(exact=draft == plan, lenient_verdict=lenient)


def threshold_facts(test: pd.DataFrame, confidence: str, rng: np.random.Generator) -> dict:
    """Acceptance by the judge at the claimed threshold, with coverage, calibration and a bound on bad accepts."""
    values, unit = test[confidence].to_numpy(), drawn_groups(test)
    lenient, exact = (
        at_threshold(acceptance_table(values, test[rule].to_numpy(), unit, rng=rng), CLAIMED_THRESHOLD)
        for rule in ("lenient_verdict", "exact")
    )
    bad = ~test["lenient_verdict"].to_numpy()
    error = expected_calibration_error(values, ~bad, unit, rng=rng)
    return {
        **_row("lenient", lenient, "acceptance"),
        **_row("exact_greedy", exact, "acceptance"),
        **_row("coverage", lenient, "coverage"),
        **interval("ece", error),
        "bad_accepts": _bad_accepts(bad, values >= CLAIMED_THRESHOLD, unit),
    }


def _bad_accepts(bad: np.ndarray, covered: np.ndarray, unit: np.ndarray) -> dict | None:
    """`bad_accept_bound`; None where too little is covered for one."""
    return None if len(np.unique(unit[covered])) < 2 else asdict(bad_accept_bound(bad, covered, unit))


def acceptance_facts(test: pd.DataFrame, validation: pd.DataFrame, confidence: str, rng: np.random.Generator) -> dict:
    """`threshold_facts` of one of the two confidences, and the threshold that validation speech calls for."""
    values, bad = test[confidence].to_numpy(), ~test["lenient_verdict"].to_numpy()
    chosen = conformal_threshold(
        ~validation["lenient_verdict"].to_numpy(),
        validation[confidence].to_numpy(),
        validation["utterance"].to_numpy(),
        RISK,
        THRESHOLDS,
    )
    covered = values >= chosen
    return {
        **threshold_facts(test, confidence, rng),
        "conformal": {
            "risk": RISK,
            "threshold": chosen,
            "fitted_on": "validation split",
            "n_utterances": int(validation["utterance"].nunique()),
            "test_bad_share_of_all_frames": round(float((bad & covered).mean()), 5),
            "test_acceptance": round(float(1 - bad[covered].mean()), 5) if covered.any() else None,
            "test_coverage": round(float(covered.mean()), 5),
        },
        "at_coverage_0.8": _at_coverage(values, test, 0.8),
    }


def _row(name: str, row: pd.Series, column: str) -> dict[str, float]:
    return {f"{name}{end}": round(float(row[f"{column}{end}"]), 5) for end in ("", "_low", "_high")}


def _at_coverage(values: np.ndarray, test: pd.DataFrame, coverage: float) -> dict[str, float]:
    """The threshold that keeps a share of the frames, and what the judge accepts of those."""
    threshold = float(np.quantile(values, 1 - coverage))
    kept = test[values >= threshold]
    shares = {"lenient": kept["lenient_verdict"].mean(), "exact_greedy": kept["exact"].mean()}
    return {"threshold": round(threshold, 4)} | {name: round(float(share), 5) for name, share in shares.items()}


def acceptance_sweep(frames: pd.DataFrame, confidence: str, rng: np.random.Generator) -> pd.DataFrame:
    """`acceptance_table` of the exact verdicts, with the lenient ones as within_one_frame (_low, _high).

    frames : from `verdicts_of`; confidence : the column that meets the thresholds.
    """
    values, unit = frames[confidence].to_numpy(), drawn_groups(frames)
    exact, lenient = (
        acceptance_table(values, frames[verdict].to_numpy(), unit, rng=rng) for verdict in ("exact", "lenient_verdict")
    )
    near = lenient.filter(regex="^acceptance")
    return exact.join(near.rename(columns=lambda name: name.replace("acceptance", "within_one_frame")))


def record_unseen() -> None:
    """Record the unseen speaker's key for the running notebook, where that was measured."""
    if UNSEEN_FILE.is_file():
        table = json.loads(UNSEEN_FILE.read_text(encoding="utf-8"))["table"]
        row = next(row for row in table if row["what"] == PARTIES_BY_COLUMN["committed"])
        value, low, high = (row[f"accuracy{end}"] for end in ("", "_low", "_high"))
        key = "reasoner.accuracy_unseen_speaker"
        record(key, value, "fraction", "measured", UNSEEN_FILE, low, high, row["n_utterances"])


def record_row(row: Row) -> None:
    """Record what the workbench measured of this very row, where it did, in the place of the committed numbers."""
    folder = row.own_results()
    if folder and (path := folder / REFEREE_FILE.name).is_file():
        record_headlines(json.loads(path.read_text(encoding="utf-8")), path)


def record_headlines(facts: dict, path: Path = REFEREE_FILE) -> None:
    """Record the summary's reasoner and acceptance keys for the running notebook, from a `referee.json`."""
    (speaker,) = facts["speakers"]
    if path == REFEREE_FILE:
        record_unseen()
    record_live(facts, speaker, path)
    found, label = facts["speakers"][speaker], facts["provenance"]["label"]
    n = found["passes"]["n_utterances"]
    target = next(
        row for row in facts["table"] if (row["speaker"], row["what"]) == (speaker, PARTIES_BY_COLUMN["committed"])
    )
    likely, own = found["recalibrated_confidence"], found["draft_confidence"]
    for key, unit, numbers, name in (
        ("reasoner.accuracy", "fraction", target, "accuracy"),
        ("reasoner.passes_ratio", "ratio", found["passes"], "guessed_ratio"),
        ("reasoner.passes_ratio_several_plans", "ratio", found["passes"], f"{USUALLY_BRANCHED}_ratio"),
        ("reasoner.passes_ratio_from_draft", "ratio", found["passes"], "verified_ratio"),
        ("acceptance.at_085", "fraction", likely, "lenient"),
        ("acceptance.coverage_at_085", "fraction", likely, "coverage"),
        ("acceptance.exact_greedy_at_085", "fraction", likely, "exact_greedy"),
        ("acceptance.ece", "fraction", likely, "ece"),
        ("acceptance.by_draft_confidence_at_085", "fraction", own, "lenient"),
        ("acceptance.by_draft_confidence_coverage_at_085", "fraction", own, "coverage"),
    ):
        if numbers.get(name) is not None:  # null: over nothing covered
            low, high = numbers[f"{name}_low"], numbers[f"{name}_high"]
            record(key, numbers[name], unit, label, path, low, high, n)
    record_rules(found, label, path)
    if bad := likely["bad_accepts"]:
        record("acceptance.bad_accept_bound", bad["bound"], "fraction", label, path, n=bad["n_utterances"])


def gains(test: pd.DataFrame, rng: np.random.Generator) -> list[dict]:
    """How much more often the judge's plan is right than the draft and than what it hears, offline and live."""
    right = {
        name: (test[name] == test["truth"]).to_numpy()
        for name in ("draft", "probe", "committed", "live")
        if name in test
    }
    unit, rows = drawn_groups(test), []
    for judge in ("committed", "live"):
        for other in ("draft", "probe") if judge in right else ():
            gain = bootstrap_by_group(1.0 * right[judge] - right[other], unit, rng=rng)
            names = {"plan": PARTIES_BY_COLUMN[judge], "over": PARTIES_BY_COLUMN[other]}
            rows.append(names | interval("gain", gain) | {"n_utterances": test["utterance"].nunique()})
    return rows


def record_live(facts: dict, speaker: str, path: Path) -> None:
    """The keys of the judge as a pipeline hears it, where that was measured."""
    live = PARTIES_BY_COLUMN["live"]
    rows = [row for row in facts["table"] if (row["speaker"], row["what"]) == (speaker, live)]
    over_draft = [
        row for row in facts["speakers"][speaker].get("gains", ()) if (row["plan"], row["over"]) == (live, "draft")
    ]
    for key, found, name in (("live_accuracy", rows, "accuracy"), ("live_gain_over_draft", over_draft, "gain")):
        for row in found:
            ends = row[f"{name}_low"], row[f"{name}_high"], row["n_utterances"]
            record(f"reasoner.{key}", row[name], "fraction", facts["provenance"]["label"], path, *ends)


def record_rules(found: dict, label: str, path: Path) -> None:
    """The keys of the mouth rule, and of chunks under the exact one; of lips where they were measured too."""
    shares, n = found["chunks"], found["passes"]["n_utterances"]
    mouth = next((row for row in found["rules"] if row["rule"] == "mouth"), None)
    lips_path = path.with_name(late_lips.PATH.name)
    keys = [
        ("acceptance.whole_chunks", "fraction", shares, "whole", path),
        ("acceptance.one_pass_chunks", "fraction", shares, "one_pass", path),
    ]
    if mouth is not None:
        keys += [
            ("acceptance.mouth.at_085", "fraction", mouth, "at_085", path),
            ("acceptance.mouth.passes_ratio", "ratio", mouth, "ratio", path),
        ]
    if mouth is not None and lips_path.is_file():
        lips = late_lips.table(lips_path).loc[rules.LIPS_OF["mouth"]]
        keys.append(("acceptance.mouth.lip_error_mm", "mm", lips, "lip_error_mm", lips_path))
    for key, unit, numbers, name, source in keys:
        if numbers.get(name) is not None:
            low, high = numbers[f"{name}_low"], numbers[f"{name}_high"]
            record(key, numbers[name], unit, label, source, low, high, n)


def policy_facts(chunks: pd.DataFrame, rng: np.random.Generator) -> dict[str, object]:
    """How well the learned policy, and the fixed threshold's least confidence, tell chunks with a rejection."""
    rejected, unit = (chunks["rejected"] != "").to_numpy(), drawn_groups(chunks)
    scores = {"learned": chunks["any_rejection"].to_numpy(), "fixed": -chunks["least_confidence"].to_numpy()}
    facts: dict[str, object] = {"n_chunks": len(chunks), "chunks_with_a_rejection": round(float(rejected.mean()), 5)}
    for name, score in scores.items():
        area = ranking_skill(score, rejected, unit, rng)
        facts |= {f"{name}_auc{end}": round(value, 5) for end, value in zip(("", "_low", "_high"), area, strict=True)}
    return facts


def agreement(test: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """The share of drafts that the judge lets stand, in the same frame and within ±1."""
    columns, unit = {"exact": "exact", "lenient": "lenient_verdict"}, drawn_groups(test)
    shares = [
        interval(name, bootstrap_by_group(test[column].to_numpy(), unit, rng=rng)) for name, column in columns.items()
    ]
    return shares[0] | shares[1]


def judge_calibration(test: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """The judge's own calibration error, against truth."""
    right = (test["committed"] == test["truth"]).to_numpy()
    error = expected_calibration_error(test["judge_confidence"].to_numpy(), right, drawn_groups(test), rng=rng)
    return interval("ece", error)


def equal_to_token_by_token(test: pd.DataFrame) -> dict[str, int]:
    """In how many utterances every exact way commits what plain decoding writes."""
    ways = [way for way in EXACT_PLANS if way in test]
    same = test[ways].eq(test["alone"], axis=0).all(axis=1).groupby(test["utterance"]).all()
    return {"equal": int(same.sum()), "n_utterances": len(same)}


def summarise(frames: pd.DataFrame, chunks: pd.DataFrame, judging: dict, seed: int = 0, corpus: str = PROMPTS) -> dict:
    """Every number of `referee.json`."""
    rng = np.random.default_rng(seed)
    frames = verdicts_of(with_simple_rules(frames, corpus))
    table = referee_table(frames, rng)
    by_speaker = {}
    for speaker, rows in frames.groupby("speaker", sort=False):
        test, validation = rows[rows["split"] == "test"], rows[rows["split"] == "validation"]
        verified = chunks[(chunks["speaker"] == speaker) & (chunks["split"] == "test")]
        by_speaker[speaker] = {
            "agreement": agreement(test, rng),
            "draft_confidence": acceptance_facts(test, validation, "confidence", rng),
            "recalibrated_confidence": acceptance_facts(test, validation, "recalibrated", rng),
            "passes": pass_facts(verified, rng),
            "chunks": rules.whole_chunks(verified, rng),
            "rules": rules.rule_rows(test, verified, rng),
            "lenient": rules.lenient_rows(test, rng),
            "gains": gains(test, rng),
            "policy": policy_facts(verified, rng),
            "judge_calibration": judge_calibration(test, rng),
        }
        if "alone" in test and test["alone"].notna().all():
            by_speaker[speaker]["equal_to_token_by_token"] = equal_to_token_by_token(test)
    return {
        "provenance": {**provenance.machine(), "command": "python -m workbench.measure.referee", "label": "measured"},
        "definitions": DEFINITIONS,
        **({} if (unit := resampling_unit(frames)) == "utterance" else {"resampling_unit": unit}),
        "judging": judging,
        "table": table.to_dict("records"),
        "speakers": by_speaker,
    }


def stranger_facts(frames: pd.DataFrame, chunks: pd.DataFrame, judging: dict, command: str, seed: int = 0) -> dict:
    """Every number of `referee_real_speakers.json` and `referee_unseen.json`: nothing that judges heard these speakers.

    Parameters
    ----------
    frames : test rows of one speaker row, live judged too; alone may be missing in some utterances, or be no column.
    chunks : the verified chunks of the same rows.
    command : that made them.
    """
    rng = np.random.default_rng(seed)
    frames = verdicts_of(frames)
    calibration = judge_calibration(frames, rng)
    table = referee_table(frames.drop(columns="alone", errors="ignore"), rng)
    written = frames[frames["alone"].notna()] if "alone" in frames else frames[:0]
    if len(written):
        own = referee_table(written[["speaker", "split", "utterance", "truth", "alone"]], rng)
        table = pd.concat([table, own], ignore_index=True)
    (speaker,) = frames["speaker"].unique()
    facts = {
        "provenance": {**provenance.machine(), "command": command, "label": "measured"},
        "definitions": {name: DEFINITIONS[name] for name in STRANGERS_HAVE} | STRANGERS[speaker] | AS_IT_COMES,
        "judging": judging,
        "table": table.to_dict("records"),
        "gains": gains(frames, rng),
        "agreement": agreement(frames, rng),
        "draft_confidence": threshold_facts(frames, "confidence", rng),
        "passes": pass_facts(chunks, rng),
        "judge_calibration": calibration,
    }
    return facts | ({"equal_to_token_by_token": equal_to_token_by_token(written)} if len(written) else {})


def with_unseen(table: pd.DataFrame) -> pd.DataFrame:
    """The referee table with the unseen speaker's rows below it, where those were measured."""
    if not UNSEEN_FILE.is_file():
        return table
    unseen = json.loads(UNSEEN_FILE.read_text(encoding="utf-8"))["table"]
    return pd.concat([table, pd.DataFrame(unseen)], ignore_index=True)


def gains_table(facts: dict) -> pd.DataFrame:
    """:func:`gains` of a `referee.json`, by speaker row, and the unseen speaker's below, where those were measured."""
    found = {speaker: each["gains"] for speaker, each in facts["speakers"].items()}
    if UNSEEN_FILE.is_file():
        found["unseen"] = json.loads(UNSEEN_FILE.read_text(encoding="utf-8"))["gains"]
    return pd.DataFrame([{"speaker": speaker, **row} for speaker, rows in found.items() for row in rows])


STRANGERS_HAVE = ("judge", "lenient", "exact_greedy", "draft_confidence", "bad_accepts", "passes")
AS_IT_COMES = {"judge_calibration": "at the adapter's own temperature; nothing is fitted on these speakers"}
STRANGERS = {
    "real": {"real": "people whom neither draft nor ears nor adapter ever heard"},
    "unseen": {
        "unseen": "the corpus' speaker, whom neither draft nor ears nor adapter heard in training: all learned from "
        "other voices; held-out test prompts",
        "majority class, energy threshold": "fitted on the speaker's training prompts, as in referee.json",
        "token by token": "on a random sample of the utterances; equal_to_token_by_token compares every exact way "
        "with it",
    },
}

DEFINITIONS = {
    "judge": "the reasoner's own greedy plan, as the exact rule commits it; every interval is 95 % by utterance",
    "lenient": f"covered frames (confidence >= {CLAIMED_THRESHOLD}) whose drafted viseme the judge names "
    "within ±1 frame",
    "exact_greedy": "covered frames whose drafted viseme the judge names for the same frame",
    "draft_confidence": "the draft's calibrated probability to be right",
    "recalibrated_confidence": "the learned policy's probability, from the draft, that the judge accepts (lenient)",
    "rules": rules.DEFINITIONS,
    "sight": "of the lenient rule; live: one pass a chunk, its last frame without a neighbour after it; both "
    "neighbours: the same passes, seen afterwards; own plan: against the judge's own plan",
    "bad_accepts": "covered frames that the judge does not accept (lenient): share, and its upper bound",
    "passes": "forward passes of the reasoner; a chunk is 12 frames, an utterance's last one may be shorter",
    "equal_to_token_by_token": "utterances that every exact way, several plans a pass too, commits as plain decoding",
}


def acceptance_pattern(chunks: pd.DataFrame, judging: dict, speaker: str = "trained") -> dict:
    """The verdicts on one speaker row's test split, chunk by chunk in order: replayed where weights are random."""
    rows = chunks[(chunks["speaker"] == speaker) & (chunks["split"] == "test")]

    def numbers(text: str) -> list[int]:
        return [int(place) for place in text.split()]

    return {
        "provenance": {**provenance.machine(), "command": "python -m workbench.measure.referee", "label": "measured"},
        "judging": judging.get(speaker),
        "what": {
            "accepted": "drafts that pass 1 lets stand in front, under the exact greedy rule",
            "passes": "forward passes until the chunk was decided, under that rule",
            "guessed_passes": "the same where pass 1 verifies the probe's tokens in place of the draft's",
            "branched_N_passes": "the same where a pass verifies several plans, as many as fit into N frames",
            "branched_N_M_passes": "the same, N frames in the first pass and M in every later one",
            "…_known_after": "passes after which the plan that is told before the next one is the final one",
            "rejected_at": "frames of the chunk whose draft does not stand, under that rule",
            "lenient_rejected_at": "the same under the lenient rule, which takes one pass",
            "mouth_passes, mouth_rejected_at": "passes and the same under exactness on mouth shapes",
        },
        "chunks": [
            {
                "utterance": row.utterance,
                "chunk": int(row.chunk),
                "frames": int(row.frames),
                "accepted": int(row.first_accepted),
                "passes": int(row.passes),
                **{
                    f"{run}_{what}": int(getattr(row, f"{run}_{what}"))
                    for run in ("guessed", *BRANCHED)
                    for what in ("passes", "known_after")
                },
                "rejected_at": numbers(row.rejected),
                "lenient_rejected_at": numbers(row.lenient_rejected),
                "mouth_passes": int(row.mouth_passes),
                "mouth_rejected_at": numbers(row.mouth_rejected),
            }
            for row in rows.itertuples()
        ],
    }


def with_judge(frames: pd.DataFrame, row: Row | None = None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """A notebook's frame table with the reasoner's verdicts on the same drafts, and its chunk table.

    Adds reasoner (its plan), exact, lenient_verdict, recalibrated, judge_confidence and accepted (exact). Where there
    are no committed tables, or they are about other speech or not of this row, truth stays the judge: the frames come
    back with its verdicts, and None.

    Raises
    ------
    InputError : the tables are about another draft of the same speech.
    """
    own = frames.set_index(["utterance", "frame"])
    by_truth = verdicts_of(frames.assign(committed=frames["truth"])).assign(recalibrated=frames["confidence"])
    if not FRAMES_FILE.is_file() or not (row is None or row.holds(FRAMES_FILE)):
        return by_truth.assign(accepted=by_truth["exact"]), None
    judged, chunks = judged_tables()
    judged, chunks = (rows[(rows["speaker"] == "trained") & (rows["split"] == "test")] for rows in (judged, chunks))
    judged = judged.set_index(["utterance", "frame"])
    if not own.index.isin(judged.index).all():
        return by_truth.assign(accepted=by_truth["exact"]), None
    here = judged.loc[own.index].reset_index(drop=True)
    same = (here["draft"].to_numpy() == frames["draft"].to_numpy()).mean()
    if same < SAME_DRAFT:
        raise InputError(
            f"{display_path(FRAMES_FILE)}: {1 - same:.1%} of its drafts differ from today's; make it again "
            "with python -m workbench.measure.referee"
        )
    plans = [column for column, _ in rules.PLANS.values() if column in here]
    columns = here[["recalibrated", "judge_confidence", "one_pass", *plans]].set_axis(frames.index)
    joined = verdicts_of(frames.join(columns))
    chunks = chunks[chunks["utterance"].isin(frames["utterance"])]
    return joined.assign(reasoner=joined["committed"], accepted=joined["exact"]), chunks


def rejections(
    frames: pd.DataFrame, words: pd.DataFrame, threshold: float, count: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Covered drafts that the judge rejects, with the words around them: some runs of frames, drawn at random.

    Parameters
    ----------
    frames : from `with_judge`.
    words : `referee.heard_words`: utterance, text, start_s, end_s.
    """
    bad = ~frames["lenient_verdict"] & (frames["confidence"] >= threshold)
    start = bad & ~(bad.shift(fill_value=False) & (frames["utterance"] == frames["utterance"].shift()))
    runs = [run for _, run in frames[bad].groupby(start[bad].cumsum(), sort=False)]
    rows = []
    for number in sorted(rng.permutation(len(runs))[:count]):
        run = runs[number]
        first, last = run["frame"].iloc[0] / VIDEO_FPS, (run["frame"].iloc[-1] + 1) / VIDEO_FPS
        heard = words[words["utterance"] == run["utterance"].iloc[0]]
        near = heard[(heard["end_s"] > first - AROUND_S) & (heard["start_s"] < last + AROUND_S)]
        text = " ".join(f"[{w.text}]" if w.end_s > first and w.start_s < last else w.text for w in near.itertuples())
        said = {name: " ".join(run[name].drop_duplicates()) for name in ("draft", "committed", "truth")}
        rows.append(
            {
                "utterance": run["utterance"].iloc[0],
                "from_s": round(float(first), 2),
                "frames": len(run),
                **said,
                "confidence": round(float(run["confidence"].mean()), 3),
                "words": text,
            }
        )
    return pd.DataFrame(rows).rename(columns={"committed": "judge"})


def judged_tables(
    frames_file: Path | None = None, chunks_file: Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame and chunk tables, the committed ones without files.

    Raises
    ------
    InputError : one is absent.
    """
    frames_file, chunks_file = frames_file or FRAMES_FILE, chunks_file or CHUNKS_FILE
    for path in (frames_file, chunks_file):
        if not path.is_file():
            raise InputError(f"{display_path(path)}: no such file; make it with python -m workbench.measure.referee")
    chunks = pd.read_csv(chunks_file, dtype=dict.fromkeys(PLACES, str))
    return pd.read_csv(frames_file), chunks.fillna(dict.fromkeys(PLACES, ""))
