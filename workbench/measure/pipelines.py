"""What the full-scale models cost on a GPU, stage by stage and in both pipelines: random weights, label real-shape.

    python -m workbench.measure.pipelines --part stages --out DIR                     one GPU: every stage alone
    python -m workbench.measure.pipelines --part pipeline --setup h200 --out DIR  one GPU: reasoner in FP8 beside all
    python -m workbench.measure.pipelines --part pipeline --setup h200x2 --out DIR  two GPUs: reasoner in bf16, alone
    python -m workbench.measure.pipelines --part pipeline --setup h200x2_fp8 …  two GPUs: reasoner in FP8, alone

Results go to ``DIR/stages_<gpu>.json`` and ``DIR/pipeline_<setup>.json``; each is written anew after every group of
numbers, so that an interrupted run keeps what it has. ``--tiny`` runs everything with tiny models on a CPU.
"""

import argparse
import faulthandler
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from specsync_lib.errors import InputError
from specsync_lib.judge.branches import ROOMS, USUAL_ROOM, Room
from specsync_lib.measures.latency import paced_numbers, run_numbers, stage_numbers
from specsync_lib.pipeline.answers import (
    OTHER_PLANS,
    POLICIES,
    WAYS,
    Answers,
    ChunkPattern,
    measured_answers,
    random_pattern,
    written_pattern,
)
from specsync_lib.pipeline.outcome import PipelineReport
from specsync_lib.pipeline.run import run_speculative
from specsync_lib.pipeline.serial import run_serial
from specsync_lib.pipeline.simulate import LATE_POLICIES, PIECE_MS, REASONING_TOKENS
from specsync_lib.pipeline.sound import pieces
from specsync_lib.pipeline.stages import Policy, Stages
from specsync_lib.units import CHUNK, CHUNK_SLOTS, LISTEN_BACK_CHUNKS, ChunkSize
from workbench.measure import shape_reasoner, shape_wan
from workbench.measure.session import LABEL, Case, Session, devices, free, provenance, timed
from workbench.measure.shape_reasoner import KernelDraft, Listener, ShapeReasoner
from workbench.measure.shape_stages import (
    EARS,
    EARS_WINDOW_S,
    EncoderEars,
    FrontEars,
    ShapeDrafter,
    ShapeGenerator,
    ShapeJudge,
    judged_tokens,
)
from workbench.measure.shape_wan import ShapeDecoder, ShapeDenoiser
from workbench.measure.shapes import FULL, TINY, Shapes, build_encoder, hearing, weight_gib
from workbench.measure.stages import COMPILED, GROUPS, chunk_latents, decoder_model, measure_stages

POLICY_RATES = (0.0, 0.25, 0.5)
DEFAULT_CASES = {
    ("stages", False): ",".join(FULL.regions),
    ("stages", True): ",".join(TINY.regions),
    ("pipeline", False): "384px:2:200:1,384px:4:40,256px:2:200,512px:2:200,720p:2:200",
    ("pipeline", True): ",".join(TINY.regions),
}
SLOWER_IN_PARTS = 1.1  # at most, for decoding slot by slot to be worth it
SILENT_S = 0.5  # before a start that is measured
LEAST_S = 15  # less is no use to a case: its graphs are captured first


# --- part two: both pipelines -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Models:
    """Everything that both pipelines share; streams come and go, models stay."""

    draft_listener: Listener
    ears: FrontEars | EncoderEars
    reasoner: ShapeReasoner
    transformer: torch.nn.Module
    decoder: torch.nn.Module
    decode: type[ShapeDecoder]


