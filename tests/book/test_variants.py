"""Ablations of PPAP-5's training: each changes one thing, and what is done is not done again."""

import json
import re
from dataclasses import replace

import pytest
import torch

from ppap_book.errors import StudyError
from ppap_book.studies import expert_training, expert_variants
from ppap_book.studies.expert_training import ABLATION, DISTILLATION, Distillation
from ppap_book.studies.expert_variants import GUIDES, available, training, variant_of
from ppap_lib.data.imageset import Origin
from ppap_lib.data.shards import Manifest, claim, write_shard
from ppap_lib.errors import TrainingError
from ppap_lib.files import provenance
from ppap_lib.training.fit import SUMMARY
from ppap_lib.zoo.presets import EXPERTS

EACH = [(name, guide) for guide in GUIDES for name in available(guide)]
SET = str(Origin(6000, "fashion/denoiser", "ddim10"))
PHOTOGRAPHS = "Fashion-MNIST, all 60,000 train images"


def row(name, guide="resnet18", source=None, **changes):
    """A variant's parameters as the ledger holds them."""
    asked = training(name, guide)
    if source is None:
        first = "" if asked.first is None else f"the first {asked.first} of "
        source = PHOTOGRAPHS if asked.generated is None else first + SET
    made = Distillation(source=source, **expert_training.varied(asked.recorded()))
    return json.loads(json.dumps(replace(made, **changes).recorded()))


@pytest.mark.parametrize(("name", "guide"), [each for each in EACH if each[0] != "base"])
def test_a_variant_differs_in_one_thing(name, guide, tmp_path):
    """Each from the base, labels from learning of photographs, whole networks from labels."""
    from_ = {"labels": "real", "whole": "labels"}.get(name, "base")
    base, own = (vars(training(each, guide, tmp_path)) for each in (from_, name))
    (differs,) = {key for key in base if own[key] != base[key]}
    expected = {"labels": "kind", "whole": "whole", "real": "generated", "no-scale": "lora_scale"}
    assert differs == expected.get(name, differs)
    assert name in expected or name.startswith(differs.replace("_", "-"))


@pytest.mark.parametrize(("name", "guide"), EACH)
def test_a_variant_is_known_by_its_row(name, guide):
    assert variant_of(row(name, guide)) == name


def test_a_variant_is_known_at_other_tiers_and_guides():
    assert variant_of(row("base") | {"tier": "tin10", "guide": "lite0", "rank": 8}) == "base"


def test_a_row_keeps_the_names_of_its_parameters():
    """A row's file is named by them: other words would be another file."""
    assert row("shared-time", "vit", rank=8) == {
        "tier": "fashion",
        "guide": "vit",
        "kind": "transfer",
        "experts": 5,
        "rank": 8,
        "temperature": 0.25,
        "released": ["shared time"],
        "source": SET,
        "images_seen": 0,
        "sha256": "",
    }
    whole, labels = row("whole"), row("labels")
    assert (whole["rank"], labels["rank"]) == (None, 2)
    assert whole["temperature"] is labels["temperature"] is None
    assert row("base", augment=True) == {**row("base"), "augment": True}


@pytest.mark.parametrize(
    "other",
    [
        {"rank": 3},
        {"experts": 7},
        {"temperature": 2.0},
        {"source": "the first 40 of " + SET},
        {"source": PHOTOGRAPHS, "experts": 1},
        {"augment": True},
    ],
)
def test_a_training_that_differs_otherwise_is_no_variant(other):
    assert variant_of(row("base", **other)) is None


def test_only_trainings_after_as_many_images_and_of_one_set_are_compared():
    def pairs(one, other, *rows):
        return expert_variants.pairs(rows, one, other, lambda params: params)

    short, long = (row("base", images_seen=n) for n in (60, 600))
    other_set = row("base", source=SET.replace("6000", "2000"), images_seen=60)
    warm = row("warm-start", images_seen=60)
    assert pairs("warm-start", "base", long, other_set, short, warm) == [(warm, short)]
    first = row("first-500", images_seen=60)
    assert pairs("first-500", "base", other_set, short, first) == [(first, short)]
    taught = [row("real", images_seen=n) for n in (60, 600)]
    labels = [row("labels", images_seen=n) for n in (60, 600)]
    assert pairs("real", "labels", *labels, *taught) == [*zip(taught, labels, strict=True)][::-1]
    assert pairs("real", "base", taught[0], long) == []
    assert pairs("real", "base", taught[0], row("base", "vit", images_seen=60)) == []
    guided = [{**side, "scale": s} for side, s in ((warm, 7.5), (short, 2.5), (short, 7.5))]
    assert pairs("warm-start", "base", *guided) == [(guided[0], guided[2])]


