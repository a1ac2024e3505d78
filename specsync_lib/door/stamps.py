"""What a finished notebook leaves behind, and when that is still valid: its stamp, and the hashes in it.

A notebook is finished for as long as its key (its own cells, the parameters it declares, the library, the committed
data, the recording, the assets and every earlier notebook) and the hashes of its outputs are those of its stamp.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from specsync_lib.door.project import Project
from specsync_lib.files import atomic_path, write_json

APART = (Path("specsync_lib", "door"), Path("specsync_lib", "jobs"))  # no notebook's results depend on them
SOURCE_SUFFIXES = frozenset({".py", ".mplstyle"})


@dataclass
class Finished:
    """A notebook's stamp: what it was made from, what it made, and what it cost."""

    key: str
    outputs: dict[str, str]
    wall_s: float
    peak_rss_gib: float
    resumed: bool = field(default=False, compare=False)


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_hash(content: object) -> str:
    """sha256 of plain data, independent of dictionary order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tree_hash(paths: Sequence[Path], root: Path) -> str:
    """One hash over files' names and bytes."""
    return content_hash({path.relative_to(root).as_posix(): file_hash(path) for path in sorted(paths)})


def source_files(root: Path) -> list[Path]:
    """The library and the kernels, without tests, benchmarks, the door and the jobs. (The workbench is no part of a
    run.)"""
    files = [path for folder in ("specsync_lib", "kernels") for path in (root / folder).rglob("*")]
    return [
        path
        for path in files
        if path.suffix in SOURCE_SUFFIXES
        and not path.name.startswith(("test_", "bench_", "conftest"))
        and not any(path.is_relative_to(root / folder) for folder in APART)
    ]


def data_files(project: Project) -> list[Path]:
    """The committed inputs: everything under data/ but what runs make, wherever they do, this door's own measurement of
    itself, and what was measured of other rows (folders of data/measurements)."""
    data, nameless = project.root / "data", project.nameless()
    measured = data / "measurements"
    made = (data / "run", *(folder for folder in (nameless.run, nameless.plots) if data in folder.parents))
    files = (path for path in data.rglob("*") if path.is_file() and path != measured / "cpu_report.json")
    return [
        path
        for path in files
        if not any(path.is_relative_to(folder) for folder in made)
        and not path.name.startswith(".")
        and not (path.is_relative_to(measured) and path.parent != measured)
    ]


def stored_name(path: Path, project: Project) -> str:
    """A path as stamps hold it: relative to the project."""
    return os.path.relpath(path, project.root)


def read_stamp(project: Project, name: str) -> Finished | None:
    """A notebook's stamp, None where it is absent, unreadable or holds anything else."""
    try:
        found = Finished(**json.loads(project.stamp(name).read_text(encoding="utf-8")))
        whole = isinstance(found.outputs, dict) and math.isfinite(found.wall_s) and math.isfinite(found.peak_rss_gib)
    except (OSError, ValueError, TypeError, OverflowError):
        return None
    return found if whole else None


def still_valid(finished: Finished | None, key: str, project: Project) -> bool:
    """Whether a stamp has this key and all its outputs are as they were."""
    if finished is None or finished.key != key:
        return False
    paths = {project.root / name: digest for name, digest in finished.outputs.items()}
    return all(path.is_file() and file_hash(path) == digest for path, digest in paths.items())


def forget(project: Project, name: str) -> None:
    """Remove a notebook's stamp, summary and unmodified outputs, so that nothing stale outlives its making."""
    finished = read_stamp(project, name)
    for output, digest in (finished.outputs if finished else {}).items():
        path = project.root / output
        if path.is_file() and file_hash(path) == digest:
            path.unlink()
    for path in (project.stamp(name), project.summary(name), project.executed(name), project.unfinished(name)):
        path.unlink(missing_ok=True)


def drop_departed(project: Project) -> None:
    """Forget stamps and summaries of notebooks that are no longer there."""
    present = {notebook.stem for notebook in project.ordered_notebooks()}
    for stamp in (project.run / "stamps").glob("*.json"):
        if stamp.stem not in present:
            forget(project, stamp.stem)


def adopt(source: Project, project: Project, name: str, key: str) -> Finished | None:
    """Copy a notebook's outputs from another run that finished it with the same key; None where they went meanwhile."""
    finished = read_stamp(source, name)
    if not still_valid(finished, key, source):
        return None
    paths = {}
    for output, digest in finished.outputs.items():
        path = Path(os.path.normpath(source.root / output))  # a run's folders may lie outside the project
        old, new = next(pair for pair in folder_pairs(source, project) if path.is_relative_to(pair[0]))
        paths[path] = new / path.relative_to(old), digest
    try:
        for path, (target, digest) in paths.items():
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
                if file_hash(temporary) != digest:
                    raise FileNotFoundError(path)  # the other run is at work on it
                if path == source.summary(name):
                    moved = moved_sources(temporary, source, project)
                    temporary.write_text(json.dumps(moved, indent=2), encoding="utf-8")
    except FileNotFoundError:
        for target, _ in paths.values():
            target.unlink(missing_ok=True)
        return None
    outputs = {stored_name(target, project): file_hash(target) for target, _ in paths.values()}
    return write_stamp(project, name, Finished(key, outputs, finished.wall_s, finished.peak_rss_gib, resumed=True))


def folder_pairs(source: Project, project: Project) -> list[tuple[Path, Path]]:
    """The folders of a run and their places in another one; one that lies in the other comes first."""
    pairs = [(source.plots, project.plots), (source.run, project.run)]
    return sorted(pairs, key=lambda pair: len(pair[0].parts), reverse=True)


def moved_sources(path: Path, source: Project, project: Project) -> dict[str, dict[str, object]]:
    """The numbers of a summary file, their sources in the folders of the run that they are copied to."""
    folders = folder_pairs(source, project)
    moved = [(f"{stored_name(old, source)}/", f"{stored_name(new, project)}/") for old, new in folders]
    numbers = json.loads(path.read_text(encoding="utf-8"))
    for entry in numbers.values():
        old, new = next((pair for pair in moved if entry["source"].startswith(pair[0])), ("", ""))
        entry["source"] = new + entry["source"].removeprefix(old)
    return numbers


def write_stamp(project: Project, name: str, finished: Finished) -> Finished:
    """Keep a notebook's stamp."""
    write_json(project.stamp(name), {name: value for name, value in vars(finished).items() if name != "resumed"})
    return finished
