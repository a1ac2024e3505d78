"""How near pictures are: PSNR and SSIM over boxes, seams and repairs, the flash against the beep."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from specsync_lib.errors import InputError
from specsync_lib.units import FRAMES_PER_CHUNK
from specsync_lib.visemes import SyncPlan

if TYPE_CHECKING:  # a training machine may lack it
    import pandas as pd

    from specsync_lib.face.generation import FaceGenerator


def gaussian_window(x: Tensor) -> Tensor:
    """The 11 x 11 Gaussian window (sigma 1.5) of the SSIM paper, over each channel."""
    taps = torch.arange(-5, 6, device=x.device, dtype=x.dtype)
    taps = torch.softmax(-(taps**2) / (2 * 1.5**2), dim=0).expand(x.shape[1], 1, -1)
    x = F.conv2d(x, taps.unsqueeze(2), groups=x.shape[1])
    return F.conv2d(x, taps.unsqueeze(3), groups=x.shape[1])


def ssim_map(a: Tensor, b: Tensor, window: Callable[[Tensor], Tensor], data_range: float = 2.0) -> Tensor:
    """Structural similarity [n, 3, h', w'] of images [n, 3, h, w] at every place of the window (Wang et al., 13)."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = window(a), window(b)
    var_a, var_b = window(a * a) - mean_a**2, window(b * b) - mean_b**2
    covariance = window(a * b) - mean_a * mean_b
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def error_in_boxes(error: Tensor, boxes_px: np.ndarray) -> float:
    """Mean of errors [n, h, w, 3] inside each frame's box (left, top, right, bottom)."""
    pieces = [error[k, top:bottom, left:right] for k, (left, top, right, bottom) in enumerate(boxes_px.astype(int))]
    return (sum(piece.sum() for piece in pieces) / sum(piece.numel() for piece in pieces)).item()


def psnr_db(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio of 8-bit frames, in dB (capped at 99)."""
    return 99.0 if mean_squared_error <= 0 else min(99.0, float(10 * np.log10(255**2 / mean_squared_error)))


def beep_flash_offset_ms(path: str | Path) -> float:
    """How much later the sound comes than the picture in a flash-and-beep clip, by decoding it.

    Every dark-to-bright frame is paired with the nearest start of a tone; the median of the differences is returned.
    Decoded timestamps are used as a player would, edit lists and encoder priming included. Positive: the sound is late.

    Raises
    ------
    InputError
        The file cannot be decoded or holds no flash or no beep.
    """
    import av  # machines that only train have no decoder

    try:
        with av.open(str(path)) as container:
            flashes_s, was_bright = [], False
            for frame in container.decode(video=0):
                bright = frame.to_ndarray(format="gray").mean() > 127
                if bright and not was_bright:
                    flashes_s.append(float(frame.pts * frame.time_base))
                was_bright = bright
        with av.open(str(path)) as container:
            blocks, first_s, rate = [], None, 0
            for frame in container.decode(audio=0):
                first_s = float(frame.pts * frame.time_base) if first_s is None else first_s
                rate = frame.sample_rate
                blocks.append(np.atleast_2d(frame.to_ndarray()).astype(np.float64).mean(axis=0))
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(
            f"{path}: cannot be decoded as a clip with picture and sound ({error}); give an MP4"
        ) from error
    level = np.abs(np.concatenate(blocks)) if blocks else np.zeros(1)
    window = max(1, rate // 500)  # 2 ms: covers a period of any beep above 500 Hz
    envelope = np.maximum.reduceat(level, np.arange(0, len(level), window))
    loud = envelope > 0.5 * envelope.max() if level.max() > 1e-3 else np.zeros(len(envelope), bool)
    starts = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]]))
    if not flashes_s or len(starts) == 0:
        raise InputError(f"{path}: {len(flashes_s)} flashes and {len(starts)} beeps found; give a clip that has both")
    # inside the window, the first loud sample is the start
    beeps_s = np.array(
        [first_s + (k * window + np.argmax(level[k * window :][:window] > 0.4 * level.max())) / rate for k in starts]
    )
    return float(np.median([1000 * (beeps_s - flash)[np.argmin(np.abs(beeps_s - flash))] for flash in flashes_s]))


def seam_table(frames: np.ndarray, chunk_frames: int = FRAMES_PER_CHUNK) -> "pd.DataFrame":
    """How far the picture jumps at each border between chunks, against the steps inside the chunks around it.

    Parameters
    ----------
    frames : ndarray [n, h, w, 3] uint8
        From a chunk's first frame on.
    chunk_frames : int
        Of a chunk.

    Returns
    -------
    DataFrame
        Columns border (frame), jump, inside (mean absolute change in grey levels from one frame to the next; inside:
        the mean over both chunks), ratio. A seam shows as a ratio above that of a reference clip with the same motion.
    """
    import pandas as pd

    change = np.array(
        [np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(frames)]
    )  # change[k]: from frame k to k + 1
    rows = []
    for border in range(chunk_frames, len(frames), chunk_frames):
        around = np.arange(border - chunk_frames, min(border + chunk_frames - 1, len(change)))
        inside = change[around[around != border - 1]].mean()
        rows.append({"border": border, "jump": change[border - 1], "inside": inside})

    table = pd.DataFrame(rows, columns=["border", "jump", "inside"])
    return table.assign(ratio=table["jump"] / np.maximum(table["inside"], 1e-6))


def repair_table(
    generator: "FaceGenerator",
    right: SyncPlan,
    wrong: SyncPlan,
    read: Callable[[np.ndarray], np.ndarray],
    *,
    steps: int,
    noise_level: float,
    seed: int,
    right_draft: Tensor | None = None,
    wrong_draft: Tensor | None = None,
    idle: np.ndarray | None = None,
) -> "pd.DataFrame":
    """How much of a wrong draft the remaining steps repair: the plan is set right after step k of n, for every k.

    Parameters
    ----------
    generator : FaceGenerator
        Where the recording stands; nothing is committed.
    right, wrong : SyncPlan
        Of the next chunk.
    read : callable
        Frames [frames, px, px, 3] uint8 to what is compared, one number a frame (lip aperture).
    right_draft, wrong_draft : Tensor [16, slots, h, w], optional
        Drafted latents of either plan.

    Returns
    -------
    DataFrame
        Columns switched_after (0 .. steps; ``steps`` means never), steps_left, error (mean absolute difference of the
        reading from that of a chunk which was right from its draft on), repaired (share of the never-switched chunk's
        error that is gone).
    """
    import pandas as pd

    def reading(first: SyncPlan, then: SyncPlan, draft: Tensor | None, switch: int) -> np.ndarray:
        noise = torch.Generator().manual_seed(seed)
        chunk = generator.begin(first, draft, noise_level, steps, noise, idle)
        for k in range(steps):
            chunk.step(plan=then if k == switch else None)
        return np.asarray(read(generator.decode(chunk).frames), float)

    target = reading(right, right, right_draft, steps)
    errors = [np.abs(reading(wrong, right, wrong_draft, k) - target).mean() for k in range(steps + 1)]
    table = pd.DataFrame({"switched_after": range(steps + 1), "error": errors})
    table.insert(1, "steps_left", steps - table["switched_after"])
    return table.assign(repaired=1 - table["error"] / max(errors[-1], 1e-12))
