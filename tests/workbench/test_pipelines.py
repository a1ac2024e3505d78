"""The real-shape models compute what the plain ones compute, and the whole measurement runs with tiny sizes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from specsync_lib.errors import InputError
from specsync_lib.face.decoders.networks import Taehv
from specsync_lib.judge.branches import Branches
from specsync_lib.pipeline import answers, simulate
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES
from workbench.measure import pipelines, shape_reasoner, shape_wan
from workbench.measure.shapes import FULL, TINY, build_encoder
from workbench.measure.stages import chunk_latents, decoder_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed(one_thread):
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def reasoner_model():
    torch.manual_seed(0)
    return shape_reasoner.build_reasoner(TINY, CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return shape_wan.build_vae(TINY, CPU, dtype=torch.float32)


@pytest.fixture(params=list(shape_wan.DECODERS))
def new_decoder(request, vae):
    """Either decoder of a chunk's latents, by what ``ShapeDecoder`` is told."""
    network = vae if request.param == "wan" else shape_wan.build_tiny_decoder(TINY, CPU, dtype=torch.float32)
    return lambda latents, **options: shape_wan.DECODERS[request.param](network, TINY, latents, **options)


def test_every_parameter_gets_storage_and_nothing_explodes(reasoner_model, vae):
    for model in (
        reasoner_model,
        vae,
        shape_wan.build_transformer(TINY, CPU),
        shape_wan.build_tiny_decoder(TINY, CPU),
        build_encoder(TINY, CPU),
    ):
        tensors = [*model.parameters(), *model.buffers()]
        assert not any(tensor.is_meta for tensor in tensors)
        assert all(tensor.isfinite().all() for tensor in tensors)


def test_full_shapes_are_the_published_sizes():
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import LlamaConfig, LlamaForCausalLM

    with init_empty_weights():
        reasoner = LlamaForCausalLM(LlamaConfig(**FULL.reasoner))
        transformer = WanTransformer3DModel(**FULL.transformer)
        vae = AutoencoderKLWan(**FULL.vae)
        small = Taehv(FULL.tiny_decoder)
    count = lambda model: sum(parameter.numel() for parameter in model.parameters())  # noqa: E731
    assert count(reasoner) == 70_553_706_496  # Llama 3.1 70B
    assert 1.41e9 < count(transformer) < 1.43e9  # Wan 2.1 1.3B
    assert 1.26e8 < count(vae) < 1.28e8  # Wan VAE
    assert 9.7e6 < count(small) < 9.9e6  # TAEHV for Wan 2.1


def script(reasoner, draft):
    """A chunk as the reasoner reads it: each frame's evidence, then its token."""
    return torch.cat([reasoner._evidence, draft[:, None]], dim=1).flatten()[None]


def test_a_pass_over_the_fixed_cache_equals_a_pass_over_everything(reasoner_model):
    """Prefix and chunk in two passes; transformers' own attention over the whole sequence at once."""
    torch.manual_seed(0)
    reasoner = shape_reasoner.ShapeReasoner(reasoner_model, TINY)
    draft = torch.randint(32, 47, (FRAMES_PER_CHUNK,))
    prefix = torch.randint(0, 64, (1, TINY.prefix_tokens))
    passes = shape_reasoner.Passes(reasoner_model, reasoner._cache, TINY.prefix_tokens, graphs=False)
    passes.tokens.copy_(prefix)
    passes.run()
    probabilities, choice = reasoner.score(draft)
    whole = torch.cat([prefix, script(reasoner, draft)], dim=1)
    reasoner_model.set_attn_implementation("sdpa")
    try:
        logits = reasoner_model(input_ids=whole, use_cache=False).logits[0, TINY.prefix_tokens + 3 :: 5]
    finally:
        reasoner_model.set_attn_implementation("grouped")
    expected = logits[:, 32 : 32 + len(VISEMES)].softmax(-1)
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(choice, expected.argmax(-1) + 32)


def test_several_drafts_in_one_pass_are_each_scored_as_if_alone(reasoner_model):
    reasoner = shape_reasoner.ShapeReasoner(reasoner_model, TINY)
    rows = np.random.default_rng(0).dirichlet(np.full(len(VISEMES), 0.3), FRAMES_PER_CHUNK)
    branches = Branches(np.zeros((len(VISEMES),) * 2))
    (first,) = branches.of(rows)
    plans = branches.of(rows, None, first)
    assert len(plans) > 2
    together = reasoner.score_branches(plans)
    torch.testing.assert_close(reasoner.score_branches(plans[:1])[0], together[0], atol=1e-5, rtol=1e-4)
    for plan, scored in zip(plans, together, strict=True):
        alone, _ = reasoner.score(torch.from_numpy(plan) + shape_reasoner.FIRST_TOKEN)
        torch.testing.assert_close(scored, alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-4)
    with pytest.raises(InputError, match="tokens in a pass over"):
        reasoner.score_branches([np.full(FRAMES_PER_CHUNK, viseme) for viseme in range(4)])


