"""The judge before its referee: what the reasoner makes of drafts of held-out human speech, and how right it is.

``python -m workbench.measure.referee`` runs the reasoner over the validation and the test prompts and writes, under
``data/measurements``: `heard_words.csv` (Whisper's words, the judge's context), `judged_frames.csv.gz` (one row a
frame: truth and what each party says), `judged_chunks.csv` (one row a verified chunk), `acceptance_pattern.json` (the
same in order, for replay) and `referee.json` (the numbers drawn from them); beside the draft's weights, the learned
policy; beside the adapter, by which plans share a pass (`branches.py`); and `reasoner_lossless.json`, the proof that
100 utterances were decided as the reasoner alone wrote them. ``--summarise`` makes only `referee.json` again,
``--lossless N`` only the proof, for N utterances. ``--unseen DIR`` judges the test prompts with a draft, ears and an
adapter that never heard their speaker (`draft_unseen.safetensors` and `ears_unseen.safetensors` of `train.front`,
`adapter/` of `train.reasoner`) and writes `judged_frames_unseen.csv.gz` and `referee_unseen.json`; the three are not
kept (all models together stay under 24 MiB). ``--strangers DIR`` judges people whom nobody trained on (`list.tsv`:
file, speaker, words) and writes `referee_real_speakers.json`. ``--int8`` judges the test prompts in int8, in passes and
token by token, and writes `referee_int8.json`, beside float32's tables. ``--rules``
judges only by the rules whose plans are not the judge's own (lenient, mouth, gate) and fits the policy; the judge's own
plans stay the tables'. ``--row``, ``--corpus``: another row judges, or another corpus is judged, and all of it lies in
``data/measurements/ROW``, policy and plans that share a pass too; intervals draw speakers where the corpus names them.
What is gathered and judged is kept in the run's folder: an interrupted command goes on where it was, also on
another machine. ``--quick`` leaves out plain decoding, the judge without its ears, several plans a pass and the gate;
so do its tables, and the pattern stays.

Truth, the forced alignment, is the referee: neither draft nor judge sees it.
"""

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from specsync_lib import paths, provenance, rows
from specsync_lib.draft.front import DRAFT, EARS, front_path
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_json
from specsync_lib.judge import branches
from specsync_lib.judge.branches import Branches
from specsync_lib.judge.int8 import most
from specsync_lib.judge.loading import INT8, MODEL_DIR, adapter_of, load_judge, load_reasoner
from specsync_lib.judge.policy import POLICY_FILE, AcceptancePolicy, chunk_of, frame_features
from specsync_lib.judge.reasoner import Reasoner
from specsync_lib.judge.recordings import (
    ADAPTER,
    BRANCHED,
    GATED,
    RULED,
    RUNS,
    WORDS_FILE,
    Judged,
    Recording,
    gather,
    heard_words,
    judge,
    kept_as,
)
from specsync_lib.judge.rules import VerifyOptions, within_one_frame
from specsync_lib.judge.verify import ChunkVerdict, run_options
from specsync_lib.measures.bounds import at_temperature, fit_temperature, logits_of
from specsync_lib.measures.intervals import bootstrap_by_group, interval
from specsync_lib.measures.referee import (
    CHUNKS_FILE,
    FRAMES_FILE,
    PATTERN_FILE,
    REFEREE_FILE,
    SAME_DRAFT,
    UNSEEN_FILE,
    UNSEEN_FRAMES_FILE,
    acceptance_pattern,
    judged_tables,
    stranger_facts,
    summarise,
    with_simple_rules,
)
from specsync_lib.paths import MEASUREMENTS_DIR, display_path
from specsync_lib.pipeline.answers import OTHER_PLANS
from specsync_lib.speech.corpus import Prompt, human_prompts, prompts_of
from specsync_lib.units import VISEMES
from specsync_lib.visemes import viseme_codes
from workbench.asked import add_row, beside, results_folder, row_of

STRANGERS_FILE = MEASUREMENTS_DIR / "referee_real_speakers.json"
LOSSLESS_FILE = MEASUREMENTS_DIR / "reasoner_lossless.json"
INT8_FILE = MEASUREMENTS_DIR / "referee_int8.json"
MACHINE_FILE = "machine.json"  # beside judged recordings: the one that judged them, whose tables may be made elsewhere
FRONTS = [front_path(name) for name in (DRAFT, EARS)]

