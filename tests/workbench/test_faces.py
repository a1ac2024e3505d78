"""The face corpus: who says what in which split, how people perform, and files that are checked before use."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from specsync_lib.errors import InputError
from specsync_lib.face.head.head import mouth_box_px
from specsync_lib.speech import corpus as speech
from specsync_lib.units import VISEMES
from specsync_lib.visemes import SyncPlan
from tests.toys.faces import write_toy_faces
from workbench.train import faces


@pytest.fixture
def utterances(monkeypatch):
    """Ten utterances a split instead of the recorded corpus."""

    def prompts(split):
        return [SimpleNamespace(name=f"{split}-{k}") for k in range(10)]

    def aligned(prompt):
        length = 20 if prompt.name.endswith("-3") else 50
        return SyncPlan(np.arange(length) % len(VISEMES), np.linspace(0, 1, length))

    monkeypatch.setattr(speech, "human_prompts", prompts)
    monkeypatch.setattr(speech, "aligned", aligned)
    monkeypatch.setattr(speech, "clips", lambda: [])


def test_splits_share_neither_utterances_nor_test_people(utterances):
    jobs = faces.plan_jobs(160, seed=0)
    assert len(jobs) == 40
    said = {split: {clip[0] for job in jobs if job.split == split for clip in job.clips} for split in faces.SPLITS}
    for split, names in said.items():
        assert names
        assert all(name.startswith(split) for name in names)
        assert f"{split}-3" not in names  # shorter than a clip
    people = {split: {job.identity for job in jobs if job.split == split} - {""} for split in faces.SPLITS}
    assert people["test"] == set(faces.TEST_IDENTITIES)
    assert people["test"].isdisjoint(people["train"] | people["validation"])
    assert people["validation"] == {"reference"} <= people["train"]
    assert all(len(clip[1]) == len(clip[2]) == faces.CLIP_FRAMES for job in jobs for clip in job.clips)


def test_the_same_seed_plans_the_same_corpus(utterances):
    assert faces.plan_jobs(40, seed=3) == faces.plan_jobs(40, seed=3)
    assert faces.plan_jobs(40, seed=3) != faces.plan_jobs(40, seed=4)


def test_too_few_clips_are_refused(utterances):
    with pytest.raises(InputError, match="at least 28"):
        faces.plan_jobs(10, seed=0)


def test_drawn_people_differ_and_repeat_with_their_seed():
    one, again, other = (faces.draw_person(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == again
    assert one.skin != other.skin
    assert one.shape != other.shape
    assert sum(one.phenotype[name] for name in ("african", "asian", "caucasian")) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(8))
def test_performances_stay_in_range_and_follow_the_plan(seed):
    plan = SyncPlan.from_names(["sil"] * 8 + ["aa"] * 8 + ["PP"] * 4 + ["oh"] * 13)
    units, pose = faces.perform(plan, np.random.default_rng(seed))
    assert units.shape == (33, 52)
    assert pose.shape == (33, 3)
    assert units.min() >= 0
    assert units.max() <= 1
    assert np.abs(pose).max() <= 0.4
    assert np.abs(np.diff(pose, axis=0)).max() < 0.1  # heads do not jump


@pytest.fixture
def folder(tmp_path):
    return write_toy_faces(tmp_path)


def test_a_corpus_reads_back(folder):
    corpus = faces.load_corpus(folder)
    assert corpus.frames.shape == (6 * faces.CLIP_FRAMES, faces.SIZE_PX, faces.SIZE_PX, 3)
    assert corpus.units.dtype == np.float32
    assert corpus.clip_split == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert corpus.clips_of("test").tolist() == [4, 5]
    assert corpus.names[4] == "head_002/test-0"
    first = corpus.frames[corpus.clip_start[2]]
    assert abs(first.astype(int) - 100).max() <= 2
    assert corpus.facts["clips"] == {"train": 2, "validation": 2, "test": 2}


def test_changed_missing_and_unlisted_files_are_refused(folder):
    path = folder / "head_001.avif"
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(InputError, match=r"head_001\.avif: absent or changed"):
        faces.load_corpus(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"head_001\.avif: absent or changed"):
        faces.load_corpus(folder)
    (folder / "corpus.json").write_text("{")
    with pytest.raises(InputError, match=r"corpus\.json: not readable"):
        faces.load_corpus(folder)


def test_a_listing_that_claims_more_frames_is_refused(folder):
    listing = json.loads((folder / "corpus.json").read_text())
    listing["heads"][0]["utterances"].append("one more")
    (folder / "corpus.json").write_text(json.dumps(listing))
    with pytest.raises(InputError, match=r"head_000\.avif: frames .* expected 99"):
        faces.load_corpus(folder)


@pytest.mark.slow
def test_a_head_is_drawn_once_and_its_mouth_box_holds_the_lips(tmp_path):
    names = (["sil"] * 8 + ["aa"] * 8 + ["PP"] * 4 + ["oh"] * 13)[:5]
    plan = SyncPlan.from_names(names)
    clip = ("said", tuple(plan.visemes.tolist()), tuple(plan.openness.tolist()))
    job = faces.HeadJob(0, "train", "reference", 0, (clip,))
    faces.draw_head(job, tmp_path)
    before = (tmp_path / "head_000.avif").stat().st_mtime_ns
    faces.draw_head(job, tmp_path)
    assert (tmp_path / "head_000.avif").stat().st_mtime_ns == before
    with faces.crop_head(job) as head:
        shut, opened = (head.render({"jawOpen": weight}).astype(int) for weight in (0.0, 0.4))
        left, top, right, bottom = mouth_box_px(head, {"jawOpen": 0.4}, np.zeros(3))
    change = np.abs(opened - shut).sum(axis=-1)
    large = change > 0.5 * change.max()  # the mouth's inside; the chin moves too, over smooth skin
    assert 20 < right - left < 120
    assert large[top:bottom, left:right].sum() > 0.7 * large.sum()


def test_jobs_travel_as_a_file(utterances, tmp_path, capsys):
    jobs = faces.plan_jobs(48, seed=3, manner="suite")
    faces.write_jobs(tmp_path / "jobs.json", jobs)
    assert faces.read_jobs(tmp_path / "jobs.json") == jobs
    (tmp_path / "other.json").write_text('[{"index": 1}]')
    for name in ("other.json", "none.json"):
        assert faces.main(["--jobs", str(tmp_path / name), "--out", str(tmp_path)]) == InputError.EXIT_CODE
        assert "no list of jobs" in capsys.readouterr().err


def test_in_the_suites_manner_the_reference_speaks_half_of_the_time(utterances):
    jobs = [job for job in faces.plan_jobs(320, seed=0, manner="suite") if job.split == "train"]
    share = np.mean([job.identity == "reference" for job in jobs])
    assert 0.4 < share < 0.6
    assert {job.manner for job in jobs} == {"suite"}


def test_the_suites_manner_begins_at_rest_and_follows_the_suites_own_tracks():
    from specsync_lib.face.head.motion import face_tracks

    plan = SyncPlan.from_names(["sil"] * 4 + ["aa"] * 8 + ["PP"] * 4)
    units, pose = faces.perform_as_the_suite(plan, seed=5)
    assert units[0].max() == 0
    assert np.abs(pose[0]).max() == 0
    np.testing.assert_array_equal(units[1:], face_tracks(plan, 5).units[1:])
    np.testing.assert_array_equal(pose[1:], face_tracks(plan, 5).pose[1:])


def test_two_corpora_become_one(folder, tmp_path):
    one = faces.load_corpus(folder)
    assert not one.facts["rest_first"]
    both = faces.load_corpora([folder, folder])
    assert len(both.frames) == 2 * len(one.frames)
    assert both.names[0] == "0-head_000/train-0"
    assert both.names[6] == "1-head_000/train-0"
    assert both.facts["clips"] == {"train": 4, "validation": 4, "test": 4}
    last = both.clip_start[both.clips_of("test")[-1]]
    np.testing.assert_array_equal(both.frames[last], one.frames[one.clip_start[one.clips_of("test")[-1]]])
    assert faces.load_corpora([folder]).names == one.names


@pytest.mark.slow
def test_a_suite_shot_is_the_square_of_the_suites_own_frame(tmp_path):
    from specsync_lib.face.compositing import FACE_BOX, cut

    job = faces.HeadJob(0, "train", "reference", 0, (), "suite")
    with faces.crop_head(job) as head:
        picture, box = faces.shot(head, "suite", np.zeros(52), np.zeros(3))
        np.testing.assert_array_equal(picture, cut(head.render({}), FACE_BOX, faces.SIZE_PX))
        opened = faces.shot(head, "suite", np.eye(52)[24], np.zeros(3))[0]
    left, top, right, bottom = box
    change = np.abs(opened.astype(int) - picture).sum(axis=-1)
    assert 50 < right - left < 110
    assert change[top : bottom + 20, left:right].sum() > 0.5 * change.sum()
