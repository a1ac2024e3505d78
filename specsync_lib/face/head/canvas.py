"""Drawing meshes whose vertices already carry their shaded colour: a rasteriser compiled by Numba.

It needs no graphics driver, which a machine with only Python lacks, and costs a third of software OpenGL on a mesh that
is about as fine as the pixels.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

SAMPLES_PER_AXIS = 3  # 9 samples a pixel: hairs are thinner than one
BANDS_PER_THREAD = 4


@dataclass(frozen=True)
class View:
    """A camera at ``target + (0, -distance_m, 0)`` that looks along +y, z up; the frame shows ``height_m`` there."""

    target: tuple[float, float, float]
    distance_m: float
    height_m: float


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _row_ranges(points, triangles, ranges):
    """First and last row of samples [m, 2] that each triangle may cover."""
    for k in range(triangles.shape[0]):
        a, b, c = points[triangles[k, 0], 1], points[triangles[k, 1], 1], points[triangles[k, 2], 1]
        ranges[k, 0] = int(np.ceil(min(a, b, c) - 0.5))
        ranges[k, 1] = int(np.floor(max(a, b, c) - 0.5))


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _narrow(share, step, first, low, high):
    """The part of columns low..high where ``share + step * (x - first)`` is not negative."""
    if step > 0:
        low = max(low, first + int(np.ceil(-share / step)))
    elif step < 0:
        high = min(high, first + int(np.floor(share / -step)))
    elif share < 0:
        high = low - 1
    return low, high


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _fill(points, colours, places, triangles, kinds, textures, ranges, row_from, row_to, picture, depth):
    """Draw triangles into rows ``row_from`` to ``row_to`` of ``picture`` [h, w, 3] and ``depth`` [h, w].

    points [n, 3]: x, y in samples and distance; colours [n, 3] in 0..255; places [n, 2]: texture coordinates;
    kinds [m]: index of a texture [k, rows, columns, 3] (a factor, 0..255; sides are powers of two) or -1.
    """
    width = depth.shape[1]
    texture_rows, texture_columns = textures.shape[1], textures.shape[2]
    for k in range(triangles.shape[0]):
        first_y, last_y = max(row_from, ranges[k, 0]), min(row_to - 1, ranges[k, 1])
        if first_y > last_y:
            continue
        a, b, c = triangles[k, 0], triangles[k, 1], triangles[k, 2]
        ax, bx, cx = points[a, 0], points[b, 0], points[c, 0]
        ay, by, cy = points[a, 1], points[b, 1], points[c, 1]
        first_x = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        last_x = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if first_x > last_x or area == 0.0:
            continue
        scale = np.float32(1.0) / area
        az, bz, cz = points[a, 2], points[b, 2], points[c, 2]
        # shares of the corners are linear in x and y: step instead of solving anew
        u_step, v_step = (by - cy) * scale, (cy - ay) * scale
        w_step = -u_step - v_step
        kind = kinds[k]
        for y in range(first_y, last_y + 1):
            px, py = first_x + np.float32(0.5), y + np.float32(0.5)
            u_first = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * scale
            v_first = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * scale
            # a hair is long and thin: go straight to the columns that it covers
            low, high = _narrow(u_first, u_step, first_x, first_x, last_x)
            low, high = _narrow(v_first, v_step, first_x, low, high)
            low, high = _narrow(np.float32(1.0) - u_first - v_first, w_step, first_x, low, high)
            for x in range(low, high + 1):
                u = u_first + u_step * (x - first_x)
                v = v_first + v_step * (x - first_x)
                w = np.float32(1.0) - u - v
                z = u * az + v * bz + w * cz
                if z >= depth[y, x]:
                    continue
                depth[y, x] = z
                red = u * colours[a, 0] + v * colours[b, 0] + w * colours[c, 0]
                green = u * colours[a, 1] + v * colours[b, 1] + w * colours[c, 1]
                blue = u * colours[a, 2] + v * colours[b, 2] + w * colours[c, 2]
                if kind >= 0:
                    s = (u * places[a, 0] + v * places[b, 0] + w * places[c, 0]) * texture_columns - 0.5
                    t = (1.0 - (u * places[a, 1] + v * places[b, 1] + w * places[c, 1])) * texture_rows - 0.5
                    s_floor, t_floor = int(np.floor(s)), int(np.floor(t))
                    s_part, t_part = s - s_floor, t - t_floor
                    left, right = s_floor & (texture_columns - 1), (s_floor + 1) & (texture_columns - 1)
                    up, down = t_floor & (texture_rows - 1), (t_floor + 1) & (texture_rows - 1)
                    share_a, share_b = (1 - s_part) * (1 - t_part) / 255.0, s_part * (1 - t_part) / 255.0
                    share_c, share_d = (1 - s_part) * t_part / 255.0, s_part * t_part / 255.0
                    red *= (
                        share_a * textures[kind, up, left, 0]
                        + share_b * textures[kind, up, right, 0]
                        + share_c * textures[kind, down, left, 0]
                        + share_d * textures[kind, down, right, 0]
                    )
                    green *= (
                        share_a * textures[kind, up, left, 1]
                        + share_b * textures[kind, up, right, 1]
                        + share_c * textures[kind, down, left, 1]
                        + share_d * textures[kind, down, right, 1]
                    )
                    blue *= (
                        share_a * textures[kind, up, left, 2]
                        + share_b * textures[kind, up, right, 2]
                        + share_c * textures[kind, down, left, 2]
                        + share_d * textures[kind, down, right, 2]
                    )
                picture[y, x, 0] = np.uint8(red + 0.5)
                picture[y, x, 1] = np.uint8(green + 0.5)
                picture[y, x, 2] = np.uint8(blue + 0.5)


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _resolve(picture, samples, row_from, row_to, out):
    """Average ``samples`` x ``samples`` of ``picture`` into pixel rows ``row_from`` to ``row_to`` of ``out``."""
    count = samples * samples
    for y in range(row_from, row_to):
        for x in range(out.shape[1]):
            for channel in range(3):
                total = count // 2
                for i in range(samples):
                    for j in range(samples):
                        total += picture[y * samples + i, x * samples + j, channel]
                out[y, x, channel] = total // count


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _spread(backdrop, samples, row_from, row_to, picture, depth):
    """Reset samples of pixel rows ``row_from`` to ``row_to``: the backdrop's colour, nothing near."""
    for y in range(row_from * samples, row_to * samples):
        for x in range(picture.shape[1]):
            depth[y, x] = np.inf
            for channel in range(3):
                picture[y, x, channel] = backdrop[y // samples, x // samples, channel]


class RasterCanvas:
    """Layers of triangles over a backdrop, drawn in software.

    Parameters
    ----------
    size_px : (width, height)
    view : View
    backdrop : ndarray [height, width, 3] uint8
    smooth_edges : bool
        9 samples a pixel instead of 1.
    threads : int
    """

    def __init__(
        self, size_px: tuple[int, int], view: View, backdrop: np.ndarray, *, smooth_edges: bool = True, threads: int = 2
    ) -> None:
        self.size_px, self.view, self.backdrop = size_px, view, backdrop
        self.samples = SAMPLES_PER_AXIS if smooth_edges else 1
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._clear()

    def _clear(self) -> None:
        self.layers: dict[str, slice] = {}
        self._points = np.zeros((0, 3), np.float32)
        self._colours = np.zeros((0, 3), np.float32)
        self._places = np.zeros((0, 2), np.float32)
        self._triangles = np.zeros((0, 3), np.int32)
        self._kinds = np.zeros(0, np.int8)
        self._textures: list[np.ndarray] = []

    def add(
        self,
        name: str,
        points: np.ndarray,
        triangles: np.ndarray,
        colours: np.ndarray | None = None,
        places: np.ndarray | None = None,
        texture: np.ndarray | None = None,
    ) -> None:
        """A layer of vertices [n, 3] and triangles.

        ``colours`` [n, 3] in 0..255; ``texture`` [1024, 2048, 3] uint8: a factor, read at ``places`` [n, 2].
        """
        start, count = len(self._points), len(points)
        self.layers[name] = slice(start, start + count)
        self._points = np.concatenate([self._points, np.asarray(points, np.float32)])
        colours = np.zeros((count, 3)) if colours is None else colours
        self._colours = np.concatenate([self._colours, np.asarray(colours, np.float32)])
        places = np.zeros((count, 2)) if places is None else places
        self._places = np.concatenate([self._places, np.asarray(places, np.float32)])
        self._triangles = np.concatenate([self._triangles, np.asarray(triangles, np.int32) + start])
        kind = -1 if texture is None else len(self._textures)
        self._kinds = np.concatenate([self._kinds, np.full(len(triangles), kind, np.int8)])
        if texture is not None:
            self._textures.append(texture)

    def update(self, name: str, points: np.ndarray, colours: np.ndarray | None = None) -> None:
        """Move a layer's vertices and recolour them."""
        self._points[self.layers[name]] = points
        if colours is not None:
            self._colours[self.layers[name]] = colours

    def bake(self) -> None:
        """Draw all layers into the backdrop and forget them: what never moves costs nothing per frame."""
        self.backdrop = self.picture()
        self._clear()

    def picture(self) -> np.ndarray:
        """Draw: [height, width, 3] uint8."""
        width, height = self.size_px
        view, samples = self.view, self.samples
        rel = self._points - np.asarray(view.target, np.float32)
        distance = rel[:, 1] + np.float32(view.distance_m)
        scale = np.float32(height / view.height_m * view.distance_m * samples) / distance
        flat = np.stack(
            [width * samples / 2 + rel[:, 0] * scale, height * samples / 2 - rel[:, 2] * scale, distance], axis=1
        )
        # only the part of the frame that something covers is sampled
        low = np.floor(flat[:, :2].min(axis=0) / samples).astype(int).clip(0, [width, height])
        high = np.ceil(flat[:, :2].max(axis=0) / samples).astype(int).clip(low, [width, height])
        flat[:, :2] -= low * samples
        box = (slice(low[1], high[1]), slice(low[0], high[0]))
        rows, columns = high[1] - low[1], high[0] - low[0]
        fine = np.empty((rows * samples, columns * samples, 3), np.uint8)
        depth = np.empty(fine.shape[:2], np.float32)
        out = self.backdrop.copy()
        part = np.empty((rows, columns, 3), np.uint8)
        behind = np.ascontiguousarray(self.backdrop[box])
        textures = np.stack(self._textures) if self._textures else np.zeros((1, 1, 1, 3), np.uint8)

        ranges = np.empty((len(self._triangles), 2), np.int32)
        _row_ranges(flat, self._triangles, ranges)
        tall = max(1, -(-rows // (1 if self._pool is None else BANDS_PER_THREAD * self._threads)))

        def band(first: int) -> None:
            last = min(rows, first + tall)
            _spread(behind, samples, first, last, fine, depth)
            _fill(
                flat, self._colours, self._places, self._triangles, self._kinds, textures,
                ranges, first * samples, last * samples, fine, depth,
            )  # fmt: skip
            _resolve(fine, samples, first, last, part)

        starts = range(0, rows, tall)
        for _ in map(band, starts) if self._pool is None else self._pool.map(band, starts):
            pass
        out[box] = part
        return out

    def close(self) -> None:
        """End the worker threads."""
        if self._pool is not None:
            self._pool.shutdown()
