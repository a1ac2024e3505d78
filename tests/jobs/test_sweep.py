"""Sweeps: one result a recording, resumable at any moment, and what is collected is that of an undisturbed one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from specsync_lib import files, rows
from specsync_lib.errors import InputError
from specsync_lib.jobs import collect, result, spread, sweep
from specsync_lib.jobs.arguments import parse
from specsync_lib.judge.policy import load_policy
from specsync_lib.paths import PROJECT_ROOT
from specsync_lib.pipeline.models import Listeners
from specsync_lib.speech.audio import write_flac
from specsync_lib.speech.manifest import read_manifest
from specsync_lib.units import SAMPLE_RATE_HZ
from tests.toys.fronts import toy_draft, toy_ears
from tests.toys.own_parts import write_parts, write_row
from tests.toys.programs import may_be_run
from tests.toys.reasoner import tiny_reasoner
from tests.toys.servers import ToyServer, serving

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
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join(lines[:4] + lines[5:]))
    assert collect.main(["--out", str(out)]) == 0
    assert len(pd.read_csv(out / "recordings.csv")) == 5, "one has left the corpus"
    page = (out / "report.html").read_text("utf-8")
    assert "Row embedded" in page and "real-shape" in page and "whole speakers are drawn" in page and "5.flac" in page
    assert "6 of 6 recordings" in capsys.readouterr().out


def test_what_is_there_is_not_made_again_and_shards_share_the_folder(toys, tmp_path, monkeypatch):
    corpus, out = write_corpus(tmp_path, 5), tmp_path / "out"
    judged, whole = [], result.judge_one
    monkeypatch.setattr(result, "judge_one", lambda one, models: judged.append(one.id) or whole(one, models))
    for shard in ("1/2", "2/2", "2/2", "1/1"):
        assert sweep.main(["--corpus", str(corpus), "--out", str(out), "--shard", shard]) == 0
    assert sorted(judged) == [f"talk/{index}" for index in range(5)]
    write_flac(tmp_path / "3.flac", np.zeros(8000, np.float32))
    assert sweep.main(["--corpus", str(corpus), "--out", str(out)]) == 0
    assert judged[5:] == ["talk/3"], "another recording under the same id"


def test_a_judge_without_a_verdict_leaves_no_result_and_one_that_is_gone_ends_it(toys, tmp_path, monkeypatch, capsys):
    corpus, out = write_corpus(tmp_path, 8), tmp_path / "out"

    def silent(*_):
        raise result.NoVerdict("talk: the judge gave no verdict on 1 of 1 chunks")

    whole = result.judge_one
    monkeypatch.setattr(result, "judge_one", lambda one, models: silent() if one.id == "talk/2" else whole(one, models))
    assert sweep.main(["--corpus", str(corpus), "--out", str(out)]) == 1
    assert "7 of 8 recordings" in capsys.readouterr().out
    monkeypatch.setattr(result, "judge_one", silent)
    assert sweep.main(["--corpus", str(corpus), "--out", str(tmp_path / "other")]) == InputError.EXIT_CODE
    assert "5 recordings in a row" in capsys.readouterr().err
    monkeypatch.setattr(result, "judge_one", whole)
    assert sweep.main(["--corpus", str(corpus), "--out", str(out)]) == 0


def changed(**values):
    """A result with other values."""
    return lambda text: json.dumps(json.loads(text) | values)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("sweep.json", lambda text: "[]", "its row"),
        ("sweep.json", lambda text: "{}", "its row"),
        ("sweep.json", lambda text: text[:9], "can not be read"),
        ("sweep.json", changed(digests=None), "its digests"),
        ("sweep.json", changed(row='{"judge": {"gone": 1}}'), "a row that is taken no more"),
        ("result", lambda text: "[1]", "its id"),
        ("result", lambda text: text[:99], "can not be read"),
        *(("result", changed(**{key: None}), f"its {key}") for key in
          ("id", "speaker", "audio", "label", "engine", "frames", "seconds", "confidence", "stands")),
        ("result", changed(frames="7"), "its frames"),
        ("result", changed(frames=7), "its confidence is not of 7 frames"),
        ("result", changed(confidence=0.5), "its confidence"),
        ("result", changed(stands=[1, 0]), "its stands is not of"),
        ("result", changed(judge_right=["x"]), "its judge_right"),
        ("result", changed(label="measured"), "results of several labels"),
    ],
)  # fmt: skip
def test_a_damaged_sweep_is_one_line(toys, tmp_path, capsys, name, change, says):
    corpus, out = write_corpus(tmp_path, 2), tmp_path / "out"
    assert sweep.main(["--corpus", str(corpus), "--out", str(out)]) == 0
    path = out / name if name == "sweep.json" else result.result_path(out, "talk/0")
    path.write_text(change(path.read_text()))
    capsys.readouterr()
    assert collect.main(["--out", str(out)]) == InputError.EXIT_CODE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"specsync: --out: {out}") and says in line and "sweep again" in line
    assert not list(out.glob("*.csv"))


def test_a_sweep_that_lost_its_own_file_gets_it_again(toys, tmp_path, capsys):
    given = ["--corpus", str(write_corpus(tmp_path, 2)), "--out", str(tmp_path / "out")]
    assert sweep.main(given) == 0
    (tmp_path / "out" / "sweep.json").unlink()
    assert collect.main(given[2:]) == InputError.EXIT_CODE and "run ./run_all.sh sweep" in capsys.readouterr().err
    assert sweep.main(given) == 0 == collect.main(given[2:])


def test_a_recording_that_left_its_place_costs_no_table(toys, tmp_path, capsys):
    given = ["--corpus", str(write_corpus(tmp_path, 3)), "--out", str(tmp_path / "out")]
    assert sweep.main(given) == 0
    (tmp_path / "1.flac").unlink()
    capsys.readouterr()
    assert collect.main(given[2:]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "Parquet" not in line]
    assert len(said) == 1 and "1.flac is not there; all results are shown" in said[0]
    assert len(pd.read_csv(tmp_path / "out" / "recordings.csv")) == 3
    assert "1.flac is not there; all results are shown" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("where", ["out", "out/below", "out/results", "dangling", "out/sweep.json"])
def test_what_can_not_become_a_sweeps_folder_is_refused_before_models_load(tmp_path, monkeypatch, capsys, where):
    monkeypatch.setattr(sweep, "load_listeners", lambda *_: pytest.fail("loaded"))
    out = tmp_path / "out"
    if where == "out/results":
        out.mkdir()
        (out / "results").write_text("")
    elif where == "out/sweep.json":
        (out / "sweep.json").mkdir(parents=True)
    elif where == "dangling":
        out.symlink_to("nowhere")
    else:
        out.write_text("")
    given = tmp_path / where if where == "out/below" else out
    assert sweep.main(["--corpus", str(write_corpus(tmp_path, 1)), "--out", str(given)]) == InputError.EXIT_CODE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"specsync: --out: {out}") and line.endswith(
        "give another folder" if "json" in where else "give another"
    )


def may_not_be_written(monkeypatch, folder):
    """As on a read-only file system, which root may not write either."""
    real = os.access
    monkeypatch.setattr(files.os, "access", lambda path, mode: path != folder and real(path, mode))


def test_a_read_only_folder_is_told_before_anything_is_judged_and_a_whole_sweep_needs_none(
    toys, tmp_path, monkeypatch, capsys
):
    corpus, out = write_corpus(tmp_path, 2), tmp_path / "out"
    given = ["--corpus", str(corpus), "--out", str(out)]
    assert sweep.main(given) == 0
    capsys.readouterr()
    may_not_be_written(monkeypatch, out)
    monkeypatch.setattr(sweep, "load_listeners", lambda *_: pytest.fail("loaded"))
    assert sweep.main(given) == 0
    assert capsys.readouterr().err == ""
    (out / result.RESULTS).rename(tmp_path / "results")
    told = f"specsync: --out: nothing can be written into {out}; give another\n"
    assert sweep.main(given) == InputError.EXIT_CODE
    assert capsys.readouterr().err == told
    (tmp_path / "results").rename(out / result.RESULTS)
    assert collect.main(given[2:]) == InputError.EXIT_CODE
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 300, "x/" * 3000])
def test_what_a_folder_is_called_never_breaks_the_line(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert collect.main(["--out", name]) == InputError.EXIT_CODE
    if "x" in name:
        monkeypatch.setattr(sweep, "load_listeners", lambda *_: pytest.fail("loaded"))
        assert sweep.main(["--corpus", str(write_corpus(tmp_path, 1)), "--out", name]) == InputError.EXIT_CODE
    for line in (said := capsys.readouterr().err.split("\n"))[:-1]:
        assert line.startswith("specsync: ") and line.isprintable() and len(line) < 500
    assert len(said) == 2 + ("x" in name) and not said[-1]


def test_a_folder_may_lie_in_ones_home(toys, tmp_path, monkeypatch):
    """A shell leaves the ~ of --out=~/results as it is."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert sweep.main(["--corpus", str(write_corpus(tmp_path, 1)), "--out=~/results"]) == 0
    assert collect.main(["--out=~/results"]) == 0
    assert (tmp_path / "home" / "results" / "report.html").is_file()
    assert not (tmp_path / "~").exists()


