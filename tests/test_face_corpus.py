"""The face corpus: who says what in which split, how people perform, and files that are checked before use."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from toy_faces import write_toy_faces

from specsync_lib import corpus as speech
from specsync_lib import face_corpus as faces
from specsync_lib.errors import InputError
from specsync_lib.units import VISEMES
from specsync_lib.visemes import SyncPlan


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
        left, top, right, bottom = faces.mouth_box_px(head, {"jawOpen": 0.4}, np.zeros(3))
    change = np.abs(opened - shut).sum(axis=-1)
    large = change > 0.5 * change.max()  # the mouth's inside; the chin moves too, over smooth skin
    assert 20 < right - left < 120
    assert large[top:bottom, left:right].sum() > 0.7 * large.sum()
