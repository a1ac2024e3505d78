"""The draft against the referee, frame by frame, beside two rules that any draft must beat.

Truth comes from the forced alignment of a known transcript, which neither the draft nor these rules see at test time.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.rows import PROMPTS
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import Prompt, aligned, clips, default_is_human, own_prompts, prompts_of
from specsync_lib.speech.log_mel import frame_energy
from specsync_lib.units import VISEMES

ENERGY_LEVELS = 64  # candidate cuts of the energy rule: quantiles of the training frames


def evaluation_prompts(split: str, corpus: str = PROMPTS) -> list[Prompt]:
    """The prompts of a row's corpus and of a split: a manifest's, or the human ones; where these are not in the cache
    the shipped synthetic clips, whatever the split.

    Raises
    ------
    InputError
        None of a manifest's recordings of that split has a truth.
    """
    if corpus != PROMPTS or default_is_human():
        return prompts_of(corpus, split)
    return [Prompt(clip.name, clip.transcript, clip.path, split) for clip in clips()]


def training_prompts(corpus: str = PROMPTS) -> list[Prompt]:
    """What the two simple rules are fitted on: a row's corpus, or the default one where that has no training split."""
    own = [] if corpus == PROMPTS else own_prompts(corpus, "train")
    return own or evaluation_prompts("train")


def frame_table(prompts: Iterable[Prompt], draft: Callable[[np.ndarray], DraftPlan]) -> pd.DataFrame:
    """Draft every prompt and set it beside truth.

    Returns
    -------
    One row a frame, utterances whole and in order: utterance, frame, confidence, draft, truth (viseme names), energy,
    and where the corpus names any, talker.

    Raises
    ------
    InputError
        No prompts, or a draft whose length is not its recording's.
    """
    tables = []
    for prompt in tqdm(list(prompts), desc="drafting", unit="utterance"):
        samples, truth = load_audio(prompt.path).samples, aligned(prompt)
        drafted = draft(samples)
        if len(drafted.plan) != len(truth):
            raise InputError(
                f"{prompt.name}: the draft has {len(drafted.plan)} frames, truth {len(truth)}; draft it again"
            )
        tables.append(
            pd.DataFrame(
                {
                    "utterance": prompt.name,
                    "frame": np.arange(len(truth)),
                    "confidence": drafted.confidence,
                    "draft": drafted.plan.names,
                    "truth": truth.names,
                    "energy": frame_energy(samples, len(truth)),
                    **({"talker": prompt.speaker} if prompt.speaker else {}),
                }
            )
        )
    if not tables:
        raise InputError("evaluation: no prompts to draft; fetch the corpus or give at least one")
    return pd.concat(tables, ignore_index=True)


def sets_table(card: dict) -> pd.DataFrame:
    """The fits of ``draft_front/metrics.json`` and the window network, a row each, on both sets of speech."""
    rows = {"window network": card["window_network"], **card["fits"]}
    names = ("accuracy", "accuracy_low", "accuracy_high", "coverage_at_085", "right_at_085", "ece")
    columns = [(which, name) for which in ("trained_speaker", "real_speakers") for name in names]
    table = pd.DataFrame([[found[which][name] for which, name in columns] for found in rows.values()], list(rows))
    return table.set_axis(pd.MultiIndex.from_tuples(columns), axis=1)


def truth_and_energy(prompts: Iterable[Prompt]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Truth (viseme indices) and energy of every frame of some prompts, joined: what the simple rules are fitted on."""
    visemes, energy = [], []
    for prompt in tqdm(list(prompts), desc="reading training prompts", unit="utterance"):
        truth = aligned(prompt)
        visemes.append(truth.visemes)
        energy.append(frame_energy(load_audio(prompt.path).samples, len(truth)))
    return np.concatenate(visemes), np.concatenate(energy)


def majority_viseme(visemes: Int[np.ndarray, " n"]) -> int:
    """The most frequent viseme: what a draft that hears nothing would always say."""
    return int(np.bincount(visemes, minlength=len(VISEMES)).argmax())


@dataclass(frozen=True)
class EnergyRule:
    """The old way to move a mouth: two cuts of loudness, one mouth for each of the three levels.

    Attributes
    ----------
    cuts : loudness at which the middle and the upper level begin, in `frame_energy`'s scale.
    visemes : viseme index of the quiet, the middle and the loud level.
    """

    cuts: tuple[float, float]
    visemes: tuple[int, int, int]

    @classmethod
    def fit(cls, energy: Float[np.ndarray, " n"], visemes: Int[np.ndarray, " n"]) -> "EnergyRule":
        """The cuts and mouths that are right for most training frames: every pair of quantiles is tried."""
        candidates = np.quantile(energy, np.linspace(0, 1, ENERGY_LEVELS + 1)[1:-1])
        level = np.searchsorted(candidates, energy, side="right")
        counts = np.zeros((ENERGY_LEVELS, len(VISEMES)), dtype=int)
        np.add.at(counts, (level, visemes), 1)
        below = np.vstack([np.zeros_like(counts[:1]), counts.cumsum(axis=0)])  # [levels + 1, 15]: counts under each cut
        first, second = np.triu_indices(len(candidates), k=1)
        parts = np.stack([below[first + 1], below[second + 1] - below[first + 1], below[-1] - below[second + 1]])
        best = parts.max(axis=2).sum(axis=0).argmax()
        quiet, middle, loud = (int(viseme) for viseme in parts[:, best].argmax(axis=1))
        return cls((float(candidates[first[best]]), float(candidates[second[best]])), (quiet, middle, loud))

    def predict(self, energy: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Viseme index of each frame."""
        return np.array(self.visemes)[np.searchsorted(self.cuts, energy, side="right")]
