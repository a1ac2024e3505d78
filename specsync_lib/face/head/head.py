"""The reference head: a sync plan in, frames of a talking person out.

    with Head("reference") as head:
        image = head.render(units, pose)          # uint8 [720, 1280, 3]

``motion.face_tracks`` turns a plan into 52 ARKit weights and a head pose per frame (co-articulation, blinks, sway);
``Head`` draws one frame. Identity, studio and camera are parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from specsync_lib.errors import InputError
from specsync_lib.face.head import hair as head_hair
from specsync_lib.face.head import look, mesh
from specsync_lib.face.head.canvas import RasterCanvas, View
from specsync_lib.face.head.mesh import weights_vector
from specsync_lib.face.head.motion import EYE_PITCH_RAD, EYE_YAW_RAD

LASHES_PER_LID = 70
BROW_STRANDS = 620
MOUTH_MARGIN_PX = 8  # around the lips
HIDDEN_FACING = -0.55  # triangles that look away from the camera by more are never seen, head turns included


@dataclass(frozen=True)
class Camera:
    """Where the picture is taken from.

    Attributes
    ----------
    height_m : float
        Height of what the frame shows at the distance of the face.
    centre_below_eyes_m : float
        How far under the eyes the frame's centre lies.
    distance_m : float
    """

    height_m: float = 0.40
    centre_below_eyes_m: float = 0.052
    distance_m: float = 1.6


CAMERAS = {"portrait": Camera(), "face": Camera(height_m=0.235, centre_below_eyes_m=0.035)}


class Head:
    """One person in one studio, ready to be drawn.

    Parameters
    ----------
    identity : str or Identity
        A name of ``look.IDENTITIES`` or an identity of your own.
    size_px : (width, height)
    seed : int
        Fixes pores, strands of hair and the like.
    studio : str or Studio
    camera : str or Camera
        "portrait" (head and shoulders) or "face" (square crops).

    smooth_edges : bool
    threads : int
        Of the rasteriser; 1 where many heads draw at once.

    Raises
    ------
    InputError
        An unknown name or a size that is not even and positive.
    """

    def __init__(
        self,
        identity: str | look.Identity = "reference",
        size_px: tuple[int, int] = (1280, 720),
        seed: int = 0,
        *,
        studio: str | look.Studio = "studio",
        camera: str | Camera = "portrait",
        smooth_edges: bool = True,
        threads: int = 2,
    ) -> None:
        self.identity = _named(identity, look.IDENTITIES, "identity")
        self.studio = _named(studio, look.STUDIOS, "studio")
        self.camera = _named(camera, CAMERAS, "camera")
        if len(size_px) != 2 or min(size_px) < 16 or size_px[0] % 2 or size_px[1] % 2:
            raise InputError(f"head: size_px {size_px}; give an even width and height of at least 16")
        self.size_px = (int(size_px[0]), int(size_px[1]))
        self._rng = np.random.default_rng(seed)
        self._expression = weights_vector(self.identity.expression)
        self._build_geometry()
        self._close_lips()
        self._bake_light()
        self._build_scene(smooth_edges, threads)

    # ---- geometry ----------------------------------------------------------------------------------------------------

    def _build_geometry(self) -> None:
        quads, _, _ = mesh.base_groups()
        base = mesh.base_vertices(self.identity.phenotype, self.identity.shape)
        canonical = mesh.base_vertices({}, {})
        left, right = (np.unique(quads[f"helper-{side}-eye"]) for side in "lr")
        self.eye_centres = np.stack([_sphere_centre(base[left]), _sphere_centre(base[right])])
        self.eye_radius = float(np.linalg.norm(base[left] - self.eye_centres[0], axis=1).mean()) * 0.985
        self.middle = self.eye_centres.mean(axis=0)
        self._canonical_middle = canonical[np.concatenate([left, right])].mean(axis=0)
        self.view = np.array([0.0, -1.0, 0.0], np.float32)

        body = quads["body"]
        self._find_collar(base)
        bare = (self._under_collar(base) < 0.035) & (base[:, 2] > self.middle[2] - 0.25)
        levels = mesh.SUBDIVISIONS if self.size_px[1] / self.camera.height_m > 1200 else 1
        part = mesh.subdivided(body[bare[body].all(axis=1)], levels)
        rest = part.operator @ base
        self.skin = mesh.piece_of(part.operator, rest, part.triangles, self._follow(rest))
        self._skin_normals = mesh.VertexNormals(part.triangles, len(rest))
        self._average = mesh.neighbour_average(part.triangles, len(rest))
        normals = self._skin_normals(self.skin.rest)
        self._canonical = part.operator @ canonical - self._canonical_middle
        coordinates = mesh.part_texture_coordinates("body", part)
        self._masks = {
            name: mesh.region_mask(name, coordinates) for name in ("lips", "ears", "eyelids", "inside-mouth")
        }
        self._skin_tree = cKDTree(self.skin.rest)
        self._skin_operator = part.operator
        self._find_lips()

        self.teeth = self._build_teeth(base, quads)
        tongue = mesh.subdivided(quads["helper-tongue"], 2)
        self.tongue = mesh.piece_of(
            tongue.operator, tongue.operator @ base, tongue.triangles, np.ones(tongue.operator.shape[0])
        )
        self._tongue_normals = mesh.VertexNormals(tongue.triangles, tongue.operator.shape[0])
        self.lashes = self._build_lashes(base)
        self.brows, self._brow_roots = self._build_brows(normals)
        self._build_garment(base, body)
        self._build_hair(normals, part.quads)
        self._eye_points, self._eye_triangles = mesh.sphere_cap(44, 72, 1.45)
        self._eye_points = self._eye_points.astype(np.float32)

    def _find_collar(self, base: np.ndarray) -> None:
        """Where the neck meets the clothes: a tilted ring, its height and radius by angle around the neck."""
        rel = base - self.middle
        neck = (rel[:, 2] > -0.16) & (rel[:, 2] < -0.11) & (np.abs(rel[:, 0]) < 0.07)
        self._neck_y = float(base[neck, 1].mean())
        around, radius, above = self._around_neck(base)
        angles = np.linspace(-np.pi, np.pi, 37)
        near = (np.abs(above) < 0.012) & (radius < 0.16)
        radii = []
        for angle in angles:
            gap = np.abs((around[near] - angle + np.pi) % (2 * np.pi) - np.pi)
            radii.append(np.percentile(radius[near][gap < 0.3], 20))
        radii[-1] = radii[0] = 0.5 * (radii[-1] + radii[0])
        self._collar_angles, self._collar_radii = angles, np.array(radii)

    def _around_neck(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Angle around the neck (0 in front), distance from its axis, height above the collar's ring."""
        x, y = points[:, 0], points[:, 1] - self._neck_y
        around = np.arctan2(x, -y)
        height = self.middle[2] - 0.143 - 0.020 * np.cos(around)
        return around, np.hypot(x, y), points[:, 2] - height

    def _under_collar(self, points: np.ndarray) -> np.ndarray:
        """How far a point lies under the collar's ring in metres, shoulders included; negative on the neck and head."""
        around, radius, above = self._around_neck(points)
        beside = np.maximum(radius - np.interp(around, self._collar_angles, self._collar_radii) - 0.002, 0)
        return 0.4 * beside - above

    def _follow(self, points: np.ndarray) -> np.ndarray:
        return look.smoothstep(-0.165, -0.095, points[:, 2] - self.middle[2])

    def _find_lips(self) -> None:
        """Vertices of the upper and of the lower lip near the middle, told apart by how far the jaw carries them."""
        jaw = np.zeros(len(self.skin.rest))
        jaw[self.skin.moved] = -self.skin.offsets[mesh.unit_names().index("jawOpen")].reshape(-1, 3)[:, 2]
        rim = (self._masks["lips"] > 0.5) & (np.abs(self._canonical[:, 0]) < 0.0075)
        split = 0.5 * jaw[rim].max()
        upper, lower = np.flatnonzero(rim & (jaw < split)), np.flatnonzero(rim & (jaw >= split))
        ids = np.concatenate([upper, lower])
        self._upper_count = len(upper)
        place = np.searchsorted(self.skin.moved, ids)
        self._lip_rim = (self.skin.rest[ids], self.skin.offsets.reshape(52, -1, 3)[:, place])
        self.lip_line = self.skin.rest[upper][:, [1, 2]].min(axis=0)  # front-most y, lowest z of the upper lip

    def _close_lips(self) -> None:
        """Some faces rest with the lips a little apart: wear as much of mouthClose as brings them together."""
        k = mesh.unit_names().index("mouthClose")
        for weight in np.arange(0, 0.2, 0.005):
            self._expression[k] = weight
            if self.lip_aperture(np.zeros(len(self._expression))) < 0.05:
                return

    def _build_teeth(self, base: np.ndarray, quads: dict[str, np.ndarray]) -> mesh.Piece:
        """Both rows: the helper strips, subdivided, parted into single teeth along their arch."""
        rows, self._tooth_shade = [], []
        for name in ("helper-upper-teeth", "helper-lower-teeth"):
            part = mesh.subdivided(quads[name], 3)
            rest = part.operator @ base
            normals = mesh.VertexNormals(part.triangles, len(rest))(rest)
            upper = "upper" in name
            # arc length along the arch, from the middle
            arch = np.abs(np.arctan2(rest[:, 0], -(rest[:, 1] - rest[:, 1].max()) + 0.004))
            sizes_mm = (8.6, 6.8, 7.8, 7.0, 6.8, 10, 10) if upper else (5.4, 5.9, 6.8, 7.0, 7.1, 11, 10)
            order = np.argsort(arch)
            front = order[np.linalg.norm(rest[order, :2] - rest[order, :2].mean(axis=0), axis=1) > 0]
            angle_grid = np.linspace(0, arch.max(), 60)
            curve = np.stack([np.interp(angle_grid, arch[front], np.abs(rest[front, k])) for k in (0, 1)], axis=1)
            length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
            along = np.interp(arch, angle_grid, length)
            edges = np.concatenate([[0], np.cumsum(sizes_mm)]) / 1000
            tooth = np.clip(np.searchsorted(edges, along) - 1, 0, len(sizes_mm) - 1)
            across = np.clip((along - edges[tooth]) / np.diff(edges)[tooth], 0, 1)  # 0 and 1 at the gaps
            bulge = np.sqrt(np.clip(1 - (2 * across - 1) ** 6, 0, 1))
            low, high = rest[:, 2].min(), rest[:, 2].max()
            front_teeth = np.abs(rest[:, 0]) < 0.008
            height = (rest[:, 2] - low) / (high - low)
            tip = 1 - height if upper else height
            rest = rest + normals * (0.0008 * (bulge - 1))[:, None]
            rest[:, 2] += (-1 if upper else 1) * 0.0003 * (bulge - 1) * tip
            # upper incisors end 2 mm under the line where the lips meet, lower ones just above it, behind them
            wanted = self.lip_line[1] + (-0.002 if upper else -0.001)
            rest[:, 2] += wanted - (rest[front_teeth, 2].min() if upper else rest[front_teeth, 2].max())
            rows.append(mesh.piece_of(part.operator, rest, part.triangles, np.ones(len(rest))))
            gum = look.smoothstep(0.55, 0.85, 1 - tip + 0.12 * (1 - bulge))
            enamel = look.linear("#f3e8d6") * (0.62 + 0.38 * bulge)[:, None]
            enamel = enamel * (0.9 + 0.1 * np.take([1, 0.97, 0.92, 0.9, 0.88, 0.85, 0.85], tooth))[:, None]
            self._tooth_shade.append(enamel + gum[:, None] * (look.linear("#b06a66") - enamel))
        self._tooth_shade = np.concatenate(self._tooth_shade).astype(np.float32)
        teeth = rows[0].joined(rows[1])
        self._teeth_normals = mesh.VertexNormals(teeth.triangles, len(teeth.rest))
        return teeth

    def _build_lashes(self, base: np.ndarray) -> mesh.Piece:
        """Single hairs laid along the face model's lash strips, by their texture coordinates."""
        from scipy.spatial import Delaunay

        quads, texture, coordinates = mesh.base_groups()
        pieces = []
        for side in "lr":
            for strip, upper in (("1", False), ("2", True)):
                name = f"helper-{side}-eyelashes-{strip}"
                ids, first = np.unique(quads[name].ravel(), return_index=True)
                uv = coordinates[texture[name].ravel()[first]]
                corners = base[ids] - self.eye_centres[0 if side == "l" else 1]
                reach = np.linalg.norm(corners, axis=1)
                root_high = np.polyfit(uv[:, 1], reach, 1)[0] < 0  # does v grow towards the lid?
                low, high = uv.min(axis=0), uv.max(axis=0)
                count = LASHES_PER_LID if upper else LASHES_PER_LID // 2
                share = (np.arange(count) + self._rng.uniform(0, 1, count)) / count
                outer_high = uv[np.argmax(np.abs(base[ids, 0])), 0] > uv[:, 0].mean()
                share = 0.07 + 0.84 * share if outer_high else 0.93 - 0.84 * share
                u = low[0] + (high[0] - low[0]) * share
                length = (0.9 if upper else 0.55) * self._rng.uniform(0.65, 1.0, (count, 1))
                t = np.linspace(0, 1, 6)[None] * length
                t = np.clip(1 - t if root_high else t, 0.0, 1.0)
                bend = (self._rng.normal(0, 0.015, (count, 1)) * (high[0] - low[0])) * np.linspace(0, 1, 6)[None]
                strip = _column_sampler(Delaunay(uv), uv, u[:, None] + bend, t, ids=ids)
                # the strip gives a hair's direction, the lid itself its root
                roots = strip[::6]
                # it grows from the lid's front edge, a lid's thickness before the strip's root on the eyeball
                anchors = self._skin_tree.query(roots @ base - [0, 0.0021 if upper else 0.0014, 0])[1]
                rows = strip + _repeat_rows(self._skin_operator[anchors] - roots, 6)
                lines = (rows @ base).reshape(count, 6, 3)
                widths = np.linspace(0.00036 if upper else 0.00020, 0.00007, 6)[None].repeat(count, axis=0)
                points, triangles = mesh.ribbons(lines, widths, self.view)
                pieces.append(mesh.piece_of(_repeat_rows(rows, 2), points, triangles, np.ones(len(points))))
        lashes = pieces[0]
        for piece in pieces[1:]:
            lashes = lashes.joined(piece)
        return lashes

    def _build_brows(self, normals: np.ndarray) -> tuple[mesh.Piece, np.ndarray]:
        """Short hairs on the skin above the eyes, each bound to the skin vertex under its root."""
        rng, weight = self._rng, self.identity.brow_weight
        front = np.flatnonzero((normals[:, 1] < -0.15) & (self._canonical[:, 1] < 0.05) & (self._canonical[:, 2] > 0.0))
        tree = cKDTree(self._canonical[front][:, [0, 2]])
        lines, roots, shades = [], [], []
        for side in (1, -1):
            count = int(BROW_STRANDS * weight)
            s = rng.beta(1.15, 1.3, count)
            x, z, slope = _brow_curve(s)
            thickness = _brow_thickness(s) * (0.7 + 0.3 * weight)
            offset = np.clip(rng.normal(0, 0.24, count), -0.55, 0.55)
            start = np.stack([x - 0.0015 * rng.uniform(0, 1, count), z + offset * thickness], axis=1)
            # inner hairs stand up, outer ones lie along the arch; hairs above the middle point down, below it up
            angle = slope + (1.15 * np.clip(1 - s, 0, 1) ** 2.2) + (-0.55 * offset) * s + rng.normal(0, 0.13, count)
            length = (0.0052 + 0.0032 * rng.uniform(0, 1, count)) * (1 - 0.35 * s)
            points = [start]
            for _ in range(4):
                points.append(points[-1] + (length / 4)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))
                angle = angle - 0.16 * (1 - s)
            flat = np.stack(points, axis=1)  # [count, 5, 2]
            distance, index = tree.query(flat.reshape(-1, 2) * [side, 1], k=3)
            share = 1 / (distance + 1e-5)
            share /= share.sum(axis=1, keepdims=True)
            on_skin = (self.skin.rest[front[index]] * share[..., None]).sum(axis=1)
            # keep the spacing of the strands rather than that of the vertices
            slide = flat.reshape(-1, 2) * [side, 1] - (
                self._canonical[front[index]][..., [0, 2]] * share[..., None]
            ).sum(axis=1)
            on_skin[:, [0, 2]] += slide
            lift = np.linspace(0.0003, 0.0011, 5)[None].repeat(count, 0).ravel()
            lines.append((on_skin + normals[front[index[:, 0]]] * lift[:, None]).reshape(count, 5, 3))
            roots.append(front[index[:, 0]].reshape(count, 5)[:, 0])
            shades.append(rng.uniform(0.7, 1.3, count))
        lines, roots = np.concatenate(lines), np.concatenate(roots)
        widths = np.linspace(0.00032, 0.00008, 5)[None].repeat(len(lines), axis=0)
        points, triangles = mesh.ribbons(lines, widths, self.view)
        self._brow_shade = np.concatenate(shades).repeat(10).astype(np.float32)
        return self._bound(points, triangles, roots.repeat(10)), roots.repeat(10)

    def _bound(self, points: np.ndarray, triangles: np.ndarray, anchors: np.ndarray) -> mesh.Piece:
        """A piece that is carried by skin vertices, one anchor per point."""
        place = np.full(len(self.skin.rest), -1)
        place[self.skin.moved] = np.arange(len(self.skin.moved))
        moved = np.flatnonzero(place[anchors] >= 0)
        offsets = self.skin.offsets.reshape(52, -1, 3)[:, place[anchors[moved]]].reshape(52, -1)
        return mesh.Piece(points.astype(np.float32), triangles, moved, offsets, self.skin.follow[anchors])

    def _build_garment(self, base: np.ndarray, body: np.ndarray) -> None:
        """A knitted jumper: the body's surface, smoothed, lifted off the skin, with a ribbed collar."""
        rel = base - self.middle
        keep = (rel[:, 2] < -0.11) & (rel[:, 2] > -0.42) & (np.abs(base[:, 0]) < 0.42)
        part = mesh.subdivided(body[keep[body].all(axis=1)], 2)
        rest = part.operator @ base
        inside = (self._under_collar(rest) > -0.010)[part.quads].all(axis=1)
        used, local = np.unique(part.quads[inside], return_inverse=True)
        quads = local.reshape(-1, 4)
        rest = rest[used]
        triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
        average = mesh.neighbour_average(triangles, len(rest))
        smooth = rest
        for _ in range(60):
            smooth = average @ smooth
        below = self._under_collar(rest)
        rest = rest + look.smoothstep(0.0, 0.05, below)[:, None] * (smooth - rest)
        for _ in range(3):
            rest = average @ rest
        normals_of = mesh.VertexNormals(triangles, len(rest))
        rest = rest + (0.003 + 0.006 * look.smoothstep(-0.005, 0.03, below))[:, None] * normals_of(rest)
        # the collar: a tube along the neckline
        angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
        radius = np.interp(angle, self._collar_angles, self._collar_radii, period=2 * np.pi)
        for _ in range(12):
            radius = 0.5 * radius + 0.25 * (np.roll(radius, 1) + np.roll(radius, -1))
        ring = np.stack([radius * np.sin(angle), self._neck_y - radius * np.cos(angle), 0 * angle], axis=1)
        ring[:, 2] = -self._around_neck(ring)[2]
        outward = ring - [0, self._neck_y, 0]
        outward[:, 2] = 0
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        lean = outward * 0.35 + np.array([0, 0, 0.94])
        tube = (
            ring[:, None]
            + outward[:, None] * (0.004 + 0.0052 * np.cos(turn))[None, :, None]
            + lean[:, None] * (0.0125 * np.sin(turn) - 0.001)[None, :, None]
        )
        tube = tube.reshape(-1, 3)
        i, j = np.meshgrid(np.arange(len(angle)), np.arange(len(turn)), indexing="ij")
        a = (i * len(turn) + j).ravel()
        b = (((i + 1) % len(angle)) * len(turn) + j).ravel()
        c = (i * len(turn) + (j + 1) % len(turn)).ravel()
        d = (((i + 1) % len(angle)) * len(turn) + (j + 1) % len(turn)).ravel()
        tube_triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
        self._garment_ribs = np.concatenate([np.ones(len(rest)), np.repeat(0.9 + 0.1 * np.cos(angle * 60), len(turn))])
        rest = np.concatenate([rest, tube])
        triangles = np.concatenate([triangles, tube_triangles + len(used)])
        self._collar_triangles = tube_triangles + len(used)
        self.garment = mesh.still_piece(rest, triangles, np.zeros(len(rest)))
        self._garment_normals = mesh.VertexNormals(triangles, len(rest))(self.garment.rest)

    def _build_hair(self, normals: np.ndarray, quads: np.ndarray) -> None:
        self._over_hairline = head_hair.over_hairline(self._canonical)
        self._over_hairline[self._masks["ears"] > 0.05] = -1
        self.hair = None
        style = self.identity.hair_style
        if style == "shaved":
            return
        self._hair = hair = head_hair.grow(
            style, self.skin.rest - self.middle, normals, quads, self._over_hairline, self.view, self._rng
        )
        # the cap's far side is never seen; a bob's is, behind the neck
        seen = hair.site_normals[hair.site_of] @ self.view > (HIDDEN_FACING if style != "bob" else -2)
        triangles = hair.triangles[seen[hair.triangles].any(axis=1)]
        whole = mesh.still_piece(hair.points + self.middle, hair.triangles, np.ones(len(hair.points)))
        self.hair, self._hair_used = whole.subset(triangles)

    # ---- light -------------------------------------------------------------------------------------------------------

    def _bake_light(self) -> None:
        """What of the room and of each lamp every vertex sees at rest: soft shadows that cost nothing per frame."""
        skin, normals = self.skin.rest, self._skin_normals(self.skin.rest)
        garment = self.garment.rest
        bodies = np.concatenate([skin, garment])
        facing = np.concatenate([normals, self._garment_normals])
        directions = mesh.sphere_directions(96)
        cones = [_cone(lamp, self._rng) for lamp in self.studio.lamps]
        if self.hair is None:
            open_sky, lamps = _bake(bodies, facing, bodies, directions, cones)
        else:
            # hair shades the body; its own layers lie too close for the bake to tell them apart
            sites = self._hair.site_points + self.middle
            open_sky, lamps = _bake(bodies, facing, np.concatenate([bodies, sites]), directions, cones)
            hair_sky, hair_lamps = _bake(sites, self._hair.site_normals, bodies, directions, cones)
        count = len(skin)
        self._sky = self._spread(open_sky[:count].astype(np.float32), 3)
        # a shadow's edge on skin is soft, and softest in red
        blurred = [self._spread(lamps[:, :count].T, times) for times in (14, 6, 3)]
        self._lamps = np.stack(blurred, axis=-1).transpose(1, 0, 2)  # [lamps, n, 3]
        garment_average = mesh.neighbour_average(self.garment.triangles, len(garment))
        dressed = slice(count, count + len(garment))
        self._garment_sky, self._garment_lamps = open_sky[dressed], lamps[:, dressed]
        if self.hair is not None:
            site = self._hair.site_of[self._hair_used]
            self._hair_sky, self._hair_lamps = hair_sky[site], hair_lamps[:, site]
            self._hair_normals = self._hair.site_normals[site].astype(np.float32)
            self._hair_tangents = self._hair.tangents[self._hair_used].astype(np.float32)
            self._hair_shade = self._hair.shade[self._hair_used].astype(np.float32)
            self._hair_uv = self._hair.places[self._hair_used]
        for _ in range(6):
            self._garment_sky = garment_average @ self._garment_sky
            self._garment_lamps = (garment_average @ self._garment_lamps.T).T
        inside = self._masks["inside-mouth"]
        depth = np.maximum(skin[:, 1] - self.lip_line[0] - 0.004, 0)
        cavity = np.exp(-depth / 0.016)
        self._sky = self._sky + inside * (0.55 * cavity - self._sky)
        self._lamps = self._lamps + inside[None, :, None] * (0.5 * cavity[None, :, None] - self._lamps)
        self._shader = look.Shader(self.studio, self.view)
        self._paint_skin()
        self._drop_hidden(normals)

    def _drop_hidden(self, normals: np.ndarray) -> None:
        """Leave out triangles that no frame shows: the back of the head, the scalp under hair, skin under clothes."""
        seen = normals @ self.view > HIDDEN_FACING
        bare = self._under_collar(self.skin.rest) < 0.003
        if self.hair is not None:
            seen &= self._over_hairline < 0.012
        seen[self._brow_roots] = True
        triangles = self.skin.triangles
        triangles = triangles[seen[triangles].any(axis=1) & bare[triangles].all(axis=1)]
        self.skin, used = self.skin.subset(triangles)
        place = np.full(len(normals), -1)
        place[used] = np.arange(len(used))
        self._brow_roots = place[self._brow_roots]
        self._canonical, self._skin_colour = self._canonical[used], self._skin_colour[used]
        self._skin_shine, self._lip_shine = self._skin_shine[used], self._lip_shine[used]
        self._lamps, self._sky = np.ascontiguousarray(self._lamps[:, used]), self._sky[used]
        self._lamp_share = self._lamps.mean(axis=2)
        self._skin_normals = mesh.VertexNormals(self.skin.triangles, len(used))

    def _spread(self, values: np.ndarray, times: int) -> np.ndarray:
        for _ in range(times):
            values = self._average @ values
        return values

    def _paint_skin(self) -> None:
        """Colour and gloss of every skin vertex, from where it lies on the canonical face."""
        skin, place, masks = self.identity.skin, self._canonical, self._masks
        x, y, z = np.abs(place[:, 0]), place[:, 1], place[:, 2]
        colour = np.repeat(look.linear(skin.base)[None], len(place), axis=0)

        def tint(target: np.ndarray, amount: np.ndarray) -> None:
            colour[:] += amount[:, None] * (target - colour)

        def spot(cx: float, cz: float, wx: float, wz: float) -> np.ndarray:
            front = look.smoothstep(0.05, 0.0, y)
            return np.exp(-(((x - cx) / wx) ** 2) - ((z - cz) / wz) ** 2) * front

        blush, shade = look.linear(skin.blush), look.linear(skin.shade)
        tint(blush, 0.30 * spot(0.040, -0.045, 0.020, 0.018))
        tint(blush, 0.34 * spot(0.0, -0.047, 0.014, 0.012))
        tint(blush, 0.14 * spot(0.0, -0.108, 0.018, 0.012))
        tint(blush, 0.40 * masks["ears"])
        tint(look.linear(skin.base) * np.array([1.03, 1.02, 0.92], np.float32), 0.5 * spot(0.0, 0.055, 0.05, 0.022))
        tint(shade, 0.34 * spot(0.027, -0.019, 0.015, 0.0065))
        tint(shade, 0.30 * spot(0.013, -0.006, 0.007, 0.010))
        tint(blush, 0.30 * masks["eyelids"])
        tint(shade, 0.22 * masks["eyelids"])
        if skin.stubble:
            beard = (
                look.smoothstep(-0.050, -0.066, z)
                * look.smoothstep(0.030, -0.005, y)
                * look.smoothstep(-0.150, -0.125, z)
            )
            beard *= 1 - 0.75 * np.exp(-(((x - 0.036) / 0.016) ** 2) - ((z + 0.055) / 0.018) ** 2)
            tint(look.linear(self.identity.brow) * 0.8 + 0.25 * look.linear(skin.base), 0.42 * skin.stubble * beard)
        # lips: a soft edge, fuller colour towards the line where they meet
        lips = self._spread(masks["lips"].astype(np.float32), 2)
        lip_colour = look.linear(skin.lips)
        tint(lip_colour, 0.86 * lips)
        tint(lip_colour * np.array([0.62, 0.42, 0.45], np.float32), 0.8 * masks["inside-mouth"])
        # under the brows' hairs and at the hair's roots the skin is darker
        s, across = _brow_place(place)
        tint(look.linear(self.identity.brow), 0.50 * self.identity.brow_weight**0.5 * np.exp(-(across**2) * 3.2) * s)
        over = self._over_hairline
        scalp = look.smoothstep(-0.006, 0.006, over) * (0.85 if self.identity.hair_style != "shaved" else 0.62)
        tint(look.linear(self.identity.hair) * 0.8, scalp)
        lid_edge = self._lash_line()
        tint(look.linear(self.identity.brow) * 0.6, 0.75 * lid_edge)
        self._skin_colour = colour.astype(np.float32)
        shine = (
            0.85
            + 0.5 * spot(0.0, -0.03, 0.012, 0.03)
            + 0.35 * spot(0.0, 0.045, 0.04, 0.02)
            + 0.25 * spot(0.04, -0.03, 0.02, 0.012)
        )
        shine += 0.9 * lips - 0.25 * masks["ears"] + 1.2 * masks["inside-mouth"]
        shine *= 1 - 0.9 * scalp
        noise = 1 + (1 - masks["eyelids"]) * self._spread(self._rng.uniform(-0.6, 0.6, len(place)), 1)
        self._skin_shine = (skin.shine * shine * noise)[:, None].astype(np.float32)
        self._lip_shine = (lips * 0.9)[:, None].astype(np.float32)

    def _lash_line(self) -> np.ndarray:
        """How much a skin vertex belongs to the rim of a lid, where the lashes grow."""
        roots = self.lashes.rest.reshape(-1, 6, 2, 3)[:, 0].mean(axis=1)
        upper = roots[:, 2] > self.middle[2]
        rim = np.zeros(len(self.skin.rest), np.float32)
        for ids, amount, towards_eye in ((upper, 1.0, -1), (~upper, 0.35, 1)):
            reach = roots[ids][:, None] + np.array([0, 0, towards_eye]) * np.array([-0.0003, 0.0003])[None, :, None]
            distance, _ = cKDTree(reach.reshape(-1, 3)).query(self.skin.rest)
            rim = np.maximum(rim, amount * np.exp(-((distance / 0.0010) ** 2)))
        return rim

    # ---- scene -------------------------------------------------------------------------------------------------------

    def _build_scene(self, smooth_edges: bool, threads: int) -> None:
        target = self.middle - [0, 0, self.camera.centre_below_eyes_m]
        view = View(tuple(target), self.camera.distance_m, self.camera.height_m)
        backdrop = look.backdrop(self.studio, self.size_px, self._rng)
        self._canvas = canvas = RasterCanvas(self.size_px, view, backdrop, smooth_edges=smooth_edges, threads=threads)
        # the clothes never move: they go into the backdrop, all but the collar, which covers the neck
        clothes = self._shade_garment()
        canvas.add("garment", self.garment.rest, self.garment.triangles, clothes)
        canvas.bake()
        collar, used = self.garment.subset(self._collar_triangles)
        canvas.add("collar", collar.rest, collar.triangles, clothes[used])
        azimuth = np.arctan2(self._canonical[:, 0], -(self._canonical[:, 1] - 0.09))
        places = np.stack([0.5 + azimuth / (2 * np.pi), (self._canonical[:, 2] + 0.2) / 0.34], axis=1)
        pores = look.pore_texture(self.identity.skin, self._rng)
        canvas.add("skin", self.skin.rest, self.skin.triangles, None, places, pores)
        if self.hair is not None:
            strands = look.strand_texture(self._rng)
            canvas.add("hair", self.hair.rest, self.hair.triangles, None, self._hair_uv, strands)
        canvas.add("teeth", self.teeth.rest, self.teeth.triangles)
        canvas.add("tongue", self.tongue.rest, self.tongue.triangles)
        both = [self._eye_triangles, self._eye_triangles + len(self._eye_points)]
        canvas.add("eyes", np.tile(self._eye_points, (2, 1)), np.concatenate(both))
        lash = np.repeat(_display(look.linear(self.identity.brow)[None] * 0.25), len(self.lashes.rest), axis=0)
        canvas.add("lashes", self.lashes.rest, self.lashes.triangles, lash)
        canvas.add("brows", self.brows.rest, self.brows.triangles)
        self._paint_eyes()

    def _paint_eyes(self) -> None:
        """Iris, pupil, limbus and sclera of an eyeball whose pole looks along -y."""
        p = self._eye_points
        angle = np.arccos(np.clip(-p[:, 1], -1, 1)) * self.eye_radius  # arc from the pole in metres
        turn = np.arctan2(p[:, 2], p[:, 0])
        rng = self._rng
        iris_edge, pupil_edge = 0.0064, 0.0025
        fibres = sum(
            np.cos(turn * k + rng.uniform(0, 6.28)) * w for k, w in ((7, 0.3), (13, 0.4), (23, 0.5), (31, 0.5))
        )
        iris = look.linear(self.identity.iris)
        radial = np.clip((angle - pupil_edge) / (iris_edge - pupil_edge), 0, 1)
        shade = 0.62 + 0.16 * fibres * (1 - 0.3 * radial) - 0.34 * look.smoothstep(0.6, 1.0, radial)
        warm = np.array([1.25, 1.0, 0.72], np.float32)
        colour = iris * shade[:, None] * (1 + (warm - 1) * (0.6 * np.exp(-((radial / 0.35) ** 2)))[:, None])
        # light that enters above gathers on the far side of the iris
        colour = colour * (1 - 0.35 * np.sin(turn) * (angle < iris_edge))[:, None]
        pupil = look.smoothstep(pupil_edge + 0.00035, pupil_edge - 0.00015, angle)[:, None]
        colour = colour * (1 - pupil) + 0.004 * pupil
        white = look.linear("#cfc6c0") * np.array([1, 1, 1], np.float32)
        pink = look.linear("#d9a79b")
        veins = look.smoothstep(0.010, 0.017, angle)[:, None]
        white = white + veins * 0.5 * (pink - white)
        edge = look.smoothstep(iris_edge - 0.0007, iris_edge + 0.0006, angle)[:, None]
        self._eye_colour = (colour + edge * (white - colour)).astype(np.float32)
        self._cornea = look.smoothstep(0.0085, 0.0045, angle).astype(np.float32)

    # ---- one frame ---------------------------------------------------------------------------------------------------

    def vertices(self, units: np.ndarray | Mapping[str, float]) -> np.ndarray:
        """Skin vertices [n, 3] in metres for ARKit weights, head upright."""
        return self.skin.posed(self._weights(units))

    def _weights(self, units: np.ndarray | Mapping[str, float]) -> np.ndarray:
        return np.clip(weights_vector(units) + self._expression, 0, 1)

    def lip_aperture(self, units: np.ndarray | Mapping[str, float]) -> float:
        """Gap between the lips in mm for ARKit weights [52], at the middle of the mouth; 0 when they touch."""
        return self._gap_mm(self._lip_points(self._weights(units)))

    def _lip_points(self, weights: np.ndarray) -> np.ndarray:
        rest, offsets = self._lip_rim
        return rest + np.einsum("u,unk->nk", weights, offsets)

    def _gap_mm(self, points: np.ndarray) -> float:
        upper, lower = points[: self._upper_count], points[self._upper_count :]
        columns = np.linspace(-0.006, 0.006, 7)
        gaps = []
        for x in columns:
            # in a wide face no vertex may be so near: then the nearest ones stand for the column
            away = [np.abs(side[:, 0] - x) for side in (upper, lower)]
            near = [far <= max(0.0015, far.min()) for far in away]
            above, below = (side[rows, 2] for side, rows in zip((upper, lower), near, strict=True))
            gaps.append(max(0.0, above.min() - below.max()))
        return float(1000 * np.median(gaps))

    def render(self, units: np.ndarray | Mapping[str, float], pose: np.ndarray | tuple = (0.0, 0.0, 0.0)) -> np.ndarray:
        """Draw one frame.

        Parameters
        ----------
        units : ndarray [52] or mapping
            ARKit weights in [0, 1], in the order of ``mesh.unit_names()`` or by name.
        pose : (yaw, pitch, roll)
            Radians; the neck bends, the shoulders stay.

        Returns
        -------
        ndarray [height, width, 3] uint8
        """
        weights = self._weights(units)
        turn = mesh.rotation(*np.asarray(pose, float))
        skin = self._draw_skin(weights, turn)
        self._draw_mouth(weights, turn)
        self._draw_eyes(weights, turn)
        self._draw_hairs(weights, turn, skin)
        return self._canvas.picture()

    def _turned(self, points: np.ndarray, follow: np.ndarray, turn: np.ndarray) -> np.ndarray:
        pivot = np.array([0, self._neck_y, self.middle[2] - 0.105], np.float32)
        rel = points - pivot
        return points + follow[:, None] * (rel @ turn.T - rel)

    def _draw_skin(self, weights: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = self._turned(self.skin.posed(weights), self.skin.follow, turn)
        normals = self._skin_normals(points)
        light = self._shader.diffuse(normals, self._lamps, self._sky, look.SCATTER)
        colour = light * self._skin_colour
        colour += self._skin_shine * (0.7 * self._shader.gloss(normals, self._lamp_share, 4))
        colour += (0.3 * self._skin_shine + 0.6 * self._lip_shine) * self._shader.gloss(normals, self._lamp_share, 6)
        self._canvas.update("skin", points, _display(colour))
        return normals, light

    def _draw_mouth(self, weights: np.ndarray, turn: np.ndarray) -> None:
        open_mm = self._gap_mm(self._lip_points(weights))
        reach = 0.12 + 0.88 * look.smoothstep(0.3, 9.0, np.array(open_mm))
        for name, piece, normals_of, colour, shine in (
            ("teeth", self.teeth, self._teeth_normals, self._tooth_shade, 0.5),
            ("tongue", self.tongue, self._tongue_normals, look.linear("#b5645c")[None], 0.35),
        ):
            rest = piece.posed(weights)
            points = self._turned(rest, piece.follow, turn)
            normals = normals_of(points)
            depth = np.maximum(rest[:, 1] - self.lip_line[0] - 0.006, 0)
            # the corners of the mouth stay dark
            corner = look.smoothstep(0.028, 0.012, np.abs(rest[:, 0]))
            inside = (reach * np.exp(-depth / 0.020) * (0.35 + 0.65 * corner)).astype(np.float32)
            lamps = np.repeat(0.85 * inside[None], len(self.studio.lamps), axis=0)
            light = self._shader.diffuse(normals, lamps[..., None], 0.75 * inside, 0.5 * look.SCATTER)
            colour = light * colour + shine * self._shader.gloss(normals, lamps, 6)
            self._canvas.update(name, points, _display(colour))

    def _draw_eyes(self, weights: np.ndarray, turn: np.ndarray) -> None:
        unit = dict(zip(mesh.unit_names(), weights, strict=True))
        points, colours = [], []
        for k, (side, outward) in enumerate((("Left", 1), ("Right", -1))):
            yaw = EYE_YAW_RAD * outward * (unit[f"eyeLookOut{side}"] - unit[f"eyeLookIn{side}"])
            pitch = EYE_PITCH_RAD * (unit[f"eyeLookDown{side}"] - unit[f"eyeLookUp{side}"])
            gaze = mesh.rotation(yaw, pitch, 0)
            outer = self._eye_points @ gaze.T
            bulge = (1 + 0.045 * self._cornea**1.5)[:, None] * self.eye_radius
            local = outer * bulge
            points.append(local + self.eye_centres[k])
            axis = gaze @ np.array([0, -1, 0], np.float32)
            cornea = outer + 0.9 * self._cornea[:, None] * (outer - axis)
            cornea /= np.linalg.norm(cornea, axis=1, keepdims=True)
            world, shiny = outer @ turn.T, cornea @ turn.T
            # the lids shade the ball from above and in the corners
            lid = look.smoothstep(0.0068, 0.0005, local[:, 2] + 0.25 * np.abs(local[:, 0]) - 0.0008)
            shade = (0.30 + 0.70 * lid) * look.smoothstep(0.017, 0.0075, np.abs(local[:, 0]))
            shade = (0.35 + 0.65 * shade).astype(np.float32)
            lamps = np.repeat(shade[None], len(self.studio.lamps), axis=0)
            light = self._shader.diffuse(world, lamps[..., None], shade, 0.6 * look.SCATTER)
            glint = np.stack([look.smoothstep(0.972, 0.985, shiny @ h) for h in self._shader.halves])
            glint = (glint.T * np.minimum(1, self._shader.colours.mean(axis=1))) @ np.ones(
                (len(self._shader.colours), 3)
            )
            colours.append(light * self._eye_colour + 0.8 * glint * shade[:, None])
        points = self._turned(
            np.concatenate(points).astype(np.float32), np.ones(2 * len(self._eye_points), np.float32), turn
        )
        self._canvas.update("eyes", points, _display(np.concatenate(colours)))

    def _draw_hairs(self, weights: np.ndarray, turn: np.ndarray, skin: tuple[np.ndarray, np.ndarray]) -> None:
        normals, light = skin
        self._canvas.update("lashes", self._turned(self.lashes.posed(weights), self.lashes.follow, turn))
        brow = look.linear(self.identity.brow) * 0.8
        colour = light[self._brow_roots] * brow * self._brow_shade[:, None] * 1.3
        self._canvas.update("brows", self._turned(self.brows.posed(weights), self.brows.follow, turn), _display(colour))
        if self.hair is None:
            return
        lamps = self._hair_lamps
        normals = self._hair_normals @ turn.T
        body = self._shader.diffuse(normals, lamps[..., None], self._hair_sky, np.full(3, 0.25, np.float32))
        base = look.linear(self.identity.hair)
        tangents = self._hair_tangents @ turn.T
        facing = 0.35 + 0.65 * np.maximum(normals @ self._shader.directions.T, 0).T
        sheen = self._shader.strand_gloss(tangents, lamps * facing, 40)
        colour = (body * base + sheen * (0.05 + 0.55 * base)) * self._hair_shade[:, None]
        self._canvas.update("hair", self._turned(self.hair.posed(weights), self.hair.follow, turn), _display(colour))

    def _shade_garment(self) -> np.ndarray:
        base = look.linear(self.identity.garment)
        light = self._shader.diffuse(
            self._garment_normals, self._garment_lamps[..., None], self._garment_sky, np.full(3, 0.15, np.float32)
        )
        # cloth scatters at grazing angles
        fuzz = (1 - np.abs(self._garment_normals @ self.view))[:, None] ** 3
        colour = light * (base + 0.10 * fuzz) * self._garment_ribs[:, None]
        return _display(colour)

    def close(self) -> None:
        """Free the renderer; the head can not draw afterwards."""
        self._canvas.close()

    def __enter__(self) -> "Head":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _cone(lamp: look.Light, rng: np.random.Generator, rays: int = 16) -> np.ndarray:
    """Unit directions [rays, 3] spread over a lamp's disc."""
    spread = rng.normal(0, 1, (rays, 3))
    spread *= np.sqrt(rng.uniform(0, 1, (rays, 1))) / np.linalg.norm(spread, axis=1, keepdims=True)
    cone = np.array(lamp.direction) / np.linalg.norm(lamp.direction) + lamp.spread * spread
    return cone / np.linalg.norm(cone, axis=1, keepdims=True)


def _bake(
    points: np.ndarray, normals: np.ndarray, occluders: np.ndarray, sky: np.ndarray, cones: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the sky [n] and of each lamp [lamps, n] that points see past the occluders."""
    cosine = np.maximum(sky @ normals.T, 0)  # [directions, n]
    seen = mesh.visibility(points, normals, occluders, sky)
    open_sky = (seen * cosine).sum(axis=0) / cosine.sum(axis=0)
    lamps = [mesh.visibility(points, normals, occluders, cone).mean(axis=0) for cone in cones]
    return open_sky.astype(np.float32), np.array(lamps, np.float32)


def _named(given, table: dict, kind: str):
    if not isinstance(given, str):
        return given
    if given not in table:
        raise InputError(f"head: unknown {kind} {given!r}; choose one of {', '.join(table)}")
    return table[given]


def _repeat_rows(matrix: sp.csr_matrix, times: int) -> sp.csr_matrix:
    """Every row ``times`` times in a row."""
    return (sp.kron(sp.identity(matrix.shape[0]), np.ones((times, 1))) @ matrix).tocsr()


def _display(colour: np.ndarray) -> np.ndarray:
    """Linear light as display values in 0..255, still float."""
    return 255 * look.tone_srgb(colour)


def _sphere_centre(points: np.ndarray) -> np.ndarray:
    """Centre [3] of the sphere that fits points [n, 3] best."""
    system = np.c_[2 * points, np.ones(len(points))]
    return np.linalg.lstsq(system, (points**2).sum(axis=1), rcond=None)[0][:3]


def _column_sampler(grid, uv: np.ndarray, u: np.ndarray, t: np.ndarray, *, ids: np.ndarray) -> sp.csr_matrix:
    """Linear weights on base vertices for points of a lash strip: u across it, t from root, both [strands, points]."""
    low, high = uv[:, 1].min(), uv[:, 1].max()
    # the strip is bent in texture space: at every u, t runs between its own lower and upper rim
    order = np.argsort(uv[:, 0])
    edges = np.linspace(uv[:, 0].min(), uv[:, 0].max(), 13)
    centre = 0.5 * (edges[1:] + edges[:-1])
    bottom, top = [], []
    for a, b in pairwise(edges):
        inside = uv[order][(uv[order, 0] >= a - 0.004) & (uv[order, 0] <= b + 0.004), 1]
        bottom.append(inside.min() if len(inside) else low)
        top.append(inside.max() if len(inside) else high)
    v = np.interp(u, centre, bottom) + t * (np.interp(u, centre, top) - np.interp(u, centre, bottom))
    points = np.stack([u, v], axis=-1).reshape(-1, 2)
    # the triangle that holds a point, or the one it misses by least: its lowest corner share is the highest
    partial = np.einsum("kij,nkj->nki", grid.transform[:, :2], points[:, None] - grid.transform[None, :, 2])
    shares = np.concatenate([partial, 1 - partial.sum(axis=2, keepdims=True)], axis=2)  # [n, triangles, 3]
    shares = np.where(np.isfinite(shares), shares, -np.inf)
    simplex = shares.min(axis=2).argmax(axis=1)
    share = np.clip(shares[np.arange(len(points)), simplex], 0, 1)
    share /= share.sum(axis=1, keepdims=True)
    rows = np.arange(len(points)).repeat(3)
    return sp.csr_matrix(
        (share.ravel(), (rows, ids[grid.simplices[simplex]].ravel())), (len(points), mesh.BASE_VERTICES)
    )


def _brow_curve(s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle line of a brow on the canonical face: x and z from the eyes, slope angle; s from nose to temple."""
    x = 0.0125 + 0.041 * s

    def rise(t: np.ndarray) -> np.ndarray:
        return 0.0150 + 0.0085 * np.sin(np.pi * np.minimum(1, t**0.9 * 0.75)) - 0.010 * np.maximum(t - 0.62, 0) ** 1.3

    step = 1e-3
    return x, rise(s), np.arctan2(rise(s + step) - rise(s), 0.041 * step)


def _brow_thickness(s: np.ndarray) -> np.ndarray:
    return 0.0070 * (1 - 0.72 * s**1.4) * look.smoothstep(-0.15, 0.12, s)


def _brow_place(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much a canonical point lies along a brow, and its distance from the middle line in half thicknesses."""
    s = (np.abs(place[:, 0]) - 0.0125) / 0.041
    inside = look.smoothstep(-0.06, 0.08, s) * look.smoothstep(1.03, 0.85, s) * look.smoothstep(0.05, 0.03, place[:, 1])
    clipped = np.clip(s, 0, 1)
    _, z, _ = _brow_curve(clipped)
    return inside, (place[:, 2] - z) / np.maximum(0.5 * _brow_thickness(clipped), 1e-4)


def mouth_box_px(head: "Head", units: np.ndarray | dict[str, float], pose: np.ndarray) -> np.ndarray:
    """Box [4] of the lips in a frame, with a margin: left, top, right, bottom, inside the picture."""
    from specsync_lib.face.head.mesh import rotation

    camera, size = head.camera, np.array(head.size_px)
    lips = head._lip_shine[:, 0] > 0.5 * head._lip_shine.max()
    points = head._turned(head.vertices(units)[lips], head.skin.follow[lips], rotation(*pose))
    place = points - head.middle + [0, camera.distance_m, camera.centre_below_eyes_m]
    scale = size[1] / camera.height_m * camera.distance_m / place[:, 1]
    corners = size / 2 + np.stack([place[:, 0], -place[:, 2]], axis=1) * scale[:, None]
    low, high = np.floor(corners.min(axis=0) - MOUTH_MARGIN_PX), np.ceil(corners.max(axis=0) + MOUTH_MARGIN_PX)
    return np.concatenate([np.maximum(low, 0), np.minimum(high, size)]).astype(np.int16)
