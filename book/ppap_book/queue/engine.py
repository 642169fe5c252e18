"""Jobs that are carried out in order, each in processes of its own, and what is left of them.

Whatever a job runs resumes by itself, so that a queue that was killed goes on where it stopped, and
what is left is read from files: the ledger, the zoo, the folders of trainings.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ppap_book.errors import StudyError

try:
    import fcntl
except ImportError:  # Windows, where nothing hinders two queues
    fcntl = None

Command = tuple[str, ...]
"""A program of `PROGRAMS`, and its arguments."""

PROGRAMS = {"ppap": "ppap_lib", "ppap_book": "ppap_book"}
"""By its name, the module that a program is."""

CORES = 2
"""The cores for which hours are given."""

ROOT = Path(__file__).resolve().parents[3]

_SIGNALS = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP")]


def nothing() -> str:
    """Return that a job lacks nothing."""
    return ""


@dataclass(frozen=True)
class Job:
    """A piece of work that survives a kill.

    Parameters
    ----------
    name : str
        Names the job, and its log.
    hours : float
        What it takes two cores when nothing of it is done.
    left : callable
        Returns which part of it is left, from 0 to 1; 1 also where earlier jobs have yet to show
        whether it is needed.
    commands : callable
        Returns the command lines that do what is left. It is asked when the job's turn comes.
    lacks : callable
        Returns what this machine lacks for it, in words: it is left out then.
    """

    name: str
    hours: float
    left: Callable[[], float]
    commands: Callable[[], Sequence[Command]]
    lacks: Callable[[], str] = nothing


@dataclass(frozen=True)
class Step:
    """One command line of a job, the `hours` that it takes two cores, and the part that is left."""

    hours: float
    left: Callable[[], float]
    command: Callable[[], Command]


def in_steps(
    name: str,
    steps: Sequence[Step],
    done: Callable[[], bool] = lambda: False,
    lacks: Callable[[], str] = nothing,
) -> Job:
    """Return the job of these steps, of which nothing is left where its purpose is `done`."""
    hours = sum(step.hours for step in steps)

    def left() -> float:
        if done():
            return 0.0
        return sum(step.hours * step.left() for step in steps) / hours

    return Job(name, hours, left, lambda: [s.command() for s in steps if s.left()], lacks)


def listing(jobs: Sequence[Job], threads: int = CORES) -> str:
    """Return a line for every job, and the total: at most, as some jobs may prove needless."""
    width, lines, total = max(len(job.name) for job in jobs), [], 0.0
    for job in jobs:
        if reason := job.lacks():
            lines.append(f"{job.name:{width}}  left out: {reason}")
            continue
        left = job.left()
        hours = job.hours * left * CORES / threads
        total += hours
        lines.append(f"{job.name:{width}}  {left:4.0%} left  {hours:5.1f} hours")
    return "\n".join([*lines, f"{'all':{width}}    at most  {total:6.1f} hours of {threads} cores"])


class _Interruption:
    """A signal that ends the queue; the child that runs gets it, too, and the queue waits for it.

    The child is no member of the terminal's process group: it gets a signal once.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.child: subprocess.Popen | None = None

    def __enter__(self) -> "_Interruption":
        self._before = {number: signal.signal(number, self._pass_on) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if self.child is not None:
            self.child.send_signal(number)

    def run(self, command: list[str], **options: object) -> int:
        """Return the exit status of a command, which any signal reaches."""
        with subprocess.Popen(command, process_group=0, **options) as self.child:
            if self.number is not None:  # it came before there was a child
                self.child.send_signal(self.number)
            status = self.child.wait()
        self.child = None
        return status


def carry_out(jobs: Sequence[Job], folder: Path, threads: int = CORES) -> int:
    """Carry out what is left of the jobs, in order, and return the exit status.

    A job's output goes to FOLDER/NAME.log.

    Returns
    -------
    int
        0; after SIGINT or SIGTERM 128 and its number, as usual.

    Raises
    ------
    StudyError
        If a job fails, or ends and something of it is left; and if another queue works in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder) as lock, _Interruption() as interruption:
        for job in jobs:
            if reason := job.lacks():
                print(f"{job.name} is left out: {reason}", flush=True)
                continue
            if interruption.number is None and (left := job.left()):
                log, hours = folder / f"{job.name}.log", job.hours * left * CORES / threads
                print(f"{job.name}: {hours:.1f} hours, {log}", end="", flush=True)
                _carry_out(job, log, threads, lock, interruption)
        if interruption.number is None:
            return 0
        ended_by = signal.Signals(interruption.number)
        print(f"stopped by {ended_by.name}: the same command goes on from here", file=sys.stderr)
        return 128 + ended_by


def _carry_out(
    job: Job, log: Path, threads: int, lock: tuple[int, ...], interruption: _Interruption
) -> None:
    began = time.monotonic()
    for program, *arguments in job.commands():
        with open(log, "a", encoding="utf8") as output:
            print(f"$ {program} {' '.join(arguments)}", file=output, flush=True)
            # Not the working directory's modules, but those of this checkout.
            status = interruption.run(
                [sys.executable, "-P", "-m", PROGRAMS[program], *arguments],
                env=_environment(threads),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=lock,
            )
        if interruption.number is not None:
            print(flush=True)
            return
        if status:
            print(flush=True)
            raise StudyError(f"{job.name} failed with status {status}: {_last(log)} (all: {log})")
    print(f": {(time.monotonic() - began) / 3600:.1f} hours", flush=True)
    if left := job.left():
        raise StudyError(
            f"{job.name} ended, and {left:.0%} of it is left: its commands do not do what it says "
            f"(see {log})"
        )


def _environment(threads: int) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "book"), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


def _last(log: Path) -> str:
    """The last line of what a job said."""
    lines = [line.strip() for line in log.read_text("utf8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "nothing was said")


@contextmanager
def _alone(folder: Path) -> Iterator[tuple[int, ...]]:
    """Hold the folder's lock; yield what a child inherits of it.

    So it is held until the last process ends: also by a job whose queue was killed.
    """
    if fcntl is None:
        yield ()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StudyError(
            f"another queue works in {folder}, or a job that outlived its queue: wait until it "
            f"ends, end it, or give another --folder"
        ) from None
    try:
        yield (descriptor,)
    finally:
        os.close(descriptor)
