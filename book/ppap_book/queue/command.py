"""`python -m ppap_book queue`: carry out what is left of all trainings and rows, or list it.

It belongs into a worktree of a commit, beside the checkout where people work::

    git worktree add ../queue HEAD
    cd ../queue
    export PYTHONPATH=$PWD:$PWD/book
    python -m ppap_book queue --list
    python -m ppap_book queue
    python -m ppap_book queue --bring-home ../main

There new weights are installed as they are trained, and rows are filed. Killed, and run again, it
goes on where it stopped. `--bring-home` copies finished rows to the checkout's book/results, and
weights and cards to its book/next, from where another worktree's queue takes them over.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ppap_book import ledger
from ppap_book.errors import StudyError
from ppap_book.queue import home, plan
from ppap_book.queue.engine import ROOT, Job, carry_out, listing
from ppap_lib.cli import CommandLine, run_command
from ppap_lib.device import pick_device
from ppap_lib.errors import InputError
from ppap_lib.parameters import suggestion


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = CommandLine(
        prog="python -m ppap_book queue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = top.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="Print the jobs and what is left.")
    what.add_argument(
        "--bring-home", type=Path, metavar="CHECKOUT", help="Copy rows and weights, no more."
    )
    top.add_argument("--only", nargs="+", metavar="NAME", help="Jobs; all by default.")
    top.add_argument(
        "--folder", type=Path, default=Path("runs/queue"), help="Where trainings are kept."
    )
    top.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="How many cores are used."
    )
    top.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1.")
    return top


def act(given: argparse.Namespace) -> str | int:
    """Do what the command line says; return what is printed, or the exit status."""
    require_own_checkout(Path.cwd())
    if given.bring_home is not None:
        return "\n".join(home.bring_home(ROOT, given.bring_home)) or "all is there already"
    if given.threads < 1:
        raise InputError(f"threads must be at least 1, not {given.threads}")
    for path in home.take_over(ROOT):
        print(f"taken over from {home.NEXT}: {path}")
    folder = given.folder.resolve()
    jobs = selected(plan.jobs(folder, str(pick_device(given.device))), given.only)
    if given.list:
        return listing(jobs, given.threads)
    ledger.require_committed_code()  # not after hours of training
    return carry_out(jobs, folder, given.threads)


def require_own_checkout(place: Path) -> None:
    """Raise `StudyError` in another checkout than that of this code, whose assets it changes."""
    checkouts = (folder for folder in (place, *place.parents) if (folder / ".git").exists())
    if (checkout := next(checkouts, ROOT)).resolve() != ROOT:
        raise StudyError(
            f"this is the code of {ROOT}, and would file rows and install weights there: in "
            f"{checkout}, set PYTHONPATH={checkout}:{checkout / 'book'}"
        )


def selected(jobs: Sequence[Job], names: Sequence[str] | None) -> list[Job]:
    """Return the jobs of these names, in the order of all; `InputError` for a name of none."""
    known = [job.name for job in jobs]
    for name in names or ():
        if name not in known:
            raise InputError(f"no job {name!r}: {suggestion(name, known)}")
    return [job for job in jobs if names is None or job.name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    return run_command(parser(), act, arguments)
