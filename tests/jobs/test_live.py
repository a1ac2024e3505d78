"""The live mode: a file and a microphone through toy models into a video, and what a person without one is told."""

import os
import signal
import subprocess
import sys
import threading
import types
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.face.video import video_info
from specsync_lib.figures.live import LiveView, put, stamped
from specsync_lib.jobs import collect, doctor, live, sweep
from specsync_lib.paths import PROJECT_ROOT
from specsync_lib.pipeline.live import LiveFrame
from specsync_lib.speech.audio import write_flac
from tests.jobs.test_sweep import may_not_be_written
from tests.pipeline.test_system import FRAMES, system  # noqa: F401 (a fixture)
from tests.toys.interruptions import interrupted_at_its_start
from tests.toys.systems import SPEECH
from tests.toys.waiting import wait_for_end, wait_until


def heeds_ctrl_c():
    """A shell's background job ignores it, and so does what that starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def at_the_door(system, monkeypatch):  # noqa: F811
    monkeypatch.setattr(live, "load_system", lambda device, seed, **_: system)
    monkeypatch.setattr(live.signal, "signal", lambda *_: None)


def test_a_file_becomes_a_video_with_its_sound_and_a_table(at_the_door, tmp_path, capsys):
    write_flac(tmp_path / "talk.flac", SPEECH)
    out = tmp_path / "talk.mp4"
    assert live.main(["--audio", str(tmp_path / "talk.flac"), "--threshold", "0.6", "--out", str(out)]) == 0
    info = video_info(out)
    assert info.frame_count == FRAMES and (info.width_px, info.height_px) == (1280, 720)
    table = pd.read_csv(out.with_suffix(".csv"))
    assert table["frame"].tolist() == list(range(FRAMES)) and (table["age_ms"] > 0).all()
    assert {path.name for path in tmp_path.iterdir()} == {"talk.flac", "talk.mp4", "talk.csv"}
    said = capsys.readouterr().out
    assert "rule=gate" in said and f"{FRAMES} frames, age p50" in said and "measured, this machine" in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--audio", "absent.wav"], "absent.wav"),
        (["--audio", "mic"], "sounddevice"),
        (["--audio", "mic", "--threshold", "2"], "threshold"),
        (["--audio", "mic", "--chunk-slots", "4"], "expected 1, 2 or 3 slots"),
        (["--audio", "mic", "--chunk-slots", "two"], "invalid int value: 'two'"),
        *((["--audio", "mic", f"--seed={seed}"], f"--seed: got '{seed}'; allowed: a whole number from 0 to 4294967295")
          for seed in ("-1", 20 * "9", 2**32, "1.5", "")),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_left(at_the_door, tmp_path, monkeypatch, capsys, arguments, named):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert live.main([*arguments, "--out", str(tmp_path / "talk.mp4")]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["a folder.mp4", "video", "file/talk.mp4", "read-only/talk.mp4"])
def test_where_no_video_can_lie_is_told_before_models_load(tmp_path, monkeypatch, capsys, where):
    (tmp_path / "a folder.mp4").mkdir()
    (tmp_path / "read-only").mkdir()
    (tmp_path / "file").touch()
    may_not_be_written(monkeypatch, tmp_path / "read-only")
    monkeypatch.setattr(live, "load_system", lambda *_, **__: pytest.fail("loaded"))
    write_flac(tmp_path / "talk.flac", SPEECH)
    before = sorted(tmp_path.rglob("*"))
    assert live.main(["--audio", str(tmp_path / "talk.flac"), "--out", str(tmp_path / where)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("specsync: --out: ") and "give a" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_help_needs_no_docstrings():
    """As PYTHONOPTIMIZE=2 has it."""
    command = [sys.executable, "-OO", "-m", "specsync_lib.jobs", "live", "--help"]
    said = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    assert "at the pace of speech" in said


def test_a_microphone_is_heard_until_it_is_stopped(at_the_door, tmp_path, monkeypatch):
    """Its driver calls from a thread of its own; the stop comes as Ctrl-C does."""
    handlers, seen = {}, threading.Event()
    show = live.Console.show
    monkeypatch.setattr(live.Console, "show", lambda console, frame: (seen.set(), show(console, frame)))
    monkeypatch.setattr(live.signal, "signal", lambda number, handler: handlers.setdefault(number, handler))

    class InputStream:
        def __init__(self, rate, block, channels, dtype, callback):
            assert (rate, channels, dtype) == (units.SAMPLE_RATE_HZ, 1, "float32")
            self.open, self.call, self.block = True, callback, block

        def start(self):
            threading.Thread(target=self._speak, daemon=True).start()

        def _speak(self):
            for first in range(0, len(SPEECH), self.block):
                block = SPEECH[first : first + self.block]
                self.call(block[:, None], len(block), None, None)
            seen.wait(300)
            handlers[live.signal.SIGINT](None, None)

        def close(self):
            self.open = False

    monkeypatch.setitem(sys.modules, "sounddevice", types.SimpleNamespace(InputStream=InputStream))
    out = tmp_path / "talk.mp4"
    assert live.main(["--audio", "mic", "--rule", "draft", "--out", str(out)]) == 0
    assert units.FRAMES_PER_CHUNK <= video_info(out).frame_count <= FRAMES


@pytest.mark.skipif(os.name != "posix", reason="signals as a POSIX shell sends them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_models_load_is_one_line(tmp_path, number):
    """No stream, no video yet: nothing to finish."""
    write_flac(tmp_path / "talk.flac", SPEECH)
    code = f"""
