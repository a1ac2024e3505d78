"""The reasoner: a language model that writes a sync plan token by token, or judges a draft of it in one forward pass.

Everything it is told is text, so that any causal language model can take the place of the small one:

    before every 12th frame a newline, and for every frame:
    [ (word duration visemes) ]  energy  best  [ tenths  second ]  PLAN

A *word* stands where it is about to begin, with how many frames it lasts and the visemes that a dictionary gives it.
*Energy* is a digit of loudness. *Best* and *second* are the two likeliest visemes of the judge's ears, a causal front
of four blocks that hears what was said and some 50 ms past the chunk; *tenths* is the probability of the best. Ears
that are sure say the best alone, those that know nothing say nothing: fewer tokens, the same text for any model. PLAN
is the one token of the frame's viseme: the model's answer, or the draft's proposal. Because a frame's evidence stands
right before its answer, one forward pass over the text with all draft tokens in place yields the model's distribution
for every frame: row i is p(frame i | evidence up to i, fixed tokens, draft[:i]), exactly what writing token by token
would have computed.

The answer's distribution is the model's logits over the alphabet's 15 tokens alone, renormalised in float32.

Sources: one-pass verification, Leviathan et al. 2211.17192; several drafts in one pass as a tree, Miao et al.
2305.09781; low-rank adapters, Hu et al. 2106.09685; the first tokens are kept when the window moves, Xiao et al.
2309.17453.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Generator, Tensor

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.judge.engines.session import Branch, Engine
from specsync_lib.judge.script import INSTRUCTION, VISEME_LETTERS, ChunkEvidence, Script

WINDOW_TOKENS = 1024  # 12 s of speech, 60 MB of float32 cache for SmolLM2


# --------------------------------------------------------------------------------------------------------- the judge


@dataclass(frozen=True)
class Reasoner:
    """A causal language model with the script that it reads and writes.

    Attributes
    ----------
    engine : where the model runs.
    name : what was loaded.
    label : "measured" for real weights, "real-shape" for random ones.
    temperature : divides the alphabet's logits; fitted on validation speech.
    instruction : text before everything else; a tuned model needs none.
    window_tokens : how much of the past it reads; see `ReasonerStream.read`.
    """

    engine: Engine
    script: Script
    name: str
    label: Literal["measured", "real-shape"]
    temperature: float = 1.0
    instruction: str = INSTRUCTION
    window_tokens: int = WINDOW_TOKENS

    @property
    def alphabet(self) -> dict[str, str]:
        """The letter that stands for each viseme."""
        return dict(VISEME_LETTERS)

    def stream(self) -> "ReasonerStream":
        """Begin one recording."""
        return ReasonerStream(self)


class ReasonerStream:
    """One recording: read a chunk's evidence, score drafts of it or write its plan, commit; then the next chunk.

    The text is the truth of the stream; what the engine remembers of it only follows.
    """

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner = reasoner
        script = reasoner.script
        self._preamble = script.start + script.encode(reasoner.instruction)
        self._past: list[list[int]] = []  # the tokens of every committed chunk in the window
        self._fixed: list[int] = []  # the tokens of the chunk up to its last committed frame
        self._lines: list[list[int]] = []  # what stands before the plan token of each frame still open
        self._announced: set[tuple[str, int]] = set()
        self._next_frame: int | None = None
        self._session = reasoner.engine.open()

    def fork(self) -> "ReasonerStream":
        """Another stream at the same place: what either reads or commits from now on, the other does not see."""
        twin = copy(self)
        twin._past, twin._lines = [*self._past], [*self._lines]
        twin._fixed, twin._announced = [*self._fixed], {*self._announced}
        twin._session = self._session.fork()
        return twin

    @property
    def passes(self) -> int:
        """How often the model was asked so far."""
        return self._session.passes

    @property
    def tokens_read(self) -> int:
        """The tokens that went through the model so far."""
        return self._session.tokens_read

    def read(self, evidence: ChunkEvidence) -> None:
        """Take a chunk's evidence. It goes through the model with the next pass, so reading alone costs none.

        The window moves in steps: when the text would outgrow ``window_tokens``, the oldest chunks go until half of it
        is free, the beginning stays, and the rest is read anew. So neither memory nor a pass grows with the recording.

        Raises
        ------
        InputError: frames of the last chunk are not committed, or the chunk does not follow it.
        """
        if self._lines:
            raise InputError(f"reasoner: {len(self._lines)} frames of the last chunk are open; commit them first")
        if self._next_frame not in (None, evidence.first_frame):
            raise InputError(f"reasoner: expected the chunk of frame {self._next_frame}, got {evidence.first_frame}")
        self._next_frame = evidence.first_frame + len(evidence)
        if self._fixed:
            self._past.append(self._fixed)
        self._fixed = []
        recent = {(word.text, word.first_frame) for word in evidence.words}
        self._announced &= recent  # a word leaves the evidence when it is over
        self._lines = self._reasoner.script.lines(evidence, self._announced)
        needed = sum(map(len, self._lines)) + len(self._lines)
        room = self._reasoner.window_tokens - len(self._preamble) - needed
        if sum(map(len, self._past)) > room:
            while self._past and sum(map(len, self._past)) > room / 2:
                self._past.pop(0)

    def score(self, draft_tokens: Int[np.ndarray, " t"]) -> Float32[np.ndarray, "t 15"]:
        """The target's distribution for each draft token, in ONE forward pass.

        Row i is p(frame i | evidence, the chunk's fixed tokens, draft[:i]) for the first open frames. Nothing changes
        but the cache.

        Raises
        ------
        InputError: more tokens than open frames, or one that is no viseme index.
        """
        return self.score_branches([draft_tokens])[0]

    def score_branches(self, branches: Sequence[Int[np.ndarray, " t"]]) -> list[Float32[np.ndarray, "t 15"]]:
        """What `score` says of each of several drafts, in ONE forward pass: what they have in common is read once.

        Raises
        ------
        InputError: as for `score`.
        """
        drafts = [self._checked(branch) for branch in branches]
        written = [draft[:-1] for draft in drafts if len(draft)]
        scored = iter(self._rows(self._text(), written) if written else ())
        nothing = np.zeros((0, len(units.VISEMES)), np.float32)
        return [next(scored).softmax(dim=1).cpu().numpy() if len(draft) else nothing for draft in drafts]

    def plan(
        self, frames: int, reasoning_tokens: int = 0, *, generator: Generator | None = None
    ) -> tuple[Int[np.ndarray, " t"], Float32[np.ndarray, "t 15"]]:
        """Write the plan of the first open frames, one forward pass a frame: tokens [t], their distributions [t, 15].

        Parameters
        ----------
        frames
            How many; at most the open ones.
        reasoning_tokens
            The model first writes up to this many tokens of its own (greedy, one pass each, ended by its end mark). The
            plan is written with them in sight; afterwards they are rolled back, so that a later chunk reads the same
            text whether or not the model thought.
        generator
            None: greedy. Else tokens are drawn from the distributions with it.

        Raises
        ------
        InputError: more frames than are open, or a negative number.
        """
        if not 0 <= frames <= len(self._lines) or reasoning_tokens < 0:
            raise InputError(f"plan: {frames} frames asked for, {len(self._lines)} are open; read a chunk first")
        text = self._text()
        text += self._think(text, reasoning_tokens) if frames else []
        tokens: list[int] = []
        rows = []
        for _ in range(frames):
            row = self._rows(text, [np.array(tokens, dtype=int)], last=True)[0].softmax(dim=1)[0]
            drawn = row.argmax() if generator is None else torch.multinomial(row, 1, generator=generator)
            tokens.append(int(drawn))
            rows.append(row.cpu().numpy())
        return np.array(tokens, dtype=int), np.array(rows, np.float32).reshape(-1, len(units.VISEMES))

    def commit(self, tokens: Int[np.ndarray, " t"]) -> None:
        """Fix the first open frames to these tokens. The cache keeps what they share with the last pass.

        Raises
        ------
        InputError: more tokens than open frames, or one that is no viseme index.
        """
        for token in self._checked(tokens):
            self._fixed += [*self._lines.pop(0), self._reasoner.script.letter(token)]

    def text(self) -> str:
        """What the model has been told and has answered so far, as text."""
        return self._reasoner.script.decode(self._text())

    def _text(self) -> list[int]:
        return [*self._preamble, *(token for chunk in self._past for token in chunk), *self._fixed]

    def _checked(self, tokens: Int[np.ndarray, " t"]) -> np.ndarray:
        tokens = np.asarray(tokens, dtype=int).reshape(-1)
        if len(tokens) > len(self._lines):
            raise InputError(f"reasoner: {len(tokens)} tokens for {len(self._lines)} open frames; read a chunk first")
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < len(units.VISEMES)):
            raise InputError(f"reasoner: tokens must be viseme indices 0 … {len(units.VISEMES) - 1}, got {tokens}")
        return tokens

    def _rows(
        self, text: list[int], branches: Sequence[np.ndarray], last: bool = False
    ) -> list[Float32[Tensor, "rows 15"]]:
        """Calibrated logits of the frames after ``text``, by branch: one more than it wrote, or the ``last`` alone."""
        ways = [
            Branch(self._lines[: len(written) + 1], [self._reasoner.script.letter(token) for token in written], last)
            for written in branches
        ]
        return [logits / self._reasoner.temperature for logits in self._session.rows(text, ways)]

    def _think(self, text: list[int], count: int) -> list[int]:
        """Up to ``count`` tokens of the model's own, greedy over its whole vocabulary."""
        thought: list[int] = []
        for _ in range(count if text else 0):
            token = self._session.next([*text, *thought])
            if token == self._reasoner.script.end:
                break
            thought.append(token)
        return thought
