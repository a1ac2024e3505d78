"""Can this row run? A table of what is there and what is missing, before an hour is lost.

    ./run_all.sh doctor --row my.toml

Every part is looked at on its own, so that one call names everything that is missing; then all of it is loaded and
drafts, judges and draws one chunk. Nothing is fetched here. Exit code 0 only if the row can run.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from specsync_lib import rows, units
from specsync_lib.assets import asset
from specsync_lib.devices import resolve
from specsync_lib.draft.front import front_path, load_draft_front
from specsync_lib.draft.latents import LatentBasis, vae_sha256
from specsync_lib.draft.probe import load_teacher, probe_path
from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.face.adapter import adapter_folder, is_telling, read_facts, transformer_sha256
from specsync_lib.face.decoders.rows import load_network
from specsync_lib.jobs.arguments import parse
from specsync_lib.jobs.ending import ended
from specsync_lib.judge.engines.probe import PROBED_FRAMES, check_scores
from specsync_lib.judge.loading import SPREAD, adapter_of, load_tokenizer, read_settings, served_judge
from specsync_lib.judge.script import Script
from specsync_lib.pipeline import models
from specsync_lib.pipeline.sound import ChunkAssembler, pieces
from specsync_lib.pipeline.stages import Plan, Request
from specsync_lib.speech import whisper_base
from specsync_lib.speech.manifest import read_manifest
from specsync_lib.tensors import read_header, read_object, read_some, weight_files

GIB = 2**30
ROOM = 1.2  # times the weights: what a forward pass needs beside them
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 4}  # int8 is made of float32
WIDTH_OF_A_LOG = 140
LOUDNESS = 0.05  # of the dry chunk's noise


@dataclass(frozen=True)
class Finding:
    """One line of the table: the row's key, what was looked for, what was found, and whether it will do."""

    key: str
    what: str
    found: str
    good: bool = True


def look(key: str, what: str, find: Callable[[], str]) -> Finding:
    """A finding: what ``find`` says, or the line of what it raises."""
    try:
        return Finding(key, what, find())
    except InputError as error:
        return Finding(key, what, str(error), good=False)


def examine(row: rows.Row, device: str) -> Iterator[Finding]:
    """What is there of a row, part by part; nothing large is loaded."""
    for key, path in row.paths().items():
        yield look(key, "file", lambda key=key, path=path: _there(row, key, path))
    if row.corpus != rows.PROMPTS:
        yield look("corpus", "manifest", lambda: _corpus(row.corpus))
    whisper: list = []
    yield look("hearing.whisper", "weights", lambda: _hearing(row, whisper))
    if whisper and probe_path(row.hearing) is not None:
        yield look("hearing.probe", "fits the Whisper", lambda: _probe(row, whisper[0]))
    for name in ("front", "ears"):
        yield look(f"draft.{name}", "weights", lambda name=name: _front(getattr(row.draft, name)))
    basis: list[LatentBasis] = []
    yield look("draft.basis", "fits the draft", lambda: _basis(row, basis))
    yield from _judge(row, device)
    yield from _video(row, device, basis)


def _corpus(path: str) -> str:
    recordings = read_manifest(path)
    speakers = len({one.speaker for one in recordings if one.speaker})
    sides = Counter(one.split for one in recordings)
    return f"{len(recordings)} recordings, {speakers} speakers; {', '.join(f'{sides[side]} {side}' for side in sides)}"


def _there(row: rows.Row, key: str, path: Path) -> str:
    if not path.exists():
        raise InputError(f"{path} is not there; check the path")
    return f"sha256 {row.digests()[key][:16]}"


def _hearing(row: rows.Row, kept: list) -> str:
    if row.hearing.whisper == whisper_base.PINNED:
        found = f"asset at {asset(whisper_base.PINNED)}"
    else:
        found = str(cached(row.hearing.whisper))
    kept.append(whisper_base.load_whisper(row.hearing))
    dims = kept[0].dims
    if not 0 <= row.hearing.layer <= dims.n_audio_layer:
        raise InputError(f"hearing.layer is {row.hearing.layer}: this Whisper's encoder has 1 to {dims.n_audio_layer}")
    return f"{dims.n_mels} mels, width {dims.n_audio_state}, {dims.n_audio_layer} layers; {found}"


def _probe(row: rows.Row, whisper: object) -> str:
    return f"reads layer {load_teacher(row.hearing, whisper).layer}"


def _front(name: str) -> str:
    return f"{len(load_draft_front(name).blocks)} blocks in {front_path(name).name}"


def _basis(row: rows.Row, kept: list[LatentBasis]) -> str:
    basis = models.load_basis(row)
    if basis is None:
        return "none: latents start from noise"
    kept.append(basis)
    return f"{len(basis.basis)} directions, {units.PIXELS_PER_LATENT * basis.z0.shape[-1]} px"


