"""What a chunk costs: one denoising step and one decode of 3 slots, wan-mini and Wan 2.1's 1.3B, at several regions.

    python -m workbench.measure.wan_chunk --out FILE [--regions 256 384 512] [--seconds 420] [--commit SHA] [--mini DIR]

Every call exists eager, compiled (torch.compile), in a CUDA graph, and as both. First each one's result is compared
with the eager one's; only calls that agree are timed, interleaved round by round so that drift meets all alike. The
file holds provenance, the checks and one row a call: median, p20, p80, n in milliseconds, from the host's call to the
result (eager calls are launch-bound at small sizes, and that is part of what they cost).

The 1.3B model has random weights (label real-shape); so has wan-mini unless ``--mini`` names a trained checkpoint
(label measured). On a machine without a GPU only eager calls are made.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from specsync_lib import provenance, units
from specsync_lib.errors import InputError
from specsync_lib.face import generation, wan
from specsync_lib.face.wan_mini import Size
from specsync_lib.files import write_text
from specsync_lib.units import SLOTS_PER_CHUNK
from workbench.measure.shape_wan import ShapeDecoder, build_transformer, build_vae
from workbench.measure.shapes import FULL, TINY, Shapes, captured

WARM_UPS = 3
COMPILE_SECONDS = 75.0  # no compilation begins with less left
TOLERANCE = {torch.bfloat16: 0.06, torch.float32: 5e-3}  # of the largest value of an eager result
MINI_SIZE, MINI_BASE_DIM = Size(), 16


def mini_shapes() -> Shapes:
    """wan-mini's architecture in :class:`shapes.Shapes`."""
    size = MINI_SIZE
    transformer = FULL.transformer | {
        "num_attention_heads": size.heads,
        "attention_head_dim": size.head_dim,
        "in_channels": generation.INPUT_CHANNELS,
        "text_dim": generation.TOKEN_FEATURES,
        "freq_dim": 128,
        "ffn_dim": size.ffn,
        "num_layers": size.layers,
        "rope_max_seq_len": 64,
    }
    vae = FULL.vae | {"base_dim": MINI_BASE_DIM}
    return replace(FULL, name="mini", transformer=transformer, vae=vae, condition_tokens=generation.TOKENS)


@dataclass
class Call:
    """One thing to time. ``run`` gives the result that is compared with the eager call's."""

    model: str
    region_px: int
    stage: str
    mode: str
    label: str
    run: Callable[[], Tensor]


class BlockSwitch:
    """A transformer whose identical blocks run compiled or not, by turns; they share one compilation."""

    def __init__(self, transformer: nn.Module) -> None:
        self.blocks = list(transformer.blocks)
        self._compiled = [torch.compile(block._call_impl, dynamic=False) for block in self.blocks]

    @contextmanager
    def compiled(self, on: bool) -> Iterator[None]:
        for block, call in zip(self.blocks, self._compiled, strict=True):
            block._compiled_call_impl = call if on else None
        try:
            yield
        finally:
            for block in self.blocks:
                block._compiled_call_impl = None


