"""Runs of a study and their ledger rows: measured once, and gathered for a page."""

import ast
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ppap_book import ledger
from ppap_lib.diffusion.noise import seed_labels
from ppap_lib.errors import InputError
from ppap_lib.files import provenance
from ppap_lib.parameters import Parameters
from ppap_lib.zoo.tiers import TierName
from ppap_lib.zoo.tiers import tier as preset

Kind = TypeVar("Kind", bound=Parameters)

Measure = Callable[..., dict[str, Any]]
"""`measure(params, device) -> results` of one run; with `seconds` among them, these are the row's
instead of all that it took."""


def record(
    study: str,
    runs: Iterable[Parameters],
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = print,
    *,
    measure: Measure,
    words: Callable[[Any, dict[str, Any]], str] | None = None,
) -> None:
    """Measure and file every run that the ledger does not hold yet, one row at a time.

    `tell` hears of every row: what `words(params, results)` says, or else its file's name.
    """
    provenance.commit()  # of the code that runs, not of what is committed meanwhile
    for params in runs:
        asked = params.recorded()
        if ledger.find(study, asked) is not None:
            continue
        began = time.monotonic()
        results = measure(params, device)
        seconds = results.pop("seconds", time.monotonic() - began)
        path = ledger.record(study, asked, results, seconds=seconds, device=device)
        tell(f"{words(params, results) if words else path.name}, {seconds:.0f} s")


def gather(
    study: str, runs: Sequence[Parameters], measure: Measure, n: int
) -> tuple[list[ledger.Row], list[Parameters]]:
    """One table row per run, and the runs that the ledger lacks.

    If it lacks any, all of them are measured now on `n` images each, and nothing is filed:
    numbers of different n are never set beside each other. So a page works before, and after.
    """
    found = [ledger.find(study, params.recorded()) for params in runs]
    missing = [params for params, row in zip(runs, found, strict=True) if row is None]
    if not missing:
        return ledger.table(found), []
    sketches = [replace(params, n=min(n, params.n)) for params in runs]
    rows = [
        {"params": params.recorded(), "results": measure(params), "seconds": 0.0}
        for params in sketches
    ]
    return ledger.table(rows), missing


class Seeded:
    """A run on `n` images, each with a seed of its own from `first_seed` on."""

    n: int
    first_seed: int

    @property
    def seeds(self) -> range:
        """One per image."""
        return range(self.first_seed, self.first_seed + self.n)


class Labelled(Seeded):
    """A run whose images are of a tier, each of the class of its seed."""

    tier: TierName

    @property
    def target(self) -> Tensor:
        """Every image's class: int64 [n]."""
        return seed_labels(self.seeds, len(preset(self.tier).classes))


def training_provenance(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a ledger row says of a training itself: how, on what, by which code.

    A row's own commit and versions are those of its filing, which may be weeks later. Summaries
    of old trainings lack some of it.
    """
    settings = {key: value for key, value in summary["settings"].items() if key != "snapshots"}
    found = {
        "trained_on": summary.get("device") or summary["speed"]["device"],
        "trained_by": summary.get("commit"),
        "trained_with": summary.get("versions"),
        "data": summary.get("data"),
    }
    return {"settings": settings} | {key: value for key, value in found.items() if value}


def from_notebook(kind: type[Kind], namespace: Mapping[str, Any]) -> Kind:
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
