"""What a run leaves on disk: a checkpoint that no kill can break, and a log without repeats.

Checksums say which data a checkpoint belongs to; seeds make a step a function of its number.
"""

import io
import json
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ppap_lib.errors import TrainingError
from ppap_lib.files.atomic import space_for, write_bytes, write_text
from ppap_lib.files.weights import first_line

CHECKPOINT, LOG, SUMMARY = "checkpoint.pt", "log.jsonl", "summary.json"

_PARTS = ("run", "network", "ema", "optimizer", "progress", "pending")


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a `state` of tensors and plain values to `path`, atomically.

    Raises `OSError` that names the file and its size if the disk is full.
    """
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(path, content.getbuffer())


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote to `path`, with its tensors on `device`.

    Raises `TrainingError` if the file is damaged, or another kind of file: a checkpoint is a zip
    archive, which holds the checksum of everything in it, and torch reads without looking at them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{damaged} has another checksum")
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or (lacking := [p for p in _PARTS if p not in state]):
            raise ValueError(f"it lacks {', '.join(lacking)}" if isinstance(state, dict) else "")
    except PermissionError:
        raise
    except Exception as error:  # damaged bytes raise anything
        raise not_a_checkpoint(path, error) from error
    return state


def not_a_checkpoint(path: Path, error: Exception) -> TrainingError:
    """Return the error that says so of the file at `path`, and by which `error` it was found."""
    code = isinstance(error, pickle.UnpicklingError)  # whose words advise to run what is in there
    why = "it holds objects that would run as code" if code else first_line(error)
    return TrainingError(
        f"{path} cannot be read ({type(error).__name__}: {why}): it is damaged or not a "
        f"checkpoint; remove it, or give --fresh, to start afresh"
    )


def remains(folder: Path) -> list[Path]:
    """Return what an earlier run left in `folder` that a fresh one would write over or remove."""
    files = [folder / CHECKPOINT, folder / SUMMARY]
    return [path for path in files if path.exists()] + [path for _, path in snapshots(folder)]


def make_room(folder: Path, fresh: bool, anew: bool = False) -> None:
    """Remove from `folder` what an earlier run left if `fresh`; refuse to write over it if not.

    With `anew` a run is gone on with that was killed before its first checkpoint: its snapshots
    are taken again. Raises `TrainingError` that says what is there.
    """
    left = remains(folder)
    if anew and not fresh:
        left = [path for path in left if path.name == SUMMARY]
    if left and not fresh:
        raise TrainingError(
            f"{folder} holds an earlier run's {', '.join(path.name for path in left[:3])}"
            f"{' and more' if len(left) > 3 else ''}: resume it (--resume), remove it and start "
            f"afresh (--fresh), or use another folder"
        )
    for path in left:
        path.unlink()


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
    return sorted((int(path.stem), path) for path in files if path.stem.isdecimal())


class Log:
    """A JSONL file at `path`, with a row for each logging interval that holds its `step`."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, row: dict[str, Any]) -> None:
        """Add one row."""
        line = json.dumps(row) + "\n"
        with space_for(self.path, len(line)), open(self.path, "a", encoding="utf8") as file:
            file.write(line)

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows but one that a kill amid a write broke off, the last.

        Raises `TrainingError` if the file is damaged, or another kind of file.
        """
        if not self.path.exists():
            return []
        *lines, _ = self.path.read_bytes().split(b"\n")
        return [self._row(number, line) for number, line in enumerate(lines, 1)]

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line.decode("utf8"))
            if not isinstance(row["step"], int):
                raise TypeError(f"step is {row['step']!r}")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise TrainingError(
                f"{self.path} is damaged or not a log of a training, in line {number} "
                f"({type(error).__name__}: {error}): mend or remove the line, or give --fresh to "
                f"start afresh"
            ) from error
        return row

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
