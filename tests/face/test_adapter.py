"""The adapter of Wan's own transformer: nothing while it is new, and what it is told once it is not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from specsync_lib import rows
from specsync_lib.draft.latents import vae_sha256
from specsync_lib.errors import InputError
from specsync_lib.face import adapter as adapters
from specsync_lib.face import generation, wan
from specsync_lib.face.adapter import AdaptedTransformer, AdapterSize, PlanAdapter, facts_of, save_adapter
from specsync_lib.units import ChunkSize
from tests.toys.generation import (
    PX,
    new_adapter,
    toy_models,
    toy_plan,
    toy_reference,
    wans_own,
    write_adapter,
    write_wan,
)

SIDE = PX // 8


def conditions(seed: int = 0, batch: int = 2, slots: int = 3) -> tuple:
    """Noisy latents, times, tokens, still, last, first."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(batch, *shape, generator=rng)  # noqa: E731
    times = generation.TIME_SCALE * torch.linspace(0.2, 0.9, batch)
    tokens = draw(4 * (slots + 2), generation.TOKEN_FEATURES)
    return draw(16, slots, SIDE, SIDE), times, tokens, draw(16, SIDE, SIDE), draw(16, SIDE, SIDE), times > 500


def base_output(transformer, noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    dtype = transformer.patch_embedding.weight.dtype
    text = torch.zeros(len(noisy), 1, 4096, dtype=dtype)
    return transformer(noisy.to(dtype), times, text, return_dict=False)[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_wan(tmp_path_factory.mktemp("wan"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("learns", [False, True])
@torch.no_grad()
def test_a_new_adapter_leaves_a_checkpoint_in_two_shards_as_it_is_bit_for_bit(checkpoint, dtype, learns):
    transformer = wan.load_transformer(checkpoint, dtype=dtype)
    told = conditions()
    expected = base_output(transformer, *told[:2])
    model = AdaptedTransformer(transformer, new_adapter(transformer), learns=learns)
    found = model(*told)
    assert found.dtype == dtype and torch.equal(found, expected)
    noisy, times, *held = told
    clean = [generation.predict_clean(one, noisy, times / 1000, *held) for one in (model, transformer) if not learns]
    assert not clean or torch.equal(*clean)
    for slots in (1, 2, 5):
        one = conditions(slots, 1, slots)
        one = *one[:2], torch.nn.functional.pad(one[2], (0, 0, 0, 4)), *one[3:]  # a plan may go on after the chunk
        assert torch.equal(model(*one), base_output(transformer, *one[:2]))


@torch.no_grad()
def test_a_trained_adapter_hears_every_condition_and_a_slots_plan_from_its_neighbours_on():
    model = AdaptedTransformer(wans_own(), new_adapter(wans_own(), trained=True))
    noisy, times, tokens, still, last, first = conditions(slots=3)
    usual = model(noisy, times, tokens, still, last, first)
    for changed in (
        (noisy, times, tokens, still + 1, last, first),
        (noisy, times, tokens, still, last + 1, first),
        (noisy, times, tokens, still, last, ~first),
        (noisy, times, tokens.roll(4, 1), still, last, first),
    ):
        assert (model(*changed) - usual).abs().max() > 1e-4
    silent = tokens.clone()
    silent[..., generation.FRAME_FEATURES :] = 0  # a frame's place tells nothing: slots have theirs
    assert torch.equal(model(noisy, times, silent, still, last, first), usual)
    adapter = new_adapter(wans_own(), trained=True)
    before = adapter.additions(tokens[..., : generation.FRAME_FEATURES], 3)
    late = tokens.clone()
    late[:, -1] += 1  # the slot after the chunk: its last one alone sees it
    after = adapter.additions(late[..., : generation.FRAME_FEATURES], 3)
    assert before.keys() == {0, 1} and before[0].shape == (2, 3, 24)
    assert torch.equal(before[0][:, :2], after[0][:, :2]) and not torch.equal(before[0][:, 2], after[0][:, 2])


@torch.no_grad()
def test_merged_low_rank_changes_are_those_beside_the_weights():
    told = conditions()
    beside, merged = (
        AdaptedTransformer(wans_own(), new_adapter(wans_own(), trained=True), learns=learns) for learns in (True, False)
    )
    assert not merged.adapter.low_rank and beside.adapter.low_rank
    torch.testing.assert_close(merged(*told), beside(*told), atol=1e-5, rtol=1e-4)
    without = AdaptedTransformer(wans_own(), new_adapter(wans_own(), trained=True, rank=0))
    assert (without(*told) - merged(*told)).abs().max() > 1e-4


def test_only_the_adapter_learns_and_blocks_computed_again_have_the_same_gradients():
    told, gradients = conditions(), []
    for checkpointed in (False, True):
        adapter = new_adapter(wans_own(), trained=True)
        model = AdaptedTransformer(wans_own(), adapter, learns=True, checkpointed=checkpointed)
        model(*told).square().mean().backward()
        assert {name for name, one in model.named_parameters() if one.grad is not None} == {
            f"adapter.{name}" for name, _ in adapter.named_parameters()
        }
        gradients.append([one.grad for one in adapter.parameters()])
    for one, again in zip(*gradients, strict=True):
        torch.testing.assert_close(one, again)


def test_the_middle_blocks_are_the_middle_half():
    assert [*adapters.middle_blocks(30)] == [*range(7, 23)] and [*adapters.middle_blocks(1)] == [0]


def test_a_row_draws_a_chunk_through_its_adapter_and_the_plan_moves_it(checkpoint, tmp_path):
    folder = write_adapter(tmp_path, checkpoint)
    row = rows.Video(source=str(checkpoint), weights="random", pixels=PX, adapter=str(folder))
    vae, transformer = wan.load_video(row, "cpu")
    assert isinstance(transformer, AdaptedTransformer) and transformer.dtype == torch.float32
    face, drawn = generation.FaceGenerator(vae, transformer, toy_reference()), []
    for seed in (0, 1):
        chunk = face.begin(toy_plan(12, seed), None, 1.0, 2, torch.Generator().manual_seed(0))
        while chunk.steps_left:
            chunk.step()
        drawn.append(chunk.latents)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-4
    assert face.commit(chunk).shape == (12, PX, PX, 3)
    for slots in (1, 2):
        short = face.fresh(ChunkSize(slots))
        for _ in range(2):  # the second has a past
            chunk = short.begin(toy_plan(4 * slots), None, 1.0, 1, torch.Generator().manual_seed(0))
            chunk.step()
            assert short.commit(chunk).shape == (4 * slots, PX, PX, 3)


def test_a_vae_in_another_precision_is_still_the_one_that_the_adapter_was_trained_on(checkpoint, tmp_path):
    folder = write_adapter(tmp_path, checkpoint)
    row = rows.Video(source=str(checkpoint), weights="random", pixels=PX, adapter=str(folder))
    vae, transformer = wan.load_video(replace(row, vae_dtype="bfloat16", transformer_dtype="bfloat16"), "cpu")
    assert vae.quant_conv.weight.dtype == transformer.adapter.held.weight.dtype == torch.bfloat16


def test_an_adapter_of_something_else_is_refused(checkpoint, tmp_path):
    folder = write_adapter(tmp_path, checkpoint)
    with pytest.raises(InputError, match=r"beside another transformer .* workbench\.train\.adapter"):
        adapters.load_adapter(folder, wans_own(seed=1), wan.load_vae(checkpoint))
    with pytest.raises(InputError, match="beside another VAE"):
        adapters.load_adapter(folder, wan.load_transformer(checkpoint), toy_models(seed=1)[0])
    vae, transformer = toy_models()[0], wans_own()
    few = PlanAdapter(transformer, AdapterSize(), 7)
    save_adapter(tmp_path / "few", few, facts_of(transformer, vae_sha256(vae), AdapterSize(), 7, PX))
    adapted = AdaptedTransformer(transformer, adapters.load_adapter(tmp_path / "few", transformer, vae))
    with pytest.raises(InputError, match="an adapter for 7 numbers a frame, a plan has"):
        generation.FaceGenerator(vae, adapted, toy_reference())


DAMAGES = {
    "no facts": (lambda folder: (folder / adapters.FACTS).unlink(), "absent; give a folder of workbench.train.adapter"),
    "no weights": (lambda folder: (folder / adapters.WEIGHTS).unlink(), "adapter.safetensors: absent"),
    "a list": (lambda folder: (folder / adapters.FACTS).write_text("[]"), "expected a JSON object"),
    "an unknown fact": (lambda folder: _change(folder, colour="red"), "describes no adapter"),
    "a word for a number": (lambda folder: _change(folder, pixels="256"), r"pixels is .256., which"),
    "no size": (lambda folder: _change(folder, size={}), "'add.0.weight' has shape"),
    "a huge rank": (lambda folder: _change(folder, size={"rank": 2**40}), "rank is 1099511627776"),
    "no sizes": (lambda folder: _change(folder, chunk_slots=[]), "expected some of"),
    "a size that is none": (lambda folder: _change(folder, chunk_slots=[1, 7]), r"chunk_slots are \[1, 7\]"),
    "NaN": (lambda folder: _spoil(folder), "holds NaN"),
}  # fmt: skip


def _change(folder, **facts) -> None:
    path = folder / adapters.FACTS
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def _spoil(folder) -> None:
    state = load_file(folder / adapters.WEIGHTS)
    state["pack.bias"][0] = np.nan
    save_file(state, folder / adapters.WEIGHTS)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_one_line(damage, checkpoint, tmp_path):
    change, says = DAMAGES[damage]
    folder = write_adapter(tmp_path, checkpoint)
    change(folder)
    with pytest.raises(InputError, match=says) as caught:
        adapters.load_adapter(folder, wans_own(), wan.load_vae(checkpoint))
    assert "\n" not in str(caught.value)
