"""The commit that a result is filed under is that of the code which ran."""

import subprocess

import pytest

from ppap_lib.files import provenance


def test_the_commit_is_the_checkouts():
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=provenance._ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        head = None
    assert (provenance.commit() or "").rstrip("+") == (head or "")


def test_a_commit_made_meanwhile_is_not_that_of_the_code_that_runs(monkeypatch):
    before = provenance.commit()
    monkeypatch.setattr(provenance, "_git", lambda *arguments: "another")
    assert provenance.commit() == before


@pytest.mark.parametrize("within", [False, True])
def test_without_a_checkout_of_its_own_the_commit_is_the_environments(
    monkeypatch, tmp_path, within
):
    copy = tmp_path / "vendored" / "project"
    copy.mkdir(parents=True)
    if within:  # another project's repository
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(provenance, "_ROOT", copy)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("PPAP_COMMIT", "abc")
    assert provenance.commit.__wrapped__() == "abc"
