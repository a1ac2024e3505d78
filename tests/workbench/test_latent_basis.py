"""The latent basis: exact in a linear world, the same latents as the kernel's formula, the claim's table, bad input."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from specsync_lib.draft.latents import (
    CONFIG,
    METRICS,
    RIVALS,
    WEIGHTS,
    FrontLatents,
    LatentBasis,
    load_latent_basis,
)
from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.face import wan, wan_mini
from specsync_lib.face.head.look import STRANGER
from specsync_lib.face.vae import WanCoder
from specsync_lib.figures import latents as latent_figures
from specsync_lib.measures import lip_reader
from specsync_lib.measures.latent_claim import (
    CONDITIONS,
    LIPS,
    OTHER_LIPS,
    PREVIEW,
    SUMMARY_KEYS,
    Claim,
    load_claim,
    tabulate,
)
from specsync_lib.paths import PROJECT_ROOT
from tests.toys.linear_faces import PX, PatchCoder, linear_draft, linear_material, read_gaps, write_films
from workbench.measure import latent_claim
from workbench.train import latent_basis, latent_material

COEFFICIENTS = 6
FEW = ("train0", "train1", "validation0", "test1", "test2")


@pytest.fixture(scope="module")
def draft():
    return linear_draft()


@pytest.fixture(scope="module")
def material(draft):
    return linear_material(draft)


@pytest.fixture(scope="module")
def fitted(draft, material):
    return latent_basis.fit(material, PatchCoder(), draft, "0" * 64, "1" * 64, COEFFICIENTS)


@pytest.fixture(scope="module")
def lips(draft, material, fitted):
    rows, sheet = latent_claim.read_films(material, PatchCoder(), fitted.basis, draft, fitted.rivals, read_gaps)
    assert sheet.shape == ((1 + len(CONDITIONS)) * PX, latent_claim.PREVIEW_COLUMNS * PX, 3)
    return pd.DataFrame(rows)


def random_basis(draft, side=4, count=5) -> LatentBasis:
    rng = torch.Generator().manual_seed(1)
    return LatentBasis(
        torch.randn(count, 16 * side * side, generator=rng),
        torch.randn(draft.w1.shape[1] + 1, count, generator=rng),
        torch.randn(16, side, side, generator=rng),
        "1" * 64,
        "0" * 64,
    )


# --- the stand-in and the mathematics ---------------------------------------------------------------------------------


def test_the_linear_coder_is_exact_both_ways(material):
    film = material.films[0]
    latents = PatchCoder().encode(film.frames)
    assert latents.shape == (16, 1 + len(film.gap_mm) // 4, 4, 4)
    np.testing.assert_array_equal(PatchCoder().decode(latents[None])[0], film.frames)


def test_a_linear_world_is_recovered(fitted, lips):
    """Truth moves one direction of the latents, linearly in the pooled hidden layer: nothing may be lost."""
    rows = {row["basis"]: row for row in fitted.numbers["bases"]}
    assert all(row["ceiling_explained"] > 0.995 for row in rows.values())
    assert fitted.numbers["heads"]["mean"]["latents_explained"] > 0.97
    table = tabulate(lips).set_index(["identity", "condition"])
    for identity in ("reference", "mei"):  # the stranger has a z0 of her own and shares B
        assert table.loc[(identity, "vae"), "r"] > 0.999
        assert table.loc[(identity, "truth_coefficients"), "r"] > 0.995
        assert table.loc[(identity, "kernel"), "r"] > 0.98
        assert table.loc[(identity, "kernel"), "error_mm"] < 0.3
        assert abs(table.loc[(identity, "kernel"), "lag_ms"]) < 5
    assert abs(table.loc[("reference", "shuffled"), "r"]) < 0.5
    assert table.loc[("reference", "energy"), "r"] < 0.9
    assert np.isnan(table.loc[("reference", "shuffled"), "lag_ms"])  # no lag behind what is not followed


def test_motion_inside_slots_needs_a_pool_with_order(draft):
    material = linear_material(draft, moving_inside_slots=True)
    fitted = latent_basis.fit(material, PatchCoder(), draft, "0" * 64, "1" * 64, COEFFICIENTS)
    rows, _ = latent_claim.read_films(material, PatchCoder(), fitted.basis, draft, fitted.rivals, read_gaps)
    table = tabulate(pd.DataFrame(rows)).set_index(["identity", "condition"]).loc["reference"]
    assert table.loc["ordered", "inside_slot_r"] > table.loc["kernel", "inside_slot_r"] + 0.1
    assert table.loc["truth_coefficients", "inside_slot_r"] > 0.95


def test_z0_is_where_a_still_clip_settles(material):
    picture = material.films[0].frames[0]
    coder = WanCoder(wan_mini.new_vae(4, seed=0).eval().requires_grad_(False))
    z0, reference_slot = coder.still(picture)
    longer = coder.encode(np.repeat(picture[None], wan.clip_frames(12), axis=0))
    torch.testing.assert_close(longer[:, -1], z0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(longer[:, 0], reference_slot, atol=1e-5, rtol=1e-5)


def test_the_folded_coder_gives_diffusers_latents_and_frames():
    vae = wan_mini.new_vae(8, seed=0).eval().requires_grad_(False)
    with torch.no_grad():  # leave the frame-wise start
        for parameter in vae.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    vae.register_to_config(latents_mean=[0.3] * 16, latents_std=[1.7] * 16)
    frames = np.random.default_rng(0).integers(0, 256, (17, 16, 16, 3), dtype=np.uint8)
    signal = wan.to_signal(torch.from_numpy(frames)[None])
    whole = wan.normalise_latents(wan.encode_clip(vae, signal).chunk(2, 1)[0], vae)[0]
    coder = WanCoder(vae)
    latents = coder.encode(frames)
    torch.testing.assert_close(latents, whole, atol=1e-4, rtol=1e-4)
    pair = torch.stack([latents, latents.roll(1, 1)])
    decoded = wan.to_frames(wan.decode_clip(vae, wan.denormalise_latents(pair, vae))).numpy()
    assert np.abs(coder.decode(pair).astype(int) - decoded).max() <= 1


@settings(max_examples=25)
@given(st.integers(4, 40), st.integers(1, 5), st.integers(0, 2**31))
def test_directions_are_orthonormal_and_span_the_best_subspace(rows, count, seed):
    values = torch.randn(max(rows, count), 30, generator=torch.Generator().manual_seed(seed))
    found = latent_basis.leading_directions(values, count)
    torch.testing.assert_close(found @ found.T, torch.eye(count), atol=1e-4, rtol=0)
    best = torch.linalg.svdvals(values)[count:].square().sum()
    left = (values - values @ found.T @ found).square().sum()
    torch.testing.assert_close(left, best, atol=1e-2, rtol=1e-3)


def test_too_few_slots_for_the_basis_is_one_line():
    with pytest.raises(InputError, match="3 slots cannot span 4 directions"):
        latent_basis.leading_directions(torch.randn(3, 10), 4)


def test_the_constant_is_not_penalised():
    features = torch.nn.functional.pad(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), (0, 1), value=1)
    ridge = latent_basis.Ridge()
    ridge.add(features, torch.full((200, 1), 7.0))
    torch.testing.assert_close(ridge.solve(50.0), torch.tensor([[0.0], [0.0], [0.0], [7.0]]), atol=1e-2, rtol=0)


def test_mouth_paths_hold_a_slot_and_the_one_before():
    weights = np.arange(10, dtype=np.float32)[:, None].repeat(52, axis=1) + 1
    paths = latent_basis.mouth_paths(weights)[:, ::52]
    assert paths.tolist() == [[0, 0, 0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]]
    shifted = latent_basis.mouth_paths(weights, grid=3)[:, ::52]
    assert shifted.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


# --- the drafter ------------------------------------------------------------------------------------------------------


def plan_and_features(frames, seed=0):
    rng = np.random.default_rng(seed)
    plan = DraftPlan(
        np.full((frames, 15), 1 / 15, np.float32), np.ones(frames, np.float32), np.zeros(frames, np.float32)
    )
    return plan, torch.from_numpy(rng.standard_normal((frames, 24)).astype(np.float32))


@pytest.mark.parametrize("frames", [12, 9, 4, 1])
def test_a_chunks_latents_are_the_formulas(draft, frames):
    """c = mean of a slot's usable features (and 1) times W_c; a slot without one rests."""
    basis, (plan, hidden) = random_basis(draft), plan_and_features(frames)
    plan.confidence[: min(2, frames - 1)] = 0
    said = FrontLatents(basis).draft(plan, hidden)
    assert said.latents.shape == (16, 3, 4, 4) and said.coefficients.shape == (3, 5)
    for slot in range(3):
        here = [k for k in range(4 * slot, min(4 * slot + 4, frames)) if plan.confidence[k] > 0]
        want = basis.z0.flatten()
        if here:
            features = torch.cat([hidden[here], torch.ones(len(here), 1)], dim=1).mean(dim=0)
            want = want + features @ basis.w_coef @ basis.basis
        torch.testing.assert_close(said.latents[:, slot].flatten(), want, atol=1e-4, rtol=1e-4)


