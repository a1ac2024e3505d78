"""A world where everything is linear: a mouth painted from the draft's own hidden layer, and an orthonormal 'VAE'."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kernels.project_latents.reference import ProjectionWeights
from specsync_lib.face.head.look import REFERENCE, STRANGER
from specsync_lib.face.head.mesh import unit_names
from workbench.train import latent_basis, latent_material
from workbench.train.latent_material import Film, Material, Speech

PX, HIDDEN = 32, 24
MOUTH = (slice(16, 24), slice(8, 24))  # two latent cells


def linear_draft(seed: int = 0) -> ProjectionWeights:
    """A small draft with random weights."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape, scale=1.0: scale * torch.randn(shape, generator=rng)  # noqa: E731
    return ProjectionWeights(
        band_pool=draw(80, 4, scale=0.1),
        w1=draw(72, HIDDEN, scale=0.2),
        b1=draw(HIDDEN, scale=0.1),
        w_viseme=draw(HIDDEN, 15),
        b_viseme=draw(15),
        temperature=torch.tensor(1.0),
        w_open=draw(HIDDEN, 1),
        b_open=draw(1),
    )


class PatchCoder:
    """4 frames x 8 x 8 px of grey in 16 orthonormal directions: the 4 quadrants of each of the 4 frames.

    A lone first frame counts as four. Exact both ways for pictures that are flat in every 4 x 4 px.
    """

    def encode(self, frames: np.ndarray) -> torch.Tensor:
        grey = np.concatenate([frames[:1].repeat(3, axis=0), frames]).mean(axis=3) / 127.5 - 1
        cells = torch.from_numpy(grey).float().view(-1, 4, PX // 8, 2, 4, PX // 8, 2, 4).mean(dim=(4, 7))
        return cells.permute(1, 3, 5, 0, 2, 4).flatten(0, 2) * 2  # [16, slots, h, w]; x 2: orthonormal up to a factor

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        batch, _, slots, h, w = latents.shape
        cells = (latents / 2).view(batch, 4, 2, 2, slots, h, w).permute(0, 4, 1, 5, 2, 6, 3)
        grey = cells.reshape(batch, 4 * slots, 2 * h, 2 * w).repeat_interleave(4, 2).repeat_interleave(4, 3)
        pictures = ((grey + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pictures[:, 3:, :, :, None].expand(-1, -1, -1, -1, 3).numpy()

    def still(self, picture: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        latents = self.encode(np.repeat(picture[None], 9, axis=0))
        return latents[:, -1], latents[:, 0]


def read_gaps(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """The lip reader of this world: how dark the mouth is, 10 mm at black."""
    frames = np.stack(list(pictures))
    return 10 * (200 - frames[:, MOUTH[0], MOUTH[1], 0].reshape(len(frames), -1).mean(axis=1).astype(np.float32)) / 200


def linear_material(draft: ProjectionWeights, *, moving_inside_slots: bool = False, seed: int = 0) -> Material:
    """Sentences of noise, and films whose mouth opens as the hidden layer says: per slot, or per frame."""
    rng, speech, films = np.random.default_rng(seed), {}, []
    direction = torch.from_numpy(rng.standard_normal(HIDDEN)).float()
    for split, count in (("train", 24), ("validation", 4), ("test", 5)):
        for k in range(count):
            slots = int(rng.integers(10, 16))
            rows = -(-slots * 4 * 100 // 30) + 10
            mel = np.cumsum(rng.standard_normal((rows, 80)), axis=0).astype(np.float32)
            mel -= np.linspace(0, 1, rows)[:, None] * mel[-1:]  # a bridge: it wanders and comes back
            one = Speech(f"{split}{k}", split, mel, np.zeros((4 * slots, 52), np.float32))
            drive = latent_basis.hidden_of(one, draft)[:, :-1] @ direction / HIDDEN**0.5
            if not moving_inside_slots:
                drive = drive.view(-1, 4).mean(dim=1).repeat_interleave(4)
            opening = (0.5 + 0.15 * drive).clamp(0, 1).numpy()
            units = one.units.copy()
            units[:, unit_names().index("jawOpen")] = opening
            speech[one.name] = replace(one, units=units)
            for identity in (REFERENCE, STRANGER) if split == "test" and k < 2 else (REFERENCE,):
                frames = np.full((1 + 4 * slots, PX, PX, 3), 200 if identity == REFERENCE else 180, np.uint8)
                shade = np.round(200 * (1 - opening)).astype(np.uint8)
                frames[1:, MOUTH[0], MOUTH[1]] = shade[:, None, None, None]
                frames[0, MOUTH[0], MOUTH[1]] = 100  # at rest half open: z0 lies amid the motion
                films.append(Film(one.name, split, identity, frames, 10 * opening))
    counts = {split: {"sentences": 4, "films": 4, "film_frames": 160} for split in latent_material.SPLITS}
    return Material(speech, films, {"seed": seed, "size_px": PX, "counts": counts, "sha256": "0" * 64})


def write_films(folder: Path, material: Material, names: tuple[str, ...], scale: int = 1) -> None:
    """Some sentences and their films on disk, as the builder leaves them, each pixel ``scale`` times as large."""
    films = [film for film in material.films if film.speech in names]
    for number, film in enumerate(films):
        pictures = [Image.fromarray(frame.repeat(scale, axis=0).repeat(scale, axis=1)) for frame in film.frames]
        path = folder / f"film_{number:03d}.avif"
        pictures[0].save(path, save_all=True, append_images=pictures[1:], **latent_material.AVIF_OPTIONS)
    gaps = {f"{number:03d}": film.gap_mm for number, film in enumerate(films)}
    listed = [(film.speech, film.split, film.identity) for film in films]
    speech = [material.speech[name] for name in names]
    latent_material.write(folder, speech, listed, gaps, {"seed": 0, "size_px": scale * PX})
