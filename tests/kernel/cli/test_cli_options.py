"""What command lines have in common: options of dataclasses, messages in place of tracebacks."""

import argparse
import doctest
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from closed_pipes import unread

from ppap_lib import cli, zoo
from ppap_lib.cli import CommandLine, add_options, given_of, run_command
from ppap_lib.cli.commands import parser
from ppap_lib.device import torchrun_rank
from ppap_lib.errors import InputError
from ppap_lib.files.atomic import write_text
from ppap_lib.parameters import Parameters, param


def write(folder: Path) -> int:
    """The status of a command that writes a file into `folder`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    act = lambda given: write_text(given.folder / "a", "text")  # noqa: E731
    return run_command(parser, act, ["--folder", str(folder)])


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_place_of_the_folder(below, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert write(tmp_path / "file" / below) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'file'}")
    assert said.endswith(": give another --folder\n") and said.count("\n") == 1


def test_a_path_that_no_option_named(capsys):
    def act(given):
        raise PermissionError(13, "Permission denied", "elsewhere")

    assert run_command(argparse.ArgumentParser(), act, []) == 1
    assert capsys.readouterr().err == "error: elsewhere: Permission denied\n"


def test_an_error_of_the_package_is_a_message_and_any_other_is_raised(capsys):
    def refuse(given):
        raise InputError("give one seed per image")

    assert run_command(argparse.ArgumentParser(), refuse, []) == 1
    assert capsys.readouterr().err == "error: give one seed per image\n"

    def break_down(given):
        raise ValueError("a fault of the program")

    with pytest.raises(ValueError, match="a fault of the program"):
        run_command(argparse.ArgumentParser(), break_down, [])


def test_other_faults_of_the_system_are_raised():
    def act(given):
        raise FileNotFoundError(2, "No such file or directory", "expected")

    with pytest.raises(FileNotFoundError):
        run_command(argparse.ArgumentParser(), act, [])


def test_what_can_be_written_is(tmp_path):
    assert write(tmp_path / "new") == 0 and (tmp_path / "new" / "a").read_text() == "text"


@dataclass(frozen=True)
class Sampling(Parameters):
    """How images are drawn."""

    solver: Literal["ddim", "heun"]
    n: int = param(help="Number of images.")
    steps: int | None = param(None, low=1, help="Number of steps.")
    scale: float = param(7.5, help="Strength, in 100% of the plain one.")
    clip: bool = True
    range: tuple[int, int] = (0, 1000)
    seeds: tuple[int, ...] = ()
    folder: Path | None = None


def read(*words: str, **how) -> Sampling:
    made = CommandLine(prog="draw")
    add_options(made, Sampling, positional=("solver",), **how)
    return Sampling.of(given_of(Sampling, made.parse_args(words)))


def test_options_are_the_fields_and_what_is_not_given_is_theirs():
    assert read("ddim", "--n", "3") == Sampling("ddim", 3)
    words = "heun --n 3 --steps 4 --scale 2 --no-clip --range 5 9 --seeds 1 2 3 --folder a/b"
    given = Sampling("heun", 3, 4, 2.0, False, (5, 9), (1, 2, 3), Path("a/b"))
    assert read(*words.split()) == given
    assert read("ddim", "--count", "3", names={"n": "count"}) == Sampling("ddim", 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("ddim", "required: --n"),
        ("euler --n 3", "invalid choice: 'euler': there are ddim, heun"),
        ("ddim --n some", "--n: 'some' is no whole number"),
        ("ddim --n 2.5", "'2.5' is no whole number"),
        ("ddim --n 1e999999999", "is no whole number"),
        ("ddim --n inf", "is no whole number"),
        ("ddim --n None", "'None' is no whole number"),
        ("ddim --n 3 --scale 7,5", "--scale: invalid float value: '7,5'"),
        ("ddim --n 3 --range 5", "--range: expected 2 arguments"),
        ("ddim --n 3 --folder=", "the path is empty"),
        ("ddim --n 3 --stpes 4", "--stpes 4: did you mean '--steps'?"),
        ("ddim --n 3 --step=4", "--step=4: did you mean '--steps'?"),  # shortened
        ("ddim --n 3 --clip False", "False: --clip take no value, and have an opposite, --no-..."),
        ("ddim --n 3 more", "unrecognized arguments: more"),
    ],
)
def test_a_command_line_that_does_not_fit_ends_in_a_line(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        read(*words.split())
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.endswith("; draw --help says more\n")
    assert says in said and said.count("\n") == 1


def test_values_are_read_as_shells_and_scripts_give_them(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = read("ddim", "--n", "1e3", "--steps", "None", "--scale", "1e3", "--folder", "~/x")
    assert given == Sampling("ddim", 1000, None, 1000.0, folder=Path("/home/me/x"))
    assert type(given.n) is int
    assert read("ddim", "--n", "1_000", "--folder", "None").folder is None


def test_a_value_out_of_its_range_is_the_dataclass_s_to_refuse():
    with pytest.raises(InputError, match="steps must be at least 1"):
        read("ddim", "--n", "3", "--steps", "0")


def test_help_says_the_sentences_and_the_defaults():
    made = argparse.ArgumentParser()
    add_options(made, Sampling, without=("range",))
    said = " ".join(made.format_help().split())
    assert "How images are drawn:" in said and "--range" not in said
    assert "Strength, in 100% of the plain one. Default: 7.5." in said
    assert "--clip, --no-clip Default: yes." in said
    assert "--steps STEPS Number of steps. --scale" in said


def test_the_example_runs():
    result = doctest.testmod(cli)
    assert result.attempted > 3 and not result.failed


def test_a_type_that_no_option_can_have_is_a_fault_of_the_program():
    @dataclass
    class Odd:
        """Nothing to type."""

        table: dict

    with pytest.raises(TypeError, match="table: an option cannot have the type"):
        add_options(argparse.ArgumentParser(), Odd)


@pytest.mark.parametrize("name", ["train", "distill", "generate", "data", "list"])
def test_every_option_of_ppap_is_explained_by_a_sentence(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: ppap {name}")
    (commands,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    for action in commands.choices[name]._actions[1:]:
        assert re.fullmatch(r"(auto|fashion|[A-Z]).*\.", action.help), action.dest


def test_the_list_has_a_line_a_network(capsys):
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines] == zoo.names()
    assert any(line.startswith("efficientnet_lite0 | classifier | 3x224x224") for line in lines)


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "ppap_lib"], [str(Path(sys.executable).with_name("ppap"))]]
)
def test_both_ways_to_start_it_reach_the_same_command(command):
    done = subprocess.run([*command, "generate"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "error: the following arguments are required: --images, --folder; "
        "ppap generate --help says more\n"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "invalid choice: 'trian': did you mean 'train'?"),
        (["train", "resnet"], "invalid choice: 'resnet': did you mean 'resnet18'?"),
        (["train", "judge", "--images-seen", "5"], "did you mean '--images'?"),
        (["train", "judge", "--quiet", "False"], "take no value"),
        (["generate", "--images", "5", "--folder", ""], "the path is empty"),
        (["list", "all"], "unrecognized arguments: all"),
        ([], "required: train|distill|generate|data|list"),
    ],
)
def test_a_wrong_word_of_ppap_is_named_in_a_line(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


@pytest.mark.parametrize(("words", "status"), [("list", 141), ("train --help", 0)])
def test_nobody_reads_on(words, status):
    """argparse itself forgives that its help is not read."""
    assert unread("-m", "ppap_lib", *words.split()) == ("", status)


@pytest.mark.parametrize("words", ["", "two steps are kept"])
def test_ctrl_c_ends_in_a_line(words, capsys):
    def interrupted(given):
        raise KeyboardInterrupt(words)

    with pytest.raises(SystemExit, match="130"):
        run_command(CommandLine(), interrupted, [])
    assert capsys.readouterr().err == (words or "interrupted") + "\n"


RANKS = {
    "RANK=": (0, 1),
    "RANK= WORLD_SIZE=": (0, 1),
    "RANK=1 WORLD_SIZE=2": (1, 2),
    "RANK=1": "RANK=1 and WORLD_SIZE= are no process's environment",
    "WORLD_SIZE=8": "RANK= and WORLD_SIZE=8",
    "RANK=2 WORLD_SIZE=2": "RANK=2 and WORLD_SIZE=2",
    "RANK=-1 WORLD_SIZE=2": "RANK=-1 is no process's number",
    "RANK=one WORLD_SIZE=2": "RANK=one is no process's number",
    "RANK=0 WORLD_SIZE=1.5": "WORLD_SIZE=1.5 is no process's number",
}


@pytest.mark.parametrize("environment", RANKS)
def test_a_process_knows_its_number_or_refuses(environment, monkeypatch):
    for variable in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    for word in environment.split():
        monkeypatch.setenv(*word.split("="))
    expected = RANKS[environment]
    if isinstance(expected, tuple):
        assert torchrun_rank() == expected
    else:
        with pytest.raises(InputError, match=expected):
            torchrun_rank()
