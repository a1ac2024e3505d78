"""How good the target is, on the path that users run, row by row: ``data/models/reasoner/metrics.json``, made anew.

``python -m workbench.train.reasoner_card --calibrate ROW`` fits the temperature of a row's adapter on validation
speech; ``--rows ROWS`` measures rows on the test prompts and adds them to metrics.json. Needs the English corpus,
Whisper and SmolLM2 in the cache. How drafts fare before this judge is the business of `referee`.

Target plans are greedy. They are found by scoring, `settle`, which ends at the plan that writing token by token gives.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int
from tqdm.auto import tqdm

from specsync_lib import provenance
from specsync_lib.draft.front import DRAFT, EARS
from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.judge import recordings
from specsync_lib.judge.loading import MODEL_DIR, load_reasoner
from specsync_lib.judge.reasoner import ReasonerStream
from specsync_lib.judge.rules import within_one_frame
from specsync_lib.judge.script import gather_evidence
from specsync_lib.measures.acceptance import expected_calibration_error
from specsync_lib.measures.bounds import fit_temperature
from specsync_lib.measures.intervals import Metric, bootstrap_by_group, interval
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import Prompt, aligned, aligned_phones, human_prompts
from specsync_lib.speech.whisper_base import Word
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES
from workbench.train.lessons import words_of

METRICS_FILE = MODEL_DIR / "metrics.json"
PROBABILITIES = [f"p_{viseme}" for viseme in VISEMES]
TIMED_CHUNKS = 20  # on which writing token by token and scoring are timed


@dataclass(frozen=True)
class Row:
    """One line of the referee's table: which adapter reads which probe and which words, and whose draft it judges."""

    adapter: str
    probe: str | None  # None: what the probe hears is not told
    draft: str
    words: str = "heard"  # by Whisper; "aligned": the transcript's own, at their true times; "none"


ROWS = {
    "target": Row("adapter", EARS, DRAFT),
    "no_probe": Row("adapter", None, DRAFT),
    "no_words": Row("adapter", EARS, DRAFT, "none"),
    "aligned_words": Row("adapter", EARS, DRAFT, "aligned"),
}


def heard_words(prompts: Sequence[Prompt]) -> dict[str, list[Word]]:
    """What Whisper base hears in each prompt, by name."""
    table = recordings.heard_words(prompts)
    columns = ["text", "start_s", "end_s", "probability"]
    heard = {name: [Word(*row) for row in rows[columns].to_numpy()] for name, rows in table.groupby("utterance")}
    return {prompt.name: heard.get(prompt.name, []) for prompt in prompts}


def settle(
    stream: ReasonerStream, guess: Int[np.ndarray, " t"]
) -> tuple[Int[np.ndarray, " t"], Float32[np.ndarray, "t 15"], int]:
    """The greedy plan of the open frames, its rows, and the passes it took, from any guess.

    Each pass scores the guess. As far as the guess is the model's own choice it stands, the first other token is
    corrected for good, and the model's choices after it are the next guess; so a pass settles at least one frame, and
    where nothing changes every token is the choice that writing token by token would have made.

    Source: Jacobi decoding, Santilli et al. 2305.10427.
    """
    guess, passes = np.asarray(guess), 0
    while True:
        rows = stream.score(guess)
        passes += 1
        choice = rows.argmax(axis=1)
        if (choice == guess).all():
            return guess, rows, passes
        guess = choice


def target_table(row: Row, prompts: Sequence[Prompt], device: str = "cpu") -> pd.DataFrame:
    """The target's greedy plan and rows for every frame of some prompts, beside draft, probe and truth.

    Returns
    -------
    One row a frame: utterance, frame, truth, draft, confidence, probe, target (viseme names), passes (of the frame's
    chunk), and the target's distribution, p_sil … p_ou.
    """
    judge = load_reasoner(adapter=row.adapter, device=device)
    drafted, hear = recordings.drafter(row.draft), recordings.drafter(row.probe or EARS)
    heard = heard_words(prompts) if row.words == "heard" else {}
    tables = []
    for prompt in tqdm(prompts, desc=row.adapter, unit="utterance", mininterval=10):
        samples, truth = load_audio(prompt.path).samples, aligned(prompt)
        draft, probe = drafted(samples), hear(samples)
        words = words_of(aligned_phones(prompt)) if row.words == "aligned" else heard.get(prompt.name, [])
        stream = judge.stream()
        plans, rows, passes = [], [], []
        for evidence in gather_evidence(samples, words, probe.probabilities):
            stream.read(evidence if row.probe else evidence.without_probe())
            part = slice(evidence.first_frame, evidence.first_frame + len(evidence))
            plan, distributions, took = settle(stream, draft.plan.visemes[part])
            stream.commit(plan)
            plans += [VISEMES[viseme] for viseme in plan]
            rows.append(distributions)
            passes += [took] * len(plan)
        table = pd.DataFrame(
            {
                "utterance": prompt.name,
                "frame": np.arange(len(truth)),
                "truth": truth.names,
                "draft": draft.plan.names,
                "confidence": draft.confidence,
                "probe": probe.plan.names,
                "target": plans,
                "passes": passes,
            }
        )
        tables.append(table.join(pd.DataFrame(np.concatenate(rows), columns=PROBABILITIES)))
    return pd.concat(tables, ignore_index=True)


