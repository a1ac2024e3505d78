"""A row: one object that picks every part of the suite, read from a TOML file and checked before anything is installed.

    row = read("embedded")                          # data/rows/embedded.toml, the default
    row = read("my/row.toml", {"judge.kind": "vllm"})

Loaders take the row's part (`hearing`, `draft`, `judge`, `video`); nothing else branches on models. A part or a key
that a file leaves out is the embedded row's. What begins with ``/``, ``~``, ``./`` or ``../`` is a path, relative to
the row's file; anything else is a name that the part's loader knows, or a hub id. Standard library alone.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path

from specsync_lib.errors import InputError
from specsync_lib.paths import MEASUREMENTS_DIR, ROWS_DIR, display_path, expanded
from specsync_lib.values import (
    LANGUAGES,
    FolderName,
    Parameter,
    Pattern,
    Range,
    Value,
    did_you_mean,
    on_one_line,
    shown,
)

DEFAULT = "embedded"
LARGEST_FILE_BYTES = 2**16
PATH_BEGINNINGS = ("/", "~", "./", "../")
# Parts whose weights are known to be trained: files that the suite pins or made, and public checkpoints by hub id.
SMOLLM2, WAN_MINI, WAN_MINI_SHAPE = "smollm2", "wan-mini", "wan-mini-shape"
KNOWN_WEIGHTS = {SMOLLM2: "trained", WAN_MINI: "trained", WAN_MINI_SHAPE: "random",
                 "wan-1.3b": "trained", "wan-14b": "trained"}  # fmt: skip
LABELS = {"trained": "measured", "random": "real-shape"}
# What committed numbers rest on, by the beginning of their file; all parts where none of these is it.
RESTS_ON = {
    "data/measurements/kernel_": (), "data/measurements/slider_": (), "data/measurements/cpu_report": (),
    "data/measurements/claim": ("draft", "video"), "data/measurements/wan_chunk": ("video",),
    "data/measurements/decoder": ("video",), "data/models/decoder": ("video",), "data/models/draft": ("draft",),
    "data/models/wan_mini": ("video",), "data/models/lip_reader": (),
    "data/models/reasoner": ("judge",), "data/models/latent_basis": ("draft", "video"), "data/models/mouth": (),
}  # fmt: skip
COMMITTED = ("data/measurements/", "data/models/")
RESULTS_FILE = "row.json"  # in a folder of what the workbench measured of a row: whose it is
NOT_MEASURED = "not measured for this row"
HASHED_WHOLE_BYTES = 2**26
LOCAL = "local"
DECODERS = ("wan", "light", "tiny")  # of face/decoders/rows.py, and a test keeps them equal
KINDS = (LOCAL, "sglang", "vllm", "openai")

SOURCE_WORDS = "a name, a hub id, or a path that begins with /, ~, ./ or ../"
NONE = "none"
DEVICE = Pattern(re.compile(r"auto|cpu|cuda(:[0-9]{1,2})?"), "auto, cpu, cuda, or one GPU as cuda:0, cuda:1, ...")
SPREAD_DEVICE = Pattern(re.compile(rf"{DEVICE.form.pattern}|spread"), f"{DEVICE.words}, or spread over all GPUs")
PROMPTS = "prompts"
CORPUS = Pattern(re.compile(r"prompts|.+\.jsonl", re.DOTALL), "prompts, or the path of a corpus.jsonl")
URL = Pattern(re.compile(r"https?://[A-Za-z0-9._\[\]:-]+(/[\w./~-]*)?"), "an address such as http://localhost:30000")
VARIABLE = Pattern(re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), "the name of an environment variable")
WEIGHTS = ("auto", "trained", "random")


def _key(default: Value, allowed, help: str, *, path: bool = False):
    """A row's key: its default, what is allowed, what it means, and whether it may name a file."""
    parameter = Parameter("", type(default), default, allowed, help)
    return field(default=default, metadata={"parameter": parameter, "path": path})


