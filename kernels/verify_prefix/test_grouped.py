"""Verification of groups: by hand, on both backends, on the distribution, and against the rules on single tokens."""

import pytest
import torch
from scipy import stats

from kernels.verify_prefix import NO_TOKEN, verify_greedy, verify_grouped_greedy, verify_grouped_sampled, verify_sampled
from kernels.verify_prefix.grouped import by_group, group_of
from kernels.verify_prefix.test_verify_prefix import (
    BACKENDS,
    CUDA,
    DRAFTS,
    VOCABULARY,
    generated_call,
    generated_cases,
    many_draws,
    tensors,
)

GROUPS = torch.tensor([0, 0, 1, 2])

# p over 4 tokens (the last row is the bonus), groups {0, 1}, {2}, {3}; drafts, gate -> accepted, token
SPLIT = [0.3, 0.25, 0.4, 0.05]  # token 2 is the likeliest, its group is not: 0.55 against 0.4
ONE = [0.0, 0.0, 0.0, 1.0]
TABLE = [
    ("a token of the likeliest group stays", [SPLIT, ONE], [1], [1], 1, 3),
    ("the likeliest token of another group goes", [SPLIT, ONE], [2], [1], 0, 0),
    ("a closed gate takes the group's likeliest", [SPLIT, ONE], [1], [0], 0, 0),
    ("all kept, no row for a bonus", [SPLIT, ONE], [1, 3], [1, 1], 2, NO_TOKEN),
    ("token past the vocabulary", [SPLIT, ONE], [9], [1], 0, 0),
    ("negative token", [SPLIT, ONE], [-1], [1], 0, 0),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("p", "drafts", "gate", "accepted", "token"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE]
)
def test_greedy_table(backend, p, drafts, gate, accepted, token, device):
    call = tensors(
        device,
        target=torch.tensor([p]),
        draft_tokens=torch.tensor([drafts], dtype=torch.int32),
        groups=GROUPS,
        gate=torch.tensor([gate], dtype=torch.bool),
    )
    verdict = verify_grouped_greedy(**call, backend=backend)
    assert (verdict.accepted.item(), verdict.token.item()) == (accepted, token)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("drafted", "uniform", "level", "inside", "accepted", "token"),
    [
        (0, 0.74, 0.0, 0.0, 1, 3), (1, 0.74, 0.0, 0.0, 1, 3), (1, 0.76, 0.0, 0.0, 0, 2), (1, 0.76, 0.8, 0.0, 0, 3),
        (2, 0.5, 0.0, 0.0, 1, 3), (3, 0.5, 0.0, 0.0, 1, 3),
    ],
)  # fmt: skip
def test_ratio_and_residual_of_groups_by_hand(backend, drafted, uniform, level, inside, accepted, token, device):
    """P = (.6, .25, .15), Q = (.8, .15, .05): group 0 is kept with 3/4 whichever token; the residual (0, .1, .1)."""
    call = tensors(
        device,
        target=torch.tensor([[[0.35, 0.25, 0.25, 0.15], ONE]]),
        draft=torch.tensor([[[0.1, 0.7, 0.15, 0.05]]]),
        draft_tokens=torch.tensor([[drafted]], dtype=torch.int32),
        groups=GROUPS,
        uniforms=torch.tensor([[uniform, level, inside]]),
    )
    verdict = verify_grouped_sampled(**call, backend=backend)
    assert (verdict.accepted.item(), verdict.token.item()) == (accepted, token)


