"""Voices and rooms that were never recorded: seeded augmentation of speech on whole batches, on any device.

Voice: resampling (pitch, formants and tempo together) and a formant shift that leaves pitch and tempo alone; the two
compose to a pitch shift. Channel: equaliser, band limits, room, coloured noise, level; these keep all times.
Every function takes [batch, n] float samples at 16 kHz and one value a row; ``voice`` and ``channel`` draw the values.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from specsync_lib.units import SAMPLE_RATE_HZ

Rows = Float[Tensor, "batch n"]
PerRow = Float[Tensor, " batch"]

RESAMPLING_OVERSAMPLING = 4  # the band-limited signal is read between samples by linear interpolation
FORMANT_FFT_SAMPLES, FORMANT_HOP_SAMPLES = 512, 128
ENVELOPE_QUEFRENCY_SAMPLES = 24  # 1.5 ms: below the pitch period of any voice, above a formant's ripple
LARGEST_FORMANT_GAIN_NEPER = 3.0
EQUALISER_KNOTS = 8

# Ranges that the draws below take; log-uniform for ratios, uniform for the rest.
SPEED_RATIO = (0.8, 1.25)
FORMANT_RATIO = (0.82, 1.22)
EQUALISER_DB = 8.0
HIGH_PASS_HZ = (20.0, 300.0)
LOW_PASS_HZ = (3400.0, 8000.0)
REVERBERATION_S = (0.1, 0.8)
DIRECT_TO_REVERBERANT_DB = (-2.0, 20.0)
NOISE_EXPONENT = (-0.5, 2.0)  # of the power spectrum 1/f^exponent: 0 white, 1 pink, 2 brown
SIGNAL_TO_NOISE_DB = (3.0, 40.0)
LEVEL_DB = (-25.0, 6.0)


def uniform(count: int, limits: tuple[float, float], generator: Generator) -> PerRow:
    """Uniform draws between two limits, on the generator's device."""
    low, high = limits
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)


def log_uniform(count: int, limits: tuple[float, float], generator: Generator) -> PerRow:
    """Draws whose logarithm is uniform between those of two limits."""
    bounds = torch.tensor(limits).log().tolist()
    return uniform(count, (bounds[0], bounds[1]), generator).exp()


def resample(samples: Rows, ratio: PerRow, length: int) -> Float[Tensor, "batch length"]:
    """Play each row ``ratio`` times as fast: pitch and formants rise, time shrinks; sample m is read at m x ratio.

    Rows end in zeros where the source ends. Band-limited: what would alias is filtered away.
    """
    count = samples.shape[1]
    spectrum = torch.fft.rfft(samples)
    nyquist_share = torch.linspace(0, 1, spectrum.shape[1], device=samples.device)
    spectrum = spectrum * (nyquist_share <= 1 / ratio.clamp(min=1)[:, None])
    fine = torch.fft.irfft(spectrum, n=count * RESAMPLING_OVERSAMPLING) * RESAMPLING_OVERSAMPLING
    fine = torch.nn.functional.pad(fine, (0, 2))
    position = torch.arange(length, device=samples.device) * ratio[:, None] * RESAMPLING_OVERSAMPLING
    position = position.clamp(max=count * RESAMPLING_OVERSAMPLING)
    below = position.long()
    return torch.lerp(fine.gather(1, below), fine.gather(1, below + 1), position - below)


def shift_formants(samples: Rows, ratio: PerRow) -> Rows:
    """Stretch each row's spectral envelope by ``ratio`` along frequency; pitch and time stay.

    The envelope is the cepstrally smoothed log magnitude; its warped copy takes its place, the fine structure and the
    phases stay.
    """
    window = torch.hann_window(FORMANT_FFT_SAMPLES, device=samples.device)
    form = {"n_fft": FORMANT_FFT_SAMPLES, "hop_length": FORMANT_HOP_SAMPLES, "window": window}
    spectrum = torch.stft(samples, **form, return_complex=True)  # [batch, 257, hops]
    log_magnitude = spectrum.abs().clamp(min=1e-6).log().transpose(1, 2)  # [batch, hops, 257]
    cepstrum = torch.fft.irfft(log_magnitude)
    cepstrum[..., ENVELOPE_QUEFRENCY_SAMPLES : FORMANT_FFT_SAMPLES - ENVELOPE_QUEFRENCY_SAMPLES + 1] = 0
    envelope = torch.fft.rfft(cepstrum).real
    bins = envelope.shape[2]
    source = (torch.arange(bins, device=samples.device) / ratio[:, None]).clamp(max=bins - 1)  # [batch, 257]
    below = source.long().clamp(max=bins - 2)
    warp = torch.zeros(len(samples), bins, bins, device=samples.device)  # row: target bin, column: source bin
    warp.scatter_(2, below[..., None], 1 - (source - below)[..., None])
    warp.scatter_(2, below[..., None] + 1, (source - below)[..., None])
    gain = (envelope @ warp.transpose(1, 2) - envelope).clamp(-LARGEST_FORMANT_GAIN_NEPER, LARGEST_FORMANT_GAIN_NEPER)
    return torch.istft(spectrum * gain.transpose(1, 2).exp(), **form, length=samples.shape[1])


