"""Runs of a study and their ledger rows: measured once, and gathered for a page."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ppap_lib import ledger
from ppap_lib.params import Parameters

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
    ledger.commit()  # of the code that runs, not of what is committed meanwhile
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
