"""Keep the committed notebooks free of outputs and editor noise.

`python -m ppap_book.notebooks` cleans them; with `--check` it lists the unclean and exits 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat

from ppap_book.errors import StudyError
from ppap_lib.cli import run_command

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
KEPT = ("tags", "mystnb")
"""Cell metadata that means something to the book; editors add more."""

PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}
"""Tags of cells that papermill adds to an executed copy."""


def clean(text: str) -> str:
    """A notebook's JSON without outputs, counts, foreign metadata and papermill's cells.

    Cell ids are numbered, so that they do not depend on the editor. Cleaning twice changes
    nothing. Raises `StudyError` on text that is not a valid notebook.
    """
    try:
        notebook = nbformat.reads(text, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError) as error:
        raise StudyError(f"not a notebook: {error}") from error
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    notebook.nbformat_minor = 5
    notebook.cells = [
        cell for cell in notebook.cells if not PAPERMILL & set(cell.metadata.get("tags", ()))
    ]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"c{number:02d}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def tidy(options: argparse.Namespace) -> int:
    """Do what the command line says; 1 if something is unclean and stays so."""
    unclean = 0
    for path in options.paths or sorted(FOLDER.glob("*.ipynb")):
        try:
            text = path.read_text(encoding="utf-8")
            cleaned = clean(text)
        except (OSError, UnicodeDecodeError, StudyError) as error:
            raise StudyError(f"{path}: {error}") from error
        if cleaned != text:
            unclean += 1
            print(f"{'unclean' if options.check else 'cleaned'}: {path}")
            if not options.check:
                path.write_text(cleaned, encoding="utf-8", newline="\n")
    return int(options.check and unclean > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 where something is unclean or no notebook."""
    parser = argparse.ArgumentParser(prog="python -m ppap_book.notebooks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if unclean")
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks (default: all of ours)")
    return run_command(parser, tidy, arguments)


if __name__ == "__main__":
    sys.exit(main())
