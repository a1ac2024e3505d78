"""project_latents: Triton against the float64 reference, and the reference against its definition."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from random import Random

import pytest
import torch

from kernels.project_latents import project_latents, reference
from kernels.project_latents.random_case import random_inputs, random_weights
from kernels.project_latents.triton_impl import CONFIGS, VERSIONS, Config, ProjectionPlan, default_config
from specsync_lib import units

CUDA = torch.cuda.is_available()
# Triton's interpreter multiplies bf16 wrongly, so bf16 is tested compiled only.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16} | ({"bf16": torch.bfloat16} if CUDA else {})
# Largest |error| over (1 + largest |reference|), against float64 on the unrounded weights.
# fp32: 1440 products of unit roundoff 6e-8. fp16: operands (mel, W1, hidden, heads) round at 4.9e-4 each, and errors
# add over four roundings. bf16: c, B and z round at 2e-3 each; the hidden layer stays fp16.
TOLERANCE = {"fp32": 1e-5, "fp16": 3e-3, "bf16": 1e-2}
FIELDS = [f.name for f in fields(reference.ProjectionOutput)]
ALL_CONFIGS = list(dict.fromkeys([*CONFIGS, *VERSIONS.values()]))
STREAMED = [config for config in VERSIONS.values() if config.stream_kib]
MEASURED = Path(__file__).resolve().parents[2] / "data/measurements/kernel_project_latents_h200.json"


def generated_cases(count: int) -> list[dict]:
    """Shapes at, one below and one above the block sizes, drawn with a fixed seed."""
    draw = Random(3)
    axes = {
        "slots": [1, 2, 3, 4, 5, 7, 8, 9],
        "hidden": [1, 15, 16, 17, 31, 32, 33],
        "coef": [1, 3, 15, 16, 17, 31],
        "latent": [1, 8, 63, 64, 65, 111, 127, 128, 129, 255, 256, 257],
        "mel": [1, 2, 17, 18, 19, 40, 63, 111],
        "bands": [1, 8, 63, 80],
        "first_frame": [0, -3, 1, 12],
    }
    cases = [{name: draw.choice(values) for name, values in axes.items()} for _ in range(count)]
    for number, case in enumerate(cases):
        case["dtype"] = list(DTYPES)[number % len(DTYPES)]
    return cases


def label(case: dict) -> str:
    return "-".join(f"{name}{value}" if name != "dtype" else value for name, value in case.items())


def poison(plan: ProjectionPlan) -> None:
    """NaN in everything a call must write; the next call has no excuse."""
    for name in (
        "logits",
        "confidence",
        "openness",
        "coefficients",
        "coef_operand",
        "latents",
    ):
        getattr(plan, name).fill_(float("nan"))


def assert_matches(output, expected, dtype: str) -> None:
    for name in FIELDS:
        got, want = getattr(output, name), getattr(expected, name)
        assert (got is None) == (want is None), name
        if want is None or want.numel() == 0:
            continue
        assert got.shape == want.shape, name
        error = (got.double() - want.double()).abs().max().item()
        limit = TOLERANCE[dtype] * (1 + want.abs().max().item())
        assert error <= limit, f"{name}: error {error:.2e} above {limit:.2e}"


def on(device, weights):
    return weights.to(device)


def exact(mel, frames, z0, weights, **where):
    """The reference in float64."""
    z0 = None if z0 is None else z0.double()
    return reference.project_latents(mel.double(), frames, z0, weights.to(torch.float64), **where)


@pytest.mark.parametrize("case", generated_cases(120), ids=label)
def test_generated_shape_matches_float64(case, device, generator):
    dtype = DTYPES[case["dtype"]]
    weights = on(device, random_weights(case["hidden"], case["coef"], case["latent"], generator, bands=case["bands"]))
    frames = 4 * case["slots"]
    plan = ProjectionPlan(weights, frames, dtype=dtype, device=device)
    for _ in range(2):  # the second call finds the workspace as the first left it
        mel, z0 = random_inputs(case["slots"], case["latent"], generator, dtype, mel_frames=case["mel"])
        mel, z0 = mel.to(device), z0.to(device)
        poison(plan)
        output = plan(mel, z0, first_frame=case["first_frame"])
        assert_matches(output, exact(mel, frames, z0, weights, first_frame=case["first_frame"]), case["dtype"])


@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 33, 50])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", [None, VERSIONS["v3 L2 prefetch"]], ids=["default", "not lean"])
def test_plan_without_latents(config, frames, dtype, device, generator):
    weights = on(device, random_weights(33, 0, 0, generator))
    mel = torch.randn(frames * 3, 80, generator=generator).to(device)
    plan = ProjectionPlan(weights, frames, latents=False, dtype=DTYPES[dtype], device=device, config=config)
    poison(plan)
    assert_matches(plan(mel), exact(mel, frames, None, weights), dtype)


@pytest.mark.parametrize("case", generated_cases(12 if CUDA else 6), ids=label)
@pytest.mark.parametrize("config", STREAMED if CUDA else [STREAMED[0], STREAMED[-1]], ids=lambda c: c.label)
def test_streamed_shapes_match_float64_in_every_turn(config, case, device, generator):
    """Two workspaces take turns, so a third call is the first that finds one used before."""
    dtype = DTYPES[case["dtype"]]
    latent = 3 * case["latent"]  # several tiles a program
    weights = on(device, random_weights(case["hidden"], case["coef"], latent, generator, bands=case["bands"]))
    frames = 4 * case["slots"]
    plan = ProjectionPlan(weights, frames, dtype=dtype, device=device, config=config)
    for _ in range(3):
        mel, z0 = random_inputs(case["slots"], latent, generator, dtype, mel_frames=case["mel"])
        mel, z0 = mel.to(device), z0.to(device)
        poison(plan)
        output = plan(mel, z0, first_frame=case["first_frame"])
        assert_matches(output, exact(mel, frames, z0, weights, first_frame=case["first_frame"]), case["dtype"])


@pytest.mark.parametrize("config", ALL_CONFIGS, ids=lambda c: c.label)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_config_matches_float64(config, dtype, device, generator):
    weights = on(device, random_weights(40, 16, 300, generator))
    mel, z0 = (t.to(device) for t in random_inputs(5, 300, generator, DTYPES[dtype]))
    plan = ProjectionPlan(weights, 20, dtype=DTYPES[dtype], device=device, config=config)
    poison(plan)
    assert_matches(plan(mel, z0), exact(mel, 20, z0, weights), dtype)


@pytest.mark.parametrize("config", [None, STREAMED[-1]], ids=["default", "streamed"])
def test_more_slots_than_one_program_holds(config, device, generator):
    weights = on(device, random_weights(16, 16, 40, generator))
    mel, z0 = (t.to(device) for t in random_inputs(33, 40, generator, torch.float16))
    plan = ProjectionPlan(weights, 132, dtype=torch.float16, device=device, config=config)
    poison(plan)
    assert_matches(plan(mel, z0), exact(mel, 132, z0, weights), "fp16")


def test_the_defaults_are_the_fastest_measured():
    """Their rows of the committed measurement hold the very options that they have here."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    timed = {(row["name"], row["slots"]): row for row in measured["configs"]}
    for slots in (8, 32):
        config, name = default_config(slots, 64), measured["config"][str(slots)]
        assert VERSIONS[name] == config
        assert asdict(config).items() <= timed[name, slots].items()
        assert timed[name, slots]["median_us"] == min(row["median_us"] for (_, s), row in timed.items() if s == slots)
    for row in measured["versions"]:
        assert asdict(VERSIONS[row["name"]]).items() <= row.items()


