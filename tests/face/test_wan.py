"""Wan's latent geometry, strict checkpoints, and coding by whole clips and by chunks."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from specsync_lib.devices import multiplies_bfloat16
from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.tensors import WEIGHTS, write_hashes

VAE_CONFIG = dict(base_dim=8, z_dim=16, num_res_blocks=1, latents_mean=[0.5] * 16, latents_std=[2.0] * 16)
TRANSFORMER_CONFIG = dict(
    num_attention_heads=2,
    attention_head_dim=12,
    text_dim=8,
    freq_dim=16,
    ffn_dim=32,
    num_layers=1,
    rope_max_seq_len=32,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    root = tmp_path_factory.mktemp("wan tiny")
    torch.manual_seed(0)
    AutoencoderKLWan(**VAE_CONFIG).save_pretrained(root / "vae")
    WanTransformer3DModel(**TRANSFORMER_CONFIG).save_pretrained(root / "transformer")
    return root


@pytest.fixture
def copy(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@given(st.integers(1, 10_000))
def test_slots_and_frames_are_inverse(slots):
    frames = wan.clip_frames(slots)
    assert wan.slot_count(frames) == slots
    assert wan.padded_frames(frames) == frames
    assert wan.padded_frames(frames + 1) == frames + 4
    last = range(frames - (1 if slots == 1 else 4), frames)
    assert {wan.slot_of_frame(k) for k in last} == {slots - 1}


@pytest.mark.parametrize("frames", [0, -3, 2, 4, 12])
def test_frame_counts_off_the_grid_are_refused(frames):
    with pytest.raises(InputError, match=r"4k \+ 1"):
        wan.slot_count(frames)


def test_latent_shape_is_wans():
    assert wan.latent_shape(81, 720, 1280) == (16, 21, 90, 160)
    with pytest.raises(InputError, match="width 250 px"):
        wan.latent_shape(9, 256, 250)


def test_both_parts_load_with_every_weight_in_place(checkpoint):
    vae = wan.load_vae(checkpoint)
    stored = load_file(checkpoint / "vae" / WEIGHTS)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in vae.state_dict().items())
    assert vae.config.latents_std == [2.0] * 16
    transformer = wan.load_transformer(checkpoint, dtype=torch.bfloat16)
    assert transformer.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16
    assert transformer.scale_shift_table.dtype == torch.float32
    out = transformer(
        hidden_states=torch.zeros(1, 16, 2, 4, 4, dtype=torch.bfloat16),
        timestep=torch.tensor([500]),
        encoder_hidden_states=torch.zeros(1, 3, 8, dtype=torch.bfloat16),
    ).sample
    assert out.shape == (1, 16, 2, 4, 4)
    assert torch.isfinite(out).all()


def test_sharded_checkpoints_load_the_same_weights(checkpoint, tmp_path):
    wan.load_transformer(checkpoint).save_pretrained(tmp_path / "transformer", max_shard_size="8KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    whole, sharded = (wan.load_transformer(root).state_dict() for root in (checkpoint, tmp_path))
    assert all(torch.equal(tensor, sharded[name]) for name, tensor in whole.items())


def _edit(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


NAME = "encoder.conv_in.weight"
DAMAGES = {
    "missing": (lambda t: t.pop(NAME), f"'{NAME}' is missing"),
    "extra": (lambda t: t.update(surplus=torch.zeros(2)), "'surplus' is not part of the model"),
    "misshapen": (lambda t: t.update({NAME: torch.zeros(8, 3, 3, 3)}), rf"'{NAME}' has shape \(8, 3, 3, 3\)"),
    "nan": (lambda t: t[NAME].view(-1)[5:6].fill_(float("nan")), f"'{NAME}' holds NaN"),
    "integers": (lambda t: t.update({NAME: t[NAME].to(torch.int32)}), f"'{NAME}' is torch.int32"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tensors_are_refused_by_file_and_name(copy, damage):
    change, message = DAMAGES[damage]
    _edit(copy / "vae" / WEIGHTS, change)
    with pytest.raises(InputError, match=message) as caught:
        wan.load_vae(copy)
    assert str(copy / "vae" / WEIGHTS) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept_bytes", [0, 4, 7, 100, -1])
def test_truncated_files_are_refused(copy, kept_bytes):
    path = copy / "vae" / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(InputError, match=WEIGHTS):
        wan.load_vae(copy)


def test_pickles_are_refused_under_any_name(copy):
    path = copy / "vae" / WEIGHTS
    path.unlink()
    torch.save({"a": torch.zeros(1)}, copy / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.bin: a pickle"):
        wan.load_vae(copy)
    shutil.move(copy / "vae" / "diffusion_pytorch_model.bin", path)
    with pytest.raises(InputError, match="holds a pickle"):
        wan.load_vae(copy)


def test_wrong_hash_and_unlisted_files_are_refused(copy):
    write_hashes(copy)
    wan.load_vae(copy)
    path = copy / "vae" / WEIGHTS
    _edit(path, lambda t: t[NAME].add_(1))
    with pytest.raises(InputError, match="differs from SHA256SUMS"):
        wan.load_vae(copy)
    write_hashes(copy)
    (copy / "vae" / "other.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="not listed"):
        wan.load_vae(copy)


def test_configs_of_other_models_are_refused(copy):
    config = json.loads((copy / "vae" / "config.json").read_text())
    for change, message in (
        ({"_class_name": "AutoencoderKL"}, "it describes a"),
        ({"z_dim": 8}, "has shape"),
        ({"latents_std": [0.0] * 16}, "latents_std"),
        ({"base_dim": "many"}, "cannot describe"),
    ):
        (copy / "vae" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message):
            wan.load_vae(copy)
    (copy / "vae" / "config.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        wan.load_vae(copy)


def test_absent_checkpoints_say_so_without_the_network(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="no such checkpoint directory"):
        wan.load_vae(tmp_path / "absent")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="the hub did not give it"):
        wan.load_vae("nobody/nothing-of-the-sort")


def test_a_hub_snapshot_takes_the_same_path(checkpoint, monkeypatch):
    asked = {}

    def snapshot(repo, allow_patterns, revision="main"):
        asked.update(repo=repo, patterns=allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert wan.load_vae("wan-1.3b").dtype == torch.bfloat16
    assert asked == {"repo": wan.MODELS["wan-1.3b"].source, "patterns": ["vae/*.json", "vae/*.safetensors"]}


@pytest.fixture(scope="module")
def vae(checkpoint):
    return wan.load_vae(checkpoint, dtype=torch.float64)


@pytest.mark.parametrize("frames", [1, 5, 9, 13])
def test_one_pass_equals_diffusers_cached_loop(vae, frames):
    torch.manual_seed(0)
    signal = torch.rand(2, 3, frames, 24, 16, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(signal).latent_dist
        mean, log_variance = wan.encode_clip(vae, signal).chunk(2, dim=1)
        assert mean.shape[1:] == wan.latent_shape(frames, 24, 16)
        torch.testing.assert_close(mean, posterior.mean, atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(log_variance, posterior.logvar, atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(wan.decode_clip(vae, mean), vae.decode(mean).sample, atol=1e-12, rtol=1e-9)


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(1, 2), min_size=1, max_size=3), first=st.integers(1, 2))
def test_chunks_equal_the_whole_clip(vae, cuts, first):
    slots = [first, *cuts]
    frames = wan.clip_frames(sum(slots))
    signal = (
        torch.rand(1, 3, frames, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    )
    decoder = wan.ChunkDecoder(vae)
    with torch.no_grad():
        latents = vae.encode(signal).latent_dist.mean
        whole = vae.decode(latents).sample
    decoded = [decoder.push(piece) for piece in latents.split(slots, dim=2)]
    assert [piece.shape[2] for piece in decoded] == [wan.clip_frames(first)] + [4 * cut for cut in cuts]
    torch.testing.assert_close(torch.cat(decoded, 2), whole, atol=1e-12, rtol=1e-9)


def test_a_rewound_decoder_repeats_itself(vae):
    torch.manual_seed(0)
    good, wrong, right = torch.randn(3, 1, 16, 2, 2, 2, dtype=torch.float64)
    decoder = wan.ChunkDecoder(vae)
    decoder.push(good)
    place = decoder.state()
    decoder.push(wrong)
    decoder.restore(place)
    after = decoder.push(right)
    straight = wan.ChunkDecoder(vae)
    straight.push(good)
    assert torch.equal(after, straight.push(right))


def test_float32_convolutions_are_onednns_but_where_something_learns():
    torch.manual_seed(0)
    conv, x = torch.nn.Conv3d(4, 6, 3, stride=(1, 2, 1), padding=(1, 0, 1)), torch.randn(1, 4, 3, 9, 8)
    wanted = conv(x)
    wan.convolve_by_onednn(torch.nn.Sequential(conv))
    with torch.no_grad(), torch.profiler.profile() as seen:
        torch.testing.assert_close(conv(x), wanted, atol=1e-5, rtol=1e-5)
    assert "mkldnn::_convolution_pointwise" in {event.key for event in seen.key_averages()}
    conv(x).sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    assert conv.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("bound", "native", "multiplies"),
    [(None, True, True), ("ALL", True, True), ("avx512_core_bf16", True, True), ("AVX512_CORE_VNNI", True, False),
     ("AVX2", True, False), (None, False, False)],
)  # fmt: skip
def test_what_onednn_may_use_bounds_what_is_multiplied(bound, native, multiplies, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    if bound is None:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    else:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", bound)
    assert multiplies_bfloat16() == multiplies


@pytest.mark.parametrize("native", [True, False])
def test_a_lean_decoder_gives_the_same_frames_and_leaves_the_latents_alone(checkpoint, native, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(wan, "multiplies_bfloat16", lambda: native)
    plain, lean = wan.load_vae(checkpoint), wan.lean_decoder(wan.load_vae(checkpoint))
    assert lean.decoder.conv_in.weight.dtype == (torch.bfloat16 if native else torch.float32)
    clip = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    latents = wan.encode_clip(plain, clip).chunk(2, dim=1)[0]
    torch.testing.assert_close(wan.encode_clip(lean, clip).chunk(2, dim=1)[0], latents, atol=1e-5, rtol=1e-5)
    grey = [wan.to_frames(wan.decode_clip(vae, latents)).float() for vae in (plain, lean)]
    assert (grey[0] - grey[1]).abs().mean() < 1.5
    pieces = wan.ChunkDecoder(lean)
    grey.append(wan.to_frames(torch.cat([pieces.push(latents[:, :, :1]), pieces.push(latents[:, :, 1:])], 2)).float())
    assert (grey[1] - grey[2]).abs().mean() < 0.5


def test_latents_of_another_kind_are_refused(vae):
    with pytest.raises(InputError, match="expected \\[batch, 16"):
        wan.ChunkDecoder(vae).push(torch.zeros(1, 4, 1, 2, 2, dtype=torch.float64))


def test_pixels_and_latents_round_trip(vae):
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (1, 2, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(wan.to_frames(wan.to_signal(frames)), frames)
    latents = torch.randn(1, 16, 2, 2, 2, dtype=torch.float64)
    normalised = wan.normalise_latents(latents, vae)
    torch.testing.assert_close(normalised, (latents - 0.5) / 2)
    torch.testing.assert_close(wan.denormalise_latents(normalised, vae), latents)