def test_another_persons_z0_moves_everything_by_the_difference(draft):
    basis, told = random_basis(draft), plan_and_features(12)
    own = FrontLatents(basis).draft(*told).latents
    hers = FrontLatents(basis, z0=basis.z0 + 0.5).draft(*told).latents
    torch.testing.assert_close(hers, own + 0.5, atol=1e-5, rtol=0)


BARE_MACHINE = """
import sys
for name in ("av", "pandas", "whisper", "pocketsphinx", "anny", "psutil"):
    sys.modules[name] = None
import torch
from specsync_lib.draft import front, latents
from specsync_lib.measures import lip_reader
from workbench.measure import latent_claim
from workbench.train import latent_basis, vae
from tests.toys.fronts import toy_draft
rng = torch.Generator().manual_seed(0)
basis = latents.LatentBasis(
    torch.randn(5, 256, generator=rng), torch.randn(25, 5, generator=rng), torch.randn(16, 4, 4, generator=rng), "", "",
)
said = front.FrontStream(toy_draft()).draft(torch.randn(45, 80, generator=rng).numpy())
print(tuple(latents.FrontLatents(basis).draft(said.plan, said.hidden).latents.shape))
"""


def test_latents_are_drafted_on_a_machine_without_the_heads_packages():
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, "-c", BARE_MACHINE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "(16, 3, 4, 4)\n", done.stderr[-2000:]


