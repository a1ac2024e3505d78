"""Benchmark of project_latents: checked first, then against eager, torch.compile and cuBLAS, caches cold and warm.

Every version of `triton_impl.py` and what else the search tries are timed in turns, each gated by its own check; the
fastest then stands for the kernel. What is worth most comes first, and the result is saved after every part.
"""

import csv
import io
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from shutil import which

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import timing
from kernels.project_latents import reference
from kernels.project_latents.random_case import random_inputs, random_weights
from kernels.project_latents.reference import FRAMES_PER_SLOT, MEL_BANDS, WINDOW_MEL_FRAMES, ProjectionWeights
from kernels.project_latents.triton_impl import CONFIGS, HEADS, VERSIONS, Config, ProjectionPlan

LABEL = "real-shape"  # weights and buffers are random: times alone mean anything
HIDDEN, COEFFICIENTS = 1024, 64
SLOTS = (1, 3, 8, 32)
LATENTS = {"256px": 16 * 32 * 32, "384px": 16 * 48 * 48, "512px": 16 * 64 * 64, "720p": 16 * 90 * 160}
TOLERANCE = 1e-2  # bf16: see test_project_latents.py
# All that is timed beside each other.
TIMED = VERSIONS | {config.label: config for config in CONFIGS if config not in VERSIONS.values()}
COMPILED_SLOTS = (3, 8)  # torch.compile's autotuning takes up to half a minute a shape
SECONDS_TO_COMPILE, SECONDS_A_SHAPE, SECONDS_TO_PROFILE = 50, 15, 40
COUNTERS = {
    "duration_ns": "gpu__time_duration.sum",
    "dram_read_bytes": "dram__bytes_read.sum",
    "dram_write_bytes": "dram__bytes_write.sum",
    "dram_percent": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "sm_percent": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "occupancy_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
    "shared_wavefronts": "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum",
    "shared_conflicts": "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
}


def bytes_moved(slots: int, latent: int, *, hidden: int = HIDDEN, coefficients: int = COEFFICIENTS) -> dict[str, int]:
    """The fewest bytes a call must move: each input read once, each output written once."""
    frames = FRAMES_PER_SLOT * slots
    mel_frames = frames * 10 // 3 + WINDOW_MEL_FRAMES
    return {
        "basis": coefficients * latent * 2,
        "z0": slots * latent * 2,
        "latents": slots * latent * 2,
        "hidden_weights": hidden * (WINDOW_MEL_FRAMES * MEL_BANDS + HEADS.value + coefficients) * 2 + hidden * 4,
        "mel_and_plan": mel_frames * MEL_BANDS * 4 + frames * (reference.VISEMES + 2) * 4 + slots * coefficients * 4,
    }


@dataclass(frozen=True)
class Problem:
    """Buffer sets of one shape; every implementation works on the same ones."""

    slots: int
    region: str
    weights: list[ProjectionWeights]  # one basis a set; the small weights are shared
    inputs: list[tuple[Tensor, Tensor]]

    @property
    def bytes(self) -> int:
        return sum(bytes_moved(self.slots, LATENTS[self.region]).values())


def make_problem(slots: int, region: str) -> Problem:
    generator = torch.Generator("cuda").manual_seed(slots)
    latent = LATENTS[region]
    weights = random_weights(HIDDEN, COEFFICIENTS, latent, generator)
    sets = timing.rotation(sum(bytes_moved(slots, latent).values()))
    many = [replace(weights, basis=torch.randn_like(weights.basis) / 8) for _ in range(sets)]
    return Problem(slots, region, many, [random_inputs(slots, latent, generator, torch.bfloat16) for _ in many])


def kernel_calls(problem: Problem, config: Config | None = None) -> list[timing.Call]:
    """Calls of our kernel, one a buffer set, after the check that gates them."""
    frames = FRAMES_PER_SLOT * problem.slots
    plans = [ProjectionPlan(w, frames, config=config) for w in problem.weights]
    for _ in range(3):  # a streamed plan's two workspaces take turns: the third call finds the first one used
        check(problem, plans[0])
    return [lambda p=p, i=i: p(*i) for p, i in zip(plans, problem.inputs, strict=True)]


