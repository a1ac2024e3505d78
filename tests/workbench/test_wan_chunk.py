"""The speed measurement: checks come first; what disagrees or fails is not timed; the file says where it is from."""

import json

import pytest
import torch

from specsync_lib.errors import InputError
from specsync_lib.face.wan_mini import new_transformer
from workbench.measure import wan_chunk

CPU = torch.device("cpu")


def test_a_tiny_measurement_has_rows_checks_and_provenance(tmp_path, capsys):
    out = tmp_path / "speed.json"
    arguments = ["--out", str(out), "--regions", "32", "--models", "wan-1.3b", "--smoke", "--seconds", "1"]
    assert wan_chunk.main([*arguments, "--commit", "abc"]) == 0
    content = json.loads(out.read_text())
    assert content["provenance"]["commit"] == "abc"
    assert content["provenance"]["cores"] >= 1
    assert [row["stage"] for row in content["rows"]] == ["denoise step", "decode 12 frames"]
    for row in content["rows"]:
        assert row["label"] == "real-shape"
        assert row["agrees"]
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["n"] >= 3
    assert "denoise step" in capsys.readouterr().out


def bench_with_modes(monkeypatch, *modes) -> wan_chunk.Bench:
    bench = wan_chunk.Bench(CPU, seconds=1000)
    monkeypatch.setattr(bench, "modes", lambda: list(modes))
    return bench


def test_a_call_that_disagrees_is_not_timed(monkeypatch):
    bench = bench_with_modes(monkeypatch, "eager", "compiled")
    bench._add("m", 256, "s", "real-shape", lambda compiled: lambda: torch.ones(3) + 0.1 * compiled, torch.float32)
    bench.time_all(rounds=4)
    eager, other = bench.rows
    assert eager["n"] == 4
    assert not other["agrees"]
    assert "median_ms" not in other


def test_a_call_that_fails_says_why_in_one_line_and_the_rest_goes_on(monkeypatch):
    bench = bench_with_modes(monkeypatch, "eager", "compiled", "graph")

    def maker(compiled):
        if compiled:
            raise RuntimeError("no compiler\nlong trace")
        return lambda: torch.ones(3)

    bench._add("m", 256, "s", "real-shape", maker, torch.float32)
    bench.time_all(rounds=3)
    assert [row.get("n") for row in bench.rows] == [3, None, 3]
    assert bench.rows[1]["error"] == "RuntimeError: no compiler"


def test_a_full_gpu_names_the_sizes_and_the_option(monkeypatch):
    bench = bench_with_modes(monkeypatch, "eager")

    def full() -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    bench._add("m", 512, "s", "real-shape", lambda compiled: full, torch.bfloat16)
    assert bench.rows[0]["error"] == (
        "the GPU's memory does not hold 3 slots of 512 px in torch.bfloat16; lower --regions"
    )


def test_no_compilation_begins_too_late(monkeypatch):
    bench = bench_with_modes(monkeypatch, "eager", "compiled")
    bench.ends_at = 0
    bench._add("m", 256, "s", "real-shape", lambda compiled: lambda: torch.ones(3), torch.float32)
    assert "not tried" in bench.rows[1]["error"]


def test_minis_shapes_are_the_trained_models():
    from diffusers import WanTransformer3DModel

    shapes = wan_chunk.mini_shapes()
    ours = WanTransformer3DModel(**shapes.transformer)
    trained = new_transformer(wan_chunk.MINI_SIZE, seed=0)
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in trained.named_parameters()}


def test_a_region_off_the_grid_is_refused(tmp_path, capsys):
    assert wan_chunk.main(["--out", str(tmp_path / "x.json"), "--regions", "250"]) == InputError.EXIT_CODE
    assert "multiples of 16" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_mode_agrees_on_a_gpu(tmp_path):
    out = tmp_path / "speed.json"
    assert wan_chunk.main(["--out", str(out), "--regions", "64", "--smoke", "--seconds", "300"]) == 0
    assert all(row["agrees"] for row in json.loads(out.read_text())["rows"])
