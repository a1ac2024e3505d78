"""The reasoner: a tiny random Llama with a byte-level tokenizer stands in for the language model."""

import json
import os
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from specsync_lib import units
from specsync_lib.assets import asset
from specsync_lib.errors import InputError
from specsync_lib.judge import script
from specsync_lib.judge.loading import load_reasoner
from specsync_lib.judge.reasoner import Reasoner
from specsync_lib.judge.script import ChunkEvidence, Script, TimedWord, gather_evidence, spoken_visemes
from specsync_lib.speech.corpus import clips
from specsync_lib.speech.whisper_base import Word
from specsync_lib.visemes import VISEME_INDEX
from tests.toys.reasoner import CLASSES, byte_tokenizer, recording, tiny_llama, tiny_reasoner
from workbench.train.reasoner_card import accuracy, chosen, settle


@pytest.fixture(scope="module")
def reasoner() -> Reasoner:
    return tiny_reasoner()


def unbroken(reasoner: Reasoner, text: list[int], places: list[int]) -> np.ndarray:
    """The rows at some places of a text by one pass without any cache."""
    hidden = reasoner.engine.model.base_model(input_ids=torch.tensor([text]), use_cache=False).last_hidden_state[
        0, places
    ]
    return reasoner.engine.logits(hidden).softmax(dim=1).numpy()


# ----------------------------------------------------------------------------------------------- scoring and writing


def test_a_plan_and_its_score_agree_token_by_token(reasoner):
    written, scored = reasoner.stream(), reasoner.stream()
    for evidence in recording(40):
        written.read(evidence)
        scored.read(evidence)
        tokens, rows = written.plan(len(evidence))
        judged = scored.score(tokens)
        assert (judged.argmax(axis=1) == tokens).all()
        np.testing.assert_allclose(judged, rows, atol=1e-5)
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
        written.commit(tokens)
        scored.commit(tokens)
    assert len(set(tokens.tolist())) > 1, "a constant plan would hide a shift"
    assert written.text() == scored.text()


def test_a_fork_goes_its_own_way_and_shares_what_was_read(reasoner):
    first, second = recording(24)
    trunk, alone = reasoner.stream(), reasoner.stream()
    for stream in (trunk, alone):
        stream.read(first)
        stream.commit(stream.plan(len(first))[0])
    twin = trunk.fork()
    for stream in (trunk, twin, alone):
        stream.read(second)
    other = np.full(len(second), 3)
    read = twin.tokens_read
    twin.score(other)
    assert twin.tokens_read - read < len(twin._text()) + sum(map(len, twin._lines)), "the past was read again"
    twin.commit(other)
    np.testing.assert_allclose(trunk.score(other), alone.score(other), atol=1e-5)
    trunk.commit(trunk.plan(len(second))[0])
    alone.commit(alone.plan(len(second))[0])
    assert trunk.text() == alone.text() != twin.text()


def test_scoring_costs_one_pass_and_writing_one_a_frame(reasoner):
    stream = reasoner.stream()
    chunk = recording(12)[0]
    stream.read(chunk)
    assert stream.passes == 0
    stream.score(np.zeros(12, int))
    assert stream.passes == 1
    tokens, _ = stream.plan(12)
    assert stream.passes == 13
    stream.commit(tokens)
    assert stream.passes == 13
    with pytest.raises(InputError, match="1 tokens for 0 open frames"):
        stream.commit(tokens[:1])


@given(st.integers(0, 1000))
@settings(max_examples=8)
def test_a_settled_plan_is_the_written_one_from_any_guess(reasoner, seed):
    chunk = recording(12, seed % 7)[0]
    written, settled = reasoner.stream(), reasoner.stream()
    written.read(chunk)
    settled.read(chunk)
    tokens, rows = written.plan(12)
    plan, distributions, passes = settle(settled, np.random.default_rng(seed).integers(0, CLASSES, 12))
    assert (plan == tokens).all() and 1 <= passes <= 13
    np.testing.assert_allclose(distributions, rows, atol=1e-5)
    assert settle(settled, tokens)[2] == 1, "a guess that is right is confirmed by one pass"


