"""One chunk, one judge: passes until every frame is decided, and what is done where the judge can not be believed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kernels.verify_prefix import Backend
from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.judge.branches import Branches
from specsync_lib.judge.rules import (
    LENIENT_PROBABILITY,
    RULES,
    Decision,
    Rule,
    Score,
    Stream,
    accept_lenient,
    decide,
    decide_branches,
    distributions,
    gate,
)

SUM_SLACK = 1e-3  # a float32 softmax over 15 tokens sums to 1 within 1e-6; a half-precision one within this
# A judge is out of step when its rows agree with the witness this much better after a shift of up to LARGEST_SHIFT.
LARGEST_SHIFT = 3
SHIFT_MARGIN = 0.25
LEAST_OVERLAP = 6


@dataclass(frozen=True)
class ChunkVerdict:
    """What became of a drafted chunk.

    Attributes
    ----------
    tokens : the visemes to commit.
    accepted : the draft stands there, by the judge's decision.
    verified : the judge decided the frame; False is the fallback, where the draft is kept unverified.
    first_accepted : how many tokens the first pass accepted from the front (lenient: before the first rejection).
    passes : forward passes of the judge, failed ones included.
    known_after : passes after which what ``on_pass`` tells is the final plan, and stays it; at most ``passes``.
    rejected_at : frames where a pass ended at a draft that did not stand (lenient: every rejected frame).
    faults : why the judge was not believed, one short text a failed pass or commit.
    """

    tokens: Int[np.ndarray, " t"]
    accepted: Bool[np.ndarray, " t"]
    verified: Bool[np.ndarray, " t"]
    first_accepted: int
    passes: int
    known_after: int
    rejected_at: tuple[int, ...]
    faults: tuple[str, ...] = ()

    @property
    def fallbacks(self) -> int:
        """Frames that keep their draft unverified."""
        return int((~self.verified).sum())


def verify_chunk(
    stream: Stream,
    draft: DraftPlan,
    *,
    rule: Rule = "exact-greedy",
    threshold: float = 0.0,
    generator: torch.Generator | None = None,
    probability: float = LENIENT_PROBABILITY,
    redraft: Literal["judge", "draft"] = "judge",
    guess: Float[np.ndarray, "t v"] | None = None,
    witness: Float[np.ndarray, "t v"] | None = None,
    branches: Branches | None = None,
    before: int | None = None,
    on_pass: Callable[[Int[np.ndarray, " t"], int], None] | None = None,
    backend: Backend = "torch",
) -> ChunkVerdict:
    """Let a judge decide one chunk of the draft, and leave the judge's stream standing behind the committed tokens.

    A judge that fails (an exception, nothing, a wrong length, NaN, values that are no probabilities, rows that belong
    to other frames) accepts nothing: the frames that it had not decided before keep their draft, unverified and
    counted. How long a judge may take is the caller's business.

    Parameters
    ----------
    stream : has read the chunk's context.
    draft : the chunk's rows; its ``confidence`` meets ``threshold``.
    rule : "exact-greedy", "exact-sampled" (needs ``generator``), or "lenient" (one pass).
    threshold : drafts under it are not offered; the judge writes those frames.
    probability : the lenient rule's floor.
    redraft : see `decide`.
    guess : distributions that the first pass of an exact rule verifies in place of the draft's, if something better is
        at hand by now (the evidence's probe). What is committed stays exact; ``accepted`` still speaks of the draft.
    witness : a third party's distributions for the same frames (the evidence's probe): a judge whose rows agree with it
        only after a shift speaks of other frames.
    branches : verify several drafts a pass, under the exact greedy rule; for a stream that can.
    before : the viseme of the frame before the chunk, by which branches are chosen.
    on_pass : told before every pass what the chunk looks like by now, and how many passes there were.

    Raises
    ------
    InputError : an unknown rule, sampling without a generator, or branches under another rule than exact greedy.
    """
    if rule not in RULES:
        raise InputError(f"rule is {rule!r}: expected one of {', '.join(RULES)}")
    if rule == "exact-sampled" and generator is None:
        raise InputError("rule exact-sampled: expected a torch.Generator to draw with, got none; pass generator=")
    if branches is not None and rule != "exact-greedy":
        raise InputError(f"rule {rule}: branches are verified under exact-greedy alone; leave branches= out")
    frames = len(draft.probabilities)
    if not frames:
        none = np.zeros(0, bool)
        return ChunkVerdict(np.zeros(0, np.int64), none, none, 0, 0, 0, ())
    q = torch.from_numpy(np.array(draft.probabilities, dtype=np.float32))[None]
    offered = torch.from_numpy(gate(draft.confidence, threshold))[None]
    faults: list[str] = []
    told: list[np.ndarray] = []  # before every pass
    open_from = 0

    def one_pass(drafts: list[np.ndarray], plan: np.ndarray, first: int) -> list[np.ndarray] | None:
        """The judge's rows for drafts of the frames from ``first`` on, if it can be believed; plan: all frames."""
        nonlocal open_from
        if on_pass:
            on_pass(plan, len(told))
        told.append(plan)
        try:
            if first > open_from:
                stream.commit(plan[open_from:first])
                open_from = first
            scored = [stream.score(drafts[0])] if branches is None else stream.score_branches(drafts)
            seen = None if witness is None else witness[first:]
            fault = next(filter(None, (row_fault(rows, frames - first, q.shape[2], seen) for rows in scored)), None)
        except Exception as error:  # whatever a judge raises, it has accepted nothing
            fault = _in_short("raised", error)
        if fault:
            faults.append(fault)
            return None
        return [np.asarray(rows, dtype=np.float32) for rows in scored]

    def score(tokens: Tensor, fixed: Tensor) -> Tensor:
        first, plan = int(fixed[0]), tokens[0].numpy().copy()
        target = torch.full_like(q, torch.nan)
        if (scored := one_pass([plan[first:]], plan, first)) is not None:
            target[0, first:] = torch.from_numpy(scored[0])
        return target

    def score_branches(drafts: list[np.ndarray], fixed: list[int]) -> list[np.ndarray] | None:
        return one_pass(drafts, np.concatenate([np.array(fixed, int), drafts[0]]), len(fixed))

    if rule == "lenient":
        decision = _lenient(score, q, offered, probability)
        drafted = decision.drafted
    else:
        first = q if guess is None else torch.from_numpy(np.array(guess, dtype=np.float32))[None]
        if branches is not None:
            decision = decide_branches(score_branches, first[0].numpy(), branches, before=before, backend=backend)
        else:
            offered = offered if guess is None else None
            decision = decide(
                score, first, rule=rule, offered=offered, generator=generator, redraft=redraft, backend=backend
            )
        drafted = distributions(q)[0].argmax(dim=2) if guess is not None or branches else decision.drafted
    tokens = torch.where(decision.decided, decision.tokens, drafted)[0].numpy()
    stands = decision.decided & (decision.tokens == drafted)
    try:
        stream.commit(tokens[open_from:])
    except Exception as error:  # the verdict stands; a broken stream will fail its next pass
        faults.append(_in_short("commit raised", error))
    return ChunkVerdict(
        tokens,
        stands[0].numpy(),
        decision.decided[0].numpy(),
        int(decision.first_accepted[0]),
        int(decision.passes[0]),
        max((done for done, plan in enumerate(told, start=1) if (plan != tokens).any()), default=0),
        tuple(np.flatnonzero((decision.recovered & ~stands)[0].numpy()).tolist()),
        tuple(faults),
    )


