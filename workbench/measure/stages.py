"""Every full-scale stage alone."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from specsync_lib.face import wan
from specsync_lib.pipeline.simulate import REASONING_TOKENS
from specsync_lib.units import CHUNK, FRAMES_PER_CHUNK, ChunkSize
from workbench.measure import shape_reasoner, shape_wan
from workbench.measure.session import Session, free, synchronise, timed
from workbench.measure.shape_reasoner import FixedCache, KernelDraft, Listener, Passes, ShapeReasoner
from workbench.measure.shape_wan import ShapeDecoder, ShapeDenoiser
from workbench.measure.shapes import FULL, Shapes, build_encoder, captured, weight_gib

STEPS = (1, 2, 4)
PASS_TOKENS = (1, 12, 32, 60, 128, 160, 192)  # a token; two drafts; a chunk's evidence with its draft; with several
PREFILL_TOKENS = 512
FP8_ROWS = (1, 12, 60)


# Sound, draft; generation; the two ways to an FP8 product; the reasoner in both precisions; what compilation brings.
GROUPS = ("sound", "generation", "products", "reasoner-bf16", "reasoner-fp8")
COMPILED = "compiled"  # a minute for each region and part: only when asked for


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
    encoder = build_encoder(session.shapes, device)
    for mode, graphs in modes(session):
        listener = Listener(session.shapes, device, encoder, graphs=graphs)
        session.row("features", timed(listener.hear, device, session.repeats), mode=mode)
        session.row("encoder", timed(listener.encode, device, session.repeats), mode=mode)
        _, mel = listener.hear()
        for region, size in session.regions.items():
            draft = KernelDraft(*size, mel, device, graphs=graphs)
            session.row("draft", timed(draft.run, device, session.repeats), region=region, mode=mode)
    free(device)


def measure_generation(session: Session, device: torch.device) -> None:
    """One, two and four denoising steps and the decoding of a chunk, for every region."""
    transformer = shape_wan.build_transformer(session.shapes, device)
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


def decoder_model(
    shapes: Shapes, device: torch.device, method: shape_wan.ConvMethod, decoder: shape_wan.DecoderName = "wan"
) -> torch.nn.Module:
    """Wan's VAE with lean convolutions, or the small decoder, which has none in time; laid out channels last."""
    if decoder == "tiny":
        small = shape_wan.build_tiny_decoder(shapes, device)
        wan.channels_innermost(small)
        return small
    vae = shape_wan.build_vae(shapes, device)
    wan.channels_innermost(vae)
    shape_wan.lean_convolutions(vae, method)
    return vae


def chunk_latents(size: tuple[int, int], decoder: torch.nn.Module, chunk: ChunkSize = CHUNK) -> torch.Tensor:
    """Noise in the shape of a chunk's latents [1, 16, slots, h, w], on the device and in the precision of a decoder."""
    like = next(decoder.parameters())
    sides = (side // shape_reasoner.PIXELS_PER_LATENT for side in size)
    shape = (1, shape_reasoner.LATENT_CHANNELS, chunk.slots, *sides)
    return torch.randn(shape, device=like.device, dtype=like.dtype)


def measure_fp8_products(session: Session, device: torch.device) -> None:
    """The two ways to multiply in FP8 beside bf16, on the reasoner's largest matrix: the faster one is used."""
    size = session.shapes.reasoner
    out_size, in_size = size["intermediate_size"], size["hidden_size"]
    plain = torch.empty(out_size, in_size, device=device, dtype=torch.bfloat16).normal_(0, in_size**-0.5)
    totals: dict[str, float] = {}
    for rows in FP8_ROWS:
        x = torch.randn(1, rows, in_size, device=device, dtype=torch.bfloat16)
        call = captured(lambda x=x: torch.nn.functional.linear(x, plain), device)
        session.row("product", timed(call, device, session.repeats), rows=rows, method="bf16", mode="graph")
        for method in ("rowwise", "per-tensor"):
            layer = shape_reasoner.Fp8Linear.random(out_size, in_size, device, torch.bfloat16, method)
            try:
                call = captured(lambda layer=layer, x=x: layer(x), device)
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
    gib = round(weight_gib(model), 1)
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
    methods: tuple[shape_wan.ConvMethod, ...] = ("2d", "3d")
    transformer = shape_wan.build_transformer(session.shapes, device)
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
