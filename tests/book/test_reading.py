"""The studies of reading and of attention: identities of their rows, and how rows are filed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ppap_book import ledger
from ppap_book.studies import attention, methods, noisy_accuracy
from ppap_book.study import Study
from ppap_lib import data, experts, zoo
from ppap_lib.errors import DataError, InputError, WeightsError
from ppap_lib.experts import lora
from ppap_lib.experts.intervals import Intervals
from ppap_lib.zoo import datasets
from ppap_lib.zoo.tiers import tier

FASHION = tier("fashion")


class Constant(nn.Module):
    """The same logits for every image; `slope` lets a gradient through."""

    def forward(self, images):
        base = torch.tensor([0.0, 0.0, 5.0, *[0.0] * 7])
        return base.expand(len(images), -1) + 0 * images.mean((1, 2, 3))[:, None]


@pytest.fixture
def model(monkeypatch, tmp_path):
    """Put a model into the zoo, by the name "any"."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))
    load = zoo.load

    def put(network):
        def loaded(name, device="cpu"):
            return network.eval() if name == "any" else load(name, device)

        monkeypatch.setattr(zoo, "load", loaded)

    return put


class TestReading:
    def test_a_constant_answer_is_sure_wrong_and_tells_nothing(self, model):
        model(Constant())
        found = noisy_accuracy.measure(
            noisy_accuracy.NoisyAccuracyRun("any", n=20, times=(0.0, 500.0))
        )
        sure = math.exp(5) / (math.exp(5) + 9)
        for t in (0, 1):
            assert found["accuracy"][t] == pytest.approx(0.1)
            assert found["confidence"][t] == pytest.approx(sure, abs=1e-6)
            assert found["ece"][t] == pytest.approx(sure - 0.1, abs=1e-6)
            assert found["information"][t] == pytest.approx(0, abs=1e-9)
            assert found["apart"]["footwear from tops"][t] == 0.5
            assert found["by_class"][t] == [0, 0, 1, *[0] * 7]
        assert found["favourite"] == ["pullover"] * 2
        assert found["favourite_share"] == [1, 1]
        assert found["until"][0][1] == -1 and found["until"][3][3] == 500

    def test_groups_are_classes_of_their_tier(self):
        for name, questions in noisy_accuracy.QUESTIONS.items():
            for groups in questions.values():
                assert set(groups[0]) | set(groups[1]) <= set(tier(name).classes)
                assert not set(groups[0]) & set(groups[1])

    def test_time_until_is_read_where_the_area_crosses(self):
        assert noisy_accuracy.until((0, 100, 200), (1.0, 0.8, 0.7)) == pytest.approx(150)
        assert noisy_accuracy.until((0, 100), (0.6, 0.9)) == -1

    def test_models_that_ship_are_planned_and_the_others_named(self, monkeypatch):
        for guide in FASHION.guides:
            here = list(noisy_accuracy.installed(guide).values())
            assert all(zoo.card(name).sha256 for name in here)
            assert len(here) + len(noisy_accuracy.untrained(guide)) == len(noisy_accuracy.READERS)
        # Sets that the zoo has no cards of.
        found = noisy_accuracy.installed("lite0", "tin10")
        assert found == {"naive": "tin10/lite0", "ppap5": "tin10/ppap5-lite0"}
        assert [p.model for p in noisy_accuracy.grid()][0] == "fashion/resnet18"
        monkeypatch.setattr(methods.zoo, "obtainable", lambda name: False)
        assert noisy_accuracy.installed("resnet18", "tin10") == {}
        assert len(noisy_accuracy.untrained("resnet18", "tin10")) == len(noisy_accuracy.READERS)

    def test_wrong_runs_are_refused(self):
        with pytest.raises(InputError, match="20 photographs"):
            noisy_accuracy.NoisyAccuracyRun("any", "photographs", 21)
        with pytest.raises(InputError, match="must rise"):
            noisy_accuracy.NoisyAccuracyRun("any", times=(100.0, 0.0))

    def test_the_off_the_shelf_classifier_agrees_with_the_first_measurement(self):
        """Entropy in nats and top-1 on the 20 photographs, measured once with other noise."""
        try:
            data.folders.imagenet_photographs(32)
            zoo.load(noisy_accuracy.OFF_THE_SHELF)
        except (DataError, WeightsError) as error:
            pytest.skip(str(error))
        found = noisy_accuracy.measure(
            replace(noisy_accuracy.photographs(), times=(0.0, 300.0, 900.0))
        )
        assert found["entropy"] == pytest.approx([1.38, 5.36, 4.15], abs=0.25)
        assert found["accuracy"] == pytest.approx([0.88, 0.0, 0.0], abs=0.1)
        assert found["information"][2] < 0.1 < 1 < found["information"][0]