def _judge(row: rows.Row, device: str) -> Iterator[Finding]:
    judge = row.judge
    letters = look("judge.tokenizer", "15 letters", lambda: _letters(judge))
    yield letters
    yield look("judge.adapter", "settings", lambda: _adapter(judge))
    if judge.kind != rows.LOCAL:
        unasked = Finding("judge.url", "scores", "not asked: its tokenizer is missing", good=False)
        yield look("judge.url", "scores", lambda: _scores(judge)) if letters.good else unasked
        return
    where = device if judge.device == "auto" else judge.device
    if judge.source == rows.SMOLLM2:
        yield look(
            "judge.source", "weights", lambda: f"asset at {asset(rows.SMOLLM2)}, computes in {judge.dtype_on(where)}"
        )
    else:
        yield look("judge.source", "memory", lambda: _fits(_judge_bytes(judge, where), where))


def _letters(judge: rows.Judge) -> str:
    source = judge.source if judge.tokenizer == "auto" else judge.tokenizer
    if source == rows.SMOLLM2:
        asset(rows.SMOLLM2)
        return "single tokens"
    script = Script(load_tokenizer(cached(source, judge.revision)))
    return f"single tokens, {script.alphabet[0]} … {script.alphabet[-1]}"


def _adapter(judge: rows.Judge) -> str:
    folder = adapter_of(judge)
    if folder is None:
        return "none: led by an instruction"
    merged = "" if judge.kind == rows.LOCAL else "; the server must have it merged"
    return f"temperature {read_settings(folder)['temperature']:.3g}{merged}"


def _scores(judge: rows.Judge) -> str:
    served = served_judge(judge)
    began = time.perf_counter()
    difference = check_scores(served)
    took_ms = 1e3 * (time.perf_counter() - began)
    requests = PROBED_FRAMES + 3  # written one by one, scored at once, and the first frame's row and token
    return f"{served.engine.about}: as it writes, within {difference:.1e}; {took_ms / requests:.0f} ms a request"


def _judge_bytes(judge: rows.Judge, device: str) -> int:
    files = weight_files(cached(judge.source, judge.revision), "model.safetensors")
    return _weight_bytes(files, judge.dtype_on(device))


def _video(row: rows.Row, device: str, basis: Sequence[LatentBasis]) -> Iterator[Finding]:
    video = row.video
    if video.source == rows.WAN_MINI_SHAPE:
        yield Finding("video.source", "weights", "random, of wan-mini's size")
        return
    where = device if video.device == "auto" else video.device
    yield look("video.source", "memory", lambda: _fits(_video_bytes(video), where))
    vae: list = []
    yield look("video.source", "VAE", lambda: _vae(video, vae))
    if vae and basis:
        yield look("draft.basis", "fits the VAE", lambda: _fits_vae(basis[0], vae[0], video))
    if vae and video.adapter != rows.NONE:
        yield look("video.adapter", "fits VAE and transformer", lambda: _adapter_of_face(video, vae[0]))
    if vae and video.decoder == "tiny" and video.decoder_file != "auto":
        yield look(
            "video.decoder_file", "fits the VAE", lambda: type(load_network(Path(video.decoder_file), vae[0])).__name__
        )


def _video_bytes(video: rows.Video) -> int:
    total = 0
    for part, dtype in (("vae", video.vae_dtype), ("transformer", video.transformer_dtype)):
        total += _weight_bytes(weight_files(wan_folder(video) / part), dtype)
    return total


def wan_folder(video: rows.Video) -> Path:
    """Where a video model's checkpoint lies on this machine."""
    known = wan.MODELS.get(video.source)
    return cached(known.source if known else video.source, video.revision)


def _vae(video: rows.Video, kept: list) -> str:
    transformer = read_object(wan_folder(video) / "transformer" / "config.json")
    kept.append(wan.load_vae(wan_folder(video), dtype=getattr(torch, video.vae_dtype)))
    channels, layers = transformer.get("in_channels"), transformer.get("num_layers")
    return f"16 latent channels; a transformer of {layers} layers, {channels} channels in"


def _fits_vae(basis: LatentBasis, vae: object, video: rows.Video) -> str:
    basis.check(vae, video.pixels)
    return f"fitted on it, for {video.pixels} px"


def _adapter_of_face(video: rows.Video, vae: object) -> str:
    facts = read_facts(adapter_folder(video.adapter))
    files = weight_files(wan_folder(video) / "transformer")
    facts.check(transformer_sha256(read_some(files, is_telling)), vae_sha256(vae))
    return f"fits the transformer and the VAE; trained at {facts.pixels} px, the row draws {video.pixels}"


