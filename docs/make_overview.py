"""Draw docs/overview.png, the README's picture, from the last run: ``python docs/make_overview.py``."""

from pathlib import Path

import av
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from specsync_lib.figures import style
from specsync_lib.files import atomic_path
from specsync_lib.paths import PLOTS_DIR, RUN_DIR
from specsync_lib.speech.audio import load_audio
from specsync_lib.units import SAMPLE_RATE_HZ, VIDEO_FPS, VISEMES

OVERVIEW = Path(__file__).with_name("overview.png")
THRESHOLD = 0.85
FACE_COLUMNS = slice(190, 1090)


def widest_frame(plan: pd.DataFrame) -> int:
    """The frame of the most open mouth: the one that shows that it speaks."""
    return int(plan["openness"].rolling(3, center=True).mean().idxmax())


def read_frame(path: Path, index: int) -> np.ndarray:
    """One picture of a video, [h, w, 3] uint8."""
    with av.open(path) as container:
        for position, frame in enumerate(container.decode(video=0)):
            if position == index:
                return frame.to_ndarray(format="rgb24")
    raise IndexError(f"{path.name}: no frame {index}")


def main() -> None:
    """Frame on the left; waveform with words, plan and confidence on the right, the frame's time marked."""
    style.use_style()
    plan, words = pd.read_csv(RUN_DIR / "draft_plan.csv"), pd.read_csv(RUN_DIR / "words.csv")
    samples = load_audio(RUN_DIR / "speech.flac").samples
    index = widest_frame(plan)
    end_s, now_s = len(plan) / VIDEO_FPS, (index + 0.5) / VIDEO_FPS
    mosaic = [["face", "wave"], ["face", "plan"], ["face", "confidence"]]
    fig, axes = plt.subplot_mosaic(
        mosaic, figsize=(13, 5), width_ratios=[1.15, 1], height_ratios=[1, 2.2, 1], layout="constrained"
    )
    axes["face"].imshow(read_frame(PLOTS_DIR / "lipsync_720p30.mp4", index)[:, FACE_COLUMNS])
    axes["face"].axis("off")
    axes["wave"].plot(np.arange(samples.size) / SAMPLE_RATE_HZ, samples, lw=0.4, color=style.ROLE_COLOURS["target"])
    peak = abs(samples).max()
    for row, word in words.iterrows():
        axes["wave"].text(word["start_s"], (1.15 if row % 2 else 1.75) * peak, word["word"], fontsize=8)
    axes["wave"].set(ylabel="sound", yticks=[], ylim=(-1.1 * peak, 2.5 * peak))
    probabilities = plan[[f"p_{name}" for name in VISEMES]].to_numpy().T
    extent = (0, end_s, len(VISEMES) - 0.5, -0.5)
    axes["plan"].imshow(
        probabilities, aspect="auto", extent=extent, cmap="Oranges", vmin=0, vmax=1, interpolation="nearest"
    )
    axes["plan"].set_yticks(range(len(VISEMES)), VISEMES, fontsize=7)
    axes["plan"].set_ylabel("drafted viseme")
    axes["confidence"].plot(plan["time_s"], plan["confidence"], color=style.ROLE_COLOURS["draft"])
    axes["confidence"].axhline(THRESHOLD, ls="--", lw=1, color=style.ROLE_COLOURS["baseline"])
    axes["confidence"].set(ylabel="confidence", xlabel="time (s)", ylim=(0, 1.02))
    for name in ("wave", "plan", "confidence"):
        axes[name].axvline(now_s, color=style.ROLE_COLOURS["accepted"], lw=1.2)
        axes[name].set_xlim(0, end_s)
        axes[name].grid(False)
        axes[name].tick_params(labelbottom=name == "confidence")
    with atomic_path(OVERVIEW) as path:
        fig.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
