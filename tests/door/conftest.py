"""A project of two small notebooks in a folder of its own, and what stands in for their kernels."""

import json
import os

import pytest

from specsync_lib.door import runner
from specsync_lib.door.project import Project
from specsync_lib.files import write_json, write_text
from tests.toys.notebooks import write_notebook


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path, tmp_path / "notebooks", tmp_path / "data" / "run", tmp_path / "plots")
    door = tmp_path / "specsync_lib" / "door"
    for folder in (project.notebooks, project.run, project.plots, door, tmp_path / "kernels"):
        folder.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "specsync_lib" / "units.py").write_text("FPS = 30")
    (tmp_path / "data" / "splits.json").write_text("{}")
    write_notebook(project, "01_first", "")
    write_notebook(project, "02_second", "", "threshold = 0.85")
    return project


@pytest.fixture
def executions(monkeypatch):
    """Replace the kernel by a function that writes a file, a figure and a number; returns what it was called for, a
    named run's as ``name/notebook``."""
    calls = []

    def execute(notebook, parameters, project, timeout_s, title):
        name = notebook.stem
        calls.append(f"{project.name}/{name}".lstrip("/"))
        for folder in (project.plots, project.run / "summary", project.run / "executed"):
            folder.mkdir(parents=True, exist_ok=True)
        write_text(project.run / f"{name}.txt", json.dumps(dict(parameters)))
        write_text(project.plots / f"{name}.png", name)
        source = os.path.relpath(project.plots / f"{name}.png", project.root)
        write_json(project.summary(name), {f"draft.of_{name}": {"value": 1, "source": source}})
        project.executed(name).write_text("executed")
        return 0.5

    monkeypatch.setattr(runner, "execute", execute)
    return calls
