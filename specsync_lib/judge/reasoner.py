"""The reasoner: a language model that writes a sync plan token by token, or judges a draft of it in one forward pass.

Everything it is told is text, so that any causal language model can take the place of the small one:

    newline, then for every frame of a chunk of 12:  [ (word duration visemes) ]  energy  best  [ tenths  second ]  PLAN

A *word* stands where it is about to begin, with how many frames it lasts and the visemes that a dictionary gives it.
*Energy* is a digit of loudness. *Best* and *second* are the two likeliest visemes of a probe on Whisper's encoder,
which hears the whole recording; *tenths* is the probability of the best. A probe that is sure says the best alone, one
that knows nothing says nothing: fewer tokens, the same text for any model. PLAN is the one token of the frame's viseme:
the model's answer, or the draft's proposal. Because a frame's evidence stands right before its answer, one forward pass
over the text with all draft tokens in place yields the model's distribution for every frame: row i is p(frame i |
evidence up to i, fixed tokens, draft[:i]), exactly what writing token by token would have computed.

The answer's distribution is the model's logits over the alphabet's 15 tokens alone, renormalised in float32.

Sources: one-pass verification, Leviathan et al. 2211.17192; several drafts in one pass as a tree, Miao et al.
2305.09781; low-rank adapters, Hu et al. 2106.09685; the first tokens are kept when the window moves, Xiao et al.
2309.17453.
"""

import hashlib
import json
import shutil
import string
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from specsync_lib import units
from specsync_lib.assets import asset, cache_dir, pins
from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.judge.token_tree import TokenTree
from specsync_lib.paths import MODELS_DIR
from specsync_lib.speech.alignment import normalise_text, pronounce
from specsync_lib.visemes import ARPABET_TO_VISEME, VISEME_INDEX

MODEL_DIR = MODELS_DIR / "reasoner"
DEFAULT_MODEL = "smollm2"

# One letter a viseme, chosen to say what it means; X is the mouth at rest.
VISEME_LETTERS = dict(zip(units.VISEMES, "XPFTDKCSNRAEIOU", strict=True))
WORD_LEAD_FRAMES = 1  # a word is announced this much before its time; Whisper's times are themselves 2 frames early
SURE = 0.95  # from this probability on the probe's best viseme stands alone
ENERGY_RANGE = (-0.65, 0.6)  # `evaluation.frame_energy` of silence and of loud speech: digits 0 to 9 in equal steps
# More than anyone says in 400 ms; what a broken recogniser adds is left out.
MOST_WORDS_A_CHUNK, MOST_TOKENS_A_WORD, MOST_VISEMES_A_WORD = 8, 8, 16
WINDOW_TOKENS = 1024  # 12 s of speech, 60 MB of float32 cache for SmolLM2

INSTRUCTION = (
    "You write what a speaker's mouth does, one letter a video frame: X at rest, P lips closed (p b m), F (f v), "
    "T (th), D (t d), K (k g), C (ch sh j), S (s z), N (n l), R (r), A (a), E (e), I (i), O (o), U (u w). Before each "
    "letter stand the loudness (0-9), the letter that a listener heard and, where it is not sure, how sure it is "
    "(tenths) and its second guess. A word in brackets begins there: it lasts that many frames and is spoken with "
    "those letters.\n"
)


