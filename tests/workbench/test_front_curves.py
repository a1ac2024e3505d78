"""The curves' maker: toy fits scored through the product's eyes, and what does not belong together refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from specsync_lib.draft.front_weights import save_front
from specsync_lib.figures.draft import CURVES, curves_table
from specsync_lib.paths import MODELS_DIR
from specsync_lib.visemes import SyncPlan
from tests.toys.fronts import toy_base
from workbench.train import front, front_card, front_curves
from workbench.train.front_card import Recording

REPORT = {"steps": 2, "rows": 4, "seed": 0, "minutes": 1.5, "human": False, "teachers": [], "gpu": None}
NAMES = ("look_000_ms", "look_060_ms", "curve@minutes_15", "curve@minutes_60", "curve@voices_4")


@pytest.fixture(scope="module")
def base():
    return toy_base(1)


@pytest.fixture(scope="module")
def recordings():
    rng = np.random.default_rng(0)
    frames = (40, 25)
    return [
        Recording(f"r{n}", f"s{n}", (0.1 * rng.standard_normal(n * 534)).astype(np.float32),
                  SyncPlan(rng.integers(0, 15, n).astype(np.int8), np.full(n, 0.5, np.float32)))
        for n in frames
    ]  # fmt: skip


@pytest.fixture
def fits(base, tmp_path, monkeypatch):
    """A folder as ``workbench.train.front`` leaves it."""
    monkeypatch.setattr(front_curves, "whisper_tensors", lambda blocks: base)
    for name in NAMES:
        weights = front.fresh(base, front.VARIANTS[name.split("@")[0]], 0)
        save_front(tmp_path / f"{name.replace('@', '_')}.safetensors", weights, base, bits=8)
        held = {"clean": {"speech": 0.5, "silence": 0.9, "frames": 10}, "temperature": 1.0}
        report = REPORT | {"held_voices": {name: held}}
        (tmp_path / f"report_{name.replace('@', '_')}.json").write_text(json.dumps(report))
    return tmp_path


@pytest.mark.parametrize("look_ahead", [0, 6, 10])
def test_a_fit_hears_a_whole_recording_as_the_product_does(base, recordings, look_ahead):
    variant = replace(front.VARIANTS["look_060_ms"], look_ahead=look_ahead)
    weights = front.fresh(base, variant, 0)
    ours = front_curves.logits_of_fit(front.Fit(weights, variant).eval(), recordings)
    for (logits, opening), (want, wanted), one in zip(
        ours, front_card.logits_of(weights, recordings), recordings, strict=True
    ):
        assert logits.shape == (len(one.truth), 15) and opening.shape == (len(one.truth),)
        if look_ahead == 6:
            assert np.abs(logits - want).max() < 1e-3 and np.abs(opening - wanted).max() < 1e-4
        else:
            assert np.abs(logits - want).max() > 1e-2


def test_the_command_writes_what_the_figure_reads(fits, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(front_curves, "speakers", lambda folder: recordings)
    monkeypatch.setattr(front_curves, "trained_speaker", lambda split, corpus: recordings)
    out = tmp_path / "curves.json"
    assert front_curves.main([str(fits), "--speakers", "d", "--calibrate", "d", "--out", str(out)]) == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    table = curves_table(content)
    assert table.groupby("curve")["at"].nunique().to_dict() == {"look_ahead": 2, "minutes": 1, "voices": 1}
    assert content["look_ahead"]["minutes"] == 1.5 and content["voices"]["4"]["minutes"] == 1.5
    assert "synthetic voices alone, truth alone; real_speakers: 2 utterances" in content["what"]
    weights = front.load_front(fits / "look_060_ms.safetensors", front_curves.whisper_tensors(1))
    said = front_card.logits_of(weights, recordings)
    scored = front_card.score(said, recordings, front_card.temperature_of([(said, recordings)] * 2))
    assert content["look_ahead"]["60"]["real_speakers"]["accuracy"] == scored["accuracy"]


def test_the_committed_file_has_this_form():
    content = json.loads((MODELS_DIR / "draft_front" / "curves.json").read_text(encoding="utf-8"))
    assert set(CURVES) == set(front_curves.CURVES.values()) <= set(content)
    for curve in CURVES:
        for place in (key for key in content[curve] if key.isdigit()):
            for which in ("real_speakers", "trained_speaker"):
                assert tuple(content[curve][place][which]) == front_curves.KEPT


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 3}, "train all points alike"),
        ({"teachers": None}, "teachers is"),
        ("not json", "no report of a training"),
        (None, "no fit of the curve over look_ahead"),
    ],
)
def test_what_makes_no_curve_is_one_line(fits, tmp_path, monkeypatch, capsys, change, words):
    path = fits / "report_look_000_ms.json"
    if change is None:
        for each in fits.glob("report_look_*.json"):
            each.unlink()
    else:
        said = json.dumps(json.loads(path.read_text()) | change) if isinstance(change, dict) else change
        path.write_text(said)
    assert front_curves.main([str(fits), "--speakers", "d", "--out", str(tmp_path / "out.json")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0]


def test_a_fit_that_is_gone_is_one_line(fits, recordings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(front_curves, "speakers", lambda folder: recordings)
    monkeypatch.setattr(front_curves, "trained_speaker", lambda split, corpus: recordings)
    (fits / "curve_voices_4.safetensors").unlink()
    assert front_curves.main([str(fits), "--speakers", "d", "--out", str(tmp_path / "out.json")]) == 2
    assert "no such file" in capsys.readouterr().err
