"""What the full-scale models cost on a GPU, stage by stage and in both pipelines: random weights, label real-shape.

    python -m workbench.measure.pipelines --part stages --out DIR                     one GPU: every stage alone
    python -m workbench.measure.pipelines --part pipeline --setup h200 --out DIR  one GPU: reasoner in FP8 beside all
    python -m workbench.measure.pipelines --part pipeline --setup h200x2 --out DIR  two GPUs: reasoner in bf16, alone
    python -m workbench.measure.pipelines --part pipeline --setup h200x2_fp8 …  two GPUs: reasoner in FP8, alone

Results go to ``DIR/stages_<gpu>.json`` and ``DIR/pipeline_<setup>.json``; each is written anew after every group of
numbers, so that an interrupted run keeps what it has. ``--tiny`` runs everything with tiny models on a CPU.
"""

import argparse
import faulthandler
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.files import write_json
from specsync_lib.judge.branches import ROOMS, USUAL_ROOM, Branches, Room
from specsync_lib.measures.latency import paced_numbers, run_numbers, spread, stage_numbers
from specsync_lib.pipeline.run import (
    ChunkAudio,
    Draft,
    PipelineReport,
    Request,
    Stages,
    Tokens,
    Verdict,
    pieces,
    run_serial,
    run_speculative,
)
from specsync_lib.pipeline.simulate import (
    LATE_POLICIES,
    POLICIES,
    WAYS,
    Answers,
    ChunkPattern,
    measured_answers,
    random_pattern,
    written_pattern,
)
from specsync_lib.units import (
    CHUNK_SAMPLES,
    FRAMES_PER_CHUNK,
    LISTEN_BACK_CHUNKS,
    SAMPLE_RATE_HZ,
    SLOTS_PER_CHUNK,
    VISEMES,
)
from workbench.measure import shape_reasoner
from workbench.measure.shape_reasoner import (
    FULL,
    TINY,
    FixedCache,
    KernelDraft,
    Listener,
    Passes,
    ShapeDecoder,
    ShapeDenoiser,
    ShapeReasoner,
    Shapes,
)

LABEL = "real-shape"
REASONING_TOKENS = 32
STEPS = (1, 2, 4)
PASS_TOKENS = (1, 12, 32, 60, 128, 160, 192)  # a token; two drafts; a chunk's evidence with its draft; with several
PREFILL_TOKENS = 512
FP8_ROWS = (1, 12, 60)
POLICY_RATES = (0.0, 0.25, 0.5)
PIECE_MS = 100
DEFAULT_CASES = {
    ("stages", False): ",".join(FULL.regions),
    ("stages", True): ",".join(TINY.regions),
    ("pipeline", False): "384px:2:200:1,384px:4:40,256px:2:200,512px:2:200,720p:2:200",
    ("pipeline", True): ",".join(TINY.regions),
}
SLOWER_IN_PARTS = 1.1  # at most, for decoding slot by slot to be worth it
SILENCE_S = 240  # a device that says nothing for so long hangs; the file has what came before
# Sound, draft; generation; the two ways to an FP8 product; the reasoner in both precisions; what compilation brings.
GROUPS = ("sound", "generation", "products", "reasoner-bf16", "reasoner-fp8")
COMPILED = "compiled"  # a minute for each region and part: only when asked for
LEAST_S = 15  # less is no use to a case: its graphs are captured first


# --- clock, timing, results -------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """One of the cases that the pipelines are measured in; parts: calls that decode a chunk, 0: :func:`parts_for`."""

    name: str
    region: str
    steps: int
    chunks: int
    parts: int


@dataclass
class Session:
    """One command: its clock, its devices, and the file that it fills."""

    shapes: Shapes
    path: Path
    content: dict
    seconds: float
    repeats: int
    regions: dict[str, tuple[int, int]]
    started: float = field(default_factory=time.monotonic)

    def log(self, line: str) -> None:
        """Print a line; when none comes for long, every thread's stack is printed instead and the command ends."""
        faulthandler.dump_traceback_later(SILENCE_S, exit=True, file=sys.__stderr__)
        print(f"[{time.monotonic() - self.started:6.1f} s] {line}", flush=True)

    def left(self) -> float:
        """Seconds until the command should be done."""
        return self.seconds - (time.monotonic() - self.started)

    def save(self) -> None:
        self.content["wall_s"] = round(time.monotonic() - self.started, 1)
        write_json(self.path, self.content)

    def row(self, stage: str, timing: dict[str, float], **facts: object) -> None:
        """Keep one stage's times and write the file."""
        self.content["stages"].append({"stage": stage, **facts, **timing})
        self.save()
        shown = ", ".join(str(value) for value in facts.values())
        self.log(f"{stage} ({shown}): {timing['median_ms']:.3f} ms, p99 {timing['p99_ms']:.3f}")


def synchronise(device: torch.device) -> None:
    """Wait for a device; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    call: Callable[[], object], device: torch.device, repeats: int, *, at_most_s: float = 8.0
) -> dict[str, float]:
    """From the host's call until the result is there, as a pipeline sees it; fewer repeats of a slow call."""
    for _ in range(shape_reasoner.WARM_UPS):
        call()
    synchronise(device)
    seen: list[float] = []
    end = time.perf_counter() + at_most_s
    while len(seen) < repeats and (len(seen) < 5 or time.perf_counter() < end):
        start = time.perf_counter()
        call()
        synchronise(device)
        seen.append(1e3 * (time.perf_counter() - start))
    return spread(seen)