@pytest.mark.parametrize(
    ("slots", "coefficients", "copy_engine", "version"),
    [
        (0, 0, True, "v6 copy engine, wide tiles"),
        (16, 64, True, "v6 copy engine, wide tiles"),
        (17, 64, True, "v7 blocks of 32 frames"),
        (32, 64, True, "v7 blocks of 32 frames"),
        (33, 64, True, "v4 lean launch 1"),
        (8, 65, True, "v4 lean launch 1"),
        (8, 64, False, "v3 L2 prefetch"),
    ],
)
def test_a_default_streams_only_what_was_measured(slots, coefficients, copy_engine, version):
    assert default_config(slots, coefficients, copy_engine) == VERSIONS[version]


@pytest.mark.parametrize("config", [None, VERSIONS["v3 L2 prefetch"]], ids=["default", "one tile a program"])
def test_two_calls_agree_bit_for_bit(config, device, generator):
    weights = on(device, random_weights(64, 16, 128, generator))
    mel, z0 = (t.to(device) for t in random_inputs(3, 128, generator, torch.float16))
    plan = ProjectionPlan(weights, 12, dtype=torch.float16, device=device, config=config)
    first = {name: getattr(plan(mel, z0), name).clone() for name in FIELDS}
    poison(plan)
    second = plan(mel, z0)
    assert all(torch.equal(first[name], getattr(second, name)) for name in FIELDS)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_stream_of_chunks_equals_the_whole(backend, device, generator):
    weights = on(device, random_weights(32, 16, 64, generator))
    mel, z0 = (t.to(device) for t in random_inputs(9, 64, generator, torch.float16))
    z0 = z0.float()
    whole = project_latents(mel, 36, z0, weights, backend=backend)
    for chunk in range(3):
        # 12 frames are 40 mel rows; a chunk's windows reach 10 rows back and 7 rows past its last frame's centre
        tail = max(0, 40 * chunk - 20)
        part = project_latents(
            mel[tail : 40 * chunk + 60].contiguous(),
            12,
            z0[3 * chunk : 3 * chunk + 3].contiguous(),
            weights,
            backend=backend,
            first_frame=12 * chunk,
            first_mel_frame=tail,
        )
        torch.testing.assert_close(part.logits, whole.logits[12 * chunk : 12 * chunk + 12], rtol=0, atol=1e-5)
        torch.testing.assert_close(part.latents, whole.latents[3 * chunk : 3 * chunk + 3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30], ids=["nan", "inf", "-inf", "huge"])
