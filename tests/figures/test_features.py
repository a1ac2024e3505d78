"""Notebook 01's tables and pictures: the numbers drawn are the features', on one clock."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from specsync_lib import units
from specsync_lib.figures.features import (
    draw_features,
    draw_latency,
    feature_table,
    latency_quantiles,
    mel_centres_hz,
    principal_components,
)
from specsync_lib.speech.alignment import Phone, plan_from_phones
from specsync_lib.speech.log_mel import energy_envelopes, log_mel
from specsync_lib.speech.whisper_base import Word

PHONES = [Phone("SIL", 0.0, 0.2, ""), Phone("M", 0.2, 0.5, "ma"), Phone("AA", 0.5, 1.0, "ma")]


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, 16_000).astype(np.float32)
    mel = log_mel(samples)
    components, _ = principal_components(rng.standard_normal((50, 512)).astype(np.float32))
    plan = plan_from_phones(PHONES, units.frame_count(len(samples)))
    return feature_table(samples, mel, energy_envelopes(mel), components, PHONES, plan), samples, mel, components


def test_the_table_holds_each_feature_on_the_log_mel_clock(table):
    table, samples, mel, components = table
    assert len(table) == 100
    assert table["wave_low"].iloc[7] == samples[1_120:1_280].min()
    assert np.array_equal(table.filter(regex="^mel_").to_numpy(), mel)
    assert np.array_equal(table.filter(regex="^component_").to_numpy()[::2], components)
    assert table["phone"].iloc[[5, 30, 70]].tolist() == ["SIL", "M", "AA"]
    assert table["viseme"].iloc[[5, 30, 70]].tolist() == ["sil", "PP", "aa"]


def test_components_hold_their_share_of_the_variance():
    rng = np.random.default_rng(1)
    encoder = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 64)) + 5
    components, share = principal_components(encoder)
    assert share == pytest.approx(1)
    assert components[:, :3].std(axis=0) == pytest.approx(1)
    assert principal_components(encoder, 2)[1] < 1
    assert principal_components(np.ones((1, 64)))[1] == 1


def test_mel_centres_rise_from_40_hz_to_8_khz():
    centres = mel_centres_hz()
    assert centres[0] == 40
    assert 7_000 < centres[-1] < 8_000
    assert (np.diff(centres) >= 0).all()


def test_the_picture_shows_words_and_phones(table):
    fig = draw_features(table[0], [Word("mama", 0.2, 0.9, 0.99), Word("later", 30.0, 31.0, 0.9)], 0.5)
    texts = {text.get_text() for ax in fig.axes for text in ax.texts}
    assert {"mama", "M", "AA"} <= texts
    assert "later" not in texts
    plt.close(fig)


def test_latency_quantiles_are_those_of_the_hops():
    quantiles = latency_quantiles(pd.Series(np.arange(1, 1_002) / 1_000))
    assert quantiles.set_index("share_of_hops")["latency_ms"].loc[[0.0, 0.5, 1.0]].tolist() == [0.001, 0.501, 1.001]
    fig, ax = plt.subplots()
    draw_latency(quantiles, ax)
    assert "p99: 0.991 ms" in [text.get_text() for text in ax.get_legend().get_texts()]
    plt.close(fig)
