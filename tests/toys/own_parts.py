"""A row of tiny parts of one's own: a Wan checkpoint in two shards with an adapter and a basis of its own, a Whisper, a
tokenizer, a judge's adapter."""

import json
from pathlib import Path

from specsync_lib.speech.corpus import clips
from tests.toys.generation import PX, write_adapter, write_wan
from tests.toys.linear_faces import linear_draft, linear_material, write_films
from tests.toys.reasoner import byte_tokenizer
from tests.toys.whispers import write_whisper
from workbench.train import latent_basis


def write_parts(folder: Path) -> Path:
    """The parts, each in a folder of its own, and a corpus of three speakers."""
    write_wan(folder / "wan")
    write_whisper(folder / "whisper")
    byte_tokenizer().save_pretrained(folder / "tiny")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "reasoner.json").write_text(json.dumps({"temperature": 1.5, "instruction": ""}))
    lines = []
    for speaker, clip in enumerate(clips()):
        sound = folder / f"{clip.name}.flac"
        sound.write_bytes(clip.path.read_bytes())
        lines.append({"id": clip.name, "audio": sound.name, "speaker": f"speaker {speaker}", "text": clip.transcript})
    assert len(lines) == 3
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def fit_basis(parts: Path) -> dict[str, str]:
    """A basis fitted on the checkpoint's own latents, by the command that does it, and an adapter for its transformer;
    the row's keys that name them."""
    films = parts / "films"
    films.mkdir()
    write_films(films, linear_material(linear_draft()), ("train0", "train1", "validation0"))
    given = ["--row", write_row(parts, "local", ""), "--work", str(films), "--out", str(parts / "basis")]
    assert latent_basis.main([*given, "--coefficients", "6"]) == 0
    write_adapter(parts / "wan-adapter", parts / "wan")
    return {"draft.basis": "./basis", "video.adapter": "./wan-adapter"}


def write_row(parts: Path, kind: str, url: str, **changes: str) -> str:
    """The path of a row of these parts with a judge behind a server."""
    keys = {
        "hearing.whisper": "./whisper", "draft.basis": "none", "judge.kind": kind, "judge.url": url,
        "judge.source": "./tiny", "judge.weights": "random", "judge.adapter": "./adapter", "video.source": "./wan",
        "video.weights": "random",
    } | changes  # fmt: skip
    tree: dict[str, list[str]] = {}
    for key, value in keys.items():
        part, _, name = key.partition(".")
        tree.setdefault(part, []).append(f'{name} = "{value}"')
    tree["video"].append(f"pixels = {PX}")
    tree["judge"] += ["timeout_s = 20.0", "retries = 0"]
    path = parts / f"{kind}-{len(list(parts.glob('*.toml')))}.toml"
    path.write_text("\n".join(f"[{part}]\n" + "\n".join(lines) for part, lines in tree.items()))
    return str(path)
