r"""Both pipelines measured beside each other on this machine, utterance by utterance, in turn.

    python -m workbench.measure.pipeline_cpu --out data/measurements/pipeline_cpu.json
    python -m workbench.measure.pipeline_cpu --chunks 1 --longest-s 0.8 --face shape --out try.json      a dry run
    python -m workbench.measure.pipeline_cpu --row my.toml --corpus corpus.jsonl      into data/measurements/my

Latency: each chunk's sound is given when the chunk before is out, so that none waits in a queue; it lasts from the
chunk's last sample to its frames. Throughput: the whole utterance at once, seconds a chunk. Every mode runs on the same
utterances, in random order within each; the file is written anew after each utterance, so that an ended run keeps what
it has. Beside them: generation alone (no judge is asked), first chunks after silence, the judge's passes in each
precision, and other ways to share the cores. A stream runs as a recording's own run does (`system.run_stream`), without
the picture around the face.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from specsync_lib.devices import SPIN_VARIABLE, multiplies_bfloat16, resolve
from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.judge.engines.session import Branch
from specsync_lib.judge.int8 import most
from specsync_lib.judge.loading import load_judge
from specsync_lib.judge.rules import RunRule
from specsync_lib.judge.verify import run_options
from specsync_lib.measures.draft import evaluation_prompts
from specsync_lib.measures.intervals import drawn_groups, drawn_unit, resamples
from specsync_lib.measures.latency import spread
from specsync_lib.paths import MEASUREMENTS_DIR, display_path
from specsync_lib.pipeline.answers import ChunkPattern, written_pattern
from specsync_lib.pipeline.models import Models, load_models
from specsync_lib.pipeline.outcome import PipelineReport
from specsync_lib.pipeline.run import AHEAD_CHUNKS
from specsync_lib.pipeline.simulate import REASONING_TOKENS
from specsync_lib.pipeline.sound import pieces, samples_for_chunk
from specsync_lib.pipeline.stages import Policy, Station
from specsync_lib.pipeline.system import DEFAULT_THRESHOLD, run_stream, seats
from specsync_lib.provenance import machine, usable_cores
from specsync_lib.rows import LOCAL, SMOLLM2, WAN_MINI, WAN_MINI_SHAPE, Row
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import Prompt
from specsync_lib.units import CHUNK_SAMPLES, SAMPLE_RATE_HZ
from workbench.asked import add_row, beside, results_folder, row_of
from workbench.measure.pipelines import SILENT_S, run_numbers, stage_numbers

FACES = {"wan-mini": WAN_MINI, "shape": WAN_MINI_SHAPE}
RESAMPLES = 1000
PERCENTILES = (50, 95, 99)
REAL_TIME_S = CHUNK_SAMPLES / SAMPLE_RATE_HZ  # what a chunk may take where the stream is to keep up
RULES: tuple[RunRule, ...] = ("lenient", "mouth", "gate")
HEADLINES = ("serial", "speculative", "speculative_lenient", "serial_reasoning")  # in the file's ``runs``
EXACT_MODES = ("serial", "speculative", "in_flight")  # whose plans are one
ALONE = "generation_alone"
PASS_TOKENS, PAST_TOKENS = (1, 12, 50), 500
PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Mode:
    """rule: by which chunks are decided, serially where it is ``judge``; share: of the chunks that are asked for.

    ahead, threads, reasoning_tokens: as for `system.run_stream`."""

    rule: RunRule
    share: float = 1.0
    ahead: int = AHEAD_CHUNKS
    threads: Mapping[Station, int] | None = None
    reasoning_tokens: int = 0


@dataclass
class Results:
    """What has been measured: each mode's runs, one an utterance; and who speaks in each, where the corpus says so."""

    reports: dict[str, list[PipelineReport]] = field(default_factory=dict)
    utterances: dict[str, list[str]] = field(default_factory=dict)
    unequal_plans: list[str] = field(default_factory=list)
    talkers: dict[str, str] = field(default_factory=dict)

    def drawn(self, mode: str) -> tuple[str, np.ndarray]:
        """What the bootstrap draws, and of each of a mode's runs which one it is."""
        names = self.utterances[mode]
        table = pd.DataFrame({"utterance": range(len(names)), "talker": [self.talkers.get(name, "") for name in names]})
        return drawn_unit(table), drawn_groups(table)

    def chunks(self, mode: str) -> int:
        """How many chunks a mode has."""
        return sum(len(report.commits) for report in self.reports.get(mode, ()))


