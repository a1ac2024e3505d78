"""The transformer's trainer: what it encodes, drafts and draws; that it learns; that it resumes and is checked."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from specsync_lib import tensors
from specsync_lib.errors import InputError
from specsync_lib.face import generation, wan, wan_mini
from specsync_lib.units import FRAMES_PER_SLOT, ChunkSize
from specsync_lib.visemes import SyncPlan
from tests.toys.faces import talking_corpus, toy_corpus, write_toy_faces
from tests.toys.generation import toy_models
from workbench.train import transformer as training
from workbench.train.descent import MAX_RETREATS, Descent, cosine

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus():
    return talking_corpus()


@pytest.fixture(scope="module")
def vae():
    return toy_models()[0]


@pytest.fixture(scope="module")
def data(corpus, vae):
    return training.encode_clips(corpus, vae, corpus.clips_of("train"), CPU, phases=2)


def options(**changes) -> training.Options:
    settings = dict(minutes=30, total_minutes=30, last_dropped=0.2, slots=(1, 3))
    return training.smoke_options(training.Options(**(settings | changes)), 2)


# --- data -------------------------------------------------------------------------------------------------------------


def test_rows_are_clips_with_the_still_face_and_later_starts(corpus, vae, data):
    assert data.z.shape == (4, 4, 16, 4, 4)  # 2 clips, 2 starts; 1 + 12 frames fit after the later start
    assert data.clip.tolist() == [0, 0, 1, 1]
    assert data.begins.tolist() == [1, 2, 18, 19]
    assert data.ends.tolist() == [17, 17, 34, 34]
    span = [17, *range(19, 31)]
    signal = wan.to_signal(torch.from_numpy(corpus.frames[span])[None])
    expected = wan.normalise_latents(wan.encode_clip(vae, signal).chunk(2, 1)[0], vae)[0].transpose(0, 1)
    torch.testing.assert_close(data.z[3], expected, atol=1e-4, rtol=1e-4)
    still, _ = generation.still_latents(vae, corpus.frames[0], CPU)
    torch.testing.assert_close(data.still[1], still)
    assert data.mouth[0, 1].int().tolist() == [[0, 0, 0, 0]] * 2 + [[0, 1, 1, 0]] * 2


def test_the_trainers_tokens_are_the_generators(corpus, vae, data):
    """A chunk in training and the same chunk in generation tell the transformer the same."""
    generator = generation.FaceGenerator(vae, toy_models()[1], corpus.frames[0])
    rows = generation.idle_columns(corpus.units, corpus.pose)
    pieces = []
    for start, frames in ((1, 16), (13, 4)):
        visemes = np.pad(corpus.viseme[start : start + frames], (0, max(0, 12 - frames)))
        openness = np.pad(corpus.openness[start : start + frames], (0, max(0, 12 - frames)))
        idle = np.pad(rows[start : start + frames], ((0, max(0, 12 - frames)), (0, 0)))
        noise = torch.Generator().manual_seed(0)
        chunk = generator.begin(SyncPlan(visemes, openness), None, 1.0, 1, noise, idle)
        pieces.append(generator.tokens(chunk))
        chunk.step()
        generator.commit(chunk)
    slots, ahead = torch.tensor([1, 4]), torch.tensor([4, 4])
    told = training.chunk_tokens(data, torch.tensor([0, 0]), slots, ahead)
    torch.testing.assert_close(told[0], pieces[0])
    torch.testing.assert_close(told[1, :8], pieces[1][:8])  # past and 4 frames; after them the clip ends
    assert told[1, 8:, : -generation.TOKENS].abs().max() == 0


def test_fewer_frames_ahead_are_known_only_as_far_as_asked(data):
    told = training.chunk_tokens(data, torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([0, 3]))
    known = told[:, :, 15 + 1 + generation.IDLE_FEATURES]
    assert known[0].tolist() == [0] * 4 + [1] * 12 + [0] * 4
    assert known[1].tolist() == [0] * 4 + [1] * 15 + [0]


def test_the_linear_draft_follows_the_plan_it_is_given(data):
    linear = training.LinearDraft(data)
    rows, slot = torch.arange(4), torch.ones(4, dtype=torch.long)
    truth = data.z[:, 1:4].transpose(1, 2)
    right = linear.draft(data.still, rows, slot)
    wrong = linear.draft(data.still, rows.flip(0), slot)
    resting = data.still.unsqueeze(2).expand_as(truth)
    errors = [(draft - truth).pow(2).mean().item() for draft in (right, wrong, resting)]
    assert errors[0] < 0.75 * min(errors[1:])


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_the_rollout_is_what_the_generator_makes(corpus, vae, data, slots):
    """The trainer's batched measurement and the suite's generator agree, chunk after chunk."""
    transformer, size = toy_models()[1], ChunkSize(slots)
    transformer.register_to_config(chunk_slots=[1, 2, 3])
    linear = training.LinearDraft(data)
    first = training.encode_clips(corpus, vae, np.array([0]), CPU)
    rolled = training.rollout(transformer, first, linear, 2, 1.0, drafted=False, slots=slots)
    generator = generation.FaceGenerator(vae, transformer, corpus.frames[0], size=size)
    known = slice(1, 5 + size.frames)
    idle = generation.idle_columns(corpus.units, corpus.pose)[known]
    plan = SyncPlan(corpus.viseme[known], corpus.openness[known])
    noise = torch.Generator().manual_seed(0)
    chunk = generator.begin(plan, None, 1.0, 2, noise, idle)
    chunk.step()
    chunk.step()
    torch.testing.assert_close(chunk.latents, rolled[0, :, :slots], atol=1e-4, rtol=1e-4)
    decoded = training.decode(vae, first.z[0, 0], rolled[0, :, :slots])
    difference = np.abs(decoded.numpy().astype(int) - generator.commit(chunk))
    assert difference.max() <= 1


# --- the inner loop ---------------------------------------------------------------------------------------------------


def small_descent(**changes) -> tuple[torch.nn.Linear, Descent]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    return model, Descent(model.parameters(), device=CPU, ema=0.9, **changes)


def test_a_mode_that_fails_gives_way_to_a_plainer_one(capsys, monkeypatch):
    model, descent = small_descent()
    descent._modes = [(True, True), (True, False), (False, False)]
    plain = descent._prepared

    def prepared(loss_of, compiled, captured):
        if compiled:
            raise RuntimeError("no compiler here\nand a long trace")
        return plain(loss_of, compiled, captured)

    monkeypatch.setattr(descent, "_prepared", prepared)
    descent.prepare(lambda compiled: model(torch.ones(2, 3)).pow(2).mean())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "compiled and captured step failed (RuntimeError: no compiler here); now compiled" in lines[0]
    assert descent.mode == "plain"
    before = model.weight.detach().clone()
    descent.step(0.1)
    assert (model.weight != before).any()


def test_the_plainest_modes_error_is_not_hidden():
    _, descent = small_descent()
    descent.prepare(lambda compiled: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        descent.step(0.1)


def test_a_loss_that_is_no_number_leads_back_and_slows_down(capsys):
    model, descent = small_descent()
    poison = torch.zeros(())
    descent.prepare(lambda compiled: model(torch.ones(2, 3)).pow(2).mean() * (1 + poison))
    descent.step(0.01)
    descent.save_point()
    good = [parameter.detach().clone() for parameter in model.parameters()]
    poison.fill_(float("nan"))
    descent.step(0.01)
    assert np.isnan(descent.loss())
    for parameter, kept in zip(model.parameters(), good, strict=True):
        torch.testing.assert_close(parameter.detach(), kept)
    assert descent.slowdown == 0.5
    assert all(torch.isfinite(tensor).all() for tensor in descent.average)
    poison.zero_()
    descent.step(0.01)
    assert np.isfinite(descent.loss())
    poison.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="lower --learning-rate"):
        for _ in range(MAX_RETREATS):
            descent.step(0.01)
            descent.loss()
    assert "step 2: the loss is nan; back, at 0.5 of the rate" in capsys.readouterr().out


def test_the_rate_rises_then_falls():
    assert cosine(0.0, 0) == pytest.approx(0.01)
    assert cosine(0.0, 99) == pytest.approx(1.0)
    assert cosine(0.5, 1000) == pytest.approx(0.51)
    assert cosine(1.5, 1000) == pytest.approx(0.02)


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_learns_the_mouth(corpus, vae):
    size = wan_mini.Size(heads=2, head_dim=24, layers=2, ffn=96)
    given = training.Options(size=size, batch=16, phases=2, held_out_clips=1, minutes=30, total_minutes=30)
    trainer = training.Trainer(corpus, vae, given, CPU)
    trainer.descent.prepare(*(partial(trainer._loss_in_mode, slots=slots) for slots in given.slots))
    losses = []
    for step in range(60):
        trainer.descent.step(3e-3, step % 3)
        losses.append(trainer.descent.loss())
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:4])


def test_two_steps_train_save_load_and_resume(corpus, vae, tmp_path):
    metrics = training.train(corpus, vae, options(), tmp_path / "one")
    assert metrics["steps"] == 2
    stored = json.loads((tmp_path / "one" / "transformer_metrics.json").read_text())
    assert stored["curve"][-1]["step"] == 2
    assert len(stored["losses"]) == 1
    assert set(stored["final"]["test"]) == {
        "resting face",
        "linear draft",
        *[method[0] for method in training.METHODS],
        "VAE alone",
        "clips",
    }
    card = (tmp_path / "one" / "transformer_card.md").read_text()
    assert f"{stored['final']['validation']['VAE alone']['psnr_db']:.2f}" in card
    assert (tmp_path / "one" / "transformer_preview.png").stat().st_size > 500
    assert {"test_1slot", "validation_1slot"} <= set(stored["final"])
    transformer = wan.load_transformer(tmp_path / "one")
    assert generation.window_slots(transformer, ChunkSize(1)) == 1  # it knows short chunks
    generator = generation.FaceGenerator(vae, transformer, corpus.frames[0])
    assert generator.latent_shape == (16, 3, 4, 4)
    again = training.train(corpus, vae, options(total_minutes=60), tmp_path / "two", resume=tmp_path / "one")
    assert again["steps"] == 4
    assert again["curve"][: len(stored["curve"])] == stored["curve"]
    assert again["trained_minutes"] > stored["trained_minutes"]


def test_a_model_that_knows_three_slots_alone_is_where_one_for_all_may_start(corpus, vae, tmp_path):
    earlier = toy_models()[1]
    earlier.save_pretrained(tmp_path / "three" / "transformer")
    tensors.write_hashes(tmp_path / "three")
    begun = training.Trainer(corpus, vae, options(), CPU, start=tmp_path / "three")
    assert begun.steps == 0 and begun.model.config["chunk_slots"] == [1, 3]
    for name, tensor in begun.model.state_dict().items():
        assert torch.equal(tensor, earlier.state_dict()[name].float())
    for slots in (1, 3):
        assert torch.isfinite(begun.loss(slots))


def test_the_default_model_fits_its_share_of_the_weights():
    model = wan_mini.new_transformer(wan_mini.Size(), seed=0)
    assert 2 * sum(parameter.numel() for parameter in model.parameters()) < 8 * 2**20


def test_clips_that_do_not_begin_at_rest_are_refused(corpus, vae):
    other = toy_corpus(size_px=32, clip_frames=17)
    with pytest.raises(InputError, match="--manner suite"):
        training.encode_clips(other, vae, other.clips_of("train"), CPU)
    short = toy_corpus(size_px=32, clip_frames=3 * FRAMES_PER_SLOT)
    short.facts["rest_first"] = True
    with pytest.raises(InputError, match="hold no chunk"):
        training.encode_clips(short, vae, short.clips_of("train"), CPU)


def test_the_command_line_says_in_one_line_what_is_missing(tmp_path, capsys):
    faces = write_toy_faces(tmp_path / "faces")
    arguments = ["--data", str(faces), "--vae", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert training.main(arguments) == InputError.EXIT_CODE
    line = capsys.readouterr().err.strip()
    assert "none" in line
    assert "\n" not in line


@pytest.mark.slow
def test_the_notebook_runs_two_steps(tmp_path, monkeypatch):
    import papermill

    from specsync_lib.paths import NOTEBOOKS_DIR

    monkeypatch.setenv("SPECSYNC_RUN_DIR", str(tmp_path / "run"))
    faces = write_toy_faces(tmp_path / "faces", manner="suite", size_px=64)
    toy_models()[0].save_pretrained(tmp_path / "models" / "vae")
    papermill.execute_notebook(
        NOTEBOOKS_DIR / "training" / "wan_transformer.ipynb",
        tmp_path / "wan_transformer.ipynb",
        parameters={"profile": "smoke", "faces_folder": str(faces), "vae_folder": str(tmp_path / "models")},
        cwd=NOTEBOOKS_DIR,
        progress_bar=False,
    )
    out = tmp_path / "run" / "wan_transformer_smoke"
    assert json.loads((out / "transformer_metrics.json").read_text())["steps"] == 2
    assert (out / "wan_transformer_errors.png").is_file()
