"""The scale study: variety within a class, saturation, and its rows."""

import pytest
import torch

from ppap_book.errors import StudyError
from ppap_book.studies import guidance_outcomes, scales
from ppap_book.studies.guidance import Guidance


def test_pixels_at_the_ends_are_those_that_bytes_show_there():
    images = torch.tensor([-1.0, -0.997, -0.9, 0.0, 0.9, 0.997, 1.0, 1.0]).view(1, 1, 2, 4)
    found = scales.at_the_ends(images)
    assert found["black"].tolist() == [2 / 8] and found["white"].tolist() == [3 / 8]
    wild = 5 * images
    clamped = scales.at_the_ends(wild.clamp(-1, 1))
    assert all(torch.equal(a, clamped[k]) for k, a in scales.at_the_ends(wild).items())


def test_spread_is_the_mean_distance_within_classes():
    vectors = torch.tensor([[0.0, 0], [100, 0], [3, 4], [100, 1], [0, 0], [50, 50]])
    labels = torch.tensor([0, 1, 0, 1, 0, 2])
    # Class 0: 5, 0, 5; class 1: 1; class 2 has one image only.
    assert scales.spread(vectors, labels) == pytest.approx((10 / 3 + 1) / 2)
    assert scales.spread(torch.ones(4, 3), torch.tensor([0, 0, 1, 1])) == 0
    with pytest.raises(StudyError, match="no class has two images"):
        scales.spread(vectors[:2], labels[:2])


def test_the_grid_has_no_guidance_once_a_block():
    runs = scales.grid(("naive", "x0_fixed"), n=20, blocks=2)
    assert [run.method for run in runs].count("none") == 2
    assert len(runs) == 2 * (1 + 2 * len(scales.SCALES))
    assert {run.first_seed for run in runs} == {0, 20}


def test_rows_can_be_pooled_like_the_guidance_study_s(
    monkeypatch, tmp_path, pixel_features, two_steps
):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    runs = [Guidance(method="naive", scale=s, n=20) for s in (1.0, 1000.0)]
    scales.STUDY.record(runs, tell=lambda line: None)
    weak, strong = (scales.STUDY.find(run)["results"] for run in runs)
    assert "kid" not in weak  # twenty images have no distance
    assert weak["spread_real"] == strong["spread_real"] > 0
    assert strong["white"] > weak["white"]  # so strong a push ends at the ends
    assert [o.scale for o in guidance_outcomes.outcomes(scales.STUDY.rows())] == [1.0, 1000.0]
