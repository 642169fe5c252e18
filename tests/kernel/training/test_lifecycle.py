"""The life of a run's folder: who may write there, how a run is ended, what is never lost."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from places import ROOT
from torch import nn

from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.distill import distil
from ppap_lib.errors import TrainingError
from ppap_lib.files import weights
from ppap_lib.files.atomic import atomic_write, sweep, write_bytes, write_text
from ppap_lib.files.locks import hold
from ppap_lib.training.checkpoints import Log, load_checkpoint, snapshot_file, snapshots
from ppap_lib.training.fit import fit, in_words
from ppap_lib.training.settings import Settings
from ppap_lib.training.trainer import Trainer

DATA = torch.linspace(-1, 1, 24).view(8, 3)


def loss(network, x, y, generator):
    return (network(x) - y).square().mean()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 3)


def run(folder, steps=4, on_start=lambda line: None, **options):
    settings = Settings(batch=4, steps=steps, log_every=1, snapshots=(4, 12), checkpoint_every=1e9)
    return fit(network(), loss, DATA, DATA, settings, folder, on_start=on_start, **options)


def contents(folder) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- Who may write


def test_of_two_trainings_in_a_folder_the_second_is_refused_and_writes_nothing(tmp_path):
    child = start(tmp_path)
    before = Log(tmp_path / "log.jsonl").rows()
    for options in ({}, {"resume": True}, {"fresh": True}):
        with pytest.raises(TrainingError, match=f"another process writes in {tmp_path}"):
            run(tmp_path, **options)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 143
    rows = Log(tmp_path / "log.jsonl").rows()
    assert rows[: len(before)] == before
    assert len({row["step"] for row in rows}) == len(rows)


def test_a_killed_writer_holds_nothing(tmp_path):
    child = start(tmp_path)
    child.kill()
    child.wait()
    with hold(tmp_path), hold(tmp_path):  # who holds it may hold it again
        pass


def test_what_an_earlier_run_left_is_only_removed_when_that_is_asked_for(tmp_path):
    run(tmp_path)
    for left in ({"checkpoint.pt"}, {"summary.json"}, {"snapshots/000000004.safetensors"}):
        folder = tmp_path / "copy"
        for name, content in contents(tmp_path).items():
            if name in left and not name.startswith("copy"):
                write_bytes(folder / name, content)
        before = contents(folder)
        with pytest.raises(TrainingError, match="earlier run's .*--resume.*--fresh"):
            run(folder)
        assert contents(folder) == before
        run(folder, fresh=True)
        assert [images for images, _ in snapshots(folder)] == [4, 12]
        assert len(Log(folder / "log.jsonl").rows()) == 4
        for path in folder.rglob("*.*"):
            path.unlink()
    with pytest.raises(TrainingError, match="one of the two"):
        run(tmp_path, fresh=True, resume=True)


def test_resuming_without_a_checkpoint_starts_anew_says_so_and_loses_no_finished_run(tmp_path):
    said = []
    write_bytes(snapshot_file(tmp_path, 8), b"of a run that was killed before its checkpoint")
    run(tmp_path, resume=True, on_start=said.append)
    assert said[0] == f"no checkpoint in {tmp_path} to resume: it starts anew"
    assert [images for images, _ in snapshots(tmp_path)] == [4, 12]
    (tmp_path / "checkpoint.pt").unlink()
    before = contents(tmp_path)
    with pytest.raises(TrainingError, match=r"earlier run's summary.json.*--fresh"):
        run(tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_a_fresh_distillation_asks_the_teacher_again(tmp_path):
    guide = nn.Sequential(nn.Linear(3, 3)).eval()
    settings = Settings(steps=2, batch=4, clip=0.0)

    def made(**options):
        return distil(guide, DATA, Schedule.linear(), settings, tmp_path, experts=2, **options)

    made()
    with torch.no_grad():
        guide[0].weight.add_(1)
    for options in ({}, {"resume": True}):
        with pytest.raises(TrainingError):
            made(**options, digest="another")
    made(digest="another", fresh=True)
    before = contents(tmp_path)
    with pytest.raises(TrainingError, match="earlier run's checkpoint.pt"):
        made(digest="another")
    with pytest.raises(TrainingError, match="clip"):  # before anything is removed
        distil(guide, DATA, Schedule.linear(), Settings(steps=2), tmp_path, fresh=True)
    assert contents(tmp_path) == before


# --- How it ends


def _heed_signals():
    """As in a terminal: under nohup, or in the background of a script, some are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(folder, *arguments) -> subprocess.Popen:
    """A training in a process of its own, which has taken some steps."""
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(ROOT / "tests" / "interrupted_training.py"), str(folder)]
    child = subprocess.Popen(
        [*script, *arguments],
        env={**os.environ, **paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_signals,
    )
    assert child.stdout.readline() == "5\n", child.stderr.read()
    return child


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_a_signal_saves_every_step_and_ends_in_a_line(tmp_path, number, status):
    child = start(tmp_path)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == status
    (line,) = said.split("\n")[-2:-1]
    steps = load_checkpoint(tmp_path / "checkpoint.pt", torch.device("cpu"))["progress"]["step"]
    assert "Traceback" not in said and line.startswith(f"ended by {number.name}: {steps} steps")
    assert "--resume" in line and steps >= 5
    assert Log(tmp_path / "log.jsonl").rows()[-1]["step"] in range(steps - 5, steps + 1)


@pytest.fixture
def usual_interrupt():
    """Python's own handler of ctrl-C, also where this process was told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_run_that_a_signal_ended_is_bitwise_the_unbroken_one_when_it_is_resumed(
    tmp_path, usual_interrupt
):
    """Also one that is ended before its first step."""
    whole = run(tmp_path / "whole", steps=6)
    for broken_at in (0, 1, 3, 5):
        folder = tmp_path / f"{broken_at}"

        def interrupting(net, x, y, generator, at=broken_at, seen=[]):  # noqa: B006
            seen.append(x)
            if len(seen) == at:
                signal.raise_signal(signal.SIGINT)
            return loss(net, x, y, generator)

        settings = Settings(batch=4, steps=6, log_every=1, snapshots=(4, 12))
        interrupting.__name__ = loss.__name__
        made = Trainer(network(), loss, DATA, DATA, settings, folder, about={"init": "none"})
        made.objective = interrupting
        if broken_at == 0:
            made._signals.ended_by = signal.SIGINT
        with pytest.raises(KeyboardInterrupt, match=f"{broken_at} steps are in"):
            made.run()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert run(folder, steps=6, resume=True)["sha256"] == whole["sha256"]
        assert len(Log(folder / "log.jsonl").rows()) == 6


def test_the_time_that_a_process_was_stopped_is_no_training_time(tmp_path):
    began = time.monotonic()
    child = start(tmp_path, str(1.5 / 60))
    child.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    child.send_signal(signal.SIGCONT)
    said, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    rows = Log(tmp_path / "log.jsonl").rows()
    assert rows[-1]["seconds"] < 2.5 < time.monotonic() - began
    assert len(rows) > 3  # it trained on after the stop: counted, it would be the end
    assert rows[-1]["cpu_seconds"] > 0
    assert re.search(r"[\d.]+ seconds$", said.strip())


# --- Disks


@contextmanager
def a_full_disk(size: int):
    """No file may grow beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("what", ["checkpoint", "log", "text", "weights"])
def test_a_full_disk_is_told_with_the_file_and_what_it_needs(tmp_path, what):
    path = tmp_path / "checkpoint.pt"
    made = Trainer(network(), loss, DATA, DATA, Settings(steps=1), tmp_path)
    path.write_bytes(b"the last one")
    write = {
        "checkpoint": made.save,
        "log": lambda: Log(path).append({"step": 1, "words": "x" * 2000}),
        "text": lambda: write_text(path, "x" * 2000),
        "weights": lambda: weights.save({"x": torch.zeros(999)}, path),
    }[what]
    with pytest.raises(OSError, match=r"\([\d,]+ bytes are needed\)") as caught, a_full_disk(1000):
        write()
    assert caught.value.filename == str(path) and caught.value.errno == errno.EFBIG
    assert path.read_bytes().startswith(b"the last one")
    assert [p.name for p in tmp_path.glob("*.part")] == []


def test_parts_of_killed_writers_are_swept_and_other_files_are_not(tmp_path):
    part = f"checkpoint.pt.{'0f' * 16}.part"
    for name in (part, "mine.part", "thesis.pt", f"snapshots/{part}"):
        write_bytes(tmp_path / name, b"x")
    run(tmp_path)
    assert not (tmp_path / part).exists() and not (tmp_path / "snapshots" / part).exists()
    assert (tmp_path / "mine.part").exists() and (tmp_path / "thesis.pt").exists()
    for name in (part, "other" + part):
        write_bytes(tmp_path / name, b"x")
    sweep(tmp_path, 60.0)
    sweep(tmp_path, 0.0, "another")
    assert (tmp_path / part).exists()  # young, and of another file
    os.utime(tmp_path / part, (0, 0))
    write_text(tmp_path / "row.json", "{}")
    assert not (tmp_path / part).exists() and (tmp_path / f"other{part}").exists()


def test_a_link_that_somebody_planted_is_not_written_through(tmp_path, monkeypatch):
    target = tmp_path / "precious"
    target.write_bytes(b"precious")

    class Known:
        hex = "0" * 32

    monkeypatch.setattr("ppap_lib.files.atomic.uuid4", Known)
    (tmp_path / f"file.{'0' * 32}.part").symlink_to(target)
    with pytest.raises(FileExistsError), atomic_write(tmp_path / "file") as part:
        part.write_bytes(b"other")
    assert target.read_bytes() == b"precious"


def test_a_run_without_a_log_has_a_summary_in_words(tmp_path):
    run(tmp_path)
    (tmp_path / "log.jsonl").unlink()
    assert "final loss unknown" in in_words(run(tmp_path, resume=True))
