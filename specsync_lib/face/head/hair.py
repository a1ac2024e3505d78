"""Hair of the reference head: a lifted cap over the scalp, a hanging shell for a bob, and single strands on both.

Lengths are metres, positions relative to the middle between the eyes; axes as in ``mesh``.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from specsync_lib.face.head import mesh
from specsync_lib.face.head.look import smoothstep

# Height of the hairline at angles around the head, from the forehead (0) past temple and ear to the nape (180).
HAIRLINE_DEGREES = (0, 20, 38, 52, 64, 74, 82, 92, 104, 116, 135, 180)
HAIRLINE_M = (0.066, 0.067, 0.064, 0.050, 0.030, 0.012, 0.004, 0.020, 0.020, -0.010, -0.055, -0.075)
SKULL_CENTRE_BEHIND_EYES_M = 0.09
CAP_LIFT_M = {"back": 0.011, "short": 0.013, "bob": 0.006}
CAP_STRANDS = {"back": 4200, "short": 4200, "bob": 1500}
SHELL_STRANDS = 850
PART_M = 0.024  # the bob's parting, on the head's left
FRONT_DEGREES = 56  # where the bob begins beside the face
HEM_M = -0.118  # where it ends, at the jaw


@dataclass(frozen=True)
class Hair:
    """Vertices of all hair, and the sites that carry its light (strands borrow from the surface under them).

    points [n, 3], triangles [m, 3], tangents [n, 3] along the hair, shade [n] brightness of single strands,
    places [n, 2] texture coordinates; site_points, site_normals [k, 3], site_of [n].
    """

    points: np.ndarray
    triangles: np.ndarray
    tangents: np.ndarray
    shade: np.ndarray
    places: np.ndarray
    site_points: np.ndarray
    site_normals: np.ndarray
    site_of: np.ndarray

    def joined(self, other: "Hair") -> "Hair":
        """Both as one."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__}
        pairs["triangles"] = (self.triangles, other.triangles + len(self.points))
        pairs["site_of"] = (self.site_of, other.site_of + len(self.site_points))
        return Hair(**{name: np.concatenate(pair) for name, pair in pairs.items()})


def over_hairline(place: np.ndarray) -> np.ndarray:
    """Height above the hairline in metres, for canonical points relative to the middle between the eyes."""
    around = np.degrees(np.arctan2(np.abs(place[:, 0]), -(place[:, 1] - SKULL_CENTRE_BEHIND_EYES_M)))
    return place[:, 2] - np.interp(around, HAIRLINE_DEGREES, HAIRLINE_M)


def grow(
    style: str,
    skin: np.ndarray,
    normals: np.ndarray,
    quads: np.ndarray,
    over: np.ndarray,
    view: np.ndarray,
    rng: np.random.Generator,
) -> Hair:
    """Hair of a style ("back", "short", "bob") on skin vertices [n, 3], ``over`` [n] above the hairline."""
    hair = _cap(style, skin, normals, quads, over, view, rng)
    return hair.joined(_bob(skin, normals, over, view, rng)) if style == "bob" else hair


def _combing(rel: np.ndarray, normals: np.ndarray, style: str) -> np.ndarray:
    """Direction [n, 3] in which hair lies on the scalp."""
    if style == "back":  # to a knot at the back of the head
        aim = np.array([0.0, 0.19, 0.015]) - rel
    elif style == "bob":  # away from the parting
        aim = np.stack([np.sign(rel[:, 0] - PART_M), np.full(len(rel), 0.25), np.full(len(rel), -0.5)], axis=1)
    else:  # up and back, swept to one side
        aim = np.array([0.35, 0.4, 0.25]) + np.maximum(0.05 - rel[:, 2:], 0) * np.array([0.0, 0.0, -4.0])
    aim = aim - normals * (aim * normals).sum(axis=1, keepdims=True)
    return aim / np.maximum(np.linalg.norm(aim, axis=1, keepdims=True), 1e-9)


