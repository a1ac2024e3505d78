"""Channels to one: by what each channel is for, and never so that they cancel.

Two rules hold for every block of sound. What is mixed keeps at least half of the energy that its weighted channels
have apart; where mixing would lose more (a channel wired the wrong way round, a phase-shifting widener) the loudest
channel is heard alone. And more than two channels come out as loud as the loudest of them, so that speech in a centre
channel has the level it would have in a mono file.
"""

from collections.abc import Iterator

import numpy as np

# Rec. ITU-R BS.775's downmix, carried to mono: centre 1, fronts 1/2 each (both together 1), surrounds 1/4, no LFE.
WEIGHTS = {"FC": 1.0, "FL": 0.5, "FR": 0.5, "FLC": 0.5, "FRC": 0.5, "DL": 0.5, "DR": 0.5, "LFE": 0.0, "LFE2": 0.0}
OTHER_WEIGHT = 0.25
BLOCK_S = 0.25  # decided together, before its first sample is given
FADE_S = 0.01
KEPT_ENERGY = 0.5  # of the sum of the weighted channels' energies
# The decision to hear one channel is held this long after the last block that needed it.
HOLD_BLOCKS = 8
# Another channel must be this much louder (in energy) before it takes over: 6 dB.
TAKE_OVER = 4.0
# Two channels oppose each other when the weaker one is contained, turned over, in the stronger one to this part, and
# their correlation is no accident.
OPPOSED, NO_ACCIDENT = -0.7, -0.3
MEMORY = 0.9  # of the running energies, per block: about 2.5 s
INAUDIBLE = 1e-12  # mean square


def weights(names: tuple[str, ...]) -> np.ndarray:
    """[channels] float64 weights of a layout; channels without names weigh the same."""
    if len(names) <= 2 or not set(names) & set(WEIGHTS):
        return np.full(len(names), 1 / len(names))
    chosen = np.array([WEIGHTS.get(name, OTHER_WEIGHT) for name in names])
    return chosen if chosen.any() else np.full(len(names), 1 / len(names))


class Downmix:
    """One stretch of sound in one layout, to mono.

    Parameters
    ----------
    names
        The channels' names (FL, FR, FC, ...), in order.
    rate_hz
        Sample rate.

    Attributes
    ----------
    opposed_s
        Seconds in which one channel was heard alone because a mix would have cancelled.
    """

    def __init__(self, names: tuple[str, ...], rate_hz: int) -> None:
        self._weights = weights(names)
        self._rate_hz = rate_hz
        self._block = max(1, round(BLOCK_S * rate_hz))
        self._fade = max(1, round(FADE_S * rate_hz))
        self._waiting: list[np.ndarray] = []
        self._held = 0
        count = len(names)
        self._covariance = np.zeros((count, count))  # running, mean square
        self._mix_energy = 0.0  # running
        self._now: np.ndarray | None = None  # the weights in use, the scale included
        self._alone: int | None = None
        self._hold = 0
        self.opposed_s = 0.0

    def push(self, channels: np.ndarray) -> Iterator[np.ndarray]:
        """Take [n, channels] float32 and give the mono blocks [m] float32 that are decided."""
        if channels.shape[1] == 1:
            yield channels.mean(axis=1)
            return
        self._waiting.append(channels)
        self._held += len(channels)
        if self._held >= self._block:
            joined = np.concatenate(self._waiting)
            whole = len(joined) // self._block * self._block
            for begin in range(0, whole, self._block):
                yield self._mix(joined[begin : begin + self._block])
            self._waiting, self._held = [joined[whole:]], len(joined) - whole

    def flush(self) -> Iterator[np.ndarray]:
        """Give what is left; more sound may follow."""
        if self._held:
            yield self._mix(np.concatenate(self._waiting))
        self._waiting, self._held = [], 0

    def _mix(self, block: np.ndarray) -> np.ndarray:
        chosen = self._choose(block.astype(np.float64))
        if self._now is None:
            self._now = chosen
        if np.array_equal(chosen, self._now):
            return (block @ chosen).astype(np.float32)
        # The rule holds for the block as a whole, so the fade is short.
        ramp = np.minimum(np.arange(1, len(block) + 1) / min(self._fade, len(block)), 1)[:, None]
        mixed = (block * (self._now + ramp * (chosen - self._now))).sum(axis=1)
        self._now = chosen
        return mixed.astype(np.float32)

    def _choose(self, block: np.ndarray) -> np.ndarray:
        """The weights of one block, from its channels' covariance and the running one."""
        varying = block - block.mean(axis=0)  # a constant offset, the same in both channels, hides that they cancel
        covariance = varying.T @ varying / len(block)
        energies = np.diag(covariance)
        if energies.max() < INAUDIBLE:
            return self._weights * self._scale() if self._now is None else self._now
        self._covariance = MEMORY * self._covariance + (1 - MEMORY) * covariance
        self._mix_energy = MEMORY * self._mix_energy + (1 - MEMORY) * self._energy(covariance)
        if np.maximum(energies, np.diag(self._covariance))[self._weights > 0].max() < INAUDIBLE:
            return np.eye(len(energies))[int(energies.argmax())]  # all of it lies in a channel for rumble
        if self._cancels(covariance) or self._opposed():
            self._hold = HOLD_BLOCKS
        elif self._hold:
            self._hold -= 1
        if not self._hold:
            self._alone = None
            return self._weights * self._scale()
        self.opposed_s += len(block) / self._rate_hz
        heard = np.where(self._weights > 0, energies, 0)
        if self._alone is None or heard.max() > TAKE_OVER * heard[self._alone]:
            self._alone = int(heard.argmax())
        return np.eye(len(energies))[self._alone]

    def _energy(self, covariance: np.ndarray) -> float:
        return float(self._weights @ covariance @ self._weights)

    def _cancels(self, covariance: np.ndarray) -> bool:
        return self._energy(covariance) < KEPT_ENERGY * float(self._weights**2 @ np.diag(covariance))

    def _opposed(self) -> bool:
        """Whether, over the last seconds, two channels of a pair are one sound and its inverse."""
        if len(self._weights) != 2:
            return self._cancels(self._covariance)
        quieter, louder = np.sort(np.diag(self._covariance))
        shared = self._covariance[0, 1]
        return bool(shared < OPPOSED * quieter and shared < NO_ACCIDENT * np.sqrt(quieter * louder))

    def _scale(self) -> float:
        """So that more than two channels come out as loud as the loudest one that is heard."""
        if len(self._weights) <= 2 or self._mix_energy <= 0:
            return 1.0
        loudest = np.where(self._weights > 0, np.diag(self._covariance), 0).max()
        return float(np.clip(np.sqrt(loudest / self._mix_energy), 1 / len(self._weights), len(self._weights)))
