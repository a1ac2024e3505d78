"""int8: near what float32 says, and the same to the last bit however a text is read."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from specsync_lib import rows
from specsync_lib.errors import InputError
from specsync_lib.judge import int8
from specsync_lib.judge.engines.local import LocalEngine
from specsync_lib.judge.engines.session import Branch

LETTERS = torch.arange(15)
SIZES = dict(
    vocab_size=64, hidden_size=96, intermediate_size=160, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, head_dim=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def models():
    """The same model in float32 and in int8; gains unlike each other, as trained ones are."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval().requires_grad_(False)
        for name, weight in model.named_parameters():
            weight.mul_(8) if weight.ndim == 2 else weight.copy_(torch.rand_like(weight) + 0.5)
            if "down_proj" in name:
                weight.div_(8)
        made.append(model)
    return made[0], int8.quantised(made[1])


def text(tokens: int) -> list[int]:
    return torch.randint(64, (tokens,), generator=torch.Generator().manual_seed(tokens)).tolist()


def rows_of(session, beginning, line):
    """The rows after each token of a line."""
    return session.rows(beginning, [Branch([[token] for token in line[::2]], line[1:-1:2])])[0]


def test_a_row_is_the_same_however_its_text_is_read(models):
    engine, past = LocalEngine(models[1], LETTERS), text(70)
    at_once = rows_of(engine.open(), past, line := text(41))
    for pieces in ([70], [0, 70], [69, 70], [3, 20, 50, 70]):
        session = engine.open()
        for end in pieces:
            if end:
                session.next(past[:end])
        rejected = rows_of(session, past, [*line[:9], *text(16)])
        again = rows_of(session.fork(), past, line)
        assert torch.equal(again, at_once)
        assert torch.equal(rejected[:5], at_once[:5])
    session = engine.open()  # token by token
    for end in range(1, 41, 2):
        (row,) = session.rows([*past, *line[: end - 1]], [Branch([[line[end - 1]]], [], last=True)])
        torch.testing.assert_close(row[0], at_once[end // 2], atol=1e-5, rtol=0)  # the head's own product


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_tokens_of_a_text_are_the_same_read_one_by_one(models, threads):
    """Fewer keys than a vector has lanes: torch adds them in another order than with masked ones behind them."""
    before, model = torch.get_num_threads(), models[1].base_model
    torch.set_num_threads(threads)
    try:
        for seed in range(40):
            ids = torch.randint(64, (1, 24), generator=torch.Generator().manual_seed(seed))
            cache, one_by_one = None, []
            for token in ids[0]:
                output = model(input_ids=token.view(1, 1), past_key_values=cache)
                cache = output.past_key_values
                one_by_one.append(output.last_hidden_state[0])
            assert torch.equal(torch.cat(one_by_one), model(input_ids=ids).last_hidden_state[0]), seed
    finally:
        torch.set_num_threads(before)


def test_it_says_nearly_what_float32_says(models):
    plain, small = (rows_of(LocalEngine(model, LETTERS).open(), text(70), text(41)) for model in models)
    assert 0 < (plain - small).std() < 0.1 * plain.std()


def test_branches_of_one_pass_are_each_read_as_if_alone(models):
    engine, past = LocalEngine(models[1], LETTERS), text(30)
    branches = [Branch([[1, 2], [3]], [4]), Branch([[1, 2], [3]], [5]), Branch([[1, 2], [3]], [6])]
    for branch, together in zip(branches, engine.open().rows(past, branches), strict=True):
        torch.testing.assert_close(engine.open().rows(past, [branch])[0], together, atol=0.05, rtol=0)


def test_sums_on_grids_stay_exact(models):
    """The bound that a grid rests on: no sum of products reaches 2^24 grid units."""
    for layer in models[1].base_model.layers:
        x = 1e3 * torch.randn(64, 96, generator=torch.Generator().manual_seed(1))
        values, scale = layer.heard(x)
        heads = (layer.qkv(values) * scale).view(64, -1, 32)
        query, key, value = heads.split([6, 2, 2], dim=1)
        assert query.norm(dim=-1).max() * key.norm(dim=-1).max() < int8.EXACT
        assert int8.SHARES * int8.ROUNDED_UP * value.abs().max() < int8.EXACT
        assert layer.qkv.weight.abs().max() == int8.most()


def test_a_processor_whose_pairs_saturate_gets_seven_bits(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: torch.full((2, 2), 64 * 32767 // 2))
    assert int8.most() == int8.SEVEN_BITS


def test_what_it_is_not_made_for_is_refused():
    qwen = Qwen2ForCausalLM(Qwen2Config(**{name: size for name, size in SIZES.items() if name != "head_dim"}))
    with pytest.raises(InputError, match="made for Llama's layers, this is Qwen2Model"):
        int8.quantised(qwen)
    with pytest.raises(InputError, match="without biases"):
        int8.quantised(LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True)))
    with pytest.raises(InputError, match=r"from float32; got torch.bfloat16"):
        int8.quantised(LlamaForCausalLM(LlamaConfig(**SIZES)).to(torch.bfloat16))


def test_a_row_may_ask_for_int8():
    assert rows.Row().judge.dtype_on("cpu") == "float32"
    assert rows.Judge(dtype="int8").dtype_on("cpu") == "int8" and not rows.Judge(dtype="int8").repeats
