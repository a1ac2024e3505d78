"""How the reference head looks: identities, skins, lights, and shading that is computed per vertex.

Shading runs in numpy on some sixty thousand vertices (skin scatters light, which a per-pixel surface shader does not
show), and the renderer only rasterises the result. Colours are linear unless a name ends in ``_srgb``.
"""

from dataclasses import dataclass, field, replace

import numba
import numpy as np


def linear(hex_colour: str) -> np.ndarray:
    """``"#rrggbb"`` (sRGB) as linear RGB [3] float32."""
    srgb = np.array([int(hex_colour[k : k + 2], 16) for k in (1, 3, 5)], np.float32) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between (``low`` may be the larger one: then it falls)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


# A face at rest is not the sculptor's neutral: lids sit lower, the corners of the mouth a little higher.
RELAXED = {
    "mouthSmileLeft": 0.08, "mouthSmileRight": 0.08, "eyeBlinkLeft": 0.10, "eyeBlinkRight": 0.10,
    "eyeSquintLeft": 0.12, "eyeSquintRight": 0.12,
}  # fmt: skip


@dataclass(frozen=True)
class Skin:
    """Colours of the skin and what grows on it, as sRGB hex."""

    base: str = "#d9a78c"
    blush: str = "#c96f5e"
    lips: str = "#b0605a"
    shade: str = "#8f5f55"  # under the eyes, in folds
    freckles: float = 0.35
    stubble: float = 0.0
    shine: float = 1.0


@dataclass(frozen=True)
class Identity:
    """A person: phenotype and shape sliders of the face model, skin, hair, eyes, clothes.

    Attributes
    ----------
    phenotype, shape : dict
        Anny's phenotype values and MakeHuman's shape sliders.
    hair_style : str
        "bob" (to the jaw), "back" (combed back and tied), "short" or "shaved".
    expression : dict
        ARKit units that this face wears at rest, added to every frame.
    """

    phenotype: dict[str, float] = field(default_factory=dict)
    shape: dict[str, float] = field(default_factory=dict)
    skin: Skin = field(default_factory=Skin)
    hair: str = "#3a2417"
    hair_style: str = "bob"
    brow: str = "#4a3122"
    brow_weight: float = 0.85
    iris: str = "#5a7d8c"
    garment: str = "#1f3a4d"
    expression: dict[str, float] = field(default_factory=lambda: dict(RELAXED))


@dataclass(frozen=True)
class Light:
    """A directional lamp with a soft shadow.

    ``direction`` points from the face to the lamp (x: camera right, -y: to the camera, z: up).
    """

    direction: tuple[float, float, float]
    colour: str
    strength: float
    spread: float = 0.18  # radius of the lamp seen from the face, in radians


@dataclass(frozen=True)
class Studio:
    """Key, fill and rim lamps, the sky and ground of the room, and the backdrop's colours."""

    lamps: tuple[Light, ...] = (
        Light((-0.62, -0.66, 0.52), "#fff1e2", 1.95, 0.22),
        Light((0.75, -0.62, 0.10), "#dfeaff", 0.38, 0.35),
        Light((0.80, 0.55, 0.45), "#fff6ea", 2.2, 0.15),
        Light((-0.85, 0.50, 0.30), "#cfe2ff", 1.1, 0.15),
    )
    sky: str = "#c9d3e0"
    ground: str = "#7b6a60"
    ambient: float = 0.40
    exposure: float = 0.72
    backdrop: tuple[str, str, str] = ("#2b3a46", "#5d7480", "#c9a27a")  # edge, centre, warm glow


STUDIOS = {
    "studio": Studio(),
    "window": Studio(
        lamps=(
            Light((0.80, -0.50, 0.35), "#eef5ff", 2.6, 0.40),
            Light((-0.60, -0.75, 0.05), "#ffe9d2", 0.40, 0.35),
            Light((-0.75, 0.60, 0.40), "#ffe0b8", 1.2, 0.20),
        ),
        ambient=0.55,
        backdrop=("#3d4247", "#8c9499", "#d8c7ae"),
    ),
    "evening": Studio(
        lamps=(
            Light((-0.35, -0.85, 0.40), "#ffd9ae", 2.2, 0.25),
            Light((0.80, -0.40, 0.20), "#9db8ff", 0.7, 0.30),
            Light((0.60, 0.70, 0.40), "#ffb46b", 2.0, 0.15),
        ),
        ambient=0.38,
        backdrop=("#191c26", "#3c3a4a", "#b5763f"),
    ),
    "flat": Studio(
        lamps=(Light((0.0, -0.90, 0.42), "#ffffff", 1.4, 0.45), Light((0.3, -0.8, -0.4), "#ffffff", 0.35, 0.45)),
        ambient=0.6,
        backdrop=("#6c757c", "#a9b1b6", "#c5c2bb"),
    ),
}

