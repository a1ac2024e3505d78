"""What of a draft stands: the acceptance rules over kernels/verify_prefix, and the loops that decide a whole chunk.

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
from specsync_lib.judge.branches import Branches

Rule = Literal["exact-greedy", "exact-sampled", "lenient"]
RULES: tuple[Rule, ...] = ("exact-greedy", "exact-sampled", "lenient")
LENIENT_PROBABILITY = 0.3  # a draft that the judge itself gives this much stands, under the lenient rule alone


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
    rows, usable = distributions(draft)
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
            rows = torch.where(again[..., None], distributions(target)[0], rows)
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
    rows = distributions(torch.from_numpy(np.asarray(rows, np.float32)))[0].numpy()
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


def distributions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that sum to 1, and which of them were distributions; the others become uniform, so that one can draw."""
    total = rows.sum(dim=-1)
    usable = rows.isfinite().all(dim=-1) & (rows >= 0).all(dim=-1) & (total > 0)
    return torch.where(usable[..., None], rows / total[..., None], 1 / rows.shape[-1]), usable


def _tokens(rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """The most probable token of every row, or with a generator one drawn from it [batch, t]."""
    if generator is None:
        return rows.argmax(dim=2)
    return torch.multinomial(rows.flatten(0, 1), 1, generator=generator).view(rows.shape[:2])
