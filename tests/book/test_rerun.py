"""Rows of the book's ledger, measured again from what ships now: one of every study."""

from dataclasses import replace

import printed
import pytest
import torch
from places import ROOT

from ppap_book import __main__, ledger, rerun
from ppap_book.errors import StudyError
from ppap_book.measures import protocol
from ppap_book.run import STUDIES
from ppap_lib.diffusion.schedules import Schedule

RESULTS = ROOT / "book" / "results"

REDRAWN = {
    "guidance": ({"method": "ppap10", "guide": "resnet18", "sampler": "ddim25"}, 8),
    "samplers": ({"solver": "ddim", "budget": 5, "method": "none"}, 8),
    "noise": ({"steps": 25, "tweak": "two_z"}, 8),
    "scales": ({"method": "single"}, 11),  # it takes a class with two images to be spread
    "intervals": ({"method": "ppap5", "first": 3}, 8),
    "ablation": ({"guide": "resnet18"}, 8),
    "attention": ({"model": "fashion/single-resnet18"}, None),
    "reading": ({"images": "photographs"}, None),
    "gradients": ({"guide": "resnet18"}, None),
}
"""By study, what tells its cheaper rows, and of how many images one is drawn: None is all."""

FLIPS = 1
"""Images of a row's first ones that may be judged otherwise than in the row: guidance enlarges what
another processor rounds, and may take an image across a judge's border. By SSE4.1 instead of
AVX-512 none of 256 did."""

STEPS = 2
"""Of the gradients' 25 timesteps, which take a minute, those that are measured here."""


@pytest.fixture(autouse=True)
def book(monkeypatch):
    """The book's own ledger, whatever the environment names."""
    monkeypatch.setenv("PPAP_RESULTS", str(RESULTS))


def current(study: str) -> ledger.Row:
    """The first row of a study that a CPU made, by weights that ship now and at its settings."""
    settings, _ = REDRAWN[study]
    for row in ledger.rows(study):
        if settings.items() <= row["params"].items() and row["device"].startswith("cpu"):
            try:
                rerun.run_of(row)
            except StudyError:
                continue
            return row
    raise LookupError(f"no row of {study} was made by what ships: which can be redrawn?")


def test_every_study_is_redrawn_here_or_is_one_of_trainings():
    assert sorted([*REDRAWN, *rerun.TRAININGS]) == sorted(STUDIES)


@pytest.mark.parametrize("study", [study for study in REDRAWN if study != "gradients"])
def test_a_row_agrees_with_itself_measured_again(study):
    row, (_, images) = current(study), REDRAWN[study]
    agreements = rerun.measured_again(row, images)
    assert agreements
    for result in agreements:
        flipped = [pair for pair in result.pairs if not pair.agrees]
        bits = images is not None and not any(pair.is_real for pair in result.pairs)
        assert len(flipped) <= (FLIPS if bits else 0), str(result)


def test_gradients_agree_with_their_row_at_the_first_timesteps(monkeypatch):
    row, grid = current("gradients"), Schedule.grid
    few = {
        name: {method: by_t[:STEPS] for method, by_t in row["results"][name].items()}
        for name in ("share_of_eps", "cosine")
    }
    row = row | {"results": few | {"t": row["results"]["t"][:STEPS]}}
    monkeypatch.setattr(Schedule, "grid", lambda *arguments: grid(*arguments)[: STEPS + 1])
    agreements = rerun.measured_again(row)
    assert [each.name for each in agreements] == ["cosine", "share_of_eps", "t"]
    assert all(each.agrees for each in agreements), "\n".join(map(str, agreements))


(COMMAND,) = {command for _, command in printed.lines("-m ppap_book rerun ")}


def test_the_command_of_the_page_says_that_its_row_agrees(capsys):
    files = sorted(RESULTS.rglob("*"))
    package, words = printed.arguments(COMMAND)
    assert package == "ppap_book" and __main__.main(words) == 0
    assert sorted(RESULTS.rglob("*")) == files
    name, *results, left_out, verdict = capsys.readouterr().out.splitlines()
    assert name.startswith(f"{words[1]}") and ", by " in name and name.endswith("threads")
    assert results == ["judge_correct: 8 of 8 equal"] and verdict == "agrees"
    assert left_out.startswith("of all images together, so not compared: covered, evaluations, f")


# The rest is of a study that costs nothing: its images are numbers.

PARAMS = {"tweak": "one_z", "n": 4}
MEASURED = {
    "seen": [1, 0, 1, 1],
    "noise_left": [0.25, 0.5, 0.125, 1.0],
    "witness": [0.5] * 4,
    "kid": 0.25,
    "by": {"t": [0.5, 8.0]},
}


