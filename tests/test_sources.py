"""What no source of the project does: unpickle, or hand a string to a shell."""

import ast
import json

import pytest

from specsync_lib.paths import PROJECT_ROOT

PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
# Calls by their last names: those that unpickle unless told otherwise carry what tells them.
UNPICKLING = {"read_pickle", "to_pickle"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}


def faults(source):
    """Each line of a source that breaks the rule, and how."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [(node.lineno, f"imports {name}") for name in names if name.partition(".")[0] in PICKLES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if given.get("shell", "False") != "False" or name in SHELLS or "subprocess_shell" in name:
            found.append((node.lineno, f"{name} with a shell"))
        if last in UNPICKLING or given.get("allow_pickle", "False") != "False":
            found.append((node.lineno, f"{name} unpickles"))
        if name in ("torch.load", "torch.hub.load") and given.get("weights_only") != "True":
            found.append((node.lineno, f"{name} unpickles"))
    return found


def sources():
    """Every source of the project by name: modules, and the code cells of notebooks, magics left out."""
    places = ("specsync_lib", "kernels", "workbench", "docs", "notebooks")
    for path in (
        PROJECT_ROOT / "simulate_research.py",
        *(p for one in places for p in (PROJECT_ROOT / one).rglob("*")),
    ):
        if path.suffix == ".py":
            yield path, path.read_text(encoding="utf-8")
        elif path.suffix == ".ipynb" and ".ipynb_checkpoints" not in path.parts:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
            assert not [line for line in lines if line.lstrip().startswith("!")], f"{path.name}: a shell"
            yield path, "\n".join(line for line in lines if not line.startswith("%"))


def test_nothing_is_unpickled_and_no_string_goes_to_a_shell():
    found = {path.relative_to(PROJECT_ROOT).as_posix(): faults(text) for path, text in sources()}
    assert len(found) > 100
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "import os\nos.system('ls')", "import os\nos.popen('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)", "subprocess.getoutput('ls')",
        "import numpy as np\nnp.load('a', allow_pickle=True)", "import torch\ntorch.load('a')", "pd.read_pickle('a')",
        "subprocess.Popen('ls', shell=loud)", "torch.load('a', weights_only=False)",
    ],
)  # fmt: skip
def test_the_rule_sees_what_breaks_it(source):
    assert faults(source)


def test_the_rule_lets_through_what_keeps_it():
    assert not faults("import subprocess\nsubprocess.run(['ls'], shell=False)\ntorch.load('a', weights_only=True)")


def test_the_door_evaluates_no_string():
    text = (PROJECT_ROOT / "run_all.sh").read_text(encoding="utf-8")
    assert "eval" not in text.split()
    assert "`" not in "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
