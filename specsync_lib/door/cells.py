"""What a notebook's cells say before it runs: its parameters, and a hash of what it would do."""

from collections.abc import Mapping
from pathlib import Path

from specsync_lib.door.execution import one_line
from specsync_lib.door.parameters import Value
from specsync_lib.door.stamps import content_hash
from specsync_lib.errors import InputError


def read_cells(notebook: Path) -> list:
    """A notebook's cells.

    Raises
    ------
    InputError: it can not be read.
    """
    import nbformat

    try:
        return nbformat.read(notebook, as_version=4).cells
    except (ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise InputError(f"{notebook}: is no notebook ({one_line(str(error), 80)}); restore the file") from error


def declared_parameters(notebook: Path) -> dict[str, object]:
    """Names and default values in a notebook's ``parameters`` cell.

    Raises
    ------
    InputError: more or fewer than one such cell, or a line in it that is not ``name = literal``.
    """
    import ast

    cells = read_cells(notebook)
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise InputError(f"{notebook.name}: has {len(tagged)} cells tagged parameters; it needs exactly one")
    values = {}
    for statement in ast.parse(tagged[0].source).body:
        try:
            (target,) = statement.targets
            values[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:
            line = ast.unparse(statement)
            raise InputError(f"{notebook.name}: {line!r} in the parameters cell is not name = literal") from error
    return values


def notebook_parameters(notebook: Path, values: Mapping[str, Value]) -> dict[str, Value]:
    """The values that this notebook declares.

    Raises
    ------
    InputError: it declares a parameter that ``specsync_lib/door/parameters.py`` does not know.
    """
    declared = declared_parameters(notebook)
    if unknown := sorted(set(declared) - set(values)):
        raise InputError(f"{notebook.name}: declares {', '.join(unknown)}, unknown to specsync_lib/door/parameters.py")
    return {name: values[name] for name in declared}


def cells_hash(notebook: Path) -> str:
    """Hash of a notebook's cells without outputs, counts and metadata."""
    cells = read_cells(notebook)
    return content_hash([(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in cells])
