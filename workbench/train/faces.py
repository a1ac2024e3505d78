"""Face crops to train on: many people, skins, lights, poses and expressions, speaking human and synthetic sentences.

    python -m workbench.train.faces --out DIR --clips 140 --workers 2

Every head is one person in one light and one file of clips. Utterances and people are split: ``train``; ``validation``
(the reference person, utterances that training never hears); ``test`` (people and utterances that it never shows). The
command can be interrupted: heads already drawn are kept.

Files: ``corpus.json``; per head ``head_NNN.avif`` (all frames, AV1, 4:4:4) and ``head_NNN.safetensors`` (per frame: 52
ARKit units, pose, lip gap, mouth box, viseme, openness).
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from specsync_lib.errors import InputError
from specsync_lib.face.head.head import mouth_box_px
from specsync_lib.files import atomic_path, write_text
from specsync_lib.rows import PROMPTS
from specsync_lib.units import VIDEO_FPS
from workbench.asked import add_corpus

if TYPE_CHECKING:  # the trainer reads a corpus on machines without the head's and the aligner's packages
    from specsync_lib.face.head.head import Head
    from specsync_lib.face.head.look import Identity, Studio
    from specsync_lib.visemes import SyncPlan

SIZE_PX = 256
CLIP_FRAMES = 33  # 4k + 1: 9 slots
CLIPS_PER_HEAD = 4
AVIF_QUALITY, AVIF_SPEED = 90, 8  # 5 kB a frame, 43 dB, 6 ms
MANNERS = ("varied", "suite")
SPLITS = ("train", "validation", "test")
TEST_IDENTITIES = ("mei", "tobias")  # named people that training never sees
# Every n-th head validates, every n-th tests: (5, 7) also for who measures with it, fewer for a generator's own corpus.
HELD_OUT_EVERY = {"varied": (5, 7), "suite": (10, 12)}


@dataclass(frozen=True)
class HeadJob:
    """One person in one light, with the clips to be drawn.

    ``identity``: a named one, or "" for a person drawn from ``seed``; ``clips``: (utterance, its visemes, openness);
    ``manner``: "varied" (:func:`perform`, a close camera, light of its own) or "suite" (exactly as the suite's videos
    show a plan: ``face_tracks``, the square that :mod:`compositing` pastes, each clip's first frame at rest).
    """

    index: int
    split: str
    identity: str
    seed: int
    clips: tuple[tuple[str, tuple[int, ...], tuple[float, ...]], ...]
    manner: str = "varied"
    size_px: int = SIZE_PX

    @property
    def stem(self) -> str:
        return f"head_{self.index:03d}"


# --- what is drawn ----------------------------------------------------------------------------------------------------


def plan_jobs(clip_count: int, seed: int, manner: str = "varied", corpus: str = PROMPTS) -> list[HeadJob]:
    """Spread utterances over heads: seeded, human and synthetic speech alternating, each split with its own utterances.

    Raises
    ------
    InputError: the human corpus is absent, or fewer clips are asked than one head of each split needs.
    """
    from specsync_lib.face.head.look import IDENTITIES

    heads = -(-clip_count // CLIPS_PER_HEAD)
    validation_every, test_every = HELD_OUT_EVERY[manner]
    if heads < test_every:
        raise InputError(f"face corpus: {clip_count} clips; give at least {test_every * CLIPS_PER_HEAD} for all splits")
    rng = np.random.default_rng(seed)
    known = [name for name in IDENTITIES if name not in TEST_IDENTITIES]
    counters, jobs = dict.fromkeys(SPLITS, 0), []
    stretches = {split: _stretches(split, rng, corpus) for split in SPLITS}
    for index in range(heads):
        if index % test_every == test_every - 1:
            split, names = "test", (*TEST_IDENTITIES, "", "")
        elif index % validation_every == validation_every - 1:
            split, names = "validation", ("reference",)
        else:
            # "reference" is the one the suite shows, so it comes often; most others are people of their own
            other = known[1 + counters["train"] % (len(known) - 1)]
            suite = ("reference", "", "reference", other)
            split, names = "train", suite if manner == "suite" else ("", "reference", "", "", other, "")
        name = names[counters[split] % len(names)]
        counters[split] += 1
        clips = tuple(next(stretches[split]) for _ in range(CLIPS_PER_HEAD))
        jobs.append(HeadJob(index, split, name, seed * 1000 + index, clips, manner))
    return jobs


def write_jobs(path: Path, jobs: list[HeadJob]) -> None:
    """Keep what is to be drawn, for a machine that has the face model but neither speech nor its aligner."""
    write_text(path, json.dumps([asdict(job) for job in jobs]))


def read_jobs(path: Path) -> list[HeadJob]:
    """The inverse of :func:`write_jobs`.

    Raises
    ------
    InputError: the file is not one of ours.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        for row in rows:
            row["clips"] = tuple((name, tuple(visemes), tuple(openness)) for name, visemes, openness in row["clips"])
        jobs = [HeadJob(**row) for row in rows]
        if not jobs:
            raise ValueError("it is empty")
        return jobs
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: no list of jobs ({error}); write it with --write-jobs") from error


def _stretches(
    split: str, rng: np.random.Generator, said: str = PROMPTS
) -> Iterator[tuple[str, tuple[int, ...], tuple[float, ...]]]:
    """Endless stretches of ``CLIP_FRAMES`` of a split's utterances, preferring those that were not used yet."""
    from specsync_lib.speech import corpus
    from specsync_lib.speech.alignment import plan_from_phones

    sources = [(prompt.name, partial(corpus.aligned, prompt)) for prompt in corpus.prompts_of(said, split)]
    if split == "train":  # the synthetic voice says few sentences: all go to one side
        for clip in corpus.clips():
            frames = int(clip.phones[-1].end_s * VIDEO_FPS)
            sources.append((clip.name, partial(plan_from_phones, clip.phones, frames)))
    while True:
        for k in rng.permutation(len(sources)):
            name, plan_of = sources[k]
            plan = plan_of()
            if len(plan) >= CLIP_FRAMES:
                start = int(rng.integers(0, len(plan) - CLIP_FRAMES + 1))
                part = slice(start, start + CLIP_FRAMES)
                yield name, tuple(plan.visemes[part].tolist()), tuple(plan.openness[part].tolist())


def draw_person(rng: np.random.Generator) -> "Identity":
    """An identity nobody named: build, age, face shape, skin, hair, eyes and clothes at random."""
    from specsync_lib.face.head.look import IDENTITIES, Identity, Skin

    looks = list(IDENTITIES.values())
    origin = dict(zip(("african", "asian", "caucasian"), rng.dirichlet([0.6, 0.6, 0.6]).tolist(), strict=True))
    build = {"gender": float(rng.choice([rng.uniform(0, 0.15), rng.uniform(0.85, 1)])), "age": rng.uniform(0.42, 0.75)}
    build |= {name: rng.uniform(0.35, 0.7) for name in ("muscle", "weight", "proportions")}
    sliders = ("chin-width-incr", "chin-height-incr", "chin-prominent-incr", "mouth-scale-horiz-incr", "head-fat-incr")
    sliders += ("mouth-upperlip-volume-incr", "mouth-lowerlip-volume-incr", "nose-scale-horiz-incr", "nose-hump-incr")
    sliders += ("nose-volume-incr", "head-scale-horiz-incr", "mouth-cupidsbow-incr", "eyebrows-trans-up")
    shape = {name: float(rng.uniform(-0.35, 0.35)) for name in sliders}
    a, b = rng.choice(len(looks), 2, replace=False)
    share = rng.random()
    mixed = {
        key: _mix(getattr(looks[a].skin, key), getattr(looks[b].skin, key), share)
        for key in ("base", "blush", "lips", "shade")
    }
    male = build["gender"] < 0.5
    skin = Skin(
        **mixed, freckles=rng.uniform(0, 0.8), stubble=rng.uniform(0, 0.7) if male else 0.0, shine=rng.uniform(0.8, 1.4)
    )
    hair, brow = rng.choice(len(looks)), rng.choice(len(looks))
    return Identity(
        phenotype=origin | {name: float(value) for name, value in build.items()},
        shape=shape,
        skin=skin,
        hair=looks[hair].hair,
        hair_style=str(rng.choice(["short", "shaved", "back"] if male else ["back", "back", "short"])),
        brow=looks[brow].brow,
        brow_weight=rng.uniform(0.8, 1.5),
        iris=looks[rng.choice(len(looks))].iris,
        garment="#" + "".join(f"{value:02x}" for value in rng.integers(25, 150, 3)),
    )


def _mix(a: str, b: str, share: float) -> str:
    """The sRGB hex colour between two."""
    pairs = [(int(a[k : k + 2], 16), int(b[k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(x + share * (y - x)):02x}" for x, y in pairs)


def draw_studio(rng: np.random.Generator) -> "Studio":
    """One of the named studios with its lamps moved and dimmed at random."""
    from dataclasses import replace

    from specsync_lib.face.head.look import STUDIOS

    studio = STUDIOS[str(rng.choice(list(STUDIOS)))]
    lamps = tuple(
        replace(
            lamp,
            direction=tuple(np.asarray(lamp.direction) + rng.normal(0, 0.12, 3)),
            strength=lamp.strength * rng.uniform(0.8, 1.2),
        )
        for lamp in studio.lamps
    )
    return replace(
        studio,
        lamps=lamps,
        ambient=studio.ambient * rng.uniform(0.85, 1.2),
        exposure=studio.exposure * rng.uniform(0.9, 1.1),
    )


def perform(plan: "SyncPlan", rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How a person says a stretch of a plan: ARKit units [frames, 52] and pose [frames, 3] (yaw, pitch, roll; radians).

    Wider than what the suite shows, because a generator and a lip reader must have seen more than they will meet: weak
    to strong articulation, moods, blinks, gaze, head motion, mouths that move without speech.
    """
    from scipy.ndimage import gaussian_filter1d

    from specsync_lib.face.head.mesh import unit_names
    from specsync_lib.face.head.motion import face_tracks

    names, frames = unit_names(), len(plan)
    units = face_tracks(plan, still=True).units * rng.uniform(0.8, 1.25)

    def add(weight: np.ndarray | float, *labels: str) -> None:
        for label in labels:
            for name in (label,) if label in names else (f"{label}Left", f"{label}Right"):
                units[:, names.index(name)] += weight

    def wander(scale: float, slowness: float) -> np.ndarray:
        walk = gaussian_filter1d(rng.standard_normal(frames + 8 * int(slowness)), slowness)[4 * int(slowness) :][
            :frames
        ]
        return scale * walk * (2 * slowness) ** 0.5

    mood = rng.choice(["calm", "smile", "frown", "surprise", "doubt"], p=[0.4, 0.25, 0.1, 0.15, 0.1])
    strength = rng.uniform(0.1, 0.6)
    labels = {
        "calm": (),
        "smile": ("mouthSmile", "cheekSquint"),
        "frown": ("browDown", "mouthFrown"),
        "surprise": ("browInnerUp", "browOuterUp", "eyeWide"),
        "doubt": ("browInnerUp", "mouthPress"),
    }[mood]
    add(np.clip(strength + wander(0.1, 6), 0, 0.7), *labels)
    blink = np.zeros(frames)
    for start in rng.integers(0, frames, rng.integers(0, 3)):
        blink = np.maximum(blink, np.interp(np.arange(frames) - start, [-2, 0, 1, 4], [0, 1, 1, 0]))
    add(blink, "eyeBlink")
    side, height = rng.normal(0, 0.25) + wander(0.1, 4), rng.normal(0, 0.15) + wander(0.08, 4)
    add(np.maximum(side, 0), "eyeLookOutLeft", "eyeLookInRight")
    add(np.maximum(-side, 0), "eyeLookInLeft", "eyeLookOutRight")
    add(np.maximum(height, 0), "eyeLookUp")
    add(np.maximum(-height, 0), "eyeLookDown")
    if rng.random() < 0.3:  # mouths also move without speech
        add(
            np.clip(wander(0.35, 4), 0, 0.8), str(rng.choice(["jawOpen", "mouthPucker", "mouthFunnel", "mouthStretch"]))
        )
    pose = np.stack([wander(0.10, 8), wander(0.06, 7), wander(0.04, 8)], axis=1) + rng.normal(0, [0.12, 0.05, 0.03])
    return units.clip(0, 1).astype(np.float32), pose.clip(-0.4, 0.4).astype(np.float32)


# --- drawing ----------------------------------------------------------------------------------------------------------


def crop_head(job: HeadJob) -> "Head":
    """The head of a job, ready to be drawn."""
    from specsync_lib.face.head.head import Head
    from specsync_lib.face.head.look import IDENTITIES, STUDIOS
    from specsync_lib.units import VIDEO_HEIGHT_PX, VIDEO_WIDTH_PX

    rng = np.random.default_rng([job.seed, 0])
    identity = IDENTITIES[job.identity] if job.identity else draw_person(rng)
    if job.manner == "suite":  # a named person looks as in every video: its own pores, strands and light
        seed, studio = (0, "studio") if job.identity else (job.seed, str(rng.choice(list(STUDIOS))))
        return Head(identity, (VIDEO_WIDTH_PX, VIDEO_HEIGHT_PX), seed, studio=studio, threads=1)
    return Head(identity, (job.size_px, job.size_px), job.seed, studio=draw_studio(rng), camera="face", threads=1)


def perform_as_the_suite(plan: "SyncPlan", seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Units [frames, 52] and pose [frames, 3] of a plan as the suite's videos show it, the first frame at rest."""
    from specsync_lib.face.head.motion import face_tracks

    tracks = face_tracks(plan, seed)
    units, pose = tracks.units.copy(), tracks.pose.copy()
    units[0], pose[0] = 0, 0
    return units, pose


def shot(
    head: "Head", manner: str, units: np.ndarray, pose: np.ndarray, size_px: int = SIZE_PX
) -> tuple[np.ndarray, np.ndarray]:
    """A drawn frame [size, size, 3] and its mouth's box [4]."""
    picture, box = head.render(units, pose), mouth_box_px(head, units, pose)
    if manner == "suite":
        from specsync_lib.face.compositing import FACE_BOX, cut

        scale = size_px / FACE_BOX.side
        corners = (box - np.array([FACE_BOX.left, FACE_BOX.top] * 2)) * scale
        box = np.concatenate([np.floor(corners[:2]), np.ceil(corners[2:])]).clip(0, size_px).astype(np.int16)
        picture = cut(picture, FACE_BOX, size_px)
    return picture, box


def draw_head(job: HeadJob, out: Path) -> None:
    """Draw all clips of a job into its two files; nothing when they are there."""
    from PIL import Image

    from specsync_lib.visemes import SyncPlan

    if (out / f"{job.stem}.safetensors").is_file():
        return
    head, frames, columns = crop_head(job), [], []
    for number, (_, visemes, openness) in enumerate(job.clips):
        plan = SyncPlan(np.array(visemes), np.array(openness))
        if job.manner == "suite":
            units, pose = perform_as_the_suite(plan, CLIPS_PER_HEAD * job.seed + number)
        else:
            units, pose = perform(plan, np.random.default_rng([job.seed, 1 + number]))
        for k in range(len(units)):
            picture, box = shot(head, job.manner, units[k], pose[k], job.size_px)
            frames.append(Image.fromarray(picture))
            columns.append(
                (
                    units[k],
                    pose[k],
                    box,
                    head.lip_aperture(units[k]),
                    visemes[k],
                    openness[k],
                )
            )
    head.close()
    with atomic_path(out / f"{job.stem}.avif") as temporary:
        # one quality for all frames, full colour resolution
        options = {"quality": AVIF_QUALITY, "speed": AVIF_SPEED, "subsampling": "4:4:4", "max_threads": 1}
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=1000 // VIDEO_FPS, **options)
    types = (np.float16, np.float32, np.int16, np.float32, np.int8, np.float32)
    names = ("units", "pose", "mouth_px", "lip_gap_mm", "viseme", "openness")
    arrays = [np.array(column, dtype) for column, dtype in zip(zip(*columns, strict=True), types, strict=True)]
    with atomic_path(out / f"{job.stem}.safetensors") as temporary:
        save_file(dict(zip(names, arrays, strict=True)), temporary)


def build(out: Path, jobs: list[HeadJob], workers: int, seed: int) -> dict:
    """Draw what is missing, then write ``corpus.json``; returns its content."""
    from tqdm.auto import tqdm

    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        list(tqdm(pool.map(partial(draw_head, out=out), jobs), total=len(jobs), desc="heads", unit="head"))
    return write_listing(out, jobs, seed)


def write_listing(out: Path, jobs: list[HeadJob], seed: int) -> dict:
    """``corpus.json`` over the heads that are there (all of them, unless drawing was cut short)."""
    heads = []
    for job in jobs:
        files = [out / f"{job.stem}{suffix}" for suffix in (".avif", ".safetensors")]
        if all(path.is_file() for path in files):
            row = {key: value for key, value in asdict(job).items() if key != "clips"}
            hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
            heads.append(row | {"utterances": [clip[0] for clip in job.clips], "sha256": hashes})
    listing = {"size_px": jobs[0].size_px, "fps": VIDEO_FPS, "clip_frames": CLIP_FRAMES, "seed": seed, "heads": heads}
    write_text(out / "corpus.json", json.dumps(listing, indent=1))
    return listing


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FaceCorpus:
    """All frames in memory, clips one after the other.

    Attributes
    ----------
    frames : ndarray [n, size, size, 3] uint8
    units, pose, mouth_px, lip_gap_mm, viseme, openness : ndarray [n, ...]
        Per frame; ``mouth_px`` is the lips' box with a margin: left, top, right, bottom.
    clip_start, clip_frames : ndarray [clips] int64
    clip_split, names : list of str
        "head/utterance" of each clip.
    facts : dict
        What a model card says about the corpus.
    """

    frames: np.ndarray
    units: np.ndarray
    pose: np.ndarray
    mouth_px: np.ndarray
    lip_gap_mm: np.ndarray
    viseme: np.ndarray
    openness: np.ndarray
    clip_start: np.ndarray
    clip_frames: np.ndarray
    clip_split: list[str]
    names: list[str]
    facts: dict

    @property
    def size_px(self) -> int:
        return self.frames.shape[1]

    def clips_of(self, split: str) -> np.ndarray:
        """Indices of a split's clips, people alternating.

        Raises
        ------
        InputError: there are none.
        """
        found = [k for k, value in enumerate(self.clip_split) if value == split]
        if not found:
            raise InputError(f"face corpus: no clip of split {split!r}; draw more clips")
        heads = [self.names[k].split("/")[0] for k in found]
        turn = [heads[:k].count(head) for k, head in enumerate(heads)]
        return np.array([k for _, k in sorted(zip(turn, found, strict=True))])


def load_corpus(folder: str | Path) -> FaceCorpus:
    """Read and decode a corpus that this module wrote.

    Raises
    ------
    InputError: a file is absent, changed or holds another number of frames than it should.
    """
    folder = Path(folder)
    try:
        listing = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'corpus.json'}: not readable; run python -m workbench.train.faces") from error
    heads = listing["heads"]
    with ThreadPoolExecutor() as pool:
        frames = list(pool.map(lambda head: _read_frames(folder, head, listing), heads))
    tables = [load_file(folder / f"head_{head['index']:03d}.safetensors") for head in heads]
    columns = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
    per_clip = [(f"head_{head['index']:03d}/{name}", head["split"]) for head in heads for name in head["utterances"]]
    count = len(per_clip)
    facts = {
        "frames": sum(map(len, frames)),
        "heads": len(heads),
        "seed": listing["seed"],
        "clips": {split: sum(value == split for _, value in per_clip) for split in SPLITS},
        "sha256": hashlib.sha256((folder / "corpus.json").read_bytes()).hexdigest(),
        "rest_first": all(head.get("manner") == "suite" for head in heads),
    }
    return FaceCorpus(
        frames=np.concatenate(frames),
        units=columns["units"].astype(np.float32),
        **{key: columns[key] for key in ("pose", "lip_gap_mm", "viseme", "openness")},
        mouth_px=columns["mouth_px"].astype(np.int64),
        clip_start=np.arange(count) * listing["clip_frames"],
        clip_frames=np.full(count, listing["clip_frames"]),
        clip_split=[split for _, split in per_clip],
        names=[name for name, _ in per_clip],
        facts=facts,
    )


def load_corpora(folders: Sequence[str | Path]) -> FaceCorpus:
    """Several corpora as one; the names of heads then begin with their folder's number."""
    parts = [load_corpus(folder) for folder in folders]
    if len(parts) == 1:
        return parts[0]
    if len({part.size_px for part in parts}) > 1:
        raise InputError(f"face corpora of {[part.size_px for part in parts]} px; give corpora of one size")
    shifts = np.cumsum([0] + [len(part.frames) for part in parts[:-1]])
    arrays = ("frames", "units", "pose", "mouth_px", "lip_gap_mm", "viseme", "openness", "clip_frames")
    facts = [part.facts for part in parts]
    return FaceCorpus(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays},
        clip_start=np.concatenate([part.clip_start + shift for part, shift in zip(parts, shifts, strict=True)]),
        clip_split=[split for part in parts for split in part.clip_split],
        names=[f"{k}-{name}" for k, part in enumerate(parts) for name in part.names],
        facts={
            "frames": sum(fact["frames"] for fact in facts),
            "heads": sum(fact["heads"] for fact in facts),
            "seed": facts[0]["seed"],
            "clips": {split: sum(fact["clips"][split] for fact in facts) for split in SPLITS},
            "sha256": hashlib.sha256("".join(fact["sha256"] for fact in facts).encode()).hexdigest(),
            "rest_first": all(fact["rest_first"] for fact in facts),
        },
    )


def _read_frames(folder: Path, head: dict, listing: dict) -> np.ndarray:
    """The decoded frames [n, size, size, 3] of one head, its files checked first."""
    from PIL import Image, ImageSequence

    for name, digest in head["sha256"].items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise InputError(f"{path}: absent or changed since it was drawn; run python -m workbench.train.faces")
    path = folder / f"head_{head['index']:03d}.avif"
    with Image.open(path) as image:
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
    expected = len(head["utterances"]) * listing["clip_frames"]
    if frames.shape != (expected, listing["size_px"], listing["size_px"], 3):
        raise InputError(
            f"{path}: frames {frames.shape}, expected {expected} of {listing['size_px']} px; draw it again"
        )
    return frames


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.faces", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clips", type=int, default=140, help=f"clips of {CLIP_FRAMES} frames")
    parser.add_argument("--manner", choices=MANNERS, default="varied", help="suite: as the suite's own videos")
    parser.add_argument("--size-px", type=int, default=SIZE_PX, help="side of the pictures")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    add_corpus(parser)
    parser.add_argument("--write-jobs", type=Path, metavar="FILE", help="only write what would be drawn")
    parser.add_argument("--jobs", type=Path, metavar="FILE", help="draw what such a file says (no speech needed)")
    given = parser.parse_args(arguments)
    try:
        if given.jobs:
            jobs = read_jobs(given.jobs)
        else:
            jobs = plan_jobs(given.clips, given.seed, given.manner, given.corpus)
            jobs = [replace(job, size_px=given.size_px) for job in jobs]
        if given.write_jobs:
            write_jobs(given.write_jobs, jobs)
            print(f"{len(jobs)} heads, {sum(len(job.clips) for job in jobs)} clips to draw")
            return 0
        if given.out is None:
            raise InputError("face corpus: give --out, the folder to draw into")
        listing = build(given.out, jobs, given.workers, jobs[0].seed // 1000)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    size = sum(path.stat().st_size for path in given.out.iterdir()) / 2**20
    print(
        f"{len(listing['heads'])} heads, {len(listing['heads']) * CLIPS_PER_HEAD * CLIP_FRAMES} frames, {size:.1f} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
