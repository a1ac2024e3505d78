"""Which visemes look alike: groups by the shape of the lips, for the rule that is exact on mouth shapes.

The groups come from the head's mesh (`workbench/measure/mouth_shapes.py`): within one, the gap between the lips and the
width of the mouth differ by at most MOST_APART_MM, and a shut mouth (sil, PP, FF) shares none with an open one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from specsync_lib.errors import InputError
from specsync_lib.paths import MODELS_DIR, display_path
from specsync_lib.units import VISEMES

PATH = MODELS_DIR / "mouth_shapes.json"
MOST_APART_MM = 2.0
SHUT = ("sil", "PP", "FF")  # lips that touch each other or the teeth: no open mouth looks like one


@dataclass(frozen=True)
class MouthShapes:
    """The partition of the visemes, and the shapes that it rests on.

    Attributes
    ----------
    groups : of every viseme of ``units.VISEMES``, numbered from 0 in that order.
    gap_mm, width_mm : of every viseme's mouth, held: between the lips, and between the corners.

    Raises
    ------
    InputError : no partition of the visemes, a group that is wider than MOST_APART_MM, or a shut mouth among open ones.
    """

    groups: tuple[int, ...]
    gap_mm: tuple[float, ...]
    width_mm: tuple[float, ...]

    def __post_init__(self) -> None:
        if {len(self.groups), len(self.gap_mm), len(self.width_mm)} != {len(VISEMES)}:
            raise InputError(f"mouth shapes: expected one group, gap and width for each of {len(VISEMES)} visemes")
        if sorted(set(self.groups)) != list(range(max(self.groups) + 1)):
            raise InputError(f"mouth shapes: groups must be numbered from 0 without gaps, got {self.groups}")
        for names in self.names:
            if len({name in SHUT for name in names}) > 1:
                raise InputError(f"mouth shapes: a shut mouth stands among open ones: {' '.join(names)}")
            members = [VISEMES.index(name) for name in names]
            if (widest := self.distances_mm[np.ix_(members, members)].max()) > MOST_APART_MM:
                raise InputError(
                    f"mouth shapes: {' '.join(names)} are {widest:.2f} mm apart; at most {MOST_APART_MM} fit"
                )

    @property
    def names(self) -> list[tuple[str, ...]]:
        """The visemes of each group."""
        return [
            tuple(name for name, own in zip(VISEMES, self.groups, strict=True) if own == group)
            for group in range(max(self.groups) + 1)
        ]

    @property
    def table(self) -> pd.DataFrame:
        """Columns viseme, group, gap_mm, width_mm."""
        columns = {"group": self.groups, "gap_mm": self.gap_mm, "width_mm": self.width_mm}
        return pd.DataFrame({"viseme": VISEMES} | columns)

    @property
    def distances_mm(self) -> Float[np.ndarray, "15 15"]:
        """How far apart two visemes' mouths are: the larger of the differences of gap and width."""
        return np.max([np.abs(np.subtract.outer(each, each)) for each in (self.gap_mm, self.width_mm)], axis=0)


def load_mouth_shapes(path: Path = PATH) -> MouthShapes:
    """The partition of a file.

    Raises
    ------
    InputError : the file is absent or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        groups = {name: number for number, names in enumerate(content["groups"]) for name in names}
        shapes = content["visemes"]
        return MouthShapes(
            tuple(groups[name] for name in VISEMES),
            tuple(shapes[name]["gap_mm"] for name in VISEMES),
            tuple(shapes[name]["width_mm"] for name in VISEMES),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{display_path(path)}: no mouth shapes ({error!r}); restore it or run workbench.measure.mouth_shapes"
        ) from error
