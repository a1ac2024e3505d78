"""Trains an adapter of Wan's own transformer on precomputed latents, on one GPU or on many.

    python -m workbench.train.adapter --row my.toml --latents LATENTS --out ADAPTER
    torchrun --nproc-per-node 8 -m workbench.train.adapter ...       # or: accelerate launch -m workbench.train.adapter

``LATENTS`` is made by :mod:`workbench.train.latents`. ``ADAPTER`` receives ``adapter.safetensors`` and ``adapter.json``
(the averaged weights: a row's ``video.adapter``), ``metrics.json`` (the curve), ``README.md`` and ``checkpoint.
safetensors``: started again with the same settings the command goes on from there, and ends with the very weights of a
run that was never stopped (on as many processes; a GPU's sums may differ in their last bits).

The transformer is frozen, in the row's ``transformer_dtype``; what is added learns in float32. A step's loss is that of
wan-mini's trainer (:func:`transformer.chunk_loss`): from noise, or from a linear draft of the right or of a wrong plan,
to the clean latents z, which for a velocity v are x - t v. A first measurement with nothing learnt is the base model's.

Source
------
The arrangement: :mod:`specsync_lib.face.adapter`.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from specsync_lib.draft.latents import vae_sha256
from specsync_lib.errors import InputError
from specsync_lib.face import generation, wan
from specsync_lib.face.adapter import (
    AdaptedTransformer,
    AdapterFacts,
    AdapterSize,
    PlanAdapter,
    facts_of,
    save_adapter,
)
from specsync_lib.files import atomic_path, write_json, write_text
from specsync_lib.provenance import device_facts
from specsync_lib.rows import Video
from specsync_lib.tensors import read_header, read_object
from specsync_lib.units import CHUNK_SLOTS, SLOTS_PER_CHUNK
from workbench.train.descent import cosine_to_zero
from workbench.train.latents import load_latents, read_listing, row_of
from workbench.train.transformer import Corruption, Latents, LinearDraft, chunk_loss

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import WanTransformer3DModel

CHECKPOINT, METRICS, CARD = "checkpoint.safetensors", "metrics.json", "README.md"
MOMENTS = ("exp_avg", "exp_avg_sq")
STEP_SEEDS = 1_000_003  # apart: no two steps, ranks or measurements share their draws


@dataclass(frozen=True)
class Options(Corruption):
    """What a training does; ``batch`` is a process's."""

    batch: int = 8
    steps: int = 20_000
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    ema: float = 0.999
    size: AdapterSize = field(default_factory=AdapterSize)
    slots: tuple[int, ...] = CHUNK_SLOTS  # of a batch's chunks, one drawn for each
    seed: int = 0
    measure_every: int = 1000
    held_out_rows: int = 64
    held_out_draws: int = 9  # batches of a measurement, every size of chunk in turn
    checkpointed: bool = False  # blocks are computed again in the backward pass: less memory, more time
    compiled: bool = False


class Lesson(nn.Module):
    """The model with what it learns from: a forward pass is the loss of a freshly drawn batch."""

    def __init__(self, model: AdaptedTransformer, data: Latents, linear: LinearDraft, options: Options) -> None:
        super().__init__()
        self.model, self.data, self.linear, self.options = model, data, linear, options

    def forward(self, slots: int) -> Tensor:
        """The loss of chunks of so many slots."""
        return chunk_loss(partial(generation.predict_clean, self.model), self.data, self.linear, self.options, slots)


