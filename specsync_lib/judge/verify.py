"""One chunk, one judge: passes until every frame is decided, and what is done where the judge can not be believed.

options = run_options("gate", threshold=0.85)  # None under "draft" and "judge": nothing is verified
verdict = verify_chunk(stream, draft, options, ChunkContext(recalibrated=...))
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.judge.mouth import load_mouth_shapes
from specsync_lib.judge.rules import (
    CHUNK_RULES,
    EXACT,
    Decision,
    RunRule,
    Score,
    Stream,
    VerifyOptions,
    decide,
    decide_branches,
    distributions,
    gate,
    within_one_frame,
)
from specsync_lib.units import FRAMES_PER_CHUNK

SUM_SLACK = 1e-3  # a float32 softmax over 15 tokens sums to 1 within 1e-6; a half-precision one within this
# A judge is out of step when its rows agree with the witness this much better after a shift of up to LARGEST_SHIFT.
LARGEST_SHIFT = 3
SHIFT_MARGIN = 0.25
LEAST_OVERLAP = 6


@dataclass(frozen=True)
class ChunkContext:
    """What is known beside a chunk's draft; None where it is not.

    Attributes
    ----------
    guess : distributions that the first pass verifies in place of the draft's, if something better is at hand by now
        (the evidence's probe). The rule's promise stays; ``accepted`` still speaks of the draft.
    witness : a third party's distributions for the same frames (the evidence's probe): a judge whose rows agree with it
        only after a shift speaks of other frames.
    recalibrated : the confidence that meets the gate's threshold (`policy.LiveConfidence`).
    before : the viseme committed in the frame before the chunk, by which branches are chosen.
    best_before : the judge's best viseme for that frame (`ChunkVerdict.best_of_last`), for the lenient rule.
    guard : looks at earlier chunks too, where this one is too short to tell whether the judge is in step.
    """

    guess: Float[np.ndarray, "t v"] | None = None
    witness: Float[np.ndarray, "t v"] | None = None
    recalibrated: Float[np.ndarray, " t"] | None = None
    before: int | None = None
    best_before: int | None = None
    guard: "ShiftGuard | None" = None


NO_CONTEXT = ChunkContext()


@dataclass(frozen=True)
class ChunkVerdict:
    """What became of a drafted chunk.

    Attributes
    ----------
    tokens : the visemes to commit.
    accepted : the draft stands there, by the judge's decision.
    verified : the judge decided the frame.
    sure : the gate committed the draft unasked. Where neither is true the judge failed and the draft is kept.
    rows : the judge's distributions by frame, of the last pass that read it (at a verified frame the one that decided
        it); NaN where no pass did.
    first_accepted : how many frames from the front the first pass let stand (lenient: before the first rejection).
    passes : forward passes of the judge, failed ones included.
    known_after : passes after which what ``on_pass`` tells is the final plan, and stays it; at most ``passes``.
    rejected_at : frames where a pass ended at a draft that did not stand (lenient: every rejected frame).
    faults : why the judge was not believed, one short text a failed pass or commit.
    """

    tokens: Int[np.ndarray, " t"]
    accepted: Bool[np.ndarray, " t"]
    verified: Bool[np.ndarray, " t"]
    sure: Bool[np.ndarray, " t"]
    rows: Float[np.ndarray, "t v"]
    first_accepted: int
    passes: int
    known_after: int
    rejected_at: tuple[int, ...]
    faults: tuple[str, ...] = ()

    @property
    def by(self) -> tuple[str, ...]:
        """Who decided each frame: "judge", or "draft" where it was sure or the judge failed."""
        return tuple(np.where(self.verified, "judge", "draft").tolist())

    @property
    def fallbacks(self) -> int:
        """Frames that keep their draft because the judge failed."""
        return int((~self.verified & ~self.sure).sum())

    @property
    def best_of_last(self) -> int | None:
        """The judge's best viseme for the last frame; None where no pass read it."""
        known = len(self.rows) and np.isfinite(self.rows[-1]).all()
        return int(self.rows[-1].argmax()) if known else None