class TestAttention:
    PARAMS = attention.AttentionRun("any", "layer3", n=10, times=(100.0, 700.0))

    @staticmethod
    def backbone():
        return zoo.load("fashion/resnet18").network

    def test_fresh_experts_look_where_their_backbone_looks(self, model):
        model(self.backbone())
        clean = attention.measure(self.PARAMS)
        config = lora.resnet_lora(self.backbone(), rank=2)
        three = experts.low_rank(self.backbone(), config, Intervals(1000, 3))
        model(three)
        same = attention.measure(self.PARAMS)
        for name in (*attention.MEASURES, "empty", "accuracy"):
            assert np.shape(clean[name]) == (1, 2) and np.shape(same[name]) == (3, 2)
            np.testing.assert_allclose(same[name], 3 * clean[name], rtol=1e-6)
        for trends in same["trend"].values():
            assert all(
                (entry["mean"], entry["low"], entry["high"]) == (0, 0, 0) for entry in trends
            )
        assert clean["trend"] == clean["overall"] == {} and clean["centre"] == same["centre"]
        assert clean["random"] == pytest.approx(1, abs=0.1)

        for parameter in three.bank[2].parameters():
            nn.init.normal_(parameter, std=0.05)
        changed = attention.measure(self.PARAMS)
        for name in ("frequency", "empty", "accuracy"):
            np.testing.assert_allclose(changed[name][:2], same[name][:2], rtol=1e-6)
        for name in attention.MEASURES:
            assert not np.allclose(changed[name][2], same[name][2])

    def test_the_trend_is_the_least_squares_slope(self):
        values = torch.rand(4, 2, 30, dtype=torch.float64)
        values += 3 * torch.arange(4).view(4, 1, 1)
        place = torch.arange(4.0, dtype=torch.float64)
        for t, slopes in enumerate(attention._slopes(values)):
            found = attention._estimate(slopes)
            design = torch.stack([torch.ones(4, dtype=torch.float64), place], 1)
            slope = torch.linalg.lstsq(design, values[:, t].mean(1, keepdim=True)).solution[1]
            assert found["mean"] == pytest.approx(slope.item()) and found["images"] == 30
            assert found["low"] < found["mean"] < found["high"]

    def test_an_image_counts_where_no_experts_map_is_empty(self, monkeypatch):
        found = torch.rand(2, 2, 6, 5, dtype=torch.float64)  # experts, times, images, columns
        found[1, 0, :2, :2] = torch.nan  # expert 2 finds nothing in two images, at the first time
        monkeypatch.setattr(
            attention, "matrix", lambda *_: (found, torch.ones(6, 4, 4, dtype=torch.bool))
        )
        row = attention.measure(attention.AttentionRun("any", "any", n=6, times=(100.0, 700.0)))
        assert row["kept"] == {"inside": [4, 6], "entropy": [4, 6], "frequency": [6, 6]}
        expected = [found[0, 0, 2:, 1].mean().item(), found[0, 1, :, 1].mean().item()]
        assert row["entropy"][0] == pytest.approx(expected)  # expert 1 on the same images
        assert [entry["images"] for entry in row["trend"]["entropy"]] == [4, 6]
        steps = (found[1] - found[0])[..., 1]
        assert row["overall"]["entropy"]["images"] == 6
        means = [steps[0, 2:].mean().item(), steps[1].mean().item()]
        assert row["overall"]["entropy"]["mean"] == pytest.approx(sum(means) / 2)

    def test_a_trend_of_less_than_two_images_is_not_known(self):
        found = attention._estimate(torch.tensor([1.0, torch.nan]))
        assert found.pop("images") == 1 and all(math.isnan(end) for end in found.values())

    def test_objects_are_in_their_boxes_where_a_box_leaves_room(self, model, monkeypatch):
        edges = [[0, 0, 32, 16], [8, 8, 24, 24], [0, 0, 32, 15], [0, 0, 9, 9], [4, 4, 5, 5]]
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator)
        ten = tier("tin10")
        found = data.ImageSet(
            pixels, torch.arange(5), ten.classes, "here", torch.tensor(edges) * 1.0
        )
        monkeypatch.setattr(datasets, "test_images", lambda name: found)
        chosen, masks = attention.objects("tin10", 4)
        assert chosen.labels.tolist() == [1, 2, 3, 4]  # the first box covers half
        areas = [16 * 16, 32 * 15, 9 * 9, 1]
        assert masks.flatten(1).sum(1).tolist() == areas
        with pytest.raises(DataError, match="the first 5 of 4 images"):
            attention.objects("tin10", 5)

        torch.manual_seed(0)
        model(ten.classifier("resnet18"))
        row = attention.measure(
            attention.AttentionRun("any", "layer3", "tin10", n=4, times=(100.0,))
        )
        assert row["area"] == pytest.approx(sum(areas) / 4 / 32**2)
        assert row["kept"]["frequency"] == [4]

    def test_every_guide_has_a_layer(self):
        assert attention.LAYERS.keys() == set(FASHION.guides)
        for guide, layer in attention.LAYERS.items():
            FASHION.classifier(guide).get_submodule(layer.removeprefix("network."))


class TestFiling:
    def test_a_run_is_filed_once_and_gathered(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
        names = [f"fashion/{guide}" for guide in FASHION.guides]
        runs = [noisy_accuracy.NoisyAccuracyRun(name, n=30, times=(0.0, 900.0)) for name in names]
        asked = []

        def measure(params, device="cpu"):
            asked.append((params.model, params.n))
            return {"accuracy": [float(params.n)] * 2}

        reading = Study("reading", "Is it filed?", runs[0].__class__, lambda: runs, measure)
        rows, missing = reading.gather(runs, n=10)
        assert missing == runs and asked == [(name, 10) for name in names]
        assert [row["accuracy"] for row in rows] == [[10, 10]] * 2
        assert reading.rows() == []  # a sketch is not filed

        told = []
        timed = replace(reading, measure=lambda *a: measure(*a) | {"seconds": 3.0})
        timed.record(runs[:1], tell=told.append)
        assert told == [f"reading/{ledger.digest(runs[0].recorded())}.json, 3 s"]
        (row,) = reading.rows()  # its seconds are what the measure says
        assert row["seconds"] == 3.0 and "seconds" not in row["results"]
        rows, missing = reading.gather(runs, n=10)
        assert missing == runs[1:] and {row["n"] for row in rows} == {10}

        reading.record(runs, tell=told.append)
        assert len(told) == 2 and len(reading.rows()) == 2
        del asked[:]
        rows, missing = reading.gather(runs, n=10)
        assert not missing and not asked and {row["n"] for row in rows} == {30}