# --- files and bad input ----------------------------------------------------------------------------------------------


@pytest.fixture
def stored(draft, tmp_path):
    basis = random_basis(draft)
    latent_basis.save(basis, tmp_path)
    return basis, tmp_path


def test_what_is_saved_is_loaded(stored):
    basis, folder = stored
    loaded = load_latent_basis(folder)
    torch.testing.assert_close(loaded.basis, basis.basis.half().float())
    torch.testing.assert_close(loaded.w_coef, basis.w_coef)
    torch.testing.assert_close(loaded.z0, basis.z0)
    assert (loaded.draft_sha256, loaded.vae_sha256) == (basis.draft_sha256, basis.vae_sha256)


def spoil(tensors: dict, how: str) -> dict:
    match how:
        case "missing":
            del tensors["z0"]
        case "extra":
            tensors["w_extra"] = torch.zeros(1)
        case "misshapen":
            tensors["w_coef"] = tensors["w_coef"][:-1].contiguous()
        case "nan":
            tensors["basis"][1, 2] = float("nan")
    return tensors


@pytest.mark.parametrize(
    ("how", "words"), [("missing", "z0"), ("extra", "w_extra"), ("misshapen", "w_coef"), ("nan", "basis")]
)
def test_a_spoilt_tensor_is_named(stored, how, words):
    path = stored[1] / WEIGHTS
    save_file(spoil(load_file(path), how), path)
    with pytest.raises(InputError) as error:
        load_latent_basis(stored[1])
    assert words in str(error.value) and path.name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["truncated", "absent", "no config", "odd config"])
def test_a_spoilt_file_is_named(stored, how):
    weights, config = (stored[1] / name for name in (WEIGHTS, CONFIG))
    match how:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "absent":
            weights.unlink()
        case "no config":
            config.unlink()
        case "odd config":
            config.write_text('{"coefficients": "many"}')
    with pytest.raises(InputError, match="config.json" if "config" in how else "latent_basis.safetensors"):
        load_latent_basis(stored[1])


def test_a_basis_of_another_draft_vae_or_size_is_refused(draft):
    basis, vae = random_basis(draft), wan_mini.new_vae(8, seed=0)
    with pytest.raises(InputError, match="another draft"):
        basis.check_draft("2" * 64)
    with pytest.raises(InputError, match="4x4 latents, a region of 64 px has 8x8; use 32 px"):
        basis.check(vae, 64)
    with pytest.raises(InputError, match="another VAE"):
        basis.check(vae, 32)
    with pytest.raises(InputError, match="z0 has shape"):
        FrontLatents(basis, z0=torch.zeros(16, 8, 8))