def test_a_second_pass_after_a_longer_one_sees_nothing_of_it(reasoner_model):
    """Going back in the cache is a smaller position: what stood there later is masked."""
    torch.manual_seed(0)
    reasoner = shape_reasoner.ShapeReasoner(reasoner_model, TINY)
    draft, other = torch.randint(32, 47, (2, FRAMES_PER_CHUNK))
    first = reasoner.score(draft)[0].clone()
    reasoner.score(other)
    reasoner.score_branches([other.numpy() - 32])
    assert torch.equal(reasoner.score(draft)[0], first)


def test_the_target_agrees_with_itself_when_its_own_plan_is_the_draft(reasoner_model):
    """Token by token and one pass are the same function: verifying a plan accepts it whole."""
    reasoner = shape_reasoner.ShapeReasoner(reasoner_model, TINY)
    tokens = reasoner.plan()[0].clone()
    _, choice = reasoner.score(tokens)
    assert torch.equal(choice, tokens)


@pytest.mark.parametrize("method", ["rowwise", "per-tensor"])
def test_fp8_products_equal_the_dequantised_reference(method):
    torch.manual_seed(0)
    layer = shape_reasoner.Fp8Linear.random(32, 64, CPU, torch.bfloat16, method)
    x = torch.randn(1, 3, 64, dtype=torch.bfloat16)
    try:
        y = layer(x)
    except RuntimeError as error:
        pytest.skip(f"this build has no FP8 product on a CPU: {str(error).splitlines()[0]}")
    layer.method = "dequantise"
    reference = layer(x).float()
    assert (y.float() - reference).norm() / reference.norm() < 0.05  # e4m3 activations: 3 mantissa bits


def test_fp8_weights_are_close_to_what_they_stand_for():
    torch.manual_seed(0)
    values = torch.randn(16, 64)
    weight, scale = shape_reasoner.quantise_rows(values)
    assert (weight.float() * scale - values).norm() / values.norm() < 0.04


