"""The face generator: the flow's algebra, causality, plans that change between steps, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib import rows
from specsync_lib.errors import InputError
from specsync_lib.face import generation, wan
from specsync_lib.face.compositing import idle_tracks
from specsync_lib.face.generation import IDLE_FEATURES, TOKENS
from specsync_lib.measures import pictures
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES, ChunkSize
from specsync_lib.visemes import SyncPlan
from tests.toys.generation import PX, toy_generator, toy_models, toy_plan, toy_reference, wans_own, write_wan


@pytest.fixture(scope="module")
def shared():
    return toy_generator()


@pytest.fixture
def generator(shared):
    shared.reset()
    return shared


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(generator, plan, steps=2, draft=None, level=1.0, seed=0, idle=None):
    chunk = generator.begin(plan, draft, level, steps, noise(seed), idle)
    while chunk.steps_left:
        chunk.step()
    return chunk


# --- the flow ---------------------------------------------------------------------------------------------------------


@given(level=st.floats(0.05, 1), steps=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_perfect_prediction_is_reached_whatever_the_start(level, steps, seed):
    """Under a model that knows the clean latents, every schedule ends on them and stays on the straight line."""
    clean, start, eps = torch.randn(3, 4, 5, generator=noise(seed))
    times = generation.step_times(level, steps)
    assert times[0] == level
    assert times[-1] == 0
    state = (1 - level) * start + level * eps
    first = state
    for t, t_next in pairwise(times):
        state = generation.toward_clean(state, clean, t, t_next)
        torch.testing.assert_close(state, clean + (t_next / level) * (first - clean), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, clean)


def test_one_step_follows_the_velocity():
    """x' = x + (t' - t) v with v = (x - clean) / t: the flow's Euler step."""
    state, clean = torch.randn(2, 6, generator=noise())
    velocity = (state - clean) / 0.8
    torch.testing.assert_close(generation.toward_clean(state, clean, 0.8, 0.3), state + (0.3 - 0.8) * velocity)


def test_a_new_transformer_predicts_the_resting_face():
    from specsync_lib.face.wan_mini import Size, new_transformer

    torch.manual_seed(0)
    model = new_transformer(Size(heads=2, head_dim=12, layers=1, ffn=32), seed=0)
    still, last = torch.randn(2, 1, 16, 4, 4)
    tokens = torch.zeros(1, TOKENS, generation.TOKEN_FEATURES)
    noisy, first = torch.randn(1, 16, 3, 4, 4), torch.tensor([True])
    clean = generation.predict_clean(model, noisy, torch.tensor([0.5]), tokens, still, last, first)
    torch.testing.assert_close(clean, still.unsqueeze(2).expand_as(clean))


def test_the_model_sees_every_condition(generator):
    """Noise, time, plan, idle motion, still slot, last slot and chunk order: a change of any one changes the answer."""
    h = PX // 8
    given = dict(
        noisy=torch.randn(1, 16, 3, h, h, generator=noise()),
        t=torch.tensor([0.5]),
        tokens=torch.rand(1, TOKENS, generation.TOKEN_FEATURES, generator=noise(1)),
        still=torch.randn(1, 16, h, h, generator=noise(2)),
        last=torch.randn(1, 16, h, h, generator=noise(3)),
        first=torch.tensor([False]),
    )
    before = generation.predict_clean(generator.transformer, **given) - given["still"].unsqueeze(2)
    changes = {"t": torch.tensor([0.9]), "first": torch.tensor([True])}
    for name, value in given.items():
        other = given | {name: changes.get(name, value + 0.5)}
        after = generation.predict_clean(generator.transformer, **other) - other["still"].unsqueeze(2)
        assert (after - before).abs().max() > 1e-4, name


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_hold_the_plan_its_past_and_what_is_known_of_its_future(generator):
    plan = toy_plan(14)
    idle = generation.idle_rows(idle_tracks(14, seed=0))
    first = generator.begin(plan, None, 1.0, 1, noise(), idle)
    tokens = generator.tokens(first).numpy()
    visemes, openness, rows, known, place = np.split(tokens, np.cumsum([15, 1, IDLE_FEATURES, 1]), axis=1)
    assert known[:, 0].tolist() == [0] * 4 + [1] * 14 + [0] * 2
    np.testing.assert_array_equal(visemes[4:18].argmax(1), plan.visemes)
    np.testing.assert_allclose(openness[4:18, 0], plan.openness)
    np.testing.assert_allclose(rows[4:18], idle)
    np.testing.assert_array_equal(place, np.eye(TOKENS))
    assert tokens[:4, :-TOKENS].max() == 0  # nothing was said before
    first.step()
    generator.commit(first)
    second = generator.begin(toy_plan(12, 1), None, 1.0, 1, noise())
    tokens = generator.tokens(second).numpy()
    np.testing.assert_array_equal(tokens[:4, :15].argmax(1), plan.visemes[8:12])
    np.testing.assert_allclose(tokens[:4, 16 : 16 + IDLE_FEATURES], idle[8:12])
    np.testing.assert_array_equal(tokens[4:16, :15].argmax(1), second.plan.visemes)