@given(st.data())
@settings(max_examples=8)
def test_the_cache_never_shows(reasoner, data):
    """After any drafts, alone or several a pass, rejections and partial commits, a row is what one pass over the plain
    text gives."""
    chunks = recording(24, seed=data.draw(st.integers(0, 5)))
    viseme = st.integers(0, CLASSES - 1)
    stream = reasoner.stream()
    text = list(reasoner.script.start)
    announced = set()
    for evidence in chunks:
        stream.read(evidence)
        lines = reasoner.script.lines(evidence, announced)
        while lines:
            length, passes = data.draw(st.integers(1, len(lines))), stream.passes
            branch = st.lists(viseme, min_size=length, max_size=length).map(np.array)
            drafts = data.draw(st.lists(branch, min_size=1, max_size=3))
            scored = stream.score_branches(drafts)
            assert stream.passes == passes + 1
            for draft, rows in zip(drafts, scored, strict=True):
                tokens, places = list(text), []
                for line, token in zip(lines, draft, strict=False):
                    tokens += line
                    places.append(len(tokens) - 1)
                    tokens.append(reasoner.script.letter(token))
                np.testing.assert_allclose(rows, unbroken(reasoner, tokens, places), atol=2e-5)
            draft = data.draw(st.sampled_from(drafts))
            kept = data.draw(st.integers(0, len(draft)))
            fixed = [*draft[:kept], data.draw(viseme)][: len(lines)]  # a rejection brings a token of its own
            stream.commit(np.array(fixed))
            for token in fixed:
                text += [*lines.pop(0), reasoner.script.letter(token)]


@given(st.lists(st.integers(0, CLASSES - 1), min_size=12, max_size=12), st.integers(0, 11), st.integers(1, 14))
@settings(max_examples=10)
def test_a_row_hangs_on_the_tokens_before_it_alone(reasoner, draft, place, change):
    stream = reasoner.stream()
    stream.read(recording(12)[0])
    before = stream.score(np.array(draft))
    changed = np.array(draft)
    changed[place] = (changed[place] + change) % CLASSES
    after = stream.score(changed)
    np.testing.assert_allclose(after[: place + 1], before[: place + 1], atol=1e-5)
    if place < 11:
        assert np.abs(after[place + 1] - before[place + 1]).max() > 1e-4


def test_the_window_bounds_a_long_recording(reasoner):
    short = replace(reasoner, window_tokens=400)
    stream = short.stream()
    longest = 0
    for evidence in recording(12 * 40):
        stream.read(evidence)
        rows = stream.score(evidence.probe.argmax(axis=1))
        assert np.isfinite(rows).all()
        stream.commit(rows.argmax(axis=1))
        longest = max(longest, stream._session._cache.get_seq_length())
        assert stream._text()[:1] == reasoner.script.start
    assert 200 < longest <= 400
    assert len(stream._announced) < 5


def test_own_thoughts_are_seen_by_the_plan_and_then_forgotten(reasoner):
    plain, thinking = reasoner.stream(), reasoner.stream()
    chunks = recording(24)
    for stream in (plain, thinking):
        stream.read(chunks[0])
    without, _ = plain.plan(12)
    with_thoughts, rows = thinking.plan(12, reasoning_tokens=5)
    assert thinking.passes - plain.passes in range(1, 6)
    assert np.abs(rows - plain.score(with_thoughts)).max() > 1e-4, "the thoughts were not in sight"
    for stream in (plain, thinking):
        stream.commit(without)
        stream.read(chunks[1])
    draft = np.arange(12)
    np.testing.assert_allclose(thinking.score(draft), plain.score(draft), atol=1e-5)


