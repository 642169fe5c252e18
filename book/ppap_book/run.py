"""`python -m ppap_book run NAME ...`: studies from the command line, into the ledger.

A command runs a study. Its options are the parameters of the function that makes the runs, and
its help is what that function's docstring says of them. With `--left` it says how many of these
rows the ledger lacks, and does nothing.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, make_dataclass, replace
from inspect import Parameter, cleandoc, signature
from typing import Any, get_args, get_type_hints

import torch

from ppap_book.studies import (
    architecture,
    attention,
    denoiser_training,
    expert_training,
    expert_variants,
    gradients,
    guidance,
    guidance_plan,
    intervals,
    noise,
    noisy_accuracy,
    samplers,
    scales,
)
from ppap_book.study import Study
from ppap_lib.cli import CommandLine, add_options, given_of, run_command
from ppap_lib.device import pick_device
from ppap_lib.parameters import Parameters, param

STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        guidance.STUDY,
        gradients.STUDY,
        scales.STUDY,
        intervals.STUDY,
        samplers.STUDY,
        noise.STUDY,
        noisy_accuracy.STUDY,
        attention.STUDY,
        architecture.STUDY,
        denoiser_training.TRAINING,
        denoiser_training.CURVE,
        expert_training.DISTILLATION,
        expert_training.ABLATION,
    )
}
"""All studies by name."""


COMMANDS: Mapping[str, Study] = {
    **STUDIES,
    "guidance": replace(guidance.STUDY, grid=guidance_plan.runs),
    "ablations": replace(
        expert_training.ABLATION,
        question="What does each thing change that a training of PPAP-5 can vary?",
        grid=expert_variants.runs,
    ),
}
"""By the command's name, the study that it runs; its runs may depend on rows of others."""

_FROM_THE_COMMAND = ("device", "tell")
_TRAINS = ("ablations",)  # whose runs are of what it trains, and cannot be counted before


def options_of(grid: Callable[..., Any]) -> type[Parameters]:
    """Return the parameters of a function as checked fields, with what its docstring says of them.

    Not its `device` and `tell`, which every command has.
    """
    hints, about = get_type_hints(grid), _described(grid)
    options = [
        (
            name,
            hints[name],
            param(
                MISSING if each.default is Parameter.empty else each.default,
                low=_least(hints[name], each.default),
                help=about[name],
            ),
        )
        for name, each in signature(grid).parameters.items()
        if name not in _FROM_THE_COMMAND
    ]
    kind = make_dataclass("Options", options, bases=(Parameters,), frozen=True, kw_only=True)
    kind.__doc__ = "Options of the runs"
    return kind


def _least(hint: Any, default: Any) -> int | None:
    """The least value of an option: none is below 0, and a count that is not 0 by itself below 1.

    Counts would make no runs, or be taken for ones that were not given.
    """
    inner = {hint, *get_args(hint)}
    inner |= {kind for each in inner for kind in get_args(each)}  # of tuples that may be None
    if not inner & {int, float}:
        return None
    zero = 0 in default if isinstance(default, tuple) else default == 0
    return 0 if zero or float in inner else 1


def _described(function: Callable[..., Any]) -> dict[str, str]:
    """What the section Parameters of a docstring says, by name."""
    section = cleandoc(function.__doc__ or "").partition("Parameters\n----------\n")[2]
    entries = re.findall(r"^(\w+) : .*\n((?: {4}.*\n?)+)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def parser() -> argparse.ArgumentParser:
    """Return the command line. A command has the options that it reads, and no others."""
    top = CommandLine(prog="python -m ppap_book run", description="Run a study, and file its rows.")
    names = top.add_subparsers(required=True, metavar="NAME")
    for name, study in COMMANDS.items():
        sub = names.add_parser(name, help=study.question, description=study.question)
        options = options_of(study.grid)
        add_options(sub, options)
        if not study.on_cpu:
            sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1.")
        if name not in _TRAINS:
            sub.add_argument(
                "--left", action="store_true", help="Say how many rows are missing, no more."
            )
        sub.set_defaults(study=study, options=options)
    return top


def carry_out(given: argparse.Namespace) -> str | None:
    """File the runs that the command line asks for and the ledger lacks, or say how many."""
    if getattr(given, "left", False):
        return "{} of {} rows are missing".format(*_counted(given))
    device = _device(given)
    given.study.record(_runs(given, device, print), device)
    return None


def missing(arguments: Sequence[str]) -> tuple[int, int]:
    """Return how many rows of a command line the ledger lacks, and of how many.

    Runs that are chosen by rows that are missing themselves are not counted.
    """
    return _counted(parser().parse_args(arguments))


def _counted(given: argparse.Namespace) -> tuple[int, int]:
    runs = list(_runs(given, _device(given), lambda line: None))
    return len(given.study.missing(runs)), len(runs)


def _device(given: argparse.Namespace) -> torch.device:
    return pick_device("cpu" if given.study.on_cpu else given.device)


def _runs(
    given: argparse.Namespace, device: torch.device, tell: Callable[[str], None]
) -> Iterable[Parameters]:
    """The runs that the command line asks for, whether the ledger has them or not."""
    grid = given.study.grid
    options = vars(given.options(**given_of(given.options, given)))
    shared = {"device": device, "tell": tell}
    options |= {name: shared[name] for name in shared if name in signature(grid).parameters}
    return grid(**options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after saying what was wrong."""
    return run_command(parser(), carry_out, arguments)


if __name__ == "__main__":
    sys.exit(main())
