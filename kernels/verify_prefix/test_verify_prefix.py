"""verify_prefix: hand-written tables, Triton against the reference, the output's distribution against the target's."""

from random import Random

import pytest
import torch
from scipy import stats

from kernels.verify_prefix import NO_TOKEN, reference, verify_greedy, verify_sampled
from kernels.verify_prefix.triton_impl import VerifyPlan

CUDA = torch.cuda.is_available()
BACKENDS = ["torch", "triton"]


def one_hot(tokens: list[int], vocabulary: int = 4) -> torch.Tensor:
    """[1, T, V] probabilities with all mass on the given tokens."""
    return torch.nn.functional.one_hot(torch.tensor([tokens]), vocabulary).float()


def tensors(device, **values):
    return {name: value.to(device) for name, value in values.items()}


# target's tokens (T + 1 of them: the last is the bonus), drafts, gate -> accepted, token
MISMATCHES = [
    ("all kept, bonus", [1, 2, 3, 0], [1, 2, 3], [1, 1, 1], 3, 0),
    ("first wrong", [1, 2, 3, 0], [2, 2, 3], [1, 1, 1], 0, 1),
    ("middle wrong", [1, 2, 3, 0], [1, 3, 3], [1, 1, 1], 1, 2),
    ("last wrong", [1, 2, 3, 0], [1, 2, 2], [1, 1, 1], 2, 3),
    ("right again after a wrong one", [1, 2, 3, 0], [0, 2, 3], [1, 1, 1], 0, 1),
    ("gate closed at once", [1, 2, 3, 0], [1, 2, 3], [0, 1, 1], 0, 1),
    ("gate closed in the middle", [1, 2, 3, 0], [1, 2, 3], [1, 0, 1], 1, 2),
    ("wrong before the gate", [1, 2, 3, 0], [0, 2, 3], [1, 0, 1], 0, 1),
    ("all kept, no row for a bonus", [1, 2, 3], [1, 2, 3], [1, 1, 1], 3, NO_TOKEN),
    ("token past the vocabulary", [1, 2, 3, 0], [1, 9, 3], [1, 1, 1], 1, 2),
    ("negative token", [1, 2, 3, 0], [-1, 2, 3], [1, 1, 1], 0, 1),
    ("one draft", [2, 1], [2], [1], 1, 1),
]


@pytest.mark.parametrize("rule", ["greedy", "sampled"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("best", "drafts", "gate", "accepted", "token"), [m[1:] for m in MISMATCHES], ids=[m[0] for m in MISMATCHES]
)
def test_mismatch_table(rule, backend, best, drafts, gate, accepted, token, device):
    """With one-hot distributions both rules give the same, known answer."""
    call = tensors(
        device,
        target=one_hot(best),
        draft_tokens=torch.tensor([drafts], dtype=torch.int32),
        gate=torch.tensor([gate], dtype=torch.bool),
    )
    if rule == "sampled":
        known = [min(max(d, 0), 3) for d in drafts]
        call |= tensors(device, draft=one_hot(known), uniforms=torch.full((1, len(drafts) + 1), 0.5))
    verdict = (verify_greedy if rule == "greedy" else verify_sampled)(**call, backend=backend)
    assert (verdict.accepted.item(), verdict.token.item()) == (accepted, token)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("uniform", "level", "accepted", "token"),
    [(0.49, 0.0, 1, 0), (0.5, 0.0, 0, 1), (0.9, 0.24, 0, 1), (0.9, 0.26, 0, 2), (0.9, 0.999, 0, 2)],
    ids=["kept", "not kept at equality", "recovered low", "recovered high", "recovered last"],
)
def test_ratio_and_residual_by_hand(backend, uniform, level, accepted, token, device):
    """p = (.4, .25, .35), q = (.8, .15, .05): token 0 is kept with 1/2; the residual (0, .1, .3) is 1/4 and 3/4."""
    target = torch.tensor([[[0.4, 0.25, 0.35], [1.0, 0.0, 0.0]]])
    call = tensors(
        device,
        target=target,
        draft=torch.tensor([[[0.8, 0.15, 0.05]]]),
        draft_tokens=torch.tensor([[0]], dtype=torch.int32),
        uniforms=torch.tensor([[uniform, level]]),
    )
    verdict = verify_sampled(**call, backend=backend)
    assert (verdict.accepted.item(), verdict.token.item()) == (accepted, token)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_never_committed(backend, device):
    target = torch.full((1, 3, 4), float("nan"))
    call = tensors(device, target=target, draft_tokens=torch.zeros(1, 2, dtype=torch.int32))
    greedy = verify_greedy(**call, backend=backend)
    call |= tensors(device, draft=torch.full((1, 2, 4), 0.25), uniforms=torch.zeros(1, 3))
    sampled = verify_sampled(**call, backend=backend)
    for verdict in (greedy, sampled):
        assert (verdict.accepted.item(), verdict.token.item()) == (0, NO_TOKEN)