def _in_short(what: str, error: Exception) -> str:
    """An error on one line."""
    return f"{what} {type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _lenient(score: Score, draft: Tensor, offered: Tensor, probability: float) -> Decision:
    """One pass: offered drafts that the lenient rule accepts stand, elsewhere the judge's best token of that pass."""
    rows, usable = distributions(draft)
    drafted = rows.argmax(dim=2)
    target = score(drafted, torch.zeros(len(draft), dtype=torch.long))
    decided = (~target.isnan().any(dim=2).any(dim=1))[:, None].expand_as(drafted)
    stands = accept_lenient(target, drafted, probability=probability) & offered & usable & decided
    tokens = torch.where(stands | ~decided, drafted, target.argmax(dim=2))
    first = torch.where(stands, drafted.shape[1], torch.arange(drafted.shape[1])).amin(dim=1)
    return Decision(tokens, drafted, decided, decided & ~stands, torch.ones(len(draft), dtype=torch.long), first)


def row_fault(
    rows: object, frames: int, vocabulary: int, witness: Float[np.ndarray, "t v"] | None = None
) -> str | None:
    """Why a judge's rows can not be believed, in a few words; None for distributions of the right frames."""
    if rows is None:
        return "gave nothing"
    try:
        values = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError):
        return "gave no numbers"
    if values.shape != (frames, vocabulary):
        return f"wrong shape: expected {(frames, vocabulary)}, got {values.shape}"
    if not np.isfinite(values).all():
        return "NaN or infinite values"
    if (values < 0).any() or (np.abs(values.sum(axis=1) - 1) > SUM_SLACK).any():
        return "rows are no probabilities"
    if witness is not None and (shift := best_shift(values, witness)):
        return f"out of step by {shift:+d} frames"
    return None


def best_shift(rows: Float[np.ndarray, "t v"], witness: Float[np.ndarray, "t v"]) -> int:
    """By how many frames rows run late against a witness of the same frames (negative: early); 0 unless it is plain.

    The agreement at a shift is the mean probability that the two name the same viseme, over the frames that overlap,
    which must be LEAST_OVERLAP or more: the end of a chunk is too short to tell. It must gain SHIFT_MARGIN over
    standing still: steady frames (silence, a held vowel) agree at every shift and say nothing.
    """
    frames = len(rows)
    agreement = {
        shift: float((rows[max(0, shift) : frames + min(0, shift)] * witness[max(0, -shift) : frames - max(0, shift)])
                     .sum(axis=1).mean())
        for shift in range(-LARGEST_SHIFT, LARGEST_SHIFT + 1)
        if not shift or frames - abs(shift) >= LEAST_OVERLAP
    }  # fmt: skip
    best = max(agreement, key=lambda shift: agreement[shift])
    return best if agreement[best] > agreement[0] + SHIFT_MARGIN else 0