def run_options(rule: RunRule, threshold: float | None = None, **more: object) -> VerifyOptions | None:
    """How a run's chunks are decided under its rule; None where nothing is verified.

    threshold : for the gate, which needs one; other rules have no use for it, and it is dropped.
    more : further fields of `VerifyOptions`.

    Raises
    ------
    InputError : an unknown rule, a gate without a threshold, or no table of mouth shapes.
    """
    if rule not in CHUNK_RULES:
        raise InputError(f"rule is {rule!r}: expected one of {', '.join(CHUNK_RULES)}")
    if (chunk_rule := CHUNK_RULES[rule]) is None:
        return None
    groups = load_mouth_shapes().groups if rule == "mouth" else None
    return VerifyOptions(chunk_rule, threshold if rule == "gate" else None, groups, **more)


def verify_chunk(
    stream: Stream,
    draft: DraftPlan,
    options: VerifyOptions = EXACT,
    context: ChunkContext = NO_CONTEXT,
    on_pass: Callable[[Int[np.ndarray, " t"], int, Float[np.ndarray, "t v"]], None] | None = None,
) -> ChunkVerdict:
    """Let a judge decide one chunk of the draft, and leave the judge's stream standing behind the committed tokens.

    A judge that fails (an exception, nothing, a wrong length, NaN, values that are no probabilities, rows that belong
    to other frames) accepts nothing: the frames that it had not decided before keep their draft, unverified and
    counted. How long a judge may take is the caller's business.

    Under the gate a chunk whose every frame is sure takes no pass: its draft is committed to the stream, and is what
    the judge reads of it later. Elsewhere the sure frames are committed so, and the judge writes the others greedily,
    each given all that stands before it.

    Parameters
    ----------
    stream : has read the chunk's context.
    draft : the chunk's rows.
    on_pass : told before every pass what the chunk looks like by now, how many passes there were, and the judge's rows
        so far (NaN where no pass read a frame).

    Raises
    ------
    InputError : the gate without a recalibrated confidence of every frame.
    """
    frames = len(draft.probabilities)
    q = torch.from_numpy(np.array(draft.probabilities, dtype=np.float32))[None]
    sure = np.zeros(frames, bool)
    if options.rule == "gate":
        if context.recalibrated is None or len(context.recalibrated) != frames:
            raise InputError(f"rule gate: expected the recalibrated confidence of {frames} frames; pass recalibrated=")
        sure = gate(context.recalibrated, options.threshold) & distributions(q)[1][0].numpy()
    if not frames:
        none = np.zeros(0, bool)
        return ChunkVerdict(np.zeros(0, np.int64), none, none, none, q[0].numpy(), 0, 0, 0, ())
    faults: list[str] = []
    told: list[np.ndarray] = []  # before every pass
    said = np.full(draft.probabilities.shape, np.nan, np.float32)
    open_from = 0

    def one_pass(drafts: list[np.ndarray], plan: np.ndarray, first: int) -> list[np.ndarray] | None:
        """The judge's rows for drafts of the frames from ``first`` on, if it can be believed; plan: all frames."""
        nonlocal open_from
        if on_pass:
            on_pass(plan, len(told), said.copy())
        told.append(plan)
        try:
            if first > open_from:
                stream.commit(plan[open_from:first])
                open_from = first
            scored = [stream.score(drafts[0])] if options.branches is None else stream.score_branches(drafts)
            seen = None if context.witness is None else context.witness[first:]
            shift_of = None if context.guard is None else context.guard.shift
            faults_of = (row_fault(rows, frames - first, q.shape[2], seen, shift_of) for rows in scored)
            fault = next(filter(None, faults_of), None)
        except Exception as error:  # whatever a judge raises, it has accepted nothing
            fault = _in_short("raised", error)
        if fault:
            faults.append(fault)
            return None
        rows = [np.asarray(one, dtype=np.float32) for one in scored]
        said[first:] = rows[0]
        return rows

    def score(tokens: Tensor, fixed: Tensor) -> Tensor:
        first, plan = int(fixed[0]), tokens[0].numpy().copy()
        target = torch.full_like(q, torch.nan)
        if (scored := one_pass([plan[first:]], plan, first)) is not None:
            target[0, first:] = torch.from_numpy(scored[0])
        return target

    def score_branches(drafts: list[np.ndarray], fixed: list[int]) -> list[np.ndarray] | None:
        return one_pass(drafts, np.concatenate([np.array(fixed, int), drafts[0]]), len(fixed))

    if options.rule == "lenient":
        decision = _lenient(score, q, context.best_before)
    else:
        guess = q if context.guess is None else torch.from_numpy(np.array(context.guess, dtype=np.float32))[None]
        own, forced = distributions(q)[0].argmax(dim=2), torch.from_numpy(sure)[None]
        if options.branches is not None:
            decision = decide_branches(
                score_branches, guess[0].numpy(), options, own=own[0].numpy(), forced=sure, before=context.before
            )
        else:
            # a sampled draft is drawn from its own rows, unless a guess takes its place in the first pass
            drawn = options.sampled and context.guess is None
            decision = decide(score, guess, options, own=None if drawn else own, forced=forced)
    tokens, drafted, decided = (one[0].numpy() for one in (decision.tokens, decision.drafted, decision.decided))
    verified = decided & ~sure
    accepted = verified & (tokens == drafted)
    try:
        stream.commit(tokens[open_from:])
    except Exception as error:  # the verdict stands; a broken stream will fail its next pass
        faults.append(_in_short("commit raised", error))
    return ChunkVerdict(
        tokens,
        accepted,
        verified,
        sure,
        decision.rows[0].numpy(),
        int(decision.first_accepted[0]),
        int(decision.passes[0]),
        max((done for done, plan in enumerate(told, start=1) if (plan != tokens).any()), default=0),
        tuple(np.flatnonzero(decision.recovered[0].numpy() & ~accepted).tolist()),
        tuple(faults),
    )


