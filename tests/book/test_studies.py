"""Studies from a run's folder to the ledger, with a cheap extractor in place of the real one."""

import json
import re
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
import torch
from closed_pipes import unread

from ppap_book import __main__ as everything
from ppap_book import ledger
from ppap_book import run as command
from ppap_book.run import main
from ppap_book.studies import denoiser_training, guidance
from ppap_book.studies.denoiser_training import CURVE, TRAINING
from ppap_book.study import Study, training_provenance
from ppap_lib import zoo
from ppap_lib.diffusion.denoisers import ADAPTERS
from ppap_lib.errors import InputError, TrainingError
from ppap_lib.files import weights
from ppap_lib.parameters import HELP
from ppap_lib.training import fit
from ppap_lib.zoo.tiers import GuideName, TierName, tier


@pytest.fixture
def run_folder(tmp_path, monkeypatch, pixel_features):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))
    torch.manual_seed(0)
    folder = tmp_path / "run"
    for seen in (64, 128):
        state = tier("fashion").denoiser().state_dict()
        weights.save(state, folder / "snapshots" / f"{seen:09d}.safetensors", torch.float16)
    weights.save(state, folder / "ema.safetensors", torch.float16)
    summary = {"images_seen": 150, "prediction": "v", "file": "ema.safetensors"}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_the_curve_scores_each_snapshot_once(run_folder):
    told = []
    points = denoiser_training.points(run_folder, n=66, spacing="2")
    CURVE.record(points, tell=told.append)
    found = CURVE.rows()
    assert sorted(row["params"]["images_seen"] for row in found) == [64, 128, 150]
    for row in found:
        # An untrained network's images are nothing like photographs, real ones like each other.
        assert row["results"]["kid"] > 10 * abs(row["results"]["kid_real"])
        assert row["results"]["fd64"] > row["results"]["fd64_real"] > 0
        assert row["params"]["n"] == 66 and len(row["params"]["sha256"]) == 64
    CURVE.record(denoiser_training.points(run_folder, n=66, spacing="2"), tell=told.append)
    assert len(told) == 3


def test_the_curve_has_blocks_of_seeds_of_the_last_points_alone(run_folder):
    curve = denoiser_training.points(run_folder, n=66, blocks=2, since=128)
    seeds = [(point.first_seed, point.images_seen) for point in curve]
    assert seeds == [(0, 128), (0, 150), (66, 128), (66, 150)]


def test_a_point_without_a_folder_is_of_the_weights_that_ship(monkeypatch, pixel_features):
    (point,) = denoiser_training.points(n=66, spacing="2")
    card = zoo.card("fashion/denoiser")
    assert (point.images_seen, point.sha256) == (card.images_seen, card.sha256)
    x, level = torch.randn(2, 1, 32, 32), tier("fashion").schedule().at(500)
    monkeypatch.setattr(denoiser_training, "score", lambda p, denoise, d: denoise(x, level).x0)
    with torch.no_grad():
        found = denoiser_training.measure_point(point)
        assert torch.equal(found, zoo.load("fashion/denoiser").denoise(x, level).x0)


@pytest.mark.parametrize("prediction", ["eps", "x0"])
def test_the_curve_scores_by_what_the_network_predicts(run_folder, monkeypatch, prediction):
    path = run_folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction": prediction}))
    network = weights.load(
        tier("fashion").denoiser().eval(), weights.read(run_folder / "ema.safetensors")
    )
    x, level = torch.randn(2, 1, 32, 32), tier("fashion").schedule().at(500)
    expected = ADAPTERS[prediction](network, learned_variance=True)(x, level)
    scored = []

    def score(params, denoise, device):
        scored.append(denoise(x, level).x0)
        return {"kid": 0.0, "fd64": 0.0}

    monkeypatch.setattr(denoiser_training, "score", score)
    with torch.no_grad():
        CURVE.record(denoiser_training.points(run_folder, n=66), tell=[].append)
    torch.testing.assert_close(scored[-1], expected.x0)


