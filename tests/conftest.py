"""Shared by all tests: what a skip means.

A test that needs a tool this machine lacks skips with a reason. Where the tools have been
installed, PPAP_NO_SKIP=1 turns a skip into a failure, so that no test is lost unnoticed. The
exception is hardware nobody can install: reasons that begin with "hardware:".
"""

import os

import hypothesis
import pytest
import torch

from ppap_book import ledger
from ppap_book.measures import cost, distances, features
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
def own_features(tmp_path, monkeypatch):
    """Features of real images are this test's alone: for tests that replace the extractor."""
    monkeypatch.setenv("PPAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distances, "extract_real", distances.extract_real.__wrapped__)


class _Pooled(torch.nn.Module):
    """Means over 9x9 patches of every channel as features, ten of them as class scores."""

    def forward(self, images):
        means = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 9).flatten(1)
        return means, means[:, :10]


@pytest.fixture
def pixel_features(own_features, monkeypatch):
    """An extractor that costs nothing in place of lite2."""
    monkeypatch.setitem(features.EXTRACTORS, "lite2", lambda device: _Pooled())


@pytest.fixture
def moving_head(monkeypatch):
    """Commits of a repository that no one asked for its HEAD yet: append to move it."""
    commits = ["earlier"]
    answers = {"--show-toplevel": lambda: str(ledger._ROOT), "HEAD": lambda: commits[-1]}
    monkeypatch.setattr(ledger, "_git", lambda *arguments: answers.get(arguments[-1], lambda: "")())
    provenance.commit.cache_clear()
    yield commits
    provenance.commit.cache_clear()


@pytest.fixture
def quick_training(monkeypatch):
    """One thread, no waiting for the disk, and no measuring of the processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(cost, "matmul_rate", lambda device, dtype: 1e12)
    yield
    torch.set_num_threads(threads)
