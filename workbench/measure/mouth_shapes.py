"""Which visemes' mouths look alike on the head's mesh: the groups of the rule that is exact on mouth shapes.

    python -m workbench.measure.mouth_shapes       writes data/models/mouth_shapes.json (seconds on a CPU)

Every viseme is held on the mesh as the face stage shows it (`visemes.VISEME_TO_ARKIT`), and the gap between the lips
and the width of the mouth are measured. Complete linkage joins the nearest shapes as long as no two of a group lie more
than `mouth.MOST_APART_MM` apart in either; shut mouths are joined among themselves. Measured again on the suite's other
faces, to say how far the groups hold there; they are chosen on the reference head.
"""

import sys

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from specsync_lib.face.head.head import Head
from specsync_lib.face.head.look import IDENTITIES
from specsync_lib.face.head.mesh import weights_vector
from specsync_lib.files import write_json
from specsync_lib.judge.mouth import MOST_APART_MM, PATH, SHUT, MouthShapes, load_mouth_shapes
from specsync_lib.provenance import machine
from specsync_lib.units import VISEMES
from specsync_lib.visemes import VISEME_TO_ARKIT
from workbench.train.lip_faces import mouth_width_mm

OWN_FACE = "reference"


def shapes_mm(head: Head) -> np.ndarray:
    """Gap between the lips and width of the mouth of every viseme, held, in mm [15, 2]."""
    held = [weights_vector(VISEME_TO_ARKIT[viseme]) for viseme in VISEMES]
    return np.array([[head.lip_aperture(units), mouth_width_mm(head, units)] for units in held])


def partition(shapes_mm: np.ndarray) -> tuple[int, ...]:
    """The group of every viseme, numbered in the order of ``units.VISEMES``.

    Source: complete linkage, Sørensen (1948); distance: the larger of the two differences (Chebyshev).
    """
    labels = np.zeros(len(VISEMES), int)
    shut = np.isin(VISEMES, SHUT)
    for number, members in enumerate((shut, ~shut)):
        tree = linkage(pdist(shapes_mm[members], "chebyshev"), "complete")
        labels[members] = 100 * number + fcluster(tree, MOST_APART_MM, "distance")
    order = list(dict.fromkeys(labels.tolist()))
    return tuple(order.index(label) for label in labels.tolist())


def widest_mm(shapes: MouthShapes, shapes_mm: np.ndarray) -> float:
    """How far the farthest two mouths of one group lie apart on a face."""
    apart = np.abs(shapes_mm[:, None] - shapes_mm[None]).max(axis=2)
    groups = np.array(shapes.groups)
    return float(apart[groups[:, None] == groups].max())


def measure() -> dict:
    """The file's content."""
    faces = {}
    for name, identity in IDENTITIES.items():
        with Head(identity, seed=0) as head:
            faces[name] = shapes_mm(head)
    own = np.round(faces[OWN_FACE], 3)
    shapes = MouthShapes(partition(own), tuple(own[:, 0].tolist()), tuple(own[:, 1].tolist()))
    return {
        "what": "visemes grouped by the shape of their lips, held on the mesh",
        "rule": f"complete linkage: within a group at most {MOST_APART_MM} mm apart in gap and in width; "
        f"{', '.join(SHUT)} never join an open shape",
        "provenance": machine() | {"command": "python -m workbench.measure.mouth_shapes", "label": "measured"},
        "licence": "Apache-2.0",
        "face": OWN_FACE,
        "groups": shapes.names,
        "visemes": {
            name: {"group": group, "gap_mm": gap, "width_mm": width}
            for name, group, (gap, width) in zip(VISEMES, shapes.groups, own.tolist(), strict=True)
        },
        "distances_mm": np.round(shapes.distances_mm, 3).tolist(),
        "widest_group_mm_by_face": {name: round(widest_mm(shapes, each), 3) for name, each in faces.items()},
    }


def main() -> int:
    """Measure and write the file."""
    write_json(PATH, measure())
    shapes = load_mouth_shapes()
    for names in shapes.names:
        print(" ".join(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