def build_models(
    shapes: Shapes,
    setup: str,
    generation: torch.device,
    reasoning: torch.device,
    *,
    fp8_method: shape_reasoner.Fp8Method = "per-tensor",
    convolution: shape_wan.ConvMethod = "3d",
    decoder: shape_wan.DecoderName = "wan",
    compiled: bool = False,
    ears: Literal["front", "encoder"] = "front",
    room: Room = ROOMS[USUAL_ROOM],
) -> tuple[Models, dict]:
    """The models of a setup, and what they are; one GPU holds the reasoner in FP8 beside all, two hold it in bf16."""
    precision = "bf16" if setup.endswith("x2") else "fp8"  # beside all others on one GPU, or because it is faster
    model = shape_reasoner.build_reasoner(shapes, reasoning, precision=precision, fp8_method=fp8_method)
    reasoner = ShapeReasoner(model, shapes, room=room)
    encoder = build_encoder(shapes, reasoning) if ears == "encoder" else None
    transformer = shape_wan.build_transformer(shapes, generation)
    if compiled:
        for block in transformer.blocks:
            block.compile()
    network = decoder_model(shapes, generation, convolution, decoder)
    parts = {"reasoner": model, "encoder": encoder, "transformer": transformer, "decoder": network}
    parts = {name: part for name, part in parts.items() if part is not None}
    facts = {
        "reasoner_precision": precision,
        "fp8_method": fp8_method if precision == "fp8" else None,
        "decoder": decoder,
        "convolution": convolution if decoder == "wan" else None,
        "ears": ears,
        "compiled": compiled,
        "shared": generation == reasoning,
        "weight_gib": {name: round(weight_gib(part), 2) for name, part in parts.items()},
    }
    draft_listener = Listener(shapes, generation)
    heard_by = EARS[ears](Listener(shapes, reasoning, encoder), shapes.chunk)
    return Models(draft_listener, heard_by, reasoner, transformer, network, shape_wan.DECODERS[decoder]), facts


def stages_of(
    shapes: Shapes,
    models: Models,
    region: str,
    steps: int,
    pattern: Sequence[ChunkPattern],
    *,
    parts: int = 1,
    compiled: bool = False,
) -> Stages:
    """The three stages for a region. They hold no plan of their own, so one set serves every stream."""
    size = shapes.regions[region]
    _, mel = models.draft_listener.hear()
    denoiser = ShapeDenoiser(models.transformer, shapes, *size, steps=steps)
    decoder = models.decode(models.decoder, shapes, denoiser.latents, compiled=compiled, parts=parts)
    kernel = KernelDraft(*size, mel, models.draft_listener.device, size=shapes.chunk)
    return Stages(
        ShapeDrafter(models.draft_listener, kernel),
        ShapeJudge(models.ears, models.reasoner, pattern),
        ShapeGenerator(denoiser, decoder),
        shapes.chunk,
    )


def measure_pipelines(session: Session, setup: str, options: argparse.Namespace) -> None:
    """Both pipelines in turn, block by block, case by case; then each case at the pace of speech, without a judge and
    after silence. With the first case's stages, once no other case of its region follows: the policies over rejection
    rates."""
    generation, reasoning = devices(setup, options.tiny)
    session.shapes = hearing(session.shapes, LISTEN_BACK_CHUNKS)
    answers, source = measured_answers(frames_a_pass=options.frames_a_pass, size=session.shapes.chunk)
    longest = max(options.branched_chunks, options.paced_chunks, *(case.chunks for case in options.cases.values()))
    session.content |= {"setup": setup, "pattern": source, "replayed": written_pattern(answers["serial"][:longest])}
    session.content |= {f"replayed_{way}": written_pattern(answers[mode][:longest]) for mode, way in WAYS.items()}
    session.content |= {
        "chunk_slots": options.slots,
        "frames_a_pass": options.frames_a_pass,
        "regions": {},
        "failed": {},
    }
    session.content |= {"what": "a chunk's latency from the arrival of its last sample to its frames on the host"}
    models, facts = build_models(
        session.shapes, setup, generation, reasoning, convolution=options.convolution, decoder=options.decoder,
        compiled=options.compile, ears=options.ears, room=ROOMS[options.frames_a_pass],
        fp8_method="dequantise" if options.tiny else options.fp8,
    )  # fmt: skip
    session.content |= facts
    session.log(f"built: {facts['weight_gib']} GiB, reasoner in {facts['reasoner_precision']}")
    session.save()
    cases = list(options.cases.values())
    first: tuple[Stages, dict] | tuple[()] = ()
    for place, case in enumerate(cases):
        if session.left() < LEAST_S:
            session.log(f"no time left for {case.name}")
            continue
        session.log(f"{case.name}: {case}")
        session.save()
        try:
            measured = measure_case(session, models, case, answers, options, owed=bool(first), headline=place == 0)
            first = first if place else measured
            if first and not any(one.region == cases[0].region for one in cases[place + 1 :]):
                if options.policy_chunks:
                    run_policies(session, *first, options.policy_chunks)
                first = ()
            if options.paced_chunks:
                run_paced(session, *measured, answers["speculative_branched"], options.paced_chunks)
            if options.starts:
                run_alone(session, *measured, options.alone_chunks)
                run_starts(session, *measured, answers["speculative_branched"], options.starts)
        except (InputError, RuntimeError) as error:  # one case's failure is written down and costs no other its numbers
            session.content["failed"][case.name] = str(error).splitlines()[0]
            session.log(f"{case.name} FAILED: {session.content['failed'][case.name]}")
            session.save()
        free(generation)


