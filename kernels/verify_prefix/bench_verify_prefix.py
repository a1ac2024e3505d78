"""Benchmark of verify_prefix: checked first, then against torch eager and torch.compile."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from kernels import timing
from kernels.verify_prefix import reference
from kernels.verify_prefix.triton_impl import VerifyPlan

LABEL = "real-shape"  # the distributions are made up
SHAPES = ((1, 12, 15), (8, 12, 15), (64, 12, 15), (1024, 12, 15), (1, 12, 32_000))  # batch, drafts, vocabulary


def make_call(batch: int, drafts: int, vocabulary: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A good draft: q near p, tokens drawn from q."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cuda")

    logits = 2 * normal(batch, drafts + 1, vocabulary)
    draft = (logits[:, :drafts] + 0.3 * normal(batch, drafts, vocabulary)).softmax(dim=2)
    tokens = torch.multinomial(draft.flatten(0, 1), 1, generator=generator).view(batch, drafts)
    uniforms = torch.rand(batch, drafts + 1, generator=generator, device="cuda")
    return {"target": logits.softmax(dim=2), "draft": draft, "draft_tokens": tokens.int(), "uniforms": uniforms}


def check(plan: VerifyPlan, call: dict[str, Tensor]) -> None:
    """RuntimeError unless kernel and reference give the same verdicts."""
    plan.accepted.fill_(-99)
    plan.token.fill_(-99)
    got, want = plan.sampled(**call), reference.verify_sampled(**call)
    same = (got.accepted == want.accepted) & (got.token == want.token)
    # Two float32 sums in another order may part at a token's boundary: rare, and never in the accepted length.
    if not torch.equal(got.accepted, want.accepted) or same.float().mean() < 0.995:
        raise RuntimeError(f"{tuple(call['draft'].shape)}: {int((~same).sum())} verdicts differ, no timing")


def run(
    result: dict,
    *,
    quick: bool,
    compile_budget_s: float,
    seconds_left: Callable[[], float],
    log: Callable[[str], None],
    save: Callable[[], None],
) -> None:
    """Fill ``result`` with rows of every shape and implementation."""
    ends = time.monotonic() + compile_budget_s
    flush = timing.flush_buffer()
    generator = torch.Generator("cuda").manual_seed(7)
    result["results"] = rows = []
    for batch, drafts, vocabulary in SHAPES[:2] if quick else SHAPES:
        if seconds_left() < 15:
            log(f"verify {batch} x {drafts} x {vocabulary}: no time left")
            continue
        call = make_call(batch, drafts, vocabulary, generator)
        plan = VerifyPlan(batch, drafts, vocabulary)
        check(plan, call)
        greedy = {name: call[name] for name in ("target", "draft_tokens")}
        calls = {
            "kernel": lambda p=plan, c=call: p.sampled(**c),
            "kernel, greedy": lambda p=plan, c=greedy: p.greedy(**c),
            "eager": lambda c=call: reference.verify_sampled(**c),
        }
        if time.monotonic() < ends:
            torch._dynamo.reset()
            compiled = torch.compile(reference.verify_sampled, mode="max-autotune-no-cudagraphs", dynamic=False)
            calls["compile"] = lambda f=compiled, c=call: f(**c)
            calls["compile"]()
        graphs = {name: timing.graph_of_calls([each]) for name, each in calls.items()}
        singles = {name: timing.captured([each]).replay for name, each in calls.items()}
        timings = {
            ("rotating graph", "warm"): timing.time_graphs(graphs),
            ("single graph", "cold"): timing.time_single(singles, flush, repeats=100),
            ("host call to ready", "warm"): {name: timing.time_host(each) for name, each in calls.items()},
        }
        shape = {"batch": batch, "drafts": drafts, "vocabulary": vocabulary}
        rows += [
            {**shape, "implementation": name, "method": method, "cache": cache, **seen.row()}
            for (method, cache), by_name in timings.items()
            for name, seen in by_name.items()
        ]
        shown = {
            r["implementation"]: r["median_us"] for r in rows[-len(calls) * 3 :] if r["method"] == "rotating graph"
        }
        log(f"verify {shape}: {shown}")
        save()
