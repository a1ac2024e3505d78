"""The MP4 writer: exact counts and clocks, all or nothing, constant memory."""

import itertools
import signal
import subprocess
import sys
from fractions import Fraction

import numpy as np
import psutil
import pytest

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.face.video import GrowingVideo, video_info, write_video

FRAME = np.random.default_rng(0).integers(0, 255, (36, 64, 3), dtype=np.uint8)


def noise(count: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal(count)).astype(np.float32)


def repeated(samples: np.ndarray) -> itertools.repeat:
    return itertools.repeat(FRAME, units.frame_count(len(samples)))


@pytest.mark.parametrize("seconds", [1, 60, 300])
def test_frames_and_ends_of_short_and_long_videos(tmp_path, seconds):
    samples = noise(seconds * units.SAMPLE_RATE_HZ)
    info = write_video(tmp_path / "v.mp4", repeated(samples), samples, preset="ultrafast")
    assert info.frame_count == 30 * seconds and info.strictly_rising and info.fps == 30
    assert info.video_end_s == seconds and info.audio_start_s == 0
    assert abs(info.audio_end_s - info.video_end_s) <= Fraction(1, 30)
    assert (info.width_px, info.height_px, info.codec) == (64, 36, "h264")


@pytest.mark.parametrize("count", [1, 266, 267, 534, 16000 + 801, 12345, 16000 * 3 - 1])
def test_odd_lengths_end_within_half_a_frame(tmp_path, count):
    samples = noise(count)
    frames = units.frame_count(count)
    if frames == 0:
        with pytest.raises(InputError):
            write_video(tmp_path / "v.mp4", repeated(samples), samples)
        return
    info = write_video(tmp_path / "v.mp4", repeated(samples), samples)
    assert info.frame_count == frames
    assert abs(info.audio_end_s - Fraction(count, 16000)) < Fraction(1, 1000)
    assert abs(info.audio_end_s - info.video_end_s) <= Fraction(1, 60) + Fraction(1, 1000)


def failing_frames():
    yield from itertools.repeat(FRAME, 7)
    raise RuntimeError("the renderer fell over")


@pytest.mark.parametrize(
    "frames, error, words",
    [
        (failing_frames, RuntimeError, "fell over"),
        (lambda: iter([]), InputError, "ran out after 0 of 30"),
        (lambda: itertools.repeat(FRAME, 29), InputError, "ran out after 29 of 30"),
        (lambda: itertools.repeat(FRAME, 31), InputError, "more than the 30"),
        (lambda: itertools.chain([FRAME], itertools.repeat(FRAME[:18], 29)), InputError, "frame 1 is"),
        (lambda: itertools.repeat(FRAME[:35], 30), InputError, "even"),
        (lambda: itertools.repeat(FRAME.astype(float), 30), InputError, "uint8"),
    ],
)
def test_a_failure_leaves_nothing(tmp_path, frames, error, words):
    with pytest.raises(error, match=words):
        write_video(tmp_path / "v.mp4", frames(), noise(16000))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_file_that_was_there(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"earlier")
    with pytest.raises(RuntimeError):
        write_video(tmp_path / "v.mp4", failing_frames(), noise(16000))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"earlier"]


@pytest.mark.parametrize("samples", [np.zeros(0), np.full(16000, np.nan), np.zeros((2, 16000))])
def test_bad_sound_is_refused(tmp_path, samples):
    with pytest.raises(InputError, match="finite mono"):
        write_video(tmp_path / "v.mp4", itertools.repeat(FRAME, 30), samples)


def test_only_mp4(tmp_path):
    with pytest.raises(InputError, match="MP4 files"):
        write_video(tmp_path / "v.avi", itertools.repeat(FRAME, 30), noise(16000))


def test_index_comes_first(tmp_path):
    samples = noise(32000)
    data = write_video(tmp_path / "v.mp4", repeated(samples), samples).path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_memory_does_not_grow_with_length(tmp_path):
    """A minute of 640x360 is 1.2 GB of frames; the writer may hold a few dozen of them, and its threads and the
    allocator their own, which differ by machine."""
    process = psutil.Process()
    picture = np.random.default_rng(0).integers(0, 255, (360, 640, 3), dtype=np.uint8)
    samples = np.zeros(60 * units.SAMPLE_RATE_HZ, np.float32)
    peak = before = process.memory_info().rss

    def frames():
        nonlocal peak
        for k in range(units.frame_count(len(samples))):
            peak = max(peak, process.memory_info().rss) if k % 60 == 0 else peak
            yield picture.copy()

    write_video(tmp_path / "v.mp4", frames(), samples, preset="ultrafast")
    assert peak - before < 600 * 2**20


def test_a_video_plays_while_it_grows_and_when_it_is_stopped(tmp_path):
    video = GrowingVideo(tmp_path / "v.mp4")
    for count in range(1, 25):
        video.push(FRAME)
        if count % 12 == 0:  # the last frame waits for the next one, or for the end
            assert video_info(video.part).frame_count >= count - 1
    assert video.stop() == video.stop() == tmp_path / "v.part.mp4"
    assert video_info(video.part).frame_count == 24 and not video.path.exists()
    assert GrowingVideo(tmp_path / "none.mp4").stop() is None and not (tmp_path / "none.part.mp4").exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_leaves_what_it_had_and_nothing_under_the_name(tmp_path, how):
    code = (
        "import sys, time, numpy as np; from specsync_lib.face.video import GrowingVideo\n"
        "video = GrowingVideo(sys.argv[1])\n"
        "for k in range(48): video.push(np.zeros((36, 64, 3), np.uint8))\n"
        "print('pushed', flush=True); time.sleep(60)"
    )
    path = tmp_path / "v.mp4"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"pushed\n"
        process.send_signal(how)
        process.wait()
    assert [one.name for one in tmp_path.iterdir()] == ["v.part.mp4"]
    assert video_info(tmp_path / "v.part.mp4").frame_count == 47
    samples = noise(16000)
    assert write_video(path, repeated(samples), samples).frame_count == 30  # the next run goes on
    assert [one.name for one in tmp_path.iterdir()] == ["v.mp4"]


def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "v.part.mp4").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"v\.mp4: cannot be written \(No space left") as raised:
        write_video(tmp_path / "v.mp4", repeated(noise(16000)), noise(16000))
    assert "\n" not in str(raised.value) and list(tmp_path.iterdir()) == []


def test_info_names_a_file_that_is_no_video(tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        video_info(tmp_path / "no.mp4")
    with pytest.raises(InputError):
        video_info(tmp_path / "missing.mp4")
