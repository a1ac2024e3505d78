"""What of a draft stands: the rules over kernels/verify_prefix, and the loops that decide a whole chunk.

Glossary
--------
draft       the viseme offered for a frame; at first the kernel's, after a rejection the judge's own
judge       a model that gives p(frame | what came before) for every frame of a chunk in ONE forward pass, a *pass*
accepted    a drafted frame that the judge lets stand
recovered   the token that takes the place of the first draft that was not accepted
own rows    the judge's distributions of a pass: given what was drafted, so right up to the first rejection and a good
            guess after it
branches    several drafts of a chunk that one pass verifies together (`branches.py` chooses them)
sure        a frame whose recalibrated confidence reaches the gate's threshold; its draft is *forced* on the judge

What each rule promises of a committed chunk
--------------------------------------------
exact       what the judge alone would have written (greedy: the same tokens; sampled: the same distribution)
mouth       given the committed prefix, the group (lip shape, `mouth.py`) of every frame is distributed as the judge's;
            greedy: it is the judge's most probable group. A sequence of groups is the judge's only for a judge that
            reads its past through groups alone
lenient     every frame that stands has the judge's best viseme within one frame of it. NOT lossless
gate        frames that are not sure are written greedily by the judge, given the sure ones. NOT lossless

Sources: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2211.17192, Algorithm 1; Chen et
al., "Accelerating Large Language Model Decoding with Speculative Sampling", 2302.01318, Algorithm 2; its greedy form,
Stern et al., 1811.03115, section 3. Groups of tokens: coarse-grained acceptance, 2511.13732. After a rejection the
judge's own rows are the next draft, as in Jacobi decoding (Santilli et al., 2305.10427), so that a chunk takes about
two passes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from kernels.verify_prefix import (
    Backend,
    Verdict,
    verify_greedy,
    verify_grouped_greedy,
    verify_grouped_sampled,
    verify_sampled,
)
from specsync_lib.errors import InputError
from specsync_lib.judge.branches import Branches
from specsync_lib.units import VISEMES

# How one chunk is decided, and how a whole run is; a run that verifies nothing has no rule for its chunks.
Rule = Literal["exact-greedy", "exact-sampled", "mouth-greedy", "mouth-sampled", "lenient", "gate"]
RULES: tuple[Rule, ...] = get_args(Rule)
RunRule = Literal["exact", "mouth", "lenient", "gate", "draft", "judge"]
RUN_RULES: tuple[RunRule, ...] = get_args(RunRule)
CHUNK_RULES: dict[RunRule, Rule | None] = {
    "exact": "exact-greedy",
    "mouth": "mouth-greedy",
    "lenient": "lenient",
    "gate": "gate",
    "draft": None,
    "judge": None,
}
# What a run may say of a plan whose every chunk was decided in time; how late verdicts change it, the pipeline knows.
PROMISES: dict[RunRule, str] = {
    "exact": "the committed plan is the judge's own",
    "mouth": "given the committed frames before it, every frame has the lip shape that the judge holds likeliest",
    "lenient": "a drafted frame stands where the judge's best names it within one frame; not the judge's own plan",
    "gate": "sure frames are the draft's, unasked; the others are what the judge writes given those; not its own plan",
    "draft": "the plan is the draft's; nobody judged it",
    "judge": "the committed plan is the judge's own",
}


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


@dataclass(frozen=True)
class VerifyOptions:
    """How the chunks of a recording are decided.

    Attributes
    ----------
    rule : see above.
    threshold : of the gate, in [0, 1]; of no other rule.
    groups : of the mouth rules: the group of every token, from 0 on (`mouth.MouthShapes.groups`).
    generator : of the sampled rules: what they draw with.
    redraft : what is drafted behind a rejection: the judge's own rows, or the kernel's again (classic speculative
        decoding).
    branches : verify several drafts a pass, for a stream that can; under the rules that draw nothing, save lenient.
    backend : "torch", or "triton" on a GPU; chosen, never guessed.

    Raises
    ------
    InputError : an unknown rule, or one that lacks what it needs or is given what it has no use for.
    """

    rule: Rule = "exact-greedy"
    threshold: float | None = None
    groups: tuple[int, ...] | None = None
    generator: torch.Generator | None = None
    redraft: Literal["judge", "draft"] = "judge"
    branches: Branches | None = None
    backend: Backend = "torch"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"rule is {self.rule!r}: expected one of {', '.join(RULES)}")
        if (self.rule == "gate") != (self.threshold is not None):
            raise InputError(f"rule {self.rule}: threshold is {self.threshold}; the gate needs one, no other rule has")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"rule gate: threshold is {self.threshold}: expected 0 to 1")
        if self.rule.startswith("mouth") != (self.groups is not None):
            raise InputError(f"rule {self.rule}: the mouth rules need groups=, the others have none")
        if self.sampled and self.generator is None:
            raise InputError(f"rule {self.rule}: expected a torch.Generator to draw with, got none; pass generator=")
        if self.branches is not None and (self.sampled or self.rule == "lenient"):
            raise InputError(f"rule {self.rule}: branches are for exact-greedy, mouth-greedy and gate; leave them out")

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn."""
        return self.rule.endswith("sampled")