def free(device: torch.device) -> None:
    """Give the memory of what nobody holds any more back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def devices(setup: str, tiny: bool) -> tuple[torch.device, torch.device]:
    """Where generation and reasoning run.

    Raises
    ------
    InputError: the setup needs more GPUs than there are.
    """
    if tiny:
        return torch.device("cpu"), torch.device("cpu")
    wanted = 2 if "x2" in setup else 1
    if torch.cuda.device_count() < wanted:
        raise InputError(f"setup {setup}: needs {wanted} GPUs, {torch.cuda.device_count()} found; --tiny needs none")
    return torch.device("cuda", 0), torch.device("cuda", wanted - 1)


def provenance(commit: str, arguments: Sequence[str], tiny: bool) -> dict[str, object]:
    """Where the numbers come from."""
    if tiny:
        from specsync_lib.provenance import machine

        facts: dict[str, object] = {"machine": machine()}
    else:
        from kernels import timing

        facts = timing.provenance(commit) | {"gpus": torch.cuda.device_count()}
    return facts | {"label": LABEL, "command": " ".join(["python", "-m", "workbench.measure.pipelines", *arguments])}


# --- part one: every stage alone --------------------------------------------------------------------------------------


def measure_stages(session: Session, device: torch.device, groups: Sequence[str]) -> None:
    """Every stage on one device, group by group: :data:`GROUPS`."""
    measures: dict[str, Callable[[], None]] = {
        "sound": partial(measure_sound, session, device),
        "generation": partial(measure_generation, session, device),
        "products": partial(measure_fp8_products, session, device),
        "reasoner-bf16": partial(measure_reasoner, session, device, "bf16"),
        "reasoner-fp8": partial(measure_reasoner, session, device, "fp8"),
        COMPILED: partial(measure_compiled, session, device),
    }
    session.content |= {"stages": [], "failed": {}}
    for name in groups:
        if session.left() < 60:
            session.log(f"no time left for {name}")
            continue
        try:
            measures[name]()
        except RuntimeError as error:  # one group's failure is written down and costs no other group its numbers
            session.content["failed"][name] = str(error).splitlines()[0]
            session.log(f"{name} FAILED: {session.content['failed'][name]}")
            session.save()
        free(device)


def modes(session: Session) -> tuple[tuple[str, bool], ...]:
    """Eager and captured; on a CPU there is nothing to capture."""
    return (("eager", False), ("graph", True)) if session.shapes is FULL else (("eager", False),)


def measure_sound(session: Session, device: torch.device) -> None:
    """Log-mel, Whisper's encoder, the sync kernel with drafted latents."""
    encoder = shape_reasoner.build_encoder(session.shapes, device)
    for mode, graphs in modes(session):
        listener = Listener(session.shapes, encoder, device, graphs=graphs)
        session.row("features", timed(listener.hear, device, session.repeats), mode=mode)
        session.row("encoder", timed(listener.encode, device, session.repeats), mode=mode)
        _, mel = listener.hear()
        for region, size in session.regions.items():
            draft = KernelDraft(*size, mel, device, graphs=graphs)
            session.row("draft", timed(draft.run, device, session.repeats), region=region, mode=mode)
    free(device)


def measure_generation(session: Session, device: torch.device) -> None:
    """One, two and four denoising steps and the decoding of a chunk, for every region."""
    transformer = shape_reasoner.build_transformer(session.shapes, device)
    for region, size in session.regions.items():
        for mode, graphs in modes(session):
            denoiser = ShapeDenoiser(transformer, session.shapes, *size, steps=1, graphs=graphs)
            for steps in STEPS if graphs or len(modes(session)) == 1 else (1,):
                call = lambda denoiser=denoiser, steps=steps: [denoiser.step(0) for _ in range(steps)]  # noqa: E731
                session.row("denoise", timed(call, device, session.repeats), region=region, steps=steps, mode=mode)
            del denoiser
            free(device)
    del transformer
    for method in ("3d", "2d"):
        vae = decoder_model(session.shapes, device, method)
        for region, size in session.regions.items():
            latents = chunk_latents(size, vae)
            for mode, graphs in modes(session):
                if mode == "eager" and method == "2d" and len(modes(session)) > 1:
                    continue
                decoder = ShapeDecoder(vae, session.shapes, latents, graphs=graphs)
                timing = timed(decoder.run, device, session.repeats)
                session.row("decode", timing, region=region, convolution=method, mode=mode)
                del decoder
                free(device)


def decoder_model(shapes: Shapes, device: torch.device, method: shape_reasoner.ConvMethod) -> torch.nn.Module:
    """Wan's VAE, laid out channels last, with lean convolutions."""
    vae = shape_reasoner.build_vae(shapes, device)
    wan.channels_innermost(vae)
    shape_reasoner.lean_convolutions(vae, method)
    return vae


