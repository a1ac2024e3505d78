"""The judge before its referee: runs on a toy judge, the tables' numbers by hand, and SmolLM2 against itself."""

import hashlib
import json
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.assets import asset
from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.judge.loading import load_reasoner
from specsync_lib.judge.mouth import load_mouth_shapes
from specsync_lib.judge.policy import chunk_of
from specsync_lib.judge.recordings import RUNS, Judged, Recording, judge, kept_as, write_alone
from specsync_lib.judge.rules import VerifyOptions, decide
from specsync_lib.judge.script import TimedWord, chunk_evidence
from specsync_lib.measures import referee as referee_numbers
from specsync_lib.measures import rules, ways
from specsync_lib.measures.referee import PLACES, acceptance_pattern, policy_facts, referee_table, verdicts_of
from specsync_lib.measures.ways import gated, pass_facts
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES
from specsync_lib.visemes import viseme_codes
from workbench.measure import referee
from workbench.measure.referee import (
    BRANCHED,
    GATED,
    RULED,
    TRAINED_RUNS,
    classic_passes,
    judge_all,
    judge_by_rules,
    judge_splits,
)

PLANS = ("truth", "draft", "probe", "one_pass", "committed")


@dataclass
class ToyReasoner:
    """A judge that believes the probe, and that a viseme lasts."""

    name: str = "toy"
    lasts: float = 1.5
    streams: int = 0

    def stream(self) -> "ToyReasonerStream":
        self.streams += 1
        return ToyReasonerStream(self)


@dataclass
class ToyReasonerStream:
    """The stream's interface, exactly; tokens is what was committed."""

    judge: ToyReasoner
    tokens: list[int] = field(default_factory=list)
    rows: np.ndarray = field(default_factory=lambda: np.zeros((0, len(VISEMES))))

    def read(self, evidence) -> None:
        assert evidence.first_frame == len(self.tokens) == len(self.rows)
        self.rows = np.concatenate([self.rows, evidence.probe])

    def score(self, draft_tokens) -> np.ndarray:
        before = [0, *self.tokens, *draft_tokens]
        at = range(len(self.tokens), len(self.tokens) + len(draft_tokens))
        odds = np.array([self.rows[k] * np.exp(self.judge.lasts * (np.arange(15) == before[k])) for k in at])
        return (odds / odds.sum(1, keepdims=True)).astype(np.float32)

    def plan(self, frames: int):
        tokens = []
        for _ in range(frames):
            tokens.append(int(self.score([*tokens, 0])[-1].argmax()))
        return np.array(tokens), None

    def score_branches(self, branches):
        return [self.score(branch) for branch in branches]

    def commit(self, tokens) -> None:
        self.tokens += [int(token) for token in tokens]