def test_drawn_plans_follow_the_generator_and_the_rows(reasoner):
    stream = reasoner.stream()
    stream.read(recording(12)[0])
    first, rows = stream.plan(12, generator=torch.Generator().manual_seed(3))
    again, _ = stream.plan(12, generator=torch.Generator().manual_seed(3))
    assert (first == again).all()
    np.testing.assert_allclose(stream.score(first), rows, atol=1e-5)
    draws = np.array([stream.plan(1, generator=torch.Generator().manual_seed(seed))[0][0] for seed in range(200)])
    share = np.bincount(draws, minlength=CLASSES) / len(draws)
    assert np.abs(share - rows[0]).max() < 0.15


def test_the_table_counts_strictly_and_within_a_frame():
    table = pd.DataFrame({"truth": ["sil", "PP", "PP", "aa"], "said": ["PP", "PP", "sil", "sil"], "utterance": "one"})
    found = accuracy(table, "said")
    assert (found["accuracy"], found["within_one_frame"]) == (0.25, 0.5)
    prompts = [str(index) for index in range(10)]
    assert chosen(prompts, None) == prompts and chosen(prompts, 4) == sorted(chosen(prompts, 4)) != prompts[:4]


# --------------------------------------------------------------------------------------------------------- the text


def test_the_text_says_what_the_evidence_is(reasoner):
    probe = np.full((3, CLASSES), 0.0, np.float32)
    probe[0, VISEME_INDEX["PP"]] = 1.0  # sure
    probe[1, [VISEME_INDEX["nn"], VISEME_INDEX["ih"]]] = 0.63, 0.37  # unsure
    probe[2] = 1 / CLASSES  # knows nothing
    evidence = ChunkEvidence(0, (TimedWord("Please,", 1, 9),), np.array([0, 5, 9], np.int8), probe)
    stream = reasoner.stream()
    stream.read(evidence)
    stream.commit(np.array([VISEME_INDEX[name] for name in ("PP", "nn", "ih")]))
    assert stream.text() == "<s>\n( please9 P N I S)0 P P5 N6 I N9 I"


@pytest.mark.parametrize("frames", [4, 8])
def test_the_text_is_the_same_whatever_a_chunk_holds(reasoner, frames):
    whole, parts = reasoner.stream(), reasoner.stream()
    plan = np.arange(48) % CLASSES
    for stream, chunks in ((whole, recording(48)), (parts, recording(48, chunk_frames=frames))):
        for chunk in chunks:
            stream.read(chunk)
            stream.commit(plan[chunk.first_frame : chunk.first_frame + len(chunk)])
    assert parts.text() == whole.text() and whole.text().count("\n") == 4


def test_a_word_is_told_once_and_before_it_begins(reasoner):
    announced: set[tuple[str, int]] = set()
    lines = [line for chunk in recording(48) for line in reasoner.script.lines(chunk, announced)]
    told = {frame: reasoner.script.decode(line) for frame, line in enumerate(lines) if len(line) > 8}
    assert list(told) == [0, 15 - script.WORD_LEAD_FRAMES, 30 - script.WORD_LEAD_FRAMES]
    assert [text.strip().split()[1] for text in told.values()] == ["please12", "hold12", "on12"]


@given(st.text(max_size=80))
def test_any_word_has_visemes_or_none(text):
    visemes = spoken_visemes(text)
    assert len(visemes) <= script.MOST_VISEMES_A_WORD and all(0 <= viseme < CLASSES for viseme in visemes)
    assert all(one != other for one, other in pairwise(visemes))


def test_words_are_spelled_in_visemes():
    names = [units.VISEMES[viseme] for viseme in spoken_visemes("Please,")]
    assert names == ["PP", "nn", "ih", "SS"]
    assert spoken_visemes("5") == spoken_visemes("five")
    assert spoken_visemes("漢字") == ()