class HeardWord(Protocol):
    """What a recogniser gives: `features.Word` is one."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class TimedWord:
    """A word and the frames that it sounds in, both ends included."""

    text: str
    first_frame: int
    last_frame: int


@dataclass(frozen=True)
class ChunkEvidence:
    """What the reasoner is told of up to 12 frames.

    Attributes
    ----------
    first_frame : the chunk's first frame.
    words : those that sound in the chunk or begin up to WORD_LEAD_FRAMES after it.
    energy : [frames] int8, a digit 0 to 9.
    probe : [frames, 15] float32, the probe's probabilities; uniform rows say nothing.
    """

    first_frame: int
    words: tuple[TimedWord, ...]
    energy: np.ndarray
    probe: np.ndarray

    def __len__(self) -> int:
        return len(self.energy)

    def without_probe(self) -> "ChunkEvidence":
        """The same chunk with a probe that says nothing: words, times and loudness alone."""
        return replace(self, probe=np.full_like(self.probe, 1 / len(units.VISEMES)))


def energy_digits(samples: Float[np.ndarray, " n"], frames: int) -> Int[np.ndarray, " frames"]:
    """Loudness of each frame as a digit 0 (silence) to 9."""
    from specsync_lib.measures.draft import (
        frame_energy,  # it brings decoders of sound, which a machine for training lacks
    )

    low, high = ENERGY_RANGE
    steps = (frame_energy(samples, frames) - low) / (high - low) * 10 if frames else np.zeros(0)
    return np.clip(np.floor(steps), 0, 9).astype(np.int8)


def timed_words(words: Sequence[HeardWord], frames: int) -> list[TimedWord]:
    """Words in the order of their times, on the frames of a recording; blank ones are left out.

    Raises
    ------
    InputError: a time is not a finite number.
    """
    timed = []
    for word in words:
        if not np.isfinite([word.start_s, word.end_s]).all():
            raise InputError(f"word {word.text!r}: times must be finite seconds, got {word.start_s} … {word.end_s}")
        first = min(max(0, int(np.floor(word.start_s * units.VIDEO_FPS))), max(0, frames - 1))
        last = min(max(first, int(np.ceil(word.end_s * units.VIDEO_FPS)) - 1), max(0, frames - 1))
        if word.text.strip():
            timed.append(TimedWord(word.text.strip(), first, last))
    return sorted(timed, key=lambda word: word.first_frame)


def gather_evidence(
    samples: Float[np.ndarray, " n"],
    words: Sequence[HeardWord],
    probe_probabilities: Float[np.ndarray, "frames 15"],
) -> list[ChunkEvidence]:
    """What the reasoner is told of a recording, chunk by chunk.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono in [-1, 1].
    words
        From `features.transcribe`; may be empty.
    probe_probabilities
        [frames, 15], from `draft_evaluation.teacher_plan` or any other listener.

    Raises
    ------
    InputError: the probabilities are not one row of probabilities a frame, or a word's time is not finite.
    """
    frames = units.frame_count(len(samples))
    probe = np.asarray(probe_probabilities, dtype=np.float32)
    if probe.shape != (frames, len(units.VISEMES)):
        raise InputError(f"probe: expected [{frames}, {len(units.VISEMES)}] probabilities, got {list(probe.shape)}")
    # Negated, so that NaN fails too.
    if frames and not ((probe >= 0).all() and (np.abs(probe.sum(axis=1) - 1) < 1e-3).all()):
        raise InputError("probe: expected rows of probabilities that sum to 1, got others; apply a softmax first")
    return chunk_evidence(timed_words(words, frames), energy_digits(samples, frames), probe)


def chunk_evidence(
    words: Sequence[TimedWord], energy: Int[np.ndarray, " frames"], probe: Float[np.ndarray, "frames 15"]
) -> list[ChunkEvidence]:
    """Words, digits and probabilities of a whole recording, cut into chunks."""
    chunks = []
    for first in range(0, len(energy), units.FRAMES_PER_CHUNK):
        part = slice(first, first + units.FRAMES_PER_CHUNK)
        beyond = first + units.FRAMES_PER_CHUNK + WORD_LEAD_FRAMES
        near = tuple(word for word in words if word.first_frame < beyond and word.last_frame >= first)
        chunks.append(ChunkEvidence(first, near, energy[part], probe[part]))
    return chunks


# ---------------------------------------------------------------------------------------------------- text as tokens


class Script:
    """How evidence and plans are spelled in one tokenizer: the alphabet, the digits, and what is said of a word.

    Attributes
    ----------
    alphabet : [15] int64, the token of each viseme.

    Raises
    ------
    InputError: a letter or a digit is not a single token here, or two of them share one.
    """

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        letters = [
            self._single([f" {letter}", letter], f"viseme {viseme}") for viseme, letter in VISEME_LETTERS.items()
        ]
        self.digits = [self._single([str(digit)], f"digit {digit}") for digit in range(10)]
        if len({*letters, *self.digits}) != len(letters) + len(self.digits):
            raise InputError(f"tokenizer of {self._name}: two visemes or digits share a token; choose another model")
        self.alphabet = torch.tensor(letters)
        self._letters = letters
        self._newline, self._open, self._close = (self.encode(mark) for mark in ("\n", "(", ")"))
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.start = [] if start is None else [start]
        self.end = tokenizer.eos_token_id
        self._word_tokens = lru_cache(maxsize=4096)(self._word_tokens)

    @property
    def _name(self) -> str:
        return str(getattr(self._tokenizer, "name_or_path", "") or "this model")

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without marks of its beginning or end."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens: what a person, or another engine, would read."""
        return self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    def _single(self, spellings: Sequence[str], meaning: str) -> int:
        for spelling in spellings:
            tokens = self.encode(spelling)
            if len(tokens) == 1 and tokens[0] != self._tokenizer.unk_token_id:
                return tokens[0]
        raise InputError(
            f"tokenizer of {self._name}: {spellings[0]!r} ({meaning}) is not a single token; one frame must be one "
            "token: choose another model"
        )

    def letter(self, viseme: int) -> int:
        """The token of a viseme index."""
        return self._letters[viseme]

    def _word_tokens(self, text: str, frames: int) -> tuple[int, ...]:
        """A word in brackets: its spelling, its length in frames and its visemes."""
        spelled = self.encode(f" {text.lower().strip(string.punctuation)}"[:64])[:MOST_TOKENS_A_WORD]
        length = [self.digits[int(digit)] for digit in str(min(frames, 99))]
        visemes = [self._letters[viseme] for viseme in spoken_visemes(text)]
        return (*self._open, *spelled, *length, *visemes, *self._close)

    def lines(self, evidence: ChunkEvidence, announced: set[tuple[str, int]]) -> list[list[int]]:
        """For each frame the tokens before its plan token; words not in ``announced`` are told, and added to it."""
        lines: list[list[int]] = [[] for _ in range(len(evidence))]
        told = 0
        for word in evidence.words:
            place = max(0, word.first_frame - WORD_LEAD_FRAMES - evidence.first_frame)
            key = (word.text, word.first_frame)
            if place < len(lines) and key not in announced and told < MOST_WORDS_A_CHUNK:
                lines[place] += self._word_tokens(word.text, word.last_frame - word.first_frame + 1)
                announced.add(key)
                told += 1
        if lines:
            lines[0] = self._newline + lines[0]
        two_best = np.argsort(-evidence.probe, axis=1, kind="stable")[:, :2]
        for line, energy, (best, second), row in zip(lines, evidence.energy, two_best, evidence.probe, strict=True):
            tenths = int(10 * row[best])
            line.append(self.digits[energy])
            if row[best] >= SURE:
                line.append(self._letters[best])
            elif tenths:
                line += [self._letters[best], self.digits[tenths], self._letters[second]]
        return lines


