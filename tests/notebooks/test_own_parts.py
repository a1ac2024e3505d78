"""The whole report of a row of one's own: a Wan checkpoint, a served judge, another Whisper, three speakers."""

import json
import os
import subprocess
import sys

import pytest

from specsync_lib import assets
from specsync_lib.paths import CLIPS_DIR, MEASUREMENTS_DIR
from tests.toys.own_parts import fit_basis, write_parts, write_row
from tests.toys.servers import ToyServer, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("SPECSYNC_LONG_TESTS"), reason="a second whole report; SPECSYNC_LONG_TESTS=1 runs it"
    ),
]


def test_a_row_of_ones_own_runs_the_whole_report(tmp_path):
    assets.fetch()
    run, plots, parts = tmp_path / "run", tmp_path / "plots", tmp_path / "parts"
    parts.mkdir()
    write_parts(parts)
    committed = {path: path.stat().st_mtime_ns for path in MEASUREMENTS_DIR.iterdir()}
    environment = os.environ | {"SPECSYNC_RUN_DIR": str(run), "SPECSYNC_PLOTS_DIR": str(plots)}
    with serving(ToyServer()) as url:
        own = fit_basis(parts)  # on the checkpoint's own latents
        given = ["--row", write_row(parts, "sglang", url, **own), "--corpus", str(parts / "corpus.jsonl")]
        given += ["-p", f"audio={CLIPS_DIR / 'vowels.flac'}", "-p", "duration_s=1.2", "--profile", "smoke"]
        command = [sys.executable, "-P", "-m", "specsync_lib.door.runner", *given]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert answer.returncode == 0, answer.stderr[-3000:]
    html = (plots / "report" / "index.html").read_text(encoding="utf-8")
    first = html[html.index("<h1>") : html.index("The claim under test")]
    for words in ("judge.kind=sglang", "SGLang 0.5 at http://127.0.0.1", "sha256 of video.source", "corpus.jsonl"):
        assert words in first
    assert "not measured for this row" in html
    made = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert made["label"] == "real-shape" and made["models"]["judge"].endswith("behind sglang")
    numbers = json.loads((plots / "report" / "summary.json").read_text(encoding="utf-8"))
    others = [one for one in numbers.values() if one["source"].startswith("data/")]
    assert {one["source"].split("/")[2].split("_")[0] for one in others} <= {"kernel", "slider"}
    assert (run / "acceptance_frames.csv").read_text(encoding="utf-8").count("closures") > 10
    assert {path: path.stat().st_mtime_ns for path in MEASUREMENTS_DIR.iterdir()} == committed