def test_idle_rows_leave_the_mouth_out():
    tracks = idle_tracks(30, seed=2)
    rows = generation.idle_rows(tracks)
    assert rows.shape == (30, IDLE_FEATURES)
    np.testing.assert_allclose(rows[:, :3], 10 * tracks.pose, rtol=1e-6)
    tracks.units[:, 24] = 0.7  # jawOpen
    np.testing.assert_array_equal(generation.idle_rows(tracks), rows)
    tracks.units[:, 8] = 0.7  # eyeBlinkLeft
    assert (generation.idle_rows(tracks) != rows).any(axis=1).all()


# --- chunks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2])
def test_a_short_chunk_is_the_end_of_a_window_whose_other_slots_are_committed(shared, slots, monkeypatch):
    seen = []

    def spy(transformer, noisy, t, tokens, still, last, first):
        seen.append((noisy[0], t.item(), tokens[0], last[0], first.item()))
        return torch.zeros_like(noisy)

    monkeypatch.setattr(generation, "predict_clean", spy)
    generator = shared.fresh(ChunkSize(slots))
    committed = [generator.still] * 4
    for number in range(4):
        chunk = run(generator, toy_plan(4 * slots + 2, number), steps=2, seed=number)
        before = 3 - slots
        for noisy, t, tokens, last, first in seen:
            known = torch.stack(committed[-before:], dim=1)
            torch.testing.assert_close(noisy[:, :before], (1 - t) * known + t * chunk.past_noise)
            assert torch.equal(last, committed[-before - 1]) and not first
            told = tokens[:, 16 + IDLE_FEATURES].tolist()
            said = min(4 * slots * number, 4 + 4 * before)
            assert told == [0] * (4 + 4 * before - said) + [1] * (said + 4 * slots + 2) + [0] * 2
        assert generator.commit(chunk).shape[0] == 4 * slots
        committed += chunk.latents.unbind(1)
        seen.clear()


def test_a_transformer_that_knows_short_chunks_sees_the_chunk_alone(shared):
    generator = shared.fresh(ChunkSize(1))
    assert generation.window_slots(generator.transformer, ChunkSize(1)) == 3
    knows = toy_models()[1]
    knows.register_to_config(chunk_slots=[1, 2, 3])
    assert [generation.window_slots(knows, ChunkSize(slots)) for slots in (1, 2, 3)] == [1, 2, 3]
    assert generation.window_slots(wans_own(), ChunkSize(1)) == 1  # it takes any length
    alone = generation.FaceGenerator(generator.vae, knows, toy_reference(), size=ChunkSize(1))
    chunk = run(alone, toy_plan(8))
    assert chunk.past_noise.shape[1] == 0 and chunk.latents.shape[1] == 1 and len(alone.commit(chunk)) == 4


def test_a_chunk_is_twelve_frames_and_the_clip_is_what_a_whole_decode_gives(generator):
    """The reference fills slot 0; chunk c is frames 12c .. 12c + 11 of the clip without it."""
    chunks, frames = [], []
    for number in range(2):
        chunk = run(generator, toy_plan(12, number), seed=number)
        assert chunk.number == number
        chunks.append(chunk.latents)
        frames.append(generator.commit(chunk))
        assert frames[-1].shape == (FRAMES_PER_CHUNK, PX, PX, 3)
        assert frames[-1].dtype == np.uint8
    _, first = generation.still_latents(generator.vae, generator.reference, generator.device)
    clip = wan.denormalise_latents(torch.cat([first[:, None], *chunks], dim=1)[None], generator.vae)
    with torch.no_grad():
        whole = wan.to_frames(generator.vae.decode(clip).sample)[0, 1:].numpy()
    difference = np.abs(np.concatenate(frames).astype(int) - whole)
    assert difference.max() <= 1