@dataclass(frozen=True)
class Hearing:
    """What hears the words."""

    whisper: str = _key("whisper-base", SOURCE_WORDS, "Whisper: the pinned one, or a checkpoint's folder", path=True)
    layer: int = _key(0, Range(0, 64), "the block of its encoder that is heard; 0: the probe's own, else the last")
    probe: str = _key(
        "auto", SOURCE_WORDS, "reads visemes off it: workbench.train.probe's file; auto: whisper-base's own", path=True
    )


@dataclass(frozen=True)
class Drafting:
    """What drafts the plan and the latents, and what the judge hears."""

    front: str = _key("draft", SOURCE_WORDS, "the causal front that drafts: in data/models/draft_front", path=True)
    ears: str = _key("ears", SOURCE_WORDS, "the front that the judge hears through", path=True)
    basis: str = _key("latent_basis", SOURCE_WORDS, "the basis of the drafted latents: in data/models", path=True)


@dataclass(frozen=True)
class Judge:
    """The language model that judges: in this process, or behind a server that has the same model and adapter."""

    kind: str = _key(LOCAL, KINDS, "where it runs: in this process, or which server's requests it answers")
    source: str = _key(SMOLLM2, SOURCE_WORDS, "the model; of a served one, what its tokenizer belongs to", path=True)
    revision: str = _key("main", "a hub revision", "of the model and the tokenizer")
    weights: str = _key("auto", WEIGHTS, "where a model's weights came from, which labels its numbers")
    tokenizer: str = _key("auto", SOURCE_WORDS, "auto: the model's own", path=True)
    adapter: str = _key(
        "auto", SOURCE_WORDS, "a folder of peft's: merged here; a server has it merged. auto: smollm2's own", path=True
    )
    dtype: str = _key(
        "auto", ("auto", "float32", "bfloat16", "float16", "int8", "checkpoint"),
        "of a local one; auto: float32",
    )  # fmt: skip
    device: str = _key("auto", SPREAD_DEVICE, "of a local one; auto: the run's")
    temperature: float = _key(0.0, Range(0, 100), "divides its logits; 0 takes the adapter's, else 1")
    url: str = _key("", URL, "where the server listens")
    served_model: str = _key("auto", "a name", "the model's name at the server; auto: the first that it serves")
    key_variable: str = _key("", VARIABLE, "the environment variable that holds the server's key")
    timeout_s: float = _key(10.0, Range(0.05, 600), "how long one request may take")
    retries: int = _key(2, Range(0, 10), "how often a request that failed is sent again")
    in_flight: int = _key(4, Range(1, 256), "requests under way at a time")

    @property
    def label(self) -> str:
        """The label of what it judges: measured or real-shape."""
        return _label(self)

    @property
    def repeats(self) -> bool:
        """Whether a row is the same however it is asked for. In half precision, and in a server's batches, it is not
        quite, and a tie may turn."""
        return self.kind == LOCAL and self.dtype in ("auto", "float32")

    def dtype_on(self, device: str) -> str:
        """What a local one computes in, on a device."""
        return "float32" if self.dtype == "auto" else self.dtype


@dataclass(frozen=True)
class Video:
    """What makes the face's frames: a VAE and a transformer of Wan's kind."""

    source: str = _key(WAN_MINI, SOURCE_WORDS, "the checkpoint; wan-mini-shape: random weights of its size", path=True)
    revision: str = _key("main", "a hub revision", "of the checkpoint")
    weights: str = _key("auto", WEIGHTS, "where the weights came from, which labels its numbers")
    vae_dtype: str = _key("float32", ("float32", "bfloat16", "float16"), "of the VAE")
    transformer_dtype: str = _key("float32", ("float32", "bfloat16", "float16"), "of the transformer")
    device: str = _key("auto", DEVICE, "auto: the run's")
    adapter: str = _key(
        NONE, SOURCE_WORDS, "a plan's way into Wan's own: a folder of workbench.train.adapter", path=True
    )
    decoder: str = _key(
        "auto", ("auto", *DECODERS), "auto: the small one that is made for wan-mini, else the VAE's own"
    )
    decoder_file: str = _key("auto", SOURCE_WORDS, "the small one's file; auto: the suite's", path=True)
    pixels: int = _key(256, Range(16, 1280), "side of the generated face")
    steps: int = _key(2, Range(1, 50), "denoising steps")
    noise_level: float = _key(0.6, Range(0.01, 1), "how much of a draft is drowned")

    @property
    def decoded_by(self) -> str:
        """One of DECODERS."""
        return {WAN_MINI: "tiny"}.get(self.source, "wan") if self.decoder == "auto" else self.decoder

    @property
    def label(self) -> str:
        """The label of what it shows: measured or real-shape."""
        return _label(self)


