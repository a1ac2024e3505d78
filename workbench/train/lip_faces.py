"""Mouths to train the lip reader on: many people, few frames each, mouths far beyond speech.

    python -m workbench.train.lip_faces --out DIR --people 300 --workers 2

For reading lips, people matter more than clips: every person is another face shape, skin and light, and stands for 24
mouths, half of them spoken, half drawn at random. People are split; no face is in two splits. The command can be
interrupted: people already drawn are kept.

Files: ``person_NNNN.avif`` (pictures cut around mouth and chin), ``person_NNNN.safetensors`` (targets, head pose) and
``people.json``.
"""

import argparse
import hashlib
import json
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_text
from specsync_lib.measures import lip_reader
from specsync_lib.measures.lip_reader import PICTURE_MM, PICTURE_PX
from specsync_lib.units import VISEMES
from workbench.train import faces

if TYPE_CHECKING:
    from specsync_lib.face.head.head import Head

FRAMES_PER_PERSON = 24
# left, top, right, bottom of what is kept of a picture: what the reader sees, and room to shift it
KEPT_PX = (24, 60, 232, 256)
SPLITS = ("train", "validation", "test")
VALIDATION_EVERY, TEST_EVERY = 12, 8


@dataclass(frozen=True)
class Person:
    """One face to draw: ``identity`` names one of the suite's people, or is "" for one drawn from the seed."""

    index: int
    split: str
    identity: str
    seed: int

    @property
    def files(self) -> tuple[str, str]:
        """Pictures and table."""
        return f"person_{self.index:04d}.avif", f"person_{self.index:04d}.safetensors"


def plan_people(count: int, seed: int) -> list[Person]:
    """Who is drawn: one in eight tests, one in twelve validates; the suite's own people come first.

    Raises
    ------
    InputError: too few for every split.
    """
    from specsync_lib.face.head.look import IDENTITIES

    named = list(IDENTITIES)
    if count < len(named) + TEST_EVERY + VALIDATION_EVERY:
        raise InputError(f"lip faces: {count} people; give at least {len(named) + TEST_EVERY + VALIDATION_EVERY}")
    people = []
    for index in range(count):
        name = named[index] if index < len(named) else ""
        if name:
            split = "test" if name in faces.TEST_IDENTITIES else "train"
        elif index % TEST_EVERY == TEST_EVERY - 1:
            split = "test"
        else:
            split = "validation" if index % VALIDATION_EVERY == VALIDATION_EVERY - 1 else "train"
        people.append(Person(index, split, name, 1_000_000 + 10_000 * seed + index))
    return people