def test_a_curve_needs_to_know_what_the_network_predicts(run_folder):
    summary = {"images_seen": 150, "file": "ema.safetensors"}
    (run_folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(TrainingError, match="'prediction' must be one of eps, x0, v"):
        denoiser_training.points(run_folder, n=66)


def test_a_training_run_is_filed_with_its_course(tmp_path, monkeypatch):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))
    folder = tmp_path / "run"
    folder.mkdir()
    log = [{"step": i, "images": 32 * i, "loss": 1 / i, "lr": 1e-3} for i in range(1, 501)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    summary = {
        "tier": "fashion",
        "network": "denoiser",
        "sha256": "0" * 64,
        "parameters": 1,
        "objective": "DenoiserLoss",
        "images_seen": 16000,
        "final_loss": 0.002,
        "images_per_second": 50.0,
        "seconds": 320.0,
        "speed": {"device": "cpu x86_64, 2 threads"},
        "settings": {"batch": 32, "snapshots": [1, 2]},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    TRAINING.record(denoiser_training.trainings(folder), tell=lambda line: None)
    (row,) = TRAINING.rows()
    assert row["results"]["trained_on"] == "cpu x86_64, 2 threads"
    assert row["seconds"] == 320.0 and row["results"]["settings"] == {"batch": 32}
    assert (
        len(row["results"]["loss"]) == len(row["results"]["images"]) <= 2 * denoiser_training.POINTS
    )
    assert row["results"]["loss"][0] == 1.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["guidance", "--tier", "tin10", "--methods", "multi5", "--n", "2"],
            "tin10/multi5-resnet18 does not ship: .* ppap distill supervised --tier tin10",
        ),
        (["guidance", "--sweep", "--at-best"], "give one of --scales, --sweep, --at-best"),
        (["guidance", "--halfway", "--at-best"], "--at-best and --halfway"),
        (["guidance", "--sweep", "--scales", "2"], "give one of --scales, --sweep"),
        (["guidance", "--at-best", "--scales", "2"], "give one of --scales, --sweep"),
        (["ablation", "--folder", "nowhere"], "no finished training in nowhere: .*distill first"),
        (["training", "--folder", "nowhere"], "no finished training in nowhere: .*train first"),
        (["curve", "--folder", "nowhere", "--device", "abacus"], "abacus"),
        (
            ["curve", "--folder", "nowhere"],
            "no finished training in nowhere: .*train denoiser first",
        ),
        (["samplers", "--scale", "2"], "--scale would be ignored: nothing guides"),
        (["samplers", "--guide", "vit"], "--guide would be ignored: nothing guides"),
        (["samplers", "--tolerances", "0.1"], "--tolerances would be ignored: .* pf"),
        (["samplers", "--solvers", "pf", "--budgets", "5"], "--budgets would be ignored: .* pf"),
        (["samplers", "--solvers", "pf", "--grid", "karras"], "--grid would be ignored: .* pf"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    assert main(arguments) == 1
    assert re.match(f"error: .*{says}", capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ablations", "--data", "set", "--tier", "tin10"],
        ["ablation", "--folder", "run", "--tier", "tin10"],
        ["distillation", "--folder", "run", "--tier", "tin10"],
        ["training", "--folder", "run", "--tier", "tin10"],
        ["training", "--folder", "run", "--device", "cpu"],
        ["architecture", "--device", "cuda"],
        ["guidance", "--methods", "foo"],
    ],
)
def test_an_option_that_a_command_does_not_read_is_refused(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    said = capsys.readouterr().err
    assert "unrecognized arguments" in said or "invalid choice: 'foo'" in said
    assert said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rum"], "no command 'rum': did you mean 'run'?"),
        (["run", "guidence"], "invalid choice: 'guidence': did you mean 'guidance'?"),
        (["run", "noise", "--step", "5"], "--step 5: did you mean '--steps'?"),
        (["run", "reading", "--tier", "photos"], "'photos': did you mean 'photographs'?"),
        (["run", "samplers", "--unclipped", "False"], "take no value"),
        (["cards", "verfy"], "invalid choice: 'verfy': did you mean 'verify'?"),
        (["queue", "--lst"], "--lst: did you mean '--list'?"),
        (["rerun", "row", "--device", "cpu", "--image", "5"], "did you mean '--images'?"),
    ],
)
def test_a_wrong_word_is_named_in_a_line(words, says, capsys):
    try:
        status = everything.main(words)
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr().err
    assert status == 2 and says in said and said.count("\n") == 1


def test_nobody_reads_what_a_study_says():
    assert unread("-m", "ppap_book", "run", "architecture", "--left") == ("", 141)