def toy_recording(name: str, frames: int, seed: int) -> Recording:
    """Truth in runs of three; a probe that is mostly right, a draft that is often right."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(generator.integers(0, 15, frames // 3 + 1), 3)[:frames]

    def heard(sureness: float) -> np.ndarray:
        logits = generator.normal(size=(frames, 15)) + sureness * (np.arange(15) == truth[:, None])
        odds = np.exp(logits)
        return (odds / odds.sum(1, keepdims=True)).astype(np.float32)

    probe, drafted = heard(4.0), heard(3.0)
    energy = generator.normal(size=frames)
    evidence = chunk_evidence([], generator.integers(0, 10, frames).astype(np.int8), probe)
    return Recording(name, truth, DraftPlan(drafted, drafted.max(1), np.zeros(frames)), energy, probe, evidence)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[referee.Findings, list[Recording]]:
    """Ten utterances for validation, eight for the test, judged by the toy in every run."""
    recordings = [toy_recording(f"u{seed}", 20 + 7 * (seed % 5), seed) for seed in range(18)]
    folder, validation, test = tmp_path_factory.mktemp("judged"), recordings[:10], recordings[10:]
    exact = judge_splits(ToyReasoner(), validation, test, TRAINED_RUNS, folder)
    ruled = judge_by_rules(ToyReasoner(), validation, test, exact.frames, exact.chunks, folder)
    assert set(ruled.seconds) == set(RULED)
    return replace(exact, frames=ruled.frames, chunks=ruled.chunks), recordings


@given(seed=st.integers(0, 2**31), frames=st.integers(1, 40))
@settings(max_examples=25)
def test_a_recording_is_decided_as_the_judge_alone_writes_it(seed, frames):
    recording, model = toy_recording("one", frames, seed), ToyReasoner()
    judged, alone = judge(model, recording), write_alone(model, recording)
    assert judged.tokens.tolist() == alone.tokens.tolist()
    assert (judged.last_rows.argmax(1) == judged.tokens).all()
    assert len(judged.verdicts) == -(-frames // FRAMES_PER_CHUNK)
    chunk = recording.chunks[-1]  # its first pass: the draft, after what was committed
    stream = model.stream()
    for evidence, part in zip(recording.evidence, recording.chunks, strict=True):
        stream.read(evidence)
        if part != chunk:
            stream.commit(judged.tokens[part])
    drafted = recording.draft.probabilities.argmax(1)[chunk]
    assert (judged.first_rows[chunk] == stream.score(drafted)).all()


def test_the_runs_differ_where_they_should():
    recording = toy_recording("one", 60, 3)
    late = np.eye(15, dtype=np.float32)[np.roll(write_alone(ToyReasoner(), recording).tokens, 1)]
    recording = replace(recording, draft=DraftPlan(late, np.ones(60), np.zeros(60)))  # one frame late, all offered
    tokens = {name: run(ToyReasoner(), recording).tokens for name, run in RUNS.items()}
    assert (tokens["exact"] == tokens["alone"]).all() and (tokens["exact"] == tokens["guessed"]).all()
    assert (tokens["without_probe"] == 0).all()  # nothing heard: the toy stays where it began
    kept = {name: (tokens[name] == late.argmax(1)).mean() for name in ("exact", "lenient")}
    assert kept["exact"] < 0.8 < kept["lenient"]


def test_judged_recordings_survive_their_file(tmp_path):
    recording = toy_recording("one", 31, 4)
    for run, path in (("exact", tmp_path / "a.npz"), ("alone", tmp_path / "b.npz")):
        judged = RUNS[run](ToyReasoner(), recording)
        judged.save(path)
        again = Judged.load(path)
        assert again.tokens.tolist() == judged.tokens.tolist() and again.seconds == judged.seconds
        for one, other in zip(judged.verdicts, again.verdicts, strict=True):
            for name in ("tokens", "accepted", "verified", "sure"):
                assert getattr(one, name).tolist() == getattr(other, name).tolist()
            assert (one.passes, one.first_accepted) == (other.passes, other.first_accepted)
            assert (one.rejected_at, one.faults) == (other.rejected_at, other.faults)
        if judged.verdicts:
            assert (again.first_rows == judged.first_rows).all() and (again.last_rows == judged.last_rows).all()


def test_what_is_judged_is_not_judged_again(tmp_path):
    recordings, model = [toy_recording(f"dir/{k}", 24, k) for k in range(3)], ToyReasoner()
    first = judge_all(model, recordings[:2], {"exact": judge}, tmp_path)["exact"]
    assert model.streams == 2
    again = judge_all(model, recordings, {"exact": judge}, tmp_path)["exact"]
    assert model.streams == 3 and again[0].tokens.tolist() == first[0].tokens.tolist()


def test_judges_side_by_side_say_what_one_says(tmp_path):
    recordings = [toy_recording(f"dir/{k}", 20 + k, k) for k in range(5)]
    hows = {run: RUNS[run] for run in ("exact", "alone", "lenient")}
    alone = judge_all(ToyReasoner(), recordings, hows, tmp_path / "one")
    beside = judge_all(ToyReasoner(), recordings, hows, tmp_path / "two", processes=2)
    assert list(beside) == list(alone)
    for run in hows:
        assert [each.tokens.tolist() for each in beside[run]] == [each.tokens.tolist() for each in alone[run]]


def test_gathered_recordings_survive_their_file(tmp_path):
    recording = toy_recording("dir/one", 31, 4)
    words = [TimedWord("oh", 3, 15), TimedWord("no", 24, 30), TimedWord("no", 28, 30)]
    loudness = np.concatenate([chunk.energy for chunk in recording.evidence])
    recording = replace(recording, evidence=chunk_evidence(words, loudness, recording.probe))
    recording.save(kept_as(tmp_path, recording.name))
    again = Recording.load(recording.name, kept_as(tmp_path, recording.name))
    assert (again.truth == recording.truth).all() and (again.probe == recording.probe).all()
    assert (again.energy == recording.energy).all()
    for one, other in zip(vars(again.draft).values(), vars(recording.draft).values(), strict=True):
        assert (one == other).all()
    for one, other in zip(again.evidence, recording.evidence, strict=True):
        assert (one.first_frame, one.words, one.energy.tolist()) == (
            other.first_frame,
            other.words,
            other.energy.tolist(),
        )


def test_a_judge_that_fails_leaves_the_draft_and_says_nothing(tmp_path):
    class Broken(ToyReasonerStream):
        def score(self, draft_tokens):
            return super().score(draft_tokens) * np.nan

    model, recording = ToyReasoner(), toy_recording("one", 30, 5)
    model.stream = lambda: Broken(model)
    judged = judge(model, recording)
    assert sum(verdict.fallbacks for verdict in judged.verdicts) == 30
    assert judged.tokens.tolist() == recording.draft.probabilities.argmax(1).tolist()
    assert np.isnan(judged.first_rows).all() and np.isnan(judged.last_rows).all()


@given(seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_classic_passes_are_what_drafting_again_from_the_kernel_takes(seed):
    """Against the decision loop that keeps the kernel's draft."""
    generator = torch.Generator().manual_seed(seed)
    target = (2 * torch.randn(1, 12, 15, generator=generator)).softmax(2)
    draft = torch.where(torch.rand(1, 12, 1, generator=generator) < 0.7, target, target.roll(1, dims=2))
    decision = decide(lambda tokens, fixed: target, draft, VerifyOptions(redraft="draft"))
    assert classic_passes((decision.tokens == decision.drafted)[0].tolist()) == decision.passes.item()


