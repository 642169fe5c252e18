"""Drawing: what the axes hold is what was handed in, and what cannot be drawn is refused."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ppap_book import plots
from ppap_book.errors import StudyError


@pytest.fixture
def ax():
    return Figure().subplots()


def test_a_comparison_ticks_what_is_right():
    axes = Figure().subplots(2, 3)
    named = {"none": torch.zeros(3, 1, 2, 2), "naive": torch.ones(3, 1, 2, 2)}
    plots.comparison(axes, named, {"none": [0, 0, 1], "naive": [1, 0, 0]}, ["a", "b", "c"])
    assert [[ax.get_xlabel() for ax in row] for row in axes] == [["", "", "✓"], ["✓", "", ""]]
    assert [ax.get_title() for ax in axes[0]] == ["a", "b", "c"] and not axes[1, 0].get_title()
    assert axes[1, 0].get_ylabel() == "naive" and axes[1, 1].images[0].get_array().max() == 1
    with pytest.raises(StudyError, match="verdicts for none"):
        plots.comparison(axes, named, {"none": [0, 0, 1]}, ["a", "b", "c"])


def test_a_map_lies_over_its_image_by_its_own_maximum(ax):
    attention = torch.zeros(4, 4)
    attention[1, 2] = 5.0
    image, over = plots.overlay(ax, torch.ones(3, 4, 4), attention).images
    assert image.get_array().shape == (4, 4)
    assert over.get_array()[1, 2] == 1 and over.get_array().sum() == 1
    assert (np.asarray(over.get_alpha()) > 0).sum() == 1  # elsewhere the image shows through


def test_an_empty_map_leaves_the_image_bare(ax):
    over = plots.overlay(ax, torch.ones(1, 4, 4), torch.zeros(4, 4)).images[1]
    assert not np.asarray(over.get_alpha()).any()
    with pytest.raises(StudyError, match="over an image"):
        plots.overlay(ax, torch.ones(1, 4, 4), torch.zeros(4, 5))


def test_a_matrix_prints_its_numbers_and_frames_cells(ax):
    values = np.array([[1.0, 2.5], [3.25, 4.0], [5.0, 6.0]])
    plots.matrix(ax, values, ["a", "b", "c"], ["x", "y"], digits=1, framed=[(2, 0)])
    assert [text.get_text() for text in ax.texts] == ["1.0", "2.5", "3.2", "4.0", "5.0", "6.0"]
    assert [patch.get_xy() for patch in ax.patches] == [(0, 2)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    with pytest.raises(StudyError, match="3 rows"):
        plots.matrix(ax, values.T, ["a", "b", "c"], ["x", "y"])


def test_a_logarithmic_axis_is_labelled_in_plain_numbers(ax):
    ax.set(yscale="log", ylim=(0.02, 0.5))
    plots.plain_log(ax.yaxis)
    ax.figure.canvas.draw()
    labels = {label.get_text() for label in ax.get_yticklabels()}
    assert {"0.03", "0.1", "0.3"} <= labels and not ax.yaxis.get_minorticklocs().size