_LIGHT_SKIN = Skin()
_DEEP_SKIN = Skin("#6f4631", "#6a3429", "#6e3b36", "#3e241a", freckles=0.1, shine=1.5)
_BROWN_SKIN = Skin("#a87352", "#95543f", "#8d4f45", "#5f3b2c", freckles=0.15, shine=1.2)
_FAIR_SKIN = Skin("#e6bca6", "#d98373", "#bd6b66", "#a87868", freckles=0.5)
_GOLDEN_SKIN = Skin("#d8a988", "#c97a63", "#b0645c", "#946a54", freckles=0.15)

IDENTITIES: dict[str, Identity] = {
    "reference": Identity(
        phenotype={"gender": 0.92, "age": 0.50, "muscle": 0.5, "weight": 0.45, "proportions": 0.9},
        shape={
            "mouth-upperlip-volume-incr": 0.25, "mouth-lowerlip-volume-incr": 0.2, "head-scale-horiz-incr": -0.25,
            "chin-width-incr": -0.35, "l-eye-scale-incr": 0.25, "r-eye-scale-incr": 0.25, "nose-scale-horiz-incr": -0.2,
            "neck-scale-horiz-incr": -0.25, "measure-shoulder-dist-incr": -0.5, "head-scale-vert-incr": -0.2,
        },
    ),
    "daniel": Identity(
        phenotype={"gender": 0.05, "age": 0.52, "muscle": 0.6, "weight": 0.5, "proportions": 0.8},
        skin=replace(_LIGHT_SKIN, base="#cf9c80", lips="#a8655c", stubble=0.55, freckles=0.2),
        hair="#2c1d14", hair_style="short", brow="#2c1d14", brow_weight=1.15, iris="#5b4630", garment="#3b3f45",
    ),
    "amara": Identity(
        phenotype={"gender": 0.95, "age": 0.48, "caucasian": 0.1, "african": 0.9, "proportions": 0.9},
        skin=_DEEP_SKIN, hair="#120d0b", hair_style="back", brow="#140e0b", iris="#3a2417", garment="#8a3b2e",
    ),
    "kenji": Identity(
        phenotype={"gender": 0.1, "age": 0.5, "caucasian": 0.1, "asian": 0.9, "muscle": 0.5},
        skin=replace(_GOLDEN_SKIN, stubble=0.2), hair="#14100f", hair_style="short", brow="#17110f", iris="#33221a",
        brow_weight=1.05, garment="#4c5a45",
    ),
    "mei": Identity(
        phenotype={"gender": 0.95, "age": 0.45, "caucasian": 0.15, "asian": 0.85, "proportions": 0.9},
        skin=_GOLDEN_SKIN, hair="#1a1210", brow="#221713", iris="#38251b", garment="#6d6a86",
    ),
    "ravi": Identity(
        phenotype={"gender": 0.08, "age": 0.58, "caucasian": 0.5, "african": 0.2, "asian": 0.3, "weight": 0.6},
        skin=replace(_BROWN_SKIN, stubble=0.7), hair="#15100e", hair_style="shaved", brow="#15100e", iris="#3b261a",
        brow_weight=1.2, garment="#70685a",
    ),
    "freya": Identity(
        phenotype={"gender": 0.9, "age": 0.62, "weight": 0.55, "proportions": 0.7},
        skin=_FAIR_SKIN, hair="#8f6a3f", brow="#7b5a3a", iris="#6d8b74", garment="#2f2f38",
    ),
    "tobias": Identity(
        phenotype={"gender": 0.0, "age": 0.72, "weight": 0.6, "muscle": 0.45},
        skin=replace(_FAIR_SKIN, stubble=0.3, freckles=0.4), hair="#77706a", hair_style="short", brow="#6b5d50",
        iris="#5f7f97", brow_weight=1.2, garment="#26364a",
    ),
}  # fmt: skip
REFERENCE, STRANGER = "reference", "mei"  # of the latent claim: no network was trained on the second


