"""Which plans share a pass: the likeliest ones, in order, as many as fit."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.judge.branches import (
    CHANGE_WEIGHT,
    JUDGED_CHANGE_WEIGHT,
    PLANS,
    ROOMS,
    SIGHT_WEIGHT,
    VISEMES_A_FRAME,
    Branches,
    Room,
)
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES

CLASSES = len(VISEMES)


def rows_of(seed: int, frames: int, sharpness: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(CLASSES, sharpness), frames)


def some(seed: int, room: Room = ROOMS["25"]) -> Branches:
    rng = np.random.default_rng(seed)
    return Branches(np.log(rng.dirichlet(np.ones(CLASSES), CLASSES)), room)


def weight(branches: Branches, rows: np.ndarray, plan: np.ndarray, before: int | None, sight) -> float:
    """How likely a plan is, by hand."""
    total, last = 0.0, before
    for frame, viseme in enumerate(plan):
        total += np.log(max(rows[frame, viseme], 1e-6))
        if sight is not None:
            total -= SIGHT_WEIGHT * branches.changes[sight[frame], viseme]
        if last is not None:
            total += (CHANGE_WEIGHT if sight is None else JUDGED_CHANGE_WEIGHT) * branches.changes[last, viseme]
        last = viseme
    return total


@given(
    seed=st.integers(0, 2**31),
    before=st.none() | st.integers(0, CLASSES - 1),
    sight=st.none() | st.lists(st.integers(0, CLASSES - 1), min_size=3, max_size=3).map(np.array),
    count=st.integers(1, 40),
)
@settings(max_examples=25)
def test_the_likeliest_plans_are_those_of_trying_all(seed, before, sight, count):
    branches, rows = some(seed), rows_of(seed + 1, 3)
    found = branches.likeliest(rows, before, sight, count)
    heard = np.log(np.maximum(rows, 1e-6)) - (0 if sight is None else SIGHT_WEIGHT * branches.changes[sight])
    best = np.argsort(-heard, axis=1, kind="stable")[:, :VISEMES_A_FRAME]
    every = sorted((weight(branches, rows, np.array(plan), before, sight) for plan in product(*best)), reverse=True)
    assert len(found) == count and len({tuple(plan) for plan in found.tolist()}) == count
    assert np.allclose([weight(branches, rows, plan, before, sight) for plan in found], every[:count])


def test_what_a_token_that_did_not_stand_said_is_taken_off():
    """A judge that hangs on to the viseme before: behind a rejected token its rows repeat that token."""
    sticky = np.full((CLASSES, CLASSES), 0.1 / (CLASSES - 1))
    np.fill_diagonal(sticky, 0.9)
    branches, rows, rejected = Branches(np.log(sticky)), np.full((3, CLASSES), 0.1 / 13), np.array([4, 4, 4])
    rows[:, 4], rows[:, 7] = 0.6, 0.3
    assert branches.likeliest(rows, 7, None, 1)[0].tolist() == [4, 4, 4]
    assert branches.likeliest(rows, 7, rejected, 1)[0].tolist() == [7, 7, 7]
    assert branches.likeliest(rows, 4, rejected, 1)[0].tolist() == [4, 4, 4]  # it stood: the rows are right


@given(seed=st.integers(0, 2**31), frames=st.integers(2, FRAMES_PER_CHUNK), first=st.integers(1, 60), later=...)
@settings(max_examples=60)
def test_a_pass_holds_what_fits_the_likeliest_first(seed, frames, first, later: bool):
    room, rows = 60 - first if later else first, rows_of(seed + 1, frames)
    branches, sight = some(seed, Room(first, 60 - first)), np.arange(frames) if later else None
    plans = branches.of(rows, 3, sight)
    if room <= frames:
        assert [plan.tolist() for plan in plans] == branches.likeliest(rows, 3, sight, 1).tolist()
        return
    best = branches.likeliest(rows[:-1], 3, None if sight is None else sight[:-1], 1)[0]
    assert plans[0][:-1].tolist() == best.tolist()
    read = {tuple(plan[:frame]) for plan in plans for frame in range(frames)}  # a frame is read behind each beginning
    assert len(read) <= max(room, frames)
    assert 1 <= len(plans) <= PLANS and len({tuple(plan[:-1]) for plan in plans}) == len(plans)
    assert len({int(plan[-1]) for plan in plans}) == 1 and {len(plan) for plan in plans} == {frames}


def test_sure_frames_leave_room_for_the_unsure_ones():
    rows = np.full((FRAMES_PER_CHUNK, CLASSES), 1e-9)
    rows[:, 2] = 1.0
    rows[8, [2, 5]] = 0.5
    plans = Branches(np.zeros((CLASSES, CLASSES)), ROOMS["25"]).of(rows)
    assert [plan[8] for plan in plans[:2]] == [2, 5]
    assert len(plans) > 2


def test_a_lone_frame_is_read_once():
    rows = np.full((1, CLASSES), 0.01)
    rows[0, 6] = 0.86
    assert [plan.tolist() for plan in some(0).of(rows, 4)] == [[6]]


def test_what_was_fitted_comes_back_and_stays_a_distribution(tmp_path):
    plan = np.array([0, 0, 0, 5, 5, 0, 0])
    fitted = Branches.fit([plan, plan])
    assert np.allclose(np.exp(fitted.changes).sum(axis=1), 1)
    assert fitted.changes[0].argmax() == 0 and fitted.changes[0, 5] > fitted.changes[0, 4]
    fitted.save(tmp_path / "changes.json", fitted_on="a test")
    loaded = Branches.load(tmp_path / "changes.json")
    assert np.allclose(np.exp(loaded.changes), np.exp(fitted.changes), atol=1e-4)
    assert json.loads((tmp_path / "changes.json").read_text())["fitted_on"] == "a test"


def test_the_committed_table_says_that_visemes_last():
    table = np.exp(Branches.load().changes)
    assert np.allclose(table.sum(axis=1), 1, atol=1e-3)
    assert (table.argmax(axis=1) == np.arange(CLASSES)).mean() > 0.7


@pytest.mark.parametrize("content", [None, "{", "{}", '{"changes": [[1]]}', json.dumps({"changes": [[0.0] * 15] * 15})])
def test_a_bad_table_is_one_line(tmp_path, content):
    path = tmp_path / "changes.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="restore") as error:
        Branches.load(path)
    assert "\n" not in str(error.value)