def measure_case(
    session: Session,
    models: Models,
    case: Case,
    answers: Answers,
    options: argparse.Namespace,
    *,
    owed: bool,
    headline: bool,
) -> tuple[Stages, dict]:
    """One case's blocks; its stages and its part of the file. owed: the policies still come, and need their time;
    headline: serial with reasoning tokens too, and more chunks for the tail of the exact pipeline."""
    parts = case.parts or parts_for(session, models, case.region)
    stages = stages_of(
        session.shapes, models, case.region, case.steps, answers["serial"], parts=parts, compiled=options.compile
    )
    session.log(f"decoded in {parts} parts; everything captured")
    session.content["regions"][case.name] = result = {
        "region": case.region, "steps": case.steps, "render_parts": parts,
        "window_s": EARS_WINDOW_S if session.content["ears"] == "front" else session.shapes.window_s,
        "runs": {}, "stages": {},
        "hold_before": {mode: policy.hold_before for mode, policy in POLICIES.items()},
    }  # fmt: skip
    beside = min(case.chunks, options.beside_chunks)
    wanted = {
        "serial": min(case.chunks, options.serial_chunks),
        "speculative": beside,
        "speculative_eager": min(case.chunks, options.eager_chunks),
        "speculative_branched": max(case.chunks, options.branched_chunks * headline),
        "speculative_lenient": beside,
        "speculative_mouth": beside,
        "serial_reasoning": options.reasoning_chunks * headline,
    }
    owed_s = float(stages.chunk.seconds) * (5 * options.policy_chunks * owed + options.paced_chunks)
    run_blocks(session, stages, result, wanted, answers, options.block, owed_s)
    return stages, result


def parts_for(session: Session, models: Models, region: str) -> int:
    """Slot by slot, which frees the generator sooner for a rejection, unless that decodes a tenth slower."""
    latents = chunk_latents(session.shapes.regions[region], models.decoder, session.shapes.chunk)
    took_ms, slots = {}, session.shapes.chunk.slots
    for parts in {1, slots}:
        decoder = models.decode(models.decoder, session.shapes, latents, parts=parts)
        decode = lambda decoder=decoder: [decoder.run(part) for part in range(decoder.parts)]  # noqa: E731
        took_ms[parts] = timed(decode, latents.device, 7)["median_ms"]
        del decoder, decode
        free(latents.device)
    session.content.setdefault("decode_ms", {})[region] = took_ms
    session.log(f"decoding at {region} in 1 or {slots} parts: {took_ms}")
    return slots if took_ms[slots] <= SLOWER_IN_PARTS * took_ms[1] else 1


MODES: dict[str, Callable[..., PipelineReport]] = {
    "serial": run_serial,
    **{mode: partial(run_speculative, policy=policy, ahead=1) for mode, policy in POLICIES.items()},
    "serial_reasoning": partial(run_serial, reasoning_tokens=REASONING_TOKENS),
}