def test_an_unknown_variant_is_named(tmp_path):
    with pytest.raises(StudyError, match="no variant 'rank-3' of vit: there are base, "):
        training("rank-3", "vit", tmp_path)
    with pytest.raises(StudyError, match="no variant 'no-scale' of resnet18"):
        training("no-scale", "resnet18", tmp_path)
    with pytest.raises(StudyError, match="no variants of 'lite0': there are those of resnet18"):
        available("lite0")


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize(("name", "whole"), [("labels", False), ("whole", True)])
def test_labels_are_learned_at_the_rate_of_what_is_trained(
    name, whole, guide, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        expert_variants,
        "train_experts",
        lambda training, settings, *_, **__: asked.append(settings.lr),
    )
    expert_variants.train(training(name, guide, tmp_path), 100, tmp_path)
    assert asked == [EXPERTS[guide].lr_copies if whole else EXPERTS[guide].lr]


def test_rows_have_the_commit_of_the_code_that_trained(tmp_path, moving_head, monkeypatch):
    class Killed(Exception):
        pass

    def moved(*arguments):
        moving_head.append("later")
        raise Killed

    monkeypatch.setattr(expert_variants, "train", moved)
    with pytest.raises(Killed):
        ABLATION.record(expert_variants.runs(tmp_path, only=("base",), folder=tmp_path))
    assert provenance.commit() == "earlier"


@pytest.mark.usefixtures("quick_training", "two_steps")
def test_what_is_trained_and_filed_is_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(expert_training, "HELD_OUT", 20)
    for seed, name in enumerate(("set", "other")):
        claim(tmp_path / name, Manifest(20, 0, 20, (1, 32, 32), "fashion/denoiser", ""))
        pixels = torch.randint(256, (20, 1, 32, 32), generator=torch.Generator().manual_seed(seed))
        write_shard(tmp_path / name, range(20), pixels.byte())
    calls, train = [], expert_variants.train_experts

    def counted(training, *rest, **options):
        calls.append(training)
        return train(training, *rest, **options)

    monkeypatch.setattr(expert_variants, "train_experts", counted)

    def record(images, generated="set", names=("rank-1",)):
        taught = tmp_path / generated
        runs = expert_variants.runs(
            taught, "resnet18", names, images, tmp_path, n=2, blocks=1, tell=[].append
        )
        ABLATION.record(runs, tell=[].append)
        return [[row["params"] for row in study.rows()] for study in (DISTILLATION, ABLATION)]

    trained, guided = record(100)
    assert len(calls) == len(trained) == len(guided) == 1
    assert variant_of(trained[0]) == variant_of(guided[0]) == "rank-1"
    (worth,) = expert_training.outcomes("resnet18")
    assert worth.images == 2 and not expert_training.outcomes("resnet18", scale=1.0)
    assert guided[0]["sha256"] == trained[0]["sha256"] and trained[0]["images_seen"] == 100
    assert record(100) == [trained, guided] and len(calls) == 1
    with pytest.raises(TrainingError, match="resnet18-rank-1-100 is another run's, by its teacher"):
        record(100, "other")
    with pytest.raises(StudyError, match="no variant 'rank-3' of resnet18"):
        record(200, names=("rank-1", "rank-3"))
    summary = tmp_path / "resnet18-rank-1-100" / SUMMARY
    before = summary.read_text()
    summary.write_text(before.replace('"temperature": 0.25', '"temperature": 0.5'))
    with pytest.raises(TrainingError, match="is another: temperature 0.5 there, 0.25 asked for"):
        record(100)
    summary.write_text(re.sub(r"crc32 \w+", "crc32 00000000", before))
    with pytest.raises(TrainingError, match="is another: data 20 images, crc32 00000000 there"):
        record(100)
    assert len(calls) == 1
