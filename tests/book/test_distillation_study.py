"""Filing a training of experts: what it cost, what it holds, and how it read noisy images."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ppap_book import ledger
from ppap_book.errors import StudyError
from ppap_book.measures.noisy_accuracy import accuracy_by_t
from ppap_book.studies import expert_training, guidance, methods
from ppap_book.studies.expert_training import ABLATION, DISTILLATION
from ppap_lib import distill, experts, zoo
from ppap_lib.data.fashion import shipped
from ppap_lib.errors import InputError, TrainingError, WeightsError
from ppap_lib.experts.intervals import Intervals
from ppap_lib.files import weights
from ppap_lib.zoo import datasets, loading

FILE = "experts.safetensors"


def nbytes(module):
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A finished run of two untrained updates, with one snapshot."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(datasets, "test_images", lambda tier: shipped().per_class(2))
    monkeypatch.setattr(expert_training, "HELD_OUT", 20)
    monkeypatch.setattr(expert_training, "TIMES", (0, 500))
    made = distill.updates(zoo.load("fashion/resnet18"), "resnet18", Intervals(1000, 2), rank=1)
    run = tmp_path / "run"
    experts.save(made, run / FILE, "fashion/resnet18", zoo.card("fashion/resnet18").sha256)
    weights.save(made.state_dict(), run / "snapshots" / "000000064.safetensors", torch.float16)
    summary = {
        "tier": "fashion",
        "guide": "resnet18",
        "kind": "transfer",
        "experts": 2,
        "rank": 1,
        "temperature": 0.25,
        "released": {"warm start": False, "shared time": True, "no scale": False},
        "source": "20 generated images",
        "trunk": "fashion/resnet18",
        "trunk_parameters": 701178,
        "parameters": 9,
        "share_of_trunk": 0.1,
        "images_seen": 128,
        "images_per_second": 3.0,
        "seconds": 42.0,
        "settings": {"batch": 64, "snapshots": [64]},
        "speed": {"device": "a CPU"},
        "file": FILE,
        "sha256": weights.sha256(run / FILE),
    }
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_a_run_is_filed_with_its_cost_and_its_course(folder):
    DISTILLATION.record(expert_training.distillations(folder), tell=lambda line: None)
    (row,) = DISTILLATION.rows()
    assert row["params"]["released"] == ["shared time"] and row["params"]["rank"] == 1
    results = row["results"]
    assert results["training_seconds"] == 42.0 and results["settings"] == {"batch": 64}
    made = experts.read(folder / FILE, zoo.load("fashion/resnet18"))
    backbone = nbytes(zoo.load("fashion/resnet18"))
    assert results["memory_bytes"] == backbone + nbytes(made.bank.updates) < 2 * backbone
    # Updates are zero at the start, so both readings are the clean network's own.
    clean = accuracy_by_t(
        zoo.load("fashion/resnet18"),
        shipped().per_class(2).images(),
        shipped().per_class(2).labels,
        zoo.schedule("fashion/denoiser"),
        (0, 500),
    )
    for readings in (results["readings"], results["course"][0]["readings"]):
        assert [r["accuracy"] for r in readings] == [r.accuracy for r in clean]
    assert results["course"][0]["images"] == 64


def test_a_row_has_the_commit_that_read_and_the_one_that_trained(folder, moving_head, monkeypatch):
    summary = json.loads((folder / "summary.json").read_text())
    more = {"commit": "much earlier", "versions": {"torch": "2"}, "data": "20 images, crc32 1"}
    more["generated"] = {"n": 20, "denoiser": "fashion/denoiser", "sha256": "0" * 64}
    (folder / "summary.json").write_text(json.dumps(summary | more))

    def moved(*arguments):
        moving_head.append("later")
        return []

    monkeypatch.setattr(expert_training, "readings", moved)
    DISTILLATION.record(expert_training.distillations(folder), tell=lambda line: None)
    (row,) = DISTILLATION.rows()
    assert row["commit"] == "earlier" and row["results"]["trained_by"] == "much earlier"
    assert row["results"]["trained_with"] == {"torch": "2"}
    assert row["results"]["generated"] == more["generated"]
    assert row["results"]["data"] == "20 images, crc32 1"


def test_a_run_without_snapshots_has_no_course(folder):
    (folder / "snapshots" / "000000064.safetensors").unlink()
    DISTILLATION.record(expert_training.distillations(folder), tell=lambda line: None)
    assert DISTILLATION.rows()[0]["results"]["course"] == []


def test_a_run_of_another_backbone_another_file_or_none_at_all_is_refused(folder, monkeypatch):
    found = zoo.card("fashion/resnet18")
    with monkeypatch.context() as patch:
        another = dataclasses.replace(found, sha256="1" * 64)
        patch.setattr(loading, "read_card", lambda *which: another)
        with pytest.raises(WeightsError, match="has 1111.*: train the experts again"):
            expert_training.finished(folder)
    experts.save(experts.full_copies(zoo.load("fashion/vit"), Intervals(1000, 1)), folder / FILE)
    with pytest.raises(WeightsError, match="experts.safetensors has sha256 .*, expected"):
        expert_training.finished(folder)
    with pytest.raises(TrainingError, match="no finished training in nowhere: run .*distill first"):
        expert_training.finished(Path("nowhere"))


def test_copies_hold_every_network(folder):
    one = zoo.load("fashion/resnet18")
    copies = experts.full_copies(one, Intervals(1000, 3))
    assert expert_training.held(copies) == 3 * nbytes(one)


def test_untrained_updates_guide_as_the_clean_network_does(folder, two_steps):
    naive = guidance.Guidance(method="naive", n=4, first_seed=4)
    expected = guidance.judged(naive, guidance.draw(naive))
    told, training = [], expert_training.finished(folder)[0]
    runs = expert_training.ablations(folder, n=4, blocks=2)
    ABLATION.record(runs, tell=told.append)
    rows = {row["params"]["first_seed"]: row for row in ABLATION.rows()}
    assert set(rows) == {0, 4} and len(told) == 2
    assert {key: rows[4]["results"][key] for key in expected} == expected
    assert runs == expert_training.guided_by(training, n=4, blocks=2)
    asked = runs[1].recorded()
    assert ledger.digest(asked) == ledger.digest(rows[4]["params"])
    assert asked["experts"] == 2 and asked["released"] == ("shared time",)
    assert (asked["sampler"], asked["form"]) == ("ddim25", "score")
    ABLATION.record(runs, tell=told.append)
    assert len(told) == 2  # what is there is not run again
    scales = [
        (run.first_seed, run.scale) for run in expert_training.guided_by(training, (1, 2.5), 4, 2)
    ]
    assert scales == [(0, 1.0), (0, 2.5), (4, 1.0), (4, 2.5)]


def test_of_what_ships_the_training_is_the_ledgers(tmp_path, monkeypatch):
    """Here with an empty ledger, then with a row of a training whose result ships."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    name = "fashion/ppap5-resnet18"
    with pytest.raises(InputError, match=f"no training of {name} with sha256"):
        expert_training.of_the_zoo(name)
    made = expert_training.Distillation(
        "fashion", "resnet18", "transfer", 5, images_seen=7, sha256=zoo.card(name).sha256
    )
    ledger.record(DISTILLATION.name, made.recorded(), {}, seconds=1.0)
    training, trained = expert_training.of_the_zoo(name)
    assert training == dataclasses.replace(made, place=name) and len(trained) == 5
    (run,) = expert_training.ablations(shipped=name)
    assert run.place == name and run.recorded()["images_seen"] == 7


def test_experts_are_of_a_folder_or_of_the_zoo(folder):
    for which in ({}, {"folder": folder, "shipped": "fashion/ppap5-resnet18"}):
        with pytest.raises(StudyError, match="by --folder or by --shipped"):
            expert_training.ablations(**which)


def test_a_row_of_another_denoiser_is_not_current(folder):
    training, *_ = expert_training.finished(folder)
    (made,) = expert_training.guided_by(training)
    assert methods.is_current(made.recorded())
    for digest in ("denoiser_sha256", "judge_sha256"):
        assert not methods.is_current(made.recorded() | {digest: "0" * 64})
