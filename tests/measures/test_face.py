"""The generated face in the video: only the square changes, methods meet on the same frames, and repair counts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from specsync_lib.errors import InputError
from specsync_lib.face import generation, wan_mini
from specsync_lib.face.compositing import FACE_BOX, composite, inside, reader_box
from specsync_lib.face.wan_mini import IN_USE, METHODS, UNDENOISED, Method
from specsync_lib.measures import face as face_video
from specsync_lib.measures.face import Scene
from specsync_lib.measures.sync_report import sync_report
from tests.toys.generation import toy_generator, toy_plan

FRAMES = 12
SIDE = reader_box().side
MOUTH = (slice(230, 290), slice(170, 250))


class BrightnessReader:
    """Lips open as far as the mouth is bright."""

    spread = np.full(11, 0.05)

    def read(self, squares):
        gaps = np.array([square[MOUTH].mean() / 25 for square in squares])
        return SimpleNamespace(gap_mm=gaps)


def drafts_of(face) -> wan_mini.Drafts:
    return lambda number: 0.5 * torch.randn(face.latent_shape, generator=torch.Generator().manual_seed(number))


def squares_of(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    base = rng.integers(60, 200, (SIDE // 9, SIDE // 9, 3)).repeat(9, axis=0).repeat(9, axis=1)
    return [np.clip(base + 3 * k * (k % 3), 0, 255).astype(np.uint8) for k in range(FRAMES)]


@pytest.fixture(scope="module")
def scene():
    face = toy_generator()
    idle = np.zeros((FRAMES, generation.IDLE_FEATURES), np.float32)
    return Scene(face, toy_plan(FRAMES), idle, drafts_of(face), squares_of(0), squares_of(1), MOUTH, BrightnessReader())


def test_frames_pass_and_only_the_first_squares_are_kept():
    frames, kept = [np.full((720, 1280, 3), k, np.uint8) for k in range(4)], []
    passed = list(face_video.squares(frames, kept, 2))
    assert all(a is b for a, b in zip(passed, frames, strict=True))
    assert [square.shape for square in kept] == [(SIDE, SIDE, 3)] * 2
    frames[1][:] = 99  # a reused buffer does not reach what was kept
    assert kept[1].max() == 1


def test_a_face_is_laid_in_where_the_reader_sees_it_and_nowhere_else():
    rng = np.random.default_rng(0)
    frame, face = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((720, 1280, 3), (64, 64, 3)))
    out = composite(frame, face, FACE_BOX)
    changed = (out != frame).any(axis=2)
    assert changed[FACE_BOX.slices].mean() > 0.9 and not np.delete(changed, np.arange(200, 520), axis=0).any()
    alpha = face_video.edge_alpha()
    assert alpha.shape == (SIDE, SIDE) and alpha.max() == 1
    square = changed[reader_box().slices]
    assert not square[alpha == 0].any() and square[alpha > 0.5].mean() > 0.95


def test_methods_are_compared_on_the_same_frames_between_their_bounds(scene):
    methods = (UNDENOISED, IN_USE, Method("1 step from noise", 1, 1.0, False))
    table, shown = scene.compare(methods, seed=3, right_plan=toy_plan(FRAMES, 1))
    rows = table.set_index("method")
    assert list(rows.index) == [
        "resting face", "truth through the VAE", *(m.name for m in methods), f"{IN_USE.name}, truth's plan",
    ]  # fmt: skip
    error = np.mean([np.square(a[MOUTH].astype(float) - b[MOUTH]).mean() for a, b in zip(squares_of(0), scene.truth)])  # noqa: B905
    assert rows.loc["resting face", "mouth_psnr_db"] == pytest.approx(10 * np.log10(255**2 / error))
    assert rows.loc["truth through the VAE", ["denoise_ms", "decode_ms"]].isna().all()
    assert (rows.loc[IN_USE.name, ["denoise_ms", "decode_ms"]] > 0).all()
    gap = scene.reader.read(shown[IN_USE.name]).gap_mm
    truth = scene.reader.read(scene.truth).gap_mm
    assert rows.loc[IN_USE.name, "lip_error_mm"] == pytest.approx(np.abs(gap - truth).mean())
    scene.face.reset()
    chunk = scene.face.begin(scene.plan, scene.drafts(0), 0.6, 0, torch.Generator())
    np.testing.assert_array_equal(shown[UNDENOISED.name][5], scene.laid_in(scene.face.decode(chunk).frames)[5])
    again, _ = scene.compare(methods[1:2], seed=3)
    assert again.set_index("method").loc[IN_USE.name, "lip_error_mm"] == rows.loc[IN_USE.name, "lip_error_mm"]


def test_repair_takes_the_widest_whole_chunk_and_commits_nothing_of_it(scene):
    face, plan = toy_generator(), toy_plan(30)
    plan.openness[:12], plan.openness[12:24], plan.openness[24:] = 0.1, 0.9, 1.0  # the last chunk is not whole
    idle = np.zeros((30, generation.IDLE_FEATURES), np.float32)
    rest = [squares_of(0)[k % FRAMES] for k in range(30)]
    wider = Scene(face, plan, idle, drafts_of(face), rest, rest, MOUTH, BrightnessReader())
    table = wider.repair(seed=0, steps=2)
    assert table["chunk"].unique().tolist() == [1] and face.chunks == 1
    assert table["switched_after"].tolist() == [0, 1, 2] and table["repaired"].iloc[-1] == 0
    assert table["error_mm"].iloc[-1] > 0


def test_seams_stand_beside_truths_own():
    rows, columns = inside(FACE_BOX, reader_box()).slices
    smooth = [np.full((SIDE, SIDE, 3), 2 * k, np.uint8) for k in range(24)]
    jumping = [square.copy() for square in smooth]
    for square in jumping[12:]:
        square[rows, columns] += 10
    table = face_video.seams(jumping, smooth)
    assert table["truth_ratio"].tolist() == [1] and table["ratio"].tolist() == [pytest.approx(6)]


def test_the_lips_over_time_are_in_millimetres():
    frames = [np.full((SIDE, SIDE, 3), 90, np.uint8)] * 40
    report = sync_report(frames, toy_plan(40), reference_gap_mm=np.linspace(0, 8, 40))
    table = face_video.lips_over_time(report, np.zeros(40))
    assert table.columns.tolist() == ["time_s", "generated_mm", "truth_mm", "plan_mm"]
    np.testing.assert_allclose(table["truth_mm"], np.linspace(0, 8, 40))
    np.testing.assert_allclose(table["generated_mm"], report.lips.gap_mm, rtol=1e-5)


def test_quality_is_read_with_its_interval_and_absent_metrics_are_one_line(tmp_path):
    clips = [{"clip": f"head/{k}", "psnr_db": 30.0 + k, "mouth_psnr_db": 28.0 + k} for k in range(5)]
    part = {"psnr_db": 32.0, "mouth_psnr_db": 30.0, "ssim": 0.9, "flicker_grey": 0.5, "clips": 5, "per_clip": clips}
    (tmp_path / "metrics.json").write_text(json.dumps({"final": {"test": part}}))
    row = face_video.vae_quality(tmp_path / "metrics.json").iloc[0]
    assert row["psnr_db_low"] < row["psnr_db"] < row["psnr_db_high"] and row["clips"] == 5
    with pytest.raises(InputError) as error:
        face_video.vae_quality(tmp_path / "none.json")
    assert "none.json" in str(error.value) and "\n" not in str(error.value)


def test_the_way_in_use_is_one_of_those_compared():
    assert IN_USE in METHODS and UNDENOISED in METHODS
    assert len({method.name for method in METHODS}) == len(METHODS)


def test_the_chunks_times_are_read_as_they_were_measured(tmp_path):
    table = face_video.chunk_times().set_index(["model", "region_px", "stage"])
    rows = json.loads(face_video.CHUNK_TIMES.read_text("utf-8"))["rows"]
    assert len(table) * 4 == len(rows) and all(row["agrees"] for row in rows)
    row = next(row for row in rows if row["model"] == "wan-1.3b" and row["mode"] == "compiled graph")
    assert table.loc[(row["model"], row["region_px"], row["stage"]), "compiled graph"] == row["median_ms"]
    assert set(table.loc["wan-1.3b", "label"]) == {"real-shape"}
    with pytest.raises(InputError, match="no times of a chunk"):
        face_video.chunk_times(tmp_path / "absent.json")
