"""The command `ppap`: train | distill | generate | data | list.

`add_options` makes options of a dataclass's fields, `run_command` carries a command line out; other
command lines may use both.

>>> from dataclasses import dataclass
>>> from ppap_lib.parameters import Parameters, param
>>> @dataclass(frozen=True)
... class Drawing(Parameters):
...     "How images are drawn."
...     n: int = param(4, low=1, help="Number of images.")
>>> parser = CommandLine()
>>> add_options(parser, Drawing)
>>> parameters_of(Drawing, parser.parse_args(["--n", "8"]))
Drawing(n=8)
"""

from collections.abc import Sequence

from ppap_lib.cli.options import (
    CommandLine,
    add_options,
    ends_in_a_line,
    given_of,
    parameters_of,
    run_command,
)

__all__ = [
    "CommandLine",
    "add_options",
    "ends_in_a_line",
    "given_of",
    "main",
    "parameters_of",
    "run_command",
]


@ends_in_a_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command line, by default the process's own, and return the exit status."""
    from ppap_lib.cli.commands import parser  # what computes is imported when it is needed

    return run_command(parser(), lambda given: given.command(given), arguments)
