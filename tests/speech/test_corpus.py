"""Splits do not leak, cover what aligns, and name a natural default."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.paths import SPLITS_FILE
from specsync_lib.speech import corpus
from specsync_lib.speech.corpus import (
    aligned,
    aligned_phones,
    clips,
    default_is_human,
    default_recording,
    human_prompts,
)
from specsync_lib.speech.words import normalise_text
from specsync_lib.units import VIDEO_FPS, VISEMES
from workbench.train.splits import SPLIT_SHARES, assign_splits, near_duplicate_groups, near_duplicates

needs_corpus = pytest.mark.skipif(not default_is_human(), reason="the human corpus is not in the cache (no apt here)")
SPLITS = json.loads(SPLITS_FILE.read_text(encoding="utf-8"))


def test_the_committed_splits_have_their_sizes():
    rows = SPLITS["prompts"].values()
    total = sum(row["frames"] for row in rows)
    assert len(SPLITS["prompts"]) == 545
    assert total == 40_590
    for split, share in SPLIT_SHARES.items():
        assert sum(row["frames"] for row in rows if row["split"] == split) / total == pytest.approx(share, abs=0.01)
    assert {reason: len(names) for reason, names in SPLITS["left_out"].items()} == {
        "no speech": 17,
        "transcript does not align": 6,
    }


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("please try again", "please try again", True),
        ("you are now muted", "you are now unmuted", True),
        ("press one to accept this recording", "press one to accept this recording otherwise hold", True),
        ("the number you have dialed is not in service please check the number", "please check the number", True),
        ("goodbye", "weasels have eaten our phone system", False),
        ("press one to call this number", "the conference is now locked", False),
        ("january", "march", False),
    ],
)
def test_near_duplicates(one, other, same):
    assert near_duplicates(one.split(), other.split()) is same
    assert near_duplicates(other.split(), one.split()) is same


def test_families_and_chains_of_near_duplicates_form_one_group():
    groups = near_duplicate_groups(
        {
            "digits/1": "one",
            "digits/monday": "Monday",
            "a": "you are now muted",
            "b": "You are now un-muted.",
            "c": "weasels have eaten our phone system",
        }
    )
    assert groups == [["a", "b"], ["c"], ["digits/1", "digits/monday"]]


@given(st.lists(st.integers(1, 300), min_size=30, max_size=120))
def test_groups_stay_whole_and_every_prompt_has_a_side(sizes):
    frames = {f"p{index}": size for index, size in enumerate(sizes)}
    names = list(frames)
    groups = [names[start : start + 3] for start in range(0, len(names), 3)]
    sides = assign_splits(groups, frames)
    assert sides.keys() == frames.keys()
    assert all(len({sides[name] for name in group}) == 1 for group in groups)
    assert sides == assign_splits(groups[::-1], frames)


def test_isolated_words_are_for_training():
    sentences = [f"sentence-{index}" for index in range(20)]
    digits = ["digits/1", "digits/2"]
    sides = assign_splits([digits, *([name] for name in sentences)], dict.fromkeys([*digits, *sentences], 9))
    assert sides["digits/1"] == sides["digits/2"] == "train"
    assert {sides[name] for name in sentences} == set(SPLIT_SHARES)


@needs_corpus
def test_no_prompt_has_a_near_duplicate_on_another_side():
    prompts = human_prompts()
    assert len({prompt.name for prompt in prompts}) == len(prompts) == len(SPLITS["prompts"])
    spoken = {prompt.name: normalise_text(prompt.transcript) for prompt in prompts}
    held_out = [prompt for prompt in prompts if prompt.split != "train"]
    leaks = [
        (one.name, other.name)
        for one in held_out
        for other in prompts
        if one.split != other.split and near_duplicates(spoken[one.name], spoken[other.name])
    ]
    assert leaks == []


@needs_corpus
def test_splits_select_their_prompts_and_files_exist():
    by_split = {split: human_prompts(split) for split in SPLIT_SHARES}
    assert sum(map(len, by_split.values())) == len(human_prompts())
    assert all(
        prompt.split == split and prompt.path.is_file() for split, prompts in by_split.items() for prompt in prompts
    )
    with pytest.raises(InputError, match="unknown split 'dev'"):
        human_prompts("dev")


@needs_corpus
def test_the_default_is_varied_human_speech_of_the_test_side():
    prompt = default_recording()
    plan = aligned(prompt)
    assert prompt.split == "test"
    assert 6 <= len(plan) / VIDEO_FPS <= 10
    assert len(plan) == SPLITS["prompts"][prompt.name]["frames"]
    assert len(set(plan.names)) >= 13
    assert (plan.visemes == VISEMES.index("sil")).mean() <= 0.2
    assert prompt.name == "vm-newuser"


@needs_corpus
def test_an_alignment_is_read_back_from_the_cache_as_it_was_made(tmp_path, monkeypatch):
    prompt = default_recording()
    monkeypatch.setattr(corpus, "made_dir", lambda: tmp_path)
    made = aligned_phones(prompt)
    assert len(list((tmp_path / "alignments").iterdir())) == 1
    monkeypatch.setattr(corpus, "align", lambda *_: pytest.fail("the cache was not used"))
    assert aligned_phones(prompt) == made


@needs_corpus
def test_no_viseme_is_more_than_a_seventh_of_the_held_out_frames():
    prompts = human_prompts("test")[::8]
    shares = np.bincount(np.concatenate([aligned(prompt).visemes for prompt in prompts]), minlength=len(VISEMES))
    assert (shares > 0).all()
    assert shares.max() / shares.sum() < 0.16


def test_without_the_corpus_a_shipped_clip_stands_in(monkeypatch, tmp_path):
    monkeypatch.setenv("SPECSYNC_CACHE", str(tmp_path))
    assert not default_is_human()
    prompt = default_recording()
    assert prompt.name == clips()[0].name
    assert aligned_phones(prompt) == clips()[0].phones
    with pytest.raises(InputError, match="python -m specsync_lib"):
        human_prompts()