def random_mouths(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ARKit units [count, 52] and poses [count, 3]: the first half spoken, the second half anything a mouth can do."""
    from specsync_lib.face.head.mesh import unit_names
    from specsync_lib.visemes import SyncPlan, openness_of

    spoken = count // 2
    lengths = rng.integers(2, 6, 3 * spoken)
    # silence and closed lips as often as in speech
    often = np.array([{"sil": 4, "PP": 3, "FF": 2}.get(name, 1) for name in VISEMES], float)
    visemes = rng.choice(len(VISEMES), len(lengths), p=often / often.sum())
    visemes = np.repeat(visemes, lengths)[: 3 * spoken].astype(np.int8)
    units, pose = faces.perform(SyncPlan(visemes, openness_of(visemes)), rng)
    kept = np.concatenate([np.arange(spoken) * 3, rng.integers(0, 3 * spoken, count - spoken)])
    units, pose = units[kept].copy(), pose[kept].copy()
    names = unit_names()
    mouth = [names.index(name) for name in names if name.startswith(("mouth", "jaw", "tongue"))]

    def put(row: int, weight: float, name: str) -> None:
        for full in (name,) if name in names else (f"{name}Left", f"{name}Right"):
            units[row, names.index(full)] = np.clip(weight, 0, 1)

    for row in range(spoken, count):
        units[row, mouth] *= rng.choice([0.0, 0.5], p=[0.7, 0.3])
        shut = rng.random() < 0.25
        put(row, 0.0 if shut else rng.uniform(0, 0.7), "jawOpen")
        moving = {name: most for name, most in RANDOM_UNITS.items() if not (shut and name in OPENING_UNITS)}
        for name in rng.choice(list(moving), rng.integers(0, 5), replace=False):
            put(row, rng.uniform(0, moving[name]), name)
        pose[row] = rng.normal(0, [0.14, 0.07, 0.05]).clip(-0.4, 0.4)
    return units, pose


# Units that move the mouth, with the largest weight that still looks like one.
RANDOM_UNITS = {
    "mouthFunnel": 0.8, "mouthPucker": 0.9, "mouthPress": 0.6, "mouthRollLower": 0.7, "mouthRollUpper": 0.6,
    "mouthUpperUp": 0.7, "mouthLowerDown": 0.7, "mouthStretch": 0.7, "mouthSmile": 0.8, "mouthFrown": 0.6,
    "tongueOut": 0.7, "mouthClose": 0.3, "mouthShrugLower": 0.5, "mouthShrugUpper": 0.5, "mouthDimple": 0.5,
    "jawForward": 0.4, "jawLeft": 0.3, "jawRight": 0.3, "mouthLeft": 0.3, "mouthRight": 0.3, "cheekPuff": 0.5,
}  # fmt: skip
OPENING_UNITS = {"mouthFunnel", "mouthUpperUp", "mouthLowerDown", "tongueOut"}  # these part the lips by themselves


def mouth_width_mm(head: "Head", units: np.ndarray) -> float:
    """Distance between the corners of the mouth, head upright."""
    lips = np.flatnonzero(head._lip_shine[:, 0] > 0.5 * head._lip_shine.max())
    across = head._canonical[lips, 0]
    points = head.vertices(units)[lips]
    right, left = (points[side].mean(axis=0) for side in (across < 0.93 * across.min(), across > 0.93 * across.max()))
    return float(1000 * np.linalg.norm(left - right))


def targets_of(head: "Head", units: np.ndarray) -> np.ndarray:
    """The reader's targets [13] of a face, in the order of ``lip_reader.TARGETS``.

    Raises
    ------
    ValueError: the lips have moved so far aside that the head finds no gap to measure.
    """
    from specsync_lib.face.head.mesh import unit_names

    lengths = np.array([head.lip_aperture(units), mouth_width_mm(head, units)]) / PICTURE_MM
    return np.concatenate([lengths, lip_reader.targets_of_units(units, unit_names())]).astype(np.float32)


def draw_person(person: Person, out: Path) -> None:
    """Draw one face's mouths into its file; nothing when it is there."""
    from specsync_lib.face.head.head import Head
    from specsync_lib.face.head.look import IDENTITIES

    if (out / person.files[1]).is_file():
        return
    rng = np.random.default_rng([person.seed, 0])
    identity = IDENTITIES[person.identity] if person.identity else faces.draw_person(rng)
    studio = faces.draw_studio(rng)
    left, top, right, bottom = KEPT_PX
    rows = []
    with Head(identity, (PICTURE_PX, PICTURE_PX), person.seed, studio=studio, camera="face", threads=1) as head:
        while len(rows) < FRAMES_PER_PERSON:
            for units, pose in zip(*random_mouths(FRAMES_PER_PERSON, rng), strict=True):
                try:
                    targets = targets_of(head, units)
                except ValueError:  # another mouth is drawn in its place
                    continue
                rows.append((head.render(units, pose)[top:bottom, left:right], targets, pose))
    write_person(person, out, *(np.stack(column) for column in zip(*rows[:FRAMES_PER_PERSON], strict=True)))


def write_person(person: Person, out: Path, crops: np.ndarray, targets: np.ndarray, pose: np.ndarray) -> None:
    """One person's pictures [n, h, w, 3] uint8, targets [n, 13] and head pose [n, 3] as files; the table comes last."""
    from PIL import Image

    pictures, table = (out / name for name in person.files)
    frames = [Image.fromarray(crop) for crop in crops]
    with atomic_path(pictures) as temporary:
        options = {"quality": faces.AVIF_QUALITY, "speed": faces.AVIF_SPEED, "subsampling": "4:4:4"}
        frames[0].save(temporary, save_all=True, append_images=frames[1:], max_threads=1, **options)
    with atomic_path(table) as temporary:
        save_file({"targets": targets.astype(np.float32), "pose": pose.astype(np.float32)}, temporary)


def build(out: Path, count: int, workers: int, seed: int) -> dict:
    """Draw what is missing, then write ``people.json``; returns its content."""
    from tqdm.auto import tqdm

    out.mkdir(parents=True, exist_ok=True)
    people = plan_people(count, seed)
    with ProcessPoolExecutor(workers) as pool:
        list(tqdm(pool.map(partial(draw_person, out=out), people), total=count, desc="people", unit="person"))
    return write_listing(out, people, seed)


def write_listing(out: Path, people: list[Person], seed: int) -> dict:
    """``people.json`` over drawn people; returns its content."""
    rows = [{**vars(person), "sha256": {name: digest(out / name) for name in person.files}} for person in people]
    listing = {"seed": seed, "people": rows}
    write_text(out / "people.json", json.dumps(listing, indent=1))
    return listing


def digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class LipFaces:
    """All mouths in memory.

    crops: [n, h, w, 3] uint8; targets: [n, 13] float32; person: [n] int; split: [n] of its name; facts: for the card.
    """

    crops: np.ndarray
    targets: np.ndarray
    person: np.ndarray
    split: np.ndarray
    facts: dict


def load(folder: str | Path) -> LipFaces:
    """Read what :func:`build` wrote.

    Raises
    ------
    InputError: a file is absent or changed.
    """
    folder = Path(folder)
    try:
        listing = json.loads((folder / "people.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'people.json'}: not readable; run python -m workbench.train.lip_faces") from error
    people = listing["people"]
    for row in people:
        for name, expected in row["sha256"].items():
            if not (folder / name).is_file() or digest(folder / name) != expected:
                raise InputError(f"{folder / name}: absent or changed since it was drawn; draw the people again")
    files = [Person(*(row[key] for key in ("index", "split", "identity", "seed"))).files for row in people]
    with ThreadPoolExecutor() as pool:
        crops = list(pool.map(lambda names: _read_crops(folder / names[0]), files))
    tables = [load_file(folder / names[1]) for names in files]
    lengths = [len(table["targets"]) for table in tables]
    split = np.repeat([row["split"] for row in people], lengths)
    return LipFaces(
        crops=np.concatenate(crops),
        targets=np.concatenate([table["targets"] for table in tables]),
        person=np.repeat([row["index"] for row in people], lengths),
        split=split,
        facts={
            "seed": listing["seed"],
            "people": {name: sum(row["split"] == name for row in people) for name in SPLITS},
            "frames": {name: int((split == name).sum()) for name in SPLITS},
            "sha256": digest(folder / "people.json"),
        },
    )


def _read_crops(path: Path) -> np.ndarray:
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.lip_faces", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        listing = build(given.out, given.people, given.workers, given.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    print(f"{len(listing['people'])} people, {len(listing['people']) * FRAMES_PER_PERSON} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
