"""What of a draft stands: the acceptance rules over kernels/verify_prefix, and the loop that decides a whole chunk.

Glossary
--------
draft       the viseme offered for a frame; at first the kernel's, after a rejection the judge's own
judge       a model that gives p(frame | what came before) for every frame of a chunk in ONE forward pass, a *pass*
accepted    a drafted frame that the judge lets stand
recovered   the token that takes the place of the first draft that was not accepted
own rows    the judge's distributions of a pass: given what was drafted, so right up to the first rejection and a good
            guess after it
branches    several drafts of a chunk that one pass verifies together (`branches.py` chooses them)

The exact rules commit what the judge alone would have written (greedy: the same tokens; sampled: the same
distribution). The lenient rule does not, and is never called lossless.

Sources: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2211.17192; Chen et al.,
"Accelerating Large Language Model Decoding with Speculative Sampling", 2302.01318. After a rejection the judge's own
rows are the next draft, as in Jacobi decoding (Santilli et al., 2305.10427), so that a chunk takes about two passes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kernels.verify_prefix import Backend, Verdict, verify_greedy, verify_sampled
from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.judge.branches import Branches

Rule = Literal["exact-greedy", "exact-sampled", "lenient"]
RULES: tuple[Rule, ...] = ("exact-greedy", "exact-sampled", "lenient")
LENIENT_PROBABILITY = 0.3  # a draft that the judge itself gives this much stands, under the lenient rule alone
SUM_SLACK = 1e-3  # a float32 softmax over 15 tokens sums to 1 within 1e-6; a half-precision one within this
# A judge is out of step when its rows agree with the witness this much better after a shift of up to LARGEST_SHIFT.
LARGEST_SHIFT = 3
SHIFT_MARGIN = 0.25
LEAST_OVERLAP = 6


class Stream(Protocol):
    """What a judge offers for one recording; `reasoner.ReasonerStream` is one."""

    def score(self, draft_tokens: Int[np.ndarray, " t"]) -> Float[np.ndarray, "t v"]:
        """One pass: row i is p(frame i | context, fixed tokens of the chunk, draft[:i])."""
        ...

    def score_branches(self, branches: Sequence[Int[np.ndarray, " t"]]) -> list[Float[np.ndarray, "t v"]]:
        """What `score` gives for each of several drafts, in one pass; asked only where branches are verified."""
        ...

    def commit(self, tokens: Int[np.ndarray, " t"]) -> None:
        """Fix the chunk's next tokens."""
        ...


# ------------------------------------------------------------------------------------------------------------- rules


def gate(confidence: Float[np.ndarray, " t"], threshold: float) -> Bool[np.ndarray, " t"]:
    """The confidence gate: a frame's draft is offered where its confidence reaches the threshold; NaN never does.

    It looks at the draft's distribution, not at the token drawn from it, so the exact rules stay exact behind it.
    Source: the source report's threshold of 0.85; a per-token stopping rule as in SpecDec++, 2405.19715, section 3.
    """
    return np.asarray(confidence) >= threshold


def accept_exact_sampled(
    target: Float[Tensor, "batch t v"],
    draft: Float[Tensor, "batch t v"],
    draft_tokens: Int[Tensor, "batch t"],
    uniforms: Float[Tensor, "batch t+1"],
    offered: Bool[Tensor, "batch t"] | None = None,
    *,
    backend: Backend = "torch",
) -> Verdict:
    """Keep draft x with probability min(1, p(x)/q(x)); at the first one not kept draw from norm(max(p - q, 0)).

    Parameters
    ----------
    target, draft : p and q, probabilities in float32.
    draft_tokens : drawn from q, int32.
    uniforms : in [0, 1), one a draft and the last for the recovered token.
    offered : False closes a frame: its token is drawn from p.
    backend : "torch", or "triton" on a GPU; chosen, never guessed.

    Returns
    -------
    How many drafts stand, always a prefix, and the recovered token (-1 when all stand).

    Raises
    ------
    ValueError : a shape, type or device that does not fit.

    Source: 2211.17192, Algorithm 1; 2302.01318, Algorithm 2.
    """
    return verify_sampled(target, draft, draft_tokens, uniforms, offered, backend=backend)


def accept_exact_greedy(
    target: Float[Tensor, "batch t v"],
    draft_tokens: Int[Tensor, "batch t"],
    offered: Bool[Tensor, "batch t"] | None = None,
    *,
    backend: Backend = "torch",
) -> Verdict:
    """Keep drafts while each is the judge's most probable token; the recovered token is that most probable one.

    Parameters, result and errors as for `accept_exact_sampled`, without q: it is that rule with p at temperature 0.

    Source: 2211.17192, section 2.2 (argmax as a distribution); Stern et al., 1811.03115, section 3.
    """
    return verify_greedy(target, draft_tokens, offered, backend=backend)