def generated_cases(count: int) -> list[tuple[int, int, int, int]]:
    """(batch, drafts, vocabulary, bonus rows) around the block sizes, drawn with a fixed seed."""
    draw = Random(5)
    batches, drafts, vocabularies = (
        [1, 2, 7],
        [1, 2, 3, 11, 12, 16, 31, 32],
        [1, 2, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025],
    )
    return [
        (draw.choice(batches), draw.choice(drafts), draw.choice(vocabularies), draw.choice([0, 1]))
        for _ in range(count)
    ]


def generated_call(batch, drafts, vocabulary, bonus, generator):
    """A draft that is often right: q near p, tokens drawn from q, one gate in eight closed."""
    logits = torch.randn(batch, drafts + bonus, vocabulary, generator=generator) * 2
    noise = torch.randn(batch, drafts, vocabulary, generator=generator) * 0.4
    draft = (logits[:, :drafts] + noise).softmax(dim=2)
    tokens = torch.multinomial(draft.flatten(0, 1), 1, generator=generator).view(batch, drafts).int()
    return {
        "target": logits.softmax(dim=2),
        "draft": draft,
        "draft_tokens": tokens,
        "uniforms": torch.rand(batch, drafts + 1, generator=generator),
        "gate": torch.rand(batch, drafts, generator=generator) > 0.125,
    }


@pytest.mark.parametrize("rule", ["greedy", "sampled"])
@pytest.mark.parametrize("shape", generated_cases(60), ids=lambda s: "B{}-T{}-V{}-bonus{}".format(*s))
def test_generated_shape_matches_the_reference(rule, shape, device, generator):
    call = generated_call(*shape, generator)
    plan = VerifyPlan(*call["draft"].shape, device=device)
    plan.accepted.fill_(-99)
    plan.token.fill_(-99)
    if rule == "greedy":
        call = {name: call[name] for name in ("target", "draft_tokens", "gate")}
        expected = reference.verify_greedy(**call)
        verdict = plan.greedy(**tensors(device, **call))
    else:
        expected = reference.verify_sampled(**(call | {n: call[n].double() for n in ("target", "draft", "uniforms")}))
        verdict = plan.sampled(**tensors(device, **call))
    assert verdict.accepted.tolist() == expected.accepted.tolist()
    # The float32 sum runs in another order; no seed here puts a uniform within 1e-6 of a token's boundary.
    assert verdict.token.tolist() == expected.token.tolist()