@lru_cache(maxsize=8192)
def spoken_visemes(text: str) -> tuple[int, ...]:
    """Viseme indices of a word as the dictionary or the spelling rules pronounce it, none twice in a row.

    Empty for what has no English pronunciation.
    """
    visemes: list[int] = []
    for word in normalise_text(text[:64]):
        try:
            phones = pronounce(word).split()
        except InputError:  # letters of another script: the word is told without sounds
            continue
        for phone in phones:
            viseme = VISEME_INDEX[ARPABET_TO_VISEME[phone]]
            if visemes[-1:] != [viseme]:
                visemes.append(viseme)
    return tuple(visemes[:MOST_VISEMES_A_WORD])


# --------------------------------------------------------------------------------------------------------- the judge


@dataclass(frozen=True)
class Reasoner:
    """A causal language model with the script that it reads and writes.

    Attributes
    ----------
    name : what was loaded.
    label : "measured" for real weights, "real-shape" for random ones.
    temperature : divides the alphabet's logits; fitted on validation speech.
    instruction : text before everything else; a tuned model needs none.
    window_tokens : how much of the past it reads; see `ReasonerStream.read`.
    """

    model: nn.Module
    script: Script
    name: str
    label: Literal["measured", "real-shape"] = "measured"
    temperature: float = 1.0
    instruction: str = INSTRUCTION
    window_tokens: int = WINDOW_TOKENS
    head: Float[Tensor, "15 width"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        output = self.model.get_output_embeddings()
        if not isinstance(output, nn.Linear) or output.bias is not None:
            raise InputError(f"reasoner {self.name}: its output layer is not one matrix; choose another model")
        head = output.weight.detach()[self.script.alphabet.to(output.weight.device)].float()
        object.__setattr__(self, "head", head)

    @property
    def alphabet(self) -> dict[str, str]:
        """The letter that stands for each viseme."""
        return dict(VISEME_LETTERS)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.head.device

    def stream(self) -> "ReasonerStream":
        """Begin one recording."""
        return ReasonerStream(self)

    def logits(self, hidden: Float[Tensor, "n width"]) -> Float32[Tensor, "n 15"]:
        """The alphabet's logits of hidden states, in float32, calibrated."""
        return hidden.float() @ self.head.T / self.temperature


class ReasonerStream:
    """One recording: read a chunk's evidence, score drafts of it or write its plan, commit; then the next chunk.

    The text is the truth of the stream and the key-value cache only follows it: before each pass the cache is cut back
    to the longest beginning that it shares with the text to read. A rejected draft is thus rolled back by the next
    pass, and what a pass has already computed for committed tokens is never computed again, on whichever branch.

    Attributes
    ----------
    passes, tokens_read : forward passes, and tokens that went through them, so far.
    """

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner = reasoner
        script = reasoner.script
        self._preamble = script.start + script.encode(reasoner.instruction)
        self._past: list[list[int]] = []  # the tokens of every committed chunk in the window
        self._fixed: list[int] = []  # the tokens of the chunk up to its last committed frame
        self._lines: list[list[int]] = []  # what stands before the plan token of each frame still open
        self._announced: set[tuple[str, int]] = set()
        self._next_frame: int | None = None
        self._cache = None
        self._cached = TokenTree()
        self.passes = 0
        self.tokens_read = 0

    @property
    def open_frames(self) -> int:
        """Frames read but not committed."""
        return len(self._lines)

    def read(self, evidence: ChunkEvidence) -> None:
        """Take a chunk's evidence. It goes through the model with the next pass, so reading alone costs none.

        The window moves in steps: when the text would outgrow ``window_tokens``, the oldest chunks go until half of it
        is free, the beginning stays, and the rest is read anew. So neither memory nor a pass grows with the recording.

        Raises
        ------
        InputError: frames of the last chunk are not committed, or the chunk does not follow it.
        """
        if self._lines:
            raise InputError(f"reasoner: {len(self._lines)} frames of the last chunk are open; commit them first")
        if self._next_frame not in (None, evidence.first_frame):
            raise InputError(f"reasoner: expected the chunk of frame {self._next_frame}, got {evidence.first_frame}")
        self._next_frame = evidence.first_frame + len(evidence)
        if self._fixed:
            self._past.append(self._fixed)
        self._fixed = []
        recent = {(word.text, word.first_frame) for word in evidence.words}
        self._announced &= recent  # a word leaves the evidence when it is over
        self._lines = self._reasoner.script.lines(evidence, self._announced)
        needed = sum(map(len, self._lines)) + len(self._lines)
        room = self._reasoner.window_tokens - len(self._preamble) - needed
        if sum(map(len, self._past)) > room:
            while self._past and sum(map(len, self._past)) > room / 2:
                self._past.pop(0)

    def score(self, draft_tokens: Int[np.ndarray, " t"]) -> Float32[np.ndarray, "t 15"]:
        """The target's distribution for each draft token, in ONE forward pass.

        Row i is p(frame i | evidence, the chunk's fixed tokens, draft[:i]) for the first open frames. Nothing changes
        but the cache.

        Raises
        ------
        InputError: more tokens than open frames, or one that is no viseme index.
        """
        return self.score_branches([draft_tokens])[0]

    def score_branches(self, branches: Sequence[Int[np.ndarray, " t"]]) -> list[Float32[np.ndarray, "t 15"]]:
        """What `score` says of each of several drafts, in ONE forward pass: what they have in common is read once.

        Raises
        ------
        InputError: as for `score`.
        """
        drafts = [self._checked(branch) for branch in branches]
        written = [draft[:-1] for draft in drafts if len(draft)]
        scored = iter(self._rows(self._text(), written) if written else ())
        nothing = np.zeros((0, len(units.VISEMES)), np.float32)
        return [next(scored).softmax(dim=1).cpu().numpy() if len(draft) else nothing for draft in drafts]

    def plan(
        self, frames: int, reasoning_tokens: int = 0, *, generator: Generator | None = None
    ) -> tuple[Int[np.ndarray, " t"], Float32[np.ndarray, "t 15"]]:
        """Write the plan of the first open frames, one forward pass a frame: tokens [t], their distributions [t, 15].

        Parameters
        ----------
        frames
            How many; at most the open ones.
        reasoning_tokens
            The model first writes up to this many tokens of its own (greedy, one pass each, ended by its end mark). The
            plan is written with them in sight; afterwards they are rolled back, so that a later chunk reads the same
            text whether or not the model thought.
        generator
            None: greedy. Else tokens are drawn from the distributions with it.

        Raises
        ------
        InputError: more frames than are open, or a negative number.
        """
        if not 0 <= frames <= len(self._lines) or reasoning_tokens < 0:
            raise InputError(f"plan: {frames} frames asked for, {len(self._lines)} are open; read a chunk first")
        text = self._text()
        text += self._think(text, reasoning_tokens) if frames else []
        tokens: list[int] = []
        rows = []
        for _ in range(frames):
            row = self._rows(text, [np.array(tokens, dtype=int)], last=True)[0].softmax(dim=1)[0]
            drawn = row.argmax() if generator is None else torch.multinomial(row, 1, generator=generator)
            tokens.append(int(drawn))
            rows.append(row.cpu().numpy())
        return np.array(tokens, dtype=int), np.array(rows, np.float32).reshape(-1, len(units.VISEMES))

    def commit(self, tokens: Int[np.ndarray, " t"]) -> None:
        """Fix the first open frames to these tokens. The cache keeps what they share with the last pass.

        Raises
        ------
        InputError: more tokens than open frames, or one that is no viseme index.
        """
        for token in self._checked(tokens):
            self._fixed += [*self._lines.pop(0), self._reasoner.script.letter(token)]

    def text(self) -> str:
        """What the model has been told and has answered so far, as text."""
        return self._reasoner.script.decode(self._text())

    def _text(self) -> list[int]:
        return [*self._preamble, *(token for chunk in self._past for token in chunk), *self._fixed]

    def _checked(self, tokens: Int[np.ndarray, " t"]) -> np.ndarray:
        tokens = np.asarray(tokens, dtype=int).reshape(-1)
        if len(tokens) > len(self._lines):
            raise InputError(f"reasoner: {len(tokens)} tokens for {len(self._lines)} open frames; read a chunk first")
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < len(units.VISEMES)):
            raise InputError(f"reasoner: tokens must be viseme indices 0 … {len(units.VISEMES) - 1}, got {tokens}")
        return tokens

    def _rows(
        self, text: list[int], branches: Sequence[np.ndarray], last: bool = False
    ) -> list[Float32[Tensor, "rows 15"]]:
        """Logits of the frames after ``text``, by branch: one more than it wrote, or the ``last`` alone."""
        tree, places = TokenTree(), []
        end_of_text = tree.extend(-1, text)
        for written in branches:
            letters = [self._reasoner.script.letter(token) for token in written]
            own = tree.alternate(end_of_text, self._lines[: len(written) + 1], letters)
            places.append(own[-1:] if last else own)
        asked = sorted({place for own in places for place in own})
        logits = self._reasoner.logits(self._hidden(tree, asked))
        return [logits[np.searchsorted(asked, own)] for own in places]

    def _think(self, text: list[int], count: int) -> list[int]:
        """Up to ``count`` tokens of the model's own, greedy over its whole vocabulary."""
        thought: list[int] = []
        head = self._reasoner.model.get_output_embeddings()
        for _ in range(count if text else 0):
            tree = TokenTree()
            hidden = self._hidden(tree, [tree.extend(-1, [*text, *thought])])
            token = int(head(hidden)[0].argmax())
            if token == self._reasoner.script.end:
                break
            thought.append(token)
        return thought

    @torch.inference_mode()
    def _hidden(self, tree: TokenTree, places: list[int]) -> Float[Tensor, "places width"]:
        """Hidden states at some nodes of a tree, by one forward pass over what the cache does not hold of it.

        All branches begin at the first place or behind it.
        """
        kept = self._cached.follow(tree.tokens[: places[0]])
        first, count = len(kept), len(self._cached.tokens)
        if not first:
            self._cache = None
        elif kept[-1] != first - 1:  # the text goes on along a later branch
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]
        elif first < count:
            self._cache.crop(first - count)  # a negative number is how many tokens to remove
        self._cached = TokenTree()  # should the pass fail, the next one starts afresh
        model, device = self._reasoner.model.base_model, self._reasoner.device
        ids = torch.tensor([tree.tokens[first:]], device=device)
        sight = {}  # of a lone text: all that came before, which the model knows
        if tree.parents != list(range(-1, len(tree.tokens) - 1)):
            hidden_from = torch.from_numpy(~tree.sight(first)).to(device)
            mask = torch.zeros(hidden_from.shape, dtype=model.dtype, device=device)
            sight = {
                "attention_mask": mask.masked_fill(hidden_from, torch.finfo(model.dtype).min)[None, None],
                "position_ids": torch.tensor([tree.depths()[first:]], device=device),
            }
        output = model(input_ids=ids, past_key_values=self._cache, use_cache=True, **sight)
        self._cache, self._cached = output.past_key_values, tree
        self.passes += 1
        self.tokens_read += ids.shape[1]
        return output.last_hidden_state[0, [place - first for place in places]]