@pytest.fixture
def measuring(monkeypatch, tmp_path):
    """The path of a ledger's one row, of `noise`, and a function that sets what is measured."""
    results, study = dict(MEASURED), STUDIES["noise"]

    def measure(run, device):
        assert run.tweak == "one_z" and torch.device(device).type == "cpu"
        cut = {k: v[: run.n] if isinstance(v, list) else v for k, v in results.items()}
        return cut | {"seconds": 1.0}

    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    params = study.parameters(**PARAMS).recorded()
    path = ledger.record("noise", params, MEASURED, seconds=1.0, device="cpu")
    monkeypatch.setattr(rerun, "STUDIES", {**STUDIES, "noise": replace(study, measure=measure)})
    return path, results.update


def printed_of(capsys, *words):
    status = __main__.main(["rerun", *words])
    out, err = capsys.readouterr()
    return status, out.splitlines()[1:], err


def test_a_whole_row_is_compared_result_by_result(capsys, measuring):
    path, measures = measuring
    name = f"noise/{path.stem[:4]}"
    status, lines, _ = printed_of(capsys, name)
    equal = {"by": 2, "kid": 1, "noise_left": 4, "seen": 4, "witness": 4}
    assert status == 0
    assert lines == [*(f"{k}: {n} of {n} equal" for k, n in equal.items()), "agrees"]
    measures(kid=0.25 * (1 + 1e-4), seen=[0, 0, 1, 1], by={"t": [0.5, 8.004]})
    status, lines, _ = printed_of(capsys, name)
    assert status == 1
    assert lines == [
        "by: 1 of 2 equal, numbers differ by 0.0005 of the largest",
        "kid: 0 of 1 equal, numbers differ by 0.0001 of the largest",
        "noise_left: 4 of 4 equal",
        "seen: 3 of 4 equal; seen.0 was 1, is 0",
        "witness: 4 of 4 equal",
        "differs: seen",
    ]


def test_of_the_first_images_only_what_is_their_own_is_compared(capsys, measuring):
    path, measures = measuring
    measures(kid=9.0, witness=[7.0] * 4, seen=[1, 0, 0, 0], noise_left=[0.25, 0.508, 0.125, 9.0])
    status, lines, _ = printed_of(capsys, str(path), "--images", "2")
    assert status == 0
    assert lines == [
        "noise_left: 1 of 2 equal, numbers differ by 0.02 of the largest",
        "seen: 2 of 2 equal",
        "of all images together, so not compared: by, kid, witness",
        "agrees",
    ]
    status, lines, _ = printed_of(capsys, str(path), "--images", "3")
    assert status == 1 and lines[-1] == "differs: seen"


def test_a_result_that_was_not_measured_then_is_none_of_the_row_s(capsys, measuring):
    path, measures = measuring
    measures(second_judge=[0] * 4, by={"t": [1.0] * 9, "x": 0.0})
    status, lines, _ = printed_of(capsys, str(path))
    assert status == 1 and lines[-1] == "differs: by" and "second_judge" not in "".join(lines)
    changed = "by.t was [0.5, 8.0], is [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]"
    assert lines[0] == f"by: 0 of 2 equal; {changed}; by.x only in the new one"


@pytest.mark.parametrize("images", [0, -1, 5])
def test_images_are_among_the_row_s(capsys, measuring, images):
    status, _, error = printed_of(capsys, str(measuring[0]), "--images", str(images))
    assert (status, error) == (
        1,
        f"error: the row has 4 images: --images is in [1, 4], not {images}\n",
    )


def test_a_row_without_results_of_single_images_is_measured_whole():
    with pytest.raises(StudyError, match="rows of the study attention hold nothing of single ima"):
        rerun.measured_again(current("attention"), images=8)


def test_by_image_results_of_the_protocol_are_of_all_images_together(pixel_features):
    images = torch.rand(60, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    measured = protocol.measured(images, "fashion")
    assert {name for name, value in measured.items() if isinstance(value, list)} == rerun.TOGETHER


@pytest.mark.parametrize("study", rerun.TRAININGS)
def test_rows_of_trainings_are_refused_with_what_to_do_instead(study):
    for row in ledger.rows(study):
        with pytest.raises(StudyError, match=f"^no row of the study {study} can be measured again"):
            rerun.measured_again(row)
    with pytest.raises(StudyError, match=f"python -m ppap_book run {study}\\b.* PPAP_RESULTS"):
        rerun.run_of(row)


def test_a_row_by_other_weights_is_refused_by_the_name_of_their_digest(tmp_path, monkeypatch):
    params = current("guidance")["params"] | {"judge_sha256": "0" * 64}
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    ledger.record("guidance", params, {}, seconds=1.0)
    (row,) = ledger.rows("guidance")
    told = "other weights than ship now made the row: it has another judge_sha256. Check out the"
    with pytest.raises(StudyError, match=told):
        rerun.measured_again(row, images=2)


def test_experts_that_do_not_ship_are_refused():
    rows = (row for row in ledger.rows("ablation") if row["params"]["experts"] == 2)
    with pytest.raises(StudyError, match="the experts that guided do not ship .*run ablations"):
        rerun.measured_again(next(rows), images=2)
