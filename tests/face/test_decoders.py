"""Decoders: one protocol, streams that can be taken back, files that are what they say."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from specsync_lib.draft.latents import vae_sha256
from specsync_lib.errors import InputError
from specsync_lib.face import generation, wan, wan_mini
from specsync_lib.face.decoders import networks, rows
from specsync_lib.face.decoders.networks import MemoryBlock, Portrait, Size, Taehv, Told
from specsync_lib.face.decoders.streams import TinyDecoder, WanDecoder
from tests.toys.generation import PX, toy_models, toy_plan, toy_reference

SIDE = PX // 8
TOY = Size(slot_width=16, slot_blocks=1, frame_width=16, frame_blocks=1)


def portrait(size: Size = TOY, seed: int = 0) -> Portrait:
    torch.manual_seed(seed)
    network = Portrait(size).eval().requires_grad_(False)
    if size.pictured:
        torch.nn.init.normal_(network.flow.weight, std=0.3)  # leave the start, where nothing moves
    return network


@pytest.fixture(scope="module")
def models():
    return toy_models()


@pytest.fixture(scope="module")
def streams(models):
    torch.manual_seed(1)
    return {
        "wan": WanDecoder(models[0]),
        "light": rows.load_decoder("light", models[0]),
        "tiny": TinyDecoder(portrait()),
        "plain": TinyDecoder(portrait(Size(16, 1, 16, 1, pictured=False))),
        "taehv": TinyDecoder(Taehv((8, 8, 8, 8)).eval().requires_grad_(False)),
    }


ROWS = ["wan", "light", "tiny", "plain", "taehv"]


def latents(slots: int, seed: int) -> torch.Tensor:
    return torch.randn(16, slots, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def started(streams, row: str):
    stream = streams[row].fresh()
    stream.start(latents(1, 99)[:, 0], toy_reference())
    return stream


@pytest.mark.parametrize("row", ROWS)
@settings(max_examples=5, deadline=None)
@given(cuts=st.lists(st.integers(1, 3), min_size=1, max_size=4), seed=st.integers(0, 2**16))
def test_pieces_of_any_size_equal_the_whole(streams, row, cuts, seed):
    z = latents(sum(cuts), seed)
    whole = started(streams, row).push(z)
    stream = started(streams, row)
    pieces = [stream.push(piece) for piece in z.split(cuts, dim=1)]
    assert [len(piece) for piece in pieces] == [4 * cut for cut in cuts]
    assert whole.shape == (4 * sum(cuts), PX, PX, 3)
    assert whole.dtype == torch.uint8
    # the same sums in another order may round one grey level aside
    assert (torch.cat(pieces).int() - whole.int()).abs().max() <= 1


@pytest.mark.parametrize("row", ROWS)
@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    before=st.integers(0, 2),
    guesses=st.lists(st.integers(1, 3), min_size=1, max_size=3),
)
def test_a_stream_taken_back_never_heard_of_the_guess(streams, row, seed, before, guesses):
    right = latents(3, seed + 1)
    stream, straight = started(streams, row), started(streams, row)
    for one in (stream, straight):
        if before:
            one.push(latents(before, seed))
    place = stream.state()
    for k, slots in enumerate(guesses):
        stream.push(latents(slots, seed + 2 + k))
    stream.restore(place)
    assert torch.equal(stream.push(right), straight.push(right))
    stream.restore(place)  # a place stays good
    straight.start(latents(1, 99)[:, 0], toy_reference())
    if before:
        straight.push(latents(before, seed))
    assert torch.equal(stream.push(right), straight.push(right))


@pytest.mark.parametrize("row", ROWS)
def test_frames_follow_their_slots_and_remember_the_last(streams, row):
    stream, z = started(streams, row), latents(4, 5)
    place = stream.state()
    changed = z.clone()
    changed[:, 3] += 1
    first = stream.push(z)
    stream.restore(place)
    second = stream.push(changed)
    assert torch.equal(first[:12], second[:12])  # the past does not hear of what comes
    assert not torch.equal(first[12:], second[12:])
    stream.restore(place)
    changed = z.clone()
    changed[:, 0] += 1
    assert not torch.equal(stream.push(changed)[4:8], first[4:8])  # a slot sees the one before


def test_wans_row_is_the_chunk_decoder(models):
    vae, z = models[0], latents(3, 3)
    stream = WanDecoder(vae)
    stream.start(z[:, 0], toy_reference())
    reference = wan.ChunkDecoder(vae)
    expected = [reference.push(wan.denormalise_latents(piece[None], vae)) for piece in (z[:, :1], z[:, 1:])][1]
    assert torch.equal(stream.push(z[:, 1:]), wan.to_frames(expected)[0])


def test_two_streams_of_one_decoder_do_not_meet(streams):
    for row in ROWS:
        one, alone = started(streams, row), started(streams, row)
        other = one.fresh()
        other.start(latents(1, 7)[:, 0], toy_reference(3))
        other.push(latents(2, 8))
        assert torch.equal(one.push(latents(1, 9)), alone.push(latents(1, 9)))


def test_a_network_that_trusts_the_picture_shows_it():
    """With no flow, nothing added and full trust the decoder is the picture at rest, pixel for pixel."""
    network = portrait()
    with torch.no_grad():
        for part in (network.flow, network.paint):
            part.weight.zero_()
            part.bias.zero_()
        network.paint.bias[48:] = 50.0
    stream = TinyDecoder(network)
    stream.start(latents(1, 0)[:, 0], toy_reference())
    frames = stream.push(latents(2, 1))
    assert np.array_equal(frames.numpy(), np.broadcast_to(toy_reference(), frames.shape))


def test_a_flow_moves_the_picture_by_as_many_pixels_as_it_says():
    torch.manual_seed(0)
    network = portrait()
    picture = torch.rand(1, 3, PX, PX)
    flow = torch.zeros(4, 2, 2 * SIDE, 2 * SIDE)
    flow[:, 0] = 2 / (PX / 2) / network.REACH  # look 2 px to the right
    moved = networks.unfolded(network._moved(flow, picture), 1, 1, 4)
    torch.testing.assert_close(moved[0, :, :, :-2], picture[0, :, :, 2:], atol=1e-4, rtol=1e-4)


def test_folding_is_undone_by_unfolding():
    x = torch.rand(6, 3, 8, 12)
    assert torch.equal(networks.unfolded(networks.folded(x, 4), 3, 1, 4), x)
    frames = networks.unfolded(torch.arange(24.0).view(2, 12, 1, 1), clips=2, frames=4, side=1)
    # frames outermost, then clips: frame 0 of both clips, then frame 1 of both
    assert frames[:, 0, 0, 0].tolist() == [0, 12, 3, 15, 6, 18, 9, 21]


def test_taehv_is_the_public_decoder():
    """Against the plainest reading of its layout: frame by frame, each block with the frame that it saw last."""
    torch.manual_seed(2)
    network = Taehv((8, 12, 8, 4)).eval().requires_grad_(False)
    z = latents(3, 4)
    seen: dict[int, torch.Tensor] = {}

    def through(x: torch.Tensor, k: int) -> list[torch.Tensor]:
        if k == len(network.decoder):
            return [x]
        layer = network.decoder[k]
        if isinstance(layer, MemoryBlock):
            past = seen.get(k, torch.zeros_like(x))
            seen[k] = x
            return through(torch.relu(layer.conv(torch.cat([x, past], 1)) + x), k + 1)
        if isinstance(layer, networks.Grow):
            parts = layer.conv(x).chunk(layer.frames, dim=1)
            return [frame for part in parts for frame in through(part, k + 1)]
        return through(layer(x), k + 1)

    expected = torch.cat([frame for slot in z.unbind(1) for frame in through(slot[None], 0)])
    told = Told(z[None, :, 0], torch.zeros(1, 3, PX, PX))
    signal, _ = network(z.transpose(0, 1), network.blank(told.latents), told)
    torch.testing.assert_close((signal.permute(0, 3, 1, 2) + 1) / 2, expected, atol=1e-5, rtol=1e-5)
    assert list(Taehv().state_dict())[:2] == ["decoder.1.weight", "decoder.1.bias"]
    assert sum(p.numel() for p in Taehv().parameters()) == pytest.approx(9.84e6, rel=0.01)


@pytest.mark.parametrize("row", ["wan", "tiny"])
def test_the_generator_commits_what_its_decoder_shows(models, row):
    decoder = None if row == "wan" else TinyDecoder(portrait())
    face = generation.FaceGenerator(*models, toy_reference(), decoder)
    assert face.decoder.row == row
    noise = torch.Generator().manual_seed(0)
    for seed in range(2):
        chunk = face.begin(toy_plan(12, seed), None, 1.0, 1, noise)
        chunk.step()
        guess = face.decode(chunk)
        slots = face.decode(chunk, slice(0, 1))
        slots = face.decode(chunk, slice(1, 3), slots)
        assert np.abs(slots.frames.astype(int) - guess.frames).max() <= 1
        assert np.array_equal(face.commit(chunk), guess.frames)
    other = face.fresh()
    assert other.chunks == 0
    assert face.chunks == 2


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae(models):
    return models[0]


@pytest.fixture(scope="module")
def file(vae, tmp_path_factory):
    path = tmp_path_factory.mktemp("decoder") / "decoder.safetensors"
    rows.save_network(path, portrait(), vae_sha256(vae))
    return path


def test_a_stored_decoder_comes_back(vae, file):
    decoder = rows.load_decoder("tiny", vae, file, torch.float32)
    kept = TinyDecoder(portrait().half().float())
    for one in (decoder, kept):
        one.start(latents(1, 0)[:, 0], toy_reference())
    assert (decoder.push(latents(2, 1)).int() - kept.push(latents(2, 1)).int()).abs().max() <= 1
    assert decoder.parameters == sum(p.numel() for p in portrait().parameters())
    assert rows.load_decoder("wan", vae).row == "wan"


def test_a_small_decoder_takes_the_processors_quick_precision(vae, file, monkeypatch):
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(rows, "multiplies_bfloat16", lambda native=native: native)
        decoder = rows.load_decoder("tiny", vae, file)
        decoder.start(latents(1, 0)[:, 0], toy_reference())
        assert decoder.state()[1][0].dtype == expected
        assert decoder.push(latents(1, 1)).dtype == torch.uint8


def edited(file, tmp_path, change, facts: dict | None = None):
    state, path = load_file(file), tmp_path / "changed.safetensors"
    change(state)
    _, stated = rows.read_header(file)
    save_file(state, path, metadata=stated | (facts or {}))
    return path


NAME = "stem.weight"
DAMAGES = {
    "missing": (lambda t: t.pop(NAME), f"'{NAME}' is missing"),
    "extra": (lambda t: t.update(surplus=torch.zeros(2)), "'surplus' is not part of the model"),
    "misshapen": (lambda t: t.update({NAME: torch.zeros(16, 32, 3, 1)}), rf"'{NAME}' has shape \(16, 32, 3, 1\)"),
    "infinite": (lambda t: t[NAME].view(-1)[3:4].fill_(float("inf")), f"'{NAME}' holds NaN or infinity"),
    "integers": (lambda t: t.update({NAME: t[NAME].to(torch.int32)}), f"'{NAME}' is torch.int32"),
}


def refused(message: str, vae, path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        rows.load_decoder("tiny", vae, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_decoders_are_refused_by_file_and_tensor(vae, file, tmp_path, damage):
    change, message = DAMAGES[damage]
    refused(message, vae, edited(file, tmp_path, change))


@pytest.mark.parametrize("kept_bytes", [0, 5, 60, -1])
def test_cut_decoders_are_refused(vae, file, tmp_path, kept_bytes):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(file.read_bytes()[:kept_bytes])
    refused("truncated|header wants|header is no", vae, path)


def test_decoders_of_other_latents_layouts_and_names_are_refused(vae, file, tmp_path):
    refused("another VAE's latents", vae, edited(file, tmp_path, lambda t: None, {rows.SPACE: "0" * 64}))
    other = wan_mini.new_vae(8, seed=5)
    refused("another VAE's latents", other, file)
    for network in ("{", "[]", json.dumps({"slot_width": -4}), json.dumps({"width": 4})):
        refused("describes no decoder", vae, edited(file, tmp_path, lambda t: None, {rows.NETWORK: network}))
    refused("absent", vae, tmp_path / "nothing.safetensors")
    pickled = tmp_path / "pickled.safetensors"
    torch.save({"a": torch.zeros(1)}, pickled)
    refused("holds a pickle", vae, pickled)
    with pytest.raises(InputError, match="expected one of wan, light, tiny"):
        rows.load_decoder("heavy", vae)


def test_a_light_decoder_is_wans_with_a_quarter_of_the_channels_and_says_that_it_knows_nothing(vae):
    own, light = rows.load_decoder("wan", vae), rows.load_decoder("light", vae)
    assert (own.row, own.label) == ("wan", "measured")
    assert (light.row, light.label) == ("light", "real-shape")
    assert light.fresh().label == "real-shape"
    pruned = rows.light_vae(vae)
    assert pruned.config.decoder_base_dim * rows.LIGHT_SHARE == vae.config.base_dim
    wide, narrow = vae.decoder.conv_in.weight.shape, pruned.decoder.conv_in.weight.shape
    assert narrow == (wide[0] // rows.LIGHT_SHARE, *wide[1:])
    assert list(pruned.config.latents_mean) == list(vae.config.latents_mean)
    assert light.parameters * 8 < own.parameters
    again = rows.light_vae(vae)
    assert all(torch.equal(a, b) for a, b in zip(pruned.parameters(), again.parameters(), strict=True))
    too_narrow = wan_mini.new_vae(4, seed=0)
    with pytest.raises(InputError, match="has no 4th"):
        rows.load_decoder("light", too_narrow)


@pytest.fixture(scope="module")
def taehv_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("taehv") / "taew2_1.safetensors"
    save_file({name: tensor.half() for name, tensor in Taehv().state_dict().items()}, path)
    return path


def test_a_taehv_file_decodes_wans_own_latents(taehv_file, tmp_path):
    vae = wan_mini.new_vae(8, seed=0)  # diffusers' default statistics are Wan 2.1's
    decoder = rows.load_decoder("tiny", vae, taehv_file, torch.float32)
    decoder.start(latents(1, 0)[:, 0], toy_reference())
    frames = decoder.push(latents(1, 1))
    assert frames.shape == (4, PX, PX, 3)
    # the whole public file: its encoder beside it, and a first level that could grow in time
    state = load_file(taehv_file)
    grow = state["decoder.7.conv.weight"]
    state["decoder.7.conv.weight"] = torch.cat([torch.zeros_like(grow), grow])
    encoder = networks.taehv_encoder().state_dict()
    state |= {f"encoder.{name}": tensor.half() for name, tensor in encoder.items()}
    save_file(state, tmp_path / "whole.safetensors")
    whole = rows.load_decoder("tiny", vae, tmp_path / "whole.safetensors", torch.float32)
    whole.start(latents(1, 0)[:, 0], toy_reference())
    assert torch.equal(whole.push(latents(1, 1)), frames)
    state["encoder.0.weight"] = torch.zeros(64, 3, 1, 1)
    save_file(state, tmp_path / "bad.safetensors")
    refused(r"'encoder\.0\.weight' has shape", vae, tmp_path / "bad.safetensors")


def test_a_taehv_file_is_refused_for_wan_minis_latents(vae, taehv_file):
    refused("another latents_mean", vae, taehv_file)


def test_a_stream_refuses_what_is_no_slot(streams):
    for row in ROWS:
        stream = streams[row].fresh()
        with pytest.raises(InputError, match="no stream was started"):
            stream.push(latents(1, 0))
        stream = started(streams, row)
        with pytest.raises(InputError, match="expected \\[16, slots >= 1"):
            stream.push(torch.zeros(16, 0, SIDE, SIDE))
    with pytest.raises(InputError, match="a picture"):
        streams["tiny"].fresh().start(latents(1, 0)[:, 0], toy_reference()[:16])