UNSEEN_FRONTS = {"draft": "draft_unseen.safetensors", "ears": "ears_unseen.safetensors"}  # beside the adapter's folder
LOSSLESS_UTTERANCES = 100  # of the whole command; those of the test split are judged token by token anyway
HUMAN_SOURCES = ("speech-", "own")  # how the names of lessons from human speech begin
UNSEEN_ALONE_UTTERANCES = 40  # of the unseen speaker's, judged token by token too
STRANGER_RUNS = ("exact", "live", "guessed")
TRAINED_RUNS = ("exact", "guessed", "live", *BRANCHED, "alone", "without_probe")
QUICK_RUNS, QUICK_RULES = ("exact", "guessed", "live"), OTHER_PLANS
# Part of the name of the folder of judged recordings: count on when what is judged, or what is kept of it, changes.
JUDGED_FORMAT = 1


# -------------------------------------------------------------------------------------------------- one recording


def classic_passes(accepted: Sequence[bool]) -> int:
    """Passes of classic speculative decoding that drafts a chunk again from the kernel after every rejection.

    Greedy and deterministic, so it follows from where draft and plan differ: each rejection ends a pass, and a last
    pass is needed unless the last frame was itself recovered.
    """
    accepted = list(accepted)
    return accepted.count(False) + (1 if accepted and accepted[-1] else 0)


# ------------------------------------------------------------------------------------------------------ all of them


def fit_policy(recordings: Sequence[Recording], plans: Sequence[np.ndarray]) -> AcceptancePolicy:
    """The learned policy for a judge's plans of these recordings."""
    features = np.concatenate([frame_features(each.draft, each.energy) for each in recordings])
    drafted = np.concatenate([each.draft.plan.visemes for each in recordings])
    utterance = np.repeat(np.arange(len(plans)), [len(plan) for plan in plans])
    chunks = np.concatenate([1_000 * index + chunk_of(np.arange(len(plan))) for index, plan in enumerate(plans)])
    plan = np.concatenate(plans)
    return AcceptancePolicy.fit(features, within_one_frame(drafted, plan, utterance), drafted == plan, chunks)


# What judges a recording: one of :data:`RUNS`, or a rule with what was fitted for it.
How = Callable[[Reasoner, Recording], Judged]


def judge_all(
    model: Reasoner,
    recordings: Sequence[Recording],
    hows: dict[str, How],
    folder: Path,
    words: str = "",
    processes: int = 1,
) -> dict[str, list[Judged]]:
    """Runs over recordings, by name; what is in ``folder`` from an earlier call is not judged again.

    processes: how many judge side by side; each is a fork of this one and shares the judge's weights.
    """
    paths = {run: [kept_as(folder / run, each.name) for each in recordings] for run in hows}
    # The longest first, so that the last ones end together.
    order = sorted(range(len(recordings)), key=lambda index: -len(recordings[index].truth))
    jobs = [
        (paths[run][index], how, recordings[index])
        for run, how in hows.items()
        for index in order
        if not paths[run][index].is_file()
    ]
    bar = partial(tqdm, total=len(jobs), desc=f"{words} {', '.join(hows)}", unit="recording", disable=not jobs)
    if jobs and not (folder / MACHINE_FILE).is_file():
        write_json(folder / MACHINE_FILE, provenance.machine())
    if processes == 1 or len(jobs) < 2:
        for path, how, recording in bar(jobs):
            how(model, recording).save(path)
    else:
        with get_context("fork").Pool(processes, _take_seat, (model, jobs)) as pool:
            for _ in bar(pool.imap_unordered(_judge_job, range(len(jobs)))):
                pass
    return {run: [Judged.load(path) for path in paths[run]] for run in hows}


_seat: list = []  # of a process that judges beside others: the judge, and all jobs


def _take_seat(model: Reasoner, jobs: Sequence[tuple[Path, How, Recording]]) -> None:
    _seat[:] = [model, jobs]


def _judge_job(index: int) -> None:
    model, jobs = _seat
    path, how, recording = jobs[index]
    how(model, recording).save(path)


def frame_rows(recording: Recording, judged: Judged, temperature: float, **plans: Judged) -> pd.DataFrame:
    """One row a frame: truth, the draft with its confidence, the judge's rows and plans, any further plans."""
    drafted, frames = recording.draft.plan.visemes.astype(int), np.arange(len(recording.truth))
    shares = {
        "confidence": recording.draft.confidence,
        "energy": recording.energy,
        "judge_of_draft": judged.first_rows[frames, drafted],
        "judge_confidence": at_temperature(judged.last_rows, temperature)[frames, judged.tokens],
    }
    named = {
        "truth": recording.truth,
        "draft": drafted,
        "probe": recording.probe.argmax(axis=1),
        "one_pass": judged.first_rows.argmax(axis=1),
        "committed": judged.tokens,
        **{name: each.tokens for name, each in plans.items()},
    }
    table = pd.DataFrame({"utterance": recording.name, "frame": frames}).assign(**_named(named))
    return table.assign(**{name: np.round(values, 5) for name, values in shares.items()})


