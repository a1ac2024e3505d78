"""What hears a long recording, measured: its stages in order, a stage that takes too long, and what is refused."""

import json

import numpy as np

from tests.toys.stages import quick
from workbench.measure import long_sound


def test_the_talk_has_its_length_and_its_gaps():
    samples = long_sound.talk(20, np.random.default_rng(0))
    assert samples.shape == (320_000,) and samples.dtype == np.float32
    loud = np.abs(samples) > 0.01
    assert 0.3 < loud.mean() < 0.95
    assert np.diff(np.flatnonzero(loud)).max() > 0.5 * 16_000


def test_a_stage_that_takes_too_long_is_told_and_the_rest_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(long_sound, "hear", quick)
    out = tmp_path / "long_sound.json"
    assert long_sound.main(["--out", str(out), "--minutes", "1", "2", "--most-minutes", "0.25"]) == 0
    short, long = json.loads(out.read_text())["runs"]
    assert short["stopped"] == "" and long["stopped"] == "after level: more than 15 s"
    assert [one["stage"] for one in long["stages"]] == ["level"]
    assert long_sound.main(["--out", str(out), "--minutes", "0.1"]) == 2
    assert "give at least 0.5" in capsys.readouterr().err
