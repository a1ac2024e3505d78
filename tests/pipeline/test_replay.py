"""Replayed rules and thresholds commit what runs commit, and the judge is asked no more often than it must be."""

import numpy as np
import pytest

from specsync_lib import units
from specsync_lib.face.generation import FaceGenerator
from specsync_lib.pipeline import system as whole
from specsync_lib.pipeline.models import Models
from specsync_lib.pipeline.replay import hear, replay
from specsync_lib.speech.level import at_level
from tests.toys.fronts import toy_draft, toy_ears
from tests.toys.generation import toy_models, toy_reference
from tests.toys.systems import SPEECH, ToyHead, ToyReasoner, log_odds_policy

FRAMES = units.frame_count(len(SPEECH))
KINDS = {
    "judge": ("judge", None),
    "exact": ("exact", None),
    "mouth": ("mouth", None),
    "lenient": ("lenient", None),
    "gate 0": ("gate", 0.0),
    "gate 0.3": ("gate", 0.3),
    "gate 0.6": ("gate", 0.6),
    "gate 0.61": ("gate", 0.61),
    "gate 1": ("gate", 1.0),
    "draft": ("draft", None),
}


@pytest.fixture(scope="module")
def models() -> Models:
    face = FaceGenerator(*toy_models(), toy_reference())
    return Models(toy_draft(), toy_ears(), ToyReasoner(), face, policy=log_odds_policy())


@pytest.fixture(scope="module")
def heard(models):
    return hear(models, at_level(SPEECH))


@pytest.fixture(scope="module")
def replayed(models, heard):
    return replay(models.reasoner, heard, KINDS)


@pytest.mark.parametrize("name", ["judge", "exact", "mouth", "lenient", "gate 0.3", "gate 0.6", "draft"])
def test_a_replay_commits_what_a_run_commits(models, replayed, name):
    run = whole.System(models, ToyHead(), "cpu").run(SPEECH, *KINDS[name], progress=False)
    plan = replayed[name]
    assert np.concatenate([chunk.tokens for chunk in plan]).tolist() == run.report.plan.tolist()
    # what the judge tells of a mouth may have come after the last step; what was drafted opens as drafted
    own = np.array([by == "draft" for chunk in plan for by in chunk.by])
    openness = np.concatenate([chunk.openness for chunk in plan])
    np.testing.assert_allclose(openness[own], run.plan.openness[own], atol=1e-6)
    assert [by for chunk in plan for by in chunk.by] == run.frames()["by"].tolist()
    assert [chunk.passes for chunk in plan] == [commit.passes for commit in run.report.commits]
    assert [chunk.unasked for chunk in plan] == [
        commit.how == "unasked" and name != "draft" for commit in run.report.commits
    ]


def test_ends_of_the_threshold_are_the_draft_and_the_judge(replayed):
    tokens = {name: [chunk.tokens for chunk in plan] for name, plan in replayed.items()}
    assert tokens["gate 0"] == tokens["draft"] != tokens["exact"]
    assert tokens["gate 1"] == tokens["exact"] == tokens["judge"]
    assert all(chunk.passes == 0 and chunk.unasked for chunk in replayed["gate 0"])
    assert sum(len(chunk.tokens) for chunk in replayed["judge"]) == FRAMES == sum(c.passes for c in replayed["judge"])


def test_what_would_be_asked_twice_is_asked_once(models, heard):
    asked = []

    class Counting(ToyReasoner):
        def stream(self):
            stream = super().stream()
            score = type(stream).score
            stream.score = lambda draft: (asked.append(1), score(stream, draft))[1]
            stream.fork = lambda: self._fork(stream)
            return stream

        def _fork(self, stream):
            twin = self.stream()
            twin.told, twin.fixed, twin.open = [*stream.told], [*stream.fixed], [*stream.open]
            return twin

    alone = replay(Counting(), heard, {"exact": ("exact", None)})
    once = len(asked)
    asked.clear()
    both = replay(Counting(), heard, {"judge": ("judge", None), "exact": ("exact", None), "gate": ("gate", 1.0)})
    assert len(asked) == once > 0
    asked.clear()
    every = replay(Counting(), heard, KINDS)
    assert len(asked) == sum(chunk.taken for plan in every.values() for chunk in plan)
    assert len(asked) < sum(chunk.passes for name, plan in every.items() if name != "judge" for chunk in plan)
    assert sum(chunk.taken for plan in both.values() for chunk in plan) == once
    assert not any(chunk.taken for name in ("exact", "gate") for chunk in both[name])
    assert [chunk.tokens for chunk in both["gate"]] == [chunk.tokens for chunk in alone["exact"]]


def test_a_judge_that_fails_costs_its_verdict_and_not_the_plan(heard):
    class Broken(ToyReasoner):
        def stream(self):
            stream = super().stream()
            stream.fail = True
            return stream

    plan = replay(Broken(), heard, {"exact": ("exact", None)})["exact"]
    assert [chunk.tokens for chunk in plan] == [chunk.draft.tokens for chunk in heard]
    assert {by for chunk in plan for by in chunk.by} == {"policy"}
