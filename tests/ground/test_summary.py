"""Headline numbers: finite, labelled, with a unit and a source, and dropped with the notebook that made them."""

import json
import math

import numpy as np
import pytest

from specsync_lib import paths, provenance, summary
from specsync_lib.errors import InputError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "SUMMARY_DIR", tmp_path)
    monkeypatch.setenv("SPECSYNC_NOTEBOOK", "03_acceptance_sweep")
    return tmp_path


def test_a_number_is_kept_in_the_documented_form(folder):
    source = paths.PROJECT_ROOT / "plots" / "acceptance_efficiency.csv"
    summary.record(
        "draft.accuracy", np.float32(0.5), "fraction", "measured", source, 0.25, np.float64(0.75), np.int64(9)
    )
    summary.record("draft.accuracy", 0.625, "fraction", "measured", source, 0.25, 0.75, 9)
    summary.record("report.wall_s", 3, "s", "measured", "data/run/benchmark.json", notebook="run")
    assert [path.name for path in sorted(folder.iterdir())] == ["03_acceptance_sweep.json", "run.json"]
    assert summary.merged() == {
        "draft.accuracy": {
            "value": 0.625,
            "unit": "fraction",
            "label": "measured",
            "low": 0.25,
            "high": 0.75,
            "n": 9,
            "source": "plots/acceptance_efficiency.csv",
        },
        "report.wall_s": {
            "value": 3,
            "unit": "s",
            "label": "measured",
            "low": None,
            "high": None,
            "n": None,
            "source": "data/run/benchmark.json",
        },
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"key": "accuracy"},
        {"key": "Draft.accuracy"},
        {"value": math.nan},
        {"value": math.inf},
        {"value": "0.5"},
        {"value": True},
        {"value": np.float64("nan")},
        {"unit": " "},
        {"label": "guessed"},
        {"source": ""},
        {"low": 0.1},
        {"low": 0.9, "high": 0.1},
        {"low": 0.1, "high": math.nan},
    ],
)
def test_a_number_that_could_mislead_is_refused(changed, folder):
    good = {"key": "draft.accuracy", "value": 0.5, "unit": "fraction", "label": "measured", "source": "data/x.csv"}
    summary.record(**good)
    before = (folder / "03_acceptance_sweep.json").read_text()
    with pytest.raises(InputError) as refusal:
        summary.record(**(good | changed))
    assert len(str(refusal.value).splitlines()) == 1
    assert (folder / "03_acceptance_sweep.json").read_text() == before


@pytest.mark.parametrize(("key", "word"), [("run.rule", "gate"), ("run.language", "de"), ("run.language", "none")])
def test_two_keys_hold_words(key, word):
    summary.record(key, word, "word", "measured", "data/run/run.json")
    assert summary.merged()[key]["value"] == word


@pytest.mark.parametrize(
    "changed",
    [
        {"value": "best"}, {"value": "exact "}, {"value": ""}, {"value": 1.0}, {"value": None}, {"unit": "ratio"},
        {"low": 0, "high": 1}, {"key": "run.language", "value": "<b>de</b>"}, {"key": "run.threshold"},
    ],
)  # fmt: skip
def test_a_word_that_may_not_stand_there_is_refused(changed):
    good = {"key": "run.rule", "value": "exact", "unit": "word", "label": "measured", "source": "data/run/run.json"}
    with pytest.raises(InputError) as refusal:
        summary.record(**(good | changed))
    assert len(str(refusal.value).splitlines()) == 1


def test_one_key_has_one_owner():
    for notebook in ("01_a", "02_b"):
        summary.record("draft.ece", 0.1, "fraction", "measured", "x", notebook=notebook)
    with pytest.raises(InputError, match=r"draft\.ece: recorded by 01_a and by 02_b"):
        summary.merged()


def test_provenance_is_plain_json_with_the_pinned_versions():
    facts = json.loads(json.dumps(provenance.machine(), allow_nan=False))
    assert facts["versions"]["torch"].startswith("2.13.0")
    assert facts["cores"] >= 1
    table = provenance.versions()
    assert list(table.columns) == ["what", "version"]
    assert table["what"].iloc[0] == "python"
    assert "not installed" not in set(table.loc[table["what"].isin(["torch", "papermill", "numpy"]), "version"])
