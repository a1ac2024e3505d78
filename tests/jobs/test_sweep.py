"""Sweeps: one result a recording, resumable at any moment, and what is collected is that of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from specsync_lib.errors import InputError
from specsync_lib.jobs import collect, sweep
from specsync_lib.jobs.arguments import parse
from specsync_lib.judge.policy import load_policy
from specsync_lib.paths import PROJECT_ROOT
from specsync_lib.pipeline.models import Listeners
from specsync_lib.speech.audio import write_flac
from specsync_lib.units import SAMPLE_RATE_HZ
from tests.toys.fronts import toy_draft, toy_ears
from tests.toys.reasoner import tiny_reasoner

UNTIMED = ["id", "speaker", "language", "frames", "chunks", "passes", "stands"]


def write_corpus(folder, count: int, speakers: int = 3):
    rng = np.random.default_rng(0)
    lines = []
    for index in range(count):
        samples = 0.1 * rng.standard_normal(round(SAMPLE_RATE_HZ * rng.uniform(0.3, 0.6)))
        write_flac(folder / f"{index}.flac", samples.astype(np.float32))
        lines.append({"id": f"talk/{index}", "audio": f"{index}.flac", "speaker": f"speaker {index % speakers}",
                      "language": "en"})  # fmt: skip
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def toy_listeners(*_, **__) -> Listeners:
    return Listeners(toy_draft(), toy_ears(), tiny_reasoner(), load_policy())


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr(sweep, "load_listeners", toy_listeners)


def test_a_sweep_of_three_speakers_is_collected_into_tables_and_one_page(toys, tmp_path, capsys):
    corpus, out = write_corpus(tmp_path, 6), tmp_path / "out"
    (tmp_path / "5.flac").write_bytes(b"no sound")
    assert sweep.main(["--corpus", str(corpus), "--out", str(out)]) == 0
    assert collect.main(["--out", str(out)]) == 0
    recordings = pd.read_csv(out / "recordings.csv")
    assert len(recordings) == 6 and recordings["error"].notna().sum() == 1
    groups = pd.read_csv(out / "groups.csv").set_index(["kind", "name"])
    assert len(groups.loc["speaker"]) == 3 and groups.loc[("all", "all"), "recordings"] == 5
    assert groups["stands"].between(groups["stands_low"], groups["stands_high"]).all()
    curve = pd.read_csv(out / "acceptance.csv")
    assert np.isclose(curve["acceptance"].iloc[0], groups.loc[("all", "all"), "stands"], atol=1e-4)
    page = (out / "report.html").read_text("utf-8")
    assert "Row embedded" in page and "real-shape" in page and "whole speakers are drawn" in page and "5.flac" in page
    assert "6 of 6 recordings" in capsys.readouterr().out


def test_what_is_there_is_not_made_again_and_shards_share_the_folder(toys, tmp_path, monkeypatch):
    corpus, out = write_corpus(tmp_path, 5), tmp_path / "out"
    judged, whole = [], sweep.judge_one
    monkeypatch.setattr(sweep, "judge_one", lambda one, models: judged.append(one.id) or whole(one, models))
    for shard in ("1/2", "2/2", "2/2", "1/1"):
        assert sweep.main(["--corpus", str(corpus), "--out", str(out), "--shard", shard]) == 0
    assert sorted(judged) == [f"talk/{index}" for index in range(5)]
    write_flac(tmp_path / "3.flac", np.zeros(8000, np.float32))
    assert sweep.main(["--corpus", str(corpus), "--out", str(out)]) == 0
    assert judged[5:] == ["talk/3"], "another recording under the same id"


def test_a_judge_without_a_verdict_leaves_no_result_and_one_that_is_gone_ends_it(toys, tmp_path, monkeypatch, capsys):
    corpus, out = write_corpus(tmp_path, 8), tmp_path / "out"

    def silent(*_):
        raise sweep.NoVerdict("talk: the judge gave no verdict on 1 of 1 chunks")

    whole = sweep.judge_one
    monkeypatch.setattr(sweep, "judge_one", lambda one, models: silent() if one.id == "talk/2" else whole(one, models))
    assert sweep.main(["--corpus", str(corpus), "--out", str(out)]) == 1
    assert "7 of 8 recordings" in capsys.readouterr().out
    monkeypatch.setattr(sweep, "judge_one", silent)
    assert sweep.main(["--corpus", str(corpus), "--out", str(tmp_path / "other")]) == InputError.EXIT_CODE
    assert "5 recordings in a row" in capsys.readouterr().err
    monkeypatch.setattr(sweep, "judge_one", whole)
    assert sweep.main(["--corpus", str(corpus), "--out", str(out)]) == 0


KILLED = """
import sys, time
from specsync_lib.jobs import sweep
from tests.jobs.test_sweep import toy_listeners
sweep.load_listeners = toy_listeners
sys.exit(sweep.main(sys.argv[1:]))
"""


def test_a_sweep_that_is_killed_at_any_moment_collects_what_an_undisturbed_one_does(toys, tmp_path):
    corpus, out, whole = write_corpus(tmp_path, 30), tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, "--corpus", str(corpus), "--out", str(out)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list((out / sweep.RESULTS).glob("[!.]*.json"))) < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    made = len(list((out / sweep.RESULTS).glob("[!.]*.json")))
    assert 3 <= made < 30
    for folder in (out, whole):
        assert sweep.main(["--corpus", str(corpus), "--out", str(folder)]) == 0
        collect.collect(folder)
    tables = [pd.read_csv(folder / "recordings.csv")[UNTIMED] for folder in (out, whole)]
    pd.testing.assert_frame_equal(*tables)
    assert (out / "groups.csv").read_bytes() == (whole / "groups.csv").read_bytes()
    assert (out / "acceptance.csv").read_bytes() == (whole / "acceptance.csv").read_bytes()


@pytest.mark.parametrize(
    ("job", "arguments", "says"),
    [
        ("sweep", [], "the following arguments are required: --out"),
        ("sweep", ["--out", "x"], "a sweep needs a corpus.jsonl"),
        ("sweep", ["--corpus", "none.jsonl", "--out", "x"], "none.jsonl is not there"),
        ("sweep", ["--corpus", "none.txt", "--out", "x"], "allowed: prompts, or the path of a corpus.jsonl"),
        ("collect", ["--out", "/none/at/all"], "holds no sweep that can be read"),
        *(("sweep", ["--corpus", "CORPUS", "--out", "x", "--shard", shard], "write i/n") for shard in
          ("0/2", "3/2", "2", "a/b", "1/0")),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_line(job, arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    corpus = str(write_corpus(tmp_path, 1))
    arguments = [corpus if one == "CORPUS" else one for one in arguments]
    assert {"sweep": sweep, "collect": collect}[job].main(arguments) == InputError.EXIT_CODE
    line = capsys.readouterr().err
    assert says in line and line.count("\n") == 1


def test_a_folder_of_another_row_is_refused(toys, tmp_path, capsys):
    given = ["--corpus", str(write_corpus(tmp_path, 1)), "--out", str(tmp_path / "out")]
    assert sweep.main(given) == 0
    assert sweep.main([*given, "-p", "judge.temperature=2"]) == InputError.EXIT_CODE
    assert "holds a sweep of another row or corpus" in capsys.readouterr().err
    assert parse("sweep", given).recordings[0].id == "talk/0"