def cached(source: str, revision: str = "main") -> Path:
    """The folder of a source on this machine: itself, or the hub's snapshot where it has been fetched.

    Raises
    ------
    InputError : it is not here.
    """
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_absolute():
        raise InputError(f"{source} is not there; check the path")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(source, revision=revision, local_files_only=True))
    except (OSError, ValueError) as error:
        raise InputError(f"{source} is not on this machine; fetch it first: hf download {source}") from error


def _weight_bytes(files: Sequence[Path], dtype: str) -> int:
    """Of safetensors once they are loaded as ``dtype``; "checkpoint": as they are stored."""
    if dtype == "checkpoint":
        return sum(path.stat().st_size for path in files)
    return BYTES[dtype] * sum(int(np.prod(shape)) for path in files for shape in read_header(path)[0].values())


def _fits(needed: int, device: str) -> str:
    """Weights, with room for a pass, against a device's memory."""
    wanted = ROOM * needed / GIB
    if device == "cpu":
        import psutil

        there, what = psutil.virtual_memory().total / GIB, "of memory"
    elif not torch.cuda.is_available():
        raise InputError(f"{device}: no CUDA GPU is visible here")
    else:
        ids = range(torch.cuda.device_count()) if device == SPREAD else [torch.device(device).index or 0]
        if max(ids) >= torch.cuda.device_count():
            raise InputError(f"{device}: this machine has {torch.cuda.device_count()} GPUs, numbered from 0")
        there = sum(torch.cuda.get_device_properties(index).total_memory for index in ids) / GIB
        what = f"on {device}"
    line = f"{wanted:.1f} GiB needed, {there:.1f} {what}"
    if wanted > there:
        raise InputError(f"{line}; choose another device, dtype = checkpoint with FP8 weights, or device = spread")
    return line


def dry_chunk(row: rows.Row, device: str) -> Iterator[Finding]:
    """All of the row loaded, and one chunk of noise through it, with the times of its stages (the second one's)."""
    began = time.perf_counter()
    reference = np.full((row.video.pixels, row.video.pixels, 3), 128, np.uint8)
    loaded = models.load_models(row, device=device, reference=reference)
    yield Finding("row", "loaded", f"{time.perf_counter() - began:.1f} s, {loaded.label}")
    times: dict[str, float] = {}
    for _ in range(2):  # the first call of anything is slow
        times = _one_chunk(loaded)
    yield Finding("row", "one chunk", ", ".join(f"{name} {1e3 * took:.0f} ms" for name, took in times.items()))


def _one_chunk(loaded: models.Models) -> dict[str, float]:
    stages, times = loaded.stages(), {}
    noise = LOUDNESS * np.random.default_rng(0).standard_normal(2 * units.CHUNK_SAMPLES).astype(np.float32)
    assembler = ChunkAssembler()
    audio = next(chunk for piece in pieces(noise, pace="fast") for chunk in assembler.push(piece, 0.0))

    def timed(name: str, work: Callable):
        began = time.perf_counter()
        done = work()
        times[name] = time.perf_counter() - began
        return done

    draft = timed("draft", lambda: stages.drafter.draft(audio))
    verdicts: list = []
    timed("judge", lambda: stages.judge.verify(Request(audio, draft, (), threading.Event()), verdicts.append))
    if stages.judge.faults:
        raise InputError(f"judge: {stages.judge.faults[0]}")
    plan = Plan(verdicts[-1].tokens, verdicts[-1].openness)
    work = timed("start", lambda: stages.generator.begin(audio, draft, plan))
    while work.steps_left:
        timed("step", lambda: stages.generator.step(work, plan))

    def decode() -> None:
        while stages.generator.render(work) is None:
            pass

    timed("decode", decode)
    return times


def show(findings: Sequence[Finding], row: rows.Row) -> None:
    """The table, on the screen."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = f"row {row.name}: {', '.join(row.differences()) or 'the default'}"
    table = Table("key", "what", "", title=Text(title))
    table.add_column("found", overflow="fold")
    for one in findings:
        table.add_row(Text(one.key), Text(one.what), "ok" if one.good else "missing", Text(one.found))
    Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_LOG).print(table)


def main(arguments: Sequence[str]) -> int:
    """Look, say, and end with 0 only if the row can run."""

    def work() -> int:
        asked = parse("doctor", arguments)
        row = asked.row
        device = resolve("auto")
        findings = list(examine(row, device))
        if all(one.good for one in findings) and asked.options.dry_chunk == "yes":
            try:
                findings += dry_chunk(row, device)
            except (InputError, RuntimeError) as error:
                findings.append(Finding("row", "one chunk", str(error).splitlines()[0][:200], good=False))
        show(findings, row)
        if missing := [one for one in findings if not one.good]:
            raise InputError(f"the row can not run: {missing[0].key}: {missing[0].found}")
        print("the row can run")
        return 0

    return ended(work)