def _named(plans: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(VISEMES)[plan] for name, plan in plans.items()}


def chunk_rows(recording: Recording, judged: Judged, **others: Judged | None) -> pd.DataFrame:
    """One row a chunk of a recording: what the exact rule did, where the draft did not stand, and the passes of
    ``others``, by name of the run."""
    confidence = [recording.draft.confidence[frames].min() for frames in recording.chunks]
    table = pd.DataFrame(
        {
            "utterance": recording.name,
            "chunk": np.arange(len(judged.verdicts)),
            "frames": [len(verdict.tokens) for verdict in judged.verdicts],
            "first_accepted": [verdict.first_accepted for verdict in judged.verdicts],
            "passes": [verdict.passes for verdict in judged.verdicts],
            "classic_passes": [classic_passes(verdict.accepted) for verdict in judged.verdicts],
            "rejected": [places(verdict) for verdict in judged.verdicts],
            "fallbacks": [verdict.fallbacks for verdict in judged.verdicts],
            "least_confidence": np.round(confidence, 5),
        }
    )
    for run, other in others.items():
        if other is not None:
            table[f"{run}_passes"] = [verdict.passes for verdict in other.verdicts]
            table[f"{run}_known_after"] = [verdict.known_after for verdict in other.verdicts]
    return table