def run_blocks(
    session: Session,
    stages: Stages,
    result: dict,
    wanted: dict[str, int],
    answers: Answers,
    block_chunks: int,
    owed_s: float,
) -> None:
    """Streams of one block each, the modes in turn, every chunk's sound given when the chunk before is out."""
    size = stages.chunk
    samples = np.random.default_rng(0).normal(0, 0.1, size.samples(block_chunks)).astype(np.float32)
    kept: dict[str, list[PipelineReport]] = {mode: [] for mode in MODES}
    for mode in ("serial", "speculative"):  # warm up
        report = run_without_frames(MODES[mode], samples[: size.samples(2)], stages)
        session.log(f"{mode}: {report.chunks()['latency_ms'].round(1).tolist()} ms to warm up")
    slowest = 0.0
    for first_chunk in range(0, max(wanted.values()), block_chunks):
        if session.left() < 5 + slowest + owed_s:
            session.log(f"no time left after {first_chunk} chunks")
            break
        began = time.monotonic()
        for mode, run in MODES.items():
            chunks = min(block_chunks, wanted[mode] - first_chunk)
            if chunks > 0:
                pattern, branched = answers.get(mode, answers["serial"]), WAYS.get(mode) == "branched"
                with stages.judge.replaying(pattern, branched=branched, first_chunk=first_chunk):
                    kept[mode].append(run_without_frames(run, samples[: size.samples(chunks)], stages))
                keep(result, kept)
                session.save()
        session.log(f"{first_chunk + block_chunks} chunks")
        slowest = max(slowest, time.monotonic() - began)
    for mode, numbers in result["runs"].items():
        first_ms = np.median(numbers["first_ms"])
        session.log(
            f"{mode}: p50 {numbers['p50_ms']:.1f}, p99 {numbers['p99_ms']:.1f} ms, first frames {first_ms:.1f} ms, "
            f"{numbers['n']} chunks, {numbers['counts']}"
        )


def keep(result: dict, kept: dict[str, list[PipelineReport]]) -> None:
    """Everything seen so far, and whether all pipelines under an exact rule committed the same plans."""
    for mode, reports in kept.items():
        if reports:
            result["runs"][mode] = run_numbers(reports)
            result["stages"][mode] = stage_numbers(reports)
    result["same_plan"] = all(
        np.array_equal(one.plan[: len(other.plan)], other.plan[: len(one.plan)])
        for mode, reports in kept.items()
        if WAYS.get(mode) not in OTHER_PLANS
        for one, other in zip(kept["serial"], reports, strict=False)
    )


def run_without_frames(
    run: Callable[..., PipelineReport], samples: np.ndarray, stages: Stages, pace: Literal["fast", "real time"] = "fast"
) -> PipelineReport:
    """One stream; the report keeps its commits without their pictures, gigabytes otherwise.

    Raises
    ------
    InputError: the run did not reach its end.
    """
    commits = []
    source = pieces(samples, pace=pace, piece_ms=PIECE_MS)
    report = run(source, stages, keep_commits=False, on_commit=lambda one: commits.append(replace(one, frames=None)))
    if report.ended != "complete":
        raise InputError(f"{report.mode}: {report.error or report.ended}")
    return replace(report, commits=tuple(commits))


def run_policies(session: Session, stages: Stages, result: dict, chunks: int) -> None:
    """Each policy for late verdicts over rejection rates, on drawn patterns: latency, and frames not as judged."""
    samples = np.zeros(stages.chunk.samples(chunks), np.float32)
    result["policies"] = []
    for rate in POLICY_RATES:
        pattern = random_pattern(rate, chunks, np.random.default_rng(0), frames=stages.chunk.frames)
        for name, policy in LATE_POLICIES.items():
            if session.left() < 5 + chunks * stages.chunk.seconds:
                continue
            with stages.judge.replaying(pattern):
                report = run_without_frames(partial(run_speculative, policy=policy, ahead=1), samples, stages)
            wanted = [judged_tokens(one.drafted, pattern[one.index]) for one in report.commits]
            wrong = [one.tokens != tokens for one, tokens in zip(report.commits, wanted, strict=True)]
            frames = np.concatenate([np.not_equal(a.tokens, b) for a, b in zip(report.commits, wanted, strict=True)])
            latency_ms = report.chunks()["latency_ms"]
            result["policies"].append({
                "policy": name, "rate": rate, "n": chunks, "mean_ms": round(float(latency_ms.mean()), 3),
                "latency_ms": [round(float(value), 3) for value in latency_ms], "chunks_not_as_judged": sum(wrong),
                "plan_error": round(float(frames.mean()), 5), "counts": report.counts,
            })  # fmt: skip
        session.save()
    session.log(f"{len(result['policies'])} runs of the policies for late verdicts")