KILLED = """
import sys, time
from specsync_lib.jobs import sweep
from tests.jobs.test_sweep import toy_listeners
sweep.load_listeners = toy_listeners
def slowly(*given, write=sweep.write_json):  # however fast the machine, thirty last longer than it takes to see three
    time.sleep(0.1)
    write(*given)
sweep.write_json = slowly
sys.exit(sweep.main(sys.argv[1:]))
"""


def test_a_sweep_that_is_killed_at_any_moment_collects_what_an_undisturbed_one_does(toys, tmp_path):
    corpus, out, whole = write_corpus(tmp_path, 30), tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, "--corpus", str(corpus), "--out", str(out)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list((out / result.RESULTS).glob("[!.]*.json"))) < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    made = len(list((out / result.RESULTS).glob("[!.]*.json")))
    assert 3 <= made < 30
    for folder in (out, whole):
        assert sweep.main(["--corpus", str(corpus), "--out", str(folder)]) == 0
        collect.collect(folder)
    tables = [pd.read_csv(folder / "recordings.csv")[UNTIMED] for folder in (out, whole)]
    pd.testing.assert_frame_equal(*tables)
    assert (out / "groups.csv").read_bytes() == (whole / "groups.csv").read_bytes()
    assert (out / "acceptance.csv").read_bytes() == (whole / "acceptance.csv").read_bytes()


