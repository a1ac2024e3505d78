"""Training the causal front: teachers that hear everything, then the draft and the judge's ears, distilled from them.

``python -m workbench.train.front --speech DIR --out DIR --variants NAME[,NAME …] --seconds S`` trains the named fits on
the same batches for so long; a second call goes on where the first stopped. Fits of family *unseen* never learn from
the English corpus' speaker, so that all of her speech can test them.

Source of the idea: Whisper's blocks made causal, with the chunk in view (kernels/causal_front/README.md).
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kernels.causal_front import reference
from kernels.causal_front.reference import WIDTH, FrontWeights
from specsync_lib import units
from specsync_lib.draft.front_weights import Kept, load_front, narrowed, save_front, whisper_tensors
from specsync_lib.draft.plan import PRIOR_MEAN, SPREAD
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_json
from specsync_lib.visemes import VISEME_INDEX
from workbench.train.draft import half_precision, log_mel_rows, normalise_rows
from workbench.train.front_speech import (
    NOISE_KINDS,
    UNKNOWN,
    Corpus,
    frames_of_crop,
    make_noise,
    one_hot,
    openness_of_probabilities,
)

HIDDEN = 256
ROWS = 128
EMA_DECAY = 0.999
LABEL_SMOOTHING = 0.05
TRUTH_SHARE = 0.5  # of the loss where truth is known and a teacher speaks too
OPENNESS_SHARE = 0.3
DROPOUT = 0.1
WARM_UP_STEPS = 150
NEW_WEIGHT_DECAY = 0.05  # of what is new; Whisper's own tensors may move freely and are not pulled to zero
CHUNKS = (4, 8, 12)
REFRESH_SECONDS = 20.0
HELD_UTTERANCES = 192
TEMPERATURES = np.linspace(0.6, 2.5, 77)


@dataclass(frozen=True)
class Variant:
    """One fit. ``full``: every position sees all (a teacher); ``teacher``: whose probabilities it learns from."""

    blocks: int
    family: str = "main"  # or "unseen"
    teacher: str | None = None
    full: bool = False
    past: int = 100
    heads: int = 8
    inner: int = 2048
    look_ahead: int = units.WINDOW_AHEAD_MEL_FRAMES
    start: str | None = None  # a fit to start from; None: Whisper
    rate: float = 2e-4


VARIANTS = {
    "teacher": Variant(4, full=True, rate=1.5e-4),
    "teacher_unseen": Variant(4, "unseen", full=True, rate=1.5e-4),
    "draft": Variant(2, teacher="teacher_unseen"),
    "draft_unseen": Variant(2, "unseen", teacher="teacher_unseen"),
    "draft_1": Variant(1, teacher="teacher_unseen"),
    "draft_1_unseen": Variant(1, "unseen", teacher="teacher_unseen"),
    "draft_narrow": Variant(2, teacher="teacher_unseen", heads=4, inner=1024),
    "draft_1_narrow": Variant(1, teacher="teacher_unseen", heads=4, inner=1024),
    "ears": Variant(4, teacher="teacher_unseen", past=200, start="teacher_unseen", rate=1.5e-4),
    "ears_unseen": Variant(4, "unseen", teacher="teacher_unseen", past=200, start="teacher_unseen", rate=1.5e-4),
    **{f"look_{10 * rows:03d}_ms": Variant(1, "unseen", look_ahead=rows) for rows in (0, 2, 4, 6, 10)},
    "curve": Variant(1, "unseen"),
}


def kept_of(base: dict[str, Tensor], variant: Variant) -> dict[int, Kept]:
    """The heads and inner units that a narrowed fit keeps: those whose weights out are largest."""
    if variant.heads == WIDTH // reference.HEAD_WIDTH and variant.inner == len(base["blocks.0.up_w"]):
        return {}
    kept = {}
    for index in range(variant.blocks):
        values = base[f"blocks.{index}.qkv_w"][2 * WIDTH :].unflatten(0, (-1, reference.HEAD_WIDTH)).norm(dim=(1, 2))
        out = base[f"blocks.{index}.out_w"].unflatten(1, (-1, reference.HEAD_WIDTH)).norm(dim=(0, 2))
        inner = base[f"blocks.{index}.down_w"].norm(dim=0) * base[f"blocks.{index}.up_w"].norm(dim=1)
        heads = (values * out).topk(variant.heads).indices.sort().values
        chosen = inner.topk(variant.inner).indices.sort().values
        kept[index] = Kept(tuple(heads.tolist()), tuple(chosen.tolist()))
    return kept


def fresh(base: dict[str, Tensor], variant: Variant, seed: int) -> FrontWeights:
    """A front before training: Whisper's layers, new heads."""
    generator = torch.Generator().manual_seed(seed)
    names = [f"blocks.{index}." for index in range(variant.blocks)]
    tensors = {n: t for n, t in base.items() if not n.startswith("blocks.") or n.startswith(tuple(names))}
    tensors = narrowed(tensors, kept_of(base, variant))
    wide = reference.READ_POSITIONS * WIDTH

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    heads = {
        "norm_w": torch.ones(WIDTH), "norm_b": torch.zeros(WIDTH), "hidden_w": normal(HIDDEN, wide),
        "hidden_b": torch.zeros(HIDDEN), "phase_w": torch.zeros(reference.PHASES, HIDDEN),
        "left_w": torch.zeros(reference.LONGEST_CHUNK_FRAMES, HIDDEN), "viseme_w": normal(len(units.VISEMES), HIDDEN),
        "viseme_b": torch.zeros(len(units.VISEMES)), "open_w": normal(1, HIDDEN), "open_b": torch.zeros(1),
        "temperature": torch.tensor(1.0),
    }  # fmt: skip
    return FrontWeights.from_tensors(tensors | heads, variant.past)


