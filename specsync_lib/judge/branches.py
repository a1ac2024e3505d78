"""Several plans in one pass: which ones a judge verifies beside the likeliest, so that a chunk takes fewer passes.

A pass of a large model costs nearly the same whether it reads 12 frames or 25: it waits for the weights. So the room
is filled with a tree of the likeliest plans; what they begin with in common is read once. Rejections move a change of
viseme by a frame more often than anything else, so plans are weighed by how often a viseme follows another as well as
by how likely each frame's is. A judge's own rows behind a rejection were given tokens that did not stand, so what those
tokens said about the next frame is taken off again. Which plans are offered never changes what is committed
(`acceptance.decide_branches`), only how many passes it takes.

Sources: token trees, Miao et al., "SpecInfer", 2305.09781; the k best paths through a trellis, Seshadri & Sundberg,
"List Viterbi decoding algorithms with applications", IEEE Trans. Commun. 42, 1994.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.paths import MODELS_DIR
from specsync_lib.units import VISEMES

PATH = MODELS_DIR / "reasoner" / "viseme_changes.json"
TOKENS_A_FRAME = 5  # of the reasoner's script, the frame's own the last: held-out speech takes 5.0


class Room(NamedTuple):
    """How many frames a pass may read over all its plans; the likeliest plan is always read whole."""

    first: int
    later: int


# Over one plan a chunk's first pass ends sooner, and decides half of the chunks; a second one over 160 tokens of that
# script decides nearly all others. 25 frames are one row of tiles of a GPU's matrix product (128 tokens), 38 one and a
# half: fewer passes, longer ones.
ROOMS = {"12_32": Room(12, 32), "25": Room(25, 25), "38": Room(38, 38)}
USUAL_ROOM = "12_32"
# Of how visemes follow each other, beside what is thought of each: where that was heard frame by frame, and where a
# judge said it in the sight of other tokens; and how much of those tokens' say is taken off. From validation speech.
CHANGE_WEIGHT, JUDGED_CHANGE_WEIGHT, SIGHT_WEIGHT = 0.4, 0.3, 0.2
PLANS = 32  # how many of the likeliest are tried for a place in the tree
VISEMES_A_FRAME = 8  # the likeliest of a frame
LEAST_PROBABILITY = 1e-6
UNSEEN_CHANGE = 0.1  # counted for every change of viseme, so that none is impossible


@dataclass(frozen=True)
class Branches:
    """How to fill a pass.

    Attributes
    ----------
    changes : log p(viseme of a frame | viseme of the frame before), [15, 15].
    room : for the plans of a pass.
    """

    changes: Float[np.ndarray, "15 15"]
    room: Room = ROOMS[USUAL_ROOM]

    @classmethod
    def fit(cls, plans: Sequence[Int[np.ndarray, " t"]]) -> "Branches":
        """From plans that a judge wrote."""
        counts = np.full((len(VISEMES), len(VISEMES)), UNSEEN_CHANGE)
        for plan in plans:
            np.add.at(counts, (plan[:-1], plan[1:]), 1)
        return cls(np.log(counts / counts.sum(axis=1, keepdims=True)))

    def save(self, path: Path = PATH, **facts: object) -> None:
        """Write as JSON, with facts about where it is from."""
        rows = np.round(np.exp(self.changes), 5).tolist()
        write_json(path, {"what": "p(viseme of a frame | viseme of the frame before)", **facts, "visemes": VISEMES,
                          "changes": rows})  # fmt: skip

    @classmethod
    def load(cls, path: Path = PATH, room: Room = ROOMS[USUAL_ROOM]) -> "Branches":
        """What `save` wrote.

        Raises
        ------
        InputError : the file is absent or holds no such table.
        """
        try:
            rows = np.array(json.loads(path.read_text(encoding="utf-8"))["changes"], float)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: cannot be read ({error!r}); restore it or run workbench.measure.referee"
            ) from error
        if rows.shape != (len(VISEMES), len(VISEMES)) or not (rows >= 0).all() or not (rows.sum(axis=1) > 0.99).all():
            raise InputError(f"{path}: expected {len(VISEMES)} rows of probabilities; restore the file")
        return cls(np.log(np.maximum(rows, LEAST_PROBABILITY)), room)

    def of(
        self, rows: Float[np.ndarray, "t 15"], before: int | None = None, sight: Int[np.ndarray, " t"] | None = None
    ) -> list[Int[np.ndarray, " t"]]:
        """Plans to verify in one pass, the likeliest first: all that still fit into it.

        The last frame's token is never read, so plans that differ only there count as one.

        Parameters
        ----------
        rows : what is thought of each frame that is open, as probabilities.
        before : the viseme of the frame before them.
        sight : the viseme that stood before each frame when a judge gave these rows; None: they know of no other, and
            this is the chunk's first pass.
        """
        room = self.room.first if sight is None else self.room.later
        if len(rows) == 1 or room <= len(rows):  # nothing branches, or a second plan has no room
            return [self.likeliest(rows, before, sight, 1)[0]]
        seen, seen_last = (None, None) if sight is None else (sight[:-1], sight[-1:])
        likeliest = self.likeliest(rows[:-1], before, seen)
        (last,) = self.likeliest(rows[-1:], likeliest[0, -1], seen_last, 1)
        plans, read = [], set()
        for plan in likeliest:
            text = bytes(plan.tolist())
            steps = {text[:frames] for frames in range(len(rows))} - read
            if not plans or len(read) + len(steps) <= room:
                plans.append(np.concatenate([plan, last]))
                read |= steps
        return plans

    def likeliest(
        self,
        rows: Float[np.ndarray, "t 15"],
        before: int | None = None,
        sight: Int[np.ndarray, " t"] | None = None,
        count: int = PLANS,
    ) -> Int[np.ndarray, "count t"]:
        """The likeliest plans, best first: fewer than ``count`` where there are not so many."""
        heard, changes = np.log(np.maximum(rows, LEAST_PROBABILITY)), CHANGE_WEIGHT * self.changes
        if sight is not None:
            heard, changes = heard - SIGHT_WEIGHT * self.changes[sight], JUDGED_CHANGE_WEIGHT * self.changes
        seen = np.argsort(-heard, axis=1, kind="stable")[:, :VISEMES_A_FRAME]  # [t, v]
        heard = heard[np.arange(len(rows))[:, None], seen]
        scores = heard[0] + (0 if before is None else changes[before, seen[0]])
        scores, plans = scores[:, None], seen[0][:, None, None]  # [v, k] and [v, k, frames]: by their last viseme
        each = np.arange(seen.shape[1])[:, None]
        for now, then, row in zip(seen[1:], seen, heard[1:], strict=False):
            steps = (scores + changes[then, now[:, None]][:, :, None]).reshape(len(now), -1)  # [v, v k]
            best = np.argsort(-steps, axis=1, kind="stable")[:, :count]  # [v, k]
            scores = steps[each, best] + row[:, None]
            begun, ends = plans.reshape(steps.shape[1], -1)[best], np.repeat(now, best.shape[1])
            plans = np.concatenate([begun, ends.reshape(*best.shape, 1)], axis=2)
        order = np.argsort(-scores, axis=None, kind="stable")[:count]
        return plans.reshape(scores.size, -1)[order]
