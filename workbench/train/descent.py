"""The inner loop that the trainers of wan-mini share: AdamW with averaged weights, made fast where that works.

On CUDA a training step is compiled and captured in a CUDA graph. Where one of the two fails, a line says so and the
next plainer mode takes over. A loss that is no number leads back to the last good weights at half the rate.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

WARM_UP_STEPS = 3  # before a capture: compilation, cuDNN's choices, the gradients' and the optimiser's memory
MAX_RETREATS = 6


def choose_fast_products() -> None:
    """For this process: cuDNN's quickest convolution for each shape, found by trying, and float32 products in TF32."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")


class Descent:
    """Steps down a loss, with an exponential average of the weights.

    Parameters
    ----------
    parameters
        Trained in place.
    compiled, captured
        What to try on CUDA; elsewhere steps are plain.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        device: torch.device,
        ema: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1e-4,
        compiled: bool = True,
        captured: bool = True,
    ) -> None:
        self.parameters = list(parameters)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.ema, self.device, self.steps = ema, device, 0
        cuda = device.type == "cuda"
        modes = [(True, True), (True, False), (False, True), (False, False)]
        self._modes = [(c, g) for c, g in modes if ((compiled and cuda) or not c) and ((captured and cuda) or not g)]
        rate = torch.zeros((), device=device)
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=cuda, capturable=cuda
        )
        self.rate = self.optimiser.param_groups[0]["lr"]  # the very tensor that a captured step reads
        self.slowdown, self.retreats = 1.0, 0
        self._loss = torch.zeros((), device=device)
        self._steps: list[Callable[[], object]] = []
        self.save_point()

    @property
    def mode(self) -> str:
        """How steps run now."""
        compiled, captured = self._modes[0]
        return " and ".join([name for name, on in (("compiled", compiled), ("captured", captured)) if on] or ["plain"])

    def prepare(self, *losses: Callable[[bool], Tensor]) -> None:
        """Make :meth:`step` descend one of ``losses``, each of ``compiled``, as ``which`` says: a graph for each shape
        of a batch. On CUDA this compiles and captures (up to minutes).

        Raises the plain mode's own error if even that fails.
        """
        self._steps = []  # lets go of earlier graphs' memory
        while True:
            began, mode = time.perf_counter(), self.mode
            try:
                self._steps = [self._prepared(loss_of, *self._modes[0]) for loss_of in losses]
            except Exception as error:
                if len(self._modes) == 1:
                    raise
                self._modes.pop(0)
                reason = (str(error).strip().splitlines() or ["no reason given"])[0]
                print(f"{mode} step failed ({type(error).__name__}: {reason[:200]}); now {self.mode}", flush=True)
                self.optimiser.zero_grad(set_to_none=True)
                self.back()
            else:
                if self.device.type == "cuda":
                    print(f"{mode} step ready after {time.perf_counter() - began:.0f} s", flush=True)
                return

    def _prepared(self, loss_of: Callable[[bool], Tensor], compiled: bool, captured: bool) -> Callable[[], object]:
        def step() -> None:
            self.optimiser.zero_grad(set_to_none=False)
            loss = loss_of(compiled)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
            self.optimiser.step()
            self._loss.copy_(loss.detach())

        if self.device.type != "cuda":
            return step
        self.rate.zero_()  # the warm-up moves no weight
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        if not captured:
            return step
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    def step(self, learning_rate: float, which: int = 0) -> None:
        """One step, and the average's."""
        self.rate.fill_(learning_rate * self.slowdown)
        self._steps[which]()
        decay = min(self.ema, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 1 - decay)
        self.steps += 1

    def loss(self) -> float:
        """The last step's loss; waits for the device. After one that is no number, training is back at a save point.

        Raises
        ------
        RuntimeError: that happened more than a few times.
        """
        value = self._loss.item()
        if not np.isfinite(value):
            self.retreats += 1
            if self.retreats > MAX_RETREATS:
                raise RuntimeError(f"training: the loss is {value} at step {self.steps} again; lower --learning-rate")
            self.slowdown /= 2
            print(f"step {self.steps}: the loss is {value}; back, at {self.slowdown:g} of the rate", flush=True)
            self.back()
        return value

    def save_point(self) -> None:
        """Keep the weights as those to come back to, if they are numbers."""
        if all(bool(torch.isfinite(tensor).all()) for tensor in self.average):
            self._saved = [
                [tensor.detach().clone() for tensor in tensors] for tensors in (self.parameters, self.average)
            ]

    @torch.no_grad()
    def back(self) -> None:
        """Return to the last save point, with an optimiser that remembers nothing; all in place, as a graph needs."""
        for tensors, saved in zip((self.parameters, self.average), self._saved, strict=True):
            torch._foreach_copy_(list(tensors), saved)
        for state in self.optimiser.state.values():
            for tensor in state.values():
                tensor.zero_()

    @torch.no_grad()
    def load_average(self, parameters: Iterable[Tensor]) -> None:
        """Copy the averaged weights into another model's parameters."""
        for target, source in zip(parameters, self.average, strict=True):
            target.copy_(source)


def cosine(progress: float, steps_since_start: int, ramp: int = 100) -> float:
    """Share of the learning rate: a cosine over all pieces, with a short ramp whenever the optimiser starts anew."""
    rise = min(1.0, (steps_since_start + 1) / ramp)
    return rise * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(1.0, progress))))


def cosine_to_zero(step: int, steps: int, warm_up: float = 0.03) -> float:
    """Learning-rate factor where the number of steps is known: a linear rise over ``warm_up`` of them, then to 0."""
    rise = max(1.0, warm_up * steps)
    return min((step + 1) / rise, 0.5 * (1 + np.cos(np.pi * step / steps)))
