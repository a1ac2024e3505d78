"""Judges behind servers: rows equal those of the same model in this process, and every fault is refused in one line."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.judge.engines import probe
from specsync_lib.judge.engines.local import LocalEngine
from specsync_lib.judge.engines.openai import OpenAI
from specsync_lib.judge.engines.served import ServedEngine, ServerFault, Unreachable
from specsync_lib.judge.engines.session import Branch
from specsync_lib.judge.engines.sglang import SGLang
from specsync_lib.judge.engines.vllm import VLLM
from specsync_lib.judge.loading import load_judge
from specsync_lib.judge.reasoner import Reasoner
from specsync_lib.judge.rules import EXACT
from specsync_lib.judge.script import Script
from specsync_lib.judge.verify import ChunkContext, verify_chunk
from specsync_lib.rows import Judge
from tests.toys.reasoner import CLASSES, byte_tokenizer, recording, tiny_llama, tiny_reasoner
from tests.toys.servers import FAULTS, KINDS, ToyServer, nobody_listening, serving, spoiled, without_a_letter

QUICK = {"weights": "random", "timeout_s": 20.0, "retries": 2, "in_flight": 2}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder that the tokenizer is read from."""
    path = tmp_path_factory.mktemp("tiny")
    byte_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter's settings; the server has it merged."""
    path = tmp_path_factory.mktemp("adapter")
    (path / "reasoner.json").write_text('{"temperature": 1.0, "instruction": ""}')
    return str(path)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("specsync_lib.judge.engines.served.FIRST_PAUSE_S", 0.0)


@pytest.fixture
def toy():
    return ToyServer()


@pytest.fixture
def url(toy):
    with serving(toy) as address:
        yield address


def served(kind: str, url: str, source: str, adapter: str, **changes) -> Reasoner:
    return load_judge(Judge(kind=kind, url=url, source=source, adapter=adapter, **QUICK | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_served_judge_is_the_local_one(kind, toy, url, tokenizer, adapter):
    local, remote = tiny_reasoner().stream(), served(kind, url, tokenizer, adapter).stream()
    rng = np.random.default_rng(0)
    for evidence in recording(36):
        for stream in (local, remote):
            stream.read(evidence)
        drafts = [rng.integers(0, CLASSES, 12) for _ in range(3)]
        asked = len(toy.requests)
        for ours, theirs in zip(local.score_branches(drafts), remote.score_branches(drafts), strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-5)
        assert len(toy.requests) == asked + 1, "a tree is one request"
        (tokens, rows), (same, theirs) = local.plan(12), remote.plan(12)
        assert same.tolist() == tokens.tolist()
        np.testing.assert_allclose(theirs, rows, atol=1e-5)
        for stream in (local, remote):
            stream.commit(drafts[0])
    assert remote.text() == local.text() and remote.passes == local.passes
    twin = remote.fork()
    assert twin.text() == remote.text()


@pytest.mark.parametrize("kind", ["sglang", "vllm"])  # the third names tokens by text, and bytes are none
def test_it_reasons_aloud_as_the_local_one(kind, url, tokenizer, adapter):
    local, remote = tiny_reasoner().stream(), served(kind, url, tokenizer, adapter).stream()
    for stream in (local, remote):
        stream.read(recording(12)[0])
    ours, theirs = (stream.plan(4, reasoning_tokens=3) for stream in (local, remote))
    np.testing.assert_allclose(theirs[1], ours[1], atol=1e-5)


def test_a_draft_is_sent_to_sglang_from_its_first_line_on(toy, url, tokenizer, adapter):
    stream = served("sglang", url, tokenizer, adapter).stream()
    stream.read(recording(12)[0])
    stream.score(np.arange(12))
    path, body = toy.requests[-1]
    prompt, letters = body["input_ids"][0], byte_tokenizer().encode(" X P F T D K C S N R A E I O U")
    assert path == "/generate" and body["sampling_params"]["max_new_tokens"] == 0
    assert prompt[body["logprob_start_len"][0] + 1] == letters[0] and body["token_ids_logprob"] == [letters]


def test_vllm_is_sent_each_beginning_once(toy, url, tokenizer, adapter):
    stream = served("vllm", url, tokenizer, adapter).stream()
    stream.read(recording(12)[0])
    stream.score_branches([np.zeros(12, int), np.r_[np.zeros(6, int), np.ones(6, int)]])
    prompts = toy.requests[-1][1]["prompt"]
    assert len(prompts) == 12 + 5 and len({tuple(prompt) for prompt in prompts}) == len(prompts)


def test_an_old_vllm_whose_likeliest_lack_a_letter_is_refused(toy, url, tokenizer, adapter):
    toy.knows_tokens = False
    with pytest.raises(InputError, match="letters are missing, token"):
        served("vllm", url, tokenizer, adapter)


def test_the_temperature_divides(url, tokenizer, adapter):
    warm, hot = (served("sglang", url, tokenizer, adapter, temperature=t).stream() for t in (0, 2.0))
    for stream in (warm, hot):
        stream.read(recording(12)[0])
    one, other = (np.log(stream.score(np.zeros(3, int))) for stream in (warm, hot))
    np.testing.assert_allclose(np.diff(other), np.diff(one) / 2, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_that_cannot_be_believed_is_one_line(kind, fault, toy, url, tokenizer, adapter):
    judge = served(kind, url, tokenizer, adapter)
    toy.fault, words = FAULTS[fault]
    stream = judge.stream()
    stream.read(recording(12)[0])
    with pytest.raises(ServerFault, match=words) as caught:
        stream.score(np.zeros(12, int))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    toy.fault = lambda answer: answer
    assert stream.score(np.zeros(12, int)).shape == (12, CLASSES), "the stream goes on"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["meta_info", "choices", "logprobs", "top_logprobs", "index", "x"]), inner)
    ),
    max_leaves=12,
)