def equalise(samples: Rows, knots_db: Float[Tensor, "batch knots"], high_pass_hz: PerRow, low_pass_hz: PerRow) -> Rows:
    """A smooth gain over log frequency through ``knots_db`` (100 Hz to 8 kHz) between second-order band limits."""
    spectrum = torch.fft.rfft(samples)
    hertz = torch.linspace(0, SAMPLE_RATE_HZ / 2, spectrum.shape[1], device=samples.device)
    place = (hertz.clamp(min=100) / 100).log() / torch.tensor(80.0).log() * (knots_db.shape[1] - 1)
    below = place.long().clamp(max=knots_db.shape[1] - 2)
    gain_db = torch.lerp(knots_db[:, below], knots_db[:, below + 1], place - below)
    low = 1 / (1 + (hertz / low_pass_hz[:, None]) ** 8).sqrt()
    high = 1 / (1 + (high_pass_hz[:, None] / hertz.clamp(min=1)) ** 4).sqrt()
    return torch.fft.irfft(spectrum * 10 ** (gain_db / 20) * low * high, n=samples.shape[1])


def reverberate(samples: Rows, seconds: PerRow, direct_to_reverberant_db: PerRow, generator: Generator) -> Rows:
    """Convolve with a synthetic room: the direct sound at once, then noise that decays 60 dB in ``seconds``."""
    length = int(REVERBERATION_S[1] * SAMPLE_RATE_HZ)
    time = torch.arange(length, device=samples.device) / SAMPLE_RATE_HZ
    tail = torch.randn(len(samples), length, generator=generator, device=samples.device)
    tail = tail * torch.exp(-6.9 * time / seconds[:, None]) * (time > 0.002)
    tail = tail / tail.norm(dim=1, keepdim=True) * 10 ** (-direct_to_reverberant_db[:, None] / 20)
    tail[:, 0] = 1
    size = samples.shape[1] + length
    wet = torch.fft.irfft(torch.fft.rfft(samples, n=size) * torch.fft.rfft(tail, n=size), n=size)
    return wet[:, : samples.shape[1]]


def add_noise(samples: Rows, exponent: PerRow, signal_to_noise_db: PerRow, generator: Generator) -> Rows:
    """Add stationary noise with a 1/f^exponent power spectrum at a signal-to-noise ratio over the whole row."""
    white = torch.randn(samples.shape, generator=generator, device=samples.device)
    spectrum = torch.fft.rfft(white)
    hertz = torch.linspace(0, SAMPLE_RATE_HZ / 2, spectrum.shape[1], device=samples.device).clamp(min=50)
    noise = torch.fft.irfft(spectrum * hertz ** (-exponent[:, None] / 2), n=samples.shape[1])
    power = samples.square().mean(dim=1, keepdim=True)
    scale = power.sqrt() / noise.square().mean(dim=1, keepdim=True).sqrt() * 10 ** (-signal_to_noise_db[:, None] / 20)
    return samples + scale * noise


def voice(samples: Rows, length: int, chance: PerRow, generator: Generator) -> tuple[Rows, PerRow]:
    """Another voice for each row with its ``chance``: samples [batch, length] and the speed ratio (1 where unchanged).

    Sample m of a row stems from time m x ratio of its source.
    """
    count = len(samples)
    ones = torch.ones(count, device=samples.device)
    draw = uniform(count, (0, 1), generator)
    ratio = torch.where(draw < chance, log_uniform(count, SPEED_RATIO, generator), ones)
    formants = torch.where(draw < chance, log_uniform(count, FORMANT_RATIO, generator), ones)
    moved = resample(samples, ratio, length)
    return torch.where((draw < chance)[:, None], shift_formants(moved, formants), moved), ratio


def channel(samples: Rows, chance: PerRow, generator: Generator) -> Rows:
    """Another microphone, room, noise and level for each row; each of the four with its ``chance``."""
    count = len(samples)

    def some(changed: Rows) -> Rows:
        return torch.where((uniform(count, (0, 1), generator) < chance)[:, None], changed, samples)

    knots_db = EQUALISER_DB * torch.randn(count, EQUALISER_KNOTS, generator=generator, device=samples.device) / 2
    samples = some(
        equalise(
            samples,
            knots_db.clamp(-EQUALISER_DB, EQUALISER_DB),
            log_uniform(count, HIGH_PASS_HZ, generator),
            log_uniform(count, LOW_PASS_HZ, generator),
        )
    )
    samples = some(
        reverberate(
            samples,
            log_uniform(count, REVERBERATION_S, generator),
            uniform(count, DIRECT_TO_REVERBERANT_DB, generator),
            generator,
        )
    )
    samples = some(
        add_noise(
            samples, uniform(count, NOISE_EXPONENT, generator), uniform(count, SIGNAL_TO_NOISE_DB, generator), generator
        )
    )
    return some(samples * 10 ** (uniform(count, LEVEL_DB, generator) / 20)[:, None]).clamp(-1, 1)