def test_a_broken_row_is_never_committed(backend, value, device, generator):
    weights = on(device, random_weights(32, 16, 64, generator))
    mel, z0 = (t.to(device) for t in random_inputs(6, 64, generator, torch.float32))
    clean = project_latents(mel, 24, z0, weights, backend=backend)
    mel[40:53, 7] = value
    start = reference.window_start_mel_frame(torch.arange(24))
    broken = (start <= 52) & (start + reference.WINDOW_MEL_FRAMES > 40)
    output = project_latents(mel, 24, z0, weights, backend=backend, allow_broken=True)
    assert broken.sum() >= 8 and not broken.all()
    assert all(getattr(output, name).isfinite().all() for name in FIELDS)
    assert (output.confidence[broken] == 0).all() and (output.confidence[~broken] > 0).all()
    assert (output.logits[broken] == 0).all() and (output.openness[broken] == 0).all()
    torch.testing.assert_close(output.logits[~broken], clean.logits[~broken])
    dead = broken.view(6, 4).all(dim=1)
    assert dead.any()
    assert torch.equal(output.latents[dead], z0[dead]) and not torch.equal(output.latents[~dead], z0[~dead])


@pytest.mark.parametrize("config", STREAMED, ids=lambda c: c.label)
def test_a_streamed_plan_commits_no_broken_row(config, device, generator):
    weights = on(device, random_weights(32, 16, 200, generator))
    mel, z0 = (t.to(device) for t in random_inputs(6, 200, generator, torch.float16))
    plan = ProjectionPlan(weights, 24, dtype=torch.float16, device=device, config=config)
    for broken_value in (float("nan"), 0.0, float("inf"), 0.0):  # a broken call leaves nothing behind for later ones
        mel[40:53, 7] = broken_value
        poison(plan)
        assert_matches(plan(mel, z0), exact(mel, 24, z0, weights), "fp16")
        assert (plan.confidence == 0).any() != (broken_value == 0.0)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_first_slot_may_hold_one_frame(backend, device, generator):
    weights = on(device, random_weights(16, 16, 64, generator))
    mel, z0 = (t.to(device) for t in random_inputs(2, 64, generator, torch.float32))
    shifted = project_latents(mel, 8, z0, weights, backend=backend, first_frame=-3)
    alone = reference.project_latents(mel, 1, None, weights)
    hidden = torch.tanh(reference.gather_windows(mel, 1).flatten(1) @ weights.w1 + weights.b1)
    assert (shifted.confidence[:3] == 0).all()
    torch.testing.assert_close(shifted.logits[3], alone.logits[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shifted.coefficients[:1], hidden @ weights.w_coef, rtol=1e-4, atol=1e-4)


def test_time_base_is_the_projects():
    names = (
        "MEL_BANDS",
        "MEL_FRAMES_PER_SECOND",
        "VIDEO_FPS",
        "FRAMES_PER_SLOT",
        "WINDOW_MEL_FRAMES",
        "WINDOW_BACK_MEL_FRAMES",
    )
    assert all(getattr(reference, name) == getattr(units, name) for name in names)
    assert len(units.VISEMES) == reference.VISEMES
    frames = torch.arange(-5, 400)
    assert reference.window_start_mel_frame(frames).tolist() == [
        units.window_start_mel_frame(k) for k in frames.tolist()
    ]


def test_windows_are_the_rows_around_the_centre():
    mel = torch.arange(1, 31.0)[:, None].expand(30, 80)
    windows = reference.gather_windows(mel, 9)[:, :, 0]
    for frame, window in enumerate(windows):
        rows = range(units.window_start_mel_frame(frame), units.window_start_mel_frame(frame) + 18)
        assert window.tolist() == [row + 1 if 0 <= row < 30 else 0 for row in rows]


def bad_inputs():
    """(name, change to a good call, part of the message)."""
    return [
        ("mel without rows", {"mel": torch.zeros(0, 80)}, "expected shape ['any > 0', 80], got [0, 80]"),
        ("mel of 79 bands", {"mel": torch.zeros(9, 79)}, "got [9, 79]"),
        ("mel with a batch axis", {"mel": torch.zeros(1, 9, 80)}, "got [1, 9, 80]"),
        ("integer mel", {"mel": torch.zeros(9, 80, dtype=torch.int64)}, "floating dtype"),
        ("strided mel", {"mel": torch.zeros(9, 160)[:, ::2]}, "contiguous"),
        ("transposed mel", {"mel": torch.zeros(80, 9).T}, "contiguous"),
        ("NaN in the mel", {"mel": torch.full((9, 80), float("nan"))}, "got NaN or Inf"),
        ("Inf in the mel", {"mel": torch.full((9, 80), float("inf"))}, "got NaN or Inf"),
        ("no frames", {"frames": 0}, "at least 1, got 0"),
        ("negative frames", {"frames": -4}, "at least 1, got -4"),
        ("half a slot", {"frames": 6}, "4 x slots = 8, got 6"),
        ("no slots", {"z0": torch.zeros(0, 32)}, "z0: expected shape"),
        ("z0 of another size", {"z0": torch.zeros(2, 31)}, "z0: expected shape ['any > 0', 32], got [2, 31]"),
        ("strided z0", {"z0": torch.zeros(2, 64)[:, ::2]}, "contiguous"),
        ("unknown backend", {"backend": "cuda"}, "'torch' or 'triton', got 'cuda'"),
        ("mel elsewhere", {"mel": torch.zeros(9, 80, device="meta")}, "got meta"),
    ]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(("change", "message"), [c[1:] for c in bad_inputs()], ids=[c[0] for c in bad_inputs()])
def test_bad_input_is_one_clear_line(backend, change, message, device, place, generator):
    weights = on(device, random_weights(16, 4, 32, generator))
    mel, z0 = random_inputs(2, 32, generator, torch.float32)
    call = {"mel": mel, "frames": 8, "z0": z0, "backend": backend} | change
    tensors = {name: t for name, t in call.items() if isinstance(t, torch.Tensor) and t.device.type != "meta"}
    call |= {name: place(tensor) for name, tensor in tensors.items()}
    with pytest.raises(ValueError) as caught:
        project_latents(call["mel"], call["frames"], call["z0"], weights, backend=call["backend"])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_plan_refuses_what_it_was_not_made_for(device, generator):
    weights = on(device, random_weights(16, 4, 32, generator))
    mel, z0 = (t.to(device) for t in random_inputs(2, 32, generator, torch.float16))
    plan = ProjectionPlan(weights, 8, dtype=torch.float16, device=device)
    with pytest.raises(ValueError, match="latents=True, got z0 None"):
        plan(mel)
    with pytest.raises(ValueError, match=r"z0: expected torch.float16, got torch.float32"):
        plan(mel, z0.float())
    with pytest.raises(ValueError, match=r"mel: expected torch.float32, got torch.float16"):
        plan(mel.half(), z0)
    with pytest.raises(ValueError, match="dtype: expected bfloat16"):
        ProjectionPlan(weights, 8, dtype=torch.float64, device=device)
    with pytest.raises(ValueError, match="4 x slots, got 7"):
        ProjectionPlan(weights, 7, device=device)
    with pytest.raises(ValueError, match="hold no basis"):
        ProjectionPlan(on(device, random_weights(16, 0, 0, generator)), 8, device=device)
    with pytest.raises(ValueError, match="copy_engine needs stream_kib"):
        ProjectionPlan(weights, 8, device=device, config=Config(copy_engine=True))
    with pytest.raises(ValueError, match="resident programs can stream"):
        ProjectionPlan(weights, 40_000, device=device, config=STREAMED[0])
    with pytest.raises(ValueError, match="got NaN or Inf"):
        ProjectionPlan(replace(weights, b1=weights.b1 * float("nan")), 8, device=device)


@pytest.mark.parametrize("name", ["w1", "basis", "temperature"])
def test_weights_of_the_wrong_shape_are_refused(name, generator):
    weights = random_weights(16, 4, 32, generator)
    with pytest.raises(ValueError, match=f"{name}: expected shape"):
        replace(weights, **{name: torch.zeros(3, 3)})
    with pytest.raises(ValueError, match="both or neither"):
        replace(weights, basis=None)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize("config", ALL_CONFIGS, ids=lambda c: c.label)
def test_a_cuda_graph_replays_new_inputs(config, device, generator):
    weights = on(device, random_weights(1024, 64, 16 * 32 * 32, generator))
    mel, z0 = (t.to(device) for t in random_inputs(8, 16 * 32 * 32, generator, torch.bfloat16))
    plan = ProjectionPlan(weights, 32, device=device, config=config)
    plan(mel, z0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan(mel, z0)
    for _ in range(20):
        fresh_mel, fresh_z0 = random_inputs(8, 16 * 32 * 32, generator, torch.bfloat16)
        mel.copy_(fresh_mel)
        z0.copy_(fresh_z0)
        poison(plan)
        graph.replay()
        output = reference.ProjectionOutput(
            plan.logits, plan.confidence, plan.openness, plan.coefficients, plan.latents
        )
        assert_matches(output, exact(mel, 32, z0, weights), "bf16")


@pytest.mark.parametrize("config", [None, *(STREAMED if CUDA else [])], ids=lambda c: c.label if c else "default")
def test_small_run(config, device, generator):
    """A few odd shapes in a few launches: what the memory and race checkers are pointed at."""
    for slots, hidden, latent in ((1, 17, 63), (3, 33, 129), (9, 64, 257)):
        dtype = torch.bfloat16 if CUDA else torch.float16
        weights = on(device, random_weights(hidden, 17, latent, generator))
        mel, z0 = (t.to(device) for t in random_inputs(slots, latent, generator, dtype))
        plan = ProjectionPlan(weights, 4 * slots, dtype=dtype, device=device, config=config)
        poison(plan)
        assert_matches(plan(mel, z0), exact(mel, 4 * slots, z0, weights), "bf16" if CUDA else "fp16")
