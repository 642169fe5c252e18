"""Generated sets: the same for any batch size, number of processes, and history of kills."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from ppap_lib import weights
from ppap_lib.analytic import Mixture
from ppap_lib.data.generated import (
    Manifest,
    claim,
    generated,
    read_manifest,
    shard_path,
    write_shard,
)
from ppap_lib.data.imageset import DataError, MissingData
from ppap_lib.generate import GenerationError, draw_set, pending
from ppap_lib.generate.__main__ import main as generate
from ppap_lib.schedule import Schedule

MIXTURE = Mixture(torch.tensor([[[[0.5]]], [[[-0.6]]]]), [0.1, 0.2])
MANIFEST = Manifest(23, 100, 4, (1, 1, 1), "mixture", "0" * 64, "ddim5")
LINEAR = Schedule.linear()


def draw(folder, denoise=MIXTURE.denoise, **options):
    return draw_set(denoise, LINEAR, folder, MANIFEST, **options)


@pytest.fixture
def whole(tmp_path):
    draw(tmp_path / "whole")
    return generated(tmp_path / "whole").pixels


def test_blocks_cover_the_seeds_once():
    seeds = [seed for block in MANIFEST.blocks() for seed in block]
    assert seeds == list(range(100, 123)) and len(MANIFEST.blocks()) == 6


@pytest.mark.parametrize("world", [2, 3, 7])
def test_any_number_of_processes_and_batch_size_draws_the_same_set(tmp_path, whole, world):
    counts = [draw(tmp_path / "set", rank=r, world=world, batch=r + 1) for r in range(world)]
    assert sum(counts) == 6
    assert torch.equal(generated(tmp_path / "set").pixels, whole)


def test_what_is_drawn_is_not_drawn_again(tmp_path, whole):
    folder = tmp_path / "set"
    draw(folder, rank=0, world=2)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    # Begun by two processes, finished by one.
    assert draw(folder) == 3 and len(kept) == 3
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert pending(folder, MANIFEST) == []
    assert torch.equal(generated(folder).pixels, whole)


def test_a_killed_process_loses_only_its_unfinished_shard(tmp_path, whole):
    """A real process, killed at a random moment, again and again, until the set is whole."""
    folder = tmp_path / "set"

    def slow(x_t, level):
        time.sleep(0.01)
        return MIXTURE.denoise(x_t, level)

    generator = torch.Generator().manual_seed(0)
    kills = 0
    while pending(folder, MANIFEST):
        child = os.fork()
        if child == 0:  # pragma: no cover
            torch.set_num_threads(1)
            draw(folder, slow)
            os._exit(0)
        time.sleep(0.1 + 0.3 * float(torch.rand((), generator=generator)))
        before = len(pending(folder, MANIFEST))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        assert len(pending(folder, MANIFEST)) <= before
        assert kills < 60
    assert kills > 1
    assert torch.equal(generated(folder).pixels, whole)


def test_a_process_of_two_may_die_and_the_other_goes_on(tmp_path, whole):
    folder = tmp_path / "set"

    def dies(x_t, level):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(folder, dies, rank=1, world=2)
    draw(folder, rank=0, world=2)
    with pytest.raises(MissingData, match="3 of 6 shards .* run the same command again"):
        generated(folder)
    draw(folder, rank=1, world=2)
    assert torch.equal(generated(folder).pixels, whole)


def test_one_of_torchrun_s_processes_may_be_killed_and_the_set_is_finished(
    tmp_path, monkeypatch, capsys
):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    what = ["--images", "10", "--shard", "1", "--spacing", "5", "--device", "cpu", "--quiet"]
    assert generate([*what, "--folder", str(whole)]) == 0
    manifest = read_manifest(whole)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    agent = subprocess.Popen([*torchrun, "-m", "ppap_lib.generate", *what, "--folder", str(torn)])
    own = manifest.blocks()[1::2]
    while not shard_path(torn, own[0]).exists() and agent.poll() is None:
        time.sleep(0.005)
    for worker in psutil.Process(agent.pid).children():
        if worker.environ().get("RANK") == "1":
            worker.kill()
    assert agent.wait(timeout=60) != 0  # it ends the others, too
    left = pending(torn, manifest, 1, 2)
    assert left and len(left) < len(own)
    capsys.readouterr()
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert generate([*what, "--folder", str(torn), "--batch", "1"]) == 0
    assert f"process 1 of 2: {len(left)} shards drawn" in capsys.readouterr().out
    assert torch.equal(generated(torn).pixels, generated(whole).pixels)


def test_another_sets_folder_and_damaged_shards_are_refused(tmp_path, whole):
    folder = tmp_path / "whole"
    other = Manifest(23, 0, 4, (1, 1, 1), "mixture", "0" * 64, "ddim5")
    with pytest.raises(DataError, match="holds another set .* use another folder"):
        claim(folder, other)
    block = MANIFEST.blocks()[1]
    wrong = MANIFEST.blocks()[2]
    write_shard(folder, block, torch.zeros(4, 1, 1, 1, dtype=torch.uint8))
    shard_path(folder, block).rename(shard_path(folder, wrong))
    draw(folder)
    with pytest.raises(DataError, match="does not hold the images of its seeds"):
        generated(folder)
    path = shard_path(folder, wrong)
    weights.save({"pixels": torch.zeros(4, 1, 1, 1, dtype=torch.uint8)}, path)
    with pytest.raises(DataError, match="does not hold the images of its seeds"):
        generated(folder)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=f"{path.name} is damaged .*: delete it, draw again"):
        generated(folder)
    path.unlink()
    draw(folder)
    assert torch.equal(generated(folder).pixels, whole)
    with pytest.raises(MissingData, match="python -m ppap_lib.generate makes one"):
        generated(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not a manifest"):
        generated(tmp_path)


def test_bad_requests_are_refused(tmp_path, capsys):
    assert generate(["--images", "0", "--folder", str(tmp_path), "--device", "cpu"]) == 1
    assert capsys.readouterr().err.startswith("error: expected n >= 1")
    with pytest.raises(GenerationError, match="rank 2 of 2"):
        pending(tmp_path, MANIFEST, 2, 2)
    with pytest.raises(DataError, match="expected n >= 1"):
        Manifest(0, 0, 4, (1, 1, 1), "mixture", "")