def test_commands_refuse_what_is_not_there_in_one_line(tmp_path, capsys):
    for command in (
        lambda: latent_claim.main(["--stage", "lips", "--work", str(tmp_path)]),
        lambda: latent_claim.main(["--stage", "table", "--work", str(tmp_path), "--out", str(tmp_path)]),
        lambda: latent_claim.main(["--vae", str(tmp_path / "none"), "--work", str(tmp_path)]),
    ):
        assert command() == InputError.EXIT_CODE
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    with pytest.raises(InputError, match=r"material\.json"):
        latent_material.load_material(tmp_path)
    with pytest.raises(InputError, match="rivals"):
        latent_basis.load_rivals(tmp_path, random_basis(linear_draft()))


# --- the commands, the table and the figure ---------------------------------------------------------------------------


def test_films_are_chosen_by_the_seed_and_hold_their_split(material):
    speech, silence = list(material.speech.values()), dict.fromkeys(material.speech, 0.1)
    amounts = latent_material.Amounts(300, 40, 3, 2)
    chosen = latent_material.choose_films(speech, silence, amounts, np.random.default_rng(0))
    assert chosen == latent_material.choose_films(speech, silence, amounts, np.random.default_rng(0))
    assert all(material.speech[name].split == split for name, split, _ in chosen)
    strangers = [name for name, _, identity in chosen if identity == STRANGER]
    assert strangers == [name for name, split, _ in chosen if split == "test"][:2]
    with pytest.raises(InputError, match="too little speech"):
        latent_material.choose_films(speech, silence, latent_material.Amounts(10**6), np.random.default_rng(0))


def test_material_comes_back_from_its_files_and_a_changed_film_is_refused(material, tmp_path):
    film, mel = material.films[0], material.speech["train0"].mel
    write_films(tmp_path, material, ("train0",))
    loaded = latent_material.load_material(tmp_path)
    assert loaded.films[0].frames.shape == film.frames.shape
    np.testing.assert_allclose(loaded.speech["train0"].mel, mel, atol=0.01)
    assert loaded.facts["counts"]["train"] == {"sentences": 1, "films": 1, "film_frames": len(film.gap_mm)}
    (tmp_path / "film_000.avif").write_bytes(b"x")
    with pytest.raises(InputError, match=r"film_000\.avif"):
        latent_material.load_material(tmp_path)


def test_one_command_after_the_other_from_vae_to_table(material, tmp_path, monkeypatch):
    """The whole path on a random VAE, with the linear world's films and reader."""
    vae = wan_mini.new_vae(4, seed=0).eval()
    vae.save_pretrained(tmp_path / "vae_model" / "vae")
    some = [film for film in material.films if film.speech in FEW and film.identity == "reference"]
    few, draft = latent_material.Material(material.speech, some, material.facts), linear_draft()
    monkeypatch.setattr(latent_material, "load_material", lambda folder: few)
    for module in (latent_basis, latent_claim):
        monkeypatch.setattr(module, "load_draft_front", lambda *front: draft)
        monkeypatch.setattr(module, "features_sha256", lambda path: "1" * 64)

    class Reader:
        def read(self, frames):
            return type("Track", (), {"gap_mm": read_gaps(frames)})

    monkeypatch.setattr("specsync_lib.measures.lip_reader.load_lip_reader", lambda device: Reader())
    work, out, results = tmp_path / "work", tmp_path / "basis", tmp_path / "results"
    work.mkdir()
    (work / "material.json").touch()
    source = str(tmp_path / "vae_model")
    given = ["--vae", source, "--out", str(out), "--work", str(work), "--coefficients", "8"]
    assert latent_basis.main(given) == InputError.EXIT_CODE  # whose weights?
    assert latent_basis.main([*given, "--weights", "random"]) == 0
    metrics = json.loads((out / METRICS).read_text())
    assert {row["basis"] for row in metrics["bases"]} == {"plan", "pca", "hidden"}
    card = (out / "README.md").read_text()
    assert f"{metrics['plan_explained']:.3f}" in card and "`vae_model`" in card and "(measured)" not in card
    arguments = ["--vae", source, "--basis", str(out), "--work", str(work), "--out", str(results)]
    assert latent_claim.main(arguments) == InputError.EXIT_CODE  # whose weights?
    assert latent_claim.main([*arguments, "--weights", "random"]) == 0
    assert "other_speakers" not in load_claim(results).facts
    assert latent_claim.main([*arguments, "--weights", "random", "--speakers", str(work)]) == 0
    found = load_claim(results)
    others = pd.DataFrame(found.facts["other_speakers"])
    assert others["r"].to_list() == found.table["r"].to_list()  # the same films here
    assert (results / OTHER_LIPS).read_bytes() == (results / LIPS).read_bytes()
    stored = load_file(out / WEIGHTS)
    save_file(stored | {"basis": -stored["basis"]}, out / WEIGHTS)  # as good a basis, but not the rivals'
    with pytest.raises(InputError, match="heads of basis"):
        latent_basis.load_rivals(work, load_latent_basis(out))
    before = load_file(work / RIVALS)
    assert latent_basis.main([*given, "--rivals-only"]) == 0  # for the basis that is there
    for name, head in latent_basis.load_rivals(work, load_latent_basis(out)).items():
        torch.testing.assert_close(head, -before[name], rtol=0.01, atol=0.01)  # the stored basis is in float16
    assert set(found.table["condition"]) == {"mesh", *CONDITIONS}
    assert found.facts["provenance"]["label"] == "real-shape"
    assert set(found.facts["summary"]) <= set(SUMMARY_KEYS)
    assert (work / PREVIEW).stat().st_size > 500
    low = found.table.set_index("condition")["r_low"]
    assert low.notna().any()