EXACT = VerifyOptions()  # greedy, one draft a pass


# ------------------------------------------------------------------------------------------------------ frame by frame


def gate(recalibrated: Float[np.ndarray, " t"], threshold: float) -> Bool[np.ndarray, " t"]:
    """The frames that are sure: those whose recalibrated confidence reaches the threshold; NaN never does.

    Source: the source report's threshold of 0.85; what it is laid on is `policy.AcceptancePolicy`.
    """
    return np.asarray(recalibrated) >= threshold


def same_viseme(draft: Shaped[np.ndarray, " n"], best: Shaped[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Where two plans name the same viseme; NaN, or an index outside ``units.VISEMES``, is no viseme.

    Raises
    ------
    InputError : plans that are not one value a frame, or differ in length.
    """
    draft, best = np.asarray(draft), np.asarray(best)
    if draft.shape != best.shape or draft.ndim != 1:
        raise InputError(f"frames: expected one value a frame in each plan, got {draft.shape} and {best.shape}")
    return (draft == best) & (best >= 0) & (best < len(VISEMES))


def within_one_frame(
    draft: Shaped[np.ndarray, " n"],
    best: Shaped[np.ndarray, " n"],
    recordings: Shaped[np.ndarray, " n"] | None = None,
    *,
    before: int | None = None,
) -> Bool[np.ndarray, " n"]:
    """The lenient rule: a drafted frame stands where the judge's best names it for that frame or for a neighbour.

    It forgives 33 ms of timing, so what it keeps is not what the judge would have written: NOT lossless. Borders of
    chunks are none: of whole recordings it sees both neighbours of every frame. Live, when a chunk is decided after one
    pass, the frame after its last one belongs to the next chunk and has not been judged: there the last frame is held
    against itself and the frame before, and ``before`` gives the first frame its neighbour.

    Parameters
    ----------
    draft, best : indices into ``units.VISEMES``; NaN, or one outside the set, is no verdict: not accepted.
    recordings : of each frame, where there are several; those of one stand together and in time order.
    before : the judge's best for the frame before the first one.

    Raises
    ------
    InputError : lengths that differ, or a recording in two places.
    """
    stands = same_viseme(draft, best)
    draft, best = np.asarray(draft), np.asarray(best)
    codes = runs(np.zeros(len(draft)) if recordings is None else recordings)
    if len(codes) != len(draft):
        raise InputError(f"frames: expected the recording of {len(draft)} frames, got {len(codes)}")
    neighbours = codes[1:] == codes[:-1]
    stands[1:] |= same_viseme(draft[1:], best[:-1]) & neighbours
    stands[:-1] |= same_viseme(draft[:-1], best[1:]) & neighbours
    if before is not None and len(stands):
        stands[0] |= bool(draft[0] == before)
    return stands


def runs(recordings: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Number recordings from 0 in order of appearance.

    Raises
    ------
    InputError : the frames of one do not stand together.
    """
    codes = pd.factorize(np.asarray(recordings), use_na_sentinel=False)[0]
    if (np.diff(codes) < 0).any():
        raise InputError("frames: expected those of a recording to stand together, got a recording in two places")
    return codes


# ------------------------------------------------------------------------------------------- chunks, many at once


@dataclass(frozen=True)
class Decision:
    """How a batch of chunks was decided.

    tokens: what is committed; drafted: what the draft offered; decided: False where the judge failed before the frame
    (tokens then hold the draft); recovered: where a pass ended and the judge's token was taken; passes; first_accepted:
    how many frames stood in front after the first pass, its recovered one left out; rows: the judge's distributions, by
    the last pass that read the frame; NaN where none did.
    """

    tokens: Int[Tensor, "batch t"]
    drafted: Int[Tensor, "batch t"]
    decided: Bool[Tensor, "batch t"]
    recovered: Bool[Tensor, "batch t"]
    passes: Int[Tensor, " batch"]
    first_accepted: Int[Tensor, " batch"]
    rows: Float[Tensor, "batch t v"]


# (tokens [batch, t], how many of each row are fixed [batch]) -> p [batch, t, v]. Rows before that count are unused; a
# chunk with NaN in any other row ends there, undecided.
Score = Callable[[Tensor, Tensor], Tensor]


def decide(
    score: Score,
    draft: Float[Tensor, "batch t v"],
    options: VerifyOptions = EXACT,
    *,
    own: Int[Tensor, "batch t"] | None = None,
    forced: Bool[Tensor, "batch t"] | None = None,
) -> Decision:
    """Decide chunks pass by pass, until every frame is fixed.

    A pass verifies what is drafted for the frames that are not fixed yet; it fixes the accepted ones and the recovered
    token. What is drafted for the rest is then replaced by the judge's own rows of that pass. They were given a token
    that did not stand, so they may be wrong, but any q keeps the rule exact as long as the next tokens are drawn from
    it afresh, whatever was seen before: for every history the next token is distributed as p.

    Under a mouth rule the same holds of groups; what is drafted is the kernel's own token wherever its group is the
    drafted one, so that the draft stands where its shape does. A forced frame is one where the judge is certain of the
    kernel's token: the rule is the same with that row in place of the judge's, so open frames are written given the
    forced ones before them, and a pass that would only confirm forced frames is not taken.

    Parameters
    ----------
    score : one pass of the judge.
    draft : q of the first pass. Rows that are no distribution are not offered.
    options : under "lenient" chunks are not decided here (`verify.verify_chunk`).
    own : the kernel's tokens, where ``draft`` is another's guess; else those of q.
    forced : frames that take the kernel's token unasked.
    """
    batch, frames, vocabulary = draft.shape
    rows, offered = distributions(draft)
    generator = options.generator if options.sampled else None
    drafted = _tokens(rows, generator)
    own = drafted if own is None else own
    position = torch.arange(frames, device=draft.device)
    forced = torch.zeros_like(offered) if forced is None else forced
    certain = torch.nn.functional.one_hot(own, vocabulary).to(rows.dtype)
    groups = None if options.groups is None else torch.tensor(options.groups, device=draft.device)

    def offer(drafted: Tensor) -> Tensor:
        keeps = forced if groups is None else forced | (groups[drafted] == groups[own])
        return torch.where(keeps, own, drafted)

    # [batch, t + 1]: from each frame on, the first that is not forced
    following = torch.where(forced, frames, position).flip(1).cummin(dim=1).values.flip(1)
    following = torch.nn.functional.pad(following, (0, 1), value=frames)
    tokens, recovered = offer(drafted), torch.zeros_like(offered)
    passes, first_accepted = torch.zeros(2, batch, dtype=torch.long, device=draft.device)
    fixed = following[:, 0]
    judged = torch.full_like(rows, torch.nan)
    alive = torch.ones(batch, dtype=torch.bool, device=draft.device)
    while bool((running := alive & (fixed < frames)).any()):
        target = score(tokens, fixed)
        behind = position >= fixed[:, None]  # [batch, t]: not fixed yet
        passes += running
        alive &= ~(target.isnan().any(dim=2) & behind).any(dim=1)
        running = running & alive
        again = running[:, None] & behind
        judged = torch.where(again[..., None], target, judged)
        target = torch.where(forced[..., None], certain, target)
        # The frames that are open, moved to the front: one shape for every pass, closed behind the last frame.
        window = (fixed[:, None] + position).clamp(max=frames - 1)
        inside = fixed[:, None] + position < frames
        at_window = window[..., None].expand(-1, -1, vocabulary)
        p, q = (values.gather(1, at_window).contiguous() for values in (target, rows))
        open_gate = (offered | forced).gather(1, window) & inside
        verdict = _verify(options, p, q, tokens.gather(1, window).int(), open_gate, groups)
        stop = fixed + verdict.accepted
        first_accepted = torch.where(running & (passes == 1), stop, first_accepted)
        stopped = running[:, None] & (position == stop[:, None])
        tokens = torch.where(stopped, verdict.token.long()[:, None], tokens)
        recovered |= stopped
        fixed = torch.where(running, following.gather(1, (stop + 1).clamp(max=frames)[:, None]).squeeze(1), fixed)
        again &= position > stop[:, None]
        if options.redraft == "judge":
            rows = torch.where(again[..., None], distributions(target)[0], rows)
            offered = offered | again
        if options.redraft == "judge" or options.sampled:
            tokens = torch.where(again, offer(_tokens(rows, generator)), tokens)
    decided = position < fixed[:, None]
    return Decision(
        torch.where(decided, tokens, own), own, decided, recovered & decided, passes, first_accepted, judged
    )


def _verify(
    options: VerifyOptions, p: Tensor, q: Tensor, tokens: Tensor, gate: Tensor, groups: Tensor | None
) -> Verdict:
    """One pass' verdict over windows [batch, t]; the uniforms are drawn here."""
    batch, frames = tokens.shape
    if not options.sampled:
        if groups is None:
            return verify_greedy(p, tokens, gate, backend=options.backend)
        return verify_grouped_greedy(p, tokens, groups, gate, backend=options.backend)
    count = frames + 1 + (groups is not None)
    uniforms = torch.rand(batch, count, generator=options.generator, device=p.device)
    if groups is None:
        return verify_sampled(p, q, tokens, uniforms, gate, backend=options.backend)
    return verify_grouped_sampled(p, q, tokens, groups, uniforms, gate, backend=options.backend)


# (drafts of the frames that are open, the tokens before them) -> p [t, v] of each draft, or None: the judge failed.
ScoreBranches = Callable[[list[Int[np.ndarray, " t"]], list[int]], list[Float[np.ndarray, "t v"]] | None]


def decide_branches(
    score: ScoreBranches,
    rows: Float[np.ndarray, "t v"],
    options: VerifyOptions,
    *,
    own: Int[np.ndarray, " t"],
    forced: Bool[np.ndarray, " t"] | None = None,
    before: int | None = None,
) -> Decision:
    """Decide one chunk as `decide` does under a greedy rule, several drafts of it a pass.

    Every branch is verified by that rule; the one of which most stands is taken. Under the exact rule and the gate its
    accepted tokens and the recovered one are the judge's own whatever the others said, so what is committed is the
    same. Under the mouth rule every branch keeps that rule's promise, and tokens within a group are the taken one's.

    Parameters
    ----------
    score : one pass of the judge.
    rows : what is thought of each frame before the first pass; later passes go by the judge's own rows.
    own, forced : as for `decide`.
    before : the frame before the chunk.
    """
    frames, vocabulary = rows.shape
    forced = np.zeros(frames, bool) if forced is None else forced
    groups = None if options.groups is None else np.array(options.groups)
    certain = np.eye(vocabulary, dtype=np.float32)[own]

    def known(rows: np.ndarray, first: int) -> np.ndarray:  # of the frames from ``first`` on
        return np.where(forced[first:, None], certain[first:], rows)

    def offer(drafted: np.ndarray, first: int) -> np.ndarray:
        keeps = forced[first:] if groups is None else forced[first:] | (groups[drafted] == groups[own[first:]])
        return np.where(keeps, own[first:], drafted)

    rows = known(distributions(torch.from_numpy(np.asarray(rows, np.float32)))[0].numpy(), 0)
    plan, stopped, judged = [], [], np.full(rows.shape, np.nan, np.float32)
    read, read_from = None, 0  # the draft that the last pass took, and its first frame
    passes = first_accepted = 0
    while True:
        while len(plan) < frames and forced[len(plan)]:
            plan.append(int(own[len(plan)]))
        if (first := len(plan)) == frames:
            break
        sight = None if read is None else read[first - read_from - 1 : -1]
        drafts = [offer(one, first) for one in options.branches.of(rows[first:], plan[-1] if plan else before, sight)]
        scored, passes = score(drafts, plan), passes + 1
        if scored is None:
            break
        target = torch.from_numpy(np.stack([known(one, first) for one in scored]))
        tokens = torch.from_numpy(np.stack(drafts)).int()
        gate = torch.ones_like(tokens, dtype=torch.bool)
        verdict = _verify(options, target, target, tokens, gate, None if groups is None else torch.from_numpy(groups))
        best = int(verdict.accepted.argmax())
        stands = int(verdict.accepted[best])
        first_accepted = first + stands if passes == 1 else first_accepted
        plan += drafts[best][:stands].tolist()
        if len(plan) < frames:
            stopped.append(len(plan))
            plan.append(int(verdict.token[best]))
        judged[first:], rows = scored[best], np.concatenate([rows[:first], target[best].numpy()])
        read, read_from = drafts[best], first
    decided = np.arange(frames) < len(plan)
    tokens = np.where(decided, np.pad(plan, (0, frames - len(plan))).astype(int), own)
    recovered = np.isin(np.arange(frames), stopped)
    tensors = (torch.from_numpy(one)[None] for one in (tokens, own, decided, recovered))
    counts = torch.tensor([passes]), torch.tensor([first_accepted])
    return Decision(*tensors, *counts, torch.from_numpy(judged)[None])


def distributions(rows: Float[Tensor, "... v"]) -> tuple[Float[Tensor, "... v"], Bool[Tensor, "..."]]:
    """Rows that sum to 1, and which of them were distributions; the others become uniform, so that one can draw."""
    total = rows.sum(dim=-1)
    usable = rows.isfinite().all(dim=-1) & (rows >= 0).all(dim=-1) & (total > 0)
    return torch.where(usable[..., None], rows / total[..., None], 1 / rows.shape[-1]), usable


def _tokens(rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """The most probable token of every row, or with a generator one drawn from it [batch, t]."""
    if generator is None:
        return rows.argmax(dim=2)
    return torch.multinomial(rows.flatten(0, 1), 1, generator=generator).view(rows.shape[:2])
