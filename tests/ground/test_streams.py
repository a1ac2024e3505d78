"""Output that goes nowhere: a reader who left, a full disk, a closed descriptor, a terminal without UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from specsync_lib.paths import PROJECT_ROOT

TALK = """
import os, subprocess, sys
from tqdm import tqdm
from specsync_lib import streams
streams.settle()
for k in range(5000):
    print(k, "» größe →")
    print(k, "» größe →", file=sys.stderr)
for _ in tqdm(range(3)):
    pass
subprocess.run([sys.executable, "-c", "for k in range(20000): print(k)"], check=True)
subprocess.run([sys.executable, "-c", "import os; [os.fstat(k) for k in range(3)]"], check=True, close_fds=False)
with open(sys.argv[1], "w") as file:
    file.write(f"{file.fileno()} {sys.stdout.encoding}")
"""


@pytest.mark.parametrize(
    "where",
    ["| head -1", "2>&1 | head -1", ">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full", "2> /dev/full", "> /dev/null"],
)
def test_what_nobody_hears_stops_nothing(tmp_path, where):
    script = tmp_path / "talk.py"
    script.write_text(TALK, encoding="utf-8")
    command = f'set -o pipefail; "$0" "$1" "$2" {where}'
    arguments = ["bash", "-c", command, sys.executable, script, tmp_path / "done"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    answer = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0, answer.stderr[-1000:]
    assert "Traceback" not in answer.stdout + answer.stderr
    assert "Exception ignored" not in answer.stdout + answer.stderr
    assert int(Path(tmp_path, "done").read_text().split()[0]) > 2  # no file of ours got a closed descriptor's number


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "0 ? gr??e ?"), ("latin-1", "0 » größe ?"), ("utf-8", "0 » größe →")]
)
def test_a_terminal_without_utf_8_gets_what_it_can_show(tmp_path, encoding, shown):
    code = "from specsync_lib import streams\nstreams.settle()\nprint('0 » größe →')"
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "PYTHONIOENCODING": encoding}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert answer.returncode == 0
    assert answer.stdout.decode(encoding).strip() == shown