def test_the_tables_hold_every_frame_and_every_chunk(found):
    findings, recordings = found
    frames, chunks = findings.frames, findings.chunks
    assert len(frames) == sum(len(each.truth) for each in recordings) == chunks["frames"].sum()
    test = frames[frames["split"] == "test"]
    assert (test["alone"] == test["committed"]).all() and (chunks["fallbacks"] == 0).all()
    assert all((test[run] == test["committed"]).all() for run in BRANCHED)
    verified = chunks[chunks["split"] == "test"]
    assert verified["branched_38_passes"].sum() < verified["guessed_passes"].sum()
    assert all((verified[f"{run}_known_after"] <= verified[f"{run}_passes"]).all() for run in ("guessed", *BRANCHED))
    for each in recordings:
        rows = frames[frames["utterance"] == each.name]
        assert rows["truth"].tolist() == [VISEMES[k] for k in each.truth]
        own = chunks[chunks["utterance"] == each.name].reset_index()
        wrong = (rows["draft"] != rows["committed"]).to_numpy()
        for index, text in enumerate(own["rejected"]):
            assert [int(place) for place in text.split()] == np.flatnonzero(wrong[each.chunks[index]]).tolist()
    assert frames["recalibrated"].between(0, 1).all() and set(findings.seconds) == set(TRAINED_RUNS)
    assert 0.05 < findings.temperature < 1  # the toy is less sure than it is right


def numbers_of(found) -> tuple[pd.DataFrame, pd.DataFrame]:
    findings, _ = found
    frames = verdicts_of(findings.frames.assign(speaker="trained"))
    chunks = findings.chunks.assign(speaker="trained")
    return frames[frames["split"] == "test"], chunks[chunks["split"] == "test"].fillna(dict.fromkeys(PLACES, ""))


def test_the_referee_table_is_the_share_of_right_frames(found):
    frames, _ = numbers_of(found)
    table = referee_table(frames, np.random.default_rng(0)).set_index("what")
    assert "majority class" not in table.index  # its column is not there
    for what in ("draft", "reasoner, token by token", "committed, exact greedy", "committed, lenient"):
        plan = frames[referee_numbers.PARTIES[what]]
        assert table["accuracy"][what] == pytest.approx((plan == frames["truth"]).mean(), abs=1e-5)
        row = table.loc[what]
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= row["within_one_frame_high"]
    assert (table["n_utterances"] == 8).all() and (table["label"] == "measured").all()


def test_the_rules_stand_side_by_side(found):
    frames, chunks = numbers_of(found)
    rows = {row["rule"]: row for row in rules.rule_rows(frames, chunks, np.random.default_rng(0))}
    groups = np.array(load_mouth_shapes().groups)
    codes = {name: viseme_codes(frames[name]) for name in ("draft", "committed", "mouth", "lenient", "gate_060")}
    covered = (frames["recalibrated"] >= 0.85).to_numpy()
    alike = groups[codes["draft"]] == groups[codes["mouth"]]
    assert rows["mouth"]["at_085"] == pytest.approx(alike[covered].mean(), abs=1e-5)
    assert rows["exact"]["stands"] == pytest.approx((codes["draft"] == codes["committed"]).mean(), abs=1e-5)
    assert rows["exact"]["agreement"] == 1 and rows["lenient"]["passes_a_chunk"] == 1
    assert rows["mouth"]["passes_a_chunk"] <= rows["exact"]["passes_a_chunk"]
    sure = (frames["recalibrated"] >= 0.6).to_numpy()
    assert rows["gate at 0.6"]["unasked"] == pytest.approx(sure.mean(), abs=1e-5)
    assert (codes["gate_060"] == codes["draft"])[sure].all()
    gates = [rows[f"gate at {threshold:g}"] for threshold in GATED.values()]
    assert [row["passes_a_chunk"] for row in gates] == sorted(row["passes_a_chunk"] for row in gates)
    assert rows["lenient"]["agreement"] < 1 and all(row["label"] == "measured" for row in rows.values())
    sights = {row["sight"]: row for row in rules.lenient_rows(frames, np.random.default_rng(0))}
    assert sights["live"]["stands"] == rows["lenient"]["stands"] <= sights["both neighbours"]["stands"]
    assert sights["own plan"]["stands"] == pytest.approx(frames["lenient_verdict"].mean(), abs=1e-5)
    table = rules.rules_table(list(rows.values()), pd.DataFrame({"lip_error_mm": [0.5]}, ["the mouth rule's plan"]))
    assert table["lip_error_mm"]["mouth"] == 0.5 and np.isnan(table["lip_error_mm"]["exact"])