def policy_of(options: argparse.Namespace) -> Policy:
    """Exact, with all the time that a slow machine needs."""
    return Policy(late="midflight", deadline_s=600.0, hold_before=options.hold_before.replace("-", " "))


def modes_of(options: argparse.Namespace) -> dict[str, Mode]:
    """The pipelines to compare. "in_flight…" are speculative ones with up to 4 chunks, for their throughput;
    "generation_alone" asks no judge."""
    asked: dict[Station, int] = {"judge": options.judge_threads, "generator": options.generator_threads}
    one = partial(Mode, threads={station: count for station, count in asked.items() if count})
    return {
        "serial": Mode("judge"),
        "speculative": one("exact", ahead=1),
        "in_flight": one("exact"),
        ALONE: one("draft", options.beside_share, ahead=1),
        "speculative_lenient": one("lenient", options.beside_share, ahead=1),
        **{f"speculative_{rule}": one(rule, options.rules_share, ahead=1) for rule in RULES if rule != "lenient"},
        **{f"in_flight_{rule}": one(rule, options.rules_share) for rule in RULES},
        "serial_reasoning": Mode("judge", options.reasoning_share, reasoning_tokens=options.reasoning_tokens),
    }


def recordings(rng: np.random.Generator, prompts: Sequence[Prompt]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and samples of prompts in random order, over and over."""
    while True:
        for index in rng.permutation(len(prompts)):
            yield prompts[index].name, load_audio(prompts[index].path).samples


def measure(models: Models, options: argparse.Namespace, save: Callable[[Results], None]) -> Results:
    """Run every mode on utterance after utterance until each has its chunks, or the minutes are over."""
    rng = np.random.default_rng(options.seed)
    modes, prompts = modes_of(options), evaluation_prompts("test", options.corpus)
    results = Results(talkers={prompt.name: prompt.speaker for prompt in prompts})
    end_s = time.monotonic() + 60 * options.minutes
    warmed = False
    for name, whole in recordings(rng, prompts):
        samples = whole[: int(options.longest_s * SAMPLE_RATE_HZ)]
        wanted = [mode for mode in modes if results.chunks(mode) < modes[mode].share * options.chunks]
        if not wanted or time.monotonic() > end_s:
            return results
        if not warmed:
            print("warming up: one short utterance through every pipeline", flush=True)
            for mode in modes.values():
                run_once(mode, models, samples[:4000], options)
            warmed = True
        plans = {}
        for mode in rng.permutation(wanted):
            report = run_once(modes[mode], models, samples, options)
            results.reports.setdefault(mode, []).append(report)
            results.utterances.setdefault(mode, []).append(name)
            plans[str(mode)] = report.plan.tolist()
        # Reasoning is context: what is written after it may differ; a lenient rule lets more stand.
        exact = [plan for mode, plan in plans.items() if mode in EXACT_MODES]
        if any(plan != exact[0] for plan in exact):
            results.unequal_plans.append(name)
        save(results)
        counts = ", ".join(f"{mode} {results.chunks(mode)}" for mode in modes)
        print(f"{name}: {counts} chunks; {(end_s - time.monotonic()) / 60:.1f} min left", flush=True)
    raise InputError("recordings: there are too few; fetch the speech: python -m specsync_lib.assets")


def run_once(mode: Mode, models: Models, samples: np.ndarray, options: argparse.Namespace) -> PipelineReport:
    """One utterance through new stages; the report keeps its commits without their frames.

    Raises
    ------
    InputError: the run did not reach its end.
    """
    commits = []
    stages = models.stages(options=run_options(mode.rule, DEFAULT_THRESHOLD))
    report = run_stream(
        pieces(samples, pace="fast", piece_ms=100),
        stages,
        mode.rule,
        DEFAULT_THRESHOLD,
        device=resolve(options.device),
        policy=policy_of(options),
        ahead=mode.ahead,
        threads=mode.threads,
        reasoning_tokens=mode.reasoning_tokens,
        on_commit=lambda commit: commits.append(replace(commit, frames=commit.frames[:0])),
    )
    if report.ended != "complete" or stages.judge.faults:
        raise InputError(f"{report.mode}: {report.error or ' '.join(stages.judge.faults) or report.ended}")
    return replace(report, commits=tuple(commits))


def starts(models: Models, options: argparse.Namespace) -> list[float]:
    """The first chunk's latency of streams that begin with speech after silence, in which nothing was asked of the
    machine, ms."""
    mode, seen = modes_of(options)["speculative"], []
    for _, whole in recordings(np.random.default_rng(options.seed), evaluation_prompts("test", options.corpus)):
        if len(seen) >= options.starts:
            break
        time.sleep(SILENT_S)
        report = run_once(mode, models, whole[: samples_for_chunk(0)], options)
        seen.append(round(float(report.chunks()["latency_ms"][0]), 3))
    return seen


def shared_otherwise(models: Models, options: argparse.Namespace) -> list[dict]:
    """Other ways to share the cores, each on the same few chunks: threads, the median latency, seconds a chunk."""
    _, whole = next(recordings(np.random.default_rng(options.seed), evaluation_prompts("test", options.corpus)))
    samples, cores, rows = whole[: options.seat_chunks * CHUNK_SAMPLES], usable_cores(), []
    for judge, generator in sorted({(max(1, cores // 2), cores), (1, max(1, cores // 2)), (cores, cores)}):
        shared: dict[Station, int] = {"draft": cores, "judge": judge, "generator": generator}
        made = {}
        for name, more in (("speculative", {"ahead": 1}), ("in_flight", {})):
            made[name] = run_once(Mode("exact", threads=shared, **more), models, samples, options)
        latency_ms = made["speculative"].chunks()["latency_ms"]
        throughput = made["in_flight"].wall_s / max(1, len(latency_ms))
        rows.append(
            {**shared, "n": len(latency_ms), "p50_ms": round(float(latency_ms.median()), 3),
             "throughput_s_per_chunk": round(throughput, 4)}
        )  # fmt: skip
    return rows


def passes(row: Row, repeats: int) -> list[dict]:
    """A pass of the judge on one thread, behind PAST_TOKENS, by precision and by how many tokens it reads."""
    rng, rows = np.random.default_rng(0), []
    past = rng.integers(100, 40_000, PAST_TOKENS).tolist()
    torch.set_num_threads(1)
    known = row.judge.source == SMOLLM2  # of another model, in its own precision
    for precision in PRECISIONS if known else (row.judge.dtype_on("cpu"),):
        session = load_judge(replace(row.judge, dtype=precision)).engine.open()
        for tokens in PASS_TOKENS:
            session.rows(past[:-1], [Branch([past[-1:]], [])])
            took_ms = []
            for _ in range(repeats + 1):  # the first one warms up
                new = rng.integers(100, 40_000, tokens).tolist()
                began = time.perf_counter()
                session.rows([*past, *new[:-1]], [Branch([new[-1:]], [])])
                took_ms.append(1e3 * (time.perf_counter() - began))
            rows.append({"precision": precision, "tokens": tokens, "past_tokens": PAST_TOKENS, "threads": 1}
                        | spread(took_ms[1:]))  # fmt: skip
    return rows


def summary(models: Models, row: Row, options: argparse.Namespace, results: Results, more: dict) -> dict:
    """Everything measured, as the JSON has it. more: what was measured beside the pipelines."""
    rng = np.random.default_rng(options.seed)
    region = f"{models.face.px}px"
    runs, units = {mode: run_numbers(reports) for mode, reports in results.reports.items()}, set()
    for mode, numbers in runs.items():
        unit, of_run = results.drawn(mode)
        numbers |= intervals(numbers["latency_ms"], of_run[numbers["block"]], rng)
        units.add({"utterance": "utterance", "talker": "speaker"}[unit])
        numbers["utterances"] = results.utterances[mode]
    throughput = {
        mode: round(sum(report.wall_s for report in reports) / results.chunks(mode), 4)
        for mode, reports in results.reports.items()
    }
    judged, leniently = (
        [commit for report in results.reports.get(mode, ()) for commit in report.commits]
        for mode in ("speculative", "speculative_lenient")
    )
    # an exact rule verifies what the probe hears first, the lenient one the draft
    answers, lenient_answers = (
        [
            ChunkPattern(
                commit.passes,
                tuple(k for k, (a, b) in enumerate(zip(commit.drafted, commit.tokens, strict=True)) if a != b),
                guessed,
            )
            for commit in commits
        ]
        for commits, guessed in ((judged, True), (leniently, False))
    )
    return {
        "setup": options.setup,
        **(row.identity() if row.differences() else {}),
        "label": models.label,
        "what": "a chunk's latency from the arrival of its last sample to its frames in memory",
        "resampling_unit": " or ".join(sorted(units)),
        "machine": machine(),
        "models": {
            "reasoner": models.reasoner.name,
            "reasoner_label": models.reasoner.label,
            "reasoner_dtype": row.judge.dtype_on(resolve(options.device)),
            "engine": models.names.get("engine", ""),
            "adapter": row.judge.adapter,
            "face": row.video.source,
            "face_label": row.video.label,
            "decoder": row.video.decoded_by,
            "transformer_dtype": row.video.transformer_dtype,
            "bfloat16": multiplies_bfloat16(),
            "largest_int8": most(),
            "listener": f"the causal front {Path(row.draft.ears).stem}; no words",
        },
        "policy": asdict(policy_of(options)),
        "guarantee": policy_of(options).guarantee,
        "spin_count": os.environ.get(SPIN_VARIABLE),
        "command": shlex.join(["python", "-m", "workbench.measure.pipeline_cpu", *sys.argv[1:]]),
        "threads": {
            name: seats(resolve(options.device), mode.rule, mode.threads) for name, mode in modes_of(options).items()
        },
        "reasoning_tokens": options.reasoning_tokens,
        "steps": row.video.steps,
        "render_parts": 3,
        "pattern": "as it came in this run",
        "replayed": written_pattern(answers),
        "replayed_lenient": written_pattern(lenient_answers),
        "accepted_chunks": round(float(np.mean([commit.how == "accepted" for commit in judged])), 4)
        if judged
        else None,
        "utterances_with_unequal_plans": results.unequal_plans,
        "regions": {
            region: {
                "hold_before": dict.fromkeys(("speculative", "speculative_lenient"), policy_of(options).hold_before),
                "runs": {mode: runs[mode] for mode in HEADLINES if mode in runs},
                "in_flight": runs.get("in_flight"),
                ALONE: runs.get(ALONE, {}),
                "rules": {
                    mode: numbers for mode, numbers in runs.items() if mode not in (*HEADLINES, "in_flight", ALONE)
                },
                "throughput_s_per_chunk": throughput,
                "sustains_real_time": {
                    mode: seconds <= REAL_TIME_S for mode, seconds in throughput.items() if mode.startswith("in_flight")
                },
                **ratios(runs),
                "stages": {
                    mode: stage_numbers(reports) for mode, reports in results.reports.items() if mode in HEADLINES
                },
                **more,
            }
        },
    }


def ratios(runs: dict[str, dict]) -> dict[str, float]:
    """Medians of serial over speculative, and their bound: over generation alone."""
    over = {"serial_over_speculative": "speculative", "serial_over_generation": ALONE}
    return {
        name: round(runs["serial"]["p50_ms"] / runs[mode]["p50_ms"], 4)
        for name, mode in over.items()
        if {"serial", mode} <= set(runs)
    }


def intervals(latency_ms: list[float], block: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """95 % bootstrap intervals of the percentiles, drawn by block: p50_low_ms, p50_high_ms, p95_low_ms …"""
    latency = np.array(latency_ms)
    drawn = [np.percentile(latency[index], PERCENTILES) for index in resamples(block, RESAMPLES, rng)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0).round(3)
    ends = {}
    for index, percentile in enumerate(PERCENTILES):
        ends |= {f"p{percentile}_low_ms": float(low[index]), f"p{percentile}_high_ms": float(high[index])}
    return ends


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.measure.pipeline_cpu", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="the JSON to write; of another row: by default in its own folder")
    add_row(parser)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu", help="of what a row leaves open")
    parser.add_argument("--chunks", type=int, default=200, help="chunks of each pipeline")
    parser.add_argument("--longest-s", type=float, default=8.0, help="utterances are cut there")
    parser.add_argument("--minutes", type=float, default=8, help="no utterance begins after this")
    parser.add_argument("--face", choices=tuple(FACES), help="of the default row; shape: random weights")
    parser.add_argument("--judge-threads", type=int, default=0, help="default: half of the cores")
    parser.add_argument("--generator-threads", type=int, default=0, help="default: all cores")
    parser.add_argument(
        "--hold-before",
        choices=("nothing", "decode", "last-step"),
        default="last-step",
        help="where a chunk waits for the judge's first word; decoding is by far the longest stage on a CPU",
    )
    parser.add_argument("--reasoning-tokens", type=int, default=REASONING_TOKENS)
    parser.add_argument("--reasoning-share", type=float, default=0.08, help="of the chunks, for serial with reasoning")
    parser.add_argument(
        "--beside-share", type=float, default=0.5, help="of the chunks, for lenient and generation alone"
    )
    parser.add_argument("--rules-share", type=float, default=0.15, help="of the chunks, for the other rules")
    parser.add_argument("--starts", type=int, default=120, help="first chunks after silence")
    parser.add_argument("--seat-chunks", type=int, default=12, help="of each other way to share the cores; 0: none")
    parser.add_argument("--pass-repeats", type=int, default=20, help="passes of the judge in each precision; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        row = row_of(options)
        options.setup = row.name if row.differences() else resolve(options.device)
        if options.out is None:
            options.out = beside(MEASUREMENTS_DIR / "pipeline_cpu.json", results_folder(row))
        elif row.differences() and options.out.absolute().parent == MEASUREMENTS_DIR:
            raise InputError(f"--out: {display_path(options.out.absolute())} is of the default row; leave it out")
        options.corpus = row.corpus
        if options.face:
            row = replace(row, video=replace(row.video, source=FACES[options.face]))
        models = load_models(row, seed=options.seed, device=resolve(options.device))

        asked = options.pass_repeats and row.judge.kind == LOCAL and resolve(options.device) == "cpu"
        more = {"judge_passes": passes(row, options.pass_repeats)} if asked else {}

        def save(results: Results) -> None:
            write_json(options.out, summary(models, row, options, results, more))

        results = measure(models, options, save)
        if options.starts:
            more["after_silence"] = {
                "mode": "speculative", "silence_s": SILENT_S, "latency_ms": starts(models, options)
            }  # fmt: skip
        if options.seat_chunks:
            more["seats"] = shared_otherwise(models, options)
        save(results)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    for mode, reports in results.reports.items():
        numbers = run_numbers(reports)
        print(f"{mode}: p50 {numbers['p50_ms']:.0f} ms, p99 {numbers['p99_ms']:.0f} ms, {numbers['n']} chunks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