def check(problem: Problem, plan: ProjectionPlan) -> float:
    """Largest error over (1 + largest value) against float64; RuntimeError when it is above the tolerance."""
    mel, z0 = problem.inputs[0]
    for poisoned in (plan.latents, plan.logits, plan.confidence, plan.openness, plan.coefficients, plan.coef_operand):
        poisoned.fill_(float("nan"))
    got = plan(mel, z0)
    want = reference.project_latents(mel.double(), plan.frames, z0.double(), problem.weights[0].to(torch.float64))
    errors = [
        ((getattr(got, name).double() - getattr(want, name)).abs().max() / (1 + getattr(want, name).abs().max())).item()
        for name in ("logits", "confidence", "openness", "coefficients", "latents")
    ]
    if not max(errors) <= TOLERANCE:
        raise RuntimeError(
            f"{plan.config.label}, {problem.slots} slots, {problem.region}: error {max(errors):.2e}, no timing"
        )
    return max(errors)


def lean_chain(
    mel: Tensor,
    z0: Tensor,
    index: Tensor,
    w1: Tensor,
    b1: Tensor,
    w_viseme: Tensor,
    b_viseme: Tensor,
    temperature: Tensor,
    w_open: Tensor,
    b_open: Tensor,
    w_coef: Tensor,
    basis: Tensor,
) -> tuple[Tensor, ...]:
    """The same result without the NaN policy, in as few torch operations as it takes: addmm adds z0 in cuBLAS."""
    window = F.pad(mel, (0, 0, 0, 1))[index].to(w1.dtype).flatten(1)
    hidden = torch.tanh(torch.addmm(b1, window, w1))
    logits = torch.addmm(b_viseme, hidden, w_viseme).float() / temperature
    openness = torch.sigmoid(torch.addmm(b_open, hidden, w_open))
    pooled = hidden.view(len(z0), FRAMES_PER_SLOT, -1).mean(dim=1)
    return logits, logits.softmax(dim=1).amax(dim=1), openness, torch.addmm(z0, pooled @ w_coef, basis)


def lean_weights(w: ProjectionWeights) -> tuple[Tensor | None, ...]:
    return (w.w1, w.b1, w.w_viseme, w.b_viseme, w.temperature, w.w_open, w.b_open, w.w_coef, w.basis)


def baseline_calls(problem: Problem, compile_seconds_left: Callable[[], float]) -> dict[str, list[timing.Call]]:
    """Calls of eager, cuBLAS + pointwise and torch.compile (max-autotune), all in bf16 on the same buffer sets."""
    frames = FRAMES_PER_SLOT * problem.slots
    halves = [w.to(torch.bfloat16) for w in problem.weights]
    row = reference.window_start_mel_frame(torch.arange(frames, device="cuda"))[:, None]
    row = row + torch.arange(WINDOW_MEL_FRAMES, device="cuda")
    mel_frames = len(problem.inputs[0][0])
    index = torch.where((row >= 0) & (row < mel_frames), row, mel_frames)
    pairs = list(zip(halves, problem.inputs, strict=True))
    calls = {
        "eager": [lambda w=w, i=i: reference.project_latents(i[0], frames, i[1], w) for w, i in pairs],
        "cublas": [lambda w=w, i=i: lean_chain(*i, index, *lean_weights(w)) for w, i in pairs],
    }
    if compile_seconds_left() > 0:
        torch._dynamo.reset()
        compiled = torch.compile(lean_chain, mode="max-autotune-no-cudagraphs", dynamic=False)
        calls["compile"] = [lambda w=w, i=i: compiled(*i, index, *lean_weights(w)) for w, i in pairs]
        calls["compile"][0]()
    return calls


def measure_shape(
    problem: Problem, config: Config, compile_seconds_left: Callable[[], float], flush: Tensor
) -> list[dict]:
    """Rows of one shape: every implementation, cold and warm, in a rotating graph and singly."""
    calls = {"kernel": kernel_calls(problem, config), **baseline_calls(problem, compile_seconds_left)}
    shape = {
        "slots": problem.slots,
        "region": problem.region,
        "latent": LATENTS[problem.region],
        "bytes": problem.bytes,
    }
    singles = {name: timing.captured(each[:1]).replay for name, each in calls.items()}
    timings = {
        ("rotating graph", "cold"): timing.time_graphs({n: timing.graph_of_calls(c) for n, c in calls.items()}),
        ("rotating graph", "warm"): timing.time_graphs({n: timing.graph_of_calls(c[:1]) for n, c in calls.items()}),
        ("single graph", "cold"): timing.time_single(singles, flush),
        ("single graph", "warm"): timing.time_single(singles, None),
        ("single stream", "cold"): timing.time_single({n: c[0] for n, c in calls.items()}, flush, repeats=100),
        ("host call to ready", "warm"): {n: timing.time_host(c[0]) for n, c in calls.items()},
        ("host graph to ready", "warm"): {n: timing.time_host(c) for n, c in singles.items()},
    }
    return [
        {**shape, "implementation": name, "method": method, "cache": cache, **seen.row(),
         "gb_per_s": round(problem.bytes / seen.median_us / 1e3, 1)}
        for (method, cache), by_name in timings.items()
        for name, seen in by_name.items()
    ]  # fmt: skip