def test_a_row_that_does_not_load_claims_no_folder(tmp_path, capsys):
    given = ["--corpus", str(write_corpus(tmp_path, 1)), "--out", str(tmp_path / "out")]
    parts = ["-p", "judge.source=./none", "-p", "judge.weights=random"]
    assert sweep.main([*given, *parts]) == InputError.EXIT_CODE
    gone = ["-p", "judge.kind=sglang", "-p", "judge.url=http://127.0.0.1:1", "-p", "judge.retries=0"]
    assert sweep.main([*given, *gone]) == InputError.EXIT_CODE
    first, second = [line for line in capsys.readouterr().err.splitlines() if line.startswith("specsync: ")]
    assert "none is not there" in first and "does a server listen there" in second
    assert not (tmp_path / "out").exists()


def test_frames_are_written_as_parquet_where_pyarrow_is_there(toys, tmp_path, monkeypatch, capsys):
    corpus, out = write_corpus(tmp_path, 3), tmp_path / "out"
    assert sweep.main(["--corpus", str(corpus), "--out", str(out)]) == 0
    with monkeypatch.context() as without:
        without.setattr(pd.DataFrame, "to_parquet", lambda *_, **__: exec("import no_pyarrow"))
        assert collect.main(["--out", str(out)]) == 0
    assert "no Parquet: pyarrow is not installed" in capsys.readouterr().err and not list(out.glob("*.parquet"))
    parquet = pytest.importorskip("pyarrow.parquet", reason="of the extra sweep")
    assert collect.main(["--out", str(out)]) == 0
    frames = parquet.read_table(out / "frames.parquet").to_pandas()
    recordings = pd.read_csv(out / "recordings.csv")
    assert frames.groupby("id", observed=True).size().tolist() == recordings["frames"].tolist()
    assert frames["stands"].mean() == pytest.approx(
        np.average(recordings["stands"], weights=recordings["frames"]), abs=1e-5
    )


