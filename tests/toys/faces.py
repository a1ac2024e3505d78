"""Face corpora small enough for tests: one in memory, one on disk as the builder leaves it."""

from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from workbench.train import faces
from workbench.train.faces import FaceCorpus


def toy_corpus(size_px: int = 64, clip_frames: int = 9) -> FaceCorpus:
    """Six clips of a square that moves over a gradient; two clips a split."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(6):
        base = np.linspace(40, 200, size_px)[None, :, None] * rng.uniform(0.5, 1.1, 3)
        picture = np.broadcast_to(base, (size_px, size_px, 3)).copy()
        for k in range(clip_frames):
            moved = picture.copy()
            moved[30 + k : 40 + k, 20:40] = (180, 60, 60)
            frames.append(moved.clip(0, 255).astype(np.uint8))
    n = len(frames)
    return FaceCorpus(
        frames=np.stack(frames),
        units=np.zeros((n, 52), np.float32),
        pose=np.zeros((n, 3), np.float32),
        mouth_px=np.tile([16, 26, 44, 52], (n, 1)),
        lip_gap_mm=np.zeros(n, np.float32),
        viseme=np.zeros(n, np.int8),
        openness=np.zeros(n, np.float32),
        clip_start=np.arange(6) * clip_frames,
        clip_frames=np.full(6, clip_frames),
        clip_split=["train", "train", "validation", "validation", "test", "test"],
        names=[f"head_{k:03d}/x" for k in range(6)],
        facts={
            "frames": n,
            "heads": 6,
            "seed": 0,
            "clips": {"train": 2, "validation": 2, "test": 2},
            "sha256": "0" * 64,
        },
    )


def talking_corpus() -> FaceCorpus:
    """Clips of 17 frames at 32 px: a mouth that is as tall as the plan is open, the first frame at rest."""
    corpus = toy_corpus(size_px=32, clip_frames=17)
    rng = np.random.default_rng(0)
    n = len(corpus.frames)
    openness = np.repeat(rng.random((6, 6)), 3, axis=1)[:, :17].ravel().astype(np.float32)
    openness[:: corpus.clip_frames[0]] = 0
    corpus.openness[:], corpus.viseme[:] = openness, np.where(openness > 0.5, 10, 1)
    corpus.frames[:] = 140
    for k in range(n):
        corpus.frames[k, 18 : 18 + round(12 * float(openness[k])), 8:24] = 20
    corpus.mouth_px[:] = [8, 16, 24, 32]
    corpus.pose[:] = rng.normal(0, 0.05, (n, 3))
    corpus.facts["rest_first"] = True
    return corpus


def write_toy_faces(folder: Path, manner: str = "varied", size_px: int = faces.SIZE_PX) -> Path:
    """Three heads of two clips, one head a split: plain frames that grow brighter."""
    folder.mkdir(exist_ok=True)
    rng, jobs = np.random.default_rng(0), []
    for index, split in enumerate(faces.SPLITS):
        clips = tuple((f"{split}-{k}", (0,) * faces.CLIP_FRAMES, (0.0,) * faces.CLIP_FRAMES) for k in range(2))
        jobs.append(faces.HeadJob(index, split, "", index, clips, manner, size_px))
        n = 2 * faces.CLIP_FRAMES
        base = np.full((size_px, size_px, 3), 60 + 40 * index, np.uint8)
        frames = [Image.fromarray(base + np.uint8(k)) for k in range(n)]
        stem = folder / jobs[-1].stem
        frames[0].save(stem.with_suffix(".avif"), save_all=True, append_images=frames[1:], quality=90, speed=10)
        table = {
            "units": rng.random((n, 52)).astype(np.float16),
            "pose": np.zeros((n, 3), np.float32),
            "mouth_px": np.tile((np.array([90, 150, 160, 200]) * size_px // faces.SIZE_PX).astype(np.int16), (n, 1)),
            "lip_gap_mm": np.zeros(n, np.float32),
            "viseme": np.zeros(n, np.int8),
            "openness": np.zeros(n, np.float32),
        }
        save_file(table, stem.with_suffix(".safetensors"))
    faces.write_listing(folder, jobs, seed=0)
    return folder
