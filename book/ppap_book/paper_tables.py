"""Published tables that pages set beside their own numbers: `rows(name)`, `source(name)`.

Each is a CSV file in the folder `published`, whose first lines are comments that name its source.
The numbers are the authors': other networks, data and sample sizes than this book's, so a page
compares directions and orderings with them, never values.
"""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ppap_book.errors import StudyError

FOLDER = Path(__file__).with_name("published")

Value = str | int | float | None


def names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all tables."""
    return sorted(path.stem for path in folder.glob("*.csv"))


def rows(name: str, folder: Path = FOLDER) -> list[dict[str, Value]]:
    """Return the table's rows in its own order: numbers as int or float, empty cells as None."""
    lines = [line for line in _lines(name, folder) if not line.startswith("#")]
    table = []
    for row in csv.DictReader(lines):
        if None in row or None in row.values():
            raise StudyError(f"{name}: row {len(table) + 1} does not fit the header")
        table.append({column: _value(text) for column, text in row.items()})
    return table


def source(name: str, folder: Path = FOLDER) -> str:
    """Return in words where the table comes from."""
    comments = [line[1:].strip() for line in _lines(name, folder) if line.startswith("#")]
    if not comments:
        raise StudyError(f"{name} does not say where it comes from: begin it with a '# ' line")
    return " ".join(comments)


class Agreement(NamedTuple):
    """Spearman's rank correlation of two orders of the same names, which are here lowest first.

    It describes and tests nothing: of four names hardly any order differs from chance.
    """

    correlation: float
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Agreement | None:
    """Compare how two tables order the names that both hold; None for fewer than three.

    Ties share their mean rank; the correlation with names that are all tied is NaN.
    """
    from scipy.stats import spearmanr

    both = [name for name in ours if name in theirs]
    if len(both) < 3:
        return None
    a, b = ([side[name] for name in both] for side in (ours, theirs))
    tied = len(set(a)) == 1 or len(set(b)) == 1
    correlation = math.nan if tied else float(spearmanr(a, b).statistic)
    return Agreement(correlation, *(tuple(sorted(both, key=s.get)) for s in (ours, theirs)))


def _lines(name: str, folder: Path) -> list[str]:
    if name not in names(folder):
        raise StudyError(f"no published table {name!r}: there are {', '.join(names(folder))}")
    return (folder / f"{name}.csv").read_text("utf8").splitlines()


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None
