"""The whole main job in its smallest size: numbers from the summary, the video's shape, and nothing done twice."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import av
import pandas as pd
import pytest

from specsync_lib import assets
from specsync_lib.door.report import reading
from specsync_lib.door.words import CAPTIONS
from specsync_lib.files import atomic_path
from specsync_lib.paths import NOTEBOOKS_DIR, PROJECT_ROOT
from specsync_lib.units import VIDEO_FPS, VIDEO_HEIGHT_PX, VIDEO_WIDTH_PX, frame_count
from specsync_lib.visemes import SyncPlan

pytestmark = pytest.mark.slow
SMOKE_FRAMES = VIDEO_FPS  # the smoke profile renders one second
OFFLINE = PROJECT_ROOT / "tests" / "toys" / "offline"
NAMES = [path.stem for path in sorted(NOTEBOOKS_DIR.glob("0*.ipynb"))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run's folders beside nothing else's: the checkout's own run stays as it is."""
    folder = tmp_path_factory.mktemp("main-job")
    return folder / "run", folder / "plots"


def without_network():
    """What is put before a command to run it in a network namespace that holds the loopback alone; [] without one."""
    loopback = [sys.executable, str(OFFLINE / "loopback.py")]
    for unshare in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        try:
            if subprocess.run([*unshare, *loopback, "/bin/true"], capture_output=True, check=False).returncode == 0:
                return [*unshare, *loopback]
        except OSError:
            break
    return []


def run_main_job(folders, *arguments):
    run, plots = folders
    environment = os.environ | {"SPECSYNC_RUN_DIR": str(run), "SPECSYNC_PLOTS_DIR": str(plots)}
    environment |= {"SPECSYNC_TEST_SOCKETS": str(run.parent / "sockets.txt")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "specsync_lib.door.runner", "--profile", "smoke", *arguments]
    command = [*without_network(), *command]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)


@pytest.fixture(scope="module")
def finished(folders):
    assets.fetch()  # the only thing that needs a network, and only once
    answer = run_main_job(folders)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert f"report: {folders[1] / 'report' / 'index.html'}" in answer.stdout
    return folders


@pytest.fixture(scope="module")
def numbers(finished):
    return json.loads((finished[1] / "report" / "summary.json").read_text(encoding="utf-8"))


def test_the_whole_job_opens_no_socket_but_to_this_machine(finished):
    """Every process of it was watched, and where the system allows it nothing else could have been reached."""
    lines = (finished[0].parent / "sockets.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("watched ")] == []
    assert len(set(lines)) > len(NAMES)  # the job itself, and a kernel for each notebook


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("socket.create_connection(('192.0.2.1', 9), timeout=1)", True),
        ("socket.getaddrinfo('example.org', 80)", True),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 9))", True),
        ("socket.socket().bind(('0.0.0.0', 0))", True),
        ("socket.socket().bind(('127.0.0.1', 0)); socket.getaddrinfo('localhost', 80)", False),
        ("socket.socket(socket.AF_UNIX).connect('nowhere')", False),
    ],
)
def test_the_watch_sees_what_it_is_to_see(tmp_path, code, refused):
    environment = os.environ | {"PYTHONPATH": str(OFFLINE), "SPECSYNC_TEST_SOCKETS": str(tmp_path / "notes")}
    subprocess.run([sys.executable, "-c", f"import socket\n{code}"], env=environment, capture_output=True, check=False)
    notes = (tmp_path / "notes").read_text(encoding="utf-8")
    assert notes.startswith("watched ")
    assert ("refused" in notes) == refused


def test_the_summary_holds_sane_numbers(numbers):
    for how_much in ("report.wall_s", "report.peak_rss_gib", "features.rtf", "features.hop_latency_ms"):
        assert numbers[how_much]["value"] > 0
    assert numbers["video.frame_count_error"]["value"] == 0
    assert abs(numbers["video.av_end_difference_ms"]["value"]) <= 1000 / VIDEO_FPS
    assert abs(numbers["video.beep_flash_offset_ms"]["value"]) <= 5
    for entry in numbers.values():
        assert entry["label"] in ("measured", "real-shape", "simulated", "claimed")
        assert entry["unit"]


def test_every_number_and_figure_of_the_run_has_words_in_the_report(numbers, finished):
    assert {key for key in numbers if reading(key) == key} == set()
    assert {figure.stem for figure in finished[1].glob("*.png")} <= set(CAPTIONS)
    assert numbers["run.rule"]["value"] == "exact" and numbers["run.language"]["value"] == "en"


def test_the_draft_beats_what_any_draft_must_beat(numbers, finished):
    if not json.loads((finished[0] / "input.json").read_text(encoding="utf-8"))["human"]:
        pytest.skip("the human corpus is not here: these numbers are about human speech")
    assert numbers["draft.accuracy"]["value"] > 0.7
    assert numbers["draft.accuracy"]["value"] > numbers["draft.energy_accuracy"]["value"] + 0.2
    assert numbers["draft.majority_accuracy"]["value"] < 0.3
    assert numbers["draft.acceptance_at_085"]["value"] > numbers["draft.accuracy"]["value"]
    assert 0 < numbers["draft.coverage_at_085"]["value"] < 1
    assert 0 <= numbers["draft.ece"]["value"] < 0.2


def test_the_plans_have_the_recordings_length_and_the_video_its_first_second(finished):
    run, plots = finished
    with av.open(run / "speech.flac") as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    with av.open(plots / "lipsync_720p30.mp4") as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.average_rate) == (VIDEO_WIDTH_PX, VIDEO_HEIGHT_PX, VIDEO_FPS)
        times = [frame.pts for frame in container.decode(video=0)]
        assert len(container.streams.audio) == 1
    assert len(times) == SMOKE_FRAMES
    assert all(later > earlier for earlier, later in pairwise(times))
    for name in ("truth_plan.csv", "draft_plan.csv"):
        assert len(SyncPlan.from_frame(pd.read_csv(run / name)).visemes) == frame_count(samples)


def test_every_notebook_left_a_page_a_figure_and_its_table(finished):
    plots = finished[1]
    for name in NAMES:
        assert (plots / "report" / f"{name}.html").stat().st_size > 10_000
    figures = sorted(plots.glob("*.png"))
    assert len(figures) >= 4
    assert all(figure.with_suffix(".csv").stat().st_size > 0 for figure in figures)
    assert (plots / "acceptance_efficiency.png") in figures


def test_a_second_run_repeats_nothing_and_keeps_its_numbers(finished, numbers):
    run, plots = finished
    before = {path: path.stat().st_mtime_ns for path in (run / "executed").iterdir()}
    answer = run_main_job(finished)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert answer.stdout.count("unchanged since it ran, kept") == len(NAMES)
    assert {path: path.stat().st_mtime_ns for path in (run / "executed").iterdir()} == before
    again = json.loads((plots / "report" / "summary.json").read_text(encoding="utf-8"))
    assert again == numbers


def test_no_run_leaves_a_temporary_file_or_touches_the_sources(finished):
    run, plots = finished
    assert not [path for folder in (run, plots) for path in folder.rglob(".*") if path.is_file()]
    with pytest.raises(RuntimeError), atomic_path(plots / "x.mp4"):
        raise RuntimeError("encoder failed")
    assert not (plots / "x.mp4").exists()
    assert not list(PROJECT_ROOT.glob("notebooks/*.mp4"))
