"""The lab mode's command, and what it keeps out of git; tests/notebooks/test_lab.py looks at it in a browser."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from specsync_lib.door import lab
from specsync_lib.paths import NOTEBOOKS_DIR
from tests.toys.checkout import committed_notebooks


def test_what_a_person_sets_takes_the_place_of_what_the_door_sets():
    ours = lab.command(["--no-browser"])
    assert ours[-1] == "--no-browser"
    mine = lab.command(["--ServerApp.root_dir=/elsewhere", "--port=1"])
    assert len(mine) == len(ours)
    assert [word for word in mine if word.startswith("--ServerApp.root_dir")] == ["--ServerApp.root_dir=/elsewhere"]


def test_where_jupyter_takes_the_path_for_a_pattern_it_starts_by_a_link(tmp_path, monkeypatch):
    """It looks for its settings with glob: in a folder with brackets it found none, and its page logged errors."""
    assert lab.command([])[0] == sys.executable or "[" in sys.prefix
    venv = tmp_path / "notes [x]" / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    (venv / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(lab, "temporary_dir", lambda: tmp_path)
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.setattr(sys, "executable", str(venv / "bin" / "python"))
    python, *words = lab.command([])
    assert [python, *words] == lab.command([])
    (schemas,) = (word for word in words if word.startswith("--LabApp.schemas_dir="))
    assert "[" not in schemas.removeprefix(f"--LabApp.schemas_dir={tmp_path}")
    found = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    prefix = Path(found.stdout.strip())
    assert "[" not in str(prefix.relative_to(tmp_path)) and prefix.samefile(venv)


def test_where_that_link_can_not_be_made_it_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lab, "temporary_dir", lambda: tmp_path / "gone")
    monkeypatch.setattr(sys, "prefix", "/tmp/notes [x]/.venv")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    with pytest.raises(SystemExit) as ended:
        lab.main([])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("specsync: ") and said.count("\n") == 1


def test_the_kernel_is_this_environments_whatever_other_folders_hold(tmp_path):
    for folder in ("path", "data"):
        (tmp_path / folder / "kernels" / "python3").mkdir(parents=True)
        spec = {"argv": ["/bin/false"], "display_name": "theirs", "language": "python"}
        (tmp_path / folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    theirs = {"JUPYTER_PATH": str(tmp_path / "path"), "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    command = [sys.executable, "-m", "jupyter_client.kernelspecapp", "list", "--json"]
    done = subprocess.run(command, env=lab.environment(os.environ | theirs), capture_output=True, check=True)
    found = json.loads(done.stdout)["kernelspecs"]["python3"]
    assert found["spec"]["argv"][1:3] == ["-m", "ipykernel_launcher"]
    assert Path(found["resource_dir"]).is_relative_to(sys.prefix)


@pytest.mark.parametrize("variable", ["IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"])
def test_where_jupyter_or_ipython_may_not_write_it_is_one_line(tmp_path, monkeypatch, capsys, variable):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    if variable == "JUPYTER_DATA_DIR":  # the other lies in it unless a person says otherwise
        monkeypatch.delenv("JUPYTER_RUNTIME_DIR")
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file" / "below" / "folder"))
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("begun"))
    with pytest.raises(SystemExit) as ended:
        lab.main([])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.rstrip().endswith(f"in {variable.replace('DATA', 'RUNTIME')}")


def test_a_notebook_is_saved_as_git_has_it_and_an_edit_stays():
    for path in committed_notebooks():
        whole = nbformat.read(path, as_version=4)
        ran = nbformat.from_dict(whole)
        ran.metadata["widgets"] = {"state": {}}
        ran.metadata["language_info"] = {"name": "python", "version": "3.13.0"}
        ran.metadata["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
        for count, cell in enumerate(ran.cells):
            cell.metadata |= {"execution": {"iopub.status.busy": "now"}, "trusted": True}
            if cell.cell_type == "code":
                cell.execution_count = count
                cell.outputs = [nbformat.v4.new_output("stream", text="seen")]
        model = {"type": "notebook", "content": ran}
        lab.tidy(model=model, path=f"notebooks/{path.relative_to(NOTEBOOKS_DIR)}", contents_manager=None)
        assert nbformat.writes(model["content"]) + "\n" == path.read_text(encoding="utf-8")
        ran.cells[0].source = "edited"
        lab.tidy(model=model, path="/notebooks/a.ipynb")
        assert ran.cells[0].source == "edited"
    mine = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[], execution_count=3)])
    lab.tidy(model={"type": "notebook", "content": mine}, path="elsewhere/mine.ipynb")
    assert mine.cells[0].execution_count == 3
