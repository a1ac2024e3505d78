"""What the latent basis is fitted on and tested with: what the draft hears, and still heads that say it.

    python -m workbench.train.latent_material --out DIR

*Speech* is sound as the draft hears it, with the face units of its truth. *Films* are its renders, the square that
:mod:`compositing` pastes: one picture of the resting face, then the sentence, with the head still, so that the mouth is
all that moves. Lips are read with the resting picture around a film (``around_WHO.png``), as in the video. Fitting
takes the training split alone (human prompts, and the shipped synthetic clips); settings are chosen on validation; the
claim is tested on sentences of the test split, spoken by the reference person and by one that training never sees.

Files: ``material.json``; ``speech.safetensors``; per film ``film_NNN.avif``; ``films.safetensors`` (lip gaps in mm);
per person ``around_WHO.png``.
The command can be interrupted: films already drawn are kept. A machine without the head's and the aligner's packages
can read what another drew.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from specsync_lib.errors import InputError
from specsync_lib.face.compositing import FACE_BOX, Box, composite, cut, inside, reader_box
from specsync_lib.face.head.look import REFERENCE, STRANGER
from specsync_lib.files import atomic_path, write_text
from specsync_lib.rows import PROMPTS
from specsync_lib.units import (
    FRAMES_PER_SLOT,
    SAMPLE_RATE_HZ,
    VIDEO_FPS,
    VIDEO_HEIGHT_PX,
    VIDEO_WIDTH_PX,
    VISEMES,
)
from workbench.asked import add_corpus

FRAME_PX = (VIDEO_WIDTH_PX, VIDEO_HEIGHT_PX)
SIZE_PX = 256
SPLITS = ("train", "validation", "test")
SHORTEST_SECONDS = 1.5
MAX_SILENCE = 0.3  # of a test film: a mouth at rest says nothing about sync
AVIF_OPTIONS = {"quality": 90, "speed": 8, "subsampling": "4:4:4", "max_threads": 1}  # as the face corpus
LOOK_AHEAD_SAMPLES = SAMPLE_RATE_HZ // 10  # of silence after the end: more than the draft's window looks ahead


@dataclass(frozen=True)
class Amounts:
    """How much is drawn; the defaults take 10 minutes on 2 cores."""

    train_frames: int = 1800
    validation_frames: int = 300
    test_utterances: int = 20
    stranger_utterances: int = 6
    longest_seconds: float = 6.0  # of a film: shorter ones make more sentences of as many frames
    size_px: int = SIZE_PX


@dataclass(frozen=True)
class Speech:
    """A sentence of whole slots: the draft's normalised log-mel [rows, 80], truth's face units [frames, 52]."""

    name: str
    split: str
    mel: np.ndarray
    units: np.ndarray

    @property
    def slots(self) -> int:
        return len(self.units) // FRAMES_PER_SLOT


@dataclass(frozen=True)
class Film:
    """A sentence on a still head: frames [1 + 4 slots, px, px, 3] uint8, the first at rest; lip gap [4 slots] in mm."""

    speech: str
    split: str
    identity: str
    frames: np.ndarray
    gap_mm: np.ndarray


@dataclass(frozen=True)
class Material:
    """All speech by name, the films, and what a model card says about them.

    ``around``: of each person at rest, the square picture that the lip reader looks at; ``inner``: where a film's
    pictures lie in it. Without them films are such squares themselves.
    """

    speech: dict[str, Speech]
    films: list[Film]
    facts: dict
    around: dict[str, np.ndarray] = field(default_factory=dict)
    inner: Box | None = None

    def seen(self, identity: str, frames: np.ndarray) -> Iterator[np.ndarray]:
        """A film's pictures [n, px, px, 3] as the lip reader wants them."""
        if self.inner is None:
            yield from frames
        else:
            yield from (composite(self.around[identity], frame, self.inner) for frame in frames)

    def films_of(self, split: str, identity: str = REFERENCE) -> list[Film]:
        """The films of a split with one person.

        Raises
        ------
        InputError: there are none.
        """
        found = [film for film in self.films if (film.split, film.identity) == (split, identity)]
        if not found:
            raise InputError(f"latent material: no film of split {split!r} with {identity!r}; draw more")
        return found

    def speech_of(self, split: str) -> list[Speech]:
        """All sentences of a split, films or not."""
        return [speech for speech in self.speech.values() if speech.split == split]


# --- what is said -----------------------------------------------------------------------------------------------------