@settings(max_examples=6)
@given(
    plans=st.lists(st.integers(0, 5), min_size=2, max_size=3),
    others=st.lists(st.integers(6, 11), min_size=3, max_size=3),
    agree=st.integers(1, 3),
)
def test_what_comes_later_never_changes_a_committed_chunk(shared, plans, others, agree):
    """Two recordings that agree for some chunks show the same frames there, whatever each says afterwards."""
    agree = min(agree, len(plans))
    seen = []
    for tail in (plans[agree:], others[agree : len(plans)]):
        shared.reset()
        seen.append(
            [
                shared.commit(run(shared, toy_plan(12, seed), steps=1, seed=k))
                for k, seed in enumerate([*plans[:agree], *tail])
            ]
        )
    for one, two in zip(seen[0][:agree], seen[1][:agree], strict=True):
        np.testing.assert_array_equal(one, two)
    if agree < len(plans):
        assert (seen[0][agree] != seen[1][agree]).any()


def test_an_abandoned_chunk_leaves_no_trace(generator):
    straight = [generator.commit(run(generator, toy_plan(12, k), seed=k)) for k in range(2)]
    generator.reset()
    first = generator.commit(run(generator, toy_plan(12, 0), seed=0))
    wrong = run(generator, toy_plan(12, 7), seed=9)
    assert (generator.decode(wrong).frames != straight[1]).any()
    second = generator.commit(run(generator, toy_plan(12, 1), seed=1))
    np.testing.assert_array_equal(first, straight[0])
    np.testing.assert_array_equal(second, straight[1])


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_what_is_decoded_before_the_commit_is_what_the_commit_gives(pieces):
    """In one piece or slot by slot; the chunk after it goes on from there."""
    seen = []
    for early in (False, True):
        generator, decoded = toy_generator(), None
        chunk = run(generator, toy_plan(12))
        for slots in np.array_split(range(3), pieces) if early else ():
            decoded = generator.decode(chunk, slice(slots[0], slots[-1] + 1), decoded)
        seen.append([generator.commit(chunk, decoded), generator.commit(run(generator, toy_plan(12, 1)))])
    for plain, piecewise in zip(*seen, strict=True):
        np.testing.assert_array_equal(plain, piecewise)


def test_a_chunk_decoded_in_part_is_not_committed(generator):
    chunk = run(generator, toy_plan(12))
    with pytest.raises(InputError, match="decoded to 4 of 12 frames"):
        generator.commit(chunk, generator.decode(chunk, slice(0, 1)))
    assert generator.chunks == 0


def test_no_steps_decode_the_draft_itself(generator):
    draft = torch.randn(generator.latent_shape, generator=noise(3))
    chunk = generator.begin(toy_plan(12), draft, 0.5, 0, noise())
    assert chunk.steps_left == 0
    torch.testing.assert_close(chunk.latents, draft)
    generator.commit(chunk)


def test_a_chunk_starts_from_its_draft_by_one_minus_the_noise_level(generator):
    draft = torch.full(generator.latent_shape, 2.0)
    chunk = generator.begin(toy_plan(12), draft, 0.3, 1, noise(4))
    eps = torch.randn(generator.latent_shape, generator=noise(4))
    torch.testing.assert_close(chunk.latents, 0.7 * draft + 0.3 * eps)


def test_a_plan_given_between_steps_counts_from_then_on(generator):
    right, wrong = toy_plan(12, 1), toy_plan(12, 2)

    def latents(first, then, after):
        chunk = generator.begin(first, None, 1.0, 3, noise())
        for k in range(3):
            chunk.step(plan=then if k == after else None)
        return chunk.latents

    torch.testing.assert_close(latents(wrong, right, 0), latents(right, right, 3))  # before the first step: as if begun
    late = latents(wrong, right, 2)
    assert (late - latents(wrong, wrong, 3)).abs().max() > 1e-4
    assert (late - latents(right, right, 3)).abs().max() > 1e-5