def test_chunks_are_whole_where_nothing_is_rejected(found):
    _, chunks = numbers_of(found)
    shares = rules.whole_chunks(chunks, np.random.default_rng(0))
    assert shares["whole"] == pytest.approx((chunks["rejected"] == "").mean(), abs=1e-5)
    assert shares["one_pass"] == pytest.approx((chunks["guessed_passes"] == 1).mean(), abs=1e-5)
    assert shares["whole"] <= shares["one_pass_from_draft"] < shares["one_pass"]


def test_drafts_of_another_day_are_not_judged_by_the_rules(found, tmp_path):
    findings, recordings = found
    other = findings.frames.assign(draft="sil")
    with pytest.raises(InputError, match="run the command without --rules"):
        judge_by_rules(ToyReasoner(), recordings[:10], recordings[10:], other, findings.chunks, tmp_path)


def test_passes_are_counted_by_chunk_by_second_and_as_a_ratio(found):
    _, chunks = numbers_of(found)
    facts = pass_facts(chunks, np.random.default_rng(0))
    assert facts["verified_ratio"] == pytest.approx(chunks["frames"].sum() / chunks["passes"].sum(), abs=1e-4)
    assert facts["token_by_token_passes_a_second"] == 30 and facts["fallback_frames"] == 0
    assert facts["verified_passes_a_second"] == pytest.approx(30 / facts["verified_ratio"], rel=1e-3)
    # The judge's own rows save passes, a better first guess more of them.
    assert 1 < facts["classic_ratio"] < facts["verified_ratio"] < facts["guessed_ratio"]
    assert facts["verified_ratio_low"] < facts["verified_ratio"] < facts["verified_ratio_high"]


def test_the_front_runs_from_the_draft_alone_to_all_verified(found):
    frames, chunks = numbers_of(found)
    for score in ("least_confidence", "no_rejection"):
        front = gated(frames, chunks, score, [0.0, 0.5, 1.1])
        assert front["passes_a_second"].iloc[0] == 0 and front["verified"].iloc[0] == 0
        assert front["error"].iloc[0] == pytest.approx((frames["draft"] != frames["truth"]).mean())
        assert front["error"].iloc[2] == pytest.approx((frames["committed"] != frames["truth"]).mean())
        assert front["passes_a_second"].iloc[2] == pytest.approx(30 * chunks["passes"].sum() / len(frames))
        assert front["passes_a_second"].is_monotonic_increasing


def test_acceptance_facts_agree_with_the_frames(found):
    frames, _ = numbers_of(found)
    findings, _ = found
    validation = verdicts_of(findings.frames[findings.frames["split"] == "validation"])
    for confidence in ("confidence", "recalibrated"):
        facts = referee_numbers.acceptance_facts(frames, validation, confidence, np.random.default_rng(0))
        covered = frames[frames[confidence] >= 0.85]
        assert facts["coverage"] == pytest.approx(len(covered) / len(frames), abs=1e-4)
        assert facts["lenient"] == pytest.approx(covered["lenient_verdict"].mean(), abs=1e-4)
        assert facts["exact_greedy"] == pytest.approx(covered["exact"].mean(), abs=1e-4)
        assert facts["exact_greedy"] <= facts["lenient"] <= 1
        assert facts["bad_accepts"]["value"] == pytest.approx(1 - facts["lenient"], abs=1e-4)
        assert facts["bad_accepts"]["bound"] > facts["bad_accepts"]["value"]
    assert policy_facts(numbers_of(found)[1], np.random.default_rng(0))["learned_auc"] > 0.5


def test_the_pattern_replays_chunk_by_chunk(found):
    _, chunks = numbers_of(found)
    pattern = acceptance_pattern(chunks, {"trained": {"reasoner": "toy"}})
    assert len(pattern["chunks"]) == len(chunks) and pattern["provenance"]["label"] == "measured"
    for row, (_, chunk) in zip(pattern["chunks"], chunks.iterrows(), strict=True):
        assert (row["frames"], row["passes"]) == (chunk["frames"], chunk["passes"])
        assert row["accepted"] == min([*row["rejected_at"], row["frames"]])  # nothing is rejected before pass 1 stops
        assert set(row["lenient_rejected_at"]) <= set(range(row["frames"]))
        assert set(row["mouth_rejected_at"]) <= set(range(row["frames"])) and row["mouth_passes"] >= 1
        assert row["branched_25_passes"] >= 1 and 0 <= row["branched_12_32_known_after"] <= row["branched_12_32_passes"]