def run_paced(session: Session, stages: Stages, result: dict, answers: Sequence[ChunkPattern], chunks: int) -> None:
    """The speculative pipeline, several plans a pass, at the pace of speech: when every chunk of frames is out, against
    when it was heard."""
    samples, mode = np.zeros(stages.chunk.samples(chunks), np.float32), "speculative_branched"
    if session.left() < 5 + chunks * stages.chunk.seconds:
        session.log("no time left for the pace of speech")
        return
    with stages.judge.replaying(answers, branched=True):
        report = run_without_frames(partial(run_speculative, policy=POLICIES[mode]), samples, stages, pace="real time")
    result["paced"] = {"mode": mode} | paced_numbers(report)
    session.log(f"at the pace of speech: p99 {np.percentile(result['paced']['latency_ms'], 99):.1f} ms")
    session.save()


def run_alone(session: Session, stages: Stages, result: dict, chunks: int) -> None:
    """What generation costs by itself: the speculative pipeline with nobody asked."""
    if session.left() < LEAST_S:
        return
    samples = np.zeros(stages.chunk.samples(chunks), np.float32)
    report = run_without_frames(partial(run_speculative, policy=Policy(gate=0.0), ahead=1), samples, stages)
    result["generation_alone"] = run_numbers([report])
    session.log(f"generation alone: p50 {result['generation_alone']['p50_ms']:.1f} ms")
    session.save()


def run_starts(session: Session, stages: Stages, result: dict, answers: Sequence[ChunkPattern], starts: int) -> None:
    """The first chunk after silence, in which nothing was asked of the machine: latencies of streams of one chunk."""
    mode, samples = "speculative_branched", np.zeros(stages.chunk.samples(1), np.float32)
    seen = []
    for first_chunk in range(starts):
        if session.left() < LEAST_S:
            break
        time.sleep(SILENT_S)
        with stages.judge.replaying(answers, branched=True, first_chunk=first_chunk):
            report = run_without_frames(partial(run_speculative, policy=POLICIES[mode], ahead=1), samples, stages)
        seen += [round(float(value), 3) for value in report.chunks()["latency_ms"]]
    result["after_silence"] = {"mode": mode, "silence_s": SILENT_S, "latency_ms": seen}
    if seen:
        session.log(f"after {SILENT_S} s of silence: p99 {np.percentile(seen, 99):.1f} ms, {len(seen)} starts")
    session.save()


# --- the command ------------------------------------------------------------------------------------------------------


