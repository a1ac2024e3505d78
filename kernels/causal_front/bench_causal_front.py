"""A chunk through the causal front on this GPU: Triton's graph, the plain torch graph, with and without the latents.

``python -m kernels.causal_front.bench_causal_front OUT.json --commit HASH``. Gate first: the kernels must say what the
float64 reference says. Times are of one graph replay, by device events (the chip's time) and by the host's clock from
the rows' copy to the results' arrival; warm, as a stream's chunks are not (a chunk comes every 400 ms), and after a
sweep through a buffer larger than the L2 cache. Weights are random: real-shape.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from kernels import timing
from kernels.causal_front import reference
from kernels.causal_front.random_case import random_rows, random_weights
from kernels.causal_front.triton_impl import TILES, FrontPlan, Tile

SHAPES = {
    "1 block": {"blocks": 1}, "2 blocks": {"blocks": 2}, "2 blocks, narrow": {"blocks": 2, "heads": 4, "ffn": 1024},
    "4 blocks, 4 s (ears)": {"blocks": 4, "past": 200},
}  # fmt: skip
CHUNKS = (12, 8, 4)
TOLERANCE = 6e-2  # bf16, over 1 + largest
COEFFICIENTS, LATENT_384_PX = 64, 16 * 48 * 48
REPLAYS = 400


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Microseconds: median, 20th, 80th and 99th percentile."""
    names = {"p50_us": 50, "p20_us": 20, "p80_us": 80, "p99_us": 99}
    return {name: round(float(np.percentile(values, q)), 2) for name, q in names.items()}


def device_times(replay: Callable[[], None], flush: torch.Tensor | None) -> dict[str, float]:
    """Times of single replays by device events."""
    found = []
    for index in range(REPLAYS + 20):
        if flush is not None:
            flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        replay()
        end.record()
        end.synchronize()
        if index >= 20:
            found.append(1000 * begin.elapsed_time(end))
    return percentiles(found)


