"""The pictures of notebook 01: everything that can be heard on one time axis, and how fast it is heard."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from whisper.audio import mel_filters

from specsync_lib import units
from specsync_lib.figures.style import ROLE_COLOURS, labelled
from specsync_lib.speech.alignment import Phone, phone_at_frames
from specsync_lib.speech.whisper_base import Word
from specsync_lib.visemes import SyncPlan

COMPONENTS = 16
SHOWN_QUANTILES = {0.5: ("median", "o"), 0.95: ("p95", "^"), 0.99: ("p99", "D")}


def mel_centres_hz() -> np.ndarray:
    """Frequency with the largest weight in each of Whisper's 80 mel filters, [80] Hz."""
    peak = mel_filters("cpu", units.MEL_BANDS).numpy().argmax(axis=1)
    return peak * units.SAMPLE_RATE_HZ / units.STFT_SAMPLES


def principal_components(encoder: np.ndarray, count: int = COMPONENTS) -> tuple[np.ndarray, float]:
    """The first principal components of encoder features over time.

    Parameters
    ----------
    encoder
        [positions, state] from ``features.encoder_features``.
    count
        Components wanted; fewer come back for fewer positions.

    Returns
    -------
    [positions, <= count], each scaled to unit deviation, and the share of the variance that they hold.
    """
    centred = encoder - encoder.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    total = np.sum(s**2)
    share = float(np.sum(s[:count] ** 2) / total) if total > 0 else 1.0
    return u[:, :count] * np.sqrt(len(encoder)), share


