"""What a run leaves on disk: a checkpoint that no kill can break, and a log without repeats."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch

from ppap_lib import atomic
from ppap_lib.train.settings import TrainingError


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state of tensors and plain values, atomically."""
    with atomic.replacing(path) as part:
        torch.save(state, part)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise TrainingError(
            f"{path} cannot be read ({type(error).__name__}: {error}): it is damaged or not a "
            f"checkpoint; remove it to start afresh"
        ) from error


def snapshot_file(folder: Path, images: int) -> Path:
    """Where a run keeps the EMA weights that it had after so many images."""
    return folder / "snapshots" / f"{images:09d}.safetensors"


def run_of(path: Path) -> Path:
    """The folder of the run that left the weight file: one above that of a snapshot."""
    run = path.parent.parent
    return run if path.parent == snapshot_file(run, 0).parent else path.parent


def snapshots(folder: Path) -> list[tuple[int, Path]]:
    """(images seen, file) of every snapshot that a run keeps, in order."""
    kept = snapshot_file(folder, 0).parent.glob("*.safetensors")
    return sorted((int(path.stem), path) for path in kept)


class Log:
    """A JSONL file, one row per logging interval, each with its `step`."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, row: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All rows up to the first broken line, which a kill in the middle of a write leaves."""
        rows = []
        if self.path.exists():
            for line in self.path.read_text("utf8").splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return rows

    def forget_after(self, step: int) -> None:
        """Drop the rows past `step`: those steps are about to be taken again."""
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
        atomic.write(self.path, "".join(kept))
