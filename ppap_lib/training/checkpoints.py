"""What a run leaves on disk: a checkpoint that no kill can break, and a log without repeats.

Checksums say which data a checkpoint belongs to; seeds make a step a function of its number.
"""

import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ppap_lib.errors import TrainingError
from ppap_lib.files.atomic import atomic_write, write_text


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a `state` of tensors and plain values to `path`, atomically."""
    with atomic_write(path) as part:
        torch.save(state, part)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote to `path`, with its tensors on `device`.

    Raises `TrainingError` if the file is damaged, or another kind of file.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise TrainingError(
            f"{path} cannot be read ({type(error).__name__}: {error}): it is damaged or not a "
            f"checkpoint; remove it to start afresh"
        ) from error


def snapshot_file(folder: Path, images: int) -> Path:
    """Return where the run in `folder` keeps the EMA weights that it had after so many `images`."""
    return folder / "snapshots" / f"{images:09d}.safetensors"


def run_of(path: Path) -> Path:
    """Return the folder of the run that left the weight file at `path`, a snapshot or the last."""
    run = path.parent.parent
    return run if path.parent == snapshot_file(run, 0).parent else path.parent


def snapshots(folder: Path) -> list[tuple[int, Path]]:
    """Return (images seen, file) of every snapshot that the run in `folder` keeps, in order."""
    files = snapshot_file(folder, 0).parent.glob("*.safetensors")
    return sorted((int(path.stem), path) for path in files)


class Log:
    """A JSONL file at `path`, with a row for each logging interval that holds its `step`."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, row: dict[str, Any]) -> None:
        """Add one row."""
        with open(self.path, "a", encoding="utf8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows up to the first broken line, which a kill amid a write leaves."""
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
        lines = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
        write_text(self.path, "".join(lines))


def fingerprint(data: Tensor, labels: Any) -> str:
    """Return in words how many samples `data` has, and the checksum of them and `labels`."""
    # "images", whatever they are: by these words a checkpoint knows its run.
    return f"{len(data)} images, crc32 {crc32(data, *tree_leaves(labels)):08x}"


def crc32(*tensors: Tensor) -> int:
    """Return the checksum of the tensors' bytes, one after the other."""
    checksum = 0
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        checksum = zlib.crc32(plain.numpy(), checksum)
    return checksum


ORDER, NOISE, DROPOUT, TIMES = 1, 2, 3, 4
"""Part of a key: what the numbers are drawn for. `TIMES` are the noise levels of experts."""


def seed_of(*key: int) -> int:
    """Return one 63-bit seed that a short tuple of integers decides."""
    seed = 0
    for part in key:
        seed = (seed * 0x9E3779B1 + part + 1) & 0x7FFFFFFFFFFFFFFF
    return seed


class Epochs:
    """The order in which `count` samples are seen in batches of `batch`.

    Each epoch is a permutation that `seed` and its number decide, on whatever `device`. Batches
    run across the ends of epochs, so that every sample is seen equally often.
    """

    def __init__(self, count: int, batch: int, seed: int, device: torch.device | str = "cpu"):
        self.count, self.batch, self.seed = count, batch, seed
        self.device = device
        self._generator = torch.Generator()
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """Return the indices [batch] of the samples of step 0, 1, ..."""
        first, end = step * self.batch, (step + 1) * self.batch
        parts = []
        while first < end:
            epoch, offset = divmod(first, self.count)
            parts.append(self._permutation(epoch)[offset : offset + end - first])
            first += len(parts[-1])
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = self._generator.manual_seed(seed_of(self.seed, ORDER, epoch))
            self._order = torch.randperm(self.count, generator=generator).to(self.device)
            self._epoch = epoch
        return self._order