def _strands(
    lines: np.ndarray, widths: np.ndarray, sites: np.ndarray, view: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Ribbons for hair lines [strands, points, 3], with tangents, shade, texture places and sites per vertex."""
    strands, count = lines.shape[:2]
    points, triangles = mesh.ribbons(lines, np.broadcast_to(widths, (strands, count)), view)
    tangents = np.gradient(lines, axis=1).reshape(-1, 3).repeat(2, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-9)
    shade = rng.uniform(0.65, 1.25, strands).repeat(2 * count)
    # one hair, not a stripe of the surface's texture: a single column of it
    places = np.stack([rng.uniform(0, 1, strands).repeat(2 * count), points[:, 2] / 0.5], axis=1)
    return points, triangles, tangents, shade, places, sites.reshape(-1).repeat(2)


def _cap(
    style: str,
    skin: np.ndarray,
    normals: np.ndarray,
    quads: np.ndarray,
    over: np.ndarray,
    view: np.ndarray,
    rng: np.random.Generator,
) -> Hair:
    """Hair that lies on the scalp: its lifted surface, and strands that break its edge."""
    used, local = np.unique(quads[(over > -0.002)[quads].all(axis=1)], return_inverse=True)
    local = local.reshape(-1, 4)
    lift = 0.0008 + (CAP_LIFT_M[style] - 0.0008) * smoothstep(-0.002, 0.030, over)
    cap = skin[used] + normals[used] * lift[used][:, None]
    cap_triangles = np.concatenate([local[:, [0, 1, 2]], local[:, [0, 2, 3]]])
    count, points = CAP_STRANDS[style], 6
    roots = np.flatnonzero(over > -0.004)
    edge = np.exp(-((over[roots] / 0.007) ** 2)) * 2.5 + 0.3
    chosen = rng.choice(roots, count, p=edge / edge.sum())
    length = rng.uniform(0.018, 0.032, count) if style == "short" else rng.uniform(0.035, 0.085, count)
    place = skin[chosen] + rng.normal(0, 0.0006, (count, 3))
    height, wander = rng.uniform(-0.0018, 0.0010, count), rng.normal(0, 0.05, count)
    ends = rng.uniform(0.2, 1.0, count) * (0.004 if style == "short" else 0.0)
    lines, tree = [], cKDTree(skin[roots])
    for step in range(points):
        nearest = roots[tree.query(place)[1]]
        along = normals[nearest]
        rise = lift[nearest] + height * min(1, step / 3) + 0.0004 + ends * step / (points - 1)
        slide = place - skin[nearest]
        slide -= along * (slide * along).sum(axis=1, keepdims=True)
        lines.append(skin[nearest] + slide + along * rise[:, None])
        flow = _combing(skin[nearest], along, style)
        flow = flow + np.cross(flow, along) * wander[:, None]
        place = place + flow * (length / points)[:, None]
    widths = np.interp(np.linspace(0, 1, points), [0, 0.15, 0.6, 1], [0.00022, 0.00055, 0.0005, 0.00012])
    site = cKDTree(skin[used]).query(skin[chosen])[1]
    strands = _strands(np.stack(lines, axis=1), widths, site[:, None].repeat(points, axis=1), view, rng)
    # the surface's texture runs along the combing: planes through the skull's axis, or under a bob none at all
    angle = np.arctan2(cap[:, 0], cap[:, 2] + 0.01) if style != "bob" else np.zeros(len(cap))
    return Hair(
        np.concatenate([cap, strands[0]]),
        np.concatenate([cap_triangles, strands[1] + len(cap)]),
        np.concatenate([_combing(skin[used], normals[used], style), strands[2]]),
        np.concatenate([np.full(len(cap), 0.8), strands[3]]),
        np.concatenate([np.stack([angle / (2 * np.pi) + 0.5, (cap[:, 1] + 0.2) / 0.5], axis=1), strands[4]]),
        cap,
        normals[used],
        np.concatenate([np.arange(len(cap)), strands[5]]),
    )


def _bob(skin: np.ndarray, normals: np.ndarray, over: np.ndarray, view: np.ndarray, rng: np.random.Generator) -> Hair:
    """A shell from the parting over temples and ears to the jaw, in two halves, with strands on it."""
    scalp = skin[over > 0]
    centre = np.array([0.0, SKULL_CENTRE_BEHIND_EYES_M, 0.015])
    half_width = np.abs(scalp[:, 0]).max() + 0.012
    half_depth = scalp[:, 1].max() - centre[1] + 0.012
    tree = cKDTree(skin)
    hair = None
    for side in (1, -1):
        around = np.radians(np.linspace(FRONT_DEGREES, 183, 110))
        share = np.linspace(0, 1, 64)
        grid = _shell(around, share, side, centre, half_width, half_depth, scalp, rng)
        grid = _outside(grid, skin, normals, tree)
        rows, columns = grid.shape[:2]
        i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
        corner = (i * columns + j).ravel()
        triangles = np.concatenate(
            [
                np.stack([corner, corner + 1, corner + columns], axis=1),
                np.stack([corner + 1, corner + columns + 1, corner + columns], axis=1),
            ]
        )
        points = grid.reshape(-1, 3)
        facing = mesh.VertexNormals(triangles, len(points))(points)
        facing *= np.sign((facing * (points - centre)).sum(axis=1)).sum() or 1.0
        facing /= np.linalg.norm(facing, axis=1, keepdims=True)
        tangents = np.gradient(grid, axis=1).reshape(-1, 3)
        tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-9)
        u = (np.arange(rows) / rows * 0.45 + (0.0 if side > 0 else 0.5))[:, None].repeat(columns, axis=1)
        v = np.tile(share * 0.45, (rows, 1))
        # strands: lines of the shell, each with its own drift, height and end
        count, steps = SHELL_STRANDS, 11
        start = np.clip(rng.beta(0.8, 1.3, count), 0, 1) * (rows - 1)
        first, last = rng.uniform(0, 0.35, count) ** 1.5, rng.uniform(0.75, 1.03, count)
        t = first[:, None] + (last - first)[:, None] * np.linspace(0, 1, steps)
        row = np.clip(start[:, None] + rng.normal(0, 1.6, count)[:, None] * t, 0, rows - 1)
        column = np.clip(t, 0, 1) * (columns - 1)
        lines = _bilinear(grid, row, column)
        outward = facing.reshape(rows, columns, 3)[row.round().astype(int), column.round().astype(int)]
        lines = lines + outward * rng.uniform(-0.0004, 0.0022, count)[:, None, None]
        lines[..., 2] -= np.maximum(t - 1, 0) * 0.15
        widths = np.interp(np.linspace(0, 1, steps), [0, 0.1, 0.7, 1], [0.0003, 0.0007, 0.0006, 0.00015])
        site = (row.round() * columns + column.round()).astype(int)
        strands = _strands(lines, widths, site, view, rng)
        half = Hair(
            np.concatenate([points, strands[0]]),
            np.concatenate([triangles, strands[1] + len(points)]),
            np.concatenate([tangents, strands[2]]),
            np.concatenate([0.8 * _depth_shade(points), strands[3] * _depth_shade(strands[0])]),
            np.concatenate([np.stack([u, v], axis=-1).reshape(-1, 2), strands[4]]),
            points,
            facing,
            np.concatenate([np.arange(len(points)), strands[5]]),
        )
        hair = half if hair is None else hair.joined(half)
    return hair


def _shell(around, share, side, centre, half_width, half_depth, scalp, rng) -> np.ndarray:
    """Points [around, share, 3] of one half of the bob: ellipse arcs from parting to ear, then down."""
    # the parting runs from the front hairline to the crown
    near = np.abs(scalp[:, 0] - PART_M) < 0.006
    line = scalp[near & (scalp[:, 2] > 0.05)]
    order = np.argsort(line[:, 1])
    progress = smoothstep(np.radians(FRONT_DEGREES - 20), np.radians(165), around)
    y = line[order[0], 1] + (centre[1] + 0.035 - line[order[0], 1]) * progress
    z = np.interp(y, line[order, 1], np.maximum.accumulate(line[order, 2])) + 0.0075
    start = np.stack([np.full(len(y), PART_M), y, z], axis=1) - centre  # [around, 3]
    equator = np.stack([side * half_width * np.sin(around), -half_depth * np.cos(around), 0 * around], axis=1)
    turn = np.clip(share / 0.5, 0, 1) * np.pi / 2
    arc = np.cos(turn)[None, :, None] * start[:, None] + np.sin(turn)[None, :, None] * equator[:, None]
    fall = np.clip((share - 0.5) / 0.5, 0, 1)
    hem = HEM_M - centre[2] + 0.012 * smoothstep(np.radians(90), np.radians(180), around)[:, None]
    curl = 1 + 0.05 * np.sin(np.pi * np.minimum(1, fall * 1.25)) - 0.16 * smoothstep(0.55, 1.0, fall) ** 1.5
    arc[..., :2] *= curl[None, :, None]
    arc[..., 2] += hem * fall
    wave = np.sin(2 * np.pi * (1.1 * fall[None] + rng.uniform(0, 1)) + 3 * around[:, None]) * 0.0025 * fall[None]
    ripple = np.interp(around, np.linspace(around[0], around[-1], 28), rng.normal(0, 0.0009, 28))[:, None]
    arc[..., :2] *= 1 + ((wave + ripple * smoothstep(0.1, 0.5, share)[None]) / half_width)[..., None]
    return arc + centre


def _depth_shade(points: np.ndarray) -> np.ndarray:
    """Hair behind the neck, seen from inside, lies in the dark."""
    return 1 - 0.72 * smoothstep(0.035, 0.10, points[:, 1]) * smoothstep(0.03, -0.03, points[:, 2])


def _outside(grid: np.ndarray, skin: np.ndarray, normals: np.ndarray, tree: cKDTree) -> np.ndarray:
    """Push points [.., 3] that lie under or on the skin out of it, and smooth what was pushed."""
    need = 0.009
    for _ in range(4):
        flat = grid.reshape(-1, 3)
        _, nearest = tree.query(flat)
        height = ((flat - skin[nearest]) * normals[nearest]).sum(axis=1)
        push = np.clip(need - height, 0, 0.02)
        grid = (flat + normals[nearest] * push[:, None]).reshape(grid.shape)
        inner = 0.25 * (grid[:-2, 1:-1] + grid[2:, 1:-1] + grid[1:-1, :-2] + grid[1:-1, 2:])
        grid[1:-1, 1:-1] = 0.5 * grid[1:-1, 1:-1] + 0.5 * inner
    return grid


def _bilinear(grid: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    r, c = np.minimum(row.astype(int), grid.shape[0] - 2), np.minimum(column.astype(int), grid.shape[1] - 2)
    a, b = (row - r)[..., None], (column - c)[..., None]
    upper = (1 - b) * grid[r, c] + b * grid[r, c + 1]
    return (1 - a) * upper + a * ((1 - b) * grid[r + 1, c] + b * grid[r + 1, c + 1])