def numbers(kind: type) -> dict[str, bool]:
    """Whether an option is a whole number, of those that are numbers, by their names."""
    hints = {name: str(hint) for name, hint in get_type_hints(kind).items()}
    found = {name: re.search(r"\b(int|float)\b", hint) for name, hint in hints.items()}
    return {name: number[0] == "int" for name, number in found.items() if number}


OPTIONS = [
    (name, option, whole)
    for name, study in command.COMMANDS.items()
    for option, whole in numbers(command.options_of(study.grid)).items()
]
MAY_BE_ZERO = {"first_seed", "since", "seeds"}


@pytest.mark.parametrize(("name", "option", "whole"), OPTIONS)
def test_none_of_a_count_is_refused_and_a_number_below_nothing(
    name, option, whole, monkeypatch, capsys
):
    monkeypatch.setattr(Study, "record", lambda study, runs, device: list(runs))
    needed = {"training": ["--folder", "a"], "distillation": ["--folder", "a"]}
    needed["ablations"] = ["--data", "a"]
    flag = f"--{option.replace('_', '-')}"
    refused = ["-1", "0"] if whole and option not in MAY_BE_ZERO else ["-1"]
    for number in refused:
        assert main([name, *needed.get(name, []), flag, number]) == 1
        said = capsys.readouterr().err
        assert re.match(rf"error: {option}(\[0\])? must be .*, not {number}", said), said
        assert said.count("\n") == 1


STUDIES_OF_TIERS = [
    (name, option)
    for name, study in command.COMMANDS.items()
    if "tier" in (option := {f.name for f in fields(command.options_of(study.grid))})
]