def drafts_of(kind: str, target: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """q [T, V] of four qualities for p [T, V]."""
    if kind == "perfect":
        return target.clone()
    if kind == "good":
        return (target.log() + 0.3 * torch.randn(target.shape, generator=generator)).softmax(dim=1)
    if kind == "random":
        return torch.randn(target.shape, generator=generator).softmax(dim=1)
    return (-3 * target.log()).softmax(dim=1)  # adversarial: likes best what the target likes least


DRAWS, DRAFTS, VOCABULARY = 100_000, 3, 5


def many_draws(kind: str, device: torch.device, uniforms: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """p [T + 1, V], q [T, V], what was drawn from q [draws, T], and the call that judges it, so many uniforms each."""
    generator = torch.Generator().manual_seed(11)
    target = torch.randn(DRAFTS + 1, VOCABULARY, generator=generator).softmax(dim=1)
    draft = drafts_of(kind, target[:DRAFTS], generator)
    tokens = torch.stack([torch.multinomial(row, DRAWS, replacement=True, generator=generator) for row in draft], dim=1)
    call = tensors(
        device,
        target=target.expand(DRAWS, -1, -1).contiguous(),
        draft=draft.expand(DRAWS, -1, -1).contiguous(),
        draft_tokens=tokens.int(),
        uniforms=torch.rand(DRAWS, uniforms, generator=generator),
    )
    return target, draft, tokens, call


@pytest.mark.parametrize("kind", ["perfect", "good", "random", "adversarial"])
@pytest.mark.parametrize("gated", [False, True], ids=["open", "gated"])
def test_output_is_distributed_as_the_target(kind, gated, device):
    """100,000 draws: at every position, the tokens committed there follow p (chi-square, p > 0.001, fixed seed)."""
    target, draft, tokens, call = many_draws(kind, device, uniforms=DRAFTS + 1)
    if gated:
        call["gate"] = torch.tensor([True, False, True], device=device).expand(DRAWS, -1).contiguous()
    verdict = verify_sampled(**call, backend="triton" if CUDA else "torch")
    few = {name: value[:200].contiguous() for name, value in call.items()}
    assert torch.equal(verify_sampled(**few, backend="triton").token.cpu(), verdict.token[:200].cpu())
    accepted, token = verdict.accepted.cpu(), verdict.token.cpu()
    for position in range(DRAFTS + 1):
        committed = torch.cat(
            [tokens[accepted > position, position] if position < DRAFTS else tokens[:0, 0], token[accepted == position]]
        )
        if len(committed) < 1000:
            continue
        counts = torch.bincount(committed, minlength=VOCABULARY).numpy()
        assert (
            stats.chisquare(
                counts, target[position].double().numpy() / target[position].double().sum().item() * counts.sum()
            ).pvalue
            > 0.001
        )
    if kind == "perfect":
        assert (accepted == (1 if gated else DRAFTS)).all()
    first_kept = torch.minimum(target[0], draft[0]).sum().item()  # the overlap of p and q
    assert (accepted > 0).float().mean().item() == pytest.approx(first_kept, abs=0.006)  # 3.8 standard errors


def test_the_chi_square_can_fail(device):
    """Committing the draft unverified is caught: the test above is not empty."""
    generator = torch.Generator().manual_seed(11)
    target = torch.randn(5, generator=generator).softmax(dim=0)
    draft = drafts_of("good", target[None], generator)[0]
    counts = torch.bincount(torch.multinomial(draft, 100_000, replacement=True, generator=generator), minlength=5)
    assert (
        stats.chisquare(counts.numpy(), target.double().numpy() / target.double().sum().item() * 100_000).pvalue < 1e-6
    )


BAD_INPUTS = [
    ("no sequences", {"target": torch.zeros(0, 3, 4)}, "target: expected shape"),
    (
        "no drafts",
        {"draft_tokens": torch.zeros(2, 0, dtype=torch.int32)},
        "draft_tokens: expected shape [2, 'any > 0'], got [2, 0]",
    ),
    ("too few rows", {"target": torch.zeros(2, 1, 4)}, "expected 2 rows, or 3 for a bonus, got 1"),
    ("half precision", {"target": torch.zeros(2, 3, 4).half()}, "torch.float32, got torch.float16"),
    ("64-bit tokens", {"draft_tokens": torch.zeros(2, 2, dtype=torch.int64)}, "torch.int32, got torch.int64"),
    ("another vocabulary", {"draft": torch.zeros(2, 2, 5)}, "draft: expected shape [2, 2, 4], got [2, 2, 5]"),
    (
        "no uniform for the recovered token",
        {"uniforms": torch.zeros(2, 2)},
        "uniforms: expected shape [2, 3], got [2, 2]",
    ),
    ("integer gate", {"gate": torch.ones(2, 2, dtype=torch.int8)}, "torch.bool, got torch.int8"),
    ("strided draft", {"draft": torch.zeros(2, 2, 8)[:, :, ::2]}, "contiguous"),
    ("unknown backend", {"backend": "cpu"}, "'torch' or 'triton', got 'cpu'"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("change", "message"), [b[1:] for b in BAD_INPUTS], ids=[b[0] for b in BAD_INPUTS])
def test_bad_input_is_one_clear_line(backend, change, message, place):
    call = {
        "target": torch.full((2, 3, 4), 0.25),
        "draft": torch.full((2, 2, 4), 0.25),
        "draft_tokens": torch.zeros(2, 2, dtype=torch.int32),
        "uniforms": torch.zeros(2, 3),
        "gate": torch.ones(2, 2, dtype=torch.bool),
        "backend": backend,
    } | change
    call = {name: place(value) if isinstance(value, torch.Tensor) else value for name, value in call.items()}
    with pytest.raises(ValueError) as caught:
        verify_sampled(**call)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_a_cuda_graph_replays_new_inputs(device, generator):
    call = tensors(device, **generated_call(7, 12, 15, 1, generator))
    plan = VerifyPlan(7, 12, 15, device=device)
    plan.sampled(**call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.sampled(**call)
    for _ in range(20):
        fresh = generated_call(7, 12, 15, 1, generator)
        for name, value in fresh.items():
            call[name].copy_(value)
        graph.replay()
        expected = reference.verify_sampled(**fresh)
        assert plan.accepted.tolist() == expected.accepted.tolist() and plan.token.tolist() == expected.token.tolist()


def test_small_run(device, generator):
    """One odd shape for each rule: what the memory and race checkers are pointed at."""
    call = tensors(device, **generated_call(3, 5, 17, 1, generator))
    assert verify_sampled(**call, backend="triton").accepted.max() <= 5
    greedy = {name: call[name] for name in ("target", "draft_tokens", "gate")}
    assert verify_greedy(**greedy, backend="triton").accepted.max() <= 5