def compiled_facts(problem: Problem, config: Config) -> dict[str, dict]:
    """What this machine's compiler made of a config's launches."""
    plan = ProjectionPlan(problem.weights[0], FRAMES_PER_SLOT * problem.slots, config=config)
    mel, z0 = problem.inputs[0]
    launches = {
        "launch 1": plan._launch_draft(mel, 0, 0),
        "launch 2": plan._launch_stream(z0) if plan.streamed else plan._launch_latents(z0),
    }
    return {
        name: {"registers": kernel.n_regs, "spills": kernel.n_spills, "shared_bytes": kernel.metadata.shared}
        for name, kernel in launches.items()
    }


def measure_configs(problem: Problem, configs: dict[str, Config]) -> list[dict]:
    """Rotating-graph time, cold, of several launch geometries; twice over, so that the spread is known.

    A config that its check, its compiler or the device refuses says so in its row, and the others are measured.
    """
    graphs, facts, refused = {}, {}, {}
    for name, config in configs.items():
        try:
            graphs[name] = timing.graph_of_calls(kernel_calls(problem, config))
            facts[name] = compiled_facts(problem, config)
        except Exception as error:
            graphs.pop(name, None)
            refused[name] = repr(error)[:500]
    first, second = timing.time_graphs(graphs), timing.time_graphs(graphs)
    shape = {"slots": problem.slots, "region": problem.region}
    rows = [
        {"name": name, **shape, **asdict(configs[name]), **first[name].row(),
         "again_median_us": round(second[name].median_us, 3),
         "gb_per_s": round(problem.bytes / first[name].median_us / 1e3, 1), "compiled": facts[name]}
        for name in graphs
    ]  # fmt: skip
    return rows + [{"name": name, **shape, "failed": why} for name, why in refused.items()]


def stages(problem: Problem) -> list[dict]:
    """Where the time goes: each launch alone, in a rotating graph; enough sets that launch 1's 3 MB are cold too."""
    frames = FRAMES_PER_SLOT * problem.slots
    alone = {"early_launch": False, "prefetch": False}
    plain, streamed = replace(VERSIONS["v3 L2 prefetch"], **alone), replace(CONFIGS[0], **alone)
    small = replace(problem.weights[0], basis=problem.weights[0].basis[:, :4096].contiguous())
    mel = problem.inputs[0][0]
    calls = {}
    for kind, config in (("", plain), (", lean", streamed)):
        plans = [ProjectionPlan(small, frames, config=config) for _ in range(timing.MAX_ROTATION)]
        drafts = [lambda p=p: p._launch_draft(mel, 0, 0) for p in plans]
        calls |= {f"launch 1 alone, cold{kind}": drafts, f"launch 1 alone, warm{kind}": drafts[:1]}
    for kind, config in (("", plain), (", streamed", streamed)):
        plans = [ProjectionPlan(w, frames, config=config) for w in problem.weights]
        pairs = zip(plans, problem.inputs, strict=True)
        if config.stream_kib:
            latents = [lambda p=p, i=i: p._launch_stream(i[1]) for p, i in pairs]
        else:
            latents = [lambda p=p, i=i: p._launch_latents(i[1]) for p, i in pairs]
        calls |= {f"launch 2 alone, cold{kind}": latents, f"launch 2 alone, warm{kind}": latents[:1]}
    calls["empty kernel"] = [torch.zeros(1, device="cuda").zero_]
    seen = timing.time_graphs({name: timing.graph_of_calls(each) for name, each in calls.items()})
    return [{"stage": n, "slots": problem.slots, "region": problem.region, **t.row()} for n, t in seen.items()]


def profile(name: str, seconds: float) -> dict:
    """Hardware counters of one call at 720p, 8 slots, from Nsight Compute; or why there are none."""
    ncu = which("ncu")
    if ncu is None:
        return {"missing": "ncu is not installed"}
    command = [ncu, "--clock-control", "none", "--csv", "--metrics", ",".join(COUNTERS.values()), "--kernel-name",
               "regex:draft_kernel|latents_kernel|stream_kernel",
               "--launch-skip", "4", "--launch-count", "2",
               sys.executable, "-m", "kernels.project_latents.bench_project_latents", name]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"missing": f"ncu took longer than {seconds:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    names = {metric: name for name, metric in COUNTERS.items()}
    counters: dict[str, dict] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        if row.get("Metric Name") in names:
            kernel = counters.setdefault(row["Kernel Name"].split("(")[0], {})
            kernel[names[row["Metric Name"]]] = f"{row['Metric Value']} {row['Metric Unit']}".strip()
    return counters or {"missing": (done.stdout + done.stderr)[-500:]}