class Learner:
    """An adapter that learns: one process's share of a training.

    Parameters
    ----------
    transformer : frozen here, in its own precision, on the accelerator's device.
    train, held_out : latents on that device.
    """

    def __init__(
        self,
        transformer: "WanTransformer3DModel",
        train: Latents,
        held_out: Latents,
        options: Options,
        accelerator: "Accelerator",
    ) -> None:
        self.options, self.accelerator, self.steps = options, accelerator, 0
        for data in (train, held_out):
            if data.z.shape[1] <= SLOTS_PER_CHUNK:
                raise InputError(
                    f"adapter training: latents of {data.z.shape[1]} slots hold no chunk; draw longer clips"
                )
        torch.manual_seed(options.seed)
        self.adapter = PlanAdapter(transformer, options.size, generation.FRAME_FEATURES).to(accelerator.device)
        self.average = {name: parameter.detach().clone() for name, parameter in self.adapter.named_parameters()}
        if options.compiled:  # identical blocks share one compilation
            for block in transformer.blocks:
                block.compile(dynamic=False)
        model = AdaptedTransformer(transformer, self.adapter, learns=True, checkpointed=options.checkpointed)
        linear = LinearDraft(train)
        self.held_out = Lesson(model, held_out, linear, options)
        cuda = accelerator.device.type == "cuda"
        optimiser = torch.optim.AdamW(
            self.adapter.parameters(), options.learning_rate, (0.9, 0.95), weight_decay=options.weight_decay, fused=cuda
        )
        self.lesson, self.optimiser = accelerator.prepare(Lesson(model, train, linear, options), optimiser)

    def step(self) -> Tensor:
        """One step of all processes, each on chunks of its own; the loss of this one's."""
        options, accelerator = self.options, self.accelerator
        number = 1 + self.steps * accelerator.num_processes + accelerator.process_index
        torch.manual_seed(options.seed + STEP_SEEDS * number)
        for group in self.optimiser.param_groups:
            group["lr"] = options.learning_rate * cosine_to_zero(self.steps, options.steps)
        self.optimiser.zero_grad()
        loss = self.lesson(options.slots[int(torch.randint(len(options.slots), ()))])
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(self.adapter.parameters(), 1.0)
        self.optimiser.step()
        decay = min(options.ema, (1 + self.steps) / (10 + self.steps))
        for name, parameter in self.adapter.named_parameters():
            self.average[name].lerp_(parameter.detach(), 1 - decay)
        self.steps += 1
        return loss.detach()

    @torch.no_grad()
    def measure(self) -> float:
        """The averaged adapter's loss on held-out clips: the same draws at every call."""
        live = {name: parameter.detach().clone() for name, parameter in self.adapter.named_parameters()}
        self.adapter.load_state_dict(self.average)
        losses = []
        for draw in range(self.options.held_out_draws):
            torch.manual_seed(self.options.seed - STEP_SEEDS * (1 + draw))
            losses.append(float(self.held_out(self.options.slots[draw % len(self.options.slots)])))
        self.adapter.load_state_dict(live)
        return float(np.mean(losses))

    def save(self, path: Path, about: str) -> None:
        """Everything that a later start needs, as float32."""
        state = {f"average.{name}": tensor for name, tensor in self.average.items()}
        for name, parameter in self.adapter.named_parameters():
            moments = self.optimiser.state.get(parameter, {})
            state[f"live.{name}"] = parameter.detach()
            state |= {f"{kind}.{name}": moments[kind] for kind in MOMENTS if kind in moments}
        facts = {"steps": str(self.steps), "about": about}
        with atomic_path(path) as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, temporary, metadata=facts)

    def restore(self, path: Path, about: str) -> None:
        """Go on where :meth:`save` was called.

        Raises
        ------
        InputError : the file is damaged, or of a training with other settings.
        """
        facts = read_header(path)[1]
        if facts.get("about") != about:
            raise InputError(f"{path}: of a training with other settings; give another --out, or the same settings")
        state = {name: tensor.to(self.accelerator.device) for name, tensor in load_file(path).items()}
        self.steps = int(facts["steps"])
        for name, parameter in self.adapter.named_parameters():
            parameter.data.copy_(state[f"live.{name}"])
            self.average[name].copy_(state[f"average.{name}"])
            if self.steps:
                moments = {kind: state[f"{kind}.{name}"].clone() for kind in MOMENTS}
                steps = torch.tensor(float(self.steps), device=parameter.device)
                self.optimiser.state[parameter] = {"step": steps, **moments}