def _label(part: "Judge | Video") -> str:
    return LABELS[KNOWN_WEIGHTS.get(part.source, part.weights)]


@dataclass(frozen=True)
class Row:
    """Every part. ``name`` is the file's."""

    name: str = DEFAULT
    language: str = _key("auto", LANGUAGES, "what is spoken, where the run does not say it")
    corpus: str = _key(PROMPTS, CORPUS, "the speech that the draft is held against: the pinned prompts, or a manifest")
    hearing: Hearing = Hearing()
    draft: Drafting = Drafting()
    judge: Judge = Judge()
    video: Video = Video()

    def text(self) -> str:
        """What stands for this row on a command line or in a notebook: its name, where it is the default; else all of
        it, as JSON that `read` takes."""
        return DEFAULT if self == Row() else json.dumps(asdict(self), sort_keys=True)

    def paths(self) -> dict[str, Path]:
        """The files and folders of this machine that the row names, by key."""
        return {key: Path(value) for key, value in _values(self).items() if _is_path(key, value)}

    def differences(self) -> list[str]:
        """What differs from the default row, as ``key=value``."""
        usual = _values(Row())
        return [f"{key}={value}" for key, value in _values(self).items() if value != usual[key]]

    def holds(self, source: str | Path) -> bool:
        """Whether a number from this file is this row's: the run made it, the workbench measured it of this row, or
        what it rests on is the default row's."""
        source = f"{display_path(source)}/"
        if not source.startswith(COMMITTED):
            return True
        if self.name in FolderName() and source.startswith(f"{display_path(MEASUREMENTS_DIR / self.name)}/"):
            return True  # a run takes them from `own_results`
        parts = next((parts for beginning, parts in RESTS_ON.items() if source.startswith(beginning)), ALL)
        return all(getattr(self, part) == getattr(Row(), part) for part in parts)

    def held(self, numbers: Mapping[str, Mapping]) -> dict[str, Mapping]:
        """Of recorded numbers (`summary.merged`) those that `holds` lets stand."""
        return {key: entry for key, entry in numbers.items() if self.holds(entry["source"])}

    def identity(self) -> dict:
        """The row and what lies behind its paths: what numbers of it belong to."""
        return {"row": asdict(self), "digests": self.digests()}

    def own_results(self) -> Path | None:
        """The folder of what the workbench measured of this very row; None where it measured nothing."""
        folder = MEASUREMENTS_DIR / self.name
        try:
            of = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return folder if of == self.identity() else None

    def digests(self) -> dict[str, str]:
        """What lies behind each path that the row names: a sha256 over names, sizes and contents, of a file above
        64 MiB over its first and last MiB."""
        return {key: _digest(path) for key, path in self.paths().items()}


LONE = ("language", "corpus")  # keys of no part
PARTS = {one.name: one.default for one in fields(Row) if one.name not in ("name", *LONE)}
ALL = (*PARTS, "corpus")


@cache
def keys() -> dict[str, Parameter]:
    """Every key of a row, ``part.key`` or ``key``, with what it allows."""
    found = {name: _spec(Row, name) for name in LONE}
    for part, default in PARTS.items():
        found |= {f"{part}.{one.name}": one.metadata["parameter"] for one in fields(default)}
    return {name: replace(parameter, name=name) for name, parameter in found.items()}


