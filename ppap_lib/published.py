"""Published tables that pages set beside their own numbers: `rows(name)`, `source(name)`.

Each is a CSV file in `assets/published` that begins with `# ` lines naming its source. The
numbers are the authors': other networks, data and sample sizes than this book's, so a page
compares directions and orderings with them, never values.
"""

import csv
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

FOLDER = Path(__file__).with_name("assets") / "published"

Value = str | int | float | None


class PublishedError(ValueError):
    """A table that is not here, or a file that is not such a table."""


def names(folder: Path = FOLDER) -> list[str]:
    """The tables there are."""
    return sorted(path.stem for path in folder.glob("*.csv"))


def rows(name: str, folder: Path = FOLDER) -> list[dict[str, Value]]:
    """The table's rows in its own order: numbers as int or float, an empty cell as None."""
    lines = [line for line in _lines(name, folder) if not line.startswith("#")]
    table = []
    for row in csv.DictReader(lines):
        if None in row or None in row.values():
            raise PublishedError(f"{name}: row {len(table) + 1} does not fit the header")
        table.append({column: _value(text) for column, text in row.items()})
    return table


def source(name: str, folder: Path = FOLDER) -> str:
    """Where the table comes from, in words."""
    said = [line[1:].strip() for line in _lines(name, folder) if line.startswith("#")]
    if not said:
        raise PublishedError(f"{name} does not say where it comes from: begin it with a '# ' line")
    return " ".join(said)


MOST_RANKED = 9
"""Beyond this the orders are too many to go through: 9! is 362,880."""


def rank_p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """The share of orders of `b` whose |Spearman's rho| with `a` is at least the one found.

    Exact and two-sided, in (0, 1], ties sharing their mean rank. Never below 2/n! for n values, so
    four cannot show an agreement at the 5 % level, however well they agree.
    """
    if len(a) != len(b) or not 2 <= len(a) <= MOST_RANKED:
        raise PublishedError(
            f"expected two lists of one length from 2 to {MOST_RANKED}, not {len(a)} and {len(b)}"
        )
    ours, theirs = _centred_ranks(a), _centred_ranks(b)
    found = abs(sum(x * y for x, y in zip(ours, theirs, strict=True)))
    sums = [abs(sum(map(int.__mul__, ours, order))) for order in permutations(theirs)]
    return sum(one >= found for one in sums) / len(sums)


def rank_verdict(correlation: float, p_value: float) -> str:
    """What the 5 % level lets one say of an order beside a published one."""
    if p_value >= 0.05:
        return "cannot be told from chance"
    return "agrees" if correlation > 0 else "is the reverse"


def _centred_ranks(values: Sequence[float]) -> list[int]:
    """Twice (rank - mean rank), whole also for ties: how many are below, less how many above."""
    return [sum(v > other for other in values) - sum(v < other for other in values) for v in values]


def _lines(name: str, folder: Path) -> list[str]:
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise PublishedError(f"no published table {name!r}: there are {', '.join(names(folder))}")
    return path.read_text("utf8").splitlines()


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None