def _in_short(what: str, error: Exception) -> str:
    """An error on one line."""
    return f"{what} {type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _lenient(score: Score, draft: Tensor, best_before: int | None) -> Decision:
    """One pass over one chunk: drafts within one frame of the judge's best stand, elsewhere its best is taken."""
    rows, usable = distributions(draft)
    drafted = rows.argmax(dim=2)
    target = score(drafted, torch.zeros(1, dtype=torch.long))
    decided = (~target.isnan().any(dim=2).any(dim=1))[:, None].expand_as(drafted)
    best = target.argmax(dim=2)
    near = within_one_frame(drafted[0].numpy(), best[0].numpy(), before=best_before)
    stands = torch.from_numpy(near)[None] & usable & decided
    tokens = torch.where(stands | ~decided, drafted, best)
    first = torch.where(stands, drafted.shape[1], torch.arange(drafted.shape[1])).amin(dim=1)
    return Decision(tokens, drafted, decided, decided & ~stands, torch.ones(1, dtype=torch.long), first, target)


def row_fault(
    rows: object,
    frames: int,
    vocabulary: int,
    witness: Float[np.ndarray, "t v"] | None = None,
    shift_of: Callable[[np.ndarray, np.ndarray], int] | None = None,
) -> str | None:
    """Why a judge's rows can not be believed, in a few words; None for distributions of the right frames.

    ``shift_of``: a guard's in place of :func:`best_shift`.
    """
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
    if witness is not None and (shift := (shift_of or best_shift)(values, witness)):
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


class ShiftGuard:
    """Holds a judge's rows against a witness's over the last 12 frames: a chunk of 4 or 8 tells too little alone.

    A judge that falls out of step is so noticed within 12 frames, and not in the chunk in which it does.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """What comes next does not follow what was seen."""
        self._past: list[tuple[np.ndarray, np.ndarray]] = []  # a frame's row and the witness's
        self._chunk: list[tuple[np.ndarray, np.ndarray]] = []

    def next_chunk(self, frames: int) -> None:
        """The rows of another chunk come, of so many frames."""
        self._past = [*self._past, *self._chunk][-max(1, FRAMES_PER_CHUNK - frames) :]
        self._chunk = []

    def shift(self, rows: Float[np.ndarray, "t v"], witness: Float[np.ndarray, "t v"]) -> int:
        """`best_shift` of a pass' rows behind those of the frames before, which end where these begin."""
        pairs = [*zip(rows, witness, strict=True)]
        self._chunk = [*self._chunk[: max(0, len(self._chunk) - len(pairs))], *pairs]
        seen = [*self._past, *self._chunk]
        return best_shift(*(np.stack(side) for side in zip(*seen, strict=True)))