@pytest.mark.parametrize("method", ["3d", "2d"])
def test_three_slots_at_once_decode_as_slot_by_slot(vae, method):
    torch.manual_seed(0)
    from specsync_lib.face.wan import ChunkDecoder

    latents = torch.randn(1, 16, 7, 4, 4)
    reference = ChunkDecoder(vae).push(latents)
    plain = {name: module.forward for name, module in vae.named_modules() if "forward" in vars(module)}
    assert not plain
    shape_wan.lean_convolutions(vae, method)
    try:
        decoder = ChunkDecoder(vae)
        first = decoder.push(latents[:, :, :1])
        decoder.push(latents[:, :, 1:4])
        _, cache = decoder.state()
        shapes = TINY
        chunk = shape_wan.ShapeDecoder(vae, shapes, latents[:, :, 4:], graphs=False)
        chunk._cache = cache
        face, _ = chunk._decode_plain(latents[:, :, 4:], cache)
    finally:
        for module in vae.modules():
            vars(module).pop("forward", None)
    torch.testing.assert_close(first, reference[:, :, :1], atol=1e-5, rtol=1e-4)
    expected = ((reference[0, :, -12:] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)
    assert (face.int() - expected.int()).abs().max() <= 1


def test_decoding_twice_without_a_commit_gives_the_same_frames(new_decoder):
    torch.manual_seed(0)
    latents = torch.randn(1, 16, 3, 4, 4)
    decoder = new_decoder(latents)
    first, _ = decoder.run()
    again, after = decoder.run()
    assert torch.equal(first, again) and first.shape == (12, *TINY.picture, 3)
    decoder.commit(after)
    assert not torch.equal(decoder.run()[0], first)


def test_no_stage_asks_the_device_for_a_value(monkeypatch):
    """A CUDA graph holds no answer to the host: on tensors without values, asking for one raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(shape_reasoner, "captured", lambda call, device: call)
    with FakeTensorMode():
        listener = shape_reasoner.Listener(TINY, CPU, build_encoder(TINY, CPU))
        listener.hear()
        listener.encode()
        shape_wan.ShapeDenoiser(shape_wan.build_transformer(TINY, CPU), TINY, 32, 32, steps=2).step(0)
        for name, decode in shape_wan.DECODERS.items():
            network = decoder_model(TINY, CPU, "2d", name)
            decoder = decode(network, TINY, chunk_latents((32, 32), network))
            decoder.commit(decoder.run()[1])
        reasoner = shape_reasoner.ShapeReasoner(shape_reasoner.build_reasoner(TINY, CPU, precision="fp8"), TINY)
        reasoner._next.run()
        reasoner._draft.run()


def test_the_rehearsal_measures_every_stage(tmp_path):
    arguments = ["--part", "stages", "--tiny", "--regions", "32px", "--repeats", "2", "--out", str(tmp_path)]
    assert pipelines.main(arguments) == 0
    content = json.loads((tmp_path / "stages_tiny.json").read_text())
    assert content["label"] == "real-shape" and not content["failed"]
    stages = {row["stage"] for row in content["stages"]}
    expected = {"features", "encoder", "draft", "denoise", "decode", "product", "token", "verify", "prefill", "plan"}
    assert stages == expected
    assert all(row["median_ms"] > 0 and row["n"] >= 2 for row in content["stages"])


def test_parts_decode_as_the_whole_and_leave_the_same_past(new_decoder):
    torch.manual_seed(0)
    latents = torch.randn(1, 16, 3, 4, 4)
    whole, parts = (new_decoder(latents, parts=count) for count in (1, 3))
    for _ in range(2):  # the second chunk starts from the first one's cache
        frames, after = whole.run()
        pieces = [parts.run(part) for part in range(3)]
        joined = torch.cat([picture for picture, _ in pieces])
        assert (joined.int() - frames.int()).abs().max() <= 1
        whole.commit(after)
        parts.commit(pieces[-1][1])


def pattern_file(path, guessed_passes=(1, 2, 1, 3)):
    chunks = [
        {
            "passes": 1 + bool(rejected),
            "guessed_passes": passes,
            "guessed_known_after": passes - 1,
            "branched_12_32_passes": min(passes, 2),
            "branched_12_32_known_after": bool(rejected) + (passes == 3),
            "rejected_at": rejected,
            "lenient_rejected_at": rejected[:1],
            "mouth_passes": 1 + bool(rejected),
            "mouth_rejected_at": rejected[:1],
        }
        for passes, rejected in zip(guessed_passes, ([], [4], [2, 7], []), strict=True)
    ]
    path.write_text(json.dumps({"chunks": chunks}))
    return path


def test_the_rehearsal_says_which_decoder_made_the_pictures(tmp_path, monkeypatch):
    path = pattern_file(tmp_path / "pattern.json")
    monkeypatch.setattr(pipelines, "measured_answers", lambda **given: answers.measured_answers(path, **given))
    arguments = ["--part", "pipeline", "--tiny", "--regions", "32px:1:2:1", "--decoder", "wan", "--out", str(tmp_path)]
    arguments += ["--reasoning-chunks", "0", "--paced-chunks", "0", "--policy-chunks", "0", "--eager-chunks", "0"]
    arguments += ["--alone-chunks", "3", "--starts", "2", "--ears", "encoder"]
    assert pipelines.main(arguments) == 0
    content = json.loads((tmp_path / "pipeline_tiny.json").read_text())
    result = content["regions"]["32px"]
    assert (content["decoder"], content["ears"], result["window_s"]) == ("wan", "encoder", 3.6)
    assert result["runs"]["speculative_branched"]["n"] == 2
    alone, started = result["generation_alone"], result["after_silence"]
    assert alone["n"] == 3 and set(alone["counts"]) <= {"unasked", "samples filled", "samples dropped"}
    assert len(started["latency_ms"]) == 2 and min(started["latency_ms"]) > 0


@pytest.mark.parametrize("slots", [1, 2])
def test_the_rehearsal_runs_short_chunks_into_a_file_of_their_own(tmp_path, monkeypatch, slots):
    path = pattern_file(tmp_path / "pattern.json")
    monkeypatch.setattr(pipelines, "measured_answers", lambda **given: answers.measured_answers(path, **given))
    arguments = ["--part", "pipeline", "--tiny", "--slots", str(slots), "--regions", f"32px:1:3:{slots}"]
    arguments += ["--reasoning-chunks", "0", "--paced-chunks", "2", "--policy-chunks", "0", "--eager-chunks", "0"]
    assert pipelines.main([*arguments, "--alone-chunks", "2", "--starts", "0", "--out", str(tmp_path)]) == 0
    (measured,) = tmp_path.glob("pipeline_*.json")
    content = json.loads(measured.read_text())
    result = content["regions"][f"32px_{slots}slot"]
    assert measured.name == f"pipeline_tiny_{slots}slot.json" and content["chunk_slots"] == slots
    assert result["same_plan"] is True and result["runs"]["speculative_branched"]["n"] == 3
    assert len(result["paced"]["latency_ms"]) == 2 and result["render_parts"] == slots
    setups = simulate.measured_setups(measured)[f"32px_{slots}slot"]
    assert {setup.chunk.slots for setup in setups.values()} == {slots}


@pytest.mark.parametrize("slots", ["0", "4", "one"])
def test_chunks_that_do_not_exist_are_refused(slots, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        pipelines.main(["--part", "pipeline", "--tiny", "--slots", slots, "--out", str(tmp_path)])
    assert refused.value.code == 2 and "--slots" in capsys.readouterr().err


def test_the_rehearsal_runs_both_pipelines_and_the_model_reads_its_file(tmp_path, monkeypatch):
    path = pattern_file(tmp_path / "pattern.json")
    monkeypatch.setattr(pipelines, "measured_answers", lambda **given: answers.measured_answers(path, **given))
    arguments = [
        "--part",
        "pipeline",
        "--tiny",
        "--regions",
        "32px:2:6:1,32px:4:4:3,48x64px:2:2",
        "--block",
        "4",
        "--out",
    ]
    arguments += [
        str(tmp_path),
        "--reasoning-chunks",
        "3",
        "--paced-chunks",
        "2",
        "--policy-chunks",
        "4",
        "--starts",
        "0",
    ]
    assert pipelines.main([*arguments, "--eager-chunks", "4", "--seconds", "600"]) == 0
    content = json.loads((tmp_path / "pipeline_tiny.json").read_text())
    assert list(content["regions"]) == ["32px", "32px_4steps", "48x64px"] and content["decoder"] == "tiny"
    assert set(content["decode_ms"]) == {"48x64px"}  # where no number of parts was given, the faster is taken
    result = content["regions"]["32px"]
    runs = result["runs"]
    assert result["same_plan"] is True and content["regions"]["32px_4steps"]["same_plan"] is True
    counted = {"serial": 6, "serial_reasoning": 3}
    counted |= {"speculative": 6, "speculative_eager": 4, "speculative_branched": 6, "speculative_lenient": 6}
    counted["speculative_mouth"] = 6
    assert {mode: run["n"] for mode, run in runs.items()} == counted
    assert all(len(run["first_ms"]) == run["n"] for run in runs.values())
    counts = runs["speculative"]["counts"]
    assert counts.get("accepted", 0) + counts.get("corrected", 0) == 6
    assert counts["verdicts guessed"] == 6  # the probe's guess was told before each first pass
    assert runs["serial"]["counts"]["corrected"] == 3  # the pattern was replayed, chunk by chunk
    assert set(result["stages"]["serial"]) == {"draft", "plan", "begin", "step", "render", "commit"}
    assert {"guess", "verify 1", "verify 2", "verify 3"} <= set(result["stages"]["speculative"])
    assert {"verify 1", "verify 2"} <= set(result["stages"]["speculative_branched"])
    assert content["ears"] == "front" and result["window_s"] == 4  # what a live judge's ears hold
    assert runs["speculative_branched"]["counts"]["corrected"] == 3
    lenient = result["stages"]["speculative_lenient"]
    assert "verify 1" in lenient and "verify 2" not in lenient  # the lenient rule decides after one pass
    assert runs["speculative_lenient"]["counts"]["corrected"] == runs["speculative_mouth"]["counts"]["corrected"] == 3
    in_parts = content["regions"]["32px_4steps"]
    assert in_parts["render_parts"] == 3
    serial = in_parts["runs"]["serial"]
    assert all(first < last for first, last in zip(serial["first_ms"], serial["latency_ms"], strict=True))
    policies = {(row["policy"], row["rate"]): row for row in result["policies"]}
    assert len(policies) == 12
    assert all(row["plan_error"] == 0 for (policy, _), row in policies.items() if policy != "overrule")
    # How many verdicts come too late depends on the machine (in virtual time: tests/pipeline); no frame else differs.
    assert policies["overrule", 0]["plan_error"] == 0 <= policies["overrule", 0.5]["plan_error"] < 0.5
    table = simulate.check_measured(simulate.np.random.default_rng(0), tmp_path)
    assert set(table["mode"]) == set(runs) and (table["measured_ms"] > 0).all()


@pytest.mark.parametrize("regions", ["32px:2:6:2", "32px:0:6", "7px", "32px:x", "32px:2:6,32px:2:6,32px:2:6,32px:2:6"])
def test_a_case_that_cannot_be_is_refused(regions, tmp_path):
    with pytest.raises(SystemExit):
        pipelines.parse(["--part", "pipeline", "--tiny", "--regions", regions, "--out", str(tmp_path)])


def test_a_setup_that_is_not_there_is_one_line(tmp_path, capsys):
    if torch.cuda.device_count() >= 2:
        pytest.skip("two GPUs are here")
    arguments = ["--part", "pipeline", "--setup", "h200x2", "--out", str(tmp_path)]
    assert pipelines.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_measurement_needs_no_sound_or_video_library():
    """A GPU machine has torch, transformers and pandas; what decodes sound and video is not there."""
    absent = ["av", "soxr", "whisper", "anny", "pocketsphinx", "gguf", "numba", "ipywidgets"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import workbench.measure.pipelines"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