def accept_lenient(
    target: Float[Tensor, "*batch t v"],
    draft_tokens: Int[Tensor, "*batch t"],
    *,
    probability: float = LENIENT_PROBABILITY,
) -> Bool[Tensor, "*batch t"]:
    """Accept, frame by frame, what the judge says within ±1 frame of the chunk, or gives at least ``probability``.

    NOT lossless: it forgives 33 ms of timing and second choices, so what it keeps is not what the judge would have
    written, and a frame may be accepted behind one that was not.

    Source: this project; the probability's floor is that of typical acceptance (Medusa, 2401.10774, section 2.3.1).
    """
    best = target.argmax(dim=-1)
    accepted = draft_tokens == best
    accepted[..., 1:] |= draft_tokens[..., 1:] == best[..., :-1]
    accepted[..., :-1] |= draft_tokens[..., :-1] == best[..., 1:]
    drafted = target.gather(-1, draft_tokens.long()[..., None]).squeeze(-1)
    return accepted | (drafted >= probability)


# -------------------------------------------------------------------------------------- exact decisions, many at once


@dataclass(frozen=True)
class Decision:
    """How a batch of chunks was decided.

    tokens: what is committed; drafted: what the draft offered; decided: False where the judge failed before the frame
    (tokens then hold the draft); recovered: where a pass ended and the judge's token was taken; passes; first_accepted:
    how many drafts the first pass accepted.
    """

    tokens: Int[Tensor, "batch t"]
    drafted: Int[Tensor, "batch t"]
    decided: Bool[Tensor, "batch t"]
    recovered: Bool[Tensor, "batch t"]
    passes: Int[Tensor, " batch"]
    first_accepted: Int[Tensor, " batch"]


# (tokens [batch, t], how many of each row are fixed [batch]) -> p [batch, t, v]. Rows before that count are unused; a
# chunk with NaN in any other row ends there, undecided.
Score = Callable[[Tensor, Tensor], Tensor]


def decide(
    score: Score,
    draft: Float[Tensor, "batch t v"],
    *,
    rule: Literal["exact-greedy", "exact-sampled"],
    offered: Bool[Tensor, "batch t"] | None = None,
    generator: torch.Generator | None = None,
    redraft: Literal["judge", "draft"] = "judge",
    backend: Backend = "torch",
) -> Decision:
    """Decide chunks exactly, pass by pass, until every frame is fixed.

    A pass verifies what is drafted for the frames that are not fixed yet; it fixes the accepted ones and the recovered
    token. What is drafted for the rest is then replaced by the judge's own rows of that pass. They were given a token
    that did not stand, so they may be wrong, but any q keeps the rule exact as long as the next tokens are drawn from
    it afresh, whatever was seen before: for every history the next token is distributed as p.

    Parameters
    ----------
    score : one pass of the judge.
    draft : the kernel's q. Rows that are no distribution are not offered.
    rule : greedy takes the argmax of q, sampled draws from q with ``generator``.
    offered : the gate, for the kernel's draft alone.
    redraft : "draft" keeps verifying the kernel's rows after a rejection: classic speculative decoding.
    """
    batch, frames, _ = draft.shape
    sampled = rule == "exact-sampled"
    rows, usable = _distributions(draft)
    offered = usable if offered is None else offered & usable
    tokens = _tokens(rows, generator if sampled else None)
    drafted, recovered = tokens.clone(), torch.zeros_like(offered)
    position = torch.arange(frames, device=draft.device)
    fixed, passes, first_accepted = torch.zeros(3, batch, dtype=torch.long, device=draft.device)
    alive = torch.ones(batch, dtype=torch.bool, device=draft.device)
    while bool((running := alive & (fixed < frames)).any()):
        target = score(tokens, fixed)
        behind = position >= fixed[:, None]  # [batch, t]: not fixed yet
        passes += running
        alive &= ~(target.isnan().any(dim=2) & behind).any(dim=1)
        running = running & alive
        # The frames that are open, moved to the front: one shape for every pass, closed behind the last frame.
        window = (fixed[:, None] + position).clamp(max=frames - 1)
        inside = fixed[:, None] + position < frames
        at_window = window[..., None].expand(-1, -1, target.shape[2])
        p, q = (values.gather(1, at_window).contiguous() for values in (target, rows))
        x, open_gate = tokens.gather(1, window).int(), offered.gather(1, window) & inside
        if sampled:
            uniforms = torch.rand(batch, frames + 1, generator=generator, device=draft.device)
            verdict = accept_exact_sampled(p, q, x, uniforms, open_gate, backend=backend)
        else:
            verdict = accept_exact_greedy(p, x, open_gate, backend=backend)
        stop = fixed + verdict.accepted
        first_accepted = torch.where(running & (passes == 1), verdict.accepted.long(), first_accepted)
        stopped = running[:, None] & (position == stop[:, None])
        tokens = torch.where(stopped, verdict.token.long()[:, None], tokens)
        recovered |= stopped
        fixed = torch.where(running, (stop + 1).clamp(max=frames), fixed)
        again = running[:, None] & (position >= fixed[:, None])
        if redraft == "judge":
            rows = torch.where(again[..., None], _distributions(target)[0], rows)
            offered = offered | again
        if redraft == "judge" or sampled:
            tokens = torch.where(again, _tokens(rows, generator if sampled else None), tokens)
    decided = position < fixed[:, None]
    return Decision(
        torch.where(decided, tokens, drafted), drafted, decided, recovered & decided, passes, first_accepted
    )