@pytest.mark.parametrize("rule", ["greedy", "sampled"])
@pytest.mark.parametrize("shape", generated_cases(12), ids=lambda s: "B{}-T{}-V{}-bonus{}".format(*s))
def test_generated_shape_is_the_same_on_both_backends(rule, shape, device, generator):
    vocabulary = shape[2]
    call = generated_call(*shape, generator)
    call["groups"] = torch.randint(0, max(1, vocabulary // 3), (vocabulary,), generator=generator)
    call["uniforms"] = torch.rand(shape[0], shape[1] + 2, generator=generator)
    if rule == "greedy":
        call = {name: call[name] for name in ("target", "draft_tokens", "groups", "gate")}
    verify = verify_grouped_greedy if rule == "greedy" else verify_grouped_sampled
    one, other = (verify(**tensors(device, **call), backend=backend) for backend in BACKENDS)
    assert one.accepted.tolist() == other.accepted.tolist() and one.token.tolist() == other.token.tolist()


def test_groups_of_one_token_are_the_rules_on_tokens(generator):
    call = generated_call(64, 12, 15, 1, generator)
    groups, more = torch.arange(15), torch.rand(64, 1, generator=generator)
    plain = verify_sampled(**call, backend="torch")
    grouped = verify_grouped_sampled(
        **(call | {"uniforms": torch.cat([call["uniforms"], more], dim=1), "groups": groups}), backend="torch"
    )
    assert torch.equal(plain.accepted, grouped.accepted) and torch.equal(plain.token, grouped.token)
    greedy = {name: call[name] for name in ("target", "draft_tokens", "gate")}
    plain, grouped = (
        verify_greedy(**greedy, backend="torch"),
        verify_grouped_greedy(**greedy, groups=groups, backend="torch"),
    )
    assert torch.equal(plain.accepted, grouped.accepted) and torch.equal(plain.token, grouped.token)


@pytest.mark.parametrize("kind", ["perfect", "good", "random", "adversarial"])
def test_groups_are_distributed_as_the_targets_and_tokens_within_them_too(kind, device):
    """100,000 draws: groups committed at every position follow P; recovered tokens follow p within their group."""
    target, draft, tokens, call = many_draws(kind, device, uniforms=DRAFTS + 2)
    groups = torch.tensor([0, 1, 0, 2, 1])
    verdict = verify_grouped_sampled(**call, groups=groups.to(device), backend="triton" if CUDA else "torch")
    accepted, token = verdict.accepted.cpu(), verdict.token.cpu().long()
    wanted = by_group(target.double(), groups)
    for position in range(DRAFTS + 1):
        kept = groups[tokens[accepted > position, position]] if position < DRAFTS else tokens[:0, 0]
        committed = torch.cat([kept, groups[token[accepted == position]]])
        if len(committed) >= 1000:
            expected = wanted[position] / wanted[position].sum() * len(committed)
            assert stats.chisquare(torch.bincount(committed, minlength=3).numpy(), expected.numpy()).pvalue > 0.001
        for group in range(3):
            inside = token[(accepted == position) & (groups[token] == group)]
            members = torch.where(groups == group, target[position].double(), 0)
            expected = (members / members.sum() * len(inside))[groups == group].numpy()
            if len(inside) >= 1000 and len(expected) > 1:
                counts = torch.bincount(inside, minlength=VOCABULARY)[groups == group].numpy()
                assert stats.chisquare(counts, expected).pvalue > 0.001
    if kind == "perfect":
        assert (accepted == DRAFTS).all()
    first_kept = torch.minimum(by_group(target[0], groups), by_group(draft[0], groups)).sum().item()
    assert (accepted > 0).float().mean().item() == pytest.approx(first_kept, abs=0.006)  # 3.8 standard errors


def test_nan_counts_as_nothing_and_unknown_tokens_have_no_group(device):
    call = tensors(
        device,
        target=torch.full((1, 2, 4), float("nan")),
        draft_tokens=torch.zeros(1, 1, dtype=torch.int32),
        groups=GROUPS,
    )
    verdict = verify_grouped_greedy(**call, backend="torch")
    assert (verdict.accepted.item(), verdict.token.item()) == (0, NO_TOKEN)
    assert group_of(torch.tensor([-1, 0, 3, 4]), GROUPS).tolist() == [NO_TOKEN, 0, 2, NO_TOKEN]
    assert by_group(torch.tensor([0.5, float("nan"), -1.0, 0.25]), GROUPS).tolist() == [0.5, 0.0, 0.25]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": torch.tensor([0, 1, 2])}, "groups: expected 4 integers, got [3]"),
        ({"groups": torch.tensor([0.0, 0.0, 1.0, 2.0])}, "groups: expected 4 integers"),
        ({"groups": torch.tensor([-1, 0, 1, 2])}, "groups: expected numbers from 0 on, got -1"),
        ({"uniforms": torch.zeros(2, 3)}, "uniforms: expected shape [2, 4], got [2, 3]"),
        ({"draft_tokens": torch.zeros(2, 2, dtype=torch.int64)}, "torch.int32, got torch.int64"),
        ({"backend": "cpu"}, "'torch' or 'triton', got 'cpu'"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    call = {
        "target": torch.full((2, 3, 4), 0.25),
        "draft": torch.full((2, 2, 4), 0.25),
        "draft_tokens": torch.zeros(2, 2, dtype=torch.int32),
        "groups": GROUPS,
        "uniforms": torch.zeros(2, 4),
        "backend": "torch",
    } | change
    with pytest.raises(ValueError) as caught:
        verify_grouped_sampled(**call)
    assert message in str(caught.value) and "\n" not in str(caught.value)