class Bench:
    """Builds, checks and times all calls within a budget; what fails becomes a row that says why."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.ends_at = device, time.monotonic() + seconds
        self.calls: list[Call] = []
        self.rows: list[dict] = []

    @property
    def seconds_left(self) -> float:
        return self.ends_at - time.monotonic()

    def modes(self) -> list[str]:
        return ["eager", "graph", "compiled", "compiled graph"] if self.device.type == "cuda" else ["eager"]

    def add_model(self, name: str, shapes: Shapes, regions: list[int], dtype: torch.dtype, mini: Path | None) -> None:
        """All calls of one model.

        Raises
        ------
        InputError: the GPU's memory does not hold the model.
        """
        label = "measured" if mini else "real-shape"
        try:
            if mini:
                transformer = wan.load_transformer(mini, dtype=dtype, device=self.device)
                vae = wan.load_vae(mini, dtype=dtype, device=self.device)
            else:
                transformer, vae = build_transformer(shapes, self.device, dtype), build_vae(shapes, self.device, dtype)
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(f"wan bench: the GPU's memory does not hold {name} in {dtype}; leave it out") from error
        for model in (transformer, vae):
            model.eval().requires_grad_(False)
        switch = BlockSwitch(transformer)
        for region in regions:
            self._add_denoise(name, label, shapes, region, transformer, switch)
            self._add_decode(name, label, shapes, region, vae)

    def _add_denoise(
        self, name: str, label: str, shapes: Shapes, region: int, transformer: nn.Module, switch: BlockSwitch
    ) -> None:
        like, side = transformer.proj_out.weight, region // units.PIXELS_PER_LATENT
        channels, features = shapes.transformer["in_channels"], shapes.transformer["text_dim"]
        x = torch.randn(1, channels, SLOTS_PER_CHUNK, side, side, device=self.device, dtype=like.dtype)
        words = torch.randn(1, shapes.condition_tokens, features, device=self.device, dtype=like.dtype)
        t = torch.full((1,), 500.0, device=self.device)

        def maker(compiled: bool) -> Callable[[], Tensor]:
            @torch.no_grad()
            def run() -> Tensor:
                with switch.compiled(compiled):
                    return transformer(x, t, words, return_dict=False)[0]

            return run

        self._add(name, region, "denoise step", label, maker, like.dtype)

    def _add_decode(self, name: str, label: str, shapes: Shapes, region: int, vae: nn.Module) -> None:
        like, side = vae.post_quant_conv.weight, region // units.PIXELS_PER_LATENT
        latents = torch.randn(
            1, units.LATENT_CHANNELS, SLOTS_PER_CHUNK, side, side, device=self.device, dtype=like.dtype
        )

        def maker(compiled: bool) -> Callable[[], Tensor]:
            decoder = ShapeDecoder(vae, shapes, latents, graphs=False, compiled=compiled)
            return lambda: decoder.run()[0]

        self._add(name, region, "decode 12 frames", label, maker, like.dtype)

    def _add(
        self,
        model: str,
        region: int,
        stage: str,
        label: str,
        maker: Callable[[bool], Callable[[], Tensor]],
        dtype: torch.dtype,
    ) -> None:
        """Every mode of a call, each checked against the eager one's result."""
        expected: Tensor | None = None
        for mode in self.modes():
            row = {"model": model, "region_px": region, "stage": stage, "mode": mode, "label": label}
            began = time.monotonic()
            try:
                if "compiled" in mode and self.seconds_left < COMPILE_SECONDS:
                    raise TimeoutError(f"not tried: {self.seconds_left:.0f} s left, a compilation may need more")
                run = maker("compiled" in mode)
                for _ in range(WARM_UPS):
                    result = run()
                if "graph" in mode:
                    run = captured(run, self.device)
                    result = run()
                result = result.float().clone()
                if expected is None:
                    expected = result
                error = float((result - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
                row |= {"prepared_s": round(time.monotonic() - began, 1), "relative_error": error}
                row["agrees"] = error <= TOLERANCE[dtype]
            except torch.cuda.OutOfMemoryError:
                sizes = f"{SLOTS_PER_CHUNK} slots of {region} px in {dtype}"
                row |= {"agrees": False, "error": f"the GPU's memory does not hold {sizes}; lower --regions"}
            except Exception as error:
                lines = str(error).strip().splitlines() or [""]
                row |= {"agrees": False, "error": f"{type(error).__name__}: {lines[0][:200]}"}
            self.rows.append(row)
            print(json.dumps(row), flush=True)
            if row["agrees"]:
                self.calls.append(Call(model, region, stage, mode, label, run))

    def time_all(self, rounds: int) -> None:
        """Interleaved rounds over all calls that agree, until the budget or the rounds are spent."""
        seen: dict[int, list[float]] = {k: [] for k in range(len(self.calls))}
        for turn in range(rounds):
            if turn >= 3 and self.seconds_left < 0:
                break
            for k, call in enumerate(self.calls):
                seen[k].append(self._once(call.run))
        for k, call in enumerate(self.calls):
            values = torch.tensor(seen[k], dtype=torch.float64)
            low, median, high = torch.quantile(values, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
            key = (call.model, call.region_px, call.stage, call.mode)
            row = next(r for r in self.rows if (r["model"], r["region_px"], r["stage"], r["mode"]) == key)
            row |= {"median_ms": median, "p20_ms": low, "p80_ms": high, "n": len(values)}

    def _once(self, run: Callable[[], Tensor]) -> float:
        """Milliseconds from the call to its result."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - began)


def measure(
    out: Path,
    regions: list[int],
    models: dict[str, tuple[Shapes, torch.dtype, Path | None]],
    seconds: float,
    commit: str,
) -> dict:
    """Check and time; write and return the measurement."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    bench = Bench(device, seconds)
    for name, (shapes, dtype, mini) in models.items():
        bench.add_model(name, shapes, regions, dtype, mini)
        gc.collect()
    bench.time_all(rounds=100)
    content = {
        "provenance": provenance.machine() | {"commit": commit or provenance.commit(), "unit": "ms, host to result"},
        "rows": bench.rows,
    }
    if device.type == "cuda":
        content["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    write_text(out, json.dumps(content, indent=1))
    return content


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.wan_chunk", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--regions", type=int, nargs="+", default=[256, 384, 512], help="sides in px, multiples of 16")
    parser.add_argument("--models", nargs="+", choices=["wan-mini", "wan-1.3b"], default=["wan-mini", "wan-1.3b"])
    parser.add_argument("--mini", type=Path, help="a trained wan-mini (default: its shapes with random weights)")
    parser.add_argument("--seconds", type=float, default=420.0, help="budget of all, preparation included")
    parser.add_argument("--commit", default="", help="recorded as the project's commit")
    parser.add_argument("--smoke", action="store_true", help="tiny models, to see that it runs")
    given = parser.parse_args(arguments)
    try:
        odd = [side for side in given.regions if side < 32 or side % 16 or side > FULL.picture[0]]
        if odd:
            raise InputError(f"wan bench: region {odd[0]} px; give multiples of 16 from 32 to {FULL.picture[0]}")
        rows = {"wan-mini": (mini_shapes(), wan.MODELS["wan-mini"].dtype, given.mini)}
        rows["wan-1.3b"] = (FULL, wan.MODELS["wan-1.3b"].dtype, None)
        if given.smoke:
            rows = {name: (replace(TINY, picture=FULL.picture), torch.float32, None) for name in rows}
        models = {name: rows[name] for name in given.models}
        content = measure(given.out, given.regions, models, given.seconds, given.commit)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    for row in content["rows"]:
        told = f"{row['median_ms']:9.2f} ms" if "median_ms" in row else row.get("error", "does not agree")
        print(f"{row['model']:9} {row['region_px']:4} px  {row['stage']:17} {row['mode']:15} {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