def ruled_rows(
    recording: Recording, policy: AcceptancePolicy, results: dict[str, Judged]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the learned policy expects of a recording, and what the rules that are not exact made of it: columns to join
    to its frame rows (by utterance and frame) and to its chunk rows (by utterance and chunk)."""
    features = frame_features(recording.draft, recording.energy)
    index = np.arange(len(features))
    frames = {"recalibrated": policy.lenient(features).round(5)} | _named(
        {run: each.tokens for run, each in results.items()}
    )
    chunks = {"any_rejection": policy.any_rejection(features, chunk_of(index)).round(5)}
    for run, each in results.items():
        if run == "lenient":
            frames |= _named({"lenient_best": each.first_rows.argmax(axis=1)})
        else:
            chunks[f"{run}_passes"] = [verdict.passes for verdict in each.verdicts]
        if run in OTHER_PLANS:
            chunks[f"{run}_rejected"] = [places(verdict) for verdict in each.verdicts]
    return (
        pd.DataFrame({"utterance": recording.name, "frame": index, **frames}),
        pd.DataFrame({"utterance": recording.name, "chunk": np.arange(len(recording.chunks)), **chunks}),
    )


def places(verdict: ChunkVerdict) -> str:
    """The frames of a chunk where the judge did not let the draft stand, separated by blanks."""
    return " ".join(map(str, np.flatnonzero(verdict.verified & ~verdict.accepted)))


@dataclass(frozen=True)
class Findings:
    """What judging both splits gave: the frame table, the chunk table, the judge's own temperature (fitted on
    validation), which plans share a pass, and processor seconds by run."""

    frames: pd.DataFrame
    chunks: pd.DataFrame
    temperature: float
    branches: Branches
    seconds: dict[str, float]


def judge_splits(
    model: Reasoner,
    validation: Sequence[Recording],
    test: Sequence[Recording],
    runs: Sequence[str],
    folder: Path,
    words: str = "",
    processes: int = 1,
) -> Findings:
    """Judge validation speech, fit the temperature to it, then judge test speech in every run that is exact.

    What was judged is kept in ``folder``: an interrupted call goes on where it was.
    """
    seen = judge_all(model, validation, {"exact": judge}, folder, f"{words} validation", processes)["exact"]
    rows, truth = np.concatenate([one.last_rows for one in seen]), np.concatenate([each.truth for each in validation])
    judged = ~np.isnan(rows).any(axis=1)
    temperature = fit_temperature(logits_of(rows[judged]), truth[judged])
    together = Branches.fit([each.tokens for each in seen])
    branched = {
        run: partial(judge, options=VerifyOptions(branches=replace(together, room=room)), guess_from_probe=True)
        for run, room in BRANCHED.items()
    }
    hows = {run: branched.get(run) or RUNS[run] for run in runs}
    results = judge_all(model, test, hows, folder, f"{words} test", processes)
    frames, chunks = [], []
    for each, judged in zip(validation, seen, strict=True):
        frames.append(frame_rows(each, judged, temperature).assign(split="validation"))
        chunks.append(chunk_rows(each, judged).assign(split="validation"))
    for index, each in enumerate(test):
        judged, others = results["exact"][index], {run: results[run][index] for run in runs if run != "exact"}
        frames.append(frame_rows(each, judged, temperature, **others).assign(split="test"))
        passes = {run: others.get(run) for run in ("guessed", *BRANCHED)}
        chunks.append(chunk_rows(each, judged, **passes).assign(split="test"))
    tables = (pd.concat(rows, ignore_index=True) for rows in (frames, chunks))
    return Findings(*tables, temperature, together, seconds_of(results))


@dataclass(frozen=True)
class Ruled:
    """The same tables with what the rules that are not exact made of the test split, the learned policy, and processor
    seconds by run."""

    frames: pd.DataFrame
    chunks: pd.DataFrame
    policy: AcceptancePolicy
    seconds: dict[str, float]


def judge_by_rules(
    model: Reasoner,
    validation: Sequence[Recording],
    test: Sequence[Recording],
    frames: pd.DataFrame,
    chunks: pd.DataFrame,
    folder: Path,
    words: str = "",
    ruled: Sequence[str] = RULED,
    processes: int = 1,
) -> Ruled:
    """Fit the policy to the judge's plans of validation speech, then judge test speech by every rule that is not exact.

    Parameters
    ----------
    frames, chunks : of `judge_splits`, or their files; columns of an earlier call are replaced.

    Raises
    ------
    InputError : the tables are about other drafts of the same speech.
    """
    plans = {name: viseme_codes(rows["committed"]) for name, rows in frames.groupby("utterance", sort=False)}
    drafted = np.concatenate([np.array(each.draft.plan.names) for each in (*validation, *test)])
    if len(drafted) != len(frames) or (drafted == frames["draft"].to_numpy()).mean() < SAME_DRAFT:
        raise InputError(f"{display_path(FRAMES_FILE)}: its drafts are not today's; run the command without --rules")
    policy = fit_policy(validation, [plans[each.name] for each in validation])

    def gated(model: Reasoner, recording: Recording, threshold: float) -> Judged:
        sureness = policy.lenient(frame_features(recording.draft, recording.energy))
        options = run_options("gate", threshold)
        return judge(model, recording, options, guess_from_probe=True, recalibrated=sureness)

    gates = {run: partial(gated, threshold=threshold) for run, threshold in GATED.items()}
    hows = {run: gates.get(run) or RUNS[run] for run in ruled}
    results = judge_all(model, test, hows, folder, f"{words} test", processes)
    rows = [ruled_rows(each, policy, {}) for each in validation]
    rows += [ruled_rows(each, policy, {run: results[run][index] for run in ruled}) for index, each in enumerate(test)]
    tables = []
    for table, parts, place in zip((frames, chunks), zip(*rows, strict=True), ("frame", "chunk"), strict=True):
        own = pd.concat(parts, ignore_index=True)
        table = table.drop(columns=[name for name in own if name in table and name not in ("utterance", place)])
        tables.append(table.merge(own, on=["utterance", place], how="left", validate="one_to_one"))
    return Ruled(*tables, policy, seconds_of(results))


def seconds_of(results: dict[str, Sequence[Judged]]) -> dict[str, float]:
    """Processor seconds by run."""
    return {run: round(sum(each.seconds for each in judged), 1) for run, judged in results.items()}


def gathered_folder(weights: Sequence[Path], words: pd.DataFrame) -> Path:
    """Where gathered recordings are kept, by the files of draft and ears and by the words.

    Raises
    ------
    InputError : a file of weights is absent.
    """
    return paths.RUN_DIR / "referee" / f"gathered-{_digest(weights, words)}"


def row_folder(row: rows.Row, fronts: Sequence[Path], words: pd.DataFrame) -> tuple[Path, str | None]:
    """`run_folder` of a row, by its judge and what lies behind its paths; no sha256 without an adapter here."""
    adapter = adapter_of(row.judge)
    if not row.differences():
        return run_folder("trained", adapter, fronts, words)
    tensors = adapter and adapter / "adapter_model.safetensors"  # a server has them merged: they need not be here
    digest = hashlib.sha256(tensors.read_bytes()).hexdigest() if tensors and tensors.is_file() else None
    facts = json.dumps([row.text(), row.digests(), digest], sort_keys=True)
    return paths.RUN_DIR / "referee" / f"{row.name}-{_digest(fronts, words, facts)}", digest


def run_folder(label: str, adapter: Path, weights: Sequence[Path], words: pd.DataFrame) -> tuple[Path, str]:
    """Where recordings judged with an adapter are kept, by all that they follow from, and the adapter's sha256.

    weights: files of the draft and the ears.

    Raises
    ------
    InputError : a file of weights is absent.
    """
    tensors, settings = (adapter / name for name in ("adapter_model.safetensors", "reasoner.json"))
    folder = paths.RUN_DIR / "referee" / f"{label}-{_digest([tensors, settings, *weights], words)}"
    return folder, hashlib.sha256(tensors.read_bytes()).hexdigest()


def _digest(files: Sequence[Path], words: pd.DataFrame, facts: str = "") -> str:
    digest = hashlib.sha256(f"{JUDGED_FORMAT}\n{words.to_csv(index=False)}{facts}".encode())
    for path in files:
        if not path.is_file():
            raise InputError(f"{display_path(path)}: no such file; restore it or train it")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def strangers(folder: Path) -> list[Prompt]:
    """The recordings of people whom nobody trained on: a folder's list.tsv (file, speaker, words)."""
    with (folder / "list.tsv").open(encoding="utf-8") as rows:
        return [Prompt(name, words, folder / name, "test") for name, _, words in csv.reader(rows, delimiter="\t")]


