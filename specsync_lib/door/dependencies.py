"""What the suite stands on: every package with its version and licence, and what is known against it.

    .venv/bin/python -m specsync_lib.door.dependencies

Licences are those that the installed packages state. Known vulnerabilities are pip-audit's to find (the extra ``dev``);
it asks the package index, the only thing here that needs a network, and where it cannot, one line says so.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from specsync_lib import streams

PROJECT = "specsync"
AUDIT_TIMEOUT_S = 300
UNSTATED = "not stated"


@dataclass(frozen=True, order=True)
class Package:
    """An installed package; ``direct`` if pyproject.toml names it."""

    name: str
    version: str
    licence: str
    direct: bool


def requirements(name: str) -> list[str]:
    """The packages that one asks for on this machine, without its extras."""
    asked = [Requirement(line) for line in importlib.metadata.requires(name) or []]
    return [canonicalize_name(one.name) for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]


def packages() -> list[Package]:
    """Everything that the project's dependencies bring, by name; what is not installed is left out."""
    direct, found, waiting = set(requirements(PROJECT)), {}, list(requirements(PROJECT))
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            facts = importlib.metadata.metadata(name)
            waiting += requirements(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = Package(name, facts["Version"], licence(facts) or first_line(name) or UNSTATED, name in direct)
    return sorted(found.values())


def licence(facts: importlib.metadata.PackageMetadata) -> str:
    """What a package's metadata state, in few words: SPDX expression, else classifiers, else free text, else ``""``."""
    if expression := facts.get("License-Expression"):
        return expression
    classifiers = facts.get_all("Classifier") or []
    named = [
        line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License :: ") and line.count("::") > 1
    ]
    stated = (facts.get("License") or "").strip().splitlines()
    return ", ".join(named) or (stated[0][:60] if stated else "")


def first_line(name: str) -> str:
    """The line of a package's licence file that names the licence, ``""`` where there is none."""
    paths = [path for path in importlib.metadata.files(name) or [] if re.search("licen[cs]e", path.name, re.IGNORECASE)]
    text = " ".join(paths[0].read_text(encoding="utf-8").split()) if paths else ""
    named = re.search(r"[\w-]*(Apache|MIT|BSD|Mozilla|GNU)[\w -]*License,?( Version [\d.]+)?", text)
    return named[0] if named else ""


def vulnerabilities(found: Sequence[Package]) -> list[str]:
    """One line for each known vulnerability; else one that says there is none, or why nobody knows."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "requirements.txt")
        # A local version (2.13.0+cpu) is known to nobody by that name.
        lines = [f"{one.name}=={one.version.partition('+')[0]}\n" for one in found]
        pins.write_text("".join(lines), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "pip_audit", "--requirement", str(pins), "--no-deps", "--disable-pip"]
        try:
            done = subprocess.run(
                [*command, "--format=json", "--progress-spinner=off"],
                capture_output=True, text=True, encoding="utf-8", check=False, timeout=AUDIT_TIMEOUT_S,
            )  # fmt: skip
            audited = json.loads(done.stdout)["dependencies"]
        except subprocess.TimeoutExpired:
            return [f"known vulnerabilities: unknown, no answer within {AUDIT_TIMEOUT_S} s"]
        except (ValueError, KeyError):
            said = done.stderr.strip().splitlines()
            return [f"known vulnerabilities: unknown, {reason(said[-1] if said else f'exit code {done.returncode}')}"]
    rows = [
        f"{one['name']} {one['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none yet'}"
        for one in audited
        for fault in one.get("vulns", ())
    ]
    skipped = sum("skip_reason" in one for one in audited)
    if skipped == len(audited):  # a mirror serves files, and has nothing to say about them
        return [f"known vulnerabilities: unknown, the index has no database behind it ({skipped} packages asked for)"]
    return rows or [f"known vulnerabilities: none in {len(audited) - skipped} packages ({skipped} not known there)"]


def reason(line: str) -> str:
    """pip-audit's last line, in words."""
    if "No module named pip_audit" in line:
        return "pip-audit is not installed; pip install '.[dev]'"
    if re.search(
        r"connect|resolve|timed out|unreachable|getaddrinfo|proxy|HTTPError|NameResolution", line, re.IGNORECASE
    ):
        return "no database can be reached from here"
    return f"pip-audit says: {line[:200]}"


def main() -> int:
    """Print the table and what is known against it."""
    found = packages()
    widths = [max(len(getattr(one, field)) for one in found) for field in ("name", "version")]
    print(f"{len(found)} packages; * is named in pyproject.toml, the others come with those")
    for one in found:
        print(f"{'*' if one.direct else ' '} {one.name:{widths[0]}}  {one.version:{widths[1]}}  {one.licence}")
    print("", *vulnerabilities(found), sep="\n")
    return 0


if __name__ == "__main__":
    streams.settle()
    sys.exit(main())
