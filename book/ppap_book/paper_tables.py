"""Published tables that pages set beside their own numbers: `rows(name)`, `source(name)`.

Each is a CSV file in the folder `published`, whose first lines are comments that name its source.
The numbers are the authors': other networks, data and sample sizes than this book's, so a page
compares directions and orderings with them, never values.
"""

import csv
import math
from collections import Counter
from collections.abc import Mapping
from itertools import permutations
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

    `p_value`: exact and two-sided, the share of all orders that would correlate as strongly. Of n
    names never below 2/n!, so four cannot show an agreement at the 5 % level, however well they
    agree.
    """

    correlation: float
    p_value: float
    ours: tuple[str, ...]
    theirs: tuple[str, ...]

    def verdict(self, comparisons: int = 1) -> str:
        """Say in words what the 5 % level tells of our order beside the published one.

        For all of so many such comparisons together (Bonferroni).
        """
        if not self.p_value < 0.05 / comparisons:
            return "cannot be told from chance"
        return "agrees" if self.correlation > 0 else "is the reverse"


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Agreement | None:
    """Compare how two tables order the names that both hold; None for fewer than three.

    Ties share their mean rank; the correlation with names that are all tied is NaN. Of ten names
    or more, 400,000 orders are drawn instead of all.
    """
    from scipy.stats import permutation_test, rankdata, spearmanr

    both = [name for name in ours if name in theirs]
    if len(both) < 3:
        return None
    a, b = ([side[name] for name in both] for side in (ours, theirs))
    if len(set(a)) == 1 or len(set(b)) == 1:
        correlation, p_value = math.nan, 1.0
    else:
        centred = rankdata(b) - (len(b) + 1) / 2
        chance = permutation_test(
            (rankdata(a),),
            lambda order, axis: abs((order * centred).sum(axis)),
            permutation_type="pairings",
            n_resamples=400_000,  # more than 9!
            vectorized=True,
            alternative="greater",
            rng=0,
        )
        correlation, p_value = float(spearmanr(a, b).statistic), float(chance.pvalue)
    orders = (tuple(sorted(both, key=side.get)) for side in (ours, theirs))
    return Agreement(correlation, p_value, *orders)


def least_correlation(names: int, comparisons: int = 1) -> float | None:
    """Return the least rank correlation of so many names, up to 9, that can differ from chance.

    Without ties, at the 5 % level for all of so many comparisons together; None if not even 1 does.
    """
    most = names**3 - names  # in whole numbers, so that opposite orders tie
    orders = Counter(
        abs(most - 6 * sum((i - k) ** 2 for i, k in enumerate(order)))
        for order in permutations(range(names))
    )
    reached, beyond = None, 0
    for value in sorted(orders, reverse=True):
        beyond += orders[value]
        if beyond / orders.total() >= 0.05 / comparisons:
            break
        reached = value / most
    return reached


def _lines(name: str, folder: Path) -> list[str]:
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise StudyError(f"no published table {name!r}: there are {', '.join(names(folder))}")
    return path.read_text("utf8").splitlines()


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None