@pytest.mark.parametrize("tier_name", get_args(TierName))
@pytest.mark.parametrize("name", [name for name, _ in STUDIES_OF_TIERS])
def test_a_study_of_any_tier_and_guide_is_listed_or_refused_in_a_line(
    name, tier_name, monkeypatch, tmp_path, capsys
):
    """Before anything is drawn: also by a guide that is another tier's."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    listed = []
    monkeypatch.setattr(Study, "record", lambda study, runs, device: listed.extend(runs))
    guided = "guide" in dict(STUDIES_OF_TIERS)[name]
    for guide in get_args(GuideName) if guided else ("",):
        listed.clear()
        words = [name, "--tier", tier_name, *(["--guide", guide] if guide else [])]
        words += ["--method", "naive"] if (name, guided) == ("samplers", True) else []
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr().err
        assert (status, said) == (0, "") or (status in (1, 2) and said.count("\n") == 1)
        own = not guide or guide in zoo.guides(tier_name)
        assert not listed or own, "a run that no weights can carry out"


@pytest.mark.parametrize("name", command.COMMANDS)
def test_an_option_says_what_it_is_in_a_sentence(name):
    """As the docstring does of the function that makes the runs, whose parameter it is."""
    for option in fields(command.options_of(command.COMMANDS[name].grid)):
        sentence = option.metadata[HELP]
        assert sentence[0].isupper() and sentence.endswith("."), (option.name, sentence)


def test_options_are_the_parameters_of_what_makes_the_runs():
    def runs(steps: tuple[int, ...], clip: bool = True, device: str = "cpu"):
        """Return runs.

        Parameters
        ----------
        steps : tuple[int, ...]
            Numbers of steps,
            in any order.
        clip : bool
            Whether x0 is clipped.
        """

    kind = command.options_of(runs)
    assert {f.name: f.metadata[HELP] for f in fields(kind)} == {
        "steps": "Numbers of steps, in any order.",
        "clip": "Whether x0 is clipped.",
    }
    assert kind(steps=[1, 2]) == kind(steps=(1, 2), clip=True)
    with pytest.raises(InputError, match="steps.* must be an int, not 'x'"):
        kind(steps=["x"])


def test_what_is_left_is_counted_and_nothing_is_run(run_folder, monkeypatch, capsys):
    arguments = ["curve", "--folder", str(run_folder), "--n", "66", "--device", "cpu"]
    monkeypatch.setattr(denoiser_training, "score", lambda *_: {"kid": 0.0, "fd64": 0.0})
    assert main([*arguments, "--left"]) == 0
    assert capsys.readouterr().out == "3 of 3 rows are missing\n" and not CURVE.rows()
    assert main(arguments) == 0 and command.missing([*arguments, "--blocks", "2"]) == (3, 6)
    assert command.missing(["architecture", "--seconds", "0.25"]) == (14, 14)


def test_what_trains_as_it_lists_its_runs_cannot_be_asked_what_is_left(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["ablations", "--data", "set", "--left"])
    assert "--left" in capsys.readouterr().err


def test_what_is_asked_of_a_study_is_what_is_run(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(Study, "record", lambda study, runs, device: asked.append(list(runs)))
    assert main(["guidance", "--methods", "naive", "--sweep", "--blocks", "2", "--n", "5"]) == 0
    solvers = ["--solvers", "ddim", "f_pndm"]
    assert main(["samplers", *solvers, "--method", "naive", "--scale", "2"]) == 0
    assert "f_pndm within 10, naive off-the-shelf, seeds from 0: left" in capsys.readouterr().out
    sweep, guided = asked
    assert {run.first_seed - guidance.SWEEP_SEED for run in sweep} == {0, 5}
    assert {run.scale for run in sweep} == set(guidance.SWEEP)
    assert [(run.budget, run.scale, run.guide) for run in guided] == [(10, 2.0, "resnet18")]


@pytest.mark.parametrize("gpu", [False, True])
def test_a_study_that_nothing_narrows_is_the_whole_one(monkeypatch, tmp_path, gpu):
    """Its parts, the sweep, and each method at its best scale; on a GPU more of them."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    monkeypatch.setattr(command, "pick_device", lambda name: torch.device("cuda" if gpu else "cpu"))
    asked = []

    def record(study, runs, device):
        for run in runs:
            asked.append(run)
            if run.first_seed >= guidance.SWEEP_SEED:
                right = [int(run.scale == 2.5)] * run.n
                results = {"judge_correct": right}
                ledger.record(guidance.STUDY.name, run.recorded(), results, seconds=1.0)

    monkeypatch.setattr(Study, "record", record)
    assert main(["guidance", "--tier", "fashion", "--device", "auto"]) == 0
    blocks = {(run.guide, run.sampler, run.n) for run in asked if run.scale == 7.5}
    planned = {("resnet18", "ddim25", 2000), ("vit", "ddim25", 2000)}
    planned |= {(guide, "ddpm250", 60) for guide in ("resnet18", "vit")}
    if gpu:
        planned |= {(guide, "ddpm250", 2000) for guide in ("resnet18", "vit")}
    assert blocks - {(guide, "ddim25", 100) for guide in ("resnet18", "vit")} == planned
    at_best = {(run.guide, run.method) for run in asked if (run.n, run.scale) == (400, 2.5)}
    assert len(at_best) == 14  # all but no guidance
    assert main(["guidance", "--tier", "imagenet256"]) == 1


def test_each_at_its_best_is_of_those_that_were_swept(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    swept = guidance.Guidance(method="naive", scale=2.5, n=2, first_seed=guidance.SWEEP_SEED)
    ledger.record(guidance.STUDY.name, swept.recorded(), {"judge_correct": [1, 1]}, seconds=1.0)
    asked = []
    monkeypatch.setattr(Study, "record", lambda study, runs, device: asked.extend(runs))
    options = ["--at-best", "--methods", "naive", "single", "--blocks", "1"]
    assert main(["guidance", *options]) == 0
    assert [(run.method, run.scale) for run in asked] == [("naive", 2.5)]
    told = capsys.readouterr().out
    assert told == "single noise-aware is left out: no scale sweep is in the ledger\n"


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(fit, "finished", lambda folder, command: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["training", "--folder", "nowhere"])


def test_a_row_says_by_what_its_training_was_made():
    settings = {"steps": 1, "batch": 4}
    summary = {
        "settings": settings | {"snapshots": [1, 2]},
        "device": "CPU",
        "commit": "earlier",
        "versions": {"torch": "2"},
        "data": "images",
    }
    assert training_provenance(summary) == {
        "settings": settings,
        "trained_on": "CPU",
        "trained_by": "earlier",
        "trained_with": {"torch": "2"},
        "data": "images",
    }
    old = {"settings": settings, "speed": {"device": "a GPU"}}
    assert training_provenance(old) == {"settings": settings, "trained_on": "a GPU"}