def chunk_latents(size: tuple[int, int], vae: torch.nn.Module) -> torch.Tensor:
    """Noise in the shape of a chunk's latents [1, 16, 3, h, w]."""
    like = vae.post_quant_conv.weight
    shape = (1, shape_reasoner.LATENT_CHANNELS, 3, *(side // shape_reasoner.PIXELS_PER_LATENT for side in size))
    return torch.randn(shape, device=like.device, dtype=like.dtype)


def measure_fp8_products(session: Session, device: torch.device) -> None:
    """The two ways to multiply in FP8 beside bf16, on the reasoner's largest matrix: the faster one is used."""
    size = session.shapes.reasoner
    out_size, in_size = size["intermediate_size"], size["hidden_size"]
    plain = torch.empty(out_size, in_size, device=device, dtype=torch.bfloat16).normal_(0, in_size**-0.5)
    totals: dict[str, float] = {}
    for rows in FP8_ROWS:
        x = torch.randn(1, rows, in_size, device=device, dtype=torch.bfloat16)
        call = shape_reasoner.captured(lambda x=x: torch.nn.functional.linear(x, plain), device)
        session.row("product", timed(call, device, session.repeats), rows=rows, method="bf16", mode="graph")
        for method in ("rowwise", "per-tensor"):
            layer = shape_reasoner.Fp8Linear.random(out_size, in_size, device, torch.bfloat16, method)
            try:
                call = shape_reasoner.captured(lambda layer=layer, x=x: layer(x), device)
                timing = timed(call, device, session.repeats)
            except RuntimeError as error:
                session.log(f"product, {method}, {rows} rows: {str(error).splitlines()[0]}")
                totals[method] = float("inf")
                continue
            session.row("product", timing, rows=rows, method=method, mode="graph")
            totals[method] = totals.get(method, 0.0) + timing["median_ms"]
    session.content["fp8_method"] = min(totals, key=lambda method: totals[method])
    session.log(f"FP8 method: {session.content['fp8_method']}")


def measure_reasoner(session: Session, device: torch.device, precision: shape_reasoner.Precision) -> None:
    """Passes over 1, 12, 32 and 60 tokens behind the prefix, prefill, and whole plans without and with reasoning."""
    shapes = session.shapes
    began = time.monotonic()
    model = shape_reasoner.build_reasoner(
        shapes, device, precision=precision, fp8_method=session.content.get("fp8_method", "per-tensor")
    )
    synchronise(device)
    gib = round(shape_reasoner.weight_gib(model), 1)
    session.content.setdefault("weight_gib", {})[precision] = gib
    session.log(f"reasoner in {precision}: {gib} GiB, built in {time.monotonic() - began:.1f} s")
    facts = {"model": "reasoner", "precision": precision, "prefix_tokens": shapes.prefix_tokens}
    cache = FixedCache(model, shapes.cache_tokens)
    for mode, graphs in modes(session):
        for tokens in PASS_TOKENS:
            passes = Passes(model, cache, tokens, graphs=graphs)
            passes.first.fill_(shapes.prefix_tokens)
            timing = timed(passes.run, device, session.repeats)
            session.row("token" if tokens == 1 else "verify", timing, tokens=tokens, mode=mode, **facts)
        prefill = Passes(model, cache, min(PREFILL_TOKENS, shapes.prefix_tokens), graphs=graphs)
        session.row("prefill", timed(prefill.run, device, session.repeats), tokens=PREFILL_TOKENS, mode=mode, **facts)
        del passes, prefill
        free(device)
    plan = ShapeReasoner(model, shapes).plan
    for reasoning in (0, REASONING_TOKENS):
        timing = timed(partial(plan, reasoning), device, max(2, session.repeats // 4))
        session.row("plan", timing, tokens=FRAMES_PER_CHUNK, reasoning_tokens=reasoning, mode=mode, **facts)
    del plan, model, cache
    free(device)


def measure_compiled(session: Session, device: torch.device) -> None:
    """What compilation buys in a CUDA graph: the decoder and the transformer's blocks, region by region."""
    order = sorted(session.regions, key=lambda region: abs(session.regions[region][0] - 384))
    methods: tuple[shape_reasoner.ConvMethod, ...] = ("2d", "3d")
    transformer = shape_reasoner.build_transformer(session.shapes, device)
    for block in transformer.blocks:
        block.compile()
    vaes = {method: decoder_model(session.shapes, device, method) for method in methods}
    for region in order:
        size = session.regions[region]
        for method in (*methods, None):
            stage = "decode" if method else "denoise"
            if session.left() < 90:
                session.log(f"no time left to compile {stage} at {region}")
                return
            began = time.monotonic()
            if method:
                vae = vaes[method]
                call = ShapeDecoder(vae, session.shapes, chunk_latents(size, vae), compiled=True).run
            else:
                denoiser = ShapeDenoiser(transformer, session.shapes, *size, steps=1)
                call = lambda denoiser=denoiser: denoiser.step(0)  # noqa: E731
            facts = {"convolution": method} if method else {"steps": 1}
            timing = timed(call, device, session.repeats)
            session.row(stage, timing, region=region, mode="compiled graph", **facts)
            session.log(f"compiled in {time.monotonic() - began:.0f} s, timing included")
            del call
            free(device)


# --- part two: both pipelines -----------------------------------------------------------------------------------------


@dataclass
class ShapeWork:
    """A chunk that is being generated: steps to come, the plan that the last one ran under, parts decoded so far."""

    steps_left: int
    tokens: Tokens
    rendered: int = 0


class ShapeStage:
    """Work on one device in a stream of its own; a call returns when its result is there.

    Where stages share a device, an urgent one's kernels go first: until the judge has spoken nobody knows whether the
    generator's work counts.
    """

    def __init__(self, device: torch.device, *, urgent: bool = False) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device, priority=-urgent) if device.type == "cuda" else None

    @contextmanager
    def _running(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()


class ShapeDrafter(ShapeStage):
    """Log-mel of the last window and the sync kernel with drafted latents."""

    def __init__(self, listener: Listener, kernel: KernelDraft) -> None:
        super().__init__(listener.device, urgent=True)
        self._listener, self._kernel = listener, kernel

    def draft(self, audio: ChunkAudio) -> Draft:
        with self._running():
            self._listener.push(audio.samples)
            _, self._kernel.mel = self._listener.hear()
            drafted = self._kernel.run()
            rows = torch.cat(
                [drafted.logits.float().softmax(-1), drafted.confidence[:, None], drafted.openness[:, None]], 1
            )
            latents = drafted.latents.clone()
            host = rows.cpu().numpy()[: audio.frames]
        tokens = tuple(int(token) for token in host[:, : len(VISEMES)].argmax(1))
        return Draft(tokens, host[:, -2], host[:, -1], host[:, : len(VISEMES)], latents)


class ShapeJudge(ShapeStage):
    """Whisper's encoder, a probe and the reasoner do their work; what they say is a measured pattern's, replayed."""

    def __init__(self, listener: Listener, reasoner: ShapeReasoner, pattern: Sequence[ChunkPattern]) -> None:
        super().__init__(reasoner.device, urgent=True)
        self._listener, self._reasoner, self._pattern = listener, reasoner, pattern
        encoded = listener.encode()
        self._probe = torch.randn(encoded.shape[-1], len(VISEMES), device=self.device, dtype=encoded.dtype)
        self._branches = Branches.load(room=reasoner.room)
        self._branched = False  # whether several plans share a pass
        self._first_chunk = 0  # where in the pattern the stream begins

    @contextmanager
    def replaying(
        self, pattern: Sequence[ChunkPattern], *, branched: bool = False, first_chunk: int = 0
    ) -> Iterator[None]:
        """Answer as another pattern says meanwhile, from its chunk ``first_chunk`` on."""
        before = self._pattern, self._branched, self._first_chunk
        self._pattern, self._branched, self._first_chunk = pattern, branched, first_chunk
        try:
            yield
        finally:
            self._pattern, self._branched, self._first_chunk = before

    def verify(self, request: Request, deliver: Callable[[Verdict], None]) -> None:
        """Passes over evidence and what is thought of the chunk so far; what a pass says is told before the next."""
        index, answer, tokens = request.audio.index, self._answer(request), self._tokens(request)
        words, said = iter(answer.words(tokens)), request.draft.tokens
        with self._running():
            encoded = self._hear(request.audio)
            if answer.guessed:
                rows = (encoded[0, -FRAMES_PER_CHUNK:] @ self._probe).float().softmax(-1).cpu().numpy()
            for done in range(answer.passes):
                if done or answer.guessed:
                    said = next(words)
                    deliver(Verdict(index, said, done, final=False))
                # the acceptance rule looks at every pass before the next; which plans share one follows from the last
                if self._branched:
                    plans = self._branches.of(rows, None, np.array(said) if done else None)
                    rows = self._reasoner.score_branches(plans).cpu().numpy()[0]
                else:
                    self._reasoner.score(self._padded(said))[0].cpu()
        deliver(Verdict(index, tokens, answer.passes))

    def plan(self, request: Request, reasoning_tokens: int = 0) -> Tokens:
        with self._running():
            self._hear(request.audio)
            self._reasoner.plan(reasoning_tokens)[0].cpu()
        return self._tokens(request)

    def _hear(self, audio: ChunkAudio) -> torch.Tensor:
        self._listener.push(audio.samples)
        self._listener.hear()
        return self._listener.encode()

    def _padded(self, tokens: Tokens) -> torch.Tensor:
        padded = (*tokens, *[0] * (FRAMES_PER_CHUNK - len(tokens)))
        return torch.tensor(padded, device=self.device) + shape_reasoner.FIRST_TOKEN

    def _answer(self, request: Request) -> ChunkPattern:
        return self._pattern[(self._first_chunk + request.audio.index) % len(self._pattern)]

    def _tokens(self, request: Request) -> Tokens:
        return judged_tokens(request.draft.tokens, self._answer(request))


class ShapeGenerator(ShapeStage):
    """Denoising and decoding, part by part; frames come back to the host as whole pictures."""

    def __init__(self, denoiser: ShapeDenoiser, decoder: ShapeDecoder) -> None:
        super().__init__(denoiser.device)
        self._denoiser, self._decoder = denoiser, decoder
        self._frames = torch.empty(decoder.picture_shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        self._after: list[torch.Tensor] = []

    def begin(self, audio: ChunkAudio, draft: Draft, tokens: Tokens) -> ShapeWork:
        with self._running():
            self._follow(tokens)
            self._denoiser.start(draft.latents)
        return ShapeWork(self._denoiser.steps, tokens)

    def step(self, work: ShapeWork, tokens: Tokens) -> None:
        with self._running():
            if tokens != work.tokens:
                self._follow(tokens)
            self._denoiser.step(self._denoiser.steps - work.steps_left)
        work.steps_left, work.tokens = work.steps_left - 1, tokens

    def rewind(self, work: ShapeWork) -> None:
        with self._running():
            self._denoiser.undo()
        work.steps_left, work.rendered = work.steps_left + 1, 0

    def render(self, work: ShapeWork) -> np.ndarray | None:
        with self._running():
            picture, self._after = self._decoder.run(work.rendered)
            self._frames.chunk(self._decoder.parts)[work.rendered].copy_(picture, non_blocking=True)
        work.rendered += 1
        return self._frames.numpy() if work.rendered == self._decoder.parts else None

    def commit(self, work: ShapeWork) -> None:
        with self._running():
            self._decoder.commit(self._after)

    def _follow(self, tokens: Tokens) -> None:
        self._denoiser.condition(torch.tensor(tokens, device=self.device))


@dataclass(frozen=True)
class Models:
    """Everything that both pipelines share; streams come and go, models stay."""

    draft_listener: Listener
    judge_listener: Listener
    reasoner: ShapeReasoner
    transformer: torch.nn.Module
    vae: torch.nn.Module


def build_models(
    shapes: Shapes,
    setup: str,
    generation: torch.device,
    reasoning: torch.device,
    *,
    fp8_method: shape_reasoner.Fp8Method = "per-tensor",
    convolution: shape_reasoner.ConvMethod = "3d",
    compiled: bool = False,
    room: Room = ROOMS[USUAL_ROOM],
) -> tuple[Models, dict]:
    """The models of a setup, and what they are; one GPU holds the reasoner in FP8 beside all, two hold it in bf16."""
    precision = "bf16" if setup.endswith("x2") else "fp8"  # beside all others on one GPU, or because it is faster
    model = shape_reasoner.build_reasoner(shapes, reasoning, precision=precision, fp8_method=fp8_method)
    reasoner = ShapeReasoner(model, shapes, room=room)
    encoder = shape_reasoner.build_encoder(shapes, reasoning)
    transformer = shape_reasoner.build_transformer(shapes, generation)
    if compiled:
        for block in transformer.blocks:
            block.compile()
    vae = decoder_model(shapes, generation, convolution)
    parts = {"reasoner": model, "encoder": encoder, "transformer": transformer, "vae": vae}
    facts = {
        "reasoner_precision": precision,
        "fp8_method": fp8_method if precision == "fp8" else None,
        "convolution": convolution,
        "compiled": compiled,
        "shared": generation == reasoning,
        "weight_gib": {name: round(shape_reasoner.weight_gib(part), 2) for name, part in parts.items()},
    }
    listeners = Listener(shapes, encoder, generation, encode=False), Listener(shapes, encoder, reasoning)
    return Models(*listeners, reasoner, transformer, vae), facts


def rehearsal_stages(pattern: Sequence[ChunkPattern], *, region: str = "32px", steps: int = 2) -> Stages:
    """The three stages with tiny models on a CPU: real work, real threads, nothing worth looking at."""
    device = torch.device("cpu")
    torch.set_num_threads(1)  # judge and generator get a core each
    models, _ = build_models(TINY, "tiny", device, device, fp8_method="dequantise")
    return stages_of(TINY, models, region, steps, pattern)


def stages_of(
    shapes: Shapes,
    models: Models,
    region: str,
    steps: int,
    pattern: Sequence[ChunkPattern],
    *,
    parts: int = 1,
    compiled: bool = False,
) -> Stages:
    """The three stages for a region. They hold no plan of their own, so one set serves every stream."""
    size = shapes.regions[region]
    _, mel = models.draft_listener.hear()
    denoiser = ShapeDenoiser(models.transformer, shapes, *size, steps=steps)
    decoder = ShapeDecoder(models.vae, shapes, denoiser.latents, compiled=compiled, parts=parts)
    kernel = KernelDraft(*size, mel, models.draft_listener.device)
    return Stages(
        ShapeDrafter(models.draft_listener, kernel),
        ShapeJudge(models.judge_listener, models.reasoner, pattern),
        ShapeGenerator(denoiser, decoder),
    )


def measure_pipelines(session: Session, setup: str, options: argparse.Namespace) -> None:
    """Both pipelines in turn, block by block, case by case. With the first case's stages, once no other case of its
    region follows: the policies over rejection rates, and a run at the pace of speech."""
    generation, reasoning = devices(setup, options.tiny)
    session.shapes = shape_reasoner.hearing(session.shapes, LISTEN_BACK_CHUNKS + 1)
    answers, source = measured_answers(frames_a_pass=options.frames_a_pass)
    session.content |= {"setup": setup, "pattern": source, "replayed": written_pattern(answers["serial"])}
    session.content |= {f"replayed_{way}": written_pattern(answers[mode]) for mode, way in WAYS.items()}
    session.content |= {"frames_a_pass": options.frames_a_pass, "regions": {}, "failed": {}}
    session.content |= {"what": "a chunk's latency from the arrival of its last sample to its frames on the host"}
    models, facts = build_models(
        session.shapes, setup, generation, reasoning, convolution=options.convolution, compiled=options.compile,
        room=ROOMS[options.frames_a_pass], fp8_method="dequantise" if options.tiny else options.fp8,
    )  # fmt: skip
    session.content |= facts
    session.log(f"built: {facts['weight_gib']} GiB, reasoner in {facts['reasoner_precision']}")
    session.save()
    cases = list(options.cases.values())
    first: tuple[Stages, dict] | tuple[()] = ()
    for place, case in enumerate(cases):
        if session.left() < LEAST_S:
            session.log(f"no time left for {case.name}")
            continue
        session.log(f"{case.name}: {case}")
        session.save()
        try:
            measured = measure_case(session, models, case, answers, options, owed=bool(first), headline=place == 0)
            first = first if place else measured
            if first and not any(one.region == cases[0].region for one in cases[place + 1 :]):
                if options.policy_chunks:
                    run_policies(session, *first, options.policy_chunks)
                if options.paced_chunks:
                    run_paced(session, *first, answers["speculative_branched"], options.paced_chunks)
                first = ()
        except (InputError, RuntimeError) as error:  # one case's failure is written down and costs no other its numbers
            session.content["failed"][case.name] = str(error).splitlines()[0]
            session.log(f"{case.name} FAILED: {session.content['failed'][case.name]}")
            session.save()
        free(generation)


def measure_case(
    session: Session,
    models: Models,
    case: Case,
    answers: Answers,
    options: argparse.Namespace,
    *,
    owed: bool,
    headline: bool,
) -> tuple[Stages, dict]:
    """One case's blocks; its stages and its part of the file. owed: the policies and the pace of speech still come, and
    need their time; headline: serial with reasoning tokens too, and more chunks for the tail of the exact pipeline."""
    parts = case.parts or parts_for(session, models, case.region)
    stages = stages_of(
        session.shapes, models, case.region, case.steps, answers["serial"], parts=parts, compiled=options.compile
    )
    session.log(f"decoded in {parts} parts; everything captured")
    session.content["regions"][case.name] = result = {
        "region": case.region, "steps": case.steps, "render_parts": parts, "window_s": session.shapes.window_s,
        "runs": {}, "stages": {},
        "hold_before": {mode: policy.hold_before for mode, policy in POLICIES.items()},
    }  # fmt: skip
    beside = min(case.chunks, options.beside_chunks)
    wanted = {
        "serial": case.chunks,
        "speculative": beside,
        "speculative_eager": min(case.chunks, options.eager_chunks),
        "speculative_branched": max(case.chunks, options.branched_chunks * headline),
        "speculative_lenient": beside,
        "serial_reasoning": options.reasoning_chunks * headline,
    }
    owed_s = CHUNK_SAMPLES / SAMPLE_RATE_HZ * (5 * options.policy_chunks + options.paced_chunks) * owed
    run_blocks(session, stages, result, wanted, answers, options.block, owed_s)
    return stages, result


def parts_for(session: Session, models: Models, region: str) -> int:
    """Slot by slot, which frees the generator sooner for a rejection, unless that decodes a tenth slower."""
    latents = chunk_latents(session.shapes.regions[region], models.vae)
    took_ms = {}
    for parts in (1, SLOTS_PER_CHUNK):
        decoder = ShapeDecoder(models.vae, session.shapes, latents, parts=parts)
        decode = lambda decoder=decoder: [decoder.run(part) for part in range(decoder.parts)]  # noqa: E731
        took_ms[parts] = timed(decode, latents.device, 7)["median_ms"]
        del decoder, decode
        free(latents.device)
    session.content.setdefault("decode_ms", {})[region] = took_ms
    session.log(f"decoding at {region} in 1 or {SLOTS_PER_CHUNK} parts: {took_ms}")
    return SLOTS_PER_CHUNK if took_ms[SLOTS_PER_CHUNK] <= SLOWER_IN_PARTS * took_ms[1] else 1


MODES: dict[str, Callable[..., PipelineReport]] = {
    "serial": run_serial,
    **{mode: partial(run_speculative, policy=policy, ahead=1) for mode, policy in POLICIES.items()},
    "serial_reasoning": partial(run_serial, reasoning_tokens=REASONING_TOKENS),
}


def run_blocks(
    session: Session,
    stages: Stages,
    result: dict,
    wanted: dict[str, int],
    answers: Answers,
    block_chunks: int,
    owed_s: float,
) -> None:
    """Streams of one block each, the modes in turn, every chunk's sound given when the chunk before is out."""
    samples = np.random.default_rng(0).normal(0, 0.1, block_chunks * CHUNK_SAMPLES).astype(np.float32)
    kept: dict[str, list[PipelineReport]] = {mode: [] for mode in MODES}
    for mode in ("serial", "speculative"):  # warm up
        report = run_without_frames(MODES[mode], samples[: 2 * CHUNK_SAMPLES], stages)
        session.log(f"{mode}: {report.chunks()['latency_ms'].round(1).tolist()} ms to warm up")
    slowest = 0.0
    for first_chunk in range(0, max(wanted.values()), block_chunks):
        if session.left() < 5 + slowest + owed_s:
            session.log(f"no time left after {first_chunk} chunks")
            break
        began = time.monotonic()
        for mode, run in MODES.items():
            chunks = min(block_chunks, wanted[mode] - first_chunk)
            if chunks > 0:
                pattern, branched = answers.get(mode, answers["serial"]), WAYS.get(mode) == "branched"
                with stages.judge.replaying(pattern, branched=branched, first_chunk=first_chunk):
                    kept[mode].append(run_without_frames(run, samples[: chunks * CHUNK_SAMPLES], stages))
                keep(result, kept)
                session.save()
        session.log(f"{first_chunk + block_chunks} chunks")
        slowest = max(slowest, time.monotonic() - began)
    for mode, numbers in result["runs"].items():
        first_ms = np.median(numbers["first_ms"])
        session.log(
            f"{mode}: p50 {numbers['p50_ms']:.1f}, p99 {numbers['p99_ms']:.1f} ms, first frames {first_ms:.1f} ms, "
            f"{numbers['n']} chunks, {numbers['counts']}"
        )


def keep(result: dict, kept: dict[str, list[PipelineReport]]) -> None:
    """Everything seen so far, and whether all pipelines under an exact rule committed the same plans."""
    for mode, reports in kept.items():
        if reports:
            result["runs"][mode] = run_numbers(reports)
            result["stages"][mode] = stage_numbers(reports)
    result["same_plan"] = all(
        np.array_equal(one.plan[: len(other.plan)], other.plan[: len(one.plan)])
        for mode, reports in kept.items()
        if mode != "speculative_lenient"
        for one, other in zip(kept["serial"], reports, strict=False)
    )


def run_without_frames(
    run: Callable[..., PipelineReport], samples: np.ndarray, stages: Stages, pace: Literal["fast", "real time"] = "fast"
) -> PipelineReport:
    """One stream; the report keeps its commits without their pictures, gigabytes otherwise.

    Raises
    ------
    InputError: the run did not reach its end.
    """
    commits = []
    source = pieces(samples, pace=pace, piece_ms=PIECE_MS)
    report = run(source, stages, keep_commits=False, on_commit=lambda one: commits.append(replace(one, frames=None)))
    if report.ended != "complete":
        raise InputError(f"{report.mode}: {report.error or report.ended}")
    return replace(report, commits=tuple(commits))


def run_policies(session: Session, stages: Stages, result: dict, chunks: int) -> None:
    """Each policy for late verdicts over rejection rates, on drawn patterns: latency, and frames not as judged."""
    samples = np.zeros(chunks * CHUNK_SAMPLES, np.float32)
    result["policies"] = []
    for rate in POLICY_RATES:
        pattern = random_pattern(rate, chunks, np.random.default_rng(0))
        for name, policy in LATE_POLICIES.items():
            if session.left() < 5 + chunks * CHUNK_SAMPLES / SAMPLE_RATE_HZ:
                continue
            with stages.judge.replaying(pattern):
                report = run_without_frames(partial(run_speculative, policy=policy, ahead=1), samples, stages)
            wanted = [judged_tokens(one.drafted, pattern[one.index]) for one in report.commits]
            wrong = [one.tokens != tokens for one, tokens in zip(report.commits, wanted, strict=True)]
            frames = np.concatenate([np.not_equal(a.tokens, b) for a, b in zip(report.commits, wanted, strict=True)])
            latency_ms = report.chunks()["latency_ms"]
            result["policies"].append({
                "policy": name, "rate": rate, "n": chunks, "mean_ms": round(float(latency_ms.mean()), 3),
                "latency_ms": [round(float(value), 3) for value in latency_ms], "chunks_not_as_judged": sum(wrong),
                "plan_error": round(float(frames.mean()), 5), "counts": report.counts,
            })  # fmt: skip
        session.save()
    session.log(f"{len(result['policies'])} runs of the policies for late verdicts")


def judged_tokens(drafted: Tokens, answer: ChunkPattern) -> Tokens:
    """The draft with another viseme wherever the judge rejects."""
    return tuple((token + (frame in answer.rejected)) % len(VISEMES) for frame, token in enumerate(drafted))


def run_paced(session: Session, stages: Stages, result: dict, answers: Sequence[ChunkPattern], chunks: int) -> None:
    """The speculative pipeline, several plans a pass, at the pace of speech: when every chunk of frames is out, against
    when it was heard."""
    samples, mode = np.zeros(chunks * CHUNK_SAMPLES, np.float32), "speculative_branched"
    if session.left() < 5 + len(samples) / SAMPLE_RATE_HZ:
        session.log("no time left for the pace of speech")
        return
    with stages.judge.replaying(answers, branched=True):
        report = run_without_frames(partial(run_speculative, policy=POLICIES[mode]), samples, stages, pace="real time")
    result["paced"] = {"mode": mode} | paced_numbers(report)
    session.log(f"at the pace of speech: p99 {np.percentile(result['paced']['latency_ms'], 99):.1f} ms")
    session.save()


# --- the command ------------------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.pipelines", description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("stages", "pipeline"), required=True)
    parser.add_argument("--setup", choices=("h200", "h200x2", "h200x2_fp8", "tiny"), default="h200")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--commit", default="unknown", help="commit of the measured tree, where git is missing")
    parser.add_argument("--seconds", type=float, default=480, help="no new group of numbers is begun after this")
    parser.add_argument("--repeats", type=int, default=40, help="timed calls of a stage")
    parser.add_argument("--regions", help="NAME[:STEPS[:CHUNKS[:PARTS]]],… (384px:4:200:3); the headline first")
    parser.add_argument(
        "--steps", type=int, default=2, help="denoising steps of a chunk where no other number is given"
    )
    parser.add_argument("--chunks", type=int, default=200, help="chunks of each pipeline and region")
    parser.add_argument("--block", type=int, default=20, help="chunks of one stream; the pipelines take turns")
    parser.add_argument("--eager-chunks", type=int, default=60, help="most chunks of speculative that never waits")
    parser.add_argument("--beside-chunks", type=int, default=200, help="most with one plan a pass, or a lenient judge")
    parser.add_argument("--branched-chunks", type=int, default=0, help="of the headline with several plans a pass")
    parser.add_argument("--reasoning-chunks", type=int, default=5, help="chunks of serial with reasoning tokens")
    parser.add_argument(
        "--frames-a-pass", choices=tuple(ROOMS), default=USUAL_ROOM,
        help="that several plans of a chunk share: in the first pass and in every later one, or in each",
    )  # fmt: skip
    parser.add_argument("--policy-chunks", type=int, default=12, help="chunks of each policy at each rejection rate")
    parser.add_argument("--paced-chunks", type=int, default=25, help="chunks at the pace of speech")
    parser.add_argument("--convolution", choices=("3d", "2d"), default="3d", help="how the decoder convolves")
    parser.add_argument("--fp8", choices=("per-tensor", "rowwise"), default="per-tensor", help="FP8 product")
    parser.add_argument("--compile", action="store_true", help="compile decoder and transformer blocks (a minute each)")
    known = (*GROUPS, COMPILED)
    parser.add_argument("--groups", help=f"groups of stages to measure, of {', '.join(known)}")
    parser.add_argument("--tiny", action="store_true", help="tiny models on a CPU: a rehearsal, no measurement")
    options = parser.parse_args(list(arguments))
    shapes = TINY if options.tiny else FULL
    usual = known if options.compile else GROUPS
    options.groups = options.groups.split(",") if options.groups else usual
    if unknown := set(options.groups) - set(known):
        parser.error(f"--groups: {', '.join(sorted(unknown))} is unknown; give some of {', '.join(known)}")
    options.cases = {}
    for case in (options.regions or DEFAULT_CASES[options.part, options.tiny]).split(","):
        region, *numbers = case.split(":")
        if region not in shapes.regions or len(numbers) > 3 or not all(number.isdecimal() for number in numbers):
            parser.error(f"--regions {case}: known are {','.join(shapes.regions)}, each with :STEPS:CHUNKS:PARTS")
        given = (*map(int, numbers), *(options.steps, options.chunks, 0)[len(numbers) :])
        steps, _, parts = given
        if steps < 1 or parts not in (0, 1, SLOTS_PER_CHUNK):
            parser.error(f"--regions {case}: at least one step, and 0, 1 or {SLOTS_PER_CHUNK} parts")
        names = (region, f"{region}_{steps}steps", f"{region}_{steps}steps_{parts}parts")
        name = next((name for name in names if name not in options.cases), "")
        if not name:
            parser.error(f"--regions {case}: given twice")
        options.cases[name] = Case(name, region, *given)
    return options


@torch.no_grad()
def main(arguments: Sequence[str]) -> int:
    """Measure one part; what fails ends in one line, and what was measured before it is in the file."""
    options = parse(arguments)
    name = f"pipeline_{options.setup}" if options.part == "pipeline" else "stages_h200"
    if options.tiny:
        name = f"{options.part}_tiny"
    try:
        # every region of every layer is a compilation of its own; past the limit torch goes back to eager code
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 4096
        torch.backends.cudnn.benchmark = True  # shapes never change: the fastest convolution is found while warming up
        if options.tiny:
            torch.set_num_threads(1)
        generation, _ = devices(options.setup, options.tiny)
        content = {"provenance": provenance(options.commit, arguments, options.tiny), "label": LABEL}
        shapes = TINY if options.tiny else FULL
        regions = {case.region: shapes.regions[case.region] for case in options.cases.values()}
        path = options.out / f"{name}.json"
        session = Session(shapes, path, content, options.seconds, options.repeats, regions)
        if options.part == "stages":
            measure_stages(session, generation, options.groups)
        else:
            measure_pipelines(session, options.setup, options)
        session.log(f"wrote {session.path}")
    except InputError as error:
        print(f"full_scale: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    finally:
        faulthandler.cancel_dump_traceback_later()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