def feature_table(
    samples: np.ndarray,
    mel: np.ndarray,
    energy: np.ndarray,
    components: np.ndarray,
    phones: Sequence[Phone],
    plan: SyncPlan | None,
) -> pd.DataFrame:
    """All features on the log-mel's clock: one row per 10 ms, the numbers behind :func:`draw_features`.

    Parameters
    ----------
    samples, mel, energy, components
        [n] at 16 kHz, [mel_frames, 80], [mel_frames, bands] dB, [positions, count].
    phones, plan
        The truth; both cover the recording. None where there is none.

    Returns
    -------
    Columns time_s, wave_low, wave_high, phone, viseme, openness (these three only with a truth), energy_<i>_db,
    component_<i>, mel_<i>.
    """
    count = len(mel)
    hops = samples[: count * units.HOP_SAMPLES].reshape(count, units.HOP_SAMPLES)
    rows = np.arange(count)
    truth = {}
    if plan is not None:
        frames = np.minimum(rows * units.VIDEO_FPS // units.MEL_FRAMES_PER_SECOND, len(plan) - 1)
        labels = np.array([phone.label if phone else "" for phone in phone_at_frames(phones, len(plan))])
        truth = {"phone": labels[frames], "viseme": np.array(plan.names)[frames], "openness": plan.openness[frames]}
    positions = np.minimum(rows // units.ENCODER_POSITION_MEL_FRAMES, len(components) - 1)
    parts = [
        pd.DataFrame({"time_s": rows / units.MEL_FRAMES_PER_SECOND, "wave_low": hops.min(1), "wave_high": hops.max(1)}),
        pd.DataFrame(truth, index=rows),
        pd.DataFrame(energy, columns=[f"energy_{band}_db" for band in range(energy.shape[1])]),
        pd.DataFrame(components[positions]).add_prefix("component_"),
        pd.DataFrame(mel).add_prefix("mel_"),
    ]
    return pd.concat(parts, axis=1)


def draw_features(table: pd.DataFrame, words: Sequence[Word], component_share: float, no_truth: str = "") -> Figure:
    """Waveform with words, log-mel, band energies, encoder components and truth's plan over one time axis.

    ``no_truth`` says why there is none, where the table has none.
    """
    # The narrow right column holds colour scales and legends, so that all time axes end at the same place.
    fig, grid = plt.subplots(
        5, 2, figsize=(12, 11), sharex="col", height_ratios=[1, 1.6, 1.4, 1.2, 1.8], width_ratios=[60, 1]
    )
    axes, keys = grid.T
    for index in (0, 2, 4):
        keys[index].axis("off")
    end_s = table["time_s"].iloc[-1] + 1 / units.MEL_FRAMES_PER_SECOND
    _draw_waveform(axes[0], table, [word for word in words if word.start_s < end_s])
    columns = table.filter(regex=r"^mel_")
    _draw_map(axes[1], keys[1], columns, end_s, "log-mel band", "(log10 power + 4) / 4")
    ticks = np.arange(0, units.MEL_BANDS, 20)
    axes[1].set_yticks(ticks, [f"{hz:.0f} Hz" for hz in mel_centres_hz()[ticks]])
    axes[1].set_title("Log-mel, 80 bands, streaming, fixed maximum (measured)")
    _draw_energy(axes[2], keys[2], table)
    components = table.filter(regex=r"^component_")
    _draw_map(axes[3], keys[3], components, end_s, "component", "standard deviations", limit=2.5)
    axes[3].set_title(f"Whisper base encoder: first principal components, {component_share:.0%} of variance (measured)")
    if no_truth:
        _draw_absence(axes[4], no_truth)
    else:
        _draw_plan(axes[4], keys[4], table)
    axes[4].set(xlim=(0, end_s), xlabel="time (s)")
    return fig


def _draw_waveform(ax: Axes, table: pd.DataFrame, words: Sequence[Word]) -> None:
    ax.fill_between(table["time_s"], table["wave_low"], table["wave_high"], step="post", color="#404040", linewidth=0)
    top = 1.15 * max(table["wave_high"].max(), -table["wave_low"].min(), 1e-3)
    ax.set(ylim=(-top, 1.6 * top), ylabel="amplitude", title="Waveform, and the words that Whisper hears (measured)")
    for index, word in enumerate(words):
        ax.axvspan(
            word.start_s, word.end_s, color=ROLE_COLOURS["coverage"], alpha=0.15 + 0.2 * (index % 2), linewidth=0
        )
        middle = (word.start_s + word.end_s) / 2
        height = (1.05, 1.32)[index % 2] * top  # neighbours on two lines, short words would overlap
        ax.text(middle, height, word.text, ha="center", va="bottom", fontsize=9, clip_on=True)


def _draw_map(
    ax: Axes, key: Axes, columns: pd.DataFrame, end_s: float, name: str, unit: str, limit: float | None = None
) -> None:
    """Columns over time as colours, first column at the bottom; ``limit`` makes a symmetric diverging scale."""
    look = {"cmap": "cividis"} if limit is None else {"cmap": "PuOr", "vmin": -limit, "vmax": limit}
    extent = (0, end_s, -0.5, columns.shape[1] - 0.5)
    image = ax.imshow(columns.to_numpy().T, origin="lower", aspect="auto", extent=extent, **look)
    ax.set_ylabel(name)
    ax.grid(visible=False)
    ax.figure.colorbar(image, cax=key, label=unit)


def _draw_energy(ax: Axes, key: Axes, table: pd.DataFrame) -> None:
    energy = table.filter(regex=r"^energy_")
    centres_hz = [group.mean() for group in np.array_split(mel_centres_hz(), energy.shape[1])]
    colours = plt.get_cmap("cividis")(np.linspace(0, 0.95, energy.shape[1]))
    for column, centre_hz, colour in zip(energy, centres_hz, colours, strict=True):
        ax.plot(table["time_s"], energy[column], color=colour, linewidth=1.2, label=f"{centre_hz:.0f} Hz")
    ax.set(ylabel="power (dB)", title="Energy envelopes, mean mel power in bands of ten (measured)")
    key.legend(*ax.get_legend_handles_labels(), title="centre", loc="center left", fontsize=8, labelspacing=0.2)


def _draw_plan(ax: Axes, key: Axes, table: pd.DataFrame) -> None:
    index = table["viseme"].map(units.VISEMES.index)
    ax.step(table["time_s"], index, where="post", color=ROLE_COLOURS["target"], linewidth=1.4, label="viseme")
    openness = table["openness"] * (len(units.VISEMES) - 1)
    ax.fill_between(
        table["time_s"], openness, step="post", alpha=0.18, color=ROLE_COLOURS["accepted"], label="openness, 0 to 1"
    )
    starts = np.flatnonzero(table["phone"] != table["phone"].shift())
    for index, (begin, end) in enumerate(zip(starts, [*starts[1:], len(table)], strict=True)):
        if table["phone"].iloc[begin] not in ("", "SIL"):
            middle = table["time_s"].iloc[[begin, end - 1]].mean()
            height = len(units.VISEMES) - 0.4 + 1.1 * (index % 2)  # neighbours on two lines, short phones would overlap
            ax.text(middle, height, table["phone"].iloc[begin], ha="center", fontsize=7, clip_on=True)
    ax.set(
        ylim=(-0.5, len(units.VISEMES) + 1.8),
        ylabel="viseme",
        title="Truth: forced alignment to phones and visemes (measured)",
    )
    ax.set_yticks(range(len(units.VISEMES)), units.VISEMES, fontsize=7.5)
    key.legend(*ax.get_legend_handles_labels(), loc="center left", fontsize=8)


def _draw_absence(ax: Axes, no_truth: str) -> None:
    text = "\n".join(textwrap.wrap(f"No truth: {no_truth}", 110))
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, fontsize=9)
    ax.set(yticks=[], title="Truth: forced alignment to phones and visemes")
    ax.grid(visible=False)


def latency_quantiles(latency_ms: pd.Series) -> pd.DataFrame:
    """Quantiles of hop latencies, half a percent apart: columns share_of_hops, latency_ms."""
    shares = np.linspace(0, 1, 201)
    return pd.DataFrame({"share_of_hops": shares, "latency_ms": np.quantile(latency_ms, shares)})


def draw_latency(quantiles: pd.DataFrame, ax: Axes) -> None:
    """Share of hops done within a time, with median, p95 and p99, against the 10 ms that a hop lasts."""
    colour = ROLE_COLOURS["accepted"]
    ax.plot(quantiles["latency_ms"], quantiles["share_of_hops"], color=colour, label=labelled("hops", "measured"))
    for share, (name, marker) in SHOWN_QUANTILES.items():
        value = np.interp(share, quantiles["share_of_hops"], quantiles["latency_ms"])
        ax.plot(value, share, marker, color=colour, label=f"{name}: {value:.3f} ms")
    hop_ms = 1000 * units.HOP_SAMPLES / units.SAMPLE_RATE_HZ
    ax.axvline(hop_ms, color=ROLE_COLOURS["target"], linestyle="--", label=f"one hop of sound: {hop_ms:.0f} ms")
    ax.set(xscale="log", xlabel="computing one hop (ms, log scale)", ylabel="share of hops")
    ax.set(xlim=(hop_ms / 1000, 3 * hop_ms), ylim=(0, 1.03), title="Streaming log-mel: latency per hop")
    ax.legend(loc="center")
