"""Pauses: what hangs open in truth's silence is counted there, and not where truth's own mouth is on its way."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.units import VISEMES
from specsync_lib.visemes import VISEME_INDEX, SyncPlan, openness_of
from workbench.measure import pauses
from workbench.train import front_card
from workbench.train.front_card import Recording

FRAMES = 24


class ToyHead:
    """Lips open in mm as far as all units add up."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def lip_aperture(self, units):
        return 10 * float(units.sum())


def saying(names):
    """A draft that says the same of every sound."""
    visemes = np.array([VISEME_INDEX[name] for name in names])
    probabilities = np.eye(len(VISEMES), dtype=np.float32)[visemes]
    return lambda samples: DraftPlan(probabilities, probabilities.max(axis=1), openness_of(visemes))


@pytest.fixture
def recordings():
    """Two that begin with a pause of 12 frames and go on with an open mouth."""
    rng, truth = np.random.default_rng(0), SyncPlan.from_names(["sil"] * 12 + ["aa"] * 12)
    return [Recording(n, n, rng.standard_normal(12_800).astype(np.float32) * 0.1, truth) for n in ("a", "b")]


def test_truths_mouth_is_on_its_way_at_the_edge_and_its_draft_is_as_good(recordings):
    rows = pauses.pauses(recordings, {"same": saying(["sil"] * 12 + ["aa"] * 12)}, ToyHead())
    assert [row["noise"] for row in rows] == ["none", "none", *pauses.NOISES]
    truth = rows[0]
    assert truth["plan"] == "truth" and truth["silent_frames"] == 24
    assert truth["truth_shut_shut"] == 1 and 0.5 < truth["silent_shut"] < 1
    for row in rows[1:]:
        assert row["silent_shut"] == truth["silent_shut"] and row["silent_heard"] == 1 and row["openness_error"] == 0


def test_a_mouth_that_hangs_open_in_a_pause_is_counted(recordings):
    hanging = saying(["sil"] * 4 + ["nn"] * 2 + ["sil"] * 6 + ["aa"] * 12)
    row = pauses.pauses(recordings, {"hanging": hanging}, ToyHead())[1]
    assert row["truth_shut_shut"] < 0.9 and row["truth_shut_p95_mm"] > pauses.SHUT_MM
    assert row["silent_heard"] == pytest.approx(10 / 12, abs=1e-4)
    assert row["silent_shut_low"] <= row["silent_shut"] <= row["silent_shut_high"]


def test_noise_alone_counts_every_viseme(recordings):
    rows = pauses.noise_alone(recordings, {"hears": saying(["sil"] * 18 + ["nn"] * 6)}, ToyHead())
    assert [row["noise"] for row in rows] == list(pauses.NOISES)
    assert all(row["not_sil"] == 0.25 and row["frames"] == 2 * FRAMES for row in rows)


def test_noise_lies_ten_decibels_below_the_speech(recordings):
    for kind in pauses.NOISES:
        for one, row in zip(recordings, front_card.noise_under(recordings, kind), strict=True):
            spoken = np.std(one.samples[len(one.samples) // 2 :])
            assert 20 * np.log10(spoken / np.std(row)) == pytest.approx(10, abs=1.5)
    noisy = front_card.noisy(recordings, "white")[0]
    assert np.array_equal(noisy.samples, recordings[0].samples + front_card.noise_under(recordings, "white")[0])


def test_without_silence_there_is_nothing_to_measure(recordings):
    speech = [replace(one, truth=SyncPlan.from_names(["aa"] * FRAMES)) for one in recordings]
    with pytest.raises(InputError, match="no silent frame"):
        pauses.pauses(speech, {}, ToyHead())


def test_a_mouth_is_closed_by_as_much_as_the_frame_is_silence():
    half = np.zeros((2, len(VISEMES)), np.float32)
    half[:, VISEME_INDEX["sil"]], half[:, VISEME_INDEX["aa"]] = (0.25, 1.0), (0.75, 0.0)
    drafted = DraftPlan(half, half.max(axis=1), np.array([0.8, 0.4], np.float32))
    assert pauses.closed(drafted).openness == pytest.approx([0.6, 0.0])
    assert np.array_equal(pauses.closed(drafted).plan.visemes, drafted.plan.visemes)


def test_the_command_writes_the_file_and_refuses_what_it_cannot_read(recordings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pauses, "Head", lambda seed: ToyHead())
    monkeypatch.setattr(pauses, "trained_speaker", lambda split, corpus: recordings)
    monkeypatch.setattr(pauses, "speakers", lambda folder: recordings)
    said = saying(["sil"] * FRAMES)
    for name in ("front_plan", "draft_plan"):
        monkeypatch.setattr(pauses, name, lambda samples, weights: said(samples))
    out = tmp_path / "pauses.json"
    assert pauses.main(["--speakers", str(tmp_path), "--out", str(out)]) == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["provenance"]["command"] == "python -m workbench.measure.pauses --speakers DIR"
    table = pd.DataFrame(content["rows"])
    assert set(table["set"]) == {"trained_speaker", "real_speakers"}
    assert (table.loc[table["plan"] != "truth", "silent_shut"] == 1).all()
    assert pauses.main(["--corpus", "own.jsonl"]) == 2
    assert "give --out" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "one.wav\tanna\n", "one.wav\tanna\twords\tmore\n"])
def test_a_list_of_speakers_that_is_none_is_one_line(tmp_path, capsys, text):
    if text is not None:
        (tmp_path / "list.tsv").write_text(text, encoding="utf-8")
    assert pauses.main(["--speakers", str(tmp_path), "--out", str(tmp_path / "out.json")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "expected rows of file, speaker and words" in lines[-1]