def gather_speech(said: str = PROMPTS) -> tuple[list[Speech], dict[str, float]]:
    """Every sentence of the corpus and the shipped clips, cut to whole slots; and each one's share of silence."""
    from specsync_lib.draft.plan import normalise
    from specsync_lib.face.head.motion import face_tracks
    from specsync_lib.speech import corpus
    from specsync_lib.speech.audio import load_audio
    from specsync_lib.speech.log_mel import log_mel

    prompts = [*corpus.prompts_of(said)]
    prompts += [corpus.Prompt(clip.name, clip.transcript, clip.path, "train") for clip in corpus.clips()]
    gathered, silence = [], {}
    for prompt in prompts:
        plan = corpus.aligned(prompt)
        frames = len(plan) // FRAMES_PER_SLOT * FRAMES_PER_SLOT
        if frames == 0:
            continue
        samples = np.pad(load_audio(prompt.path).samples, (0, LOOK_AHEAD_SAMPLES))
        units = face_tracks(plan, still=True).units[:frames]
        gathered.append(Speech(prompt.name, prompt.split, normalise(log_mel(samples)), units))
        silence[prompt.name] = float((plan.visemes == VISEMES.index("sil")).mean())
    return gathered, silence


def choose_films(
    speech: list[Speech], silence: dict[str, float], amounts: Amounts, rng: np.random.Generator
) -> list[tuple[str, str, str]]:
    """Seeded choice of sentences to film: (name, split, identity).

    Raises
    ------
    InputError: the corpus holds too few sentences of the right length.
    """
    shortest, longest = (seconds * VIDEO_FPS for seconds in (SHORTEST_SECONDS, amounts.longest_seconds))
    chosen = []
    for split in SPLITS:
        fit = [s for s in speech if s.split == split and shortest <= len(s.units) <= longest]
        fit = [s for s in fit if split != "test" or silence[s.name] <= MAX_SILENCE]
        order = [fit[k] for k in rng.permutation(len(fit))]
        if split == "test":
            taken = [s.name for s in order[: amounts.test_utterances]]
            complete = len(taken) == amounts.test_utterances
        else:
            wanted = getattr(amounts, f"{split}_frames")
            before = np.cumsum([0] + [len(s.units) for s in order])
            taken = [s.name for s, frames in zip(order, before, strict=False) if frames < wanted]
            complete = before[-1] >= wanted
        if not complete:
            raise InputError(f"latent material: too little speech of split {split!r}; ask for less")
        chosen += [(name, split, REFERENCE) for name in taken]
    test = [row for row in chosen if row[1] == "test"]
    return chosen + [(name, split, STRANGER) for name, split, _ in test[: amounts.stranger_utterances]]


# --- drawing ----------------------------------------------------------------------------------------------------------


def around_name(identity: str) -> str:
    """The file that holds what is around a person's films."""
    return f"around_{identity}.png"


def draw_films(jobs: list[tuple[int, str, np.ndarray]], out: Path, size_px: int) -> dict[str, np.ndarray]:
    """Draw (number, identity, units) into ``film_NNN.avif`` unless it is there; the lip gaps in mm by number.

    What is around each person's films goes into ``around_WHO.png``.
    """
    from PIL import Image

    from specsync_lib.face.head.head import Head
    from specsync_lib.face.head.mesh import unit_names

    gaps = {}
    for identity, group in groupby(sorted(jobs, key=lambda job: job[1]), key=lambda job: job[1]):
        with Head(identity, FRAME_PX, threads=1) as head:
            whole = head.render(np.zeros(len(unit_names()), np.float32))
            with atomic_path(out / around_name(identity)) as temporary:
                Image.fromarray(whole[reader_box().slices]).save(temporary)
            for number, _, units in group:
                gaps[f"{number:03d}"] = np.array([head.lip_aperture(row) for row in units], np.float32)
                path = out / f"film_{number:03d}.avif"
                if path.is_file():
                    continue
                frames = (whole, *map(head.render, units))
                pictures = [Image.fromarray(cut(frame, FACE_BOX, size_px)) for frame in frames]
                with atomic_path(path) as temporary:
                    pictures[0].save(
                        temporary, save_all=True, append_images=pictures[1:], duration=1000 // VIDEO_FPS, **AVIF_OPTIONS
                    )
    return gaps


