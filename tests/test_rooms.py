"""The one-way rule of the rooms (README, Layout), read off the syntax trees, and what an import may pull in."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from specsync_lib.paths import NOTEBOOKS_DIR, PROJECT_ROOT

ROOMS = ("speech", "draft", "judge", "face", "pipeline", "measures", "figures", "jobs")  # in the order sound travels
# What else a room to the left may not be: its work needs none of it.
APART = {"face": {"judge"}, "figures": {"draft", "judge", "face"}}
MEASURES = {"workbench.measure": ("workbench.measure", "door")}  # the campaign tries the door itself
PACKAGES = ("specsync_lib", "kernels", "workbench")


def room(module: str) -> str:
    """ground, a room, door, kernels, workbench.train or workbench.measure."""
    if module == "specsync_lib":
        return "package"  # its one call is the pipeline's, imported when it is called
    package, _, rest = module.partition(".")
    first = rest.partition(".")[0]
    if package == "workbench":
        return module if not rest else f"workbench.{first}"
    return (
        first
        if package == "specsync_lib" and (PROJECT_ROOT / package / first).is_dir() and first
        else ("ground" if package == "specsync_lib" else package)
    )


def allowed(here: str) -> set[str]:
    """The rooms that a room may import, itself included."""
    if here == "kernels":
        return {"kernels"}
    if here == "ground":
        return {"ground"}
    if here == "package":
        return {"ground", "pipeline"}
    if here == "door":
        return {"ground", "speech", "door"}
    library = {"ground", "kernels", *ROOMS}
    if here in ROOMS:
        return {"ground", "kernels", *ROOMS[: ROOMS.index(here) + 1]} - APART.get(here, set())
    if here == "notebooks":
        return library
    if here == "notebooks/training":
        return library | {"workbench.train", "workbench.measure"}
    return library | {"workbench", "workbench.asked", "workbench.train", *MEASURES.get(here, ())}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every module of the project that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.partition(".")[0] in PACKAGES)


def sources() -> Iterator[tuple[str, str, str]]:
    """Where, room and text of every module and every notebook's code; tests are free to import anything."""
    import nbformat

    for package in PACKAGES:
        for path in sorted((PROJECT_ROOT / package).rglob("*.py")):
            if not path.name.startswith(("test_", "conftest")):
                parts = path.relative_to(PROJECT_ROOT).with_suffix("").parts
                module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                yield str(path.relative_to(PROJECT_ROOT)), room(module), path.read_text(encoding="utf-8")
    for path in sorted(NOTEBOOKS_DIR.rglob("*.ipynb")):
        where = path.relative_to(PROJECT_ROOT)
        cells = nbformat.read(path, as_version=4).cells
        yield str(where), where.parent.as_posix(), "\n".join(c.source for c in cells if c.cell_type == "code")


def offences(where: str, here: str, source: str) -> list[str]:
    """Each forbidden import as ``file:line: room imports module``."""
    return [
        f"{where}:{line}: {here} imports {name}" for line, name in imports(source) if room(name) not in allowed(here)
    ]


def test_a_room_imports_only_the_ground_kernels_and_rooms_to_its_left():
    seen = list(sources())
    assert {here for _, here, _ in seen} >= {"ground", "door", "kernels", "notebooks", "notebooks/training", *ROOMS}
    assert [offence for one in seen for offence in offences(*one)] == []


@pytest.mark.parametrize(
    ("here", "line", "forbidden"),
    [
        ("speech", "from specsync_lib.draft.plan import load_draft", True),
        ("face", "from specsync_lib.judge import rules", True),
        ("figures", "def f():\n    import specsync_lib.face.wan", True),
        ("ground", "from specsync_lib.speech import audio", True),
        ("kernels", "from specsync_lib.units import VISEMES", True),
        ("door", "from specsync_lib.pipeline.run import run_speculative", True),
        ("pipeline", "from specsync_lib.door import runner", True),
        ("measures", "from workbench.train import vae", True),
        ("workbench.train", "from workbench.measure.referee import main", True),
        ("notebooks", "from workbench.train import vae", True),
        ("notebooks/training", "from workbench.train import vae", False),
        ("pipeline", "from specsync_lib import units\nfrom specsync_lib.judge.rules import decide", False),
    ],
)
def test_the_rule_sees_what_it_forbids(here, line, forbidden):
    found = offences("x.py", here, line)
    assert bool(found) == forbidden
    assert not forbidden or found[0].startswith(f"x.py:{line.count(chr(10)) + 1}: {here} imports ")


def test_only_ground_files_lie_in_the_library_itself():
    flat = {path.stem for path in (PROJECT_ROOT / "specsync_lib").glob("*.py")} - {"__init__"}
    assert flat == {
        "assets", "caches", "claims", "devices", "errors", "files", "locks", "paths", "progress", "provenance",
        "rows", "rules_in_words", "streams", "summary", "tensors", "units", "values", "visemes",
    }  # fmt: skip


def test_every_room_says_what_it_is_for_and_imports_nothing():
    for path in [
        *(PROJECT_ROOT / "specsync_lib").rglob("__init__.py"),
        *(PROJECT_ROOT / "workbench").rglob("__init__.py"),
    ]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        calls = [node.name for node in tree.body[1:] if isinstance(node, ast.FunctionDef)]
        whole = (
            path.parent.name == "specsync_lib"
        )  # the caches' places, threads, and the one call for a notebook of one's own
        assert calls == ["run"] * whole and len(tree.body) == 1 + 4 * whole, f"{path}: holds more than its docstring"
        if path.parent.name in (*ROOMS, "door"):
            assert 3 <= len(ast.get_docstring(tree).splitlines()) <= 7, path


def modules_after(code: str, *absent: str) -> set[str]:
    """The modules of a fresh interpreter after some code; ``absent`` can not be imported in it."""
    blocked = f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\n"
    shown = "\nprint(*sorted(name for name, module in sys.modules.items() if module))"
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked}{code}{shown}"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stdout.split())


def test_the_door_the_paths_and_the_units_need_the_standard_library_alone():
    ground = "from specsync_lib import caches, errors, locks, paths, streams, units"
    code = f"{ground}\nfrom specsync_lib.door import install, parameters\nfrom specsync_lib.jobs import arguments"
    found = modules_after(code, "torch", "numpy", "pandas", "matplotlib", "nbformat", "papermill")
    outside = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - {"specsync_lib"}
    assert {name for name in outside if not name.startswith(("_", "sitecustomize", "distutils"))} == set()


@pytest.mark.parametrize("start", ["pipeline.models", "face.wan_mini", "judge.verify", "figures.latency"])
def test_no_room_pulls_in_the_workbench(start):
    found = modules_after(f"import specsync_lib.{start}")
    assert f"specsync_lib.{start}" in found
    assert not {name for name in found if name.startswith("workbench")}