def _spec(kind: type, name: str) -> Parameter:
    return next(one for one in fields(kind) if one.name == name).metadata["parameter"]


def _values(row: Row) -> dict[str, Value]:
    """The row's values by key."""
    parts = {f"{part}.{name}": value for part in PARTS for name, value in vars(getattr(row, part)).items()}
    return {name: getattr(row, name) for name in LONE} | parts


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if one.is_file():
            size = one.stat().st_size
            digest.update(f"{one.relative_to(path.parent)} {size}\n".encode())
            with one.open("rb") as handle:
                if size <= HASHED_WHOLE_BYTES:
                    digest.update(handle.read())
                else:
                    digest.update(handle.read(2**20))
                    handle.seek(-(2**20), 2)
                    digest.update(handle.read())
    return digest.hexdigest()


def _is_path(key: str, value: Value) -> bool:
    if key == "corpus":
        return value != PROMPTS
    part, _, name = key.partition(".")
    may = part in PARTS and any(one.name == name and one.metadata["path"] for one in fields(PARTS[part]))
    return may and str(value).startswith(PATH_BEGINNINGS)


def known_rows() -> list[str]:
    """The names of the rows in data/rows."""
    return sorted(path.stem for path in ROWS_DIR.glob("*.toml"))


def read(given: str | Path, single: Mapping[str, str] | None = None, *, present: bool = True) -> Row:
    """The row of a name, of a TOML file or of `Row.text`, with single values put over it.

    Parameters
    ----------
    given : a name in data/rows, a file, or what `Row.text` gave.
    single : by key, as they are written on a command line; their paths are relative to the folder one stands in.
    present : whether what the row names on this machine must be there.

    Raises
    ------
    InputError : one line: an absent or unreadable file, an unknown key (with the nearest known one), a value that is
        not allowed, keys that contradict each other, a file that is not there.
    """
    given, where = str(given), "row"
    if given.startswith("{"):
        name, tree, folder = "", _loaded(given, json.loads, "row given as text"), Path()
        name = on_one_line(str(tree.pop("name", DEFAULT)))
    else:
        path = _path(given)
        name, where, folder = path.stem, on_one_line(f"row {path.name}"), path.absolute().parent
        tree = _loaded(_text(path), tomllib.loads, where)
    try:
        row = _built(_with_single(_flat(tree, folder), single or {}), name)
        _check_together(row)
        if present:
            _check_present(row)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return row


def _path(given: str) -> Path:
    if given in known_rows():
        return ROWS_DIR / f"{given}.toml"
    if not given.endswith(".toml") and "/" not in given:
        hint = did_you_mean(given, known_rows())
        raise InputError(f"row {shown(given)} is unknown; {hint}give a TOML file, or one of {', '.join(known_rows())}")
    return expanded(given)


def _text(path: Path) -> str:
    where = f"row {shown(str(path))}"
    try:
        size = path.stat().st_size if path.is_file() else None
        text = path.read_text(encoding="utf-8-sig") if size is not None and size <= LARGEST_FILE_BYTES else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not text in UTF-8; save it as such") from error
    except (OSError, ValueError) as error:  # a path may hold what no file system takes
        raise InputError(f"{where}: cannot be read ({shown(str(error))}); check the path") from error
    if size is None:
        what = "is no file" if path.exists() else "there is no such file"
        raise InputError(f"{where}: {what}; give a TOML file, or a name in data/rows")
    if size > LARGEST_FILE_BYTES:
        raise InputError(f"{where}: is larger than 64 KiB; a row is a few lines of TOML")
    return text


def _loaded(text: str, loads, where: str) -> dict:
    try:
        tree = loads(text)
    except (ValueError, RecursionError) as error:  # of tomllib and json both
        raise InputError(f"{where}: is no TOML ({shown(str(error))}); see data/rows/embedded.toml") from error
    if not isinstance(tree, dict):
        raise InputError(f"{where}: holds no table; see data/rows/embedded.toml")
    return tree


