"""The published tables in the studies' names: methods, guides and solvers."""

from collections.abc import Mapping
from math import exp, log

from ppap_book import paper_tables
from ppap_book.studies import methods

COLUMNS: Mapping[str, str] = {
    "kid": "fid",
    "fd": "fid",
    "inception_score": "is",
    "precision": "precision",
    "recall": "recall",
}
"""Our column -> the published one beside it; in both of a pair the better values are on the same
side. FD is what FID is, by other features, and asks for many images; KID stands for it at any n."""

GUIDES: Mapping[str, str] = {
    "resnet18": "resnet50",
    "vit": "deit_small",
    "resnet50": "resnet50",
    "deit_s": "deit_small",
}
"""Our guide -> the published one in its place."""

ETAS: Mapping[str, str] = {
    "0": "ddim",
    "0.2": "ddim_0.2",
    "0.5": "ddim_0.5",
    "1": "ddim_1",
    "sigma_hat": "ddim_sigma_hat",
}
"""DDIM's eta, as the published table writes it -> our solver."""

WARM_UP: Mapping[str, int] = {"ddim": 0, "s_pndm": 1, "f_pndm": 9, "fon": 9}
"""Evaluations beyond one a step, of the solvers in the PNDM table."""


def guidance(
    guide_name: str, sampler_name: str = "ddim25"
) -> dict[str, dict[str, paper_tables.Value]]:
    """Return the guidance table's rows by our methods, for the network that ours stands for.

    The paper has one row for gradients on x0-hat; it stands beside both of ours. Empty for a
    sampler that the paper did not use.
    """
    rows = {
        row["guidance"]: row
        for row in paper_tables.rows("ppap_table")
        if row["architecture"] == GUIDES[guide_name]
        and f"{row['sampler']}{row['steps']}" == sampler_name
    }
    return {
        method: rows["none" if about is None else about.published]
        for method, about in methods.METHODS.items()
        if rows
    }


def ddim(dataset: str, steps: int) -> dict[str, float]:
    """Return FID by solver at this many steps, from the DDIM table."""
    return {
        ETAS[_eta(row["eta"])]: row["fid"]
        for row in paper_tables.rows("ddim_eta")
        if row["dataset"] == dataset and row["steps"] == steps
    }


def _eta(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def pndm(
    dataset: str, schedule: str, *, steps: int | None = None, budget: int | None = None
) -> dict[str, float]:
    """Return FID by solver from the PNDM table, at equal steps or at equal evaluations.

    Between the evaluations in the table log FID is a line in their logarithm; beyond them there
    is no value.
    """
    fids: dict[str, float] = {}
    rows = [
        r for r in paper_tables.rows("pndm") if (r["dataset"], r["schedule"]) == (dataset, schedule)
    ]
    for solver, extra in WARM_UP.items():
        own = sorted((r["steps"] + extra, r["fid"]) for r in rows if r["method"] == solver)
        at = budget if steps is None else steps + extra
        for (a, fid_a), (b, fid_b) in zip(own, own[1:], strict=False):
            if a <= at <= b:
                share = log(at / a) / log(b / a)
                fids[solver] = exp((1 - share) * log(fid_a) + share * log(fid_b))
    return fids