def judge_strangers(
    model: Reasoner,
    recordings: Sequence[Recording],
    folder: Path,
    speaker: str,
    processes: int = 1,
    alone: int = 0,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:
    """Judge recordings whose speakers nobody heard: the frame table, the chunk table, processor seconds by run.

    speaker: what the tables call them; alone: of how many recordings, drawn at random, the plan is also written token
    by token; missing for the others.
    """
    words = f"{speaker}:"
    results = judge_all(model, recordings, {run: RUNS[run] for run in STRANGER_RUNS}, folder, words, processes)
    count = min(alone, len(recordings))
    drawn = sorted(np.random.default_rng(seed).choice(len(recordings), count, replace=False).tolist())
    written = judge_all(model, [recordings[k] for k in drawn], {"alone": RUNS["alone"]}, folder, words, processes)
    by_index = dict(zip(drawn, written["alone"], strict=True))
    frames, chunks = [], []
    for index, (each, exact, live, guessed) in enumerate(zip(recordings, *results.values(), strict=True)):
        plans = {"alone": by_index[index]} if index in by_index else {}
        # Rows are at the adapter's own temperature: none is fitted, for that would take speech of these speakers.
        frames.append(frame_rows(each, exact, 1.0, live=live, guessed=guessed, **plans))
        chunks.append(chunk_rows(each, exact, guessed=guessed))
    tables = (pd.concat(rows, ignore_index=True).assign(split="test", speaker=speaker) for rows in (frames, chunks))
    return *tables, seconds_of(results | written)


def judge_real_speakers(folder: Path, processes: int = 1) -> dict:
    """What the committed draft, ears and adapter make of people whom none of them ever heard, offline and live."""
    prompts = strangers(folder)
    words = heard_words(prompts, paths.RUN_DIR / "referee" / "strangers_words.csv")
    kept, digest = run_folder("strangers", MODEL_DIR / ADAPTER, FRONTS, words)
    model = load_reasoner(adapter=ADAPTER)
    recordings = gather(prompts, DRAFT, EARS, words, gathered_folder(FRONTS, words))
    frames, chunks, seconds = judge_strangers(model, recordings, kept, "real", processes)
    judging = {"reasoner": model.name, "adapter_sha256": digest, "processor_seconds": seconds}
    return stranger_facts(frames, chunks, judging, "python -m workbench.measure.referee --strangers DIR")


def prove_lossless(count: int, processes: int = 1) -> dict:
    """Decide the first ``count`` prompts (test, then validation) exactly, and token by token: are they equal?"""
    prompts = [*human_prompts("test"), *human_prompts("validation")][:count]
    words = heard_words([*human_prompts("validation"), *human_prompts("test")])
    folder, digest = run_folder("trained", MODEL_DIR / ADAPTER, FRONTS, words)
    model = load_reasoner(adapter=ADAPTER)
    recordings = gather(prompts, DRAFT, EARS, words, gathered_folder(FRONTS, words))
    hows = {run: RUNS[run] for run in ("exact", "alone")}
    exact, alone = judge_all(model, recordings, hows, folder, "lossless:", processes).values()
    pairs = list(zip(recordings, exact, alone, strict=True))
    different = [each.name for each, one, other in pairs if (one.tokens != other.tokens).any()]
    seconds = seconds_of({"exact": exact, "alone": alone})
    frames = sum(len(each.truth) for each in recordings)
    passes = sum(verdict.passes for one in exact for verdict in one.verdicts)
    return {
        "what": "exact greedy verification against plain greedy decoding, float32, one token a frame",
        "reasoner": model.name,
        "adapter_sha256": digest,
        "n_utterances": len(recordings),
        "n_frames": frames,
        "utterances_equal": len(recordings) - len(different),
        "different": different,
        "frames_equal": int(sum((one.tokens == other.tokens).sum() for _, one, other in pairs)),
        "fallback_frames": int(sum(verdict.fallbacks for one in exact for verdict in one.verdicts)),
        "passes": {"token_by_token": frames, "verified": passes},
        "machine": json.loads((folder / MACHINE_FILE).read_text(encoding="utf-8")),
        "processor_seconds": seconds,
        "frames_a_processor_second": {run: round(frames / spent, 2) for run, spent in seconds.items()},
        "provenance": {
            **provenance.machine(),
            "command": f"python -m workbench.measure.referee --lossless {count}",
            "label": "measured",
        },
    }


def judge_in_int8(processes: int = 1, count: int | None = None) -> dict:
    """The judge in int8 on the test prompts, or the first of them: is what its passes decide what it writes token by
    token, and how right is it beside float32's tables?"""
    prompts = human_prompts("test")[:count]
    words = heard_words([*human_prompts("validation"), *human_prompts("test")])
    folder, digest = run_folder("int8", MODEL_DIR / ADAPTER, FRONTS, words)
    model = load_reasoner(adapter=ADAPTER, dtype=INT8)
    recordings = gather(prompts, DRAFT, EARS, words, gathered_folder(FRONTS, words))
    hows = {run: RUNS[run] for run in ("live", "guessed", "alone")}
    results = judge_all(model, recordings, hows, folder, "int8:", processes)
    tables = judged_tables()[0]
    wide = tables[tables["utterance"].isin([each.name for each in recordings])]
    if wide["utterance"].nunique() < len(recordings):
        raise InputError(f"{display_path(FRAMES_FILE)}: is not about these prompts; run the command without --int8")
    truth = np.concatenate([each.truth for each in recordings])
    utterance = np.repeat(np.arange(len(recordings)), [len(each.truth) for each in recordings])
    plain = pd.concat([wide[wide["utterance"] == each.name] for each in recordings])
    runs = {}
    for run, column in (("guessed", "committed"), ("live", "live")):  # every exact run with words is one plan
        tokens, wide_tokens = np.concatenate([one.tokens for one in results[run]]), viseme_codes(plain[column])
        right, gained = tokens == truth, (tokens == truth).astype(float) - (wide_tokens == truth)
        runs[run] = {
            **interval("accuracy", bootstrap_by_group(right, utterance)),
            **interval("float32_accuracy", bootstrap_by_group(wide_tokens == truth, utterance)),
            **interval("gain_over_float32", bootstrap_by_group(gained, utterance)),
            "frames_as_float32": round(float((tokens == wide_tokens).mean()), 5),
            "passes_a_chunk": round(float(np.mean([v.passes for one in results[run] for v in one.verdicts])), 4),
        }
    pairs = list(zip(recordings, results["guessed"], results["alone"], strict=True))
    different = [each.name for each, one, other in pairs if (one.tokens != other.tokens).any()]
    return {
        "what": "the judge in int8 (weights by channel, activations by token): its passes against its own greedy "
        "writing, and both beside float32's committed tables",
        "reasoner": model.name,
        "adapter_sha256": digest,
        "largest_weight": most(),
        "n_utterances": len(recordings),
        "n_frames": len(truth),
        "utterances_equal": len(recordings) - len(different),
        "different": different,
        "fallback_frames": int(sum(verdict.fallbacks for one in results["guessed"] for verdict in one.verdicts)),
        "runs": runs,
        "processor_seconds": seconds_of(results),
        "machine": json.loads((folder / MACHINE_FILE).read_text(encoding="utf-8")),
        "provenance": {
            **provenance.machine(),
            "command": "python -m workbench.measure.referee --int8",
            "label": "measured",
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the judge over held-out human speech and write what the referee finds."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.referee", description=main.__doc__)
    parser.add_argument("--lossless", type=int, metavar="N", help="only prove N utterances equal to plain decoding")
    parser.add_argument(
        "--int8", type=int, metavar="N", nargs="?", const=0, help="only judge the test prompts in int8, or N of them"
    )
    parser.add_argument("--summarise", action="store_true", help="only make referee.json again from the tables")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join((*QUICK_RUNS, *QUICK_RULES))}")
    parser.add_argument("--rules", action="store_true", help="only judge by the rules that are not exact")
    parser.add_argument("--processes", type=int, default=1, help="that judge side by side, on one core each")
    parser.add_argument("--strangers", type=Path, metavar="DIR", help="only judge these people's speech: list.tsv")
    parser.add_argument(
        "--unseen", type=Path, metavar="DIR", help="only judge the unseen speaker, with the fits of this folder"
    )
    add_row(parser)
    options = parser.parse_args(arguments)
    # A fork of a process that has worked in several threads would wait for them for ever.
    torch.set_num_threads(1 if options.processes > 1 else provenance.usable_cores())
    try:
        row = row_of(options)
        if row.differences() and any(
            one is not None for one in (options.lossless, options.int8, options.unseen, options.strangers)
        ):
            raise InputError(
                "--lossless, --int8, --unseen and --strangers are of the default row; leave out --row and --corpus"
            )
        if options.processes > 1 and (row.judge.kind != rows.LOCAL or row.judge.device not in ("auto", "cpu")):
            raise InputError("--processes: only a judge on this machine's cores can be shared; leave it out")
        judge_and_keep = partial(judge_and_write, row, processes=options.processes)
        if options.lossless is not None:
            write_json(LOSSLESS_FILE, prove_lossless(options.lossless, options.processes))
        elif options.int8 is not None:
            write_json(INT8_FILE, judge_in_int8(options.processes, options.int8 or None))
        elif options.unseen is not None:
            judge_unseen(options.unseen, options.processes)
        elif options.strangers is not None:
            write_json(STRANGERS_FILE, judge_real_speakers(options.strangers, options.processes))
        elif options.summarise:
            summarise_row(row)
        elif options.rules:
            judge_and_keep(rules_only=True)
        elif options.quick:
            judge_and_keep(runs=QUICK_RUNS, ruled=QUICK_RULES)
        else:
            judge_and_keep()
            if not row.differences():
                write_json(LOSSLESS_FILE, prove_lossless(LOSSLESS_UTTERANCES, options.processes))
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    return 0


@dataclass(frozen=True)
class Place:
    """Where a row's results lie: the default row's in the committed files, another's in a folder of its name.

    speaker : what their tables call whose speech it is.
    """

    folder: Path
    speaker: str

    @classmethod
    def of(cls, row: rows.Row) -> "Place":
        """See `asked.results_folder`."""
        return cls(results_folder(row), "trained" if row.corpus == rows.PROMPTS else "own")

    def file(self, committed: Path) -> Path:
        """This row's file in a committed one's place."""
        return beside(committed, self.folder)

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """`judged_tables`."""
        return judged_tables(self.file(FRAMES_FILE), self.file(CHUNKS_FILE))

    def judging(self) -> dict:
        """What judged, as the row's `referee.json` has it.

        Raises
        ------
        InputError : there is none.
        """
        path = self.file(REFEREE_FILE)
        try:
            return json.loads(path.read_text(encoding="utf-8"))["judging"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{display_path(path)}: not there or damaged; run it without --rules") from error


def summarise_row(row: rows.Row, judging: dict | None = None) -> None:
    """Make a row's `referee.json` from its tables; numbers of random weights are labelled as such."""
    place = Place.of(row)
    judging = place.judging() if judging is None else judging
    facts = summarise(*place.tables(), judging, corpus=row.corpus)
    if row.differences():
        facts |= row.identity()
        facts["provenance"]["command"] += f" --row {row.name}"
        facts = _labelled(facts, row.judge.label)
    write_json(place.file(REFEREE_FILE), facts)


def _labelled(facts: object, label: str) -> object:
    """The same with another label on every number; what is none, over nothing covered, is null."""
    if isinstance(facts, dict):
        return {key: label if key == "label" else _labelled(value, label) for key, value in facts.items()}
    if isinstance(facts, list):
        return [_labelled(value, label) for value in facts]
    return None if isinstance(facts, float) and not np.isfinite(facts) else facts


def judge_and_write(
    row: rows.Row,
    rules_only: bool = False,
    runs: Sequence[str] = TRAINED_RUNS,
    ruled: Sequence[str] = RULED,
    processes: int = 1,
) -> None:
    """The whole command: judge, keep tables and policy, summarise.

    rules_only: the exact runs stay the tables'; runs, ruled: the pattern for replay is kept where all were judged.
    """
    place = Place.of(row)
    prompts = {split: prompts_of(row.corpus, split) for split in ("validation", "test")}
    same_words = (row.hearing, row.corpus) == (rows.Row().hearing, rows.PROMPTS)
    heard_file = WORDS_FILE if same_words else place.file(WORDS_FILE)
    words = heard_words([*prompts["validation"], *prompts["test"]], heard_file, row.hearing)
    fronts = [front_path(name) for name in (row.draft.front, row.draft.ears)]
    folder, digest = row_folder(row, fronts, words)
    kept = gathered_folder(fronts, words) if row.corpus == rows.PROMPTS else folder / "gathered"
    validation, test = (gather(found, row.draft.front, row.draft.ears, words, kept) for found in prompts.values())
    model = load_judge(row.judge)
    facts = {"fitted_on": "validation split", "adapter_sha256": digest, "commit": provenance.commit()}
    if rules_only:
        (frames, chunks), judging = place.tables(), place.judging()
        if judging[place.speaker]["adapter_sha256"] != digest:
            raise InputError(
                f"{display_path(place.file(REFEREE_FILE))}: made with another adapter; run it without --rules"
            )
    else:
        found = judge_splits(model, validation, test, runs, folder, f"{row.name}:", processes)
        found.branches.save(place.file(branches.PATH), **facts)
        frames, chunks = (table.assign(speaker=place.speaker) for table in (found.frames, found.chunks))
        judging = {
            place.speaker: {
                "reasoner": model.name,
                "adapter": row.judge.adapter if row.differences() else ADAPTER,
                "adapter_sha256": digest,
                "judge_temperature_on_validation": round(found.temperature, 4),
                "machine": json.loads((folder / MACHINE_FILE).read_text(encoding="utf-8")),
                "processor_seconds": found.seconds,
            }
        }
        if row.differences():
            judging[place.speaker]["engine"] = model.engine.about
    by_rules = judge_by_rules(model, validation, test, frames, chunks, folder, f"{row.name}:", ruled, processes)
    by_rules.policy.save(place.file(POLICY_FILE), **facts)
    judging[place.speaker]["processor_seconds"] |= by_rules.seconds
    tables = with_talkers((by_rules.frames, by_rules.chunks), [*prompts["validation"], *prompts["test"]])
    write_tables(*tables, place)
    if runs == TRAINED_RUNS:
        _, chunks = place.tables()
        write_json(place.file(PATTERN_FILE), acceptance_pattern(chunks, judging, place.speaker))
    summarise_row(row, judging)


def with_talkers(tables: Sequence[pd.DataFrame], prompts: Sequence[Prompt]) -> list[pd.DataFrame]:
    """Tables with who speaks in each utterance, where the corpus says so of any."""
    talkers = {prompt.name: prompt.speaker for prompt in prompts}
    if not any(talkers.values()):
        return list(tables)
    return [table.assign(talker=table["utterance"].map(talkers)) for table in tables]


def strange_training(adapter: Path) -> dict:
    """What an adapter that is to be strange to the corpus' speaker learned from: the facts of its training.json.

    Raises
    ------
    InputError : it heard the speaker, or it does not say whom it heard.
    """
    path = adapter / "training.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        sources = facts["sources"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: does not tell whom the adapter heard ({error!r}); train it again") from error
    if human := [source for source in sources if source.startswith(HUMAN_SOURCES)]:
        raise InputError(f"adapter {adapter}: it heard {', '.join(human)}; give one that heard synthetic voices only")
    names = ("sources", "lessons", "frames", "steps", "tokens", "seconds", "device", "settings")
    return {name: facts[name] for name in names if name in facts}


def judge_unseen(folder: Path, processes: int = 1, alone: int = UNSEEN_ALONE_UTTERANCES) -> None:
    """The unseen speaker's rows: the test prompts, judged by a draft, ears and an adapter that never heard her.

    folder: holds :data:`UNSEEN_FRONTS`, and the adapter's files in a folder of their own.

    Raises
    ------
    InputError : a file is absent, or the adapter heard her (`strange_training`).
    """
    adapter, fronts = folder.resolve() / "adapter", {who: folder / name for who, name in UNSEEN_FRONTS.items()}
    training, prompts = strange_training(adapter), human_prompts("test")
    words = heard_words(prompts)
    kept, digest = run_folder("unseen", adapter, list(fronts.values()), words)
    model = load_reasoner(adapter=adapter)
    recordings = gather(prompts, *map(str, fronts.values()), words, gathered_folder(list(fronts.values()), words))
    frames, chunks, seconds = judge_strangers(model, recordings, kept, "unseen", processes, alone)
    with atomic_path(UNSEEN_FRAMES_FILE) as temporary:
        frames.to_csv(temporary, index=False, compression={"method": "gzip", "mtime": 0})
    judging = {
        "reasoner": model.name,
        "adapter_sha256": digest,
        "adapter_is_kept": False,
        "adapter_temperature": model.temperature,
        "adapter_training": training,
        **{
            who: {"name": path.stem, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "is_kept": False}
            for who, path in fronts.items()
        },
        "machine": json.loads((kept / MACHINE_FILE).read_text(encoding="utf-8")),
        "processor_seconds": seconds,
    }
    frames = with_simple_rules(pd.read_csv(UNSEEN_FRAMES_FILE))
    facts = stranger_facts(frames, chunks, judging, "python -m workbench.measure.referee --unseen DIR")
    write_json(UNSEEN_FILE, facts)


def write_tables(frames: pd.DataFrame, chunks: pd.DataFrame, place: Place) -> None:
    """Keep both tables; the same numbers are the same bytes."""
    with atomic_path(place.file(FRAMES_FILE)) as one, atomic_path(place.file(CHUNKS_FILE)) as other:
        frames.to_csv(one, index=False, compression={"method": "gzip", "mtime": 0})
        chunks.to_csv(other, index=False)


if __name__ == "__main__":
    raise SystemExit(main())
