"""The groups of mouths: complete linkage within the bound, shut mouths among themselves."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.judge.mouth import MOST_APART_MM, SHUT, MouthShapes, load_mouth_shapes
from specsync_lib.units import VISEMES
from workbench.measure.mouth_shapes import partition, widest_mm

LENGTHS = st.floats(0, 12).map(lambda value: round(value, 3))


@given(st.lists(st.tuples(LENGTHS, LENGTHS), min_size=15, max_size=15))
@settings(max_examples=100)
def test_whatever_the_mesh_says_the_partition_holds(shapes):
    shapes = np.array(shapes)
    found = MouthShapes(partition(shapes), tuple(shapes[:, 0]), tuple(shapes[:, 1]))  # raises where it does not
    assert widest_mm(found, shapes) <= MOST_APART_MM
    # Complete: no two groups of one kind could be joined.
    for one, first in enumerate(found.names):
        for other in found.names[one + 1 :]:
            members = [VISEMES.index(name) for name in (*first, *other)]
            kinds = {name in SHUT for name in (*first, *other)}
            assert len(kinds) == 2 or found.distances_mm[np.ix_(members, members)].max() > MOST_APART_MM


def test_the_shipped_groups_follow_from_the_shipped_shapes():
    shapes = load_mouth_shapes()
    assert partition(np.column_stack([shapes.gap_mm, shapes.width_mm])) == shapes.groups
    assert dict(zip(VISEMES, shapes.gap_mm, strict=True))["PP"] == 0