# ----------------------------------------------------------------------------------------------------------- loading


def load_reasoner(
    name: str | Path = DEFAULT_MODEL,
    adapter: str | Path | None = "adapter",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    label: Literal["measured", "real-shape"] = "measured",
) -> Reasoner:
    """A language model as judge.

    Parameters
    ----------
    name
        "smollm2": the pinned asset; else any causal language model with safetensors: a local folder or a hub id
        (``deepseek-ai/DeepSeek-R1-Distill-Llama-70B`` is the row of full scale). The hub's own settings, such as
        ``HF_HUB_OFFLINE=1``, are honoured.
    adapter
        A folder of peft's, by path or by name below ``data/models/reasoner``; None: as it comes, led by an instruction.
        The default belongs to "smollm2" and is left out for every other model.
    device, dtype
        By default float32 on the CPU, where the exact rules are exact, and bfloat16 elsewhere.
    label
        Of the numbers that it gives: "real-shape" where the weights are random.

    Raises
    ------
    InputError: the model or the adapter is absent, damaged or does not fit, or a letter is not one token.
    """
    own = str(name) == DEFAULT_MODEL
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    model, tokenizer = load_language_model(dense_copy() if own else name, device, dtype)
    settings: dict = {}
    if adapter is not None and (own or str(adapter) != "adapter"):
        folder = MODEL_DIR / adapter if isinstance(adapter, str) and not Path(adapter).is_dir() else Path(adapter)
        settings = merge_adapter(model, folder)
    return Reasoner(model, Script(tokenizer), str(name), label, **settings)


