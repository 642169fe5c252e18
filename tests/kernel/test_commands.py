"""What command lines have in common: messages in place of tracebacks."""

import argparse
from pathlib import Path

import pytest

from ppap_lib.cli import run_command
from ppap_lib.errors import InputError
from ppap_lib.files.atomic import write_text


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
