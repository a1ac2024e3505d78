"""Judges small enough to be exact at once, streams over them, what can go wrong with those, and drafts."""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.stats import chisquare

from specsync_lib.draft.plan import DraftPlan
from specsync_lib.judge.rules import VerifyOptions
from specsync_lib.units import VISEMES

DRAFTS = ("good", "random", "adversarial", "perfect", "empty")
GROUPS = tuple(viseme // 2 for viseme in range(len(VISEMES)))
FLAT = np.zeros((len(VISEMES),) * 2)  # every change of viseme is as likely


@dataclass
class ToyJudges:
    """Judges whose next token depends on the frame and on the token before: exact, and cheap for many at once."""

    frame: torch.Tensor  # [batch, t, v] logits
    after: torch.Tensor  # [v, v] logits by the token before

    @classmethod
    def random(cls, batch: int, frames: int, vocabulary: int, seed: int, sharpness: float = 2.0) -> "ToyJudges":
        generator = torch.Generator().manual_seed(seed)
        return cls(
            sharpness * torch.randn(batch, frames, vocabulary, generator=generator),
            sharpness * torch.randn(vocabulary, vocabulary, generator=generator),
        )

    def score(self, tokens: torch.Tensor, fixed: torch.Tensor | None = None) -> torch.Tensor:
        """[batch, t, v]: row i given tokens[:i]; before the chunk stands token 0."""
        before = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
        return (self.frame + self.after[before]).softmax(dim=2)

    def plan(self) -> torch.Tensor:
        """Plain decoding, one token a pass."""
        tokens = torch.zeros(self.frame.shape[:2], dtype=torch.long)
        for frame in range(tokens.shape[1]):
            tokens[:, frame] = self.score(tokens)[:, frame].argmax(dim=1)
        return tokens

    def draft(self, kind: str, seed: int, missing: float = 0.0) -> torch.Tensor:
        """A draft's rows [batch, t, v]; a share of them is missing, NaN."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.frame.shape, generator=generator)
        own = self.score(self.plan())
        rows = {
            "good": (own.clamp(min=1e-9).log() + noise).softmax(dim=2),
            "random": (2 * noise).softmax(dim=2),
            "adversarial": (1 - own) ** 20 / ((1 - own) ** 20).sum(dim=2, keepdim=True),
            "perfect": own,
            "empty": torch.full_like(own, torch.nan),
        }[kind]
        return torch.where(torch.rand(rows.shape[:2], generator=generator)[..., None] < missing, torch.nan, rows)


@dataclass
class ToyStream:
    """A toy judge behind the stream interface, with what was committed."""

    judges: ToyJudges
    tokens: list[int] = field(default_factory=list)
    passes: int = 0

    def score(self, draft_tokens):
        self.passes += 1
        known = torch.tensor([[*self.tokens, *draft_tokens]])
        heard = ToyJudges(self.judges.frame[:, : known.shape[1]], self.judges.after)
        return heard.score(known)[0, len(self.tokens) :].numpy()

    def score_branches(self, branches):
        before, scored = self.passes, []
        for branch in branches:
            self.passes = before  # they share one
            scored.append(self.score(branch))
        return scored

    def commit(self, tokens) -> None:
        self.tokens += [int(token) for token in tokens]


class FaultyStream(ToyStream):
    """Spoils the rows of the passes from ``since`` on."""

    def __init__(self, judges: ToyJudges, spoil, since: int = 0):
        super().__init__(judges)
        self.spoil, self.since = spoil, since

    def score(self, draft_tokens):
        rows = super().score(draft_tokens)
        return self.spoil(rows) if self.passes > self.since else rows


def raise_error(_):
    raise ConnectionError("no judge there")


FAULTS = {
    "nothing": lambda rows: None,
    "an exception": raise_error,
    "NaN": lambda rows: np.where(np.arange(len(rows))[:, None] == len(rows) - 1, np.nan, rows),
    "infinite": lambda rows: rows / 0 * 1.0,
    "all zeros": np.zeros_like,
    "log-probabilities": np.log,
    "positive log-probabilities": lambda rows: np.abs(np.log(rows)),
    "one row too few": lambda rows: rows[:-1],
    "one row too many": lambda rows: np.r_[rows, rows[:1]],
    "another alphabet": lambda rows: rows[:, :-1] / rows[:, :-1].sum(1, keepdims=True),
    "words": lambda rows: "sil sil PP",
    "ragged": lambda rows: [[0.5, 0.5], [1.0]],
}


def plan_of(rows: torch.Tensor) -> DraftPlan:
    rows = rows.numpy()
    return DraftPlan(rows, np.nan_to_num(rows.max(axis=1)), np.zeros(len(rows)))


def drafted_by(plan: DraftPlan) -> np.ndarray:
    """The draft's visemes; a missing row's is the first."""
    return np.where(np.isnan(plan.probabilities).any(1), 0, np.nan_to_num(plan.probabilities).argmax(1))


def options_of(rule: str) -> VerifyOptions:
    """A rule with what it needs."""
    return VerifyOptions(
        rule,
        0.5 if rule == "gate" else None,
        GROUPS if rule.startswith("mouth") else None,
        torch.Generator().manual_seed(0) if rule.endswith("sampled") else None,
    )


def p_value(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Pearson's chi-square, outcomes rarer than 5 expected pooled."""
    expected = probabilities / probabilities.sum() * counts.sum()
    rare = expected < 5
    pool = lambda values: np.r_[values[~rare], values[rare].sum()] if rare.any() else values  # noqa: E731
    return chisquare(pool(counts), pool(expected)).pvalue
