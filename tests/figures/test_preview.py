"""The preview's button: it returns at once, its bar follows, it can be cancelled, and an error is a line."""

import threading
import time

import numpy as np
import pytest

from specsync_lib.errors import InputError
from specsync_lib.figures.preview import PREVIEW_SECONDS, Preview
from specsync_lib.units import SAMPLE_RATE_HZ, VIDEO_FPS

SOUND = np.zeros(5 * SAMPLE_RATE_HZ, np.float32)
FRAMES = int(PREVIEW_SECONDS * VIDEO_FPS)


class Report:
    frame_count, wall_s = FRAMES, 1.0


class Done:
    report = Report()


class Chunk:
    tokens = (0,) * 12


class SlowSystem:
    """Commits a chunk whenever it is let go on."""

    def __init__(self):
        self.go, self.asked = threading.Semaphore(0), []

    def run(self, samples, rule, threshold, *, video, watch, progress, say):
        self.asked.append((len(samples), rule, threshold))
        for _ in range(FRAMES // 12):
            assert self.go.acquire(timeout=20)
            watch(Chunk())
        video.write_bytes(b"a video")
        return Done()


@pytest.fixture
def system():
    return SlowSystem()


@pytest.fixture
def preview(system):
    return Preview(lambda: system, SOUND, lambda: ("gate", 0.6))


def wait_until(true):
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_press_returns_at_once_and_the_bar_follows(preview, system):
    preview.start.value = 1.5
    preview.press()
    assert preview.thread.is_alive() and preview.button.disabled and not preview.cancel.disabled
    thread = preview.thread
    preview.press()  # again, while it works
    assert preview.thread is thread
    system.go.release(2)
    wait_until(lambda: preview.bar.value == 24)
    assert preview.bar.max == FRAMES and preview.video.layout.display == "none"
    system.go.release(3)
    thread.join(20)
    assert preview.bar.value == FRAMES and preview.video.value == b"a video" and preview.video.layout.display == ""
    assert system.asked == [(2 * SAMPLE_RATE_HZ, "gate", 0.6)]
    assert "60 frames" in preview.line.value and not preview.button.disabled and preview.cancel.disabled


def test_cancel_ends_it_after_the_chunk_in_hand_and_it_can_be_pressed_again(preview, system):
    preview.press()
    system.go.release()
    wait_until(lambda: preview.bar.value == 12)
    preview.cancel.click()
    system.go.release()
    preview.thread.join(20)
    assert preview.line.value == "cancelled after 12 frames" and preview.video.layout.display == "none"
    preview.press()
    system.go.release(5)
    preview.thread.join(20)
    assert preview.bar.value == FRAMES and preview.video.value == b"a video"


def test_an_error_is_a_line(system):
    def broken():
        raise InputError("weights are absent; fetch them")

    preview = Preview(broken, SOUND, lambda: ("exact", None))
    preview.press()
    preview.thread.join(20)
    assert preview.line.value == "weights are absent; fetch them" and preview.bar.bar_style == "danger"
    assert not preview.button.disabled