def test_a_tokenizer_without_the_alphabet_is_named():
    words = {"<unk>": 0, **{str(digit): digit + 1 for digit in range(10)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")), unk_token="<unk>"
    )
    with pytest.raises(InputError, match="is not a single token"):
        Script(tokenizer)
    assert Script(byte_tokenizer(letters="")).letter(0) == byte_tokenizer("").encode("X")[0]


# -------------------------------------------------------------------------------------------------------- bad input


def speech(seconds: float = 1.0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(round(seconds * units.SAMPLE_RATE_HZ))).astype(np.float32)


def uniform(samples: np.ndarray) -> np.ndarray:
    return np.full((units.frame_count(len(samples)), CLASSES), 1 / CLASSES, np.float32)


@pytest.mark.parametrize(
    "words",
    [
        [],
        [Word("漢字", 0.1, 0.5, 1.0), Word("xqztvw", 0.5, 0.9, 0.1), Word("  ", 0.2, 0.3, 1.0)],
        [Word("late", 5.0, 9.0, 1.0), Word("early", -3.0, -1.0, 1.0), Word("backwards", 0.8, 0.2, 1.0)],
        [Word(f"word{index}", index / 10_000, index / 10_000, 1.0) for index in range(10_000)],
        [Word("a" * 5_000, 0.0, 1.0, 1.0)],
    ],
    ids=["empty transcript", "unknown words", "odd times", "ten thousand words", "endless word"],
)
def test_any_words_end_in_a_valid_plan(reasoner, words):
    samples = speech()
    stream = reasoner.stream()
    tokens = []
    for evidence in gather_evidence(samples, words, uniform(samples)):
        stream.read(evidence)
        plan, rows = stream.plan(len(evidence))
        assert np.isfinite(rows).all()
        stream.commit(plan)
        tokens += plan.tolist()
    assert len(tokens) == 30 and set(tokens) <= set(range(CLASSES))
    assert len(stream._text()) < 1200


def test_silence_and_nothing_at_all():
    quiet = gather_evidence(np.zeros(16_000, np.float32), [], uniform(np.zeros(16_000)))
    assert sum(map(len, quiet)) == 30 and all((chunk.energy == 0).all() for chunk in quiet)
    loud = gather_evidence(speech(level=0.3), [], uniform(speech()))
    assert np.concatenate([chunk.energy for chunk in loud]).min() > 4
    assert gather_evidence(np.zeros(0, np.float32), [], np.zeros((0, CLASSES))) == []


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (np.zeros((30, 3)), r"expected \[30, 15\]"),
        (np.full((30, CLASSES), np.nan), "sum to 1"),
        (np.zeros((30, CLASSES)), "sum to 1"),
        (np.log(uniform(speech())), "sum to 1"),
    ],
)
def test_what_is_no_probability_is_refused(probe, message):
    with pytest.raises(InputError, match=message) as caught:
        gather_evidence(speech(), [], probe)
    assert "\n" not in str(caught.value)


def test_a_word_without_a_time_is_refused():
    with pytest.raises(InputError, match="finite seconds"):
        gather_evidence(speech(), [Word("when", float("nan"), 1.0, 1.0)], uniform(speech()))