def test_the_last_step_can_be_taken_back_once(generator):
    chunk = generator.begin(toy_plan(12, 1), None, 1.0, 2, noise())
    with pytest.raises(InputError, match="no denoising step to take back"):
        chunk.undo()
    chunk.step()
    before = chunk.latents
    chunk.step(plan=toy_plan(12, 2))
    after = chunk.latents
    chunk.undo()
    assert chunk.steps_left == 1 and torch.equal(chunk.latents, before) and not torch.equal(before, after)
    with pytest.raises(InputError, match="no denoising step to take back"):
        chunk.undo()
    chunk.step(plan=toy_plan(12, 2))
    assert torch.equal(chunk.latents, after)


def test_the_same_noise_gives_the_same_frames(generator):
    one = generator.decode(run(generator, toy_plan(12), seed=5)).frames
    np.testing.assert_array_equal(one, generator.decode(run(generator, toy_plan(12), seed=5)).frames)
    assert (one != generator.decode(run(generator, toy_plan(12), seed=6)).frames).any()


# --- whole recordings and measures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 11, 12, 13, 29])
def test_a_recordings_chunks_hold_its_frames_and_then_silence(frames):
    plan = toy_plan(frames)
    idle = np.random.default_rng(0).random((frames, IDLE_FEATURES)).astype(np.float32)
    parts = list(generation.chunk_plans(plan, idle))
    assert len(parts) == -(-frames // FRAMES_PER_CHUNK)
    told = np.concatenate([part.visemes[:12] for part, _ in parts])
    rows = np.concatenate([rows[:12] for _, rows in parts])
    np.testing.assert_array_equal(told[:frames], plan.visemes)
    assert (told[frames:] == VISEMES.index("sil")).all()
    np.testing.assert_array_equal(rows[:frames], idle)
    assert all(len(part) == len(rows) == (16 if k + 1 < len(parts) else 12) for k, (part, rows) in enumerate(parts))


def test_seams_are_found_and_smooth_motion_has_none():
    n, side = 36, 8
    smooth = np.stack([np.full((side, side, 3), 40 + 3 * k, np.uint8) for k in range(n)])
    table = pictures.seam_table(smooth)
    assert table["border"].tolist() == [12, 24]
    np.testing.assert_allclose(table["ratio"], 1)
    jumping = smooth.copy()
    jumping[24:] += 12
    np.testing.assert_allclose(pictures.seam_table(jumping)["ratio"], [1, 5])


def test_repair_falls_from_all_to_nothing_with_the_steps_left(generator):
    """On a model that follows its plan alone, a switch before the last step repairs all, none after it."""

    class Obedient:
        config, dtype = generator.transformer.config, torch.float32
        patch_embedding = generator.transformer.patch_embedding

        def parameters(self):
            return iter(())

        def __call__(self, x, t, tokens, return_dict):
            mouth = tokens[:, 4:16, 15].mean(dim=1)  # mean openness
            return (0.3 * mouth[:, None, None, None, None].expand(-1, 16, 3, *x.shape[-2:]),)

    generator.transformer = Obedient()
    try:
        closed = SyncPlan(np.zeros(12, np.int8), np.zeros(12))
        open_ = SyncPlan(np.full(12, VISEMES.index("aa")), np.ones(12))
        read = lambda frames: frames.reshape(12, -1).astype(float).mean(axis=1)  # noqa: E731
        table = pictures.repair_table(generator, closed, open_, read, steps=3, noise_level=1.0, seed=0)
    finally:
        generator.transformer = toy_models()[1]
    assert table["switched_after"].tolist() == [0, 1, 2, 3]
    assert table["steps_left"].tolist() == [3, 2, 1, 0]
    np.testing.assert_allclose(table["repaired"], [1, 1, 1, 0], atol=1e-6)
    assert table["error"].iloc[-1] > 0


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_one_line(generator):
    draft = torch.zeros(generator.latent_shape)
    for call, word in (
        (lambda: generator.begin(toy_plan(11), draft, 0.5, 1, noise()), "plan of 11 frames"),
        (lambda: generator.begin(toy_plan(17), draft, 0.5, 1, noise()), "plan of 17 frames"),
        (lambda: generator.begin(toy_plan(12), draft[:, :2], 0.5, 1, noise()), "drafted latents"),
        (lambda: generator.begin(toy_plan(12), draft * torch.nan, 0.5, 1, noise()), "expected finite"),
        (lambda: generator.begin(toy_plan(12), draft, 1.5, 1, noise()), "noise level 1.5"),
        (lambda: generator.begin(toy_plan(12), draft, 0.5, -1, noise()), "-1 steps"),
        (lambda: generator.begin(toy_plan(12), None, 0.5, 1, noise()), "without drafted latents"),
        (lambda: generator.begin(toy_plan(12), draft, 0.5, 1, noise(), np.zeros((5, 2))), "idle rows"),
        (lambda: generator.commit(generator.begin(toy_plan(12), draft, 0.5, 2, noise())), "2 denoising steps left"),
        (lambda: run(generator, toy_plan(12)).step(), "no denoising step left"),
        (lambda: run(generator, toy_plan(12, 1)).generator.begin(toy_plan(3), None, 1, 1, noise()), "plan of 3"),
    ):
        with pytest.raises(InputError, match=word) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_chunk_is_committed_once_and_in_turn(generator):
    chunk, twin = run(generator, toy_plan(12)), run(generator, toy_plan(12, 1))
    generator.commit(chunk)
    for late in (chunk, twin):
        with pytest.raises(InputError, match="not the next one"):
            generator.commit(late)


def test_a_model_or_a_reference_of_another_kind_is_refused():
    vae, transformer = toy_models()
    from diffusers import WanTransformer3DModel

    size = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 16, "num_layers": 1, "text_dim": 8}
    with pytest.raises(InputError, match="wan-mini's has"):  # image to video: 16 channels and 20 of conditions
        generation.FaceGenerator(vae, WanTransformer3DModel(**size, in_channels=36), toy_reference())
    with pytest.raises(InputError, match="give uint8, 16k px"):
        generation.FaceGenerator(vae, transformer, toy_reference()[:24, :24])
    with pytest.raises(InputError, match="square picture"):
        generation.FaceGenerator(vae, transformer, toy_reference()[:16])


