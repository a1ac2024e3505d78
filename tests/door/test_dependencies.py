"""The list of dependencies: complete, each with its licence, and honest where nobody can be asked."""

import importlib.metadata
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from specsync_lib.door import dependencies
from specsync_lib.door.dependencies import Package, packages, vulnerabilities
from specsync_lib.paths import PROJECT_ROOT


def test_every_dependency_is_listed_with_its_version_and_licence():
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [Requirement(line) for line in project["dependencies"]]
    named = {canonicalize_name(one.name) for one in asked if one.marker is None or one.marker.evaluate()}
    found = packages()
    assert {one.name for one in found if one.direct} == named
    assert len(found) > len(named)
    assert all(one.version == importlib.metadata.version(one.name) for one in found)
    assert [one.name for one in found if one.direct and one.licence == dependencies.UNSTATED] == []


ONE = [Package("numpy", "2.4.6+local", "BSD", True)]


@pytest.mark.parametrize(
    ("stdout", "stderr", "says"),
    [
        ('{"dependencies": [{"name": "numpy", "version": "2.4.6", "vulns": []}]}', "", "none in 1 packages (0 not"),
        (
            '{"dependencies": [{"name": "numpy", "version": "2.4.6", "vulns": '
            '[{"id": "PYSEC-1", "fix_versions": ["2.5"]}]}, {"name": "b", "skip_reason": "unknown"}]}',
            "",
            "numpy 2.4.6: PYSEC-1, mended in 2.5",
        ),
        ('{"dependencies": [{"name": "numpy", "skip_reason": "not found"}]}', "", "unknown, the index has no database"),
        ("", "a\npython: No module named pip_audit", "pip-audit is not installed"),
        ("", "NameResolutionError(host='a')", "no database can be reached from here"),
        ("", "", "exit code 1"),
        ("<html>", "x" * 5000, "pip-audit says: xxx"),
    ],
)
def test_vulnerabilities_are_told_or_why_they_are_not_known(monkeypatch, stdout, stderr, says):
    asked = []

    def run(command, **options):
        asked.append(open(command[command.index("--requirement") + 1]).read())  # noqa: PTH123, SIM115
        return subprocess.CompletedProcess(command, 1, stdout, stderr)

    monkeypatch.setattr(dependencies.subprocess, "run", run)
    (line,) = vulnerabilities(ONE)
    assert says in line
    assert len(line) < 300
    assert asked == ["numpy==2.4.6\n"]
