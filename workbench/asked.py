"""A row and a corpus on the workbench's command lines, and where the results of a row of one's own lie."""

import argparse
import json
from pathlib import Path

from specsync_lib import rows
from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.paths import MEASUREMENTS_DIR, display_path
from specsync_lib.values import FolderName, shown


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """``--corpus``."""
    parser.add_argument(
        "--corpus", default=rows.PROMPTS, metavar="FILE", help="a corpus.jsonl in the place of the pinned prompts"
    )


def add_row(parser: argparse.ArgumentParser) -> None:
    """``--row``, ``-p`` and ``--corpus``."""
    parser.add_argument("--row", default=rows.DEFAULT, help="a name in data/rows, or a TOML file")
    parser.add_argument("-p", dest="single", metavar="part.key=value", action="append", default=[],
                        help="a single value of the row")  # fmt: skip
    add_corpus(parser)


def out_of(options: argparse.Namespace, committed: Path) -> Path:
    """The JSON to write: ``--out``, or the committed file where the corpus is the pinned one.

    Raises
    ------
    InputError : another corpus, and no ``--out``.
    """
    if options.corpus != rows.PROMPTS and options.out is None:
        raise InputError("--corpus: give --out; the committed file is of the pinned corpus")
    return options.out or committed


def row_of(options: argparse.Namespace) -> rows.Row:
    """The row that `add_row`'s options name.

    Raises
    ------
    InputError : as `rows.read`.
    """
    single = dict(assignment.partition("=")[::2] for assignment in options.single)
    if options.corpus != rows.PROMPTS:
        single["corpus"] = options.corpus
    return rows.read(options.row, single)


def results_folder(row: rows.Row) -> Path:
    """Where a row's results go: ``data/measurements`` for the default one, a folder of its name there for another.

    Raises
    ------
    InputError : the name is none of a folder, or another row's results lie there.
    """
    if not row.differences():
        return MEASUREMENTS_DIR
    if row.name not in FolderName() or row.name == rows.DEFAULT:
        raise InputError(f"row {shown(row.name)}: its results need a folder of their own; write the row to NAME.toml")
    folder, facts = MEASUREMENTS_DIR / row.name, row.identity()
    path = folder / rows.RESULTS_FILE
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != facts:
        raise InputError(f"{display_path(folder)}: holds results of another row {row.name}; rename one of the two")
    write_json(path, facts)
    return folder


def beside(committed: Path, folder: Path) -> Path:
    """Where a row's own file lies that stands for a committed one: in its results' folder, of the same name."""
    return committed if folder == MEASUREMENTS_DIR else folder / committed.name
