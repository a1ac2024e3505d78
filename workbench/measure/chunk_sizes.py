"""Chunks of one, two and three slots beside each other on a CPU, with the embedded models: latency, delay, seams, lips.

    python -m workbench.measure.chunk_sizes --out data/measurements/chunk_sizes_cpu.json     about 5 minutes, two cores
    python -m workbench.measure.chunk_sizes --longest-s 0.6 --clips 1 --out try.json         a dry run

The shipped clips are run under ``rule=exact``, the sizes in random order within each clip, every chunk's sound given
when the chunk before is out. Lips are read off the pictures and held against truth's render: the clip's own phones, the
same idle motion. ``generation``: truth's own plan on the first clip, so that sizes differ by generation alone. Where
the transformer was trained on three slots alone (`generation.window_slots`) a shorter chunk is denoised in a window of
three: so it costs as much a step, and the file says so.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.face.compositing import idle_tracks, resting_frames, speaking_tracks
from specsync_lib.face.generation import idle_rows, window_slots
from specsync_lib.face.head.motion import FaceTracks, face_tracks
from specsync_lib.face.wan_mini import IN_USE, kernel_drafts
from specsync_lib.files import write_json
from specsync_lib.measures import face as face_video
from specsync_lib.measures import sync
from specsync_lib.measures.latency import percentile_interval
from specsync_lib.measures.lip_reader import LipReader, load_lip_reader
from specsync_lib.pipeline.system import System, SystemRun, load_system
from specsync_lib.provenance import machine, usable_cores
from specsync_lib.rows import Row
from specsync_lib.speech.alignment import plan_from_phones
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import Clip, clips
from specsync_lib.speech.level import at_level
from specsync_lib.units import CHUNK_SLOTS, SAMPLE_RATE_HZ, ChunkSize
from specsync_lib.visemes import SyncPlan


@dataclass(frozen=True)
class Scene:
    """A clip's beginning: its sound, truth's plan, and squares of the resting head and of truth's render."""

    name: str
    samples: np.ndarray
    truth_plan: SyncPlan
    resting: list[np.ndarray]
    truth: list[np.ndarray]
    truth_mm: np.ndarray


@dataclass
class Seen:
    """What the runs of one size gave: a value a chunk, a frame or a border, and the clip behind each."""

    latency_ms: list[float] = field(default_factory=list)
    latency_clip: list[int] = field(default_factory=list)
    age_ms: list[float] = field(default_factory=list)
    gap_mm: list[float] = field(default_factory=list)
    truth_mm: list[float] = field(default_factory=list)
    frame_clip: list[int] = field(default_factory=list)
    seam: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    like_three: list[bool] = field(default_factory=list)
    passes: int = 0
    chunks_in_one_pass: int = 0
    faults: int = 0
    wall_s: float = 0.0
    seconds: float = 0.0


def scene_of(clip: Clip, system: System, longest_s: float, reader: LipReader) -> Scene:
    """A clip's first seconds, with what it is held against."""
    whole = load_audio(clip.path)
    samples = whole.samples[: int(longest_s * SAMPLE_RATE_HZ)]
    frames = units.frame_count(len(samples))
    plan = plan_from_phones(clip.phones, whole.frame_count)
    plan = SyncPlan(plan.visemes[:frames], plan.openness[:frames])
    idle, resting, truth = idle_tracks(frames, system.seed), [], []
    spoken: FaceTracks = speaking_tracks(face_tracks(plan, system.seed), idle)
    for pictures, kept in (
        (resting_frames(system.head, idle), resting),
        ((system.head.render(spoken.units[k], spoken.pose[k]) for k in range(frames)), truth),
    ):
        for _ in face_video.squares(pictures, kept, frames):
            pass
    return Scene(clip.name, samples, plan, resting, truth, reader.read(truth).gap_mm)


