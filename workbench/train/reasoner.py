"""Teaching the reasoner to write plans: a low-rank adapter on a small language model.

``python -m workbench.train.reasoner LESSONS.npz --out DIR --minutes 40`` (lessons from `lessons`; the
training extra) runs on a CPU or, with ``--device cuda``, on a GPU. It saves what it needs to go on every minute: the
same command after an interruption goes on from there. ``--start DIR`` begins with the adapter of another run,
``--sources`` picks whose speech is heard.

An example is the text of an utterance as `reasoner.Script` spells it. Only the plan tokens are learned, as a choice
among the alphabet's 15. So that the model neither copies the probe nor leans on words, a lesson may lose its probe, all
its words or a few; times and probabilities shake; and the tokens written before may be wrong, as they will be in use.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2106.09685.
"""

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_text
from specsync_lib.judge.loading import DEFAULT_MODEL, dense_copy, load_language_model
from specsync_lib.judge.reasoner import WINDOW_TOKENS
from specsync_lib.judge.script import Script, TimedWord, chunk_evidence
from workbench.train.descent import cosine_to_zero

SAVE_EVERY_S = 60.0
WARM_UP_RESOLUTION = 1000  # `descent.cosine_to_zero` counts steps; progress is a share
CURVE_EVERY = 10  # steps between two rows of losses.csv


@dataclass(frozen=True)
class Settings:
    """What a fit hangs on."""

    minutes: float = 40.0
    most_steps: int = 100_000  # what ends first ends the fit; the learning rate falls to 0 by then
    batch_tokens: int = 1024
    rank: int = 8
    alpha: int = 16
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    largest_gradient: float = 1.0
    window_tokens: int = WINDOW_TOKENS
    no_probe_chance: float = 0.10
    no_words_chance: float = 0.50  # live there are none
    lost_word_chance: float = 0.05
    word_start_frames: tuple[float, float] = (-2.0, 2.0)  # mean and deviation from the aligned time: Whisper's own
    word_end_frames: tuple[float, float] = (-3.0, 2.5)
    probe_noise_chance: float = 0.15
    probe_noise_neper: float = 0.7
    known_sources: tuple[str, ...] = ("speech-en",)  # whose speech taught the ears; see `as_unheard`
    displaced_share: float = 0.03
    sharper: float = 1.15
    stretch_frames: tuple[int, int] = (2, 8)
    true_past_share: float = 0.25
    past_stretch_frames: tuple[int, int] = (3, 16)
    seed: int = 0


@dataclass(frozen=True)
class Lesson:
    """One utterance: what is said when, its loudness, what a probe heard in it, and the truth.

    words: by frames; energy: [frames] int8 digits; probe: [frames, 15] float32 probabilities; truth: [frames] int8.
    """

    name: str
    source: str
    split: str
    words: tuple[TimedWord, ...]
    energy: np.ndarray
    probe: np.ndarray
    truth: np.ndarray


def save_lessons(lessons: Sequence[Lesson], path: Path) -> None:
    """Write them as one npz of plain arrays."""
    table = [
        {
            "name": lesson.name, "source": lesson.source, "split": lesson.split, "frames": len(lesson.truth),
            "words": [[word.text, word.first_frame, word.last_frame] for word in lesson.words],
        }
        for lesson in lessons
    ]  # fmt: skip
    joined = {part: np.concatenate([getattr(lesson, part) for lesson in lessons]) for part in ("energy", "truth")}
    probe = np.concatenate([lesson.probe for lesson in lessons]).astype(np.float16)
    text = np.frombuffer(json.dumps(table).encode(), np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, table=text, probe=probe, **joined)


