"""The tables are total and in range, the plan survives its table, openness follows its rule."""

from pathlib import Path

import numpy as np
import pandas as pd
import pocketsphinx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.speech.corpus import clips
from specsync_lib.units import VISEMES
from specsync_lib.visemes import (
    ARPABET_TO_VISEME,
    PIPER_TO_VISEME,
    VISEME_INDEX,
    VISEME_OPENNESS,
    VISEME_TO_ARKIT,
    SyncPlan,
    aperture,
    openness_of,
)

viseme_sequences = st.lists(st.sampled_from(VISEMES), max_size=60)


def test_every_phone_of_the_dictionary_has_a_viseme():
    dictionary = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict")).read_text(encoding="utf-8")
    phones = {phone for line in dictionary.splitlines() for phone in line.split()[1:]}
    assert len(phones) == 39
    assert phones <= ARPABET_TO_VISEME.keys()


def test_every_phone_of_the_clips_has_a_viseme():
    labels = {phone.label for clip in clips() for phone in clip.phones}
    assert len(labels) >= 30
    assert labels <= PIPER_TO_VISEME.keys()


def test_the_two_alphabets_share_no_label_and_reach_every_viseme():
    assert not ARPABET_TO_VISEME.keys() & PIPER_TO_VISEME.keys()
    assert set(ARPABET_TO_VISEME.values()) == set(PIPER_TO_VISEME.values()) == set(VISEMES)


@pytest.mark.parametrize(
    ("viseme", "phones"),
    [("PP", "P B M"), ("FF", "F V"), ("TH", "TH DH"), ("DD", "T D"), ("kk", "K G"), ("CH", "CH JH SH"),
     ("SS", "S Z"), ("nn", "N L"), ("RR", "R"), ("aa", "AA"), ("E", "EH"), ("ih", "IH"), ("oh", "OW"), ("ou", "UH")],
)  # fmt: skip
def test_the_examples_of_the_ovr_reference_hold(viseme, phones):
    assert {ARPABET_TO_VISEME[phone] for phone in phones.split()} == {viseme}


def test_arkit_weights_name_units_of_the_head_in_range():
    from anny import Anny

    units = set(Anny(rig="makehuman-head", topology="head", facial_actions="all").facial_action_labels)
    assert len(units) == 52
    assert set(VISEME_TO_ARKIT) == set(VISEMES)
    for weights in VISEME_TO_ARKIT.values():
        assert weights.keys() <= units
        assert all(0 < weight <= 1 for weight in weights.values())


def test_openness_of_a_viseme_orders_closures_consonants_and_vowels():
    assert tuple(VISEME_OPENNESS) == VISEMES
    assert VISEME_OPENNESS["PP"] == VISEME_OPENNESS["sil"] == 0
    assert VISEME_OPENNESS["aa"] == max(VISEME_OPENNESS.values()) == 1
    assert 0 < VISEME_OPENNESS["FF"] < VISEME_OPENNESS["SS"] < VISEME_OPENNESS["E"] < VISEME_OPENNESS["oh"] < 1
    assert VISEME_OPENNESS["ou"] < VISEME_OPENNESS["oh"]


def test_aperture_opens_with_the_jaw_and_closes_with_the_lips():
    assert aperture({}) == 0
    assert aperture({"jawOpen": 0.3}) == pytest.approx(0.3)
    assert aperture({"jawOpen": 0.3, "mouthClose": 0.3}) == 0


def test_openness_takes_half_of_the_frame_and_a_quarter_of_each_neighbour():
    aa, sil, pp = (VISEME_INDEX[name] for name in ("aa", "sil", "PP"))
    np.testing.assert_allclose(openness_of(np.array([sil, sil, aa, aa, aa])), [0, 0.25, 0.75, 1, 1])
    np.testing.assert_allclose(openness_of(np.array([aa, pp, aa])), [0.75, 0, 0.75])  # the lips meet, however briefly
    assert openness_of(np.array([], dtype=np.int8)).shape == (0,)


@given(viseme_sequences)
def test_a_plan_survives_its_table(names):
    plan = SyncPlan.from_names(names)
    again = SyncPlan.from_frame(plan.to_frame())
    np.testing.assert_array_equal(again.visemes, plan.visemes)
    np.testing.assert_array_equal(again.openness, plan.openness)
    assert again.names == list(names)
    assert plan.visemes.dtype == np.int8
    assert plan.openness.dtype == np.float32
    assert ((plan.openness >= 0) & (plan.openness <= 1)).all()


def test_a_plan_survives_a_csv_file(tmp_path):
    plan = SyncPlan.from_names(["sil", "PP", "aa", "ou", "sil"])
    plan.to_frame().to_csv(tmp_path / "plan.csv", index=False)
    again = SyncPlan.from_frame(pd.read_csv(tmp_path / "plan.csv"))
    np.testing.assert_array_equal(again.visemes, plan.visemes)
    np.testing.assert_allclose(again.openness, plan.openness, atol=1e-7)


@pytest.mark.parametrize(
    ("visemes", "openness", "says"),
    [
        ([0, 1], [0.0], "one value a frame"),
        ([[0, 1]], [[0.0, 0.0]], "one value a frame"),
        ([0, 15], [0.0, 0.0], "0 … 14"),
        ([-1], [0.0], "0 … 14"),
        ([1], [1.5], r"\[0, 1\]"),
        ([1], [np.nan], r"\[0, 1\]"),
    ],
)
def test_a_plan_out_of_range_is_refused(visemes, openness, says):
    with pytest.raises(InputError, match=says):
        SyncPlan(np.array(visemes), np.array(openness))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.drop(columns="openness"), "'openness' is missing"),
        (lambda table: table.iloc[1:], "without gaps"),
        (lambda table: table.assign(viseme="XX"), "unknown viseme 'XX'"),
    ],
)
def test_a_broken_table_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        SyncPlan.from_frame(change(SyncPlan.from_names(["sil", "aa", "PP"]).to_frame()))
