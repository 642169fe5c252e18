"""Shared by the tests of the book: drawing and features that cost little."""

import pytest
import torch

from ppap_book.measures import distances, features
from ppap_book.studies import guidance
from ppap_lib.samplers import ddim


@pytest.fixture
def two_steps(monkeypatch):
    """Two steps instead of twenty-five in the guidance study, of four images at a time."""
    monkeypatch.setattr("ppap_lib.samplers.draw.usual_batch", lambda device, shape: 4)
    monkeypatch.setattr(guidance, "sampler", lambda name: guidance.Sampler("2", ddim, "score"))


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