def load_lessons(path: Path) -> list[Lesson]:
    """Read what ``save_lessons`` wrote.

    Raises
    ------
    InputError: the file is absent or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            table = json.loads(arrays["table"].tobytes())
            energy, truth, probe = arrays["energy"], arrays["truth"], arrays["probe"].astype(np.float32)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"lessons {path}: {error}; run python -m workbench.train.lessons") from error
    ends = np.cumsum([row["frames"] for row in table])
    if len(ends) and not ends[-1] == len(energy) == len(truth) == len(probe):
        raise InputError(f"lessons {path}: {ends[-1]} frames in the table, {len(truth)} in the arrays; gather again")
    return [
        Lesson(
            row["name"],
            row["source"],
            row["split"],
            tuple(TimedWord(*word) for word in row["words"]),
            *(array[end - row["frames"] : end] for array in (energy, probe, truth)),
        )
        for row, end in zip(table, ends, strict=True)
    ]


@dataclass(frozen=True)
class Example:
    """A text to learn from: tokens, the places whose next token is a plan token, and the viseme that is right there."""

    tokens: list[int]
    places: list[int]
    targets: list[int]


def disturb(
    lesson: Lesson, settings: Settings, rng: np.random.Generator
) -> tuple[list[TimedWord], np.ndarray, np.ndarray]:
    """What the model is told in place of the lesson's own words [w] and probe [frames, 15], and the tokens it reads as
    already written [frames]: the truth but for the errors it will meet in use."""
    frames = len(lesson.truth)
    lost = rng.random()
    words = []
    for word in lesson.words if lost >= settings.no_words_chance else ():
        first, last = (round(rng.normal(*shift)) for shift in (settings.word_start_frames, settings.word_end_frames))
        first = min(max(0, word.first_frame + first), frames - 1)
        last = min(max(first, word.last_frame + last), frames - 1)
        if rng.random() >= settings.lost_word_chance:
            words.append(TimedWord(word.text, first, last))
    words.sort(key=lambda word: word.first_frame)
    probe = lesson.probe
    if lesson.source in settings.known_sources:
        probe = as_unheard(probe, settings, rng)
    if rng.random() < settings.probe_noise_chance:
        noisy = np.log(probe.clip(1e-4)) + rng.normal(0, settings.probe_noise_neper, probe.shape)
        probe = np.exp(noisy - noisy.max(axis=1, keepdims=True))
        probe = (probe / probe.sum(axis=1, keepdims=True)).astype(np.float32)
    if lost < 1 - settings.no_probe_chance:
        return words, probe, written_past(lesson.truth, probe.argmax(axis=1), settings, rng)
    # What the probe heard must not be told by the tokens written before either: there, truth at another time.
    elsewhere = np.roll(lesson.truth, rng.integers(frames))
    moved = np.roll(lesson.truth, rng.integers(-3, 4))
    return (
        words,
        np.full_like(probe, 1 / probe.shape[1]),
        written_past(lesson.truth, moved if rng.random() < 0.7 else elsewhere, settings, rng),
    )


def as_unheard(
    probe: Float[np.ndarray, "frames 15"], settings: Settings, rng: np.random.Generator
) -> Float[np.ndarray, "frames 15"]:
    """What ears hear, through noise, of speech that they learned from, as if they heard others without noise: surer,
    and a stretch here and there a frame early or late. So it errs as on validation speech (`lessons.heard_well`)."""
    frames = len(probe)
    ends = np.cumsum(rng.integers(*settings.stretch_frames, frames))
    displaced = np.where(rng.random(frames) < settings.displaced_share, rng.choice([-1, 1], frames), 0)
    displaced = displaced[np.searchsorted(ends, np.arange(frames), side="right")]
    heard = probe[(np.arange(frames) + displaced).clip(0, frames - 1)].clip(1e-5) ** settings.sharper
    return (heard / heard.sum(axis=1, keepdims=True)).astype(np.float32)


def written_past(truth: np.ndarray, guess: np.ndarray, settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """The tokens [frames] that the model reads as already written: stretches of the truth between those of a guess.

    In use they are its own, and where it errs it errs for a whole sound. A model that always read the truth would learn
    to go on with whatever was written last.
    """
    ends = np.cumsum(rng.integers(*settings.past_stretch_frames, len(truth)))
    stretch = np.searchsorted(ends, np.arange(len(truth)), side="right")
    true_stretch = rng.random(len(truth)) < settings.true_past_share
    return np.where(true_stretch[stretch], truth, guess)


def examples(
    script: Script,
    lesson: Lesson,
    window_tokens: int,
    told: tuple[Sequence[TimedWord], np.ndarray, np.ndarray] | None = None,
) -> Iterator[Example]:
    """The text of a lesson as a stream would read it; where it outgrows the window, another example begins.

    ``told``: words, probe and written tokens from `disturb`; by default the lesson's own with the truth written.
    """
    words, probe, written = told or (lesson.words, lesson.probe, lesson.truth)
    tokens, places, targets = list(script.start), [], []
    announced: set[tuple[str, int]] = set()
    for evidence in chunk_evidence(words, lesson.energy, probe):
        lines = script.lines(evidence, announced)
        if places and len(tokens) + sum(map(len, lines)) + len(lines) > window_tokens:
            yield Example(tokens, places, targets)
            tokens, places, targets = list(script.start), [], []
        for frame, line in enumerate(lines, evidence.first_frame):
            tokens += line
            places.append(len(tokens) - 1)
            targets.append(int(lesson.truth[frame]))
            tokens.append(script.letter(written[frame]))
    if places:
        yield Example(tokens, places, targets)


def epoch_batches(script: Script, lessons: Sequence[Lesson], settings: Settings, epoch: int) -> Iterator[list[Example]]:
    """Every lesson once, disturbed, in groups of like length of about ``batch_tokens``.

    An epoch is a function of the seed and its number alone, so that a run that goes on sees what it would have seen.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    found = [
        example
        for lesson in lessons
        for example in examples(script, lesson, settings.window_tokens, disturb(lesson, settings, rng))
    ]
    # Like lengths together waste no padding; a little noise keeps the same neighbours from meeting every time.
    found.sort(key=lambda example: len(example.tokens) * rng.uniform(0.9, 1.1))
    groups, group = [], []
    for example in found:
        if group and (len(group) + 1) * max(len(e.tokens) for e in [*group, example]) > settings.batch_tokens:
            groups.append(group)
            group = []
        group.append(example)
    groups.append(group)
    for index in rng.permutation(len(groups)):
        yield groups[index]


