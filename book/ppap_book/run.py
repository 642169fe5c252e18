"""`python -m ppap_book run NAME ...`: studies from the command line, into the ledger.

A command runs a study. Its options are the parameters of the function that makes the runs, and
its help is what that function's docstring says of them.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, make_dataclass, replace
from inspect import Parameter, cleandoc, signature
from typing import Any, get_type_hints

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
from ppap_lib.cli import add_options, given_of, run_command
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


def options_of(grid: Callable[..., Any]) -> type[Parameters]:
    """Return the parameters of a function as checked fields, with what its docstring says of them.

    Not its `device` and `tell`, which every command has.
    """
    hints, about = get_type_hints(grid), _described(grid)
    options = [
        (
            name,
            hints[name],
            param(MISSING if each.default is Parameter.empty else each.default, help=about[name]),
        )
        for name, each in signature(grid).parameters.items()
        if name not in _FROM_THE_COMMAND
    ]
    kind = make_dataclass("Options", options, bases=(Parameters,), frozen=True, kw_only=True)
    kind.__doc__ = "Options of the runs"
    return kind


def _described(function: Callable[..., Any]) -> dict[str, str]:
    """What the section Parameters of a docstring says, by name."""
    section = cleandoc(function.__doc__ or "").partition("Parameters\n----------\n")[2]
    entries = re.findall(r"^(\w+) : .*\n((?: {4}.*\n?)+)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def parser() -> argparse.ArgumentParser:
    """Return the command line. A command has the options that it reads, and no others."""
    top = argparse.ArgumentParser(
        prog="python -m ppap_book run", description="Run a study, and file its rows."
    )
    names = top.add_subparsers(required=True, metavar="NAME")
    for name, study in COMMANDS.items():
        sub = names.add_parser(name, help=study.question, description=study.question)
        options = options_of(study.grid)
        add_options(sub, options)
        if not study.on_cpu:
            sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1.")
        sub.set_defaults(study=study, options=options)
    return top


def carry_out(given: argparse.Namespace) -> None:
    """File the runs that the command line asks for and the ledger lacks."""
    study = given.study
    device = pick_device("cpu" if study.on_cpu else given.device)
    options = vars(given.options(**given_of(given.options, given)))
    shared = {"device": device, "tell": print}
    options |= {name: shared[name] for name in shared if name in signature(study.grid).parameters}
    study.record(study.grid(**options), device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after saying what was wrong."""
    return run_command(parser(), carry_out, arguments)


if __name__ == "__main__":
    sys.exit(main())
