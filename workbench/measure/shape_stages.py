"""The full-size stages of a pipeline as shapes: random weights, a replayed judge."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from kernels.causal_front import reference
from kernels.causal_front.random_case import random_weights
from specsync_lib.judge.branches import Branches
from specsync_lib.pipeline.answers import ChunkPattern
from specsync_lib.pipeline.sound import ChunkAudio
from specsync_lib.pipeline.stages import Draft, Plan, Request, Tokens, Verdict
from specsync_lib.units import CHUNK, ENCODER_POSITION_MEL_FRAMES, HOP_SAMPLES, SAMPLE_RATE_HZ, VISEMES, ChunkSize
from workbench.measure import shape_reasoner
from workbench.measure.shape_reasoner import KernelDraft, Listener, ShapeReasoner
from workbench.measure.shape_wan import ShapeDecoder, ShapeDenoiser

EARS_BLOCKS, EARS_PAST_POSITIONS = 4, 200  # as the judge's front of this suite has them
EARS_WINDOW_S = EARS_PAST_POSITIONS * ENCODER_POSITION_MEL_FRAMES * HOP_SAMPLES / SAMPLE_RATE_HZ  # 4 s


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


class FrontEars:
    """A live judge's ears: log-mel, and a chunk through the causal front of four blocks, whose cache is the past."""

    def __init__(self, listener: Listener, size: ChunkSize = CHUNK) -> None:
        self._listener, self._next_frame, self._frames = listener, 0, size.frames
        front = random_weights(EARS_BLOCKS, torch.Generator().manual_seed(0), past=EARS_PAST_POSITIONS)
        if listener.device.type == "cuda":
            from kernels.causal_front.triton_impl import FrontPlan

            plan = FrontPlan(front, dtype=torch.bfloat16, device=listener.device, captured=True)
            self._hear, self._cache = plan.front_chunk, plan.new_cache("ears")
        else:
            self._hear, self._cache = partial(reference.front_chunk, weights=front), reference.new_cache(front, "ears")

    def hear(self, samples: np.ndarray) -> torch.Tensor:
        """What a chunk's frames sound like: [frames, 15] probabilities."""
        self._listener.push(samples)
        _, mel = self._listener.hear()
        rows = mel[None, -len(reference.new_rows(self._next_frame, self._frames)) :].float()
        place = {"stream": "ears", "first_frame": self._next_frame, "frames": self._frames}
        heard, self._cache = self._hear(rows, self._cache, **place)
        self._next_frame += self._frames
        return heard.logits[0].softmax(-1)


class EncoderEars:
    """Whisper's encoder over the last window of sound, and a probe."""

    def __init__(self, listener: Listener, size: ChunkSize = CHUNK) -> None:
        self._listener, self._frames = listener, size.frames
        encoded = listener.encode()
        self._probe = torch.randn(encoded.shape[-1], len(VISEMES), device=listener.device, dtype=encoded.dtype)

    def hear(self, samples: np.ndarray) -> torch.Tensor:
        """As of :class:`FrontEars`."""
        self._listener.push(samples)
        self._listener.hear()
        return (self._listener.encode()[0, -self._frames :] @ self._probe).float().softmax(-1)


EARS = {"front": FrontEars, "encoder": EncoderEars}


class ShapeJudge(ShapeStage):
    """Ears and the reasoner do their work; what they say is a measured pattern's, replayed."""

    def __init__(self, ears: FrontEars | EncoderEars, reasoner: ShapeReasoner, pattern: Sequence[ChunkPattern]) -> None:
        super().__init__(reasoner.device, urgent=True)
        self._ears, self._reasoner, self._pattern = ears, reasoner, pattern
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
            heard = self._ears.hear(request.audio.samples)
            if answer.guessed:
                rows = heard.cpu().numpy()
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

    def plan(self, request: Request, reasoning_tokens: int = 0) -> Verdict:
        with self._running():
            self._ears.hear(request.audio.samples)
            self._reasoner.plan(reasoning_tokens)[0].cpu()
        return Verdict(request.audio.index, self._tokens(request), request.audio.frames)

    def _padded(self, tokens: Tokens) -> torch.Tensor:
        padded = (*tokens, *[0] * (self._reasoner.frames - len(tokens)))
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

    def begin(self, audio: ChunkAudio, draft: Draft, plan: Plan) -> ShapeWork:
        with self._running():
            self._follow(plan.tokens)
            self._denoiser.start(draft.latents)
        return ShapeWork(self._denoiser.steps, plan.tokens)

    def step(self, work: ShapeWork, plan: Plan) -> None:
        with self._running():
            if plan.tokens != work.tokens:
                self._follow(plan.tokens)
            self._denoiser.step(self._denoiser.steps - work.steps_left)
        work.steps_left, work.tokens = work.steps_left - 1, plan.tokens

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


def judged_tokens(drafted: Tokens, answer: ChunkPattern) -> Tokens:
    """The draft with another viseme wherever the judge rejects."""
    return tuple((token + (frame in answer.rejected)) % len(VISEMES) for frame, token in enumerate(drafted))