def _flat(tree: dict, folder: Path) -> dict[str, Value]:
    """A file's values by key, checked one by one, their paths absolute."""
    found: dict[str, Value] = {}
    for name, value in tree.items():
        if name not in PARTS:
            found[name] = _known(name).check(value)
        elif not isinstance(value, dict):
            raise InputError(f"{name}: got {shown(value)}; write [{name}] and its keys below it")
        else:
            found |= {f"{name}.{key}": _known(f"{name}.{key}").check(one) for key, one in value.items()}
    return {key: _absolute(key, value, folder) for key, value in found.items()}


def _with_single(values: dict[str, Value], single: Mapping[str, str]) -> dict[str, Value]:
    return values | {key: _absolute(key, _known(key).parse(text), Path.cwd()) for key, text in single.items()}


def _known(key: str) -> Parameter:
    """A key's parameter, or a refusal with the nearest key there is: in its own part first."""
    if key in keys():
        return keys()[key]
    part, _, name = key.partition(".")
    own = [one.name for one in fields(PARTS[part])] if part in PARTS else []
    elsewhere = [other for other in keys() if name and other.endswith(f".{name}")]
    near = (
        f"did you mean {elsewhere[0]}? "
        if elsewhere and part in PARTS
        else did_you_mean(name, own).replace("did you mean ", f"did you mean {part}.")
    )
    hint = near or did_you_mean(key, [*PARTS, *keys()])
    known = f"keys of [{part}]: {', '.join(own)}" if own else f"known: {', '.join((*LONE, *PARTS))}"
    raise InputError(f"key {shown(key)} is unknown; {hint}{known}")


def _absolute(key: str, value: Value, folder: Path) -> Value:
    return str(Path(folder, expanded(value)).absolute()) if _is_path(key, value) else value


def _built(values: Mapping[str, Value], name: str) -> Row:
    parts = {
        part: replace(default, **{key.partition(".")[2]: value for key, value in values.items()
                                  if key.startswith(f"{part}.")})
        for part, default in PARTS.items()
    }  # fmt: skip
    lone = {key: value for key, value in values.items() if key in LONE}
    return Row(name, **lone, **parts)


def _check_together(row: Row) -> None:
    """Refuse keys that contradict each other.

    Raises
    ------
    InputError : which keys, and what to write.
    """
    judge, video = row.judge, row.video
    if judge.kind == LOCAL and judge.url:
        raise InputError(f"judge.url is given and judge.kind is local; write kind = one of {', '.join(KINDS[1:])}")
    if judge.kind != LOCAL and not judge.url:
        raise InputError(f"judge.kind is {judge.kind} and no judge.url is given; write where the server listens")
    if judge.dtype == "int8" and judge.device not in ("auto", "cpu"):
        raise InputError(f"judge.dtype is int8 and judge.device is {judge.device}; int8 is for a CPU: write bfloat16")
    for name, part in (("judge", judge), ("video", video)):
        known = KNOWN_WEIGHTS.get(part.source)
        if known is None and part.weights == "auto":
            raise InputError(
                f"{name}.source is your own: say where its weights came from: {name}.weights = 'trained' or 'random'"
            )
        if known is not None and part.weights not in ("auto", known):
            raise InputError(f"{name}.weights is {part.weights}, and those of {part.source} are {known}; leave it out")
    if video.pixels % 16:
        raise InputError(f"video.pixels is {video.pixels}; give a multiple of 16, as Wan's latents and patches need")
    if video.adapter != NONE and video.source in (WAN_MINI, WAN_MINI_SHAPE):
        raise InputError(f"video.adapter is given, and {video.source} takes the plan itself; leave it out")
    if video.decoder != "tiny" and video.decoder_file != "auto":
        raise InputError(f"video.decoder_file is given and video.decoder is {video.decoder}; write decoder = 'tiny'")


def _check_present(row: Row) -> None:
    for key, path in row.paths().items():
        if not path.exists():
            raise InputError(f"{key}: {on_one_line(str(path))} is not there; check the path")