def batches(script: Script, lessons: Sequence[Lesson], settings: Settings, skip: int = 0) -> Iterator[list[Example]]:
    """The batches of endless epochs; the first ones are skipped."""
    epochs = (epoch_batches(script, lessons, settings, epoch) for epoch in count())
    yield from islice(chain.from_iterable(epochs), skip, None)


def batch_logits(model: nn.Module, alphabet: Tensor, group: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """The alphabet's logits [n, 15] in float32 at every place of a group, and the targets [n]."""
    device = alphabet.device
    longest = max(len(example.tokens) for example in group)
    # Padding follows the text, where a causal model cannot see it.
    ids = torch.tensor([example.tokens + [0] * (longest - len(example.tokens)) for example in group], device=device)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
    places = [row * longest + place for row, example in enumerate(group) for place in example.places]
    head = model.get_output_embeddings().weight[alphabet].float()
    targets = [target for example in group for target in example.targets]
    return hidden[torch.tensor(places, device=device)].float() @ head.T, torch.tensor(targets, device=device)


@dataclass
class Trainee:
    """The plain model with peft's layers inside, their optimiser, and how far the fit has come.

    The layers compute in the model's bfloat16; the optimiser moves ``masters``, their float32 originals, in whose
    digits small steps are not lost.
    """

    model: nn.Module
    peft: nn.Module
    masters: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    since: float = field(default_factory=time.perf_counter)  # when the last step ended: making batches counts too

    @classmethod
    def new(cls, model: nn.Module, settings: Settings, start: Path | None) -> "Trainee":
        """Adapters on every linear layer of the backbone, at zero or from a finished run's folder."""
        from peft import LoraConfig, get_peft_model
        from peft.utils import set_peft_model_state_dict

        torch.manual_seed(settings.seed)
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
        if start is not None:
            path = start / "adapter_model.safetensors"
            if not path.is_file():
                raise InputError(f"adapter {start}: no such file as {path.name}; train it first, or start without")
            set_peft_model_state_dict(wrapped, {name: part.float() for name, part in load_file(path).items()})
        masters = {
            name: parameter.detach().float().clone()
            for name, parameter in wrapped.named_parameters()
            if parameter.requires_grad
        }
        optimiser = torch.optim.AdamW(masters.values(), settings.learning_rate, weight_decay=settings.weight_decay)
        return cls(model, wrapped, masters, optimiser)

    def progress(self, settings: Settings) -> float:
        """Share of the fit that is done; at or above 1 it is over."""
        return max(self.seconds / (60 * settings.minutes), self.steps / settings.most_steps)

    def save(self, folder: Path) -> None:
        """Write the checkpoint of a run that is not over."""
        with atomic_path(folder / "checkpoint.safetensors") as temporary:
            progress = {"steps": self.steps, "seconds": self.seconds, "tokens": self.tokens}
            tensors = dict(self.masters)
            for name, master in self.masters.items():
                moments = self.optimiser.state[master]
                tensors |= {f"{name}/{kind}": moments[kind] for kind in ("exp_avg", "exp_avg_sq", "step")}
            save_file(tensors, temporary, {"progress": json.dumps(progress)})

    def resume(self, folder: Path) -> bool:
        """Go on from a checkpoint, if the folder has one."""
        from safetensors import safe_open

        path = folder / "checkpoint.safetensors"
        if not path.is_file():
            return False
        with safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
            self.steps, self.seconds, self.tokens = (progress[name] for name in ("steps", "seconds", "tokens"))
            for name, master in self.masters.items():
                master.copy_(file.get_tensor(name))
                self.optimiser.state[master] = {
                    kind: file.get_tensor(f"{name}/{kind}").to("cpu" if kind == "step" else master.device)
                    for kind in ("exp_avg", "exp_avg_sq", "step")
                }
        self._copy_masters()
        return True

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for name, parameter in self.peft.named_parameters():
            if name in self.masters:
                parameter.copy_(self.masters[name])

    def step(self, group: Sequence[Example], alphabet: Tensor, settings: Settings) -> tuple[float, float]:
        """One update; returns the loss and the share of places that were right before it."""
        rate = settings.learning_rate * cosine_to_zero(self.progress(settings) * WARM_UP_RESOLUTION, WARM_UP_RESOLUTION)
        for part in self.optimiser.param_groups:
            part["lr"] = rate
        logits, targets = batch_logits(self.model, alphabet, group)
        loss = F.cross_entropy(logits, targets)
        loss.backward()
        for name, parameter in self.peft.named_parameters():
            if name in self.masters:
                self.masters[name].grad, parameter.grad = parameter.grad.float(), None
        nn.utils.clip_grad_norm_(self.masters.values(), settings.largest_gradient)
        self.optimiser.step()
        self._copy_masters()
        right = float((logits.argmax(dim=1) == targets).float().mean())
        loss_value = float(loss.detach())  # waits for the device
        self.steps += 1
        self.tokens += sum(len(example.tokens) for example in group)
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        return loss_value, right


@torch.inference_mode()
def held_accuracy(model: nn.Module, script: Script, lessons: Sequence[Lesson], settings: Settings) -> dict[str, float]:
    """Share of right frames on lessons that were not learned from, what the ears hear written before: with the words
    ("told"), without ("live"), and of the ears themselves."""
    alphabet = script.alphabet.to(next(model.parameters()).device)
    heard = [lesson.probe.argmax(axis=1) for lesson in lessons]
    right = {"ears": [best == lesson.truth for best, lesson in zip(heard, lessons, strict=True)]}
    for way in ("told", "live"):
        right[way] = []
        for best, lesson in zip(heard, lessons, strict=True):
            words = lesson.words if way == "told" else ()
            for example in examples(script, lesson, settings.window_tokens, (words, lesson.probe, best)):
                logits, targets = batch_logits(model, alphabet, [example])
                right[way].append((logits.argmax(dim=1) == targets).cpu().numpy())
    return {way: round(float(np.concatenate(shares).mean()), 4) for way, shares in right.items()}


def fit(
    model: nn.Module,
    script: Script,
    lessons: Sequence[Lesson],
    settings: Settings,
    out: Path,
    start: Path | None = None,
    held: Sequence[Lesson] = (),
) -> dict:
    """Train an adapter and write it to ``out`` (peft's two files, reasoner.json, training.json, losses.csv).

    ``held``: lessons to measure it on afterwards (`held_accuracy`).

    Raises
    ------
    InputError: there is nothing to learn from, or the loss is no longer a number.
    """
    if not lessons:
        raise InputError("reasoner training: no lessons of these sources; gather some or name others")
    device = next(model.parameters()).device
    trainee = Trainee.new(model, settings, start)
    resumed = trainee.resume(out)
    curve_path = out / "losses.csv"
    curve = pd.read_csv(curve_path).to_dict("records") if resumed and curve_path.is_file() else []
    alphabet = script.alphabet.to(device)
    model.train()
    recent: list[tuple[float, float]] = []
    saved = time.monotonic()
    with tqdm(total=round(60 * settings.minutes), initial=round(trainee.seconds), unit="s", mininterval=10) as bar:
        for group in batches(script, lessons, settings, skip=trainee.steps):
            if trainee.progress(settings) >= 1:
                break
            recent.append(trainee.step(group, alphabet, settings))
            if not np.isfinite(recent[-1][0]):
                raise InputError(f"reasoner training: the loss is {recent[-1][0]}; lower the learning rate")
            if trainee.steps % CURVE_EVERY == 0:
                loss, right = np.mean(recent, axis=0)
                curve.append({"step": trainee.steps, "seconds": round(trainee.seconds, 1), "tokens": trainee.tokens,
                              "loss": round(loss, 4), "right": round(right, 4)})  # fmt: skip
                bar.set_postfix(steps=trainee.steps, loss=f"{loss:.3f}", right=f"{right:.1%}")
                recent = []
            if time.monotonic() - saved > SAVE_EVERY_S:
                trainee.save(out)
                _write_csv(curve, curve_path)
                saved = time.monotonic()
            bar.update(round(trainee.seconds) - bar.n)
    model.eval()
    facts = {
        "steps": trainee.steps, "tokens": trainee.tokens, "seconds": round(trainee.seconds, 1), "device": device.type,
        "lessons": len(lessons), "frames": sum(len(lesson.truth) for lesson in lessons),
        "sources": sorted({lesson.source for lesson in lessons}),
        "names": list(dict.fromkeys(lesson.name for lesson in lessons)), "settings": asdict(settings),
        "validation": held_accuracy(model, script, held, settings) if held else None,
    }  # fmt: skip
    _write_csv(curve, curve_path)
    write_adapter(trainee, out, facts)
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return facts


def _write_csv(rows: Sequence[dict], path: Path) -> None:
    if not rows:
        return
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def write_adapter(trainee: Trainee, out: Path, facts: dict) -> None:
    """peft's adapter in bfloat16, with neutral settings until they are calibrated, and the facts of its training."""
    from peft import get_peft_model_state_dict

    out.mkdir(parents=True, exist_ok=True)
    state = {
        name: part.to(torch.bfloat16).contiguous() for name, part in get_peft_model_state_dict(trainee.peft).items()
    }
    with atomic_path(out / "adapter_model.safetensors") as temporary:
        save_file(state, temporary)
    config = trainee.peft.peft_config["default"]
    # Written here, not by peft, which would keep the path of this machine's model.
    public = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": DEFAULT_MODEL, "r": config.r,
        "lora_alpha": config.lora_alpha, "lora_dropout": 0.0, "bias": "none", "inference_mode": True,
        "target_modules": sorted(config.target_modules),
    }  # fmt: skip
    contents = {
        "adapter_config.json": public,
        "reasoner.json": {"temperature": 1.0, "instruction": ""},
        "training.json": facts,
    }
    for name, content in contents.items():
        write_text(out / name, json.dumps(content, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train an adapter."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.reasoner", description=main.__doc__)
    parser.add_argument("lessons", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=Settings.minutes, help="of training, loading left out")
    parser.add_argument("--steps", type=int, default=Settings.most_steps, help="at most")
    parser.add_argument("--start", type=Path, help="folder of an adapter to begin with")
    parser.add_argument("--sources", help="comma-separated sources to hear; all by default")
    parser.add_argument("--not-sources", default="", help="comma-separated sources to leave out")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="smollm2, or the folder of a language model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-tokens", type=int, default=Settings.batch_tokens)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--threads", type=int, default=0, help="of the processor; all by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    settings = replace(
        Settings(), minutes=options.minutes, batch_tokens=options.batch_tokens, seed=options.seed,
        learning_rate=options.learning_rate, most_steps=options.steps,
    )  # fmt: skip
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        unwanted = options.not_sources.split(",")
        gathered = load_lessons(options.lessons)
        lessons = [
            lesson
            for lesson in gathered
            if lesson.split == "train"
            and lesson.source not in unwanted
            and (options.sources is None or lesson.source in options.sources.split(","))
        ]
        folder = dense_copy() if options.model == DEFAULT_MODEL else options.model
        model, tokenizer = load_language_model(folder, torch.device(options.device), torch.bfloat16)
        facts = fit(model, Script(tokenizer), lessons, settings, options.out, options.start,
                    [lesson for lesson in gathered if lesson.split == "validation"])  # fmt: skip
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    print(json.dumps({name: facts[name] for name in ("steps", "tokens", "seconds", "validation")}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