class Saying:
    """A server that answers one thing."""

    url = "nowhere"

    def __init__(self, answer):
        self.answer = answer

    def ask(self, path, body=None):
        return self.answer


@given(JSON, st.sampled_from(["score", "choices", "generate"]))
@settings(max_examples=200)
def test_whatever_a_server_answers_is_rows_or_one_line(answer, wrapped):
    script = Script(byte_tokenizer())
    letters = script.alphabet.tolist()
    said = {
        "score": answer,
        "choices": {"choices": [{"index": 0, "logprobs": {"tokens": [answer], "top_logprobs": [answer] * 3}}]},
        "generate": [{"meta_info": dict.fromkeys(["input_token_ids_logprobs", "input_token_logprobs"], [answer] * 2)}],
    }[wrapped]
    server = Saying(said)
    for dialect in (SGLang(server, letters), VLLM(server, letters, "m"), OpenAI(server, script, "m")):
        session = ServedEngine(dialect, letters).open()
        for ask in (partial(session.rows, [1], [Branch([[2]], [])]), partial(session.next, [1])):
            try:
                ask()
            except ServerFault as fault:
                assert len(str(fault).splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_fails_for_a_moment_is_asked_again(kind, toy, url, tokenizer, adapter):
    stream = served(kind, url, tokenizer, adapter).stream()
    stream.read(recording(12)[0])
    for name in ("failures", "cuts"):
        asked = len(toy.requests)
        setattr(toy, name, 2)
        assert np.isfinite(stream.score(np.zeros(12, int))).all()
        assert len(toy.requests) == asked + 3
    toy.failures = 9
    with pytest.raises(ServerFault, match=r"status 500 \(\{.error.: .out.nof memory"):
        stream.score(np.zeros(12, int))
    assert toy.failures == 6
    toy.failures, toy.cuts = 0, 9
    with pytest.raises(Unreachable, match="does a server listen there"):
        stream.score(np.zeros(12, int))


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_hangs_costs_its_time_once_and_no_verdict(kind, toy, url, tokenizer, adapter):
    stream = served(kind, url, tokenizer, adapter, timeout_s=3.0).stream()
    evidence = recording(12)[0]
    stream.read(evidence)
    asked = len(toy.requests)
    toy.answers.clear()
    draft = DraftPlan(evidence.probe, evidence.probe.max(axis=1), np.zeros(12, np.float32))
    verdict = verify_chunk(stream, draft, EXACT, ChunkContext())
    toy.answers.set()
    assert verdict.fallbacks == 12 and "no answer within 3 s" in verdict.faults[0]
    assert len(toy.requests) == asked + 1, "a time-out is not sent again"


def test_nobody_there_is_one_line(tokenizer, adapter):
    with nobody_listening() as gone:
        for kind in KINDS:
            for address in (gone, "http://127.0.0.1:99999", "http://a..b"):
                with pytest.raises(InputError, match=r"does a server listen there|is no address") as caught:
                    served(kind, address, tokenizer, adapter, retries=0)
                assert "\n" not in str(caught.value)


def test_a_key_comes_from_the_environment_alone(url, tokenizer, adapter, monkeypatch):
    monkeypatch.delenv("TOY_KEY", raising=False)
    with pytest.raises(InputError, match="TOY_KEY is not set"):
        served("sglang", url, tokenizer, adapter, key_variable="TOY_KEY")


# ------------------------------------------------------------------------------------------------------- the probe


def shifted(answer):
    """Every place's log-probabilities one place late, lengths as they should be."""
    if isinstance(answer, list):
        rows = [one["meta_info"]["input_token_ids_logprobs"] for one in answer]
        for own in rows:
            own[1:] = [*own[2:], own[1]]
    return answer


def test_the_probe_lets_a_sound_judge_pass():
    assert probe.check_scores(tiny_reasoner()) < 1e-4


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda answer: spoiled(answer, lambda _: -5.0), "every letter is as likely"),
        (shifted, "otherwise than it wrote it"),
        (without_a_letter, "letters are missing"),
    ],
)
def test_the_probe_refuses_what_cannot_score(fault, words, toy, url, tokenizer, adapter):
    toy.fault = fault
    with pytest.raises(InputError, match=words):
        served("sglang", url, tokenizer, adapter)


def test_the_probe_refuses_a_server_of_another_model(toy, url, tokenizer, adapter):
    """It writes a letter that it scores low: what scores is not what writes."""

    class Contrary(ToyServer):
        def generate(self, body):
            answer = super().generate(body)
            if isinstance(answer, dict):  # it writes what it scores lowest
                rows = self.log_probabilities(body["input_ids"])[-1]
                letters = byte_tokenizer().encode(" X P F T D K C S N R A E I O U")
                worst = min(letters, key=lambda letter: rows[letter].item())
                answer["meta_info"]["output_token_logprobs"] = [[0.0, worst, None]]
            return answer

    with serving(Contrary()) as address, pytest.raises(InputError, match="scores another letter higher"):
        served("sglang", address, tokenizer, adapter)


def test_a_model_whose_attention_slides_is_refused():
    model = tiny_llama()
    model.config.sliding_window = 64
    with pytest.raises(InputError, match="slides over a window of 64 tokens"):
        LocalEngine(model, torch.arange(15), "sliding")


def test_a_branch_is_lines_and_answers():
    branch = Branch([[1, 2], [3], [4, 5]], [8, 9])
    assert branch.tokens == [1, 2, 8, 3, 9, 4, 5] and branch.ends == [2, 4, 7]
    assert replace(branch, last=True).ends == [7]
