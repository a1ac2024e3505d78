"""The draft's evaluation: the two simple rules against brute force, and the frame table on the shipped clips."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.measures import draft
from specsync_lib.measures.draft import EnergyRule, evaluation_prompts, frame_table, majority_viseme
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import aligned
from specsync_lib.speech.log_mel import frame_energy
from specsync_lib.units import SAMPLE_RATE_HZ, VISEMES, frame_count
from specsync_lib.visemes import SyncPlan


def constant_draft(samples: np.ndarray) -> SimpleNamespace:
    frames = frame_count(len(samples))
    return SimpleNamespace(
        plan=SyncPlan(np.zeros(frames, np.int8), np.zeros(frames)), confidence=np.linspace(0, 1, frames)
    )


@pytest.fixture
def clips(monkeypatch) -> list:
    monkeypatch.setattr(draft, "default_is_human", lambda: False)
    return evaluation_prompts("test")


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_the_energy_rule_is_the_best_of_all_pairs_of_cuts(seed):
    generator = np.random.default_rng(seed)
    energy, visemes = generator.normal(size=200), generator.integers(0, 4, 200)
    rule = EnergyRule.fit(energy, visemes)
    cuts = np.quantile(energy, np.linspace(0, 1, draft.ENERGY_LEVELS + 1)[1:-1])
    best = 0
    for k, low in enumerate(cuts):
        for high in cuts[k + 1 :]:
            level = (energy >= low).astype(int) + (energy >= high)
            best = max(best, sum(np.bincount(visemes[level == part], minlength=1).max() for part in range(3)))
    assert (rule.predict(energy) == visemes).sum() == best
    assert best >= (visemes == majority_viseme(visemes)).sum()


def test_the_energy_rule_finds_three_levels():
    energy = np.r_[np.full(100, -1.0), np.full(100, 0.0), np.full(100, 1.0)] + np.random.default_rng(0).normal(
        0, 0.1, 300
    )
    rule = EnergyRule.fit(energy, np.repeat([0, 12, 10], 100))
    assert rule.visemes == (0, 12, 10)
    assert rule.predict(np.array([-2.0, 0.0, 2.0])).tolist() == [0, 12, 10]
    assert -1 < rule.cuts[0] < 0 < rule.cuts[1] < 1


def test_frame_energy_is_loud_where_the_sound_is():
    time_s = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    samples = np.where((time_s > 0.4) & (time_s < 0.6), 0.3 * np.random.default_rng(0).normal(size=SAMPLE_RATE_HZ), 0.0)
    energy = frame_energy(samples.astype(np.float32), 30)
    assert energy.shape == (30,)
    assert energy[13:17].min() > energy[:11].max() + 0.5 and energy[13:17].min() > energy[19:].max() + 0.5


def test_the_frame_table_holds_every_frame_of_every_utterance(clips):
    table = frame_table(clips[:2], constant_draft)
    assert list(table.columns) == ["utterance", "frame", "confidence", "draft", "truth", "energy"]
    for clip in clips[:2]:
        rows = table[table["utterance"] == clip.name]
        assert rows["frame"].tolist() == list(range(load_audio(clip.path).frame_count))
        assert rows["truth"].tolist() == aligned(clip).names
    assert set(table["draft"]) == {"sil"} and set(table["truth"]) <= set(VISEMES)
    # Loudness alone tells speech from silence here, so the column is aligned with the truth.
    assert table["energy"][table["truth"] == "aa"].mean() > table["energy"][table["truth"] == "sil"].mean() + 0.3


def test_without_the_corpus_the_clips_stand_in(clips):
    assert len(clips) >= 3 and {prompt.path.parent.name for prompt in clips} == {"clips"}


def test_a_draft_of_another_length_and_no_prompts_are_refused(clips):
    with pytest.raises(InputError, match=r"has \d+ frames, truth \d+"):
        frame_table(clips[:1], lambda samples: constant_draft(samples[:-1600]))
    with pytest.raises(InputError, match="no prompts"):
        frame_table([], constant_draft)
