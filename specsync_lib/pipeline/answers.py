"""What a judge answers, chunk by chunk: measured patterns for replay, or random ones."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from specsync_lib.errors import InputError
from specsync_lib.judge.branches import USUAL_ROOM
from specsync_lib.paths import MEASUREMENTS_DIR, display_path
from specsync_lib.pipeline.stages import Policy, Tokens
from specsync_lib.units import CHUNK, FRAMES_PER_CHUNK, VISEMES, ChunkSize

PATTERN_NAME = "acceptance_pattern.json"
# The speculative pipeline as it is measured: the last step waits for the judge's first pass, because this judge rejects
# most drafts and a rejection after that step costs a generation; or nothing waits; or the judge verifies several plans
# in a pass; or its rule is the lenient one, which decides after one pass, or exactness on mouth shapes.
POLICIES = {
    "speculative": Policy(hold_before="last step"),
    "speculative_eager": Policy(),
    "speculative_branched": Policy(hold_before="last step"),
    "speculative_lenient": Policy(hold_before="last step"),
    "speculative_mouth": Policy(hold_before="last step"),
}


ASSUMED_REJECTION_RATE = 0.3  # where no pattern has been measured


@dataclass(frozen=True)
class ChunkPattern:
    """What becomes of a chunk's draft: the judge's forward passes, and the frames (from 0 on) that it rejects.

    guessed: the first pass verifies the probe's guess in place of the draft; the guess is told before. known_after: the
    passes after which what is told is the final plan; None: all but the last, which only confirms it.
    """

    passes: int = 1
    rejected: tuple[int, ...] = ()
    guessed: bool = False
    known_after: int | None = None

    def words(self, tokens: Tokens) -> list[Tokens]:
        """What the judge tells before its final word, given that: the probe's guess if there is one, and what it
        thinks after every pass but the last.

        Where that is not the final plan yet, one frame in the middle, which the measured pattern does not name, stands
        for what is wrong with it.
        """
        known_after = self.passes - 1 if self.known_after is None else self.known_after
        middle = len(tokens) // 2
        wrong = (*tokens[:middle], (tokens[middle] + 1) % len(VISEMES), *tokens[middle + 1 :])
        return [tokens if done >= known_after else wrong for done in range(not self.guessed, self.passes)]


def random_pattern(
    rate: float, chunks: int, rng: np.random.Generator, frames: int = FRAMES_PER_CHUNK
) -> list[ChunkPattern]:
    """Chunks of which a share, rounded to whole chunks, is rejected in random places, each at one random frame, in two
    passes.

    Raises
    ------
    InputError: a rate outside 0 to 1.
    """
    if not 0 <= rate <= 1:
        raise InputError(f"rejection rate is {rate}: expected 0 to 1")
    rejected = rng.permutation(chunks) < round(rate * chunks)
    places = rng.integers(frames, size=chunks)
    return [
        ChunkPattern(2, (int(frame),)) if hit else ChunkPattern() for hit, frame in zip(rejected, places, strict=True)
    ]


# How the judge comes to its answers: under the exact rule it verifies the draft first, or the probe's guess, or several
# plans a pass (`branches`); or it takes one pass over the draft under the lenient rule; or it verifies mouth shapes.
Way = Literal["exact", "guessed", "branched", "lenient", "mouth"]
# Of the modes with one of their own.
WAYS = {"speculative_branched": "branched", "speculative_lenient": "lenient", "speculative_mouth": "mouth"}
OTHER_PLANS: tuple[Way, ...] = ("lenient", "mouth")  # ways whose plan is not the judge's own


def measured_pattern(
    path: Path | None = None, way: Way = "guessed", frames_a_pass: str = USUAL_ROOM, size: ChunkSize = CHUNK
) -> tuple[list[ChunkPattern], str]:
    """The judge's measured answers, chunk by chunk, and where they come from; drawn at a stated rate where absent.

    frames_a_pass: that several plans share, of `branches.ROOMS`. size: of the chunks; of short ones the answers are
    in a file of their own (:func:`pattern_path`).

    Raises
    ------
    InputError: no answers were measured with so many frames a pass.
    """
    path = path or pattern_path(size)
    if not path.is_file():
        pattern = random_pattern(ASSUMED_REJECTION_RATE, 500, np.random.default_rng(0), frames=size.frames)
        if way == "lenient":
            pattern = [ChunkPattern(1, answer.rejected) for answer in pattern]
        return pattern, f"drawn: {ASSUMED_REJECTION_RATE:.0%} of chunks rejected ({path.name} is not measured yet)"
    chunks = json.loads(path.read_text(encoding="utf-8"))["chunks"]
    source = f"{display_path(path)}, {way}"
    rejected = f"{way}_rejected_at" if way in OTHER_PLANS else "rejected_at"
    if way == "lenient":
        return [ChunkPattern(1, tuple(chunk[rejected])) for chunk in chunks], source
    prefix, guessed = ("", False) if way == "exact" else (f"{way}_", way != "mouth")
    prefix += f"{frames_a_pass}_" * (way == "branched")
    if chunks and f"{prefix}passes" not in chunks[0]:
        raise InputError(f"{path.name}: no answers of a judge that is {way}, {frames_a_pass} frames a pass")
    return [
        ChunkPattern(chunk[f"{prefix}passes"], tuple(chunk[rejected]), guessed, chunk.get(f"{prefix}known_after"))
        for chunk in chunks
    ], source


def pattern_path(size: ChunkSize = CHUNK) -> Path:
    """Where the judge's answers on chunks of a size are."""
    suffix = "" if size == CHUNK else f"_{size.slots}slot"
    return MEASUREMENTS_DIR / PATTERN_NAME.replace(".json", f"{suffix}.json")


Answers = Mapping[str, Sequence[ChunkPattern]]


def measured_answers(
    path: Path | None = None, frames_a_pass: str = USUAL_ROOM, size: ChunkSize = CHUNK
) -> tuple[Answers, str]:
    """The judge's measured answers by mode, and where those of the usual speculative pipeline come from."""
    usual, source = measured_pattern(path, size=size)
    ways = {mode: measured_pattern(path, way, frames_a_pass, size)[0] for mode, way in WAYS.items()}
    return dict.fromkeys(("serial", *POLICIES), usual) | ways, source


def replayed_pattern(content: Mapping, mode: str = "speculative") -> list[ChunkPattern]:
    """The answers that a measured pipeline replayed in a mode, from its file."""
    return [
        ChunkPattern(int(one["passes"]), tuple(one["rejected"]), one.get("guessed", False), one.get("known_after"))
        for one in content[f"replayed_{WAYS[mode]}" if mode in WAYS else "replayed"]
    ]


def written_pattern(pattern: Sequence[ChunkPattern]) -> list[dict]:
    """Answers as a measured pipeline's file holds them: what :func:`replayed_pattern` reads."""
    return [asdict(one) for one in pattern]


def rejection_rate(pattern: Sequence[ChunkPattern]) -> float:
    """Share of chunks of which something is rejected."""
    return float(np.mean([bool(chunk.rejected) for chunk in pattern]))
