"""A face generator small enough for tests: random weights, 32 px, a few milliseconds a step."""

from pathlib import Path

import numpy as np
import torch

from specsync_lib.draft.latents import vae_sha256
from specsync_lib.face import generation, wan, wan_mini
from specsync_lib.face.adapter import AdapterSize, PlanAdapter, facts_of, save_adapter
from specsync_lib.units import VISEMES
from specsync_lib.visemes import SyncPlan

PX = 32


def toy_models(seed: int = 0):
    """A VAE of Wan's geometry and a transformer of wan-mini's kind, both random, that react to all of their inputs."""
    torch.manual_seed(seed)
    vae = wan_mini.new_vae(8, seed).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in vae.parameters():  # leave the frame-wise start
            parameter.add_(0.02 * torch.randn_like(parameter))
    vae.register_to_config(latents_mean=[0.1] * 16, latents_std=[0.5] * 16)
    size = wan_mini.Size(heads=2, head_dim=12, layers=1, ffn=32)
    transformer = wan_mini.new_transformer(size, seed).eval().requires_grad_(False)
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
    for block in transformer.blocks:
        torch.nn.init.normal_(block.attn2.to_out[0].weight, std=0.5)
    return vae, transformer


def wans_own(seed: int = 0):
    """A transformer as Wan 2.1 has it: 16 channels in and out, text of width 4096; random, of two layers."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, ffn_dim=32, freq_dim=32, text_dim=4096,
        in_channels=16, out_channels=16, rope_max_seq_len=64,
    ).eval().requires_grad_(False)  # fmt: skip


def write_wan(folder: Path, seed: int = 0) -> Path:
    """A tiny checkpoint in the hub's layout: a VAE, and Wan's own transformer in two shards."""
    vae, _ = toy_models(seed)
    vae.save_pretrained(folder / "vae")
    model = wans_own(seed)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    model.save_pretrained(folder / "transformer", max_shard_size=size * 2 // 3)
    assert len(list((folder / "transformer").glob("*.safetensors"))) == 2
    return folder


def new_adapter(transformer, *, trained: bool = False, rank: int = 4) -> PlanAdapter:
    """A tiny adapter, as it begins; or as if it had been trained: nothing in it is zero any more."""
    torch.manual_seed(0)
    adapter = PlanAdapter(transformer, AdapterSize(features=8, rank=rank, alpha=8.0), generation.FRAME_FEATURES)
    for parameter in adapter.parameters() if trained else ():
        torch.nn.init.normal_(parameter, std=0.3)
    return adapter


def write_adapter(folder: Path, checkpoint: Path) -> Path:
    """A tiny trained adapter for a checkpoint of `write_wan`."""
    transformer, space = wan.load_transformer(checkpoint), vae_sha256(wan.load_vae(checkpoint))
    facts = facts_of(transformer, space, AdapterSize(features=8, rank=4, alpha=8.0), generation.FRAME_FEATURES, PX)
    save_adapter(folder, new_adapter(transformer, trained=True), facts)
    return folder


def toy_reference(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (PX, PX, 3), dtype=np.uint8)


def toy_generator(seed: int = 0) -> generation.FaceGenerator:
    return generation.FaceGenerator(*toy_models(seed), toy_reference(seed))


def toy_plan(frames: int, seed: int = 0) -> SyncPlan:
    rng = np.random.default_rng(seed)
    return SyncPlan(rng.integers(0, len(VISEMES), frames), rng.random(frames))
