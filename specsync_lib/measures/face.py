"""The generated face in the video, and how far it is from the reference render.

Everything is measured on *squares*: what the lip reader sees of a frame (:func:`compositing.reader_box`), the generated
picture laid in with its feathered edge. Truth's squares come from the reference head: truth's mouth, the same idle
motion.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from specsync_lib import paths
from specsync_lib.errors import InputError
from specsync_lib.face import generation, vae, wan
from specsync_lib.face.compositing import FACE_BOX, FEATHER_PX, composite, cut, feather, inside, reader_box
from specsync_lib.face.generation import FaceGenerator
from specsync_lib.face.head.head import mouth_box_px
from specsync_lib.face.wan_mini import IN_USE, NOISE_LEVEL, Drafts, Method
from specsync_lib.measures import sync
from specsync_lib.measures.intervals import bootstrap_by_group
from specsync_lib.measures.lip_reader import PICTURE_MM, LipReader, load_lip_reader
from specsync_lib.measures.pictures import repair_table, seam_table
from specsync_lib.measures.sync_report import SyncReport
from specsync_lib.units import FRAMES_PER_CHUNK
from specsync_lib.visemes import SyncPlan

if TYPE_CHECKING:
    from specsync_lib.face.head.head import Head

CHUNK_TIMES = paths.MEASUREMENTS_DIR / "wan_chunk_h200.json"
MINI_METRICS = paths.MODELS_DIR / "wan_mini" / "metrics.json"
# Of sync_report's measures, those that speak for the whole video.
HEADLINES = (
    "av_offset_ms", "lip_r", "lip_error_mm", "jitter_ratio", "silence_motion_ratio", "closure_rate",
    "lip_class_accuracy", "border_flicker_grey",
)  # fmt: skip


def vae_quality(path: Path = MINI_METRICS) -> pd.DataFrame:
    """Quality of wan-mini's VAE alone on held-out renders, from its training: a row a split (validation, test).

    Intervals draw clips.

    Raises
    ------
    InputError: its metrics are absent.
    """
    try:
        final = json.loads(path.read_text(encoding="utf-8"))["final"]
        rows = []
        for split, part in final.items():
            clips = pd.DataFrame(part["per_clip"])
            row = {"split": split, "ssim": part["ssim"], "flicker_grey": part["flicker_grey"], "clips": part["clips"]}
            for name in ("psnr_db", "mouth_psnr_db"):
                spread = bootstrap_by_group(clips[name].to_numpy(), clips["clip"].to_numpy())
                row |= {name: part[name], f"{name}_low": spread.low, f"{name}_high": spread.high}
            rows.append(row)
        return pd.DataFrame(rows)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: no metrics ({error}); restore it or run workbench.train.vae") from error


def chunk_times(path: Path = CHUNK_TIMES) -> pd.DataFrame:
    """What a chunk's step and decoding cost on a GPU (`wan_chunk`): median ms, a row a model, region and stage.

    A column a mode.

    Raises
    ------
    InputError: the file is absent or damaged.
    """
    try:
        rows = pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["rows"])
        index = ["model", "label", "region_px", "stage"]
        return rows.pivot_table("median_ms", index, "mode", sort=False).reset_index().rename_axis(columns=None)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: no times of a chunk ({error}); restore it or run workbench.measure.wan_chunk"
        ) from error


def squares(frames: Iterable[np.ndarray], kept: list[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Frames as they come; of the first ``count`` of them the lip reader's squares go into ``kept``."""
    box = reader_box()
    for k, frame in enumerate(frames):
        if k < count:
            kept.append(frame[box.slices].copy())
        yield frame


def edge_alpha() -> np.ndarray:
    """The share [side, side] of the generated picture in a square."""
    box = reader_box()
    alpha = np.zeros((box.side, box.side), np.float32)
    alpha[inside(FACE_BOX, box).slices] = feather(FACE_BOX.side, FEATHER_PX)
    return alpha


