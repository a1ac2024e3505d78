"""The lip reader: strict weights, pictures of any size, people kept apart, and never a teacher of what it judges."""

import ast
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save_file

from specsync_lib.errors import InputError
from specsync_lib.measures import lip_reader
from specsync_lib.measures.lip_reader import TARGETS, UNITS, LipNet, LipReader, load_lip_reader
from specsync_lib.paths import NOTEBOOKS_DIR, PROJECT_ROOT
from workbench.train import lip_faces
from workbench.train import lip_reader as training

KEPT_HEIGHT = lip_faces.KEPT_PX[3] - lip_faces.KEPT_PX[1]
KEPT_WIDTH = lip_faces.KEPT_PX[2] - lip_faces.KEPT_PX[0]


def toy_crops(gap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Plain faces with a dark mouth as high as the gap, a share of the picture's side."""
    crops = np.broadcast_to(rng.integers(120, 200, (len(gap), 1, 1, 3)), (len(gap), KEPT_HEIGHT, KEPT_WIDTH, 3)).copy()
    for crop, height in zip(crops, (gap * 256).round().astype(int), strict=True):
        crop[100 : 100 + height, 80:130] = 30
    return crops.astype(np.uint8)


@pytest.fixture(scope="module")
def faces() -> lip_faces.LipFaces:
    rng, n = np.random.default_rng(0), 120
    gap = rng.uniform(0, 0.1, n).astype(np.float32)
    targets = gap[:, None] * rng.uniform(0.5, 2, len(TARGETS)).astype(np.float32)  # all that can be learnt is the gap
    person = np.arange(n) // 10
    split = np.array(["train"] * 8 + ["validation"] * 2 + ["test"] * 2)[person]
    facts = {
        "seed": 0,
        "people": dict(zip(lip_faces.SPLITS, (8, 2, 2), strict=True)),
        "frames": dict(zip(lip_faces.SPLITS, (80, 20, 20), strict=True)),
        "sha256": "0" * 64,
    }
    return lip_faces.LipFaces(toy_crops(gap, rng), targets, person, split, facts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Random weights and the metrics beside them, as the training leaves them."""
    folder = tmp_path_factory.mktemp("reader")
    torch.manual_seed(0)
    save_file({name: value.half() for name, value in LipNet().state_dict().items()}, folder / lip_reader.WEIGHTS)
    (folder / lip_reader.METRICS).write_text(json.dumps({"rmse": dict.fromkeys(TARGETS, 0.05)}))
    return folder


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def pictures(n: int, px: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, px, px, 3), dtype=np.uint8)


# --- weights ----------------------------------------------------------------------------------------------------------


def damage(path: Path, kind: str) -> None:
    state = load(path.read_bytes())  # not mapped: the file is written over
    if kind == "missing":
        del state["out.bias"]
    elif kind == "extra":
        state["more"] = torch.zeros(2)
    elif kind == "misshapen":
        state["out.bias"] = torch.zeros(3)
    elif kind == "nan":
        state["out.bias"][2] = float("nan")
    elif kind == "no spread":
        state["target_std"][0] = 0
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "pickle":
        torch.save(state, path)
    elif kind == "absent":
        path.unlink()
    else:
        save_file(state, path)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("missing", "'out.bias' is missing"),
        ("extra", "'more' is not part"),
        ("misshapen", r"'out.bias' has shape \(3,\)"),
        ("nan", "'out.bias' holds NaN"),
        ("no spread", "'target_std' must be above 0"),
        ("truncated", "copy it again"),
        ("pickle", "holds a pickle"),
        ("absent", "absent; restore it"),
    ],
)
def test_damaged_weights_are_refused_in_one_line(copy, kind, message):
    damage(copy / lip_reader.WEIGHTS, kind)
    with pytest.raises(InputError, match=message) as refusal:
        load_lip_reader(copy)
    assert str(copy / lip_reader.WEIGHTS) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_weights_without_their_errors_are_refused(copy):
    (copy / lip_reader.METRICS).write_text('{"rmse": {"jaw": 1}}')
    with pytest.raises(InputError, match=r"metrics\.json: rmse of every unit"):
        load_lip_reader(copy)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_streams_arrays_and_batches_read_the_same(folder, monkeypatch):
    reader, frames = load_lip_reader(folder), pictures(11, 96)
    whole = reader.read(frames)
    monkeypatch.setattr(lip_reader, "BATCH_FRAMES", 4)
    streamed = reader.read(iter(frames))
    assert len(streamed) == 11
    assert streamed.gap_mm == pytest.approx(whole.gap_mm, abs=1e-4)
    assert streamed.units == pytest.approx(whole.units, abs=1e-4)
    assert whole.units.shape == (11, len(UNITS))
    assert whole.picture_px == 96
    assert (whole.gap_mm >= 0).all()


@pytest.mark.parametrize(
    "frames, message",
    [
        (np.zeros((2, 96, 90, 3), np.uint8), "a square crop"),
        (np.zeros((2, 96, 96), np.uint8), "a square crop"),
        (np.zeros((2, 96, 96, 3), np.float32), "float32"),
        (np.zeros((2, 32, 32, 3), np.uint8), "64 px or more"),
        (np.zeros((0, 96, 96, 3), np.uint8), "no frames"),
        ([np.zeros((96, 96, 3), np.uint8), np.zeros((128, 128, 3), np.uint8)], "frames of 96 and 128 px"),
    ],
)
def test_frames_it_cannot_read_are_refused(folder, frames, message):
    with pytest.raises(InputError, match=message):
        load_lip_reader(folder).read(frames)


def test_folding_keeps_the_function():
    torch.manual_seed(1)
    net = LipNet(normed=True)
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(8, 3, lip_reader.INPUT_PX, lip_reader.INPUT_PX))  # running statistics away from their start
        seen = torch.rand(4, 3, lip_reader.INPUT_PX, lip_reader.INPUT_PX)
        assert torch.allclose(net.eval()(seen), lip_reader.fold(net)(seen), atol=1e-4)


def test_training_sees_what_reading_sees(faces):
    crops = np.random.default_rng(1).integers(0, 256, (3, KEPT_HEIGHT, KEPT_WIDTH, 3), dtype=np.uint8)
    read = lip_reader.mouth_pictures(torch.from_numpy(training.whole_pictures(crops)))
    unmoved = training.placed(torch.from_numpy(crops), torch.ones(3, 1), torch.zeros(3, 2))
    assert torch.allclose(read, unmoved, atol=1e-4)


@pytest.mark.parametrize("px", [128, 512])
def test_other_sizes_show_the_same_part(px):
    smooth = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(smooth).permute(0, 3, 1, 2), size=(1024, 1024), mode="bicubic"
    )
    one, other = (
        lip_reader.mouth_pictures(
            torch.nn.functional.interpolate(smooth, size=(size, size), mode="area").clamp(0, 255).permute(0, 2, 3, 1)
        )
        for size in (256, px)
    )
    assert (one - other).abs().max() < 0.02


# --- training ---------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_spoilt_pictures_stay_pictures_and_repeat_with_their_seed(seed, rows):
    clean = torch.rand(rows, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    one, again = (training.spoil(clean, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(one, again)
    assert one.shape == clean.shape
    assert one.min() >= 0 and one.max() <= 1
    assert not torch.equal(one, clean)


def test_coarse_blocks_with_a_fine_step_change_nothing():
    torch.manual_seed(0)
    clean = torch.rand(2, 3, 32, 32)
    assert torch.allclose(training.coarse_blocks(clean, torch.full((2, 1, 1, 1), 1e-6)), clean, atol=1e-4)


def test_r2_is_the_textbooks():
    rng = np.random.default_rng(0)
    targets = rng.normal(3, 1, (400, 2))
    read = targets + rng.normal(0, [0.1, 0.5], (400, 2))
    quality = training.quality_of(read, targets, np.arange(400) // 20)
    expected = 1 - ((read - targets) ** 2).sum(axis=0) / ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    assert quality.r2.value == pytest.approx(expected)
    assert (quality.r2.low < expected).all() and (expected < quality.r2.high).all()
    assert (quality.r2.n, quality.r2.resampling_unit) == (20, "person")


def test_training_learns_the_gap(faces, monkeypatch):
    monkeypatch.setattr(lip_reader, "WIDTHS", (8, 8, 16, 16))
    options = training.Options(minutes=60, total_minutes=60, rows=16, learning_rate=4e-3)
    trainer = training.Trainer(faces, options, torch.device("cpu"))
    trainer.began = time.perf_counter()
    losses = [trainer.step(100).item() for _ in range(70)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    trainer.net.eval()
    seen, targets = trainer.batch()
    with torch.no_grad():
        gap = trainer.net(seen)[:, TARGETS.index("gap")].numpy()
    assert np.corrcoef(gap, targets[:, TARGETS.index("gap")].numpy())[0, 1] > 0.7


def test_two_steps_write_everything_and_a_second_piece_goes_on(faces, tmp_path):
    options = training.Options(minutes=60, total_minutes=60, rows=4, max_steps=2)
    metrics = training.train(faces, options, tmp_path / "one")
    assert (metrics["steps"], metrics["label"], metrics["people"]) == (2, "measured", 2)
    assert set(metrics["r2"]) == set(metrics["rmse"]) == set(TARGETS)
    assert set(metrics["r2_spoilt"]) == set(training.SPOILINGS)
    reader = load_lip_reader(tmp_path / "one")
    assert reader.spread == pytest.approx([metrics["rmse"][name] for name in UNITS])
    assert (tmp_path / "one" / lip_reader.WEIGHTS).stat().st_size < 2 * 2**20
    card = (tmp_path / "one" / "README.md").read_text()
    assert f"{metrics['r2']['gap']['value']:.4f}" in card
    assert training.main(["--out", str(tmp_path / "one")]) == InputError.EXIT_CODE  # neither to train nor to measure
    again = training.train(faces, replace(options, seed=1), tmp_path / "two", resume=tmp_path / "one")
    assert (again["steps"], again["seeds"]["training"]) == (4, [0, 1])
    assert again["curve"][0] == metrics["curve"][0]
    assert again["trained_minutes"] > metrics["trained_minutes"]


def test_speech_is_added_to_metrics_and_card(faces, tmp_path, monkeypatch):
    from tests.toys.faces import toy_corpus

    training.train(faces, training.Options(rows=4, max_steps=1), tmp_path)
    corpus = replace(toy_corpus(size_px=64, clip_frames=13), lip_gap_mm=np.random.default_rng(0).uniform(0, 9, 78))
    heads = [{"index": k, "identity": "" if k else "reference"} for k in range(6)]
    (tmp_path / "corpus.json").write_text(json.dumps({"heads": heads}))
    monkeypatch.setattr(training.face_corpus, "load_corpus", lambda folder: corpus)
    assert training.main(["--out", str(tmp_path), "--corpus", str(tmp_path)]) == 0
    speech = json.loads((tmp_path / lip_reader.METRICS).read_text())["speech"]
    assert (speech["people"], speech["clips"], speech["frames"]) == (5, 5, 65)  # not the person that was trained on
    assert f"{speech['rmse_gap_mm']:.2f} mm" in (tmp_path / "README.md").read_text()


def test_wrong_folders_are_one_line(tmp_path, capsys):
    arguments = ["--faces", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert training.main(arguments) == InputError.EXIT_CODE
    assert "people.json: not readable" in capsys.readouterr().err
    assert training.main([*arguments, "--resume", str(tmp_path)]) == InputError.EXIT_CODE
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- people -----------------------------------------------------------------------------------------------------------


def write_people(folder: Path) -> Path:
    """A folder of a few toy people, as :func:`lip_faces.build` leaves it."""
    rng, people = np.random.default_rng(0), []
    for index, split in enumerate(("train", "train", "validation", "test")):
        people.append(lip_faces.Person(index, split, "", index))
        gap = rng.uniform(0, 0.1, 6)
        targets = rng.uniform(0, 0.3, (6, len(TARGETS)))
        targets[:, 0] = gap
        lip_faces.write_person(people[-1], folder, toy_crops(gap, rng), targets, np.zeros((6, 3)))
    lip_faces.write_listing(folder, people, seed=0)
    return folder


def test_people_read_back_and_changed_files_are_refused(tmp_path):
    faces = lip_faces.load(write_people(tmp_path))
    assert faces.crops.shape == (24, KEPT_HEIGHT, KEPT_WIDTH, 3)
    assert faces.split.tolist() == ["train"] * 12 + ["validation"] * 6 + ["test"] * 6
    assert faces.facts["people"] == {"train": 2, "validation": 1, "test": 1}
    with (tmp_path / "person_0001.avif").open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(InputError, match=r"person_0001\.avif: absent or changed"):
        lip_faces.load(tmp_path)


@pytest.mark.parametrize("count", [40, 240])
def test_no_person_is_in_two_splits(count):
    people = lip_faces.plan_people(count, seed=0)
    assert len({(person.identity, person.seed) for person in people}) == count
    named = {person.identity: person.split for person in people if person.identity}
    assert {name for name, split in named.items() if split == "test"} == {"mei", "tobias"}
    assert named["reference"] == "train"
    share = {split: sum(person.split == split for person in people) / count for split in lip_faces.SPLITS}
    assert share["test"] > 0.1 and share["validation"] > 0.03
    with pytest.raises(InputError, match="give at least 28"):
        lip_faces.plan_people(10, seed=0)


def test_drawn_mouths_are_in_range_repeat_and_close_often():
    from specsync_lib.face.head.mesh import unit_names

    units, pose = lip_faces.random_mouths(240, np.random.default_rng(0))
    assert units.shape == (240, 52) and pose.shape == (240, 3)
    assert units.min() >= 0 and units.max() <= 1 and np.abs(pose).max() <= 0.4
    assert np.array_equal(units, lip_faces.random_mouths(240, np.random.default_rng(0))[0])
    assert unit_names()[training.JAW_COLUMN] == "jawOpen"
    jaw = units[120:, training.JAW_COLUMN]
    assert 0.1 < (jaw == 0).mean() < 0.5
    assert jaw.max() > 0.6


# --- the committed reader ---------------------------------------------------------------------------------------------


def test_the_committed_reader_meets_its_card():
    metrics = json.loads((lip_reader.MODEL_DIR / lip_reader.METRICS).read_text())
    assert (lip_reader.MODEL_DIR / lip_reader.WEIGHTS).stat().st_size < 2 * 2**20
    assert metrics["label"] == "measured" and metrics["people"] >= 15
    card = (lip_reader.MODEL_DIR / "README.md").read_text()
    for name, least in (("gap", 0.98), ("jaw", 0.96)):
        assert metrics["r2"][name]["value"] > least
        assert f"{metrics['r2'][name]['value']:.4f}" in card
    assert metrics["ms_per_frame"] < 5


@pytest.mark.slow
def test_a_face_it_never_saw_is_read_and_a_sub_frame_shift_found():
    from specsync_lib.face.head.head import Head
    from specsync_lib.face.head.motion import face_tracks
    from specsync_lib.measures.sync_report import sync_report
    from specsync_lib.visemes import SyncPlan

    said = ("sil", "sil", "PP", "aa", "nn", "oh", "PP", "E", "SS", "aa", "FF", "ou", "sil")
    plan = SyncPlan.from_names([name for name in said for _ in range(4)])
    tracks = face_tracks(plan, seed=0)
    frames = np.arange(len(plan))
    later = np.stack([np.interp(frames - 0.040 * 30, frames, unit) for unit in tracks.units.T], axis=1)
    with Head("mei", (256, 256), camera="face", threads=1) as head:
        gap_mm = np.array([head.lip_aperture(units) for units in tracks.units])
        reference = [head.render(*row) for row in zip(tracks.units, tracks.pose, strict=True)]
        shifted = [head.render(*row) for row in zip(later, tracks.pose, strict=True)]
    report = sync_report(shifted, plan, reference=reference, reference_gap_mm=gap_mm)
    assert report.value("av_offset_ms") == pytest.approx(40, abs=5)
    assert report.value("reader_r") > 0.97
    assert report.value("reader_error_mm") < 1
    small = LipReader(load_lip_reader().net).read(np.stack(reference)[:, ::2, ::2])
    assert np.corrcoef(small.gap_mm, gap_mm)[0, 1] > 0.95


# --- only a measure ---------------------------------------------------------------------------------------------------


def module_imports(path: Path) -> set[str]:
    """Dotted names of what a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_nothing_that_makes_faces_knows_the_reader():
    files = [path for package in ("specsync_lib", "workbench") for path in (PROJECT_ROOT / package).rglob("*.py")]
    reach = {".".join(path.relative_to(PROJECT_ROOT).with_suffix("").parts): module_imports(path) for path in files}
    judges = {f"specsync_lib.measures.{name}" for name in ("lip_reader", "sync", "sync_report")}
    judges |= {f"workbench.train.{name}" for name in ("lip_reader", "lip_faces")}
    assert judges <= reach.keys()
    makers = {
        name for name in reach if name.startswith(("specsync_lib.face.", "specsync_lib.draft.", "workbench.train."))
    }
    assert {"specsync_lib.face.generation", "workbench.train.vae"} <= makers
    for maker in makers - judges:
        seen, todo = set(), {maker}
        while todo:
            name = todo.pop()
            seen.add(name)
            todo |= (reach[name] & reach.keys()) - seen
        assert not seen & judges, f"{maker} reaches {sorted(seen & judges)}"


@pytest.mark.slow
def test_the_notebook_runs_two_steps(tmp_path, monkeypatch):
    import papermill

    monkeypatch.setenv("SPECSYNC_RUN_DIR", str(tmp_path / "run"))
    people = tmp_path / "people"
    people.mkdir()
    papermill.execute_notebook(
        NOTEBOOKS_DIR / "training" / "lip_reader.ipynb",
        tmp_path / "lip_reader.ipynb",
        parameters={"profile": "smoke", "faces_folder": str(write_people(people))},
        cwd=NOTEBOOKS_DIR,
        progress_bar=False,
    )
    metrics = json.loads((tmp_path / "run" / "lip_reader_smoke" / "metrics.json").read_text())
    assert metrics["steps"] == 2
    assert (tmp_path / "run" / "lip_reader_smoke" / "lip_reader_quality.png").is_file()