def test_misuse_of_a_stream_is_one_line(reasoner):
    chunks = recording(36)
    stream = reasoner.stream()
    with pytest.raises(InputError, match="read a chunk first"):
        stream.plan(1)
    stream.read(chunks[0])
    for call, message in [
        (lambda: stream.read(chunks[1]), "12 frames of the last chunk are open"),
        (lambda: stream.score(np.zeros(13, int)), "13 tokens for 12 open frames"),
        (lambda: stream.score(np.array([15])), "viseme indices"),
        (lambda: stream.commit(np.array([-1])), "viseme indices"),
        (lambda: stream.plan(13), "13 frames asked for"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    stream.commit(np.zeros(12, int))
    with pytest.raises(InputError, match="expected the chunk of frame 12, got 24"):
        stream.read(chunks[2])
    assert stream.score(np.zeros(0, int)).shape == (0, CLASSES)


# ----------------------------------------------------------------------------------------------------------- loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model in a folder of its own, as a hub would give it."""
    path = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def test_any_causal_model_loads_from_a_folder(folder, reasoner):
    loaded = load_reasoner(folder, weights="random")
    assert (loaded.label, loaded.instruction) == ("real-shape", script.INSTRUCTION)
    assert loaded.alphabet["PP"] == "P" and len(set(loaded.alphabet.values())) == CLASSES
    stream = loaded.stream()
    stream.read(recording(12)[0])
    tokens, _ = stream.plan(12)
    assert len(tokens) == 12


def test_weights_of_ones_own_need_a_word_on_where_they_came_from(folder):
    with pytest.raises(InputError, match="weights='trained' or 'random'"):
        load_reasoner(folder)
    with pytest.raises(InputError, match="where its weights came from"):
        load_reasoner(weights="random")  # the pinned asset is what it is


def test_an_absent_model_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (tmp_path / "nothing", "nobody/no-such-model"):
        with pytest.raises(InputError, match="cannot be loaded") as caught:
            load_reasoner(name, weights="trained")
        assert "\n" not in str(caught.value)


def write_adapter(path, change: dict[str, torch.Tensor], rank: int = 2) -> None:
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": 2 * rank}))
    (path / "reasoner.json").write_text(json.dumps({"temperature": 1.5, "instruction": ""}))
    save_file(change, path / "adapter_model.safetensors")


def test_an_adapter_is_merged_with_its_settings(folder, tmp_path):
    torch.manual_seed(0)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    write_adapter(tmp_path / "adapter", {name.format("A"): down, name.format("B"): up})
    plain, tuned = (load_reasoner(folder, adapter, weights="random") for adapter in (None, tmp_path / "adapter"))
    weights = [r.engine.model.model.layers[1].self_attn.q_proj.weight for r in (plain, tuned)]
    torch.testing.assert_close(weights[1], weights[0] + 2 * up @ down)
    assert (tuned.temperature, tuned.instruction) == (1.5, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model.model.model.layers.7.self_attn.q_proj": (2, 32)}, "does not fit"),
        ({"base_model.model.model.layers.1.self_attn.q_proj": (2, 31)}, "does not fit"),
    ],
)
def test_a_strange_adapter_is_refused(folder, tmp_path, change, message):
    ((name, shape),) = change.items()
    tensors = {f"{name}.lora_A.weight": torch.zeros(shape), f"{name}.lora_B.weight": torch.zeros(32, 2)}
    write_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(InputError, match=message):
        load_reasoner(folder, tmp_path / "adapter", weights="random")


def test_a_broken_adapter_is_refused(folder, tmp_path):
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"
    broken = {name.format("A"): torch.full((2, 32), torch.nan), name.format("B"): torch.zeros(32, 2)}
    write_adapter(tmp_path / "adapter", broken)
    with pytest.raises(InputError, match="not finite"):
        load_reasoner(folder, tmp_path / "adapter", weights="random")
    with pytest.raises(InputError, match="restore the folder"):
        load_reasoner(folder, tmp_path / "none", weights="random")


@pytest.mark.slow
def test_smollm2_writes_what_it_would_have_accepted():
    """The shipped model and adapter on the shipped clips: token-equal, plan against score, in float32.

    SPECSYNC_LONG_TESTS=1 goes on for six chunks of each.
    """
    try:
        asset("smollm2")
    except InputError as missing:
        pytest.skip(str(missing))
    judge, chunks = load_reasoner(), 6 if os.environ.get("SPECSYNC_LONG_TESTS") else 3
    from specsync_lib.speech.audio import load_audio

    for clip in clips():
        samples = load_audio(clip.path).samples
        words = [Word(phone.word, phone.start_s, phone.end_s, 1.0) for phone in clip.phones if phone.word]
        written, scored = judge.stream(), judge.stream()
        for evidence in gather_evidence(samples, words, uniform(samples))[:chunks]:
            written.read(evidence)
            scored.read(evidence)
            tokens, rows = written.plan(len(evidence))
            judged = scored.score(tokens)
            assert (judged.argmax(axis=1) == tokens).all()
            np.testing.assert_allclose(judged, rows, atol=1e-3)
            written.commit(tokens)
            scored.commit(tokens)
