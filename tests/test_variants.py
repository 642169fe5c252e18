"""Ablations of PPAP-5's training: each changes one thing, and what is done is not done again."""

import pytest
import torch

from ppap_lib import ledger
from ppap_lib.data.generated import Manifest, claim, write_shard
from ppap_lib.distill import __main__ as command_line
from ppap_lib.studies import ablation, distillation, variants
from ppap_lib.studies.variants import VARIANTS, VariantError, command

PARSER = command_line._parser()


def given(name, tmp_path):
    return vars(PARSER.parse_args(command(name, "resnet18", tmp_path, 100, tmp_path, "cpu")))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "base"])
def test_a_variant_differs_from_the_base_in_one_thing(name, tmp_path):
    base, own = given("base", tmp_path), given(name, tmp_path)
    differing = {key for key in base if own.get(key, base[key]) != base[key]}
    if name == "labels":  # the preset's rank, which the base has without saying so
        assert own["rank"] == 2 and differing == {"kind", "rank"}
    elif name == "real":
        assert differing == {"data", "labelled"}
    else:
        (differs,) = differing
        assert name.startswith(differs.replace("_", "-"))


def test_an_unknown_variant_is_named(tmp_path):
    with pytest.raises(VariantError, match="no variant 'rank-3': there are base, "):
        command("rank-3", "resnet18", tmp_path, 100, tmp_path)


@pytest.mark.usefixtures("quick_training")
def test_what_is_trained_and_filed_is_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(command_line, "HELD_OUT", 2)
    monkeypatch.setattr(distillation, "HELD_OUT", 2)
    claim(tmp_path / "set", Manifest(20, 0, 20, (1, 32, 32), "fashion/denoiser", ""))
    pixels = torch.randint(256, (20, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    write_shard(tmp_path / "set", range(20), pixels.byte())
    calls, distill = [], variants.distill
    monkeypatch.setattr(variants, "distill", lambda words: calls.append(words) or distill(words))
    asked = (["rank-1"], "resnet18", tmp_path / "set")

    def record(images):
        variants.record(*asked, images, tmp_path, n=2, blocks=1, tell=lambda line: None)
        kinds = (distillation.STUDY, ablation.STUDY)
        return [[row["params"] for row in ledger.rows(study)] for study in kinds]

    trained, guided = record(100)
    assert len(calls) == len(trained) == len(guided) == 1
    assert trained[0]["rank"] == guided[0]["rank"] == 1
    assert guided[0]["sha256"] == trained[0]["sha256"] and trained[0]["images_seen"] == 100
    assert record(100) == [trained, guided] and len(calls) == 1


@pytest.mark.usefixtures("quick_training")
def test_a_training_that_stops_says_so(tmp_path):
    with pytest.raises(VariantError, match="the training of base stopped"):
        variants.train("base", "resnet18", tmp_path / "nothing", 100, tmp_path, "cpu")
