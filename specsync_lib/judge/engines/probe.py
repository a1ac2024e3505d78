"""Can this judge score? Asked once, before an hour is lost on one that can not.

Known evidence is scored twice: frame by frame, as the judge writes a plan of its own, and that plan at once, as a
draft. A server that returns zeros, other positions, or another model's tokens gives itself away. What a row differs by
between the two is the engine's arithmetic: half precision in batches of other sizes.
"""

import numpy as np

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.judge.engines.served import ServerFault, Unreachable
from specsync_lib.judge.engines.session import Branch
from specsync_lib.judge.reasoner import Reasoner
from specsync_lib.judge.script import ChunkEvidence, TimedWord

PROBED_FRAMES = 6
SLACK = 0.05  # of probability, between two ways to one row
LEAST_SPREAD = 1e-4  # between a row's letters: a model prefers some


def known_evidence() -> ChunkEvidence:
    """A chunk whose frames differ: a word, loudness that rises, a listener who is sure of one viseme after another."""
    visemes = np.arange(units.FRAMES_PER_CHUNK) % len(units.VISEMES)
    heard = np.full((len(visemes), len(units.VISEMES)), 0.2 / (len(units.VISEMES) - 1), np.float32)
    heard[np.arange(len(visemes)), visemes] = 0.8
    return ChunkEvidence(0, (TimedWord("please", 1, 9),), (visemes % 10).astype(np.int8), heard)


def check_scores(reasoner: Reasoner) -> float:
    """The largest difference between what it writes and how it scores that.

    Raises
    ------
    InputError : it can not score, with the reason.
    """
    name, stream = f"judge {reasoner.engine.about}", reasoner.stream()
    stream.read(known_evidence())
    written, rows = stream.plan(PROBED_FRAMES)
    if np.ptp(rows, axis=1).min() < LEAST_SPREAD:
        raise InputError(f"{name}: every letter is as likely as the next; it does not score, it fills in")
    difference = float(np.abs(stream.score(written) - rows).max())
    if difference > SLACK:
        raise InputError(
            f"{name}: scores its own plan otherwise than it wrote it, by {difference:.2f}; it can not judge"
        )
    script, session = reasoner.script, reasoner.engine.open()
    text, line = script.start + script.encode(reasoner.instruction), script.lines(known_evidence(), set())[0]
    row = session.rows(text, [Branch([line], [])])[0].softmax(dim=1)[0]
    letters = script.alphabet.tolist()
    try:
        said = session.next([*text, *line])
    except Unreachable:
        raise
    except ServerFault:  # it writes a text that is no token here: that says nothing of its letters
        return difference
    if said in letters and row[letters.index(said)] < row.max() - SLACK:
        raise InputError(f"{name}: writes {script.decode([said])!r} and scores another letter higher; it can not judge")
    return difference