def load_language_model(name: str | Path, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, object]:
    """A causal language model and its tokenizer, from safetensors, in eval mode.

    Raises
    ------
    InputError: there is none of that name, or it cannot be read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        # Placed as it is read: the full-scale row is larger than many a machine's memory.
        placed = {} if device.type == "cpu" else {"device_map": {"": device}}
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **placed)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise InputError(
            f"reasoner {source}: cannot be loaded ({reason}); give a folder or a hub id of a causal language model"
        ) from error
    return model.eval().requires_grad_(False), tokenizer


def dense_copy() -> Path:
    """SmolLM2 as a folder of bfloat16 safetensors and a tokenizer, unpacked once from the pinned GGUF into the cache.

    Reading the packed file takes 17 s, the copy 2 s. A copy whose files have changed is made again.
    """
    source = asset(DEFAULT_MODEL)
    folder = cache_dir() / f"smollm2-dense-{pins()[DEFAULT_MODEL]['members_sha256'][:16]}"
    listing = folder.with_suffix(".json")
    if listing.is_file() and json.loads(listing.read_text(encoding="utf-8")) == _digests(folder):
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    packed = {"gguf_file": source.name}
    unpacking = GgufConfig(**packed, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, **packed, dtype=torch.bfloat16, quantization_config=unpacking
    )
    # Beside its place first, then renamed into it: a copy that was interrupted never has the name.
    with tempfile.TemporaryDirectory(prefix=".dense-", dir=folder.parent) as temporary:
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(source.parent, **packed).save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        Path(temporary).rename(folder)
        Path(temporary).mkdir()
    write_text(listing, json.dumps(_digests(folder)))
    return folder


def _digests(folder: Path) -> dict[str, str]:
    """Name and sha256 of every file in a folder."""
    digests = {}
    for path in sorted(folder.glob("*")):
        with path.open("rb") as handle:
            digests[path.name] = hashlib.file_digest(handle, "sha256").hexdigest()
    return digests


def merge_adapter(model: nn.Module, folder: Path) -> dict:
    """Add a low-rank adapter to a model's weights, W + (alpha / r) B A, and return its settings for `Reasoner`.

    Merged in the weights' own precision; a tuned model then costs no more than the plain one. The folder is peft's
    (adapter_config.json, adapter_model.safetensors) with our reasoner.json (temperature and instruction) beside it.

    Raises
    ------
    InputError: a file is absent, or a tensor is misshapen, not finite or fits no weight of the model.
    """
    try:
        config, settings = (
            json.loads((folder / name).read_text(encoding="utf-8")) for name in ("adapter_config.json", "reasoner.json")
        )
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise InputError(f"adapter {folder}: {error}; restore the folder or train it") from error
    weights = dict(model.named_parameters())
    scale = config["lora_alpha"] / config["r"]
    for key, down in tensors.items():
        if not key.endswith("lora_A.weight"):
            continue
        name = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        up = tensors.get(key.replace("lora_A", "lora_B"))
        weight = weights.get(name)
        if up is None or weight is None or (up.shape[0], down.shape[1]) != tuple(weight.shape):
            raise InputError(f"adapter {folder}: {name} does not fit this model; give the adapter's own base model")
        change = scale * (up.float() @ down.float())
        if not torch.isfinite(change).all():
            raise InputError(f"adapter {folder}: {name} holds values that are not finite; restore the file")
        with torch.no_grad():
            weight += change.to(weight)
    return settings