# Display value of linear light, in steps of 1/4096 up to 4: a soft shoulder above 0.6, then a power of 1/2.2.
_STEPS = 4096
_LIGHT = np.arange(4 * _STEPS + 1) / _STEPS
_SHOULDER = np.where(_LIGHT < 0.6, _LIGHT, 0.6 + 0.4 * (1 - np.exp(-(_LIGHT - 0.6) / 0.4)))
_DISPLAY = (_SHOULDER ** (1 / 2.2)).astype(np.float32)


def tone_srgb(colour: np.ndarray) -> np.ndarray:
    """Linear light [..., 3] to display values in [0, 1]; light above 4 is as bright as 4."""
    return _DISPLAY[np.clip(colour * _STEPS + 0.5, 0, len(_DISPLAY) - 1).astype(np.int32)]


# Light that enters skin comes out beside where it went in, red farthest: lit sides bleed past the terminator.
SCATTER = np.array([0.38, 0.20, 0.12], np.float32)


def _single(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _diffuse(normals, directions, colours, sky, ground, seen, ambient, scatter, light):
    per_channel = seen.shape[2] == 3
    for i in range(normals.shape[0]):
        x, y, z = normals[i, 0], normals[i, 1], normals[i, 2]
        up = np.float32(0.5) + np.float32(0.5) * z
        for channel in range(3):
            light[i, channel] = (ground[channel] + (sky[channel] - ground[channel]) * up) * ambient[i]
        for k in range(directions.shape[0]):
            cosine = x * directions[k, 0] + y * directions[k, 1] + z * directions[k, 2]
            for channel in range(3):
                wrap = scatter[channel]
                share = (cosine + wrap) / (np.float32(1) + wrap)
                if share > 0:
                    light[i, channel] += share * colours[k, channel] * seen[k, i, channel if per_channel else 0]


@numba.njit(nogil=True, cache=True, fastmath=True)
def _gloss(normals, directions, halves, view, colours, seen, doublings, light):
    for i in range(normals.shape[0]):
        x, y, z = normals[i, 0], normals[i, 1], normals[i, 2]
        grazing = np.float32(1) - min(np.float32(1), abs(x * view[0] + y * view[1] + z * view[2]))
        fresnel = np.float32(0.04) + np.float32(0.35) * grazing * grazing * grazing * grazing
        light[i, 0] = light[i, 1] = light[i, 2] = 0
        for k in range(directions.shape[0]):
            facing = x * directions[k, 0] + y * directions[k, 1] + z * directions[k, 2]
            lobe = x * halves[k, 0] + y * halves[k, 1] + z * halves[k, 2]
            if facing <= 0 or lobe < np.float32(0.4):
                continue
            for _ in range(doublings):
                lobe *= lobe
            lobe *= np.sqrt(facing) * seen[k, i] * fresnel
            for channel in range(3):
                light[i, channel] += lobe * colours[k, channel]


class Shader:
    """Lamps of a studio applied to vertices that face any way.

    Parameters
    ----------
    studio : Studio
    view : ndarray [3]
        Unit vector from the face to the camera.
    """

    def __init__(self, studio: Studio, view: np.ndarray) -> None:
        self.studio = studio
        self.view = np.asarray(view, np.float32)
        self.directions = np.array([lamp.direction for lamp in studio.lamps], np.float32)
        self.directions /= np.linalg.norm(self.directions, axis=1, keepdims=True)
        self.colours = np.array([linear(lamp.colour) * lamp.strength for lamp in studio.lamps], np.float32)
        self.sky, self.ground = linear(studio.sky) * studio.ambient, linear(studio.ground) * studio.ambient
        half = self.directions + self.view
        self.halves = half / np.linalg.norm(half, axis=1, keepdims=True)

    def diffuse(self, normals: np.ndarray, seen: np.ndarray, ambient: np.ndarray, scatter: np.ndarray) -> np.ndarray:
        """Light that falls on vertices [n, 3].

        Parameters
        ----------
        normals : ndarray [n, 3]
        seen : ndarray [lamps, n, 1 or 3]
            Share of each lamp that is not blocked (per channel where the shadow's edge scatters).
        ambient : ndarray [n]
            Share of the room that is not blocked.
        scatter : ndarray [3]
            How far each channel wraps around; zeros for hard materials.
        """
        light = np.empty((len(normals), 3), np.float32)
        exposure = np.float32(self.studio.exposure)
        colours, sky, ground = self.colours * exposure, self.sky * exposure, self.ground * exposure
        _diffuse(
            _single(normals),
            self.directions,
            colours,
            sky,
            ground,
            _single(seen),
            _single(ambient),
            _single(scatter),
            light,
        )
        return light

    def gloss(self, normals: np.ndarray, seen: np.ndarray, doublings: int) -> np.ndarray:
        """Mirror-like light [n, 3]: a normalised Blinn lobe of power ``2 ** doublings``, with Fresnel's rise.

        ``seen`` is [lamps, n].
        """
        light = np.empty((len(normals), 3), np.float32)
        colours = self.colours * np.float32((2**doublings + 8) / 25 * self.studio.exposure)
        _gloss(_single(normals), self.directions, self.halves, self.view, colours, _single(seen), doublings, light)
        return light

    def strand_gloss(self, tangents: np.ndarray, seen: np.ndarray, power: int) -> np.ndarray:
        """Highlight [n, 3] across hair: Kajiya and Kay, "Rendering fur with three dimensional textures", 1989."""
        cosines = tangents @ self.halves.T
        shine = np.maximum(1 - cosines * cosines, 0) ** (power // 2)
        return (shine * seen.T) @ self.colours * self.studio.exposure


def smooth_noise(shape: tuple[int, int], cells: float, rng: np.random.Generator) -> np.ndarray:
    """Band-limited noise [rows, columns] in about [-1, 1] that wraps around, with features of ``cells`` pixels."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal(shape), cells, mode="wrap")
    return (noise / (3 * noise.std())).astype(np.float32)


def pore_texture(skin: Skin, rng: np.random.Generator, shape: tuple[int, int] = (1024, 2048)) -> np.ndarray:
    """What is finer than the mesh, as a factor on the shaded skin: pores, freckles. uint8 [rows, columns, 3]."""
    mottle = 0.012 * smooth_noise(shape, 14, rng) + 0.014 * smooth_noise(shape, 4, rng)
    pores = 0.045 * smooth_noise(shape, 1.0, rng) - 0.02 * np.maximum(smooth_noise(shape, 1.6, rng) - 0.35, 0)
    detail = 0.955 + mottle + pores
    texture = np.repeat(detail[..., None], 3, axis=2)
    texture[..., 1:] -= 0.015 * np.maximum(smooth_noise(shape, 9, rng), 0)[..., None]
    spots = np.maximum(smooth_noise(shape, 1.7, rng) - 0.6, 0) * 0.9 * skin.freckles
    texture -= spots[..., None] * np.array([0.35, 0.6, 0.8])
    return (255 * texture.clip(0, 1)).astype(np.uint8)


def strand_texture(rng: np.random.Generator, shape: tuple[int, int] = (256, 2048)) -> np.ndarray:
    """Strands of hair as a factor on its shading: lines along the rows' axis, fine across. uint8 [rows, columns, 3]."""
    from scipy.ndimage import gaussian_filter

    lines = sum(
        weight * gaussian_filter(rng.standard_normal(shape), (along, across), mode="wrap") * np.sqrt(along * across)
        for weight, along, across in ((1.0, 60, 0.7), (0.7, 40, 2.0), (0.5, 80, 7.0))
    )
    lines = lines / lines.std()
    image = np.repeat((255 * (0.74 + 0.15 * lines).clip(0.25, 1))[..., None], 3, axis=2).astype(np.uint8)
    return np.tile(image, (4, 1, 1))


def backdrop(studio: Studio, size_px: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A blurred studio behind the head, uint8 [height, width, 3]: soft gradient, a warm glow, no edges."""
    width, height = size_px
    x, y = np.meshgrid(np.linspace(-1, 1, width) * width / height, np.linspace(-1, 1, height))
    edge, centre, glow = (linear(colour) for colour in studio.backdrop)
    spot = np.exp(-(((x + 0.35) / 1.25) ** 2 + ((y + 0.15) / 0.95) ** 2))[..., None]
    warm = np.exp(-(((x - 1.25) / 0.55) ** 2 + ((y + 0.25) / 0.8) ** 2))[..., None]
    image = edge + (centre - edge) * spot + 0.45 * (glow - edge) * warm
    image *= (1 - 0.25 * smoothstep(0.2, 1.3, y))[..., None]
    dither = rng.uniform(-0.5, 0.5, image.shape)
    return (255 * tone_srgb(image) + dither).clip(0, 255).astype(np.uint8)
