"""Which plans share a pass: the likeliest ones, in order, as many as fit."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.branches import CHANGE_WEIGHT, PLANS, VISEMES_A_FRAME, Branches
from specsync_lib.errors import InputError
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES

CLASSES = len(VISEMES)


def rows_of(seed: int, frames: int, sharpness: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(CLASSES, sharpness), frames)


def some(seed: int, frames_a_pass: int = 25) -> Branches:
    rng = np.random.default_rng(seed)
    return Branches(np.log(rng.dirichlet(np.ones(CLASSES), CLASSES)), frames_a_pass)


def weight(branches: Branches, rows: np.ndarray, plan: np.ndarray, before: int | None) -> float:
    """How likely a plan is, by hand."""
    heard = np.log(np.maximum(rows[np.arange(len(plan)), plan], 1e-6)).sum()
    steps = zip(plan[:-1] if before is None else [before, *plan[:-1]], plan[before is None :], strict=True)
    return heard + CHANGE_WEIGHT * sum(branches.changes[a, b] for a, b in steps)


@given(seed=st.integers(0, 2**31), before=st.none() | st.integers(0, CLASSES - 1), count=st.integers(1, 40))
@settings(max_examples=25)
def test_the_likeliest_plans_are_those_of_trying_all(seed, before, count):
    branches, rows = some(seed), rows_of(seed + 1, 4)
    found = branches.likeliest(rows, before, count)
    heard = np.argsort(-rows, axis=1, kind="stable")[:, :VISEMES_A_FRAME]
    every = sorted((weight(branches, rows, np.array(plan), before) for plan in product(*heard)), reverse=True)
    assert len(found) == count and len({tuple(plan) for plan in found.tolist()}) == count
    assert np.allclose([weight(branches, rows, plan, before) for plan in found], every[:count])


@given(seed=st.integers(0, 2**31), frames=st.integers(2, FRAMES_PER_CHUNK), room=st.integers(1, 60))
@settings(max_examples=60)
def test_a_pass_holds_what_fits_the_likeliest_first(seed, frames, room):
    branches, rows = some(seed, room), rows_of(seed + 1, frames)
    plans = branches.of(rows, 3)
    assert plans[0][:-1].tolist() == branches.likeliest(rows[:-1], 3, 1)[0].tolist()
    read = {tuple(plan[:frame]) for plan in plans for frame in range(frames)}  # a frame is read behind each beginning
    assert len(read) <= max(room, frames)
    assert 1 <= len(plans) <= PLANS and len({tuple(plan[:-1]) for plan in plans}) == len(plans)
    assert {int(plan[-1]) for plan in plans} == {int(rows[-1].argmax())} and {len(plan) for plan in plans} == {frames}


def test_sure_frames_leave_room_for_the_unsure_ones():
    rows = np.full((FRAMES_PER_CHUNK, CLASSES), 1e-9)
    rows[:, 2] = 1.0
    rows[8, [2, 5]] = 0.5
    plans = Branches(np.zeros((CLASSES, CLASSES))).of(rows)
    assert [plan[8] for plan in plans[:2]] == [2, 5]
    assert len(plans) > 2


def test_a_lone_frame_is_read_once():
    rows = rows_of(0, 1)
    assert [plan.tolist() for plan in some(0).of(rows, 4)] == [[int(rows.argmax())]]


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
