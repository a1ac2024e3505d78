"""Files are whole or absent, readable by whom the user's umask lets read them."""

import json
import os
import resource
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from specsync_lib.files import atomic_path, made_meanwhile, write_json, write_text
from specsync_lib.paths import PROJECT_ROOT


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o027, 0o077])
def test_the_umask_decides_who_may_read(tmp_path, umask):
    import numpy as np

    before = os.umask(umask)
    try:
        write_text(tmp_path / "words.txt", "größe")
        with atomic_path(tmp_path / "own.safetensors") as path:
            save_file({"a": np.zeros(3)}, path)  # which makes its file anew, for its owner alone
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path.name


@given(old=st.text(), new=st.text(), fails=st.booleans())
def test_a_file_is_the_old_one_or_the_new_one(tmp_path_factory, old, new, fails):
    folder = tmp_path_factory.mktemp("files")
    path = folder / "a.b.json"
    write_json(path, old)
    before = path.read_bytes()
    try:
        with atomic_path(path) as temporary:
            assert temporary.suffix == path.suffix
            temporary.write_bytes(new.encode(errors="replace"))
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert path.read_bytes() == before
    else:
        assert path.read_bytes() == new.encode(errors="replace")
    assert [one.name for one in folder.iterdir()] == [path.name]


def test_what_was_made_meanwhile_is_known_whoever_of_ours_made_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text("before.txt", "")
    with made_meanwhile() as made:
        write_text("here.txt", "")
        write_text("sub/../größe\n.txt", "")
        command = "from specsync_lib.files import write_text; write_text('there.txt', '')"
        environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
        subprocess.run([sys.executable, "-c", command], env=environment, check=True)
        (tmp_path / "theirs.txt").write_text("")
        with pytest.raises(RuntimeError), atomic_path("half.txt"):
            raise RuntimeError
    write_text("after.txt", "")
    assert made == {tmp_path / name for name in ("here.txt", "größe\n.txt", "there.txt")}
    assert "SPECSYNC_MADE" not in os.environ


def test_who_outlives_the_one_that_waited_writes_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECSYNC_MADE", str(tmp_path / "gone" / "made"))
    write_text(tmp_path / "late.txt", "late")
    assert (tmp_path / "late.txt").read_text() == "late"


def test_the_longest_name_that_fits_can_be_written(tmp_path):
    name = "x" * 251 + ".txt"
    write_text(tmp_path / name, "")
    assert [path.name for path in tmp_path.iterdir()] == [name]


TEXT_OF_JSON = st.text(st.sampled_from('{}[]", \n\\a1 é'))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT_OF_JSON,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT_OF_JSON, inner, max_size=4),
    max_leaves=25,
)


@given(content=JSON)
def test_json_comes_back_as_it_was(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == content


def test_a_tables_row_and_a_list_of_numbers_stand_on_one_line(tmp_path):
    write_json(tmp_path / "a.json", {"rows": [{"n": 1, "at": [1, 2]}, {"n": 2, "at": []}], "one": {"n": [1.5, -2]}})
    assert (tmp_path / "a.json").read_text().splitlines() == [
        "{", '  "rows": [', '    {"n": 1, "at": [1, 2]},', '    {"n": 2, "at": []}', "  ],",
        '  "one": {', '    "n": [1.5, -2]', "  }", "}",
    ]  # fmt: skip


FULL = """
import sys
from pathlib import Path
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from specsync_lib.errors import InputError
from specsync_lib.face.video import write_video
from specsync_lib.figures.style import save_figure
from specsync_lib.files import write_text
from specsync_lib.speech.audio import write_flac
folder = Path(sys.argv[1])
noise = np.random.default_rng(0)
frames = (noise.integers(0, 256, (720, 1280, 3)).astype(np.uint8) for _ in range(30))
figure = Figure()
figure.subplots().imshow(noise.random((500, 500)))
makers = {
    "video": lambda: write_video(folder / "video.mp4", frames, noise.uniform(-1, 1, 16000).astype(np.float32)),
    "sound": lambda: write_flac(folder / "sound.flac", noise.uniform(-1, 1, 160000).astype(np.float32)),
    "figure": lambda: save_figure(figure, "figure", pd.DataFrame({"x": [1]}), folder),
    "text": lambda: write_text(folder / "text.txt", "x" * 200_000),
}
for name, make in makers.items():
    try:
        make()
        print(name, "was written")
    except (InputError, OSError) as error:
        print(name, type(error).__name__, str(error).count("\\n"), error)
"""


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing_partial(tmp_path):
    """Every kind of file that a run makes, where no file can grow beyond 100 KB."""

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, preexec_fn=small, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["video", "sound", "figure", "text"], done.stderr[-2000:]
    for line in lines:
        assert line.split()[1] in ("InputError", "OSError"), line
        assert line.split()[2] == "0"
        assert "too large" in line or "full" in line, line
    assert [path.name for path in tmp_path.iterdir() if path.name != "video.part.mp4"] == []
