"""The time base and the vocabulary's sizes. All conversions are exact: integers and rationals, never rounded floats.

Video frame ``k`` covers ``[k/30, (k+1)/30)`` s. Log-mel frame ``j`` is centred on ``j/100`` s (Whisper's hop).
"""

from dataclasses import dataclass
from fractions import Fraction

from specsync_lib.errors import InputError

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 160
STFT_SAMPLES = 400  # 25 ms analysis window, centred on the hop
MEL_BANDS = 80
MEL_FRAMES_PER_SECOND = SAMPLE_RATE_HZ // HOP_SAMPLES  # 100: one log-mel frame per 10 ms

VIDEO_FPS = 30
VIDEO_WIDTH_PX, VIDEO_HEIGHT_PX = 1280, 720
LATENT_CHANNELS = 16  # of Wan 2.1's latents
PIXELS_PER_LATENT = 8  # a latent cell's side in px

FRAMES_PER_SLOT = 4  # video frames behind one latent frame of Wan's causal VAE (the very first slot holds 1)
SLOTS_PER_CHUNK = 3  # usually, and at most: :class:`ChunkSize` has the others
FRAMES_PER_CHUNK = FRAMES_PER_SLOT * SLOTS_PER_CHUNK  # 12 frames, 400 ms
CHUNK_SLOTS = (1, 2, SLOTS_PER_CHUNK)
CHUNK_SAMPLES = SAMPLE_RATE_HZ * FRAMES_PER_CHUNK // VIDEO_FPS

# The draft's window around a video frame's centre, in log-mel frames: 110 ms back, 60 ms ahead, 180 ms of hops.
WINDOW_BACK_MEL_FRAMES = 11
WINDOW_AHEAD_MEL_FRAMES = 6
WINDOW_MEL_FRAMES = WINDOW_BACK_MEL_FRAMES + 1 + WINDOW_AHEAD_MEL_FRAMES  # 18

ENCODER_POSITION_MEL_FRAMES = 2  # Whisper's second convolution has stride 2: 50 positions per second
# Of the past, a full-scale judge's Whisper hears 3.2 s again with every chunk (the embedded judge's ears have a cache).
# Strict frame accuracy of the probe on Whisper base, 14 test prompts: 67.5, 75.4, 76.8, 77.4, 78.9 and 79.3 % for 0, 1,
# 2, 4, 8 and 16 chunks of past; 84.5 % with the whole recording, its future above all.
LISTEN_BACK_CHUNKS = 8

# The 15 visemes of the OVR/Oculus LipSync set; a viseme's index is its position here.
VISEMES = ("sil", "PP", "FF", "TH", "DD", "kk", "CH", "SS", "nn", "RR", "aa", "E", "ih", "oh", "ou")


@dataclass(frozen=True)
class ChunkSize:
    """How much of a stream a chunk holds: 1, 2 or 3 slots, which are 4, 8 or 12 frames.

    4 frames are 133 1/3 ms, 2,133 1/3 samples and 13 1/3 log-mel frames: where a chunk ends follows from its frames
    alone, and is never added up.

    Raises
    ------
    InputError: another number of slots.
    """

    slots: int = SLOTS_PER_CHUNK

    def __post_init__(self) -> None:
        if not isinstance(self.slots, int) or self.slots not in CHUNK_SLOTS:
            raise InputError(f"chunk_slots is {self.slots!r}: expected 1, 2 or 3 slots, of 4 video frames each")

    @property
    def frames(self) -> int:
        """Video frames of a chunk."""
        return FRAMES_PER_SLOT * self.slots

    @property
    def seconds(self) -> Fraction:
        """How long a chunk lasts, exact."""
        return Fraction(self.frames, VIDEO_FPS)

    @property
    def ms(self) -> float:
        """How long a chunk lasts, for pictures and tables."""
        return float(1000 * self.seconds)

    def first_frame(self, index: int) -> int:
        """A chunk's first frame in the recording."""
        return index * self.frames

    def samples(self, chunks: int) -> int:
        """The least samples in which so many whole chunks lie."""
        return -(-chunks * self.frames * SAMPLE_RATE_HZ // VIDEO_FPS)


CHUNK = ChunkSize()


def frame_count(num_samples: int) -> int:
    """Video frames for a recording at 16 kHz: round(duration x 30), halves up, exact."""
    return (2 * num_samples * VIDEO_FPS + SAMPLE_RATE_HZ) // (2 * SAMPLE_RATE_HZ)


def centre_mel_frame(frame: int) -> int:
    """The log-mel frame at or just before the centre of a video frame: floor((k + 1/2) x 100/30)."""
    return (2 * frame + 1) * MEL_FRAMES_PER_SECOND // (2 * VIDEO_FPS)


def window_start_mel_frame(frame: int) -> int:
    """First log-mel frame of the draft's window for a video frame; negative at the start of a recording."""
    return centre_mel_frame(frame) - WINDOW_BACK_MEL_FRAMES
