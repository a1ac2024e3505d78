"""Timing on a GPU: CUDA graphs and events, caches cold or warm on purpose, every number with its spread.

Cold means that nothing a call reads is in L2. Two ways give it, and both are reported:

- *rotating*: one graph of many calls over buffer sets that together exceed the L2 several times over; the time of a
  replay over its calls. This is the device's time per call, without the cost of looking at a clock.
- *single*: L2 filled by reading an unrelated buffer, then one call between two events. It holds the events' own cost
  (about the time of an empty kernel, measured beside it), but it has a distribution: p99.
"""

import datetime
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
import triton

FLUSH_BYTES = 1 << 30
ROTATION_BYTES = 400 << 20  # several times the 50 to 126 MB of L2 on the chips in question
MAX_ROTATION = 64
BUSY_CYCLES = 600_000  # some 0.3 ms: longer than the host needs to enqueue any call here
Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Microseconds; n is the number of observations behind the percentiles."""

    median_us: float
    p20_us: float
    p80_us: float
    p99_us: float
    n: int

    @classmethod
    def of(cls, microseconds: Sequence[float]) -> "Timing":
        ordered = sorted(microseconds)
        at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
        return cls(statistics.median(ordered), at(0.2), at(0.8), at(0.99), len(ordered))

    def row(self) -> dict:
        return {name: round(value, 3) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class CallGraph:
    """Calls in a CUDA graph. A graph holds addresses, not tensors, so the calls stay beside it, with all they own."""

    graph: torch.cuda.CUDAGraph
    calls: tuple[Call, ...]
    count: int  # calls made by one replay

    def replay(self) -> None:
        self.graph.replay()


def captured(calls: Sequence[Call], turns: int = 1) -> CallGraph:
    """The calls, in turn and so many times over, as one CUDA graph; warmed up first."""

    def all_calls() -> None:
        for _ in range(turns):
            for call in calls:
                call()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            all_calls()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_calls()
    return CallGraph(graph, tuple(calls), turns * len(calls))


def rotation(bytes_per_set: int) -> int:
    """Buffer sets needed so that a set is out of L2 when its turn comes again."""
    return max(2, min(MAX_ROTATION, -(-ROTATION_BYTES // bytes_per_set)))


def graph_of_calls(calls: Sequence[Call], at_least: int = 24) -> CallGraph:
    """One graph that makes the calls in turn, at least so many of them."""
    return captured(calls, turns=-(-at_least // len(calls)))


def time_graphs(graphs: dict[str, CallGraph], rounds: int = 40) -> dict[str, Timing]:
    """Device time per call of several graphs, interleaved so that drift meets all of them alike."""
    seen: dict[str, list[float]] = {name: [] for name in graphs}
    for graph in graphs.values():
        graph.replay()
    for _ in range(rounds):
        events = {name: (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for name in graphs}
        for name, graph in graphs.items():
            events[name][0].record()
            graph.replay()
            events[name][1].record()
        torch.cuda.synchronize()
        for name, (start, end) in events.items():
            seen[name].append(start.elapsed_time(end) * 1e3 / graphs[name].count)
    return {name: Timing.of(values) for name, values in seen.items()}


def flush_buffer() -> torch.Tensor:
    return torch.ones(FLUSH_BYTES // 4, device="cuda")


def time_single(calls: dict[str, Call], flush: torch.Tensor | None, repeats: int = 300) -> dict[str, Timing]:
    """One call between two events, interleaved.

    Cold: ``flush`` is read first (never written: dirty lines cost bandwidth). Warm (``flush`` None): the same call came
    just before. Either way the device is busy while the host enqueues, so no launch cost is in the time.
    """
    seen: dict[str, list[tuple]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            if flush is None:
                torch.cuda._sleep(BUSY_CYCLES)
                call()
            else:
                flush.sum()
            start.record()
            call()
            end.record()
            seen[name].append((start, end))
    torch.cuda.synchronize()
    return {name: Timing.of([s.elapsed_time(e) * 1e3 for s, e in pairs]) for name, pairs in seen.items()}


def time_host(call: Call, repeats: int = 300) -> Timing:
    """From the host's call until the result is ready on the device."""
    for _ in range(10):
        call()
    torch.cuda.synchronize()
    seen = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seen.append((time.perf_counter() - start) * 1e6)
    return Timing.of(seen)


def copy_bandwidth(bytes_moved: int) -> dict:
    """Device-to-device copy that moves this many bytes (read plus written), buffers rotating: the measured ceiling.

    The faster of the driver's copy and an elementwise kernel. Inside a graph the driver may copy large buffers with a
    copy engine, which reaches less than two thirds of what the multiprocessors do.
    """
    half = max(4, bytes_moved // 8 * 4)
    large = bytes_moved >= ROTATION_BYTES
    sets = 2 if large else rotation(bytes_moved)
    pairs = [tuple(torch.ones(half // 4, device="cuda") for _ in range(2)) for _ in range(sets)]
    calls = {
        "driver's copy": [lambda pair=pair: pair[1].copy_(pair[0]) for pair in pairs],
        "elementwise kernel": [lambda pair=pair: torch.mul(pair[0], 1, out=pair[1]) for pair in pairs],
    }
    graphs = {name: graph_of_calls(each, at_least=2 if large else 24) for name, each in calls.items()}
    method, timing = min(time_graphs(graphs, rounds=20).items(), key=lambda each: each[1].median_us)
    gb_per_s = round(2 * half / timing.median_us / 1e3, 1)
    return {"bytes": 2 * half, "gb_per_s": gb_per_s, "method": method, **timing.row()}


def provenance(commit: str) -> dict:
    """What a measurement must say about where it comes from."""
    device = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    return {
        "gpu": device.name,
        "compute_capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "l2_mib": round(device.L2_cache_size / 2**20, 1),
        "memory_gib": round(device.total_memory / 2**30, 1),
        "driver": driver[0] if driver else "unknown",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit,
        "command": " ".join(["python", "-m", "kernels.bench_all", *sys.argv[1:]]),
    }
