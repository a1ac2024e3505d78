"""The long run's measurement: what it reads off a part file, and what it refuses."""

import numpy as np

from specsync_lib.face.video import GrowingVideo
from workbench.measure import long_run


def test_a_part_file_holds_all_pictures_but_the_one_in_hand(tmp_path):
    video = GrowingVideo(tmp_path / "talk.mp4")
    for grey in range(0, 250, 10):
        video.push(np.full((720, 1280, 3), grey, np.uint8))
    assert long_run.pictures_in(tmp_path / "talk.part.mp4") in (24, 25)
    video.finish(np.zeros(25 * 1600 // 3, np.float32))
    assert long_run.pictures_in(tmp_path / "talk.mp4") == 25


def test_a_length_under_a_second_is_one_line(tmp_path, capsys):
    assert long_run.main(["--out", str(tmp_path / "x.json"), "--seconds", "0.5"]) == 2
    assert capsys.readouterr().err == "--seconds 0.5: give at least 1\n"
