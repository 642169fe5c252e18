"""Files that people's disks and editors damaged, or that are others' files: one line with the path.

Every kind of file is damaged in every way, and a flipped bit never gives other numbers.
"""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from ppap_lib import experts
from ppap_lib.data.shards import Manifest, claim, generated, read_manifest, shard_path, write_shard
from ppap_lib.distill.transfer import TEACHER, cached_outputs
from ppap_lib.errors import DataError, PpapError, TrainingError, WeightsError
from ppap_lib.experts.intervals import Intervals
from ppap_lib.files import weights
from ppap_lib.training.checkpoints import Log, load_checkpoint, snapshots
from ppap_lib.training.fit import finished, fit
from ppap_lib.training.settings import Settings
from ppap_lib.training.trainer import Trainer

GENERATOR = torch.Generator().manual_seed(0)
SAMPLES = torch.randn(12, 6, generator=GENERATOR)
LABELS = torch.randint(3, (12,), generator=GENERATOR)
BLOCK = range(3, 7)
SETTINGS = Settings(batch=4, steps=2, log_every=1, snapshots=(4,))
CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 3).eval()


def squared_error(network, x, y, generator):
    return (network(x).argmax(1) - y).float().square().mean() + network(x).square().mean()


def resumed(folder) -> dict:
    made = Trainer(network(), squared_error, SAMPLES, LABELS, SETTINGS, folder, about=ABOUT)
    assert made.resume()
    return {**made.network.state_dict(), "step": torch.tensor(made.progress.step)}


ABOUT = {"init": "none"}
SHARD = shard_path(Path(), BLOCK).name

READERS = {
    "checkpoint.pt": resumed,
    "summary.json": lambda folder: finished(folder, "train"),
    "log.jsonl": lambda folder: Log(folder / "log.jsonl").rows(),
    "manifest.json": read_manifest,
    SHARD: lambda folder: generated(folder).pixels,
    "ema.safetensors": lambda folder: weights.load(
        network(), weights.read(folder / "ema.safetensors")
    ),
    "experts.safetensors": lambda folder: experts.read(folder / "experts.safetensors", network()),
    TEACHER: lambda folder: cached_outputs(network, SAMPLES, folder, "teacher", None),
    "legacy.pt": lambda folder: weights.read(folder / "legacy.pt"),
}

DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-3],
    "text": lambda content: b"version https://git-lfs.github.com/spec/v1\n" * 3,
    "UTF-16": lambda content: '{"step": 1, "n": 4}\n'.encode("utf-16"),
    "zeros": lambda content: bytes(len(content)),
    "a list": lambda content: b"[1, 2]\n",
    "a number": lambda content: b"1\n",
    "other entries": lambda content: b'{"a": 1}\n',
    "deep": lambda content: b"[" * 100_000 + b"\n",
    "a pickle": lambda content: pickle.dumps({"run": {}, "step": print}),
    "a page": lambda content: b"<!DOCTYPE html>\n<html>\n",
}

ACCEPTED = {
    ("log.jsonl", "empty"),  # of a run that logged nothing yet
    ("log.jsonl", "without its end"),  # a kill amid a row, which is taken again
    ("log.jsonl", "truncated"),
    ("log.jsonl", "a pickle"),  # a line without an end, as a kill leaves it
    ("log.jsonl", "zeros"),  # as a power cut leaves it
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with every kind of file."""
    folder = tmp_path_factory.mktemp("whole")
    fit(network(), squared_error, SAMPLES, LABELS, SETTINGS, folder)
    claim(folder, Manifest(4, 3, 4, (1, 2, 2), "mixture", "0" * 64))
    write_shard(folder, BLOCK, torch.arange(16).byte().view(4, 1, 2, 2))
    bank = experts.full_copies(network(), Intervals(10, 2))
    experts.save(bank, folder / "experts.safetensors", "backbone")
    cached_outputs(network, SAMPLES, folder, "teacher", None)
    torch.save(network().state_dict(), folder / "legacy.pt")
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line_with_its_path(tmp_path, whole, name, damage):
    folder = shutil.copytree(whole, tmp_path / "copy")
    READERS[name](folder)
    path = folder / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    if (name, damage) in ACCEPTED:
        READERS[name](folder)
        return
    with pytest.raises(PpapError) as caught:
        READERS[name](folder)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    return one == other


@pytest.mark.parametrize("name", ["checkpoint.pt", "manifest.json", SHARD, TEACHER])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, whole, name):
    folder = shutil.copytree(whole, tmp_path / "copy")
    path, expected = folder / name, READERS[name](folder)
    content, refused = path.read_bytes(), 0
    positions = range(0, 8 * len(content), max(8 * len(content) // 400, 1) | 1)
    for bit in positions:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert same(READERS[name](folder), expected), bit
        except PpapError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > len(positions) / 10


def test_files_of_before_there_were_digests_are_read(tmp_path, whole):
    folder = shutil.copytree(whole, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shard = shard_path(folder, BLOCK)
    pixels = weights.read(shard)
    weights.save(pixels, shard)
    assert torch.equal(generated(folder).pixels, generated(whole).pixels)
    state = load_checkpoint(folder / "checkpoint.pt", CPU)
    del state["progress"]["cpu_seconds"]
    torch.save(state, folder / "checkpoint.pt")
    assert same(resumed(folder), resumed(whole))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"n": "4"}, DataError),
        ({"n": 4.5}, DataError),
        ({"n": True}, DataError),
        ({"shape": [1, 2]}, DataError),
        ({"shape": [1, 0, 2]}, DataError),
        ({"spacing": 25}, DataError),
        ({"shard": 0}, DataError),
        ({"first_seed": -1}, DataError),
        ({"more": 1}, DataError),
    ],
)
def test_a_manifest_of_wrong_types_is_refused(tmp_path, whole, changes, error):
    manifest = json.loads((whole / "manifest.json").read_text()) | changes
    del manifest["digest"]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest))
    with pytest.raises(error, match=f"{path} is not a manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"run": None}, {"network": 5}, {"ema": {}}, {"optimizer": {}}, {"progress": {"a": 1}}]
    + [
        {"progress": None},
        {"progress": {"step": "5"}},
        {"pending": ["a"]},
        {"pending": 3},
        {"optimizer": None},
    ],
    ids=str,
)
def test_a_checkpoint_of_wrong_types_is_refused(tmp_path, whole, changes):
    path = tmp_path / "checkpoint.pt"
    state = load_checkpoint(whole / "checkpoint.pt", CPU)
    torch.save(state | changes, path)
    with pytest.raises((TrainingError, WeightsError), match=str(path)):
        resumed(tmp_path)


def test_a_file_that_is_no_snapshot_is_left_alone(tmp_path):
    other = tmp_path / "snapshots" / "best.safetensors"
    weights.save({"a": torch.zeros(1)}, other)
    assert snapshots(tmp_path) == []