def test_an_array_job_gives_each_task_its_shard(tmp_path):
    script = Path(sweep.__file__).with_name("sweep.slurm")
    door = tmp_path / "run_all.sh"
    door.write_text('#!/bin/bash\nprintf "%s|" "$OMP_NUM_THREADS" "$@"\n')
    may_be_run(door)
    task = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "2",
            "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_CPUS_PER_TASK": "3"}  # fmt: skip
    given = ["--corpus", "c d.jsonl", "--out", "x"]
    said = subprocess.run([str(script), *given], env=os.environ | task, capture_output=True, text=True, check=True)
    assert said.stdout == "3|sweep|--corpus|c d.jsonl|--out|x|--shard|3/8|"


def name_of(process):
    with contextlib.suppress(psutil.Error):  # it ends just now
        return process.name()
    return ""


def test_rays_workers_make_the_same_results_and_one_that_dies_costs_none(tmp_path):
    pytest.importorskip("ray.exceptions", reason="of the extra sweep")
    parts = tmp_path / "parts"
    parts.mkdir()
    write_parts(parts)
    recordings = read_manifest(write_corpus(tmp_path, 12))
    with serving(ToyServer()) as url:
        row = rows.read(write_row(parts, "sglang", url, **{"judge.source": "./tiny"}))
        alone = {one.id: made for one, made in spread.in_threads(recordings, sweep.load_listeners(row), 1)}
        made, killed = {}, []
        for one, answer in spread.over_ray(recordings, row, "local", 1, 0.0):
            made[one.id] = answer
            if not killed:
                found = psutil.Process().children(recursive=True)
                killed = [child for child in found if name_of(child).startswith("ray::Worker")][:1]
                killed[0].kill()
    assert killed and made.keys() == alone.keys()
    for name, found in made.items():
        assert found | {"wall_s": 0} == alone[name] | {"wall_s": 0}


def test_a_sweep_over_ray_that_is_ended_says_so_in_one_line_and_goes_on(tmp_path):
    pytest.importorskip("ray.exceptions", reason="of the extra sweep")
    parts, ended, whole = tmp_path / "parts", tmp_path / "ended", tmp_path / "whole"
    parts.mkdir()
    write_parts(parts)
    corpus = str(write_corpus(tmp_path, 20))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"}
    with serving(ToyServer()) as url:
        row = write_row(parts, "sglang", url, **{"judge.source": "./tiny"})
        given = ["--corpus", corpus, "--row", row, "--out"]
        command = [sys.executable, "-m", "specsync_lib.jobs", "sweep", *given, str(ended), "--ray", "local"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and not list((ended / result.RESULTS).glob("[!.]*.json")):
                time.sleep(0.01)
            workers = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            said = process.communicate()[1].splitlines()
        assert process.returncode == 130 and said[-1] == "specsync: interrupted; run it again to go on"
        assert not any("SIGTERM" in line for line in said)
        assert not psutil.wait_procs(workers, 60)[1], "its workers end with it"
        assert 1 <= len(list((ended / result.RESULTS).glob("[!.]*.json"))) < 20
        for more in ([str(ended), "--ray", "local"], [str(whole)]):
            assert sweep.main([*given, *more]) == 0
    tables = [collect.recordings_table(collect.read_results(folder)[1])[UNTIMED] for folder in (ended, whole)]
    pd.testing.assert_frame_equal(*tables)


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
        *(("sweep", ["--corpus", "CORPUS", "--out", "x", *spread], says) for spread, says in (
            (["--ray", "some where"], "--ray: got 'some where'; allowed: local"),
            (["--cpus-each", "2"], "give --ray too"),
            (["--ray", "auto", "--cpus-each", "0"], "--cpus-each: got '0'"),
            (["--ray", "auto", "--gpus-each", "nan"], "--gpus-each: got 'nan'"),
            (["--ray", "auto", "--gpus-each", "1.5"], "a part of 1"),
        )),
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
