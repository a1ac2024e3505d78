"""The draft by the causal front: log-mel chunk by chunk to visemes, confidence, openness and features.

log-mel → causal level and channel normalisation (``plan.CausalNormaliser``) → Whisper's first layers as a stream with a
cache (``kernels/causal_front``). It hears everyone: trained on the voices of ``workbench/train/kokoro.py`` and, but for
the fits named *unseen*, on the English corpus' training prompts. ``ears`` is the same with more blocks and a longer
past: what a live judge hears, under the same clock and look-ahead.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from kernels.causal_front.reference import FrontCache, FrontOutput, FrontWeights, front_chunk, new_cache, new_rows
from specsync_lib import units
from specsync_lib.draft.front_weights import load_front
from specsync_lib.draft.plan import PRIOR_MEAN, SPREAD, CausalNormaliser, DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.paths import MODELS_DIR

MODEL_DIR = MODELS_DIR / "draft_front"
DRAFT, EARS = "draft", "ears"


def front_path(name: str = DRAFT) -> Path:
    """Where a front is stored: ``data/models/draft_front/<name>.safetensors``, or the path that was given."""
    return Path(name) if Path(name).suffix == ".safetensors" else MODEL_DIR / f"{name}.safetensors"


def load_draft_front(name: str = DRAFT) -> FrontWeights:
    """The front of a name or a path (:func:`front_path`), float32, checked.

    Raises
    ------
    InputError: the file is absent, or its tensors are not those of a front; the line says what was expected and found.
    """
    return load_front(front_path(name))


def whisper_range(mel: Float[Tensor, "rows 80"]) -> Float[Tensor, "rows 80"]:
    """Normalised log-mel in the range that Whisper's convolutions expect."""
    return mel * SPREAD + torch.from_numpy(PRIOR_MEAN).to(mel)


def in_full(rows: Float[Tensor, "rows 80"], needed: int, last: Float[Tensor, "1 80"]) -> Float[Tensor, "needed 80"]:
    """The first ``needed`` rows; ``last`` stands for those that are missing."""
    return torch.cat([rows, last.expand(max(0, needed - len(rows)), -1)])[:needed]


@dataclass(frozen=True)
class FrontDraft:
    """A chunk as the front hears it: the plan, and the features that the latent drafter reads."""

    plan: DraftPlan
    hidden: Float[Tensor, "frames hidden"]


class FrontStream:
    """One recording through the front, chunk after chunk.

    Parameters
    ----------
    weights
        From :func:`load_draft_front`; the stream runs where they lie.
    name
        The stream's name: its cache is refused for another.
    """

    def __init__(self, weights: FrontWeights, name: str = "stream") -> None:
        self._weights, self._name = weights, name
        self._cache: FrontCache = new_cache(weights, name)
        self._rows = torch.zeros(0, units.MEL_BANDS)  # heard, but not yet of a whole chunk

    @property
    def next_frame(self) -> int:
        """First video frame of the next chunk."""
        return self._cache.next_frame

    @torch.inference_mode()
    def draft(
        self, mel: Float32[np.ndarray, "rows 80"], frames: int = units.FRAMES_PER_CHUNK, *, ended: bool = False
    ) -> FrontDraft:
        """The next chunk.

        Parameters
        ----------
        mel
            Normalised rows that came since the last call (``CausalNormaliser``); surplus rows wait for the next chunk.
        frames
            Video frames of the chunk, 1 to 12; may change from chunk to chunk.
        ended
            No rows follow: the last one stands for those that are missing.

        Raises
        ------
        InputError: rows are missing and the recording has not ended.
        """
        rows = torch.cat([self._rows, torch.from_numpy(np.ascontiguousarray(mel, np.float32))])
        needed = len(new_rows(self.next_frame, frames))
        if len(rows) < needed and not ended:
            raise InputError(
                f"front stream {self._name!r}: expected {needed} rows for frames {self.next_frame} to "
                f"{self.next_frame + frames - 1}, got {len(rows)}; wait for more, or say that it ended"
            )
        self._rows = rows[needed:]
        said, self._cache = self._chunk(rows, frames)
        return FrontDraft(plan_of_output(said), said.hidden[0])

    @torch.inference_mode()
    def ahead(self, frames: int) -> DraftPlan:
        """The first frames of the next chunk, as if the last row heard went on; the stream stays where it is."""
        return plan_of_output(self._chunk(self._rows, frames)[0])

    def _chunk(self, rows: Tensor, frames: int) -> tuple[FrontOutput, FrontCache]:
        """The next frames from the rows that are there: the last one stands for those that are missing."""
        last = rows[-1:] if len(rows) else self._last_row()
        rows = in_full(rows, len(new_rows(self.next_frame, frames)), last)
        return front_chunk(
            whisper_range(rows).to(self._weights.conv1_w.device)[None],
            self._cache,
            self._weights,
            stream=self._name,
            first_frame=self.next_frame,
            frames=frames,
        )

    def _last_row(self) -> Tensor:
        """The last row heard, normalised again, from the cache."""
        row = self._cache.rows[0, -1:].float().cpu()
        return (row - torch.from_numpy(PRIOR_MEAN).to(row)) / SPREAD


def plan_of_output(said: FrontOutput) -> DraftPlan:
    """A chunk's plan from the front's output (its first stream)."""
    logits, confidence, openness = (one[0].float().cpu() for one in (said.logits, said.confidence, said.openness))
    return DraftPlan(F.softmax(logits, dim=1).numpy(), confidence.numpy(), openness.numpy())


def front_plan(
    samples: Float[np.ndarray, " n"],
    weights: FrontWeights,
    *,
    chunk_frames: Literal[4, 8, 12] = units.FRAMES_PER_CHUNK,
) -> DraftPlan:
    """Draft the sync plan of a recording, chunk by chunk as a stream would: [n] samples, 16 kHz mono in [-1, 1]."""
    from specsync_lib.speech.log_mel import log_mel

    mel = CausalNormaliser().push(log_mel(samples))
    frames = units.frame_count(len(samples))
    stream, parts = FrontStream(weights), []
    for first in range(0, frames, chunk_frames):
        count = min(chunk_frames, frames - first)
        span = new_rows(first, count)
        parts.append(stream.draft(mel[span.start : span.stop], count, ended=span.stop > len(mel)).plan)
    if not parts:
        return DraftPlan(np.zeros((0, len(units.VISEMES)), np.float32), *np.zeros((2, 0), np.float32))
    return DraftPlan(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("probabilities", "confidence", "openness")
        )
    )