def mouth_box(head: "Head") -> tuple[slice, slice]:
    """Rows and columns of the mouth, wide open, in a square."""
    left, top, right, bottom = mouth_box_px(head, {"jawOpen": 1.0}, (0.0, 0.0, 0.0))
    box = reader_box()
    return slice(top - box.top, bottom - box.top), slice(left - box.left, right - box.left)


@dataclass(frozen=True)
class Scene:
    """The first frames of a recording, to try things on.

    Attributes
    ----------
    face : FaceGenerator
        Reset before each trial.
    plan, idle
        Of its frames.
    drafts : callable
        The kernel's latents of each chunk.
    resting, truth : list of ndarray [side, side, 3]
        Squares of the resting head and of truth's render.
    mouth : (rows, columns)
        :func:`mouth_box`.
    reader : LipReader
        Default: the committed one.
    """

    face: FaceGenerator
    plan: SyncPlan
    idle: np.ndarray
    drafts: Drafts
    resting: list[np.ndarray]
    truth: list[np.ndarray]
    mouth: tuple[slice, slice]
    reader: LipReader = field(default_factory=load_lip_reader)

    def laid_in(self, faces: Iterable[np.ndarray], first: int = 0) -> list[np.ndarray]:
        """Squares with generated faces, from a frame on."""
        inner = inside(FACE_BOX, reader_box())
        return [composite(square, face, inner) for square, face in zip(self.resting[first:], faces, strict=False)]

    def gaps(self, faces: np.ndarray, first: int = 0) -> np.ndarray:
        """What the lip reader reads of generated faces, mm."""
        return self.reader.read(self.laid_in(faces, first)).gap_mm

    def row(self, name: str, shown: list[np.ndarray], truth_mm: np.ndarray, rng: np.random.Generator) -> dict:
        """Errors of squares against truth's: of the mouth's pixels and of the lips."""
        gap = self.reader.read(shown).gap_mm
        clips = np.zeros(len(gap), int)
        r, error = sync.lip_correlation(truth_mm, gap, clips, rng), sync.lip_error(truth_mm, gap, clips, rng, unit="mm")
        pixels = [
            np.square(a[self.mouth].astype(float) - b[self.mouth]).mean()
            for a, b in zip(shown, self.truth, strict=True)
        ]
        row = {"method": name, "mouth_psnr_db": 10 * np.log10(255**2 / max(np.mean(pixels), 1e-9))}
        for measure, metric in (("lip_r", r), ("lip_error_mm", error)):
            row |= {measure: metric.value, f"{measure}_low": metric.low, f"{measure}_high": metric.high}
        return row | {"frames": len(gap), "resampling_unit": r.resampling_unit}

    def compare(
        self, methods: Iterable[Method], seed: int, right_plan: SyncPlan | None = None
    ) -> tuple[pd.DataFrame, dict[str, list[np.ndarray]]]:
        """Every method on the same frames, between two bounds: the resting face, and truth through the VAE.

        Returns
        -------
        A row a method: method, mouth_psnr_db, lip_r and lip_error_mm with their ends, denoise_ms and decode_ms (medians
        of a chunk), frames; and the squares by method. ``right_plan``: truth's, for one row with no fault of the draft.
        """
        rng, truth_mm = np.random.default_rng(seed), self.reader.read(self.truth).gap_mm
        shown = {"resting face": self.resting, "truth through the VAE": self.laid_in(self._through_vae())}
        rows = [self.row(name, pictures, truth_mm, rng) for name, pictures in shown.items()]
        tried = [(method, method.name, self.plan) for method in methods]
        if right_plan is not None:
            tried.append((IN_USE, f"{IN_USE.name}, truth's plan", right_plan))
        for method, name, plan in tried:
            faces, denoise_s, decode_s = self._generate(method, plan, seed)
            shown[name] = self.laid_in(faces)
            times = {"denoise_ms": 1e3 * float(np.median(denoise_s)), "decode_ms": 1e3 * float(np.median(decode_s))}
            rows.append(self.row(name, shown[name], truth_mm, rng) | times)
        return pd.DataFrame(rows), shown

    def _through_vae(self) -> np.ndarray:
        """Truth's faces coded and decoded, nothing generated."""
        inner, coder = inside(FACE_BOX, reader_box()), vae.WanCoder(self.face.vae)
        faces = [self.face.reference, *(cut(square, inner, self.face.px) for square in self.truth)]
        pad = wan.padded_frames(len(faces)) - len(faces)
        latents = coder.encode(np.stack(faces + faces[-1:] * pad))
        return coder.decode(latents[None])[0, 1 : len(faces)]

    def _generate(self, method: Method, plan: SyncPlan, seed: int) -> tuple[np.ndarray, list[float], list[float]]:
        """Faces [n, px, px, 3], and the seconds of each chunk's denoising and decoding."""
        self.face.reset()
        faces, denoise_s, decode_s, noise = [], [], [], torch.Generator().manual_seed(seed)
        for part, rows in generation.chunk_plans(plan, self.idle, size=self.face.size):
            started = time.perf_counter()
            chunk = self._denoised(method, part, rows, noise)
            denoised = time.perf_counter()
            faces.append(self.face.commit(chunk))
            denoise_s.append(denoised - started)
            decode_s.append(time.perf_counter() - denoised)
        return np.concatenate(faces)[: len(plan)], denoise_s, decode_s

    def _denoised(
        self, method: Method, plan: SyncPlan, idle: np.ndarray, noise: torch.Generator
    ) -> generation.ChunkInProgress:
        drafted = self.drafts(self.face.chunks) if method.drafted else None
        chunk = self.face.begin(plan, drafted, method.noise_level, method.steps, noise, idle)
        while chunk.steps_left:
            chunk.step()
        return chunk

    def repair(self, seed: int, steps: int = 4) -> pd.DataFrame:
        """How much of a wrong draft the remaining steps repair, in the whole chunk with the widest mouth.

        The wrong draft is silence: its plan, and the resting face as latents. See :func:`pictures.repair_table`.
        """
        size = self.face.size
        parts = [*generation.chunk_plans(self.plan, self.idle, size=size)]
        whole = parts[: max(1, len(self.plan) // size.frames)]
        number = int(np.argmax([part.openness[: size.frames].mean() for part, _ in whole]))
        self.face.reset()
        noise = torch.Generator().manual_seed(seed)
        for part, rows in parts[:number]:
            self.face.commit(self._denoised(IN_USE, part, rows, noise))
        right, rows = parts[number]
        table = repair_table(
            self.face,
            right,
            SyncPlan(np.zeros(len(right), np.int8), np.zeros(len(right), np.float32)),
            lambda faces: self.gaps(faces, size.first_frame(number)),
            steps=steps,
            noise_level=NOISE_LEVEL,
            seed=seed,
            right_draft=self.drafts(number),
            wrong_draft=self.face.still.unsqueeze(1).expand(self.face.latent_shape),
            idle=rows,
        )
        return table.rename(columns={"error": "error_mm"}).assign(chunk=number)


def lips_over_time(report: SyncReport, plan_mm: np.ndarray) -> pd.DataFrame:
    """Columns time_s, generated_mm, truth_mm, plan_mm of a report on squares; ``plan_mm``: [n] the plan, a mesh."""
    tracks, mm_per_px = report.tracks, PICTURE_MM / report.lips.picture_px
    columns = {"generated_mm": "gap_px", "truth_mm": "reference_gap_px"}
    read = {name: tracks[column] * mm_per_px for name, column in columns.items()}
    return pd.DataFrame({"time_s": tracks["time_s"], **read, "plan_mm": plan_mm})


def seams(shown: list[np.ndarray], truth: list[np.ndarray], chunk_frames: int = FRAMES_PER_CHUNK) -> pd.DataFrame:
    """Jumps at chunk borders of generated squares and of truth's; see :func:`pictures.seam_table`."""
    rows, columns = inside(FACE_BOX, reader_box()).slices
    tables = [seam_table(np.stack([one[rows, columns] for one in some]), chunk_frames) for some in (shown, truth)]
    return tables[0].assign(truth_ratio=tables[1]["ratio"])