def test_the_table_knows_a_late_a_weak_and_a_frozen_mouth():
    """Faults of known size come back: 40 ms late, half as wide, still."""
    rng, rows = np.random.default_rng(0), []
    for k in range(6):
        fine = np.convolve(rng.standard_normal(700), np.hanning(60), mode="same")  # 300 a second
        truth, late = fine[100:600:10], fine[88:588:10]
        for frame, (t, d) in enumerate(zip(truth, late, strict=True)):
            row = {"utterance": f"u{k}", "identity": "reference", "frame": frame, "truth_mm": t, "mesh_mm": t}
            row |= {f"{name}_mm": t for name in CONDITIONS}
            rows.append(row | {"kernel_mm": d, "energy_mm": 0.5 * t, "shuffled_mm": 1.0})
    table = tabulate(pd.DataFrame(rows)).set_index("condition")
    assert table.loc["kernel", "lag_ms"] == pytest.approx(40, abs=2)
    assert table.loc["energy", "r"] == pytest.approx(1)
    assert table.loc["energy", "error_mm"] > 0.1
    assert np.isnan(table.loc["shuffled", "r"]) and np.isnan(table.loc["shuffled", "lag_ms"])


def test_the_figure_shows_every_condition(lips):
    import matplotlib.pyplot as plt

    table = tabulate(lips)
    fig = latent_figures.draw_claim(Claim(table, lips, {}))
    left, right = fig.axes
    assert len(left.lines) == 1 + len(latent_figures.TRACED)
    assert len(right.get_xticklabels()) == len(CONDITIONS)
    assert latent_figures.typical_utterance(lips) in left.get_title() + left.get_title("left")
    plt.close(fig)


@pytest.mark.slow
@pytest.mark.skipif(
    not (lip_reader.MODEL_DIR / lip_reader.WEIGHTS).is_file(), reason="the lip reader's weights are not in data/models"
)
def test_the_notebook_runs_on_a_random_vae(material, tmp_path, monkeypatch):
    import papermill

    from specsync_lib.paths import NOTEBOOKS_DIR

    monkeypatch.setenv("SPECSYNC_RUN_DIR", str(tmp_path / "run"))
    films = tmp_path / "films"
    films.mkdir()
    write_films(films, material, FEW, scale=2)
    papermill.execute_notebook(
        NOTEBOOKS_DIR / "training" / "latent_basis.ipynb",
        tmp_path / "latent_basis.ipynb",
        parameters={"profile": "smoke", "work_folder": str(films)},
        cwd=NOTEBOOKS_DIR,
        progress_bar=False,
    )
    out = tmp_path / "run" / "latent_basis_smoke_fit"
    assert load_latent_basis(out).z0.shape == (16, 8, 8)
    assert set(load_claim(out).table["identity"]) == {"reference", "mei"}
    assert (out / "claim.png").is_file()
