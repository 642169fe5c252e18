"""The course of one training run, for the pages: what its folder knows, as a ledger row."""

from dataclasses import dataclass
from pathlib import Path

from ppap_book import ledger
from ppap_book.study import training_provenance
from ppap_lib.parameters import Parameters, param
from ppap_lib.training import fit
from ppap_lib.training.checkpoints import Log

STUDY = "training"
POINTS = 120  # enough for a curve; a log line every few seconds is not


@dataclass(frozen=True)
class Training(Parameters):
    """Which run: its tier, its network, and the weights it ended with."""

    tier: str = "fashion"
    network: str = "denoiser"
    sha256: str = param("")


def run(folder: Path) -> Path:
    """File the finished run in `folder`; returns the row's path."""
    summary = fit.finished(folder, "train")
    log = Log(folder / "log.jsonl").rows()
    kept = log[:: max(len(log) // POINTS, 1)]
    params = Training(summary["tier"], summary["network"], summary["sha256"])
    results = {
        key: summary[key]
        for key in ("parameters", "objective", "images_seen", "final_loss", "images_per_second")
    }
    results |= {name: [row[name] for row in kept] for name in ("images", "loss", "lr")}
    results |= training_provenance(summary)
    return ledger.record(STUDY, params.recorded(), results, seconds=summary["seconds"])
