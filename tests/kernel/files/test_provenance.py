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


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A repository with a file of code and one of weights, and a function that edits one."""

    def git(*arguments):
        own = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        subprocess.run(["git", *own, *arguments], cwd=tmp_path, check=True)

    def edit(path, text="changed"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    for path in ("ppap_lib/device.py", "ppap_lib/assets/cards/judge.json", "book/intro.md"):
        edit(path, "first")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "First")
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    return edit


@pytest.mark.parametrize(
    "path", ["ppap_lib/device.py", "ppap_lib/files/new.py", "book/ppap_book/study.py"]
)
def test_code_that_was_not_committed_is_marked(checkout, path):
    assert not provenance.commit.__wrapped__().endswith("+")
    checkout(path)
    assert provenance.commit.__wrapped__().endswith("+")


def test_weights_cards_and_pages_are_no_code(checkout):
    """Rows hold the sha256 of what they depend on."""
    for path in ("ppap_lib/assets/cards/judge.json", "ppap_lib/assets/weights/x", "book/intro.md"):
        checkout(path)
    assert not provenance.commit.__wrapped__().endswith("+")