# (drafts of the frames that are open, the tokens before them) -> p [t, v] of each draft, or None: the judge failed.
ScoreBranches = Callable[[list[Int[np.ndarray, " t"]], list[int]], list[Float[np.ndarray, "t v"]] | None]


def decide_branches(
    score: ScoreBranches,
    rows: Float[np.ndarray, "t v"],
    branches: Branches,
    *,
    before: int | None = None,
    backend: Backend = "torch",
) -> Decision:
    """Decide one chunk as `decide` does under the exact greedy rule, several drafts of it a pass.

    Every branch is verified by that rule; the one of which most stands is taken. Its accepted tokens and the recovered
    one are the judge's own whatever the others said, so what is committed is the same.

    Parameters
    ----------
    score : one pass of the judge.
    rows : what is thought of each frame before the first pass; later passes go by the judge's own rows.
    branches : chooses the drafts of a pass.
    before : the frame before the chunk.
    """
    rows = _distributions(torch.from_numpy(np.asarray(rows, np.float32)))[0].numpy()
    plan, drafted, stopped, sight = [], None, [], None
    passes = first_accepted = 0
    while len(plan) < len(rows):
        first = len(plan)
        drafts = branches.of(rows[first:], plan[-1] if plan else before, sight)
        drafted = drafts[0] if drafted is None else drafted
        scored, passes = score(drafts, plan), passes + 1
        if scored is None:
            break
        target, tokens = torch.from_numpy(np.stack(scored)), torch.from_numpy(np.stack(drafts)).int()
        verdict = accept_exact_greedy(target, tokens, backend=backend)
        best = int(verdict.accepted.argmax())
        stands = int(verdict.accepted[best])
        first_accepted = stands if passes == 1 else first_accepted
        plan += drafts[best][:stands].tolist()
        if len(plan) < len(rows):
            stopped.append(len(plan))
            plan.append(int(verdict.token[best]))
        rows, sight = np.concatenate([rows[:first], scored[best]]), drafts[best][len(plan) - first - 1 : -1]
    decided = np.arange(len(rows)) < len(plan)
    tokens = np.where(decided, np.pad(plan, (0, len(rows) - len(plan))), drafted)
    recovered = np.isin(np.arange(len(rows)), stopped)
    tensors = (torch.from_numpy(one)[None] for one in (tokens, drafted, decided, recovered))
    return Decision(*tensors, torch.tensor([passes]), torch.tensor([first_accepted]))


def _distributions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that sum to 1, and which of them were distributions; the others become uniform, so that one can draw."""
    total = rows.sum(dim=-1)
    usable = rows.isfinite().all(dim=-1) & (rows >= 0).all(dim=-1) & (total > 0)
    return torch.where(usable[..., None], rows / total[..., None], 1 / rows.shape[-1]), usable


def _tokens(rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """The most probable token of every row, or with a generator one drawn from it [batch, t]."""
    if generator is None:
        return rows.argmax(dim=2)
    return torch.multinomial(rows.flatten(0, 1), 1, generator=generator).view(rows.shape[:2])


# ----------------------------------------------------------------------------------------------- one chunk, one judge


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
        drafted = _distributions(q)[0].argmax(dim=2) if guess is not None or branches else decision.drafted
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
    rows, usable = _distributions(draft)
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
