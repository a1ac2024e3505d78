"""The preview's button: it returns at once, its bar follows, it can be cancelled, and an error is a line."""

import threading

import numpy as np
import pytest

from specsync_lib.errors import InputError
from specsync_lib.figures.preview import PREVIEW_SECONDS, Preview
from specsync_lib.pipeline.stages import Stopped
from specsync_lib.units import SAMPLE_RATE_HZ, VIDEO_FPS
from tests.toys.waiting import LONG_S, wait_for_end, wait_until

SOUND = np.random.default_rng(0).normal(size=5 * SAMPLE_RATE_HZ).astype(np.float32)
HEARD = np.zeros_like(SOUND)
FRAMES = int(PREVIEW_SECONDS * VIDEO_FPS)


class Report:
    frame_count, wall_s = FRAMES, 1.0


class Done:
    report = Report()


class Chunk:
    tokens = (0,) * 12


class SlowSystem:
    """Commits a chunk whenever it is let go on, and stops where a system may: between two of its steps."""

    def __init__(self):
        self.go, self.asked = threading.Semaphore(0), []

    def run(self, samples, rule, threshold, *, heard, video, watch, stop, progress, say):
        self.asked.append((samples, heard, rule, threshold))
        for _ in range(FRAMES // 12):
            while not self.go.acquire(timeout=0.005):
                if stop.is_set():
                    raise Stopped
            watch(Chunk())
        video.write_bytes(b"a video")
        return Done()


@pytest.fixture
def system():
    return SlowSystem()


@pytest.fixture
def preview(system):
    return Preview(lambda: system, SOUND, HEARD, lambda: ("gate", 0.6))


def test_a_press_returns_at_once_and_the_bar_follows(preview, system):
    preview.start.value = 1.5
    preview.press()
    assert preview.thread.is_alive() and preview.button.disabled and not preview.cancel.disabled
    thread = preview.thread
    preview.press()  # again, while it works
    assert preview.thread is thread
    system.go.release(2)
    wait_until(lambda: preview.bar.value == 24)
    assert preview.bar.max == FRAMES and preview.video not in preview.widget.children
    system.go.release(3)
    wait_for_end(thread)
    assert preview.bar.value == FRAMES and preview.video.value == b"a video"
    assert preview.video in preview.widget.children
    ((samples, heard, *asked),) = system.asked
    assert asked == ["gate", 0.6] and len(heard) == 2 * SAMPLE_RATE_HZ and not heard.any()
    assert np.array_equal(samples, SOUND[round(1.5 * SAMPLE_RATE_HZ) :][: len(heard)])
    assert "60 frames" in preview.line.value and not preview.button.disabled and preview.cancel.disabled


def test_cancel_does_not_wait_for_the_chunk_in_hand_and_it_can_be_pressed_again(preview, system):
    preview.press()
    system.go.release()
    wait_until(lambda: preview.bar.value == 12)
    preview.cancel.click()  # nothing lets the second chunk go on
    wait_for_end(preview.thread)
    assert preview.line.value == "cancelled after 12 frames" and preview.video not in preview.widget.children
    preview.press()
    system.go.release(5)
    wait_for_end(preview.thread)
    assert preview.bar.value == FRAMES and preview.video.value == b"a video"


def test_cancel_does_not_wait_for_models_that_load_and_the_next_press_has_them(system):
    loads, loaded = [], threading.Event()

    def load():
        loads.append(1)
        assert loaded.wait(LONG_S)
        return system

    preview = Preview(load, SOUND, HEARD, lambda: ("exact", None))
    preview.press()
    first = preview.thread
    wait_until(lambda: loads)
    preview.cancel.click()
    assert first.is_alive() and preview.line.value == "cancelled while the models load" and not preview.button.disabled
    preview.press()
    assert preview.thread is not first
    loaded.set()
    wait_for_end(first)
    system.go.release(5)
    wait_for_end(preview.thread)
    assert loads == [1] and len(system.asked) == 1
    assert preview.bar.value == FRAMES and "60 frames" in preview.line.value and preview.cancel.disabled


def test_an_error_is_a_line(system):
    def broken():
        raise InputError("weights are absent; fetch them")

    preview = Preview(broken, SOUND, HEARD, lambda: ("exact", None))
    preview.press()
    wait_for_end(preview.thread)
    assert preview.line.value == "weights are absent; fetch them" and preview.bar.bar_style == "danger"
    assert not preview.button.disabled
