"""The whole main job at the edges of what it takes: noise, a threshold just under 1, an excerpt of three frames."""

import os

import numpy as np
import pandas as pd
import pytest

from specsync_lib import assets
from specsync_lib.face.video import video_info
from specsync_lib.speech.audio import write_flac
from specsync_lib.units import SAMPLE_RATE_HZ, VIDEO_FPS
from tests.notebooks.test_notebooks import NAMES, run_main_job
from tests.toys.sounds import pink

pytestmark = pytest.mark.slow
long = pytest.mark.skipif(
    not os.environ.get("SPECSYNC_LONG_TESTS"), reason="another whole report; SPECSYNC_LONG_TESTS=1 runs it"
)


def run_to_its_end(folder, *parameters):
    """The run's two folders."""
    assets.fetch()
    folders = folder / "run", folder / "plots"
    answer = run_main_job(folders, *(part for one in parameters for part in ("-p", one)))
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert all((folders[0] / "executed" / f"{name}.ipynb").is_file() for name in NAMES)
    return folders


def test_noise_under_a_threshold_just_below_one_runs_to_the_end(tmp_path):
    write_flac(tmp_path / "noise.flac", pink(SAMPLE_RATE_HZ, np.random.default_rng(0)))
    run, plots = run_to_its_end(tmp_path, f"audio={tmp_path / 'noise.flac'}", "rule=gate", "threshold=0.9999")
    gates = pd.read_csv(run / "recording_sweep.csv").query("rule == 'gate'")
    assert len(gates) == gates["threshold"].nunique() == 11
    assert gates["threshold"].tolist()[-2:] == [0.9999, 1.0]
    assert set(gates["variant"]) <= set(pd.read_csv(run / "recording_frames.csv").columns)
    assert video_info(plots / "lipsync_720p30.mp4").frame_count == VIDEO_FPS


@long
def test_an_excerpt_of_three_frames_with_truth_runs_to_the_end_without_what_it_is_too_short_for(tmp_path):
    run, plots = run_to_its_end(tmp_path, "start_s=0.5", "duration_s=0.1", "threshold=0.0001")
    gates = pd.read_csv(run / "recording_sweep.csv").query("rule == 'gate'")
    assert gates["threshold"].tolist()[:2] == [0.0, 0.0001]
    assert (run / "truth_plan.csv").is_file() and not (plots / "lip_aperture.png").exists()
    rendering = (run / "executed" / "04_video_rendering.ipynb").read_text(encoding="utf-8")
    assert "3 frames are too few to compare" in rendering
    assert video_info(plots / "lipsync_720p30.mp4").frame_count == 3
