"""Parts of a whole system that cost next to nothing: a judge that is exact at once, a head, a policy, and sound."""

import hashlib
from copy import deepcopy

import numpy as np

from specsync_lib.judge.policy import FRAME_FEATURES, AcceptancePolicy, Logistic
from specsync_lib.units import CHUNK_SAMPLES

SPEECH = np.random.default_rng(0).normal(0, 0.1, 3 * CHUNK_SAMPLES + 4000).astype(np.float32)  # 3 chunks and 8 frames


class ToyReasoner:
    """A judge that agrees with the probe most of the time; its answer depends on everything committed before."""

    name, label = "toy", "measured"

    def stream(self):
        return ToyStream()


class ToyStream:
    def __init__(self):
        self.told, self.fixed, self.open = [], [], []
        self.fail = False

    def fork(self):
        return deepcopy(self)

    def read(self, evidence):
        assert not self.open
        self.told.append(evidence.first_frame)
        self.open = list(evidence.probe.argmax(axis=1))

    def _row(self, text, place):
        digest = hashlib.sha256(bytes(text)).digest()
        row = np.full(15, 0.01)
        row[digest[0] % 15 if digest[1] < 60 else self.open[place]] += 0.85
        return row / row.sum()

    def score(self, draft):
        if self.fail:
            return np.full((len(draft), 15), np.nan)
        return np.array([self._row([*self.fixed, *draft[:place]], place) for place in range(len(draft))], np.float32)

    def score_branches(self, branches):
        return [self.score(branch) for branch in branches]

    def plan(self, frames, reasoning_tokens=0):
        tokens, rows = [], []
        for place in range(frames):
            rows.append(self._row([*self.fixed, *tokens], place))
            tokens.append(int(rows[-1].argmax()))
        return np.array(tokens, dtype=int), np.array(rows, np.float32)

    def commit(self, tokens):
        self.fixed += [int(token) for token in tokens]
        self.open = self.open[len(tokens) :]


class ToyHead:
    """A grey picture that brightens with every frame."""

    def __init__(self):
        self.drawn = 0

    def render(self, weights, pose=None):
        self.drawn += 1
        return np.full((720, 1280, 3), self.drawn % 200, np.uint8)


def log_odds_policy() -> AcceptancePolicy:
    """A frame is let stand with its own confidence."""
    weights = tuple(float(name == "log_odds") for name in FRAME_FEATURES)
    return AcceptancePolicy(Logistic(weights, 0.0), Logistic(weights, 0.0), Logistic((0.0,), 0.0))