@pytest.fixture
def committed(found, tmp_path, monkeypatch) -> pd.DataFrame:
    """The toy's tables where the repository keeps the reasoner's, and a notebook's frames of two of its utterances."""
    findings, _ = found
    for module in (referee, referee_numbers):
        monkeypatch.setattr(module, "FRAMES_FILE", tmp_path / "frames.csv.gz")
        monkeypatch.setattr(module, "CHUNKS_FILE", tmp_path / "chunks.csv")
    place = referee.Place(tmp_path, "trained")
    referee.write_tables(findings.frames.assign(speaker="trained"), findings.chunks.assign(speaker="trained"), place)
    own = findings.frames[findings.frames["utterance"].isin(["u12", "u15"])]
    return own[["utterance", "frame", "confidence", "draft", "truth", "energy"]].reset_index(drop=True)


def test_a_notebooks_frames_meet_the_committed_verdicts(committed, found):
    frames, chunks = referee_numbers.with_judge(committed)
    table = found[0].frames.set_index(["utterance", "frame"])
    assert len(frames) == len(committed) == chunks["frames"].sum()
    for row in frames.itertuples():
        there = table.loc[(row.utterance, row.frame)]
        assert (row.reasoner, row.accepted) == (there["committed"], there["draft"] == there["committed"])
        assert row.recalibrated == pytest.approx(there["recalibrated"])
    with pytest.raises(InputError, match="make it again"):
        referee_numbers.with_judge(committed.assign(draft="sil"))


def test_other_speech_keeps_truth_as_judge(committed, monkeypatch, tmp_path):
    frames, chunks = referee_numbers.with_judge(committed.assign(utterance="another"))
    assert chunks is None and (frames["accepted"] == (frames["draft"] == frames["truth"])).all()
    assert "reasoner" not in frames and (frames["recalibrated"] == frames["confidence"]).all()
    monkeypatch.setattr(referee_numbers, "FRAMES_FILE", tmp_path / "none")
    assert referee_numbers.with_judge(committed)[1] is None


def test_rejections_stand_with_their_words(committed):
    frames, _ = referee_numbers.with_judge(committed)
    words = pd.DataFrame({"utterance": "u12", "text": ["one", "two"], "start_s": [0.0, 0.5], "end_s": [0.5, 9.0]})
    shown = referee_numbers.rejections(frames, words, 0.0, 100, np.random.default_rng(0))
    assert shown["frames"].sum() == (~frames["lenient_verdict"]).sum() > 0
    for row in shown.itertuples():
        first = round(row.from_s * 30)
        here = frames[(frames["utterance"] == row.utterance) & frames["frame"].between(first, first + row.frames - 1)]
        assert not here["lenient_verdict"].any() and row.draft.split()[0] == here["draft"].iloc[0]
        assert (row.words == "") == (row.utterance != "u12")
        if row.utterance == "u12" and row.from_s > 0.5:
            assert "[two]" in row.words
    assert len(referee_numbers.rejections(frames, words, 0.0, 2, np.random.default_rng(0))) == 2
    assert referee_numbers.rejections(frames, words, 1.1, 5, np.random.default_rng(0)).empty
    first = np.flatnonzero(~frames["lenient_verdict"])[0]
    assert len(referee_numbers.rejections(frames[: first + 1], words, 0.0, 5, np.random.default_rng(0))) == 1


def test_ways_of_working_share_the_exact_plans_error(found):
    frames, chunks = numbers_of(found)
    table = ways.ways_of_working(frames, chunks).set_index("what")
    assert table["passes_a_second"]["token by token"] == 30 and table["passes_a_second"]["draft alone"] == 0
    order = ["draft alone", "lenient, one pass", "exact", "classic speculative", "token by token"]
    assert table["passes_a_second"][order].is_monotonic_increasing
    assert len(set(table["error"][["exact", "classic speculative", "token by token"]])) == 1


