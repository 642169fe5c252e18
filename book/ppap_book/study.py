"""Studies: runs with frozen parameters, each measured once and filed in the ledger."""

import ast
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from ppap_book import ledger
from ppap_lib.diffusion.noise import SEEDS, seed_labels
from ppap_lib.errors import InputError
from ppap_lib.parameters import Parameters
from ppap_lib.zoo import tiers
from ppap_lib.zoo.tiers import TierName

Run = TypeVar("Run", bound=Parameters)

_OF_GUIDANCE = {"guide", "scale", "n_intervals", "first", "last"}
"""Fields that rows hold as nothing where nothing guides, whatever a run says of them."""


@dataclass(frozen=True)
class Study(Generic[Run]):
    """A question, the runs that answer it, and their rows in the ledger.

    Parameters
    ----------
    name : str
        The study's folder in the ledger, and its command.
    question : str
        What its rows answer, in one sentence.
    parameters : type[Run]
        What decides a run's result.
    grid : Callable[..., Iterable[Run]]
        Makes the runs that belong together; what it takes are the command's options. A generator
        may choose later runs by the rows of earlier ones.
    measure : Callable[[Run, torch.device or str], dict[str, Any]]
        Carries out one run and returns its results. With `seconds` among them, these are the row's
        instead of all that the measuring took.
    words : Callable[[Run, Mapping[str, Any]], str], optional
        Says a run's results in one line.
    on_cpu : bool
        Runs are for a CPU only: the command takes no device.
    """

    name: str
    question: str
    parameters: type[Run]
    grid: Callable[..., Iterable[Run]]
    measure: Callable[[Run, torch.device | str], dict[str, Any]]
    words: Callable[[Run, Mapping[str, Any]], str] | None = None
    on_cpu: bool = False

    def rows(self) -> list[ledger.Row]:
        """Return all rows of the study."""
        return ledger.rows(self.name)

    def find(self, run: Run) -> ledger.Row | None:
        """Return the row of a run, or None if the ledger lacks it."""
        return ledger.find(self.name, run.recorded())

    def missing(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs that the ledger lacks."""
        return [run for run in runs if self.find(run) is None]

    def rebuilt(self, params: Mapping[str, Any]) -> Run:
        """Return the run that a row's parameters describe, by the weights that ship now.

        Where others made the row, what the run records has other digests.
        """
        own = fields(self.parameters)
        values = {field.name: params[field.name] for field in own if field.name in params}
        if params.get("method") == "none":
            values = {name: value for name, value in values.items() if name not in _OF_GUIDANCE}
        # A switch that a row does not hold was off.
        off = {field.name: False for field in own if isinstance(field.default, bool)}
        return self.parameters.of(off | values)

    def record(
        self,
        runs: Iterable[Run],
        device: torch.device | str = "cpu",
        tell: Callable[[str], None] = print,
    ) -> None:
        """Measure and file every run that the ledger lacks, one row at a time.

        `tell` hears of every row: its `words`, or else its file's name. Raises `StudyError`, before
        anything is measured, for rows of the book's ledger by code that was not committed.
        """
        # Asks for the commit of the code that runs, not of what is committed meanwhile.
        ledger.require_committed_code()
        for run in runs:
            params = run.recorded()
            if ledger.find(self.name, params) is not None:
                continue
            began = time.monotonic()
            results = dict(self.measure(run, device))
            seconds = results.pop("seconds", time.monotonic() - began)
            path = ledger.record(self.name, params, results, seconds=seconds, device=device)
            line = self.words(run, results) if self.words else f"{self.name}/{path.name}"
            tell(f"{line}, {seconds:.0f} s")

    def gather(self, runs: Sequence[Run], n: int) -> tuple[list[ledger.Row], list[Run]]:
        """Return one table row per run, and the runs that the ledger lacks.

        If it lacks any, all of them are measured now on `n` images each, and nothing is filed:
        numbers of different n are never set beside each other. So a page works before, and after.
        """
        missing = self.missing(runs)
        if not missing:
            return ledger.table(map(self.find, runs)), []
        sketches = [replace(run, n=min(n, run.n)) for run in runs]
        rows = [
            {"params": run.recorded(), "results": self.measure(run, "cpu"), "seconds": 0.0}
            for run in sketches
        ]
        return ledger.table(rows), missing


class Seeded:
    """A run on `n` images, each with a seed of its own from `first_seed` on."""

    n: int
    first_seed: int

    def __post_init__(self) -> None:
        super().__post_init__()  # of Parameters, which every run derives from as well
        if (last := self.first_seed + self.n - 1) >= SEEDS:
            raise InputError(
                f"seeds are below {SEEDS}, as a generator reads 32 bits, and the last of the "
                f"n = {self.n} from first_seed = {self.first_seed} is {last}"
            )

    @property
    def seeds(self) -> range:
        """One seed per image."""
        return range(self.first_seed, self.first_seed + self.n)

    def cut(self, images: int) -> Self:
        """Return the run on its first `images` alone, also where no row could be of so few."""
        few = copy(self)
        object.__setattr__(few, "n", images)
        return few


class Labelled(Seeded):
    """A run whose images are of a tier, each of the class of its seed."""

    tier: TierName

    @property
    def target(self) -> Tensor:
        """Every image's class: int64 [n]."""
        return seed_labels(self.seeds, len(tiers.tier(self.tier).classes))


def training_provenance(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ledger row says of a training itself: how, on what, by which code.

    A row's own commit and versions are those of its filing, which may be weeks later. Summaries
    of old trainings lack some of it.
    """
    settings = {key: value for key, value in summary["settings"].items() if key != "snapshots"}
    facts = {
        "trained_on": summary.get("device") or summary["speed"]["device"],
        "trained_by": summary.get("commit"),
        "trained_with": summary.get("versions"),
        "data": summary.get("data"),
    }
    return {"settings": settings} | {key: value for key, value in facts.items() if value}


def from_notebook(kind: type[Run], namespace: Mapping[str, Any]) -> Run:
    """Return a page's parameters, a `kind` made of its `globals()` after papermill's injected cell.

    papermill only warns about a name it does not know, and passes `-p save true` as the string
    "true". Here both are errors: every field must be set in the page's parameters cell, and every
    injected name must be a field.
    """
    names = [field.name for field in fields(kind)]
    for name in names:
        if name not in namespace:
            raise InputError(f"{name!r} is not set in the notebook's parameters cell")
    return kind.of({name: namespace[name] for name in (*names, *_injected(namespace))})


def _injected(namespace: Mapping[str, Any]) -> Iterator[str]:
    """Names that papermill's injected cell assigns, read from IPython's input history."""
    for source in namespace.get("In", ()):
        if source.startswith("# Parameters\n"):
            for node in ast.parse(source).body:
                targets = node.targets if isinstance(node, ast.Assign) else []
                yield from (target.id for target in targets if isinstance(target, ast.Name))