def calibrate(name: str, prompts: Sequence[Prompt], device: str = "cpu") -> dict[str, float]:
    """Fit the temperature of a row's adapter and keep it in the adapter's reasoner.json."""
    row = ROWS[name]
    path = MODEL_DIR / row.adapter / "reasoner.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    table = target_table(row, prompts, device)
    # Rows are at the temperature in the file: logarithms times it are logits at temperature 1, up to a constant.
    logits = np.log(table[PROBABILITIES].to_numpy().clip(1e-12)) * settings["temperature"]
    settings["temperature"] = round(fit_temperature(logits, table["truth"].map(VISEMES.index).to_numpy()), 4)
    write_text(path, json.dumps(settings, indent=1) + "\n")
    return {"temperature": settings["temperature"], "utterances": len(prompts), "frames": len(table)}


def accuracy(table: pd.DataFrame, column: str) -> dict[str, float]:
    """Strict accuracy against truth and within one frame, with intervals by utterance."""
    said, truth = (table[name].map(VISEMES.index).to_numpy() for name in (column, "truth"))
    groups = table["utterance"].to_numpy()
    bootstrap = partial(bootstrap_by_group, groups=groups)
    near = within_one_frame(said, truth, groups)
    return interval("accuracy", bootstrap(said == truth)) | interval("within_one_frame", bootstrap(near))


def summarise(table: pd.DataFrame) -> dict:
    """What metrics.json says of a row: the target, and the probe and the draft on the same frames."""
    groups = table["utterance"].to_numpy()
    likeliest = table[PROBABILITIES].to_numpy().max(axis=1)
    correct = (table["target"] == table["truth"]).to_numpy()
    chunks = table[table["frame"] % FRAMES_PER_CHUNK == 0]
    passes: Metric = bootstrap_by_group(chunks["passes"].to_numpy(), chunks["utterance"].to_numpy())
    gain: Metric = bootstrap_by_group(correct * 1.0 - (table["probe"] == table["truth"]).to_numpy(), groups)
    agree: Metric = bootstrap_by_group((table["target"] == table["draft"]).to_numpy(), groups)
    return {
        **accuracy(table, "target"),
        **{f"probe_{name}": value for name, value in accuracy(table, "probe").items()},
        **{f"draft_{name}": value for name, value in accuracy(table, "draft").items()},
        **interval("gain_over_probe", gain),
        **interval("agrees_with_draft", agree),
        **interval("ece", expected_calibration_error(likeliest.clip(0, 1), correct, groups)),
        **interval("passes_per_chunk", passes),
        "n_frames": len(table),
        "n_utterances": table["utterance"].nunique(),
    }


def timing(prompt: Prompt) -> dict[str, float]:
    """Tokens a second on this machine: writing a plan token by token, and scoring it, on chunks of one prompt."""
    judge, hear = load_reasoner(), recordings.drafter(EARS)
    samples = load_audio(prompt.path).samples
    written, scored = judge.stream(), judge.stream()
    spent = {"plan": 0.0, "score": 0.0}
    frames = 0
    for evidence in gather_evidence(samples, heard_words([prompt])[prompt.name], hear(samples).probabilities)[
        :TIMED_CHUNKS
    ]:
        begin = time.perf_counter()
        written.read(evidence)
        plan, _ = written.plan(len(evidence))
        middle = time.perf_counter()
        scored.read(evidence)
        scored.score(plan)
        spent["score"] += time.perf_counter() - middle
        spent["plan"] += middle - begin
        frames += len(evidence)
        written.commit(plan)
        scored.commit(plan)
    return {
        "plan_tokens_per_second": round(frames / spent["plan"], 2),
        "score_tokens_per_second": round(frames / spent["score"], 2),
        "plan_passes": written.passes,
        "score_passes": scored.passes,
        "frames": frames,
        "text_tokens_read": scored.tokens_read,
        "load_average": round(provenance.psutil.getloadavg()[0], 1),
    }


def chosen(prompts: Sequence[Prompt], count: int | None, seed: int = 0) -> list[Prompt]:
    """All prompts, or a random sample of them in the corpus' order."""
    if count is None or count >= len(prompts):
        return list(prompts)
    drawn = np.random.default_rng(seed).choice(len(prompts), count, replace=False)
    return [prompts[index] for index in sorted(drawn)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the committed adapters."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.reasoner_card", description=main.__doc__)
    parser.add_argument("--calibrate", choices=ROWS, help="fit the temperature of this row's adapter")
    parser.add_argument("--rows", default="", help=f"comma-separated, of {', '.join(ROWS)}")
    parser.add_argument("--timing", action="store_true", help="tokens a second on this machine")
    parser.add_argument("--utterances", type=int, help="a random sample of this many; all by default")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    names = [name for name in options.rows.split(",") if name]
    try:
        if unknown := set(names) - ROWS.keys():
            raise InputError(f"rows: unknown {min(unknown)!r}, expected some of {', '.join(ROWS)}")
        metrics = json.loads(METRICS_FILE.read_text(encoding="utf-8")) if METRICS_FILE.is_file() else {}
        if options.calibrate:
            prompts = chosen(human_prompts("validation"), options.utterances)
            fitted = calibrate(options.calibrate, prompts, options.device)
            metrics.setdefault("calibration", {})[ROWS[options.calibrate].adapter] = fitted
        for name in names:
            table = target_table(ROWS[name], chosen(human_prompts("test"), options.utterances), options.device)
            metrics[name] = summarise(table)
        if options.timing:
            metrics["timing"] = timing(max(human_prompts("test"), key=lambda prompt: prompt.path.stat().st_size))
            metrics["timing"] |= {"cpu": provenance.cpu_model(), "cores": provenance.usable_cores()}
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    metrics |= {
        "label": "measured", "resampling_unit": "utterance", "split": "test",
        "commit": provenance.commit(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    write_text(METRICS_FILE, json.dumps(metrics, indent=1) + "\n")
    print(json.dumps({name: metrics[name] for name in names} or metrics, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