def train(
    video: Video,
    latents: Path,
    out: Path,
    options: Options,
    accelerator: "Accelerator",
    stop_after: int | None = None,
) -> dict | None:
    """Train to the end, or for so many steps from here; returns the metrics that ``out/metrics.json`` holds, the first
    process alone.

    Raises
    ------
    InputError : the checkpoint or the latents are absent or do not fit; ``out`` holds a training with other settings.
    """
    listing, device = read_listing(latents), accelerator.device
    vae_digest = vae_sha256(wan.load_vae(video.source, dtype=torch.float32, revision=video.revision))
    if vae_digest != listing["vae_sha256"]:
        raise InputError(f"{latents}: latents of another VAE than {video.source}'s; run workbench.train.latents again")
    dtype = getattr(torch, video.transformer_dtype)
    transformer = wan.load_transformer(video.source, dtype=dtype, device=device, revision=video.revision)
    held_out = load_latents(latents, "validation", device, options.held_out_rows)
    learner = Learner(transformer, load_latents(latents, "train", device), held_out, options, accelerator)
    about_size = options.size, generation.FRAME_FEATURES, listing["pixels"], options.slots
    facts = facts_of(transformer, vae_digest, *about_size)
    settings = {"options": asdict(options), "processes": accelerator.num_processes, "facts": asdict(facts)}
    about = json.dumps(settings | {"corpus": listing["corpus"]["sha256"]}, sort_keys=True)
    curve: list[dict] = []
    begun = (out / CHECKPOINT).is_file()
    accelerator.wait_for_everyone()  # before the first process writes one
    if begun:
        learner.restore(out / CHECKPOINT, about)
        curve = read_object(out / METRICS)["curve"]
    metrics = settings | {
        "source": Path(video.source).name if Path(video.source).is_dir() else video.source,
        "label": video.label,
        "corpus": listing["corpus"],
        "parameters": sum(parameter.numel() for parameter in learner.adapter.parameters()),
        "device": device_facts(device),
    }
    began, ends_at = time.perf_counter(), options.steps if stop_after is None else learner.steps + stop_after
    while True:
        at_the_end = learner.steps >= min(ends_at, options.steps)
        if at_the_end or learner.steps % options.measure_every == 0:
            if not curve or curve[-1]["step"] != learner.steps:
                curve.append({"step": learner.steps, "held_out_loss": round(learner.measure(), 5)})
                if not np.isfinite(curve[-1]["held_out_loss"]):
                    raise InputError(f"adapter training: no finite loss at step {learner.steps}; lower --learning-rate")
            if accelerator.is_main_process:
                told = curve[-1]["held_out_loss"]
                print(
                    f"step {learner.steps}: held-out loss {told:.4f}, {time.perf_counter() - began:.0f} s", flush=True
                )
                _write(out, learner, facts, metrics | {"steps": learner.steps, "curve": curve}, about)
            accelerator.wait_for_everyone()
        if at_the_end:
            break
        learner.step()
    return metrics | {"steps": learner.steps, "curve": curve} if accelerator.is_main_process else None


def _write(out: Path, learner: Learner, facts: AdapterFacts, metrics: dict, about: str) -> None:
    """The averaged adapter with its card, then the place to go on from."""
    averaged = PlanAdapter(learner.held_out.model.base, facts.size, facts.frame_features)
    averaged.load_state_dict({name: tensor.cpu() for name, tensor in learner.average.items()})
    save_adapter(out, averaged, facts)
    write_json(out / METRICS, metrics)
    write_text(out / CARD, model_card(metrics))
    learner.save(out / CHECKPOINT, about)


def model_card(metrics: dict) -> str:
    """The adapter's card in Markdown, every number from the training."""
    options, corpus, curve = metrics["options"], metrics["corpus"], metrics["curve"]
    size, facts = options["size"], metrics["facts"]
    losses = "\n".join(f"| {row['step']} | {row['held_out_loss']:.4f} |" for row in curve)
    return f"""# Adapter of `{metrics["source"]}`

{metrics["parameters"] / 1e6:.1f} M numbers beside its {facts["layers"]} blocks of width {facts["width"]}.
A slot's plan becomes {size["features"]} features; low-rank changes have rank {size["rank"]}. Trained on faces of
{facts["pixels"]} px in chunks of {", ".join(map(str, facts["chunk_slots"]))} slots.

Loss on held-out clips ({metrics["label"]}; step 0 is the base model, which knows no plan). What a viewer would see was
not measured.

| step | held-out loss |
|---|---|
{losses}

Data: {corpus["frames"]} frames of {corpus["heads"]} heads, made by `python -m workbench.train.faces` (seed
{corpus["seed"]}, listing's sha256 {corpus["sha256"][:16]}).

Training: `python -m workbench.train.adapter`, {metrics["steps"]} of {options["steps"]} steps of {options["batch"]}
chunks on each of {metrics["processes"]} processes, seed {options["seed"]}, {metrics["device"]["device"]} (torch
{metrics["device"]["torch"]}). The weights are an exponential average.
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.adapter", description=__doc__.splitlines()[0])
    parser.add_argument("--row", required=True, help="the row that names the checkpoint (video.source)")
    parser.add_argument("--latents", type=Path, required=True, help="made by python -m workbench.train.latents")
    parser.add_argument("--out", type=Path, required=True)
    usual = Options()
    for name in ("steps", "batch", "learning_rate", "measure_every", "held_out_rows", "seed"):
        value = getattr(usual, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--rank", type=int, default=usual.size.rank, help="of the low-rank changes; 0: none")
    parser.add_argument("--checkpointed", action="store_true", help="compute blocks again backwards: less memory")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--stop-after", type=int, help="end after so many steps; started again it goes on")
    given = parser.parse_args(arguments)
    from accelerate import Accelerator

    try:
        options = replace(
            usual,
            **{name: getattr(given, name) for name in ("steps", "batch", "learning_rate", "measure_every")},
            **{name: getattr(given, name) for name in ("held_out_rows", "seed", "checkpointed")},
            compiled=given.compile,
            size=replace(usual.size, rank=given.rank, alpha=float(given.rank)),
        )
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        train(row_of(given.row).video, given.latents, given.out, options, accelerator, given.stop_after)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