import time
from specsync_lib.jobs import live

def load_system(*_, **__):
    print("loading", flush=True)
    time.sleep(60)

live.load_system = load_system
raise SystemExit(live.main(["--audio", {str(tmp_path / "talk.flac")!r}, "--out", {str(tmp_path / "talk.mp4")!r}]))
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], preexec_fn=heeds_ctrl_c, **pipes) as process:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said.strip()) == (130, "specsync: interrupted")
    assert {path.name for path in tmp_path.iterdir()} == {"talk.flac"}


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back here")
def test_ctrl_c_before_a_jobs_imports_are_done_says_nothing():
    """As run_all.sh starts it: the signal waits until the job listens."""
    answer = interrupted_at_its_start("specsync_lib.jobs", "live", "--help")
    assert (answer.returncode, answer.stdout, answer.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("job", [doctor, sweep, collect])
def test_every_job_ends_as_told_in_one_line(job, monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for stop, line, code in (
        (KeyboardInterrupt(), "specsync: interrupted", 130),
        (OSError("no space"), "specsync: no space; check the disk", 1),
        (InputError("row: no"), "specsync: row: no", 2),
    ):
        monkeypatch.setattr(job, "parse", Mock(side_effect=stop))
        assert job.main([]) == code
        said = capsys.readouterr().err.strip()
        assert said.startswith(line) and "\n" not in said


def test_a_full_queue_loses_its_oldest_frame():
    import queue

    frames = queue.Queue(2)
    for index in range(4):
        put(frames, index)
    assert [frames.get(), frames.get()] == [2, 3]


def test_the_age_stands_on_the_picture():
    dark = np.full((720, 1280, 3), 90, np.uint8)
    shown = stamped(LiveFrame(3, dark, 0.8))
    assert shown.shape == dark.shape and (shown[:40, :300] == 255).any() and np.array_equal(shown[100:], dark[100:])


def test_a_cell_plays_shows_and_comes_to_rest(system):  # noqa: F811
    view = LiveView(lambda: system, SPEECH, SPEECH, lambda: ("draft", None))
    view.press()
    assert view.play.disabled
    wait_for_end(*view.threads)
    assert view.line.value.startswith(f"{FRAMES} frames, age p50") and view.picture.value[:2] == b"\xff\xd8"
    assert not view.play.disabled and view.stop.disabled


def test_a_cell_stops_when_it_is_told(system):  # noqa: F811
    view = LiveView(lambda: system, np.tile(SPEECH, 40), np.tile(SPEECH, 40), lambda: ("draft", None))
    view.press()
    wait_until(lambda: view.picture.value)
    view.stop.click()
    wait_for_end(*view.threads)
    assert not view.play.disabled
