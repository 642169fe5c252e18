"""`python -m ppap_book rerun ROW`: measure a row of the ledger again, and say how far it agrees.

Nothing is filed. What agrees is said in `ppap_book.ledger`.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import MappingProxyType
from typing import Any

import torch

from ppap_book import ledger
from ppap_book.errors import StudyError
from ppap_book.run import STUDIES
from ppap_book.studies.expert_training import Ablation
from ppap_lib import zoo
from ppap_lib.cli import CommandLine, run_command
from ppap_lib.device import pick_device
from ppap_lib.parameters import Parameters

_FILED = (
    "Train it again, and file the folder by python -m ppap_book run {study} --folder FOLDER, with "
    "PPAP_RESULTS set to a folder of your own"
)

TRAININGS: Mapping[str, str] = MappingProxyType(
    {
        "training": f"rows of trainings are read from their folders, which do not ship. {_FILED}",
        "curve": f"the snapshots of a training, which a curve scores, do not ship. {_FILED}",
        "distillation": f"the folders of trainings, with their snapshots, do not ship. {_FILED}",
        "architecture": (
            "each row is a training for so many seconds, in which no machine gets as far again. "
            "Train all variants by python -m ppap_book run architecture, with PPAP_RESULTS set to "
            "a folder of your own, and compare what follows from them"
        ),
    }
)
"""By study, why none of its rows can be measured again from what ships, and what to do instead."""

TOGETHER = frozenset({"witness", "precise", "covered", "recalled"})
"""Results with an entry for every image that depends on the other images, too."""

SHOWN = 4
"""Differing values of a result that are printed."""


@dataclass(frozen=True)
class ResultAgreement:
    """How a result of a row agrees with the same one measured again, value by value."""

    name: str
    pairs: Sequence[ledger.Pair]

    @property
    def agrees(self) -> bool:
        """Whether every value does."""
        return all(pair.agrees for pair in self.pairs)

    @property
    def equal(self) -> int:
        """How many values are equal."""
        return sum(pair.old == pair.new for pair in self.pairs)

    @property
    def apart(self) -> float:
        """The largest difference of two numbers, as a share of the largest number."""
        sides = [(pair.old, pair.new) for pair in self.pairs if pair.is_real]
        if not (largest := max((abs(side) for pair in sides for side in pair), default=0.0)):
            return 0.0
        return max(abs(old - new) for old, new in sides) / largest

    def __str__(self) -> str:
        words = f"{self.equal} of {len(self.pairs)} equal"
        if self.apart:
            words += f", numbers differ by {self.apart:.1g} of the largest"
        differing = [str(pair) for pair in self.pairs if not pair.agrees]
        rest = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        return f"{self.name}: {words}" + "".join(f"; {pair}" for pair in differing[:SHOWN]) + rest


def measured_again(
    row: ledger.Row, images: int | None = None, device: torch.device | str = "cpu"
) -> list[ResultAgreement]:
    """Measure a row of the ledger again, and return how each of its results agrees.

    Parameters
    ----------
    row : dict
        The row.
    images : int, optional
        How many of its images are drawn, if not all: then only what each has by itself is compared.
    device : torch.device or str
        Where it is measured.

    Raises
    ------
    StudyError
        If it cannot be measured again from what ships now, or if none of its results is an image's
        own.
    """
    run, old, n = run_of(row), row["results"], row["params"].get("n")
    if images is not None:
        old = of_images(row, images)
        run, n = run.cut(images), images
    new = dict(STUDIES[row["study"]].measure(run, device))
    new.pop("seconds", None)  # a row has them beside its results
    # Later code may measure more, such as a second judge.
    new = {name: value for name, value in new.items() if name in old}
    pairs = ledger.compared(old, ledger.as_recorded(new), n)
    by_result = groupby(pairs, lambda pair: pair.name.partition(".")[0])
    return [ResultAgreement(name, list(group)) for name, group in by_result]


def run_of(row: ledger.Row) -> Parameters:
    """Return the run that made a row, by the weights that ship now.

    Raises `StudyError` if a training made it, or other weights.
    """
    study, params = row["study"], row["params"]
    if study in TRAININGS:
        reason = TRAININGS[study].format(study=study)
        raise StudyError(f"no row of the study {study} can be measured again: {reason}")
    run = STUDIES[study].rebuilt(params)
    now = run.recorded()
    if ledger.digest(now) != ledger.digest(params):  # where lists are like tuples
        names = [n for n in now if ledger.digest({n: now[n]}) != ledger.digest({n: params.get(n)})]
        raise StudyError(
            f"other weights than ship now made the row: it has another {', '.join(names)}. Check "
            f"out the commit that made it, {row['commit']}"
        )
    return replace(run, place=_shipped(run.sha256)) if isinstance(run, Ablation) else run


def _shipped(digest: str) -> str:
    """The zoo's name of the experts with this sha256."""
    for name in zoo.names():
        if zoo.card(name).sha256 == digest:
            return name
    raise StudyError(
        f"the experts that guided do not ship (sha256 {digest}). Train them again by python -m "
        f"ppap_book run ablations, with PPAP_RESULTS set to a folder of your own"
    )


def of_images(row: ledger.Row, images: int) -> dict[str, Any]:
    """Return what each of a row's first images has by itself, and of no other result anything.

    Raises `StudyError` if it has not so many images, or nothing of single ones.
    """
    n = row["params"].get("n", 0)
    own = {
        name: value[:images]
        for name, value in row["results"].items()
        if isinstance(value, list) and len(value) == n and name not in TOGETHER
    }
    if not own:
        raise StudyError(
            f"rows of the study {row['study']} hold nothing of single images: leave out --images, "
            f"and the row is measured again as a whole"
        )
    if not 1 <= images <= n:
        raise StudyError(f"the row has {n} images: --images is in [1, {n}], not {images}")
    return own


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="python -m ppap_book rerun",
        description="Measure a row of the ledger again, and say how far it agrees.",
        epilog="The exit status is 0 if all that was compared agrees. Nothing is filed.",
    )
    parser.add_argument("row", help="STUDY/DIGEST, or as much of it as is unique, or a path.")
    parser.add_argument(
        "--images", type=int, help="Draw the first so many, and compare what each has by itself."
    )
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:1.")
    return parser


def _carry_out(given: argparse.Namespace) -> int:
    row = ledger.named(given.row)
    print(f"{row['study']}/{ledger.digest(row['params'])}, by {row['commit']} on {row['device']}")
    agreements = measured_again(row, given.images, pick_device(given.device))
    print(*agreements, sep="\n")
    left_out = sorted(row["results"].keys() - {each.name for each in agreements})
    if given.images is not None and left_out:
        print(f"of all images together, so not compared: {', '.join(left_out)}")
    differing = [each.name for each in agreements if not each.agrees]
    print(f"differs: {', '.join(differing)}" if differing else "agrees")
    return 1 if differing else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 if a result differs or after saying what was wrong."""
    return run_command(_parser(), _carry_out, arguments)
