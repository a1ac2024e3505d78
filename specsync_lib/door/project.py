"""The folders of a run: one without a name, and those with one, ``runs/NAME`` under both of its folders."""

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Project:
    """The folders of a run; ``name`` is empty for the one that has none."""

    root: Path
    notebooks: Path
    run: Path
    plots: Path
    name: str = ""

    @classmethod
    def here(cls) -> "Project":
        """This checkout's run without a name, with the redirections that ``paths`` knows."""
        from specsync_lib import paths

        return cls(paths.PROJECT_ROOT, paths.NOTEBOOKS_DIR, paths.RUN_DIR, paths.PLOTS_DIR)

    def named(self, name: str) -> "Project":
        """The run of that name, where this one has none; itself for an empty name."""
        if not name:
            return self
        return replace(self, run=self.run / "runs" / name, plots=self.plots / "runs" / name, name=name)

    def nameless(self) -> "Project":
        """The run without a name beside this one."""
        return replace(self, run=self.run.parent.parent, plots=self.plots.parent.parent, name="") if self.name else self

    def runs(self) -> list["Project"]:
        """Every run that has begun on this machine, the one without a name first."""
        nameless = self.nameless()
        folders = sorted(path for path in (nameless.run / "runs").glob("*") if path.is_dir())
        return [nameless, *(nameless.named(folder.name) for folder in folders)]

    def executed(self, name: str) -> Path:
        return self.run / "executed" / f"{name}.ipynb"

    def unfinished(self, name: str) -> Path:
        return self.run / "unfinished" / f"{name}.ipynb"

    def stamp(self, name: str) -> Path:
        return self.run / "stamps" / f"{name}.json"

    def summary(self, name: str) -> Path:
        return self.run / "summary" / f"{name}.json"

    def ordered_notebooks(self) -> list[Path]:
        """The notebooks of the main job: 01_... to 09_..., in order."""
        return sorted(self.notebooks.glob("0*.ipynb"))

    @property
    def title(self) -> str:
        """The run's name for people."""
        return self.name or "the run without a name"
