"""Shared by all tests: what a skip means.

A test that needs a tool this machine lacks skips with a reason. Where the tools have been
installed, PPAP_NO_SKIP=1 turns a skip into a failure, so that no test is lost unnoticed. The
exception is hardware nobody can install: reasons that begin with "hardware:".
"""

import os

import hypothesis
import pytest
import torch

from ppap_lib.files import provenance

# The same examples on every machine, and no time limit: the suite asserts nothing about speed.
hypothesis.settings.register_profile("ppap", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("ppap")


def forbidden_skip(reason: str) -> bool:
    """Whether a skip with this reason is a failure here."""
    return bool(os.environ.get("PPAP_NO_SKIP")) and not reason.startswith("hardware:")


def _fail_if_skipped(report) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if forbidden_skip(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped, but PPAP_NO_SKIP is set: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.fixture
def moving_head(monkeypatch):
    """Commits of a repository that no one asked for its HEAD yet: append to move it."""
    commits = ["earlier"]
    answers = {"--show-toplevel": lambda: str(provenance._ROOT), "HEAD": lambda: commits[-1]}
    monkeypatch.setattr(
        provenance, "_git", lambda *arguments: answers.get(arguments[-1], lambda: "")()
    )
    provenance.commit.cache_clear()
    yield commits
    provenance.commit.cache_clear()


@pytest.fixture
def quick_training(monkeypatch):
    """One thread, and no waiting for the disk."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    yield
    torch.set_num_threads(threads)