def test_a_full_gpu_is_one_line_with_sizes_and_the_option_to_lower(generator, monkeypatch):
    def full(*arguments, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    chunk = generator.begin(toy_plan(12), None, 1.0, 1, noise())
    monkeypatch.setattr(generation, "predict_clean", full)
    with pytest.raises(InputError, match=r"3 slots of 32 px .*lower region_px") as error:
        chunk.step()
    assert "\n" not in str(error.value)


def test_wans_own_transformer_predicts_a_velocity_and_its_clean_latents_follow():
    """x = (1 - t) z + t eps and v = eps - z give z = x - t v, to the last bit that the sums leave."""
    model, rng = wans_own(), torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 16, 3, 4, 4, generator=rng) for _ in range(2))
    t = torch.tensor([0.25, 0.9])
    noisy = (1 - t)[:, None, None, None, None] * clean + t[:, None, None, None, None] * noise
    asked = {}

    class Straight(torch.nn.Module):
        config, patch_embedding = model.config, model.patch_embedding

        def forward(self, x, times, text, return_dict):
            asked.update(x=x, times=times, text=text)
            return (noise - clean,)

    still = last = torch.zeros(2, 16, 4, 4)
    first, tokens = torch.tensor([True, False]), torch.zeros(2, generation.TOKENS, generation.TOKEN_FEATURES)
    found = generation.predict_clean(Straight(), noisy, t, tokens, still, last, first)
    torch.testing.assert_close(found, clean, atol=1e-5, rtol=1e-5)
    assert torch.equal(asked["x"], noisy) and asked["times"].tolist() == [250, 900]
    assert asked["text"].shape == (2, 1, 4096) and not asked["text"].any()


def test_wans_own_checkpoint_in_two_shards_draws_a_chunk_through_a_row(tmp_path):
    row = rows.Video(source=str(write_wan(tmp_path)), weights="random", pixels=PX)
    vae, transformer = wan.load_video(row, "cpu")
    for name, tensor in wans_own().state_dict().items():
        assert torch.equal(transformer.state_dict()[name], tensor), name
    face = generation.FaceGenerator(vae, transformer, toy_reference())
    chunk = face.begin(toy_plan(12), None, 1.0, 2, torch.Generator().manual_seed(0))
    while chunk.steps_left:
        chunk.step()
    assert face.commit(chunk).shape == (12, PX, PX, 3)