def build(out: Path, amounts: Amounts, seed: int, workers: int, corpus: str = PROMPTS) -> None:
    """Gather the speech, draw what is missing, then write the listing.

    Raises
    ------
    InputError: ``out`` holds films of other settings.
    """
    settings = {"seed": seed, **asdict(amounts), **({} if corpus == PROMPTS else {"corpus": Path(corpus).name})}
    out.mkdir(parents=True, exist_ok=True)
    marker = out / "settings.json"
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) != settings:
        raise InputError(f"{out}: holds films of other settings; give an empty folder")
    marker.write_text(json.dumps(settings), encoding="utf-8")
    speech, silence = gather_speech(corpus)
    chosen = choose_films(speech, silence, amounts, np.random.default_rng(seed))
    by_name = {s.name: s for s in speech}
    jobs = [(number, identity, by_name[name].units) for number, (name, _, identity) in enumerate(chosen)]
    gaps: dict[str, np.ndarray] = {}
    with ProcessPoolExecutor(workers) as pool:
        for part in pool.map(
            partial(draw_films, out=out, size_px=amounts.size_px), [jobs[k::workers] for k in range(workers)]
        ):
            gaps |= part
    filmed = {name for name, _, _ in chosen}
    inner = inside(FACE_BOX, reader_box())
    write(out, [s for s in speech if s.split != "test" or s.name in filmed], chosen, gaps, settings, inner)


def write(
    out: Path,
    speech: list[Speech],
    films: list[tuple[str, str, str]],
    gaps: Mapping[str, np.ndarray],
    settings: dict,
    inner: Box | None = None,
) -> None:
    """The listing and the tables over films that are there; ``inner`` as in :class:`Material`."""
    tables = {f"{s.name}.{part}": getattr(s, part).astype(np.float16) for s in speech for part in ("mel", "units")}
    for name, arrays in (("speech", tables), ("films", gaps)):
        with atomic_path(out / f"{name}.safetensors") as temporary:
            save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, temporary)
    files = [
        *(f"{name}.safetensors" for name in ("speech", "films")),
        *(f"film_{k:03d}.avif" for k in range(len(films))),
        *(around_name(identity) for identity in dict.fromkeys(who for *_, who in films) if inner),
    ]
    listing = {
        "settings": settings,
        "speech": [{"name": s.name, "split": s.split} for s in speech],
        "films": [{"speech": name, "split": split, "identity": identity} for name, split, identity in films],
        "inner_box": inner and asdict(inner),
        "sha256": {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in files},
    }
    write_text(out / "material.json", json.dumps(listing, indent=1))


# --- reading ----------------------------------------------------------------------------------------------------------


def load_material(folder: str | Path) -> Material:
    """Read what :func:`build` wrote, on any machine.

    Raises
    ------
    InputError: a file is absent, changed, or holds another number of frames than it should.
    """
    from PIL import Image, ImageSequence

    folder = Path(folder)
    try:
        text = (folder / "material.json").read_text(encoding="utf-8")
        listing = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / 'material.json'}: not readable; run python -m workbench.train.latent_material"
        ) from error
    for name, digest in listing["sha256"].items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise InputError(
                f"{path}: absent or changed since it was made; run python -m workbench.train.latent_material"
            )
    tables, gaps = load_file(folder / "speech.safetensors"), load_file(folder / "films.safetensors")
    speech = {
        row["name"]: Speech(
            **row, **{part: tables[f"{row['name']}.{part}"].astype(np.float32) for part in ("mel", "units")}
        )
        for row in listing["speech"]
    }
    films = []
    for number, row in enumerate(listing["films"]):
        path, gap = folder / f"film_{number:03d}.avif", gaps[f"{number:03d}"]
        with Image.open(path) as image:
            frames = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
        if len(frames) != 1 + len(gap) or len(gap) != len(speech[row["speech"]].units):
            raise InputError(f"{path}: {len(frames)} frames, expected {1 + len(gap)}; draw it again")
        films.append(Film(**row, frames=frames, gap_mm=gap))
    counts = {
        split: {
            "sentences": sum(s.split == split for s in speech.values()),
            "films": sum(film.split == split for film in films),
            "film_frames": sum(len(film.gap_mm) for film in films if film.split == split),
        }
        for split in SPLITS
    }
    facts = {**listing["settings"], "counts": counts, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    inner, around = listing["inner_box"] and Box(**listing["inner_box"]), {}
    for identity in dict.fromkeys(film.identity for film in films if inner):
        with Image.open(folder / around_name(identity)) as image:
            around[identity] = np.asarray(image.convert("RGB"))
    return Material(speech, films, facts, around, inner)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of :class:`Amounts`, the seed, the workers and the corpus."""
    add_corpus(parser)
    for name, value in asdict(Amounts()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)


def build_from(given: argparse.Namespace, out: Path) -> None:
    """:func:`build` from parsed options."""
    amounts = Amounts(**{name: getattr(given, name) for name in asdict(Amounts())})
    build(out, amounts, given.seed, given.workers, given.corpus)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.train.latent_material", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True)
    add_arguments(parser)
    given = parser.parse_args(arguments)
    try:
        build_from(given, given.out)
        material = load_material(given.out)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    print(json.dumps(material.facts["counts"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