def fastest(rows: list[dict]) -> str:
    """The config with the smallest median of both times it was timed, among those that were."""
    timed = [row for row in rows if "median_us" in row]
    return min(timed, key=lambda row: row["median_us"] + row["again_median_us"])["name"]


def run(
    result: dict,
    *,
    quick: bool,
    compile_budget_s: float,
    seconds_left: Callable[[], float],
    log: Callable[[str], None],
    save: Callable[[], None],
) -> None:
    """Fill ``result``, in the order of worth: a run that is cut off has the headline."""
    compile_ends = time.monotonic() + compile_budget_s
    flush = timing.flush_buffer()
    headline = make_problem(8, "720p")
    result["error"] = check(headline, ProjectionPlan(headline.weights[0], 32))
    log(f"check is green: error {result['error']:.1e}")
    result["byte_floor"] = {f"{region} {s}": bytes_moved(s, d) for region, d in LATENTS.items() for s in SLOTS}
    result["copy"] = [timing.copy_bandwidth(size) for size in (4 << 30, headline.bytes)]
    empty = timing.captured([torch.zeros(1, device="cuda").zero_]).replay
    result["empty_kernel_between_events"] = timing.time_single({"empty": empty}, flush)["empty"].row()
    log(
        f"copy: {result['copy'][0]['gb_per_s']} GB/s for 4 GiB, {result['copy'][1]['gb_per_s']} for the headline's size"
    )
    result.update(configs=[], versions=[], results=[], config={}, profile={})

    def search(region: str, slots: int) -> None:
        problem = headline if (region, slots) == ("720p", 8) else make_problem(slots, region)
        rows = measure_configs(problem, TIMED)
        result["configs"] += rows
        result["versions"] += [row for row in rows if row["name"] in VERSIONS]
        result["config"][str(slots)] = fastest(rows)
        for row in rows:
            again = row.get("failed") or f"{row['median_us']} ({row['again_median_us']}) us {row['compiled']}"
            log(f"  {region} {slots} slots {row['name']}: {again}")
        save()

    def shape(region: str, slots: int) -> None:
        if seconds_left() < SECONDS_A_SHAPE:
            log(f"{region} {slots} slots: no time left")
            return
        problem = headline if (region, slots) == ("720p", 8) else make_problem(slots, region)
        if problem is not headline:
            result["copy"].append(timing.copy_bandwidth(problem.bytes))
        may_compile = slots in COMPILED_SLOTS and seconds_left() > SECONDS_TO_COMPILE
        compile_seconds = lambda: compile_ends - time.monotonic() if may_compile else 0.0  # noqa: E731
        rows = measure_shape(problem, TIMED[result["config"][str(8 if slots <= 16 else 32)]], compile_seconds, flush)
        result["results"] += rows
        cold = [r for r in rows if (r["method"], r["cache"]) == ("rotating graph", "cold")]
        log(f"{region} {slots} slots, cold: { {r['implementation']: r['median_us'] for r in cold} }")
        save()

    search("720p", 8)
    result["stages"] = stages(headline)
    for row in result["stages"]:
        log(f"  {row['stage']}: {row['median_us']} us")
    save()
    shape("720p", 8)
    if quick:
        return
    search("720p", 32)
    for slots in (32, 3, 1):
        shape("720p", slots)
    for name in dict.fromkeys((result["config"]["8"], "v3 L2 prefetch")):
        if seconds_left() > SECONDS_TO_PROFILE:
            result["profile"][name] = profile(name, seconds=30)
            log(f"profile of {name}: {result['profile'][name]}")
            save()
    for slots in (8, 3, 32, 1):  # a count's products are tuned once: of a second region only the last one is new
        for region in ("384px", "256px", "512px"):
            shape(region, slots)


def profiled_calls(name: str) -> None:
    """What ncu runs: three calls, of which it reads the last."""
    problem = make_problem(8, "720p")
    plan = ProjectionPlan(problem.weights[0], 32, config=TIMED[name])
    for _ in range(3):
        plan(*problem.inputs[0])
    torch.cuda.synchronize()


if __name__ == "__main__":
    profiled_calls(sys.argv[1])