def suffix_of(slots: int) -> str:
    """What tells a region, or a file, of short chunks from that of three slots."""
    return "" if slots == CHUNK.slots else f"_{slots}slot"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.pipelines", description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("stages", "pipeline"), required=True)
    parser.add_argument("--setup", choices=("h200", "h200x2", "h200x2_fp8", "tiny"), default="h200")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--commit", default="unknown", help="commit of the measured tree, where git is missing")
    parser.add_argument("--seconds", type=float, default=480, help="no new group of numbers is begun after this")
    parser.add_argument("--repeats", type=int, default=40, help="timed calls of a stage")
    parser.add_argument("--regions", help="NAME[:STEPS[:CHUNKS[:PARTS]]],… (384px:4:200:3); the headline first")
    parser.add_argument(
        "--steps", type=int, default=2, help="denoising steps of a chunk where no other number is given"
    )
    parser.add_argument(
        "--slots", type=int, choices=CHUNK_SLOTS, default=CHUNK.slots,
        help="of a chunk; other than three go to a file of their own, pipeline_SETUP_1slot.json, as 384px_1slot",
    )  # fmt: skip
    parser.add_argument("--chunks", type=int, default=200, help="chunks of each pipeline and region")
    parser.add_argument("--block", type=int, default=20, help="chunks of one stream; the pipelines take turns")
    parser.add_argument("--serial-chunks", type=int, default=200, help="most chunks of serial, which is the steadiest")
    parser.add_argument("--eager-chunks", type=int, default=60, help="most chunks of speculative that never waits")
    parser.add_argument(
        "--beside-chunks", type=int, default=200, help="most with one plan a pass, a lenient judge or mouth shapes"
    )
    parser.add_argument("--branched-chunks", type=int, default=0, help="of the headline with several plans a pass")
    parser.add_argument("--reasoning-chunks", type=int, default=5, help="chunks of serial with reasoning tokens")
    parser.add_argument(
        "--frames-a-pass", choices=tuple(ROOMS), default=USUAL_ROOM,
        help="that several plans of a chunk share: in the first pass and in every later one, or in each",
    )  # fmt: skip
    parser.add_argument("--policy-chunks", type=int, default=12, help="chunks of each policy at each rejection rate")
    parser.add_argument("--paced-chunks", type=int, default=25, help="chunks at the pace of speech")
    parser.add_argument("--starts", type=int, default=40, help="first chunks after silence, in every case")
    parser.add_argument("--alone-chunks", type=int, default=100, help="chunks of generation without a judge")
    parser.add_argument(
        "--ears", choices=tuple(EARS), default="front",
        help="what the judge hears through: the suite's causal front, or Whisper large-v3's encoder over 3.6 s",
    )  # fmt: skip
    parser.add_argument("--decoder", choices=tuple(shape_wan.DECODERS), default="tiny", help="what makes pictures")
    parser.add_argument("--convolution", choices=("3d", "2d"), default="3d", help="how Wan's decoder convolves")
    parser.add_argument("--fp8", choices=("per-tensor", "rowwise"), default="per-tensor", help="FP8 product")
    parser.add_argument("--compile", action="store_true", help="compile decoder and transformer blocks (a minute each)")
    known = (*GROUPS, COMPILED)
    parser.add_argument("--groups", help=f"groups of stages to measure, of {', '.join(known)}")
    parser.add_argument("--tiny", action="store_true", help="tiny models on a CPU: a rehearsal, no measurement")
    options = parser.parse_args(list(arguments))
    if options.part == "stages" and options.slots != CHUNK.slots:
        parser.error("--slots: single stages are measured for chunks of three slots; give --part pipeline")
    shapes = TINY if options.tiny else FULL
    usual = known if options.compile else GROUPS
    options.groups = options.groups.split(",") if options.groups else usual
    if unknown := set(options.groups) - set(known):
        parser.error(f"--groups: {', '.join(sorted(unknown))} is unknown; give some of {', '.join(known)}")
    options.cases = {}
    for case in (options.regions or DEFAULT_CASES[options.part, options.tiny]).split(","):
        region, *numbers = case.split(":")
        if region not in shapes.regions or len(numbers) > 3 or not all(number.isdecimal() for number in numbers):
            parser.error(f"--regions {case}: known are {','.join(shapes.regions)}, each with :STEPS:CHUNKS:PARTS")
        given = (*map(int, numbers), *(options.steps, options.chunks, 0)[len(numbers) :])
        steps, _, parts = given
        if steps < 1 or parts not in (0, 1, options.slots):
            parser.error(f"--regions {case}: at least one step, and 0, 1 or {options.slots} parts")
        names = (region, f"{region}_{steps}steps", f"{region}_{steps}steps_{parts}parts")
        names = (name + suffix_of(options.slots) for name in names)
        name = next((name for name in names if name not in options.cases), "")
        if not name:
            parser.error(f"--regions {case}: given twice")
        options.cases[name] = Case(name, region, *given)
    return options


@torch.no_grad()
def main(arguments: Sequence[str]) -> int:
    """Measure one part; what fails ends in one line, and what was measured before it is in the file."""
    options = parse(arguments)
    name = f"pipeline_{options.setup}" if options.part == "pipeline" else "stages_h200"
    if options.tiny:
        name = f"{options.part}_tiny"
    if options.part == "pipeline":
        name += suffix_of(options.slots)
    try:
        # every region of every layer is a compilation of its own; past the limit torch goes back to eager code
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 4096
        torch.backends.cudnn.benchmark = True  # shapes never change: the fastest convolution is found while warming up
        if options.tiny:
            torch.set_num_threads(1)
        generation, _ = devices(options.setup, options.tiny)
        content = {"provenance": provenance(options.commit, arguments, options.tiny), "label": LABEL}
        shapes = replace(TINY if options.tiny else FULL, chunk=ChunkSize(options.slots))
        regions = {case.region: shapes.regions[case.region] for case in options.cases.values()}
        path = options.out / f"{name}.json"
        session = Session(shapes, path, content, options.seconds, options.repeats, regions)
        if options.part == "stages":
            measure_stages(session, generation, options.groups)
        else:
            measure_pipelines(session, options.setup, options)
        session.log(f"wrote {session.path}")
    except InputError as error:
        print(f"pipelines: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    finally:
        faulthandler.cancel_dump_traceback_later()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