def rounds(clip_count: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Clip and size, the sizes in random order within each clip."""
    for number in range(clip_count):
        for slots in rng.permutation(CHUNK_SLOTS):
            yield number, int(slots)


def keep(seen: Seen, scene: Scene, number: int, run: SystemRun, reader: LipReader) -> None:
    """Add a run to what its size gave."""
    latency_ms = run.report.own_latency_s() * 1e3
    gap_mm = reader.read(run.shown).gap_mm
    seams = face_video.seams(run.shown, scene.truth, run.report.chunk.frames)
    seen.latency_ms += latency_ms.tolist()
    seen.latency_clip += [number] * len(latency_ms)
    seen.age_ms += run.ages()["age_ms"].tolist()
    seen.gap_mm += gap_mm.tolist()
    seen.truth_mm += scene.truth_mm.tolist()
    seen.frame_clip += [number] * len(gap_mm)
    seen.seam += (seams["ratio"] / seams["truth_ratio"]).tolist()
    seen.right += (run.report.plan == scene.truth_plan.visemes).tolist()
    passes = run.report.chunks()["passes"]
    seen.passes += int(passes.sum())
    seen.chunks_in_one_pass += int((passes <= 1).sum())
    seen.faults += sum("out of step" in note for note in run.report.notes)
    seen.wall_s += run.report.wall_s
    seen.seconds += run.seconds


def row_of(slots: int, seen: Seen, window: int, rng: np.random.Generator) -> dict:
    """One size's numbers."""
    chunks = np.array(seen.latency_clip)
    groups, gap_mm, truth_mm = np.array(seen.frame_clip), np.array(seen.gap_mm), np.array(seen.truth_mm)
    r = sync.lip_correlation(truth_mm, gap_mm, groups, rng)
    error = sync.lip_error(truth_mm, gap_mm, groups, rng, unit="mm")
    latency = {
        f"latency_p{share}_ms": percentile_interval(seen.latency_ms, chunks, share, rng)._asdict() for share in (50, 99)
    }
    return {
        "chunk_slots": slots,
        "chunk_ms": round(ChunkSize(slots).ms, 2),
        "window_slots": window,
        "chunks": len(chunks),
        "frames": len(groups),
        **latency,
        "sound_to_frame_p50_ms": float(np.percentile(seen.age_ms, 50)),
        "sound_to_frame_p99_ms": float(np.percentile(seen.age_ms, 99)),
        "seconds_a_second": seen.wall_s / seen.seconds,
        "passes_a_second": seen.passes / seen.seconds,
        "one_pass_chunks": seen.chunks_in_one_pass / len(chunks),
        "out_of_step": seen.faults,
        "seam_over_truth": float(np.mean(seen.seam)) if seen.seam else None,
        "lip_r": r.value, "lip_r_low": r.low, "lip_r_high": r.high,
        "lip_error_mm": error.value, "lip_error_mm_low": error.low, "lip_error_mm_high": error.high,
        "resampling_unit": r.resampling_unit,
        "right": float(np.mean(seen.right)),
        "like_three_slots": float(np.mean(seen.like_three)),
    }  # fmt: skip


def generated(scene: Scene, system: System, reader: LipReader, seed: int) -> list[dict]:
    """Every size under truth's own plan, from the kernel's draft: what short chunks cost the picture alone."""
    rows, frames = [], len(scene.truth)
    moves = idle_rows(idle_tracks(frames, system.seed))
    for slots in CHUNK_SLOTS:
        face = system.models.face.fresh(ChunkSize(slots))
        drafts = kernel_drafts(at_level(scene.samples), face)
        about = scene.truth_plan, moves, drafts, scene.resting, scene.truth, face_video.mouth_box(system.head), reader
        table, _ = face_video.Scene(face, *about).compare([IN_USE], seed)
        found = table.set_index("method").loc[IN_USE.name, ["mouth_psnr_db", "lip_r", "lip_error_mm"]]
        rows.append({"chunk_slots": slots, "frames": frames, **found.astype(float).to_dict()})
    return rows


def measure(options: argparse.Namespace) -> dict:
    """Every size on every clip.

    Raises
    ------
    InputError: weights are absent, or a run did not reach its end.
    """
    torch.set_num_threads(options.threads or max(1, usable_cores() // 2))  # judge and generator work side by side
    rng, reader = np.random.default_rng(options.seed), load_lip_reader()
    whole = load_system("cpu", options.seed, row=Row())
    systems = {
        slots: System(
            replace(whole.models, face=whole.models.face.fresh(ChunkSize(slots))), whole.head, "cpu", options.seed
        )
        for slots in CHUNK_SLOTS
    }
    scenes = [scene_of(clip, whole, options.longest_s, reader) for clip in clips()[: options.clips]]
    for system in systems.values():
        system.expected_s(scenes[0].samples, "exact", video=False)  # warms up
    seen: dict[int, Seen] = {slots: Seen() for slots in CHUNK_SLOTS}
    plans: dict[tuple[int, int], np.ndarray] = {}
    for number, slots in rounds(len(scenes), rng):
        scene = scenes[number]
        run = systems[slots].run(scene.samples, "exact", under=scene.resting, progress=False)
        keep(seen[slots], scene, number, run, reader)
        plans[number, slots] = run.report.plan
        print(f"{scene.name}, {slots} slots: {run.report.wall_s:.1f} s for {run.seconds:.1f} s of sound", flush=True)
    for number, slots in plans:
        seen[slots].like_three += (plans[number, slots] == plans[number, units.SLOTS_PER_CHUNK]).tolist()
    transformer = whole.models.face.transformer
    return {
        "what": "chunks of 1, 2 and 3 slots under rule=exact; latency: a chunk's last sample to its frames in memory; "
        "sound_to_frame: the sound at a frame's centre to that frame in memory, by sum",
        "label": whole.models.label,
        "seam_over_truth": "mean over chunk borders of (jump there over the change inside) over truth's own",
        "window_slots": "among how many slots a chunk is denoised: three where the weights know no shorter chunk",
        "like_three_slots": "share of frames whose committed viseme is that of the run in chunks of three slots",
        "clips": [scene.name for scene in scenes],
        "generation": generated(scenes[0], whole, reader, options.seed),
        "threads": torch.get_num_threads(),
        "rows": [row_of(slots, seen[slots], window_slots(transformer, ChunkSize(slots)), rng) for slots in CHUNK_SLOTS],
    }


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.measure.chunk_sizes", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--longest-s", type=float, default=2.4, help="clips are cut there")
    parser.add_argument("--clips", type=int, default=3, help="how many of the shipped clips")
    parser.add_argument("--threads", type=int, default=0, help="torch's, for each stage; default: half of the cores")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(list(arguments))
    began = time.monotonic()
    try:
        content = measure(options)
    except InputError as error:
        print(f"chunk_sizes: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    command = shlex.join(["python", "-m", "workbench.measure.chunk_sizes", *arguments])
    write_json(options.out, content | {"machine": machine(), "command": command, "wall_s": time.monotonic() - began})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
