"""The second judge: another network's features, linear in them, and as good as its file says."""

import pytest
import torch

from ppap_book import ledger
from ppap_book.claims import Claim, judge
from ppap_book.errors import StudyError
from ppap_book.measures import second_judge
from ppap_book.studies import guidance
from ppap_lib import zoo
from ppap_lib.data.fashion import shipped
from ppap_lib.files import weights
from ppap_lib.zoo import tiers


def test_it_is_as_accurate_on_images_that_ship_as_its_file_says():
    images = shipped().evenly(200)
    probe = second_judge.load("fashion")
    with torch.no_grad():
        right = (probe(images.images()).argmax(1) == images.labels).double().mean()
    stated = second_judge.accuracy("fashion")
    assert float(right) == pytest.approx(stated, abs=4 * (stated * (1 - stated) / 200) ** 0.5)


@pytest.mark.parametrize("tier", second_judge.BACKBONES)
def test_its_file_is_a_linear_map_of_the_features_onto_the_classes(tier):
    state = weights.read(second_judge.path(tier))
    features = zoo.load(second_judge.BACKBONES[tier]).network.num_features
    classes = len(tiers.tier(tier).classes)
    assert {name: list(t.shape) for name, t in state.items()} == {
        "weight": [classes, features],
        "bias": [classes],
    }
    assert 0.6 < second_judge.accuracy(tier) < 1


def test_it_judges_no_guide_of_the_family_that_it_reads_by():
    assert second_judge.judges("tin10", "resnet18")
    assert not second_judge.judges("tin10", "lite0")
    assert not second_judge.judges("imagenet256")
    with pytest.raises(StudyError, match="imagenet256 has no second judge: fit one"):
        second_judge.load("imagenet256")
    with pytest.raises(StudyError, match="no features are named for imagenet256"):
        second_judge.fit("imagenet256")


def test_the_fit_finds_the_map_that_made_the_labels():
    """On features of any scale and place, as it undoes the standardisation."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 5, generator=generator) * torch.tensor([1, 100, 1e-2, 1, 1.0]) + 7
    truth = torch.randn(3, 5, generator=generator) / torch.tensor([1, 100, 1e-2, 1, 1.0])
    y = ((x - 7) @ truth.T).argmax(1)
    head = second_judge._logistic_regression(x, y)
    with torch.no_grad():
        assert (head(x).argmax(1) == y).double().mean() > 0.95


@pytest.mark.parametrize(
    ("second", "answer"), [(50, "holds"), (0, "undecided"), (None, "holds"), (25, "undecided")]
)
def test_judges_that_disagree_decide_nothing(tmp_path, monkeypatch, second, answer):
    """Also where one is merely not sure."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    for method, first, other in (("naive", 0, 25), ("multi5", 50, second)):
        run = guidance.Guidance(method=method, n=60)
        results = {"judge_correct": [int(i < first) for i in range(60)]}
        if second is not None:
            results["second_judge_correct"] = [int(i < other) for i in range(60)]
        ledger.record(guidance.STUDY.name, run.recorded(), results, seconds=1.0)
    rows = {"method": "multi5", "over": "naive"}
    verdict = judge(Claim("a", "A.", "p", "gain", rows=rows, above=0))
    assert verdict.answer == answer
    assert ("by the second judge" in verdict.words) == (second is not None)
    assert ("the judges disagree" in verdict.words) == (answer == "undecided")
