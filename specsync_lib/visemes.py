"""Visemes: the plan of a mouth, and the tables from phones to visemes to face units.

Glossary: a *phone* is a speech sound (ARPAbet or IPA), a *viseme* a class of sounds that look alike on the lips, a
*unit* one of the 52 ARKit face units with a weight in [0, 1].

Sources
-------
OVR     Meta, "Viseme Reference" of Oculus LipSync (developers.meta.com/horizon/documentation/unity/
        audio-ovrlipsync-viseme-reference): the 15 visemes with example phonemes and words (p b m: PP, f v: FF, th: TH,
        t d: DD, k g: kk, tS dZ S: CH, s z: SS, n l: nn, r: RR, A: as in car: aa, e as in bed: E, ih as in tip, oh as in
        toe, ou as in book). It takes them from MPEG-4 facial animation (ISO/IEC 14496-2).
Polly   Amazon, "Phoneme/Viseme tables, English (US)" (docs.aws.amazon.com/polly/latest/dg/ph-table-english-us.html):
        the sounds that OVR does not list (h and ng with k, y with i, w with u, the low vowels together, the mid central
        with E).
ARKit   Apple, ARFaceAnchor.BlendShapeLocation (developer.apple.com/documentation/arkit): what a unit moves; mouthClose
        closes the lips whatever the jaw does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specsync_lib.errors import InputError
from specsync_lib.units import VIDEO_FPS, VISEMES

if TYPE_CHECKING:  # a training machine may lack it
    import pandas as pd

VISEME_INDEX = {viseme: index for index, viseme in enumerate(VISEMES)}

# Keys: the 39 phones of the CMU pronouncing dictionary and the fillers of the acoustic model. OVR's own examples
# decide; Polly decides where OVR is silent. A diphthong takes its first target, the longer and more open one.
ARPABET_TO_VISEME: dict[str, str] = {
    "SIL": "sil", "+NSN+": "sil", "+SPN+": "sil",
    "P": "PP", "B": "PP", "M": "PP",
    "F": "FF", "V": "FF",
    "TH": "TH", "DH": "TH",
    "T": "DD", "D": "DD",
    "K": "kk", "G": "kk", "NG": "kk", "HH": "kk",
    "CH": "CH", "JH": "CH", "SH": "CH", "ZH": "CH",
    "S": "SS", "Z": "SS",
    "N": "nn", "L": "nn",
    "R": "RR", "ER": "RR",
    "AA": "aa", "AE": "aa", "AY": "aa", "AW": "aa",
    "EH": "E", "EY": "E", "AH": "E",
    "IH": "ih", "IY": "ih", "Y": "ih",
    "AO": "oh", "OW": "oh", "OY": "oh",
    "UH": "ou", "UW": "ou", "W": "ou",
}  # fmt: skip

# Keys: the IPA that espeak-ng's en-us voice writes for Piper. It writes affricates and diphthongs as two code points;
# joined they are one sound here as in ARPAbet. The same sources as above; the flap and the glottal stop go with t.
PIPER_TO_VISEME: dict[str, str] = {
    "sil": "sil",
    "p": "PP", "b": "PP", "m": "PP",
    "f": "FF", "v": "FF",
    "θ": "TH", "ð": "TH",
    "t": "DD", "d": "DD", "ɾ": "DD", "ʔ": "DD",
    "k": "kk", "ɡ": "kk", "ŋ": "kk", "h": "kk", "x": "kk",
    "ʃ": "CH", "ʒ": "CH", "tʃ": "CH", "dʒ": "CH",
    "s": "SS", "z": "SS",
    "n": "nn", "l": "nn", "ɫ": "nn", "ɬ": "nn",
    "ɹ": "RR", "r": "RR", "ɚ": "RR", "ɜ": "RR",
    "a": "aa", "ɑ": "aa", "æ": "aa", "ɒ": "aa", "aɪ": "aa", "aʊ": "aa",
    "e": "E", "eɪ": "E", "ɛ": "E", "ʌ": "E", "ə": "E", "ɐ": "E",
    "i": "ih", "ɪ": "ih", "ᵻ": "ih", "j": "ih",
    "ɔ": "oh", "ɔɪ": "oh", "o": "oh", "oʊ": "oh",
    "u": "ou", "ʊ": "ou", "w": "ou",
}  # fmt: skip

PHONE_TO_VISEME: dict[str, str] = ARPABET_TO_VISEME | PIPER_TO_VISEME


def _units(pairs: dict[str, float] | None = None, **single: float) -> dict[str, float]:
    """ARKit weights of a mouth: single units by name, and pairs whose left and right take the same weight."""
    both = {f"{unit}{side}": weight for unit, weight in (pairs or {}).items() for side in ("Left", "Right")}
    return single | both


# The weights are ours, set by eye and by the lip gap on the reference head from OVR's description of each mouth ("mild
# production") and from articulation: closures first (PP: no gap at all; FF: lower lip under the upper teeth), rounding
# for CH RR oh ou, spreading for SS E ih, jaw by vowel height. Unit names: ARKit's, as anny 0.6.2 lists them.
VISEME_TO_ARKIT: dict[str, dict[str, float]] = {
    "sil": {},
    "PP": _units({"mouthPress": 0.40}, mouthRollLower=0.30, mouthRollUpper=0.30),
    "FF": _units({"mouthUpperUp": 0.45}, jawOpen=0.04, mouthRollLower=0.60),
    "TH": _units({"mouthLowerDown": 0.15, "mouthUpperUp": 0.20}, jawOpen=0.12, tongueOut=0.45),
    "DD": _units({"mouthLowerDown": 0.20, "mouthUpperUp": 0.22, "mouthStretch": 0.08}, jawOpen=0.09),
    "kk": _units({"mouthLowerDown": 0.15, "mouthUpperUp": 0.18, "mouthStretch": 0.08}, jawOpen=0.15),
    "CH": _units({"mouthLowerDown": 0.12}, jawOpen=0.06, mouthFunnel=0.55, mouthPucker=0.25),
    "SS": _units({"mouthLowerDown": 0.30, "mouthUpperUp": 0.30, "mouthStretch": 0.28}, jawOpen=0.02),
    "nn": _units({"mouthLowerDown": 0.15, "mouthUpperUp": 0.18, "mouthStretch": 0.06}, jawOpen=0.11),
    "RR": _units(jawOpen=0.11, mouthFunnel=0.35, mouthPucker=0.25),
    "aa": _units({"mouthLowerDown": 0.15, "mouthUpperUp": 0.20}, jawOpen=0.46),
    "E": _units({"mouthLowerDown": 0.15, "mouthUpperUp": 0.24, "mouthStretch": 0.18}, jawOpen=0.25),
    "ih": _units(
        {"mouthLowerDown": 0.15, "mouthUpperUp": 0.20, "mouthStretch": 0.22, "mouthSmile": 0.15}, jawOpen=0.14
    ),
    "oh": _units(jawOpen=0.33, mouthFunnel=0.40, mouthPucker=0.15),
    "ou": _units(jawOpen=0.10, mouthFunnel=0.20, mouthPucker=0.75),
}


def aperture(units: dict[str, float]) -> float:
    """How far the lips stand apart for a set of ARKit weights, in units of a full jawOpen, at least 0.

    The jaw opens the mouth; a lip that leaves the other adds a share of its unit (its travel beside the jaw's); lips
    pressed or rolled in, and mouthClose, take the gap away again. The shares follow the reference head, whose lip gap
    this tracks to a correlation of 0.99 over the 15 visemes.
    """
    lower, upper = units.get("mouthLowerDownLeft", 0.0), units.get("mouthUpperUpLeft", 0.0)
    lips = (lower + units.get("mouthFunnel", 0.0)) / 3 + upper / 6
    closing = units.get("mouthClose", 0.0) + units.get("mouthPressLeft", 0.0) + 0.1 * units.get("mouthRollLower", 0.0)
    narrowing = 1.0 - 0.5 * units.get("mouthPucker", 0.0)
    return max(0.0, narrowing * (units.get("jawOpen", 0.0) + lips) - closing)


# Openness of a viseme: its aperture over that of the most open one, so that 0 is closed lips and 1 is "aa".
VISEME_OPENNESS: dict[str, float] = {
    viseme: aperture(units) / max(map(aperture, VISEME_TO_ARKIT.values())) for viseme, units in VISEME_TO_ARKIT.items()
}
_OPENNESS = np.array([VISEME_OPENNESS[viseme] for viseme in VISEMES], dtype=np.float32)  # [15]

# Lips move over about 100 ms: a frame takes half of its own viseme's openness and a quarter of each neighbour's.
OPENNESS_KERNEL = np.array([0.25, 0.5, 0.25], dtype=np.float32)


def ends_repeated(values: np.ndarray) -> np.ndarray:
    """[n] to [n + 2], n > 0: what `numpy.pad` gives with ``mode="edge"``, in a fraction of its time.

    A simulated pipeline makes a plan before every job.
    """
    return np.concatenate([values[:1], values, values[-1:]])


def expected_openness(probabilities: np.ndarray) -> np.ndarray:
    """Openness [frames] float32 in [0, 1] expected under distributions over the visemes [frames, 15].

    Each frame's expected table value, smoothed over three frames; the ends repeat theirs. A frame is shut by as much as
    it is PP, because the lips must meet however short the closure is: a frame that is surely PP stays at 0. It is what
    the draft's openness head was taught, so that the openness of draft, judge and truth (one-hot rows) is one measure.
    """
    probabilities = np.asarray(probabilities, np.float32)
    if not len(probabilities):
        return np.zeros(0, dtype=np.float32)
    openness = np.convolve(ends_repeated(probabilities @ _OPENNESS), OPENNESS_KERNEL, mode="valid")
    return (openness * (1 - probabilities[:, VISEME_INDEX["PP"]])).clip(0.0, 1.0).astype(np.float32)


def openness_of(visemes: np.ndarray) -> np.ndarray:
    """`expected_openness` of a viseme sequence [frames], every frame sure."""
    return expected_openness(np.eye(len(VISEMES), dtype=np.float32)[np.asarray(visemes, int)])


@dataclass(frozen=True)
class SyncPlan:
    """What the mouth does in every video frame.

    visemes: [frames] int8, index into units.VISEMES; openness: [frames] float32 in [0, 1].

    Raises
    ------
    InputError: the two differ in length, or a value lies outside its range.
    """

    visemes: np.ndarray
    openness: np.ndarray

    def __post_init__(self) -> None:
        visemes, openness = np.asarray(self.visemes), np.asarray(self.openness)
        if visemes.ndim != 1 or visemes.shape != openness.shape:
            raise InputError(
                f"sync plan: visemes {visemes.shape} and openness {openness.shape} must be one value a frame"
            )
        if visemes.size and not (visemes.min() >= 0 and visemes.max() < len(VISEMES)):
            raise InputError(f"sync plan: viseme indices must lie in 0 … {len(VISEMES) - 1}, got up to {visemes.max()}")
        if not np.all((openness >= 0) & (openness <= 1)):  # NaN fails too
            raise InputError("sync plan: openness must lie in [0, 1] in every frame")
        object.__setattr__(self, "visemes", visemes.astype(np.int8))
        object.__setattr__(self, "openness", openness.astype(np.float32))

    def __len__(self) -> int:
        return len(self.visemes)

    @classmethod
    def from_names(cls, names: Sequence[str]) -> "SyncPlan":
        """The plan of a viseme name a frame, with the table's smoothed openness."""
        visemes = np.array([VISEME_INDEX[name] for name in names], dtype=np.int8)
        return cls(visemes, openness_of(visemes))

    @property
    def names(self) -> list[str]:
        """Viseme name of each frame."""
        return [VISEMES[index] for index in self.visemes]

    def to_frame(self) -> "pd.DataFrame":
        """Columns frame, time_s (start of the frame), viseme (its name), openness."""
        import pandas as pd

        frames = np.arange(len(self))
        return pd.DataFrame(
            {"frame": frames, "time_s": frames / VIDEO_FPS, "viseme": self.names, "openness": self.openness}
        )

    @classmethod
    def from_frame(cls, table: "pd.DataFrame") -> "SyncPlan":
        """The inverse of ``to_frame``; other columns are ignored.

        Raises
        ------
        InputError: a column is missing, frames do not count 0, 1, 2, …, or a viseme has an unknown name.
        """
        missing = {"frame", "viseme", "openness"} - set(table.columns)
        if missing:
            raise InputError(
                f"sync plan table: column {min(missing)!r} is missing, expected frame, viseme and openness"
            )
        if not np.array_equal(table["frame"].to_numpy(), np.arange(len(table))):
            raise InputError("sync plan table: column 'frame' must count 0, 1, 2, … without gaps")
        unknown = set(table["viseme"]) - set(VISEMES)
        if unknown:
            raise InputError(
                f"sync plan table: unknown viseme {min(map(str, unknown))!r}, expected one of {' '.join(VISEMES)}"
            )
        return cls(table["viseme"].map(VISEME_INDEX).to_numpy(np.int8), table["openness"].to_numpy(np.float32))


def viseme_codes(names: "pd.Series") -> np.ndarray:
    """Indices [n] into ``units.VISEMES`` of n names; -1 for a name outside the set or a missing one."""
    import pandas as pd

    return pd.Categorical(names, categories=VISEMES).codes
