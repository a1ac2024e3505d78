"""The adapter's trainer: latents once, a loss that falls, a run that was stopped ends as one that was not."""

import json
import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from specsync_lib import rows
from specsync_lib.errors import InputError
from specsync_lib.face import adapter as adapters
from specsync_lib.face import generation, wan
from specsync_lib.face.adapter import AdapterSize
from specsync_lib.paths import PROJECT_ROOT
from specsync_lib.units import ChunkSize
from tests.toys.faces import talking_corpus
from tests.toys.generation import PX, write_wan
from workbench.measure import adapter_step
from workbench.train import adapter as training
from workbench.train import latents as encoding

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    """A row file of a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("wan")
    write_wan(folder)
    path = folder / "my.toml"
    path.write_text(f'[video]\nsource = "./"\nweights = "random"\npixels = {PX}\nadapter = "./adapter"\n')
    return path


@pytest.fixture(scope="module")
def latents(row, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    encoding.encode(talking_corpus(), wan.load_vae(row.parent), "toy", folder, per_shard=1)
    return folder


def options(**changes) -> training.Options:
    usual = dict(batch=2, steps=4, learning_rate=3e-2, measure_every=2, held_out_rows=2, held_out_draws=2)
    return training.Options(**(usual | {"size": AdapterSize(features=8, rank=2, alpha=2.0)} | changes))


def run(row, latents, out, stop_after=None, **changes) -> dict:
    video = encoding.row_of(str(row)).video
    return training.train(video, latents, out, options(**changes), Accelerator(cpu=True), stop_after)


def test_latents_are_those_of_the_trainer_and_shards_that_are_there_are_kept(row, latents, capsys):
    vae, corpus = wan.load_vae(row.parent), talking_corpus()
    whole = encoding.encode_clips(corpus, vae, corpus.clips_of("train"), CPU, 2)
    read = encoding.load_latents(latents, "train", CPU)
    for name in ("begins", "ends", "clip", "visemes", "openness", "idle", "mouth"):
        assert torch.equal(getattr(read, name), getattr(whole, name)), name
    torch.testing.assert_close(read.z.float(), whole.z, atol=2e-3, rtol=2e-3)
    assert read.z.dtype == torch.float16 and len(encoding.load_latents(latents, "validation", CPU, 2).z) == 2
    before = {path.name: path.stat().st_mtime_ns for path in latents.glob("*_0*.safetensors")}
    assert len(before) == 4
    encoding.encode(corpus, vae, "toy", latents, per_shard=1)
    assert {path.name: path.stat().st_mtime_ns for path in latents.glob("*_0*.safetensors")} == before
    with pytest.raises(InputError, match="latents of another corpus or VAE"):
        encoding.encode(corpus, vae, "toy", latents, per_shard=2)


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(row, latents, tmp_path):
    straight = run(row, latents, tmp_path / "straight")
    assert [point["step"] for point in straight["curve"]] == [0, 2, 4] and straight["label"] == "real-shape"
    for _ in range(2):
        stopped = run(row, latents, tmp_path / "stopped", stop_after=2)
    assert stopped["curve"] == straight["curve"] and stopped["steps"] == 4
    for name in (adapters.WEIGHTS, training.CHECKPOINT):
        one, other = (load_file(tmp_path / folder / name) for folder in ("straight", "stopped"))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
    with pytest.raises(InputError, match="a training with other settings"):
        run(row, latents, tmp_path / "stopped", seed=1)
    card = (tmp_path / "straight" / "README.md").read_text()
    assert "4 of 4 steps" in card and "| 0 |" in card and "real-shape" in card


def test_it_learns_the_plan_and_a_row_takes_what_was_learnt(row, latents):
    out = row.parent / "adapter"
    curve = run(row, latents, out, steps=40, measure_every=40, batch=4, slots=(2, 3))["curve"]
    assert curve[1]["held_out_loss"] < 0.98 * curve[0]["held_out_loss"]
    facts = adapters.read_facts(out)
    assert facts.pixels == PX and facts.layers == 2 and facts.width == 24
    _, transformer = wan.load_video(rows.read(row).video, "cpu")
    assert isinstance(transformer, adapters.AdaptedTransformer)
    assert [generation.window_slots(transformer, ChunkSize(slots)) for slots in (1, 2, 3)] == [3, 2, 3]


def test_what_does_not_fit_is_one_line(row, latents, tmp_path, capsys):
    for given, says in (
        (["--row", "embedded", "--latents", str(latents)], "wan-mini takes the plan itself"),
        (["--row", str(row), "--latents", str(tmp_path)], "run python -m workbench.train.latents first"),
    ):
        assert training.main([*given, "--out", str(tmp_path / "out")]) == InputError.EXIT_CODE
        line = capsys.readouterr().err
        assert says in line and line.count("\n") == 1
    listing = json.loads((latents / encoding.LISTING).read_text())
    (tmp_path / encoding.LISTING).write_text(json.dumps(listing | {"vae_sha256": "0" * 64}))
    with pytest.raises(InputError, match="latents of another VAE"):
        run(row, tmp_path, tmp_path / "out")
    (tmp_path / encoding.LISTING).write_text(json.dumps(listing))
    with pytest.raises(InputError, match="holds no whole latents of validation"):
        run(row, tmp_path, tmp_path / "out")


def test_the_cost_of_a_step_is_the_trainers_own_at_a_toys_size(tmp_path):
    given = ["--tiny", "--pixels", "32", "--batch", "1", "--steps", "2", "--checkpointed"]
    assert adapter_step.main([*given, "--out", str(tmp_path / "step.json")]) == 0
    found = json.loads((tmp_path / "step.json").read_text())
    assert found["label"] == "real-shape" and " --tiny --pixels 32 " in found["command"]
    assert found["step"]["step_ms"]["n"] == 2 and found["step"]["transformer"] == "tiny"


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SPECSYNC_LONG_TESTS"), reason="two processes load torch anew: a minute")
def test_two_processes_train_one_adapter(row, latents, tmp_path):
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["workbench.train.adapter", "--row", str(row), "--latents", str(latents), "--out", str(tmp_path)]
    command += ["--steps", "2", "--batch", "1", "--rank", "2", "--held-out-rows", "2"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert answer.returncode == 0, answer.stderr[:3000]
    metrics = json.loads((tmp_path / training.METRICS).read_text())
    assert metrics["processes"] == 2 and metrics["steps"] == 2 and answer.stdout.count("step 2:") == 1
