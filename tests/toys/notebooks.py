"""Small notebooks, and a run of them without what the door does around it."""

import nbformat

from specsync_lib.door.inputs import Inputs
from specsync_lib.door.parameters import parse_arguments
from specsync_lib.door.runner import run_notebooks

INPUTS = Inputs(recording="recording hash", assets="human speech True")


def write_notebook(project, name, source, parameters="seed = 0"):
    """A heading, the parameters cell, and a cell with this source."""
    cells = [
        nbformat.v4.new_markdown_cell(f"# {name}"),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source),
    ]
    for position, cell in enumerate(cells):
        cell.id = f"cell-{position}"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), project.notebooks / f"{name}.ipynb")


def run(project, *given, inputs=INPUTS):
    """Each notebook's stamp after a run with these parameters and flags."""
    words = [word for one in given for word in ((one,) if one.startswith("--") else ("-p", one))]
    options = parse_arguments(words)
    return dict(run_notebooks(project.named(options.values["name"]), options, inputs))