# ------------------------------------------------------------------------------------------------------ the fit's view


@cache
def ends_of_frames(look_ahead: int, frames: int | None = None) -> tuple[int, ...]:
    """The last position that each frame reads: of a crop, or of so many frames."""
    if frames is None:
        frames = min(frames_of_crop(look_ahead), frames_of_crop())
    return tuple((units.centre_mel_frame(k) + look_ahead - 2) // 2 for k in range(frames))


@cache
def view(
    chunk: int, phase: int, past: int, look_ahead: int, device: str, frames: int | None = None
) -> tuple[Tensor, Tensor]:
    """Who sees whom [P, P] when chunks of ``chunk`` frames end at (frame + phase) % chunk = chunk - 1, and how many
    frames follow each frame in its chunk."""
    ends = ends_of_frames(look_ahead, frames)
    frames = len(ends)
    left = [min(chunk - 1 - (frame + phase) % chunk, frames - 1 - frame) for frame in range(frames)]
    upto, position = [], 0
    for frame in range(frames):
        if left[frame] == 0:
            upto += [ends[frame]] * (ends[frame] + 1 - position)
            position = ends[frame] + 1
    place = torch.arange(len(upto))
    seen = (place[:, None] - place <= past) & (place <= torch.tensor(upto)[:, None])
    return seen.to(device), torch.tensor(left, device=device)


class Fit(nn.Module):
    """A front while it learns: :mod:`kernels.causal_front.reference` on rows of crops, under a drawn chunk mask."""

    def __init__(self, weights: FrontWeights, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        fixed = ("positions", "temperature")
        tensors = weights.tensors()
        self.names = [name for name in tensors if name not in fixed]
        self.values = nn.ParameterList(nn.Parameter(tensors[name].clone()) for name in self.names)
        for name in fixed:
            self.register_buffer(name, tensors[name].clone(), persistent=False)
        self.register_buffer("prior", torch.from_numpy(PRIOR_MEAN).float(), persistent=False)

    def weights(self) -> FrontWeights:
        """The front as it stands."""
        named = dict(zip(self.names, self.values, strict=True))
        return FrontWeights.from_tensors(
            named | {"positions": self.positions, "temperature": self.temperature}, self.variant.past
        )

    def forward(
        self, mel: Tensor, chunk: int, phase: int, first_position: int, frames: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Normalised log-mel rows to viseme logits [B, frames, 15] and openness logits [B, frames]; ``frames``: of rows
        that are no crop."""
        front, variant = self.weights(), self.variant
        seen, left = view(chunk, phase, variant.past, variant.look_ahead, str(mel.device), frames)
        ends = torch.tensor(ends_of_frames(variant.look_ahead, frames), device=mel.device)
        rows = F.pad(mel * SPREAD + self.prior, (0, 0, 2, 2))
        x = reference.convolve(rows, front, 0)[:, : len(seen)]
        x = reference.add_positions(x, front, first_position)
        mask = None if variant.full else seen
        for block in front.blocks:
            x = reference.after_attention(
                x, F.scaled_dot_product_attention(*reference.queries_keys_values(x, block), attn_mask=mask), block
            )
        x = F.layer_norm(x, (WIDTH,), front.norm_w, front.norm_b)
        place = ends[:, None] + torch.arange(1 - reference.READ_POSITIONS, 1, device=mel.device)
        padded = F.pad(x, (0, 0, reference.READ_POSITIONS, 0))
        # index_select: its gradient is a plain addition, where indexing would sort
        heard = padded.index_select(1, (place + reference.READ_POSITIONS).clamp(min=0).flatten())
        heard = heard.unflatten(1, place.shape).flatten(2)
        heard = F.dropout(heard, DROPOUT, self.training)
        phase3 = torch.arange(len(ends), device=mel.device) % reference.PHASES
        hidden = reference.hidden_features(heard, front, phase3, torch.zeros_like(left) if variant.full else left)
        hidden = F.dropout(hidden, DROPOUT, self.training)
        opening = F.linear(hidden, front.open_w, front.open_b)[..., 0]
        return F.linear(hidden, front.viseme_w, front.viseme_b).float(), opening.float()


def heard_rows(samples: Tensor) -> Tensor:
    """Normalised log-mel of rows of samples, as the stream makes it."""
    return normalise_rows(log_mel_rows(samples))


# ------------------------------------------------------------------------------------------------------------ training


class Trainee:
    """A fit with its average and its optimiser."""

    def __init__(
        self, name: str, base: dict[str, Tensor], out: Path, device: torch.device, seed: int, begin: Path | None = None
    ) -> None:
        self.name, self.variant = name, VARIANTS[name.split("@")[0]]
        weights = fresh(base, self.variant, seed)
        path = begin / f"{name}.safetensors" if begin else out / f"{self.variant.start}.safetensors"
        if begin or self.variant.start:
            begun = load_front(path, base)
            weights = FrontWeights.from_tensors(begun.tensors(), self.variant.past)
        self.kept = kept_of(base, self.variant)
        self.fit, self.average = (Fit(weights, self.variant).to(device) for _ in range(2))
        self.average.eval().requires_grad_(False)
        old = [value for name, value in zip(self.fit.names, self.fit.values, strict=True) if name in base]
        new = [value for name, value in zip(self.fit.names, self.fit.values, strict=True) if name not in base]
        groups = [{"params": old, "weight_decay": 0.0}, {"params": new, "weight_decay": NEW_WEIGHT_DECAY}]
        self.optimiser = torch.optim.AdamW(groups, self.variant.rate, betas=(0.9, 0.98), fused=device.type == "cuda")
        self.loss = torch.zeros((), device=device)

    def step(self, loss: Tensor, step: int, progress: float) -> None:
        """One update of the weights and of their average."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.fit.parameters(), 1.0)
        rise = min(1.0, (step + 1) / WARM_UP_STEPS)
        for group in self.optimiser.param_groups:
            group["lr"] = self.variant.rate * rise * max(0.01, 0.5 * (1 + np.cos(np.pi * min(1.0, progress))))
        self.optimiser.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values), [value.detach() for value in self.fit.values], 1 - decay)
        self.loss = loss.detach()

    def state(self) -> dict[str, Tensor]:
        """Everything that training needs to go on."""
        found = {}
        for index, (value, average) in enumerate(zip(self.fit.values, self.average.values, strict=True)):
            moments = self.optimiser.state.get(value, {})
            parts = {"value": value.detach(), "average": average, **moments}
            found |= {f"{index}.{part}": tensor.clone() for part, tensor in parts.items()}
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        with torch.no_grad():
            for index, (value, average) in enumerate(zip(self.fit.values, self.average.values, strict=True)):
                value.copy_(state[f"{index}.value"])
                average.copy_(state[f"{index}.average"])
                self.optimiser.state[value] = {
                    part: state[f"{index}.{part}"].to("cpu" if part == "step" and not value.is_cuda else value.device)
                    for part in ("step", "exp_avg", "exp_avg_sq")
                }


def loss_of(
    trainee: Trainee, logits: Tensor, opening: Tensor, labels: Tensor, taught: Tensor | None, counts: Tensor
) -> Tensor:
    """Truth where it is known, the teacher everywhere; openness follows whichever is there."""
    frames = logits.shape[1]
    labels = labels[:, :frames]
    known = (labels != UNKNOWN) & counts[:, None]
    truth = F.cross_entropy(
        logits.transpose(1, 2), torch.where(known, labels, 0), label_smoothing=LABEL_SMOOTHING, reduction="none"
    )
    target, weight = one_hot(labels), known
    loss = (truth * known).sum() / known.sum().clamp(min=1)
    if taught is not None:
        said = taught[:, :frames]
        weight = counts[:, None].expand(-1, frames)
        distance = -(said * logits.log_softmax(dim=2)).sum(dim=2)
        loss = TRUTH_SHARE * loss + (1 - TRUTH_SHARE) * (distance * weight).sum() / weight.sum().clamp(min=1)
        target = torch.where(known[..., None], target, said)
    aim = openness_of_probabilities(target)
    gap = F.binary_cross_entropy_with_logits(opening, aim, reduction="none")
    return loss + OPENNESS_SHARE * (gap * weight).sum() / weight.sum().clamp(min=1)


@torch.no_grad()
def taught_by(teacher: Fit, mel: Tensor) -> Tensor:
    """A teacher's probabilities [B, frames, 15] on clean speech."""
    with half_precision(mel.device):
        logits, _ = teacher(mel, units.FRAMES_PER_CHUNK, 0, 0)
    return logits.softmax(dim=2)


def train(
    trainees: list[Trainee],
    teachers: dict[str, Fit],
    corpus: Corpus,
    *,
    seconds: float,
    rows: int,
    steps: int | None,
    done: tuple[int, float],
    whole_seconds: float,
) -> tuple[int, float]:
    """Train for so many seconds (or up to so many steps); returns steps and seconds done in all.

    The learning rate falls over ``whole_seconds``, of which earlier calls may have spent some.
    """
    step, spent = done
    began = refreshed = time.monotonic()
    device = corpus.device
    while True:
        elapsed = time.monotonic() - began
        progress = (spent + elapsed) / whole_seconds if steps is None else step / steps
        if progress >= 1 or elapsed >= seconds or (steps is not None and step >= steps):
            break
        if time.monotonic() - refreshed > REFRESH_SECONDS:
            corpus.refresh()
            refreshed = time.monotonic()
        batch = corpus.draw(rows)
        clean, mel = heard_rows(batch.clean), heard_rows(batch.recorded)
        said = {name: taught_by(teacher, clean) for name, teacher in teachers.items()}
        chunk = int(corpus.rng.choice(CHUNKS))
        phase, place = int(corpus.rng.integers(chunk)), int(corpus.rng.integers(reference.WHEEL))
        for trainee in trainees:
            counts = (
                ~batch.trained_speaker if trainee.variant.family == "unseen" else torch.ones_like(batch.trained_speaker)
            )
            with half_precision(device):
                logits, opening = trainee.fit(mel, chunk, phase, 0 if trainee.variant.full else place)
            taught = said.get(trainee.variant.teacher)
            trainee.step(loss_of(trainee, logits, opening, batch.labels, taught, counts), step, progress)
        step += 1
        if step % 200 == 0 or step in (1, 20):
            losses = {trainee.name: round(float(trainee.loss), 3) for trainee in trainees}
            print(
                f"step {step}, {time.monotonic() - began:.0f} s, {corpus.total_minutes:.0f} min: {losses}", flush=True
            )
    return step, spent + time.monotonic() - began


# ---------------------------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def held_voices(fits: dict[str, Fit], corpus: Corpus) -> dict[str, dict]:
    """Accuracy, temperature and silence on voices that nobody trained on: clean, and under noise at 10 dB."""
    found = {name: {} for name in fits}
    pooled: dict[str, list] = {name: [] for name in fits}
    for condition in ("clean", "white", "pink", "babble"):
        logits, labels = {name: [] for name in fits}, []
        for first in range(0, HELD_UTTERANCES, 64):
            batch = corpus.draw_held(first, 64)
            if batch is None:
                break
            recorded = batch.clean
            if condition != "clean":
                kind = torch.full((len(recorded),), list(NOISE_KINDS).index(condition), device=corpus.device)
                active = recorded.square().sum(dim=1, keepdim=True) / (recorded.abs() > 0).sum(
                    dim=1, keepdim=True
                ).clamp(min=1)
                recorded = recorded + make_noise(recorded, kind, corpus.generator) * active.sqrt() * 10**-0.5
            mel = heard_rows(recorded)
            labels.append(batch.labels)
            for name, fit in fits.items():
                logits[name].append(fit(mel, units.FRAMES_PER_CHUNK, 0, 0)[0])
        if not labels:
            return found
        for name, parts in logits.items():
            said = torch.cat(parts).flatten(0, 1)
            truth = torch.cat([one[:, : parts[0].shape[1]] for one in labels]).flatten()
            right = said.argmax(dim=1) == truth
            silent = truth == VISEME_INDEX["sil"]
            spoken = right[~silent].float().mean().item()
            found[name][condition] = {
                "speech": round(spoken, 4),
                "silence": round(right[silent].float().mean().item(), 4),
                "frames": len(truth),
            }
            pooled[name].append((said[~silent], truth[~silent]))
    for name, parts in pooled.items():
        said, truth = (torch.cat(side) for side in zip(*parts, strict=True))
        costs = [F.cross_entropy(said / temperature, truth).item() for temperature in TEMPERATURES]
        found[name]["temperature"] = round(float(TEMPERATURES[int(np.argmin(costs))]), 3)
    return found


# ------------------------------------------------------------------------------------------------------------- command


def run(options: argparse.Namespace) -> dict:
    """Train and evaluate the named fits; write each as differences to Whisper, and what was done as JSON."""
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.variants.split(",")
    blocks = max(VARIANTS[name.split("@")[0]].blocks for name in names)
    base = load_file(options.base) if options.base else whisper_tensors(max(4, blocks))
    base = {name: tensor.float() for name, tensor in base.items()}
    corpus = Corpus(
        options.speech, device, options.seed, minutes=options.minutes, voices=options.voices, human=not options.no_human
    )
    teachers = {}
    wanted = {VARIANTS[name.split("@")[0]].teacher for name in names} - {None}
    for name in sorted(wanted if not options.no_teacher else ()):
        path = options.out / f"{name}.safetensors"
        teachers[name] = Fit(load_front(path, base), VARIANTS[name]).to(device).eval().requires_grad_(False)
    trainees = [Trainee(name, base, options.out, device, options.seed, options.begin) for name in names]
    done = (0, 0.0)
    state_path = options.out / f"state_{options.name}.safetensors"
    if state_path.is_file():
        stored = load_file(state_path, device=str(device))
        for trainee in trainees:
            prefix = f"{trainee.name}/"
            trainee.restore({n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)})
        done = json.loads(state_path.with_suffix(".json").read_text())
    done = train(
        trainees, teachers, corpus, seconds=options.seconds, rows=options.rows, steps=options.steps, done=tuple(done),
        whole_seconds=options.whole_seconds or options.seconds,
    )  # fmt: skip
    if options.resumable:
        with atomic_path(state_path) as temporary:
            states = {f"{t.name}/{name}": tensor.contiguous() for t in trainees for name, tensor in t.state().items()}
            save_file(states, temporary)
        write_json(state_path.with_suffix(".json"), list(done))
    for trainee in trainees:
        path = options.out / f"{trainee.name.replace('@', '_')}.safetensors"
        save_front(path, trainee.average.weights(), base, bits=8, kept=trainee.kept)
    report = {
        "steps": done[0],
        "seconds": round(done[1], 1),
        "rows": options.rows,
        "seed": options.seed,
        "minutes": round(corpus.total_minutes, 1),
        "utterances": len(corpus.chances),
        "human": not options.no_human,
        "teachers": sorted(teachers),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m workbench.train.front", *sys.argv[1:]]),
        "variants": {trainee.name: asdict(trainee.variant) for trainee in trainees},
        "held_voices": held_voices({trainee.name: trainee.average for trainee in trainees}, corpus),
    }
    write_json(options.out / f"report_{options.name}.json", report)
    for name, found in report["held_voices"].items():
        print(name, json.dumps(found), flush=True)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Train fits of the causal front."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.front", description=__doc__.split("\n")[0])
    parser.add_argument("--speech", type=Path, required=True, help="folder with shard*.npz and human*.npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", required=True, help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--name", default="run", help="of this run's report and state")
    parser.add_argument("--base", type=Path, help="Whisper's tensors (save_whisper); default: the asset")
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--whole-seconds", type=float, help="over which the learning rate falls; default: --seconds")
    parser.add_argument("--steps", type=int, help="instead of a time: so many steps in all")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--voices", type=int)
    parser.add_argument("--no-human", action="store_true", help="synthetic voices alone")
    parser.add_argument("--begin", type=Path, help="folder of stored fits to start from, instead of Whisper")
    parser.add_argument("--no-teacher", action="store_true", help="learn from truth alone")
    parser.add_argument("--resumable", action="store_true", help="keep the optimiser's state beside the fits")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