def test_the_sweep_and_the_headlines_are_the_summarys_numbers(found, monkeypatch):
    findings, _ = found
    monkeypatch.setattr(referee_numbers, "with_simple_rules", lambda frames, *_: frames)
    facts = referee_numbers.summarise(
        findings.frames.assign(speaker="trained"), findings.chunks.assign(speaker="trained"), {}
    )
    frames, _ = numbers_of(found)
    sweep = referee_numbers.acceptance_sweep(frames, "recalibrated", np.random.default_rng(0)).set_index("threshold")
    likely = facts["speakers"]["trained"]["recalibrated_confidence"]
    assert sweep["within_one_frame"][0.85] == pytest.approx(likely["lenient"], abs=1e-5)
    assert sweep["acceptance"][0.85] == pytest.approx(likely["exact_greedy"], abs=1e-5)
    recorded = {}
    monkeypatch.setattr(
        referee_numbers, "record", lambda key, value, unit, label, *rest, **more: recorded.update({key: value})
    )
    referee_numbers.record_headlines(facts)
    assert recorded["acceptance.at_085"] == likely["lenient"]
    assert recorded["reasoner.passes_ratio"] == facts["speakers"]["trained"]["passes"]["guessed_ratio"]
    assert recorded["reasoner.passes_ratio_several_plans"] > recorded["reasoner.passes_ratio_from_draft"]
    mouth = next(row for row in facts["speakers"]["trained"]["rules"] if row["rule"] == "mouth")
    assert recorded["acceptance.mouth.at_085"] == mouth["at_085"]
    assert recorded["acceptance.mouth.passes_ratio"] == mouth["ratio"]
    assert recorded["acceptance.whole_chunks"] == facts["speakers"]["trained"]["chunks"]["whole"]
    assert recorded["acceptance.bad_accept_bound"] > 1 - likely["lenient"]
    assert facts["speakers"]["trained"]["equal_to_token_by_token"] == {"equal": 8, "n_utterances": 8}