def host_times(call: Callable[[], None]) -> dict[str, float]:
    """Times of whole calls by the host's clock, results on the host."""
    found = []
    for index in range(REPLAYS + 20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        if index >= 20:
            found.append(1e6 * (time.perf_counter() - began))
    return percentiles(found)


def gate(front: reference.FrontWeights, plan: FrontPlan) -> float:
    """Largest error of the kernels over 1 + the largest value, over six chunks."""
    mel = random_rows(1, len(reference.new_rows(0, 72)), torch.Generator().manual_seed(7))
    want = reference.front_offline(mel.double(), front.to("cpu", torch.float64), [12] * 6)
    cache, logits = plan.new_cache("gate"), []
    for first in range(0, 72, 12):
        span = reference.new_rows(first, 12)
        said, cache = plan.front_chunk(
            mel[:, span.start : span.stop].cuda(), cache, stream="gate", first_frame=first, frames=12
        )
        logits.append(said.logits)
    error = (torch.cat(logits, dim=1).cpu() - want.logits).abs().max() / (1 + want.logits.abs().max())
    return float(error)


def torch_graph(front: reference.FrontWeights, frames: int) -> Callable[[], None]:
    """The reference in bf16, captured: what a plain port costs."""
    front = front.to("cuda", torch.bfloat16)
    cache = reference.new_cache(front, "torch")
    rows = len(reference.new_rows(36, frames))
    mel = torch.randn(1, rows, reference.MEL_BANDS, device="cuda") * 0.4
    cache = reference.replace(cache, next_frame=36, whole=torch.ones_like(cache.whole))
    layout = {"stream": "torch", "first_frame": 36, "frames": frames}

    def call() -> None:
        reference.front_chunk(mel, cache, front, **layout)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.inference_mode():
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        call()
    return graph.replay


def with_latents(plan: FrontPlan, cache, frames: int) -> Callable[[], None]:
    """The front's graph with slot pooling, W_c and the basis behind it, at 384 px, in one graph."""
    state, slots = cache.state, frames // 4
    layout = plan.layout(36, frames)
    w_coef = torch.randn(plan.hidden, COEFFICIENTS, device="cuda", dtype=torch.bfloat16) / 16
    basis = torch.randn(COEFFICIENTS, LATENT_384_PX, device="cuda", dtype=torch.bfloat16) / 8
    z0 = torch.randn(slots, LATENT_384_PX, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(z0)

    def call() -> None:
        plan._launch(state, layout)
        pooled = state.kept[:frames].unflatten(0, (slots, 4)).mean(dim=1)
        torch.addmm(z0, pooled @ w_coef, basis, out=out)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def started(plan: FrontPlan, frames: int) -> tuple:
    """A stream six chunks in, whose next chunk of ``frames`` is captured: its cache, rows and replay."""
    cache, mel = plan.new_cache("bench"), random_rows(1, 64, torch.Generator().manual_seed(2)).cuda()
    for first, count in [*((first, 12) for first in range(0, 72, 12)), (72, frames)]:
        rows = mel[:, : len(reference.new_rows(first, count))].contiguous()
        _, cache = plan.front_chunk(rows, cache, stream="bench", first_frame=first, frames=count)
    return cache, rows, cache.state.graphs[(frames, 0, False)].replay


def compare_tiles(rows: list[dict]) -> Tile:
    """Two blocks, 12 frames, cut in every way; the fastest."""
    front, medians = random_weights(2, torch.Generator().manual_seed(1)), {}
    for tile in TILES:
        plan = FrontPlan(front, dtype=torch.bfloat16, device="cuda", captured=True, tile=tile)
        error = gate(front, plan)
        if not error < TOLERANCE:
            raise SystemExit(f"{tile.label}: the kernels differ from the reference by {error}; nothing is timed")
        times = device_times(started(plan, CHUNKS[0])[2], None)
        medians[tile] = times["p50_us"]
        rows.append({"shape": "2 blocks", "frames": CHUNKS[0], "what": f"front; {tile.label}", "cache": "warm",
                     "error": error,
                     "label": "real-shape", **times})  # fmt: skip
        print(rows[-1], flush=True)
    return min(medians, key=medians.get)


def run(commit: str, out: Path) -> None:
    """All shapes and chunk lengths; written after every shape."""
    flush, rows = torch.empty(2**28, dtype=torch.int8, device="cuda"), []
    tile = compare_tiles(rows)
    for name, shape in SHAPES.items():
        front = random_weights(generator=torch.Generator().manual_seed(1), **shape)
        plan = FrontPlan(front, dtype=torch.bfloat16, device="cuda", captured=True, tile=tile)
        error = gate(front, plan)
        if not error < TOLERANCE:
            raise SystemExit(f"{name}: the kernels differ from the reference by {error}; nothing is timed")
        for frames in CHUNKS:
            cache, mel, replay = started(plan, frames)
            host, state, count = mel[0].cpu().pin_memory(), cache.state, mel.shape[1]

            def whole(replay=replay, state=state, host=host, count=count) -> None:
                state.mel[:count].copy_(host, non_blocking=True)
                replay()
                state.logits.cpu()

            row = {"shape": name, "frames": frames, "tile": tile.label, "error": error, "label": "real-shape"}
            calls = {"front": replay, "front and latents, 384 px": with_latents(plan, cache, frames)}
            for what, call in calls.items():
                for state_of_cache, buffer in (("warm", None), ("cold", flush)):
                    rows.append({**row, "what": what, "cache": state_of_cache, **device_times(call, buffer)})
            rows.append(
                {**row, "what": "front, host clock, rows in and logits out", "cache": "warm", **host_times(whole)}
            )
        write(out, commit, rows)
        for one in rows:
            if one["shape"] == name:
                print(name, one["frames"], one["what"], one["cache"], one["p50_us"], one["p99_us"], flush=True)
    for name in ("1 block", "2 blocks"):
        front = random_weights(generator=torch.Generator().manual_seed(1), **SHAPES[name])
        times = device_times(torch_graph(front, CHUNKS[0]), None)
        rows.append({"shape": name, "frames": CHUNKS[0], "what": "front, plain torch graph", "cache": "warm",
                     "label": "real-shape", **times})  # fmt: skip
        print(rows[-1], flush=True)
    write(out, commit, rows)


def write(out: Path, commit: str, rows: list[dict]) -> None:
    """The rows so far, with where they come from."""
    command = " ".join(["python -m kernels.causal_front.bench_causal_front", *sys.argv[1:]])
    provenance = timing.provenance(commit) | {"command": command, "label": "real-shape"}
    out.write_text(json.dumps({"provenance": provenance, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--commit", required=True)
    options = parser.parse_args(arguments)
    run(options.commit, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