# ------------------------------------------------------------------------------------------------- unseen speakers


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Eight utterances, three of which are also written token by token."""
    recordings = [toy_recording(f"u{seed}", 20 + 7 * (seed % 5), seed) for seed in range(8)]
    return referee.judge_strangers(ToyReasoner(), recordings, tmp_path_factory.mktemp("strangers"), "unseen", alone=3)


def simple_rules(frames: pd.DataFrame, *_) -> pd.DataFrame:
    return frames.assign(majority="sil", energy_rule="aa")


@pytest.fixture
def unseen(strangers, tmp_path) -> dict:
    """The facts of the unseen speaker, from the frame table as it comes back from its file."""
    frames, chunks, _ = strangers
    frames.to_csv(tmp_path / "frames.csv", index=False)
    return referee_numbers.stranger_facts(simple_rules(pd.read_csv(tmp_path / "frames.csv")), chunks, {}, "toy")


# What both files of speakers that nobody heard hold, and whom their tables compare.
SHAPE = {
    "provenance", "definitions", "judging", "table", "gains", "agreement", "draft_confidence", "passes",
    "judge_calibration",
}  # fmt: skip
STRANGERS_PARTIES = {
    "draft": "draft",
    "the judge's ears": "probe",
    "reasoner, one pass over the draft": "one_pass",
    "committed, exact greedy": "committed",
    "committed, live: no words": "live",
}
SIMPLE = {"majority class", "energy threshold"}


def test_the_unseen_speakers_table_is_the_share_of_right_frames(unseen, strangers):
    frames, chunks, seconds = strangers
    rows = {row["what"]: row for row in unseen["table"]}
    assert len(rows) == len(unseen["table"]) and {row["speaker"] for row in unseen["table"]} == {"unseen"}
    assert rows.keys() == STRANGERS_PARTIES.keys() | SIMPLE | {"reasoner, token by token"}
    for what, column in STRANGERS_PARTIES.items() | {("majority class", None)}:
        plan = frames[column] if column else "sil"
        assert rows[what]["accuracy"] == pytest.approx((plan == frames["truth"]).mean(), abs=1e-5)
        assert (rows[what]["n_utterances"], rows[what]["n_frames"]) == (8, len(frames))
        assert rows[what]["accuracy_low"] <= rows[what]["accuracy"] <= rows[what]["within_one_frame"]
    alone = frames[frames["alone"].notna()]
    assert alone["utterance"].nunique() == rows["reasoner, token by token"]["n_utterances"] == 3
    assert rows["reasoner, token by token"]["accuracy"] == pytest.approx(
        (alone["alone"] == alone["truth"]).mean(), abs=1e-5
    )
    assert unseen["equal_to_token_by_token"] == {"equal": 3, "n_utterances": 3}
    assert "any_rejection" not in chunks and set(seconds) == {"exact", "live", "guessed", "alone"}
    for way, column in (("verified", "passes"), ("guessed", "guessed_passes")):
        assert unseen["passes"][f"{way}_ratio"] == pytest.approx(
            chunks["frames"].sum() / chunks[column].sum(), abs=1e-4
        )
    assert json.loads(json.dumps(unseen, allow_nan=False)) == unseen


def test_the_unseen_speakers_gains_are_differences_of_rows(unseen):
    accuracy = {row["what"]: row["accuracy"] for row in unseen["table"]}
    gains = {(row["plan"], row["over"]): row["gain"] for row in unseen["gains"]}
    plans, over = ("committed, exact greedy", "committed, live: no words"), ("draft", "the judge's ears")
    assert gains.keys() == {(plan, other) for plan in plans for other in over}
    for (plan, other), gain in gains.items():
        assert gain == pytest.approx(accuracy[plan] - accuracy[other], abs=2e-5)


def test_the_drafts_confidence_is_the_unseen_acceptance(unseen, strangers):
    frames, _, _ = strangers
    covered = frames[frames["confidence"] >= 0.85]
    assert unseen["draft_confidence"]["coverage"] == pytest.approx(len(covered) / len(frames), abs=1e-4)
    exact = (covered["draft"] == covered["committed"]).mean()
    assert unseen["draft_confidence"]["exact_greedy"] == pytest.approx(exact, abs=1e-4)
    assert unseen["agreement"]["exact"] <= unseen["agreement"]["lenient"]


def test_real_speakers_have_the_same_shape_without_what_takes_their_speech(strangers):
    frames, chunks, _ = strangers
    real = referee_numbers.stranger_facts(
        frames.drop(columns="alone").assign(speaker="real"), chunks.assign(speaker="real"), {}, "toy"
    )
    assert real.keys() == SHAPE and "unseen" not in real["definitions"]
    assert [row["what"] for row in real["table"]] == list(STRANGERS_PARTIES)


def test_the_unseen_speakers_rows_are_judged_side_by_side_and_kept(tmp_path, monkeypatch, capsys):
    """The whole command on a folder of toys: tables, facts, and which files judged."""
    folder, recordings = tmp_path / "fits", [toy_recording(f"u{seed}", 26, seed) for seed in range(3)]
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "training.json").write_text('{"sources": ["piper"], "steps": 3}')
    (folder / "adapter" / "reasoner.json").write_text("{}")
    for index, path in enumerate(("adapter/adapter_model", "draft_unseen", "ears_unseen")):
        (folder / f"{path}.safetensors").write_bytes(bytes([index]))
    gathered = []

    def gather(prompts, draft, ears, words, kept):
        gathered.append((draft, ears))
        return recordings

    model = ToyReasoner()
    model.temperature = 1.0
    monkeypatch.setattr(referee.paths, "RUN_DIR", tmp_path / "run")
    monkeypatch.setattr(referee, "human_prompts", lambda split: [])
    monkeypatch.setattr(referee, "heard_words", lambda prompts: pd.DataFrame({"utterance": []}))
    monkeypatch.setattr(referee, "load_reasoner", lambda adapter: model)
    monkeypatch.setattr(referee, "gather", gather)
    monkeypatch.setattr(referee, "with_simple_rules", simple_rules)
    for name in ("UNSEEN_FILE", "UNSEEN_FRAMES_FILE"):
        monkeypatch.setattr(referee, name, tmp_path / getattr(referee, name).name)
    assert referee.main(["--unseen", str(folder), "--processes", "2"]) == 0
    assert gathered == [(str(folder / "draft_unseen.safetensors"), str(folder / "ears_unseen.safetensors"))]
    facts = json.loads((tmp_path / "referee_unseen.json").read_text())
    assert facts.keys() == SHAPE | {"equal_to_token_by_token"}
    assert facts["equal_to_token_by_token"] == {"equal": 3, "n_utterances": 3}
    assert len(pd.read_csv(tmp_path / "judged_frames_unseen.csv.gz")) == 3 * 26
    judging, digests = facts["judging"], [hashlib.sha256(bytes([index])).hexdigest() for index in range(3)]
    assert (judging["adapter_sha256"], judging["adapter_is_kept"]) == (digests[0], False)
    assert judging["adapter_training"] == {"sources": ["piper"], "steps": 3}
    for who, digest in (("draft", digests[1]), ("ears", digests[2])):
        assert judging[who] == {"name": f"{who}_unseen", "sha256": digest, "is_kept": False}
    assert judging["processor_seconds"].keys() == {"exact", "live", "guessed", "alone"}

    (folder / "ears_unseen.safetensors").unlink()
    capsys.readouterr()
    assert referee.main(["--unseen", str(folder)]) == InputError.EXIT_CODE
    error = capsys.readouterr().err
    assert "ears_unseen.safetensors: no such file" in error and error.count("\n") == 1


def test_both_speakers_stand_in_one_table(unseen, found, tmp_path, monkeypatch):
    frames, _ = numbers_of(found)
    trained = referee_table(frames, np.random.default_rng(0))
    monkeypatch.setattr(referee_numbers, "UNSEEN_FILE", tmp_path / "unseen.json")
    assert referee_numbers.with_unseen(trained) is trained
    (tmp_path / "unseen.json").write_text(json.dumps(unseen))
    both = referee_numbers.with_unseen(trained)
    own = referee_numbers.gains(frames, np.random.default_rng(0))
    every = referee_numbers.gains_table({"speakers": {"trained": {"gains": own}}})
    assert every["speaker"].value_counts().to_dict()["trained"] == len(own)
    assert every["speaker"].value_counts().to_dict()["unseen"] == len(unseen["gains"])
    assert every[every["speaker"] == "unseen"]["gain"].tolist() == [row["gain"] for row in unseen["gains"]]
    assert len(both) == len(trained) + len(unseen["table"]) and both["within_one_frame"].dtype == float
    assert set(both["what"]) <= referee_numbers.PARTIES.keys()
    recorded = {}
    monkeypatch.setattr(referee_numbers, "record", lambda key, value, *rest, **more: recorded.update({key: value}))
    referee_numbers.record_unseen()
    accuracy = {row["what"]: row["accuracy"] for row in unseen["table"]}
    assert recorded["reasoner.accuracy_unseen_speaker"] == accuracy["committed, exact greedy"]


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ('{"sources": ["piper", "speech-en"]}', "it heard speech-en"),
        ('{"sources": ["own", "piper"]}', "it heard own"),
        ("{}", "does not tell whom"),
        ("no json", "does not tell whom"),
        (None, "does not tell whom"),
    ],
)
def test_an_adapter_that_may_have_heard_the_speaker_is_refused(tmp_path, capsys, training, message):
    (tmp_path / "adapter").mkdir()
    if training is not None:
        (tmp_path / "adapter" / "training.json").write_text(training)
    assert referee.main(["--unseen", str(tmp_path)]) == InputError.EXIT_CODE
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_committed_unseen_rows_are_of_fits_that_heard_no_human_of_the_corpus():
    if not referee_numbers.UNSEEN_FILE.is_file():
        pytest.skip("the unseen speaker is not measured")
    facts = json.loads(referee_numbers.UNSEEN_FILE.read_text(encoding="utf-8"))
    assert facts["judging"]["adapter_training"]["sources"]
    assert not any(
        source.startswith(referee.HUMAN_SOURCES) for source in facts["judging"]["adapter_training"]["sources"]
    )
    shipped = {hashlib.sha256(path.read_bytes()).hexdigest() for path in referee.FRONTS}
    for who in ("draft", "ears"):
        judge = facts["judging"][who]
        assert judge["name"] == f"{who}_unseen" and not judge["is_kept"] and judge["sha256"] not in shipped
    assert facts.keys() == SHAPE | {"equal_to_token_by_token"}
    rows = {row["what"] for row in facts["table"]}
    assert rows == STRANGERS_PARTIES.keys() | SIMPLE | {"reasoner, token by token"}
    frames = pd.read_csv(referee_numbers.UNSEEN_FRAMES_FILE)
    committed = next(row for row in facts["table"] if row["what"] == "committed, exact greedy")
    assert committed["accuracy"] == pytest.approx((frames["committed"] == frames["truth"]).mean(), abs=1e-5)
    assert committed["n_frames"] == len(frames) and frames["utterance"].nunique() == committed["n_utterances"]
    equal = facts["equal_to_token_by_token"]
    assert equal["equal"] == equal["n_utterances"] > 0


def test_tables_that_are_absent_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(referee_numbers, "FRAMES_FILE", tmp_path / "none.csv.gz")
    with pytest.raises(InputError, match=r"make it with python -m workbench\.measure\.referee"):
        referee_numbers.judged_tables()


@pytest.mark.slow
def test_smollm2_decides_as_it_writes_alone():
    """Three chunks with words, an uneven last one, and a draft that is often wrong; with its adapter or without."""
    try:
        asset("smollm2")
    except InputError:
        pytest.skip("SmolLM2 is not in the cache")
    recording = toy_recording("one", 29, 8)
    words = [TimedWord("hello", 2, 9), TimedWord("there", 11, 20)]
    evidence = [
        replace(chunk, words=tuple(word for word in words if chunk_of([word.first_frame])[0] == index))
        for index, chunk in enumerate(recording.evidence)
    ]
    recording = replace(recording, evidence=evidence)
    try:
        model = load_reasoner()
    except InputError:
        model = load_reasoner(adapter=None)
    judged, alone = judge(model, recording), write_alone(model, recording)
    assert judged.tokens.tolist() == alone.tokens.tolist()
    assert sum(verdict.fallbacks for verdict in judged.verdicts) == 0
    assert sum(verdict.passes for verdict in judged.verdicts) < 29
