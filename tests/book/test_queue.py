"""The queue: jobs in order, killed and resumed; what is left of trainings; rows brought home."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ppap_book import cards, ledger
from ppap_book import run as studies
from ppap_book.errors import StudyError
from ppap_book.queue import command, denoisers, engine, home, plan, trainings
from ppap_book.queue.denoisers import DenoiserTraining
from ppap_book.queue.engine import Job, Step, carry_out, in_steps, listing
from ppap_book.queue.trainings import GuidedRows, Place, TrainingJob, best_factor, set_job
from ppap_book.studies import methods
from ppap_book.studies.denoiser_training import Curve
from ppap_book.studies.denoiser_training import NetworkTraining as Filed
from ppap_book.studies.expert_training import Ablation, Distillation, varied
from ppap_lib import zoo
from ppap_lib.cli import commands as ppap
from ppap_lib.data.shards import Manifest, claim, write_shard
from ppap_lib.errors import InputError
from ppap_lib.files import weights
from ppap_lib.training import fit
from ppap_lib.zoo.cards import write

# --- Jobs

FAKE = """
import os, signal, sys, time
from pathlib import Path

name, units, seconds, status = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
here = Path(os.environ["FAKE"])

def stopped(number, frame):
    (here / f"{name}.stopped").write_text(signal.Signals(number).name)
    sys.exit(1)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stopped)
(here / f"{name}.pid").write_text(str(os.getpid()))
print(name, "on", os.environ["OMP_NUM_THREADS"], "threads")
done = here / name
while not done.exists() or len(done.read_text()) < units:
    with open(done, "a") as file:
        file.write("x")
    with open(here / "order", "a") as file:
        file.write(name)
    time.sleep(seconds)
if status:
    print("no more paper")
sys.exit(status)
"""

UNITS = 4


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder where fake jobs leave a letter for every unit of work."""
    (tmp_path / "fake_job.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setitem(engine.PROGRAMS, "fake", "fake_job")
    return tmp_path


def fake(here, name, hours=1.0, seconds=0.0, status=0, units=UNITS, **options):
    def left():
        done = here / name
        return 1 - (len(done.read_text()) if done.exists() else 0) / UNITS

    words = ("fake", name, str(units), str(seconds), str(status))
    return Job(name, hours, left, lambda: [words], **options)


def order(here):
    return (here / "order").read_text() if (here / "order").exists() else ""


def test_what_is_left_is_done_in_order(here, capsys):
    (here / "b").write_text("x" * UNITS)
    (here / "c").write_text("x")
    jobs = [fake(here, name) for name in "abc"]
    assert carry_out(jobs, here / "runs", threads=3) == 0
    assert order(here) == "aaaaccc"
    assert (here / "runs" / "a.log").read_text() == "$ fake a 4 0.0 0\na on 3 threads\n"
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == ["a", "c"]
    assert carry_out(jobs, here / "runs") == 0 and order(here) == "aaaaccc"


def test_hours_add_up_and_are_fewer_on_more_cores(here):
    (here / "a").write_text("x")
    jobs = [fake(here, "a", 2.0), fake(here, "bb", 0.5), fake(here, "c", lacks=lambda: "no data")]
    assert listing(jobs).splitlines() == [
        "a    75% left    1.5 hours",
        "bb  100% left    0.5 hours",
        "c   left out: no data",
        "all    at most     2.0 hours of 2 cores",
    ]
    assert listing(jobs, threads=4).endswith("1.0 hours of 4 cores")


def test_a_job_that_lacks_something_is_left_out_and_says_so(here, capsys):
    jobs = [fake(here, "a", lacks=lambda: "the data are not here"), fake(here, "b")]
    assert carry_out(jobs, here / "runs") == 0 and order(here) == "bbbb"
    assert "a is left out: the data are not here" in capsys.readouterr().out


def test_a_failing_job_ends_the_queue_and_names_its_log(here):
    jobs = [fake(here, "a", status=3), fake(here, "b")]
    with pytest.raises(StudyError, match=r"a failed with status 3: no more paper \(all: .*a.log"):
        carry_out(jobs, here / "runs")
    assert order(here) == "aaaa"


def test_a_job_that_does_not_do_what_it_says_ends_the_queue(here):
    with pytest.raises(StudyError, match="a ended, and 75% of it is left"):
        carry_out([fake(here, "a", units=1), fake(here, "b")], here / "runs")
    assert order(here) == "a"


def test_command_lines_are_asked_for_when_their_turn_comes(here):
    """What the second one does depends on what the first one left."""

    def commands():
        return [("fake", "b", str(len((here / "a").read_text())), "0", "0")]

    first = fake(here, "a")
    carry_out([first, replace(fake(here, "b"), commands=commands)], here / "runs")
    assert order(here) == "aaaabbbb"


QUEUE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from ppap_book.queue import engine
from test_queue import fake
engine.PROGRAMS["fake"] = "fake_job"
here = Path({here!r})
sys.exit(engine.carry_out([fake(here, "a", seconds=0.2), fake(here, "b")], here / "runs"))
"""


@pytest.fixture
def queue(here):
    """A queue in a process of its own that works on a slow job, and what to do at the end."""
    text = QUEUE.format(tests=str(Path(__file__).parent), here=str(here))
    paths = [str(engine.ROOT), str(engine.ROOT / "book"), str(here)]
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while "a" not in order(here):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()
    process.stderr.close()


def holds_files(process):
    try:
        return bool(os.listdir(f"/proc/{process}/fd"))
    except OSError:  # it has ended
        return False


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_reaches_the_job_and_the_queue_goes_on_later(here, queue, name):
    queue.send_signal(signal.Signals[name])
    assert queue.wait() == 128 + signal.Signals[name]
    assert (here / "a.stopped").read_text() == name and "b" not in order(here)
    assert f"stopped by {name}: the same command goes on" in queue.stderr.read()
    assert carry_out([fake(here, "a"), fake(here, "b")], here / "runs") == 0
    assert order(here) == "aaaabbbb"


def test_no_queue_works_beside_a_job_that_outlived_its_own(here, queue):
    queue.kill()
    queue.wait()
    with pytest.raises(StudyError, match="another queue works in .*, or a job that outlived"):
        carry_out([fake(here, "a")], here / "runs")
    child = int((here / "a.pid").read_text())
    os.kill(child, signal.SIGKILL)
    while holds_files(child):
        time.sleep(0.01)
    assert carry_out([fake(here, "a"), fake(here, "b")], here / "runs") == 0
    assert order(here) == "aaaabbbb"


def test_of_steps_only_those_are_done_of_which_something_is_left():
    parts = {"a": 0.0, "b": 0.5, "c": 1.0}
    steps = [
        Step(hours, lambda name=name: parts[name], lambda name=name: ("fake", name))
        for name, hours in (("a", 1.0), ("b", 2.0), ("c", 1.0))
    ]
    job = in_steps("all", steps)
    assert job.hours == 4.0 and job.left() == 0.5
    assert job.commands() == [("fake", "b"), ("fake", "c")]
    assert in_steps("all", steps, done=lambda: True).left() == 0.0


def test_only_known_jobs_are_selected(here):
    jobs = [fake(here, name) for name in ("denoiser", "generated")]
    assert command.selected(jobs, None) == jobs
    assert command.selected(jobs, ["generated"]) == jobs[1:]
    with pytest.raises(InputError, match="no job 'denoser': did you mean 'denoiser'"):
        command.selected(jobs, ["denoser"])


def test_in_another_checkout_the_queue_does_not_work_on_its_own(tmp_path):
    command.require_own_checkout(engine.ROOT / "book")
    command.require_own_checkout(tmp_path)  # in none
    (tmp_path / ".git").touch()
    with pytest.raises(StudyError, match=f"code of {engine.ROOT}, .* set PYTHONPATH={tmp_path}:"):
        command.require_own_checkout(tmp_path / "book")


# --- Trainings


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty ledger."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Cards may be changed: `assets(name, **changes)` does."""
    changed = {}

    def card(name, *rest):
        return replace(original(name, *rest), **changed.get(name, {}))

    original = zoo.card
    monkeypatch.setattr(zoo, "card", card)
    return lambda name, **changes: changed.setdefault(name, {}).update(changes)


def told(training, lr=None, accuracy=0.5, **changes):
    """Parameters and results of a training's row, as `distillation` files them."""
    settings = training.preset()
    lr = settings.lr * (training.factor() or 1.0) if lr is None else lr
    params = Distillation(
        **varied(training.what.recorded()),
        source="some images",
        images_seen=training.images,
        **{"sha256": training.name, **changes},
    )
    results = {
        "settings": {"batch": settings.batch, "seed": training.seed, "lr": lr},
        "readings": [{"t": 0, "accuracy": accuracy}],
    }
    if training.origin:
        drawn = training.origin
        results["generated"] = {**vars(drawn)}
    return params.recorded(), results


def filed(training, **options):
    ledger.record("distillation", *told(training, **options), seconds=1.0)


def test_a_training_is_known_by_its_row(tmp_path, results):
    place = Place(tmp_path)
    training = TrainingJob("t", "ppap5", 60_000, place, seed=1, factor=lambda: 2.0)
    assert training.rows() == []
    filed(training)
    assert [row["params"]["sha256"] for row in training.rows()] == ["t"]
    others = [
        replace(training, seed=0),
        replace(training, augment=False),
        replace(training, factor=lambda: 1.0),
        replace(training, factor=lambda: None),
        replace(training, images=120_000),
        replace(training, method="one"),
        replace(training, tier="tin10"),
    ]
    assert not any(other.rows() for other in others)


def test_rows_from_a_gpu_are_of_the_same_training(tmp_path, results):
    """Its batches are larger, and the rate grows as their square root."""
    training = TrainingJob("t", "single", 60_000, Place(tmp_path))
    params, results_of = told(training)
    gpu = {"batch": 500, "lr": training.preset().lr * 5**0.5}
    results_of["settings"] |= gpu
    ledger.record("distillation", params, results_of, seconds=1.0)
    assert training.rows()


def test_what_learned_from_another_denoisers_set_is_another_training(tmp_path, results, assets):
    place = Place(tmp_path)
    transfer, labels = (TrainingJob(m, m, 60_000, place) for m in ("ppap5", "single"))
    for training in (transfer, labels):
        filed(training)
    assets("fashion/denoiser", sha256="1" * 64)
    assert not transfer.rows() and labels.rows()


def test_rows_of_plain_trainings_are_of_no_augmented_one(tmp_path):
    """The book's ledger has many, of the same methods after as many images."""
    for method in trainings.KINDS:
        for images in (60_000, 600_000):
            training = TrainingJob(method, method, images, Place(tmp_path))
            assert all(row["params"]["augment"] for row in training.rows())
            plain = replace(training, augment=False).rows()
            assert not any(row["params"].get("augment") for row in plain)


def test_the_best_of_three_rates_is_that_of_the_highest_accuracy(tmp_path, results):
    place = Place(tmp_path)
    trials = [
        TrainingJob(word, "multi5", 60_000, place, factor=lambda by=by: by)
        for word, by in plan.FACTORS.items()
    ]
    for trial, accuracy in zip(trials, (0.6, 0.5, 0.7), strict=True):
        assert best_factor(trials) is None
        filed(trial, accuracy=accuracy)
    assert best_factor(trials) == 2.0
    chosen = TrainingJob("best", "multi5", 600_000, place, factor=lambda: best_factor(trials))
    lr = chosen.train()[chosen.train().index("--lr") + 1]
    assert float(lr) == 2 * chosen.preset().lr


def test_a_rate_that_is_not_chosen_yet_is_named(tmp_path, results):
    unknown = TrainingJob("late", "multi5", 600_000, Place(tmp_path), factor=lambda: None)
    assert unknown.job(1.0, ships=True).left() == 1.0
    with pytest.raises(StudyError, match="rate of late is chosen by trainings .* not filed yet"):
        unknown.job(1.0).commands()


def test_an_old_set_of_as_many_images_is_not_taken_for_the_new_one(tmp_path, results, assets):
    """What ships has seen 600,000 images, too."""
    training = TrainingJob("ppap5-600k", "ppap5", 600_000, Place(tmp_path))
    job = training.job(0.6, ships=True)
    assert zoo.card(training.card).images_seen == 600_000
    assert not training.ships() and job.left() == 1.0
    assets(training.card, note=training.note())
    assert training.ships() and job.left() == 0.0
    assets(training.card, images_seen=60_000)
    assert not training.ships()
    assets(training.card, images_seen=600_000)
    assets("fashion/denoiser", sha256="1" * 64)
    assert not training.ships()


def left_behind(training, images=None):
    """What a training leaves in its folder: a log and, at its end, a summary."""
    params, results = told(training)
    training.folder.mkdir(parents=True, exist_ok=True)
    row = {"step": 1, "images": images or training.images}
    (training.folder / "log.jsonl").write_text(json.dumps(row) + "\n")
    if images is None:
        released = {"warm start": False, "shared time": False, "no scale": False}
        summary = {**params, **results, "released": released, "sha256": "0" * 64}
        (training.folder / fit.SUMMARY).write_text(json.dumps(summary))


def guided_rows(digest, scales=(1.0, 7.5), n=200, blocks=3):
    for scale in scales:
        for block in range(blocks):
            run = Ablation(
                "fashion", "resnet18", "supervised", 1, sha256=digest, scale=scale, n=n,
                first_seed=block * n, images_seen=60_000, augment=True,
            )  # fmt: skip
            ledger.record("ablation", run.recorded(), {}, seconds=1.0)


def test_what_is_left_of_a_training_falls_as_it_goes_on(tmp_path, results, assets):
    training = TrainingJob("single-seed1", "single", 60_000, Place(tmp_path), seed=1)
    guided = GuidedRows(scales=(1.0, 7.5), n=200, blocks=3, hours=0.5)
    job = training.job(0.48, guided)
    assert job.hours == 1.0 and job.left() == 1.0
    left_behind(training, images=30_000)
    assert job.left() == pytest.approx(0.76) and job.commands()[0][:2] == ("ppap", "distill")
    left_behind(training)
    assert job.left() == pytest.approx(0.52)
    assert [words[2] for words in job.commands()] == ["distillation", "ablation"]
    filed(training, sha256="0" * 64)
    assert job.left() == pytest.approx(0.5)
    guided_rows("0" * 64, scales=(7.5,))
    assert job.left() == pytest.approx(0.25)
    guided_rows("0" * 64, scales=(1.0,))
    assert job.left() == 0.0
    assets("fashion/judge", sha256="1" * 64)  # whose verdicts these rows are not
    assert job.left() == pytest.approx(0.5)


def test_rows_that_were_brought_home_need_no_folder(tmp_path, results):
    training = TrainingJob("single-seed1", "single", 60_000, Place(tmp_path), seed=1)
    guided = GuidedRows(scales=(7.5,), n=200, blocks=3, hours=0.5)
    filed(training, sha256="0" * 64)
    assert training.job(0.5).left() == 0.0
    assert training.job(0.5, guided).left() > 0.9  # there is nothing to guide by
    guided_rows("0" * 64, scales=(7.5,))
    assert training.job(0.5, guided).left() == 0.0


def test_another_training_in_the_folder_is_not_taken_for_this_one(tmp_path, results):
    made = TrainingJob("t", "single", 60_000, Place(tmp_path))
    left_behind(made)
    assert made.summary() is not None
    assert replace(made, seed=1).summary() is None
    assert replace(made, augment=False).summary() is None


def test_a_set_is_drawn_as_long_as_someone_learns_from_it(tmp_path):
    busy, idle = (Job(name, 1.0, lambda left=left: left, list) for name, left in ("ab", "cd"))
    busy, idle = replace(busy, left=lambda: 0.3), replace(idle, left=lambda: 0.0)
    place = Place(tmp_path)
    assert set_job(place, "fashion", 1.0, [idle]).left() == 0.0
    job = set_job(place, "fashion", 1.0, [idle, busy])
    assert job.left() == 1.0
    digest = zoo.card("fashion/denoiser").sha256
    drawn = Manifest(4, 0, 2, (1, 2, 2), "fashion/denoiser", digest)
    claim(tmp_path / "generated", drawn)
    write_shard(tmp_path / "generated", range(2), torch.zeros(2, 1, 2, 2, dtype=torch.uint8))
    assert job.left() == 0.5


# --- Denoisers

END, PACKED = "e" * 64, "8" * 64


@pytest.fixture
def denoiser(tmp_path, results):
    return DenoiserTraining(Place(tmp_path), images=600_000, before=400_000, gain=0.002)


def scored(images, digest, *kids, n=denoisers.N):
    for block, kid in enumerate(kids):
        point = Curve(n=n, first_seed=block * n, images_seen=images, sha256=digest)
        ledger.record("curve", point.recorded(), {"kid": kid}, seconds=1.0)


def ended(images, digest):
    ledger.record("training", Filed(sha256=digest).recorded(), {"images_seen": images}, seconds=1.0)


@pytest.mark.parametrize(("later", "improves"), [(0.010, True), (0.0131, False), (0.0129, True)])
def test_a_denoiser_is_trained_on_if_that_is_worth_it(denoiser, later, improves):
    ended(600_000, END)
    scored(400_000, "a" * 64, 0.014, 0.015, 0.016)
    scored(600_000, END, later - 0.001, later)
    assert denoiser.improves() is None and denoiser.goal() == 600_000
    jobs = {job.name: job for job in denoiser.jobs(5.0)}
    assert jobs["denoiser-doubled"].left() == 1.0  # as far as is known
    scored(600_000, "b" * 64, 0.0, 0.0, 0.0)  # of weights that this training did not end with
    point = Curve(n=denoisers.N, first_seed=2 * denoisers.N, images_seen=600_000, sha256=END)
    ledger.record("curve", point.recorded(), {"kid": later + 0.001}, seconds=1.0)
    assert denoiser.improves() is improves
    assert denoiser.goal() == (1_200_000 if improves else 600_000)
    assert jobs["denoiser-doubled"].left() == float(improves)


def test_a_denoiser_ships_when_it_has_seen_what_it_was_to_see(denoiser, assets):
    train, doubled, ships, _ = denoiser.jobs(5.0)
    assert zoo.card("fashion/denoiser").images_seen is not None
    assert [job.left() for job in (train, doubled, ships)] == [1.0, 1.0, 1.0]
    assert "--images" in train.commands()[0] and "600000" in train.commands()[0]
    assets("fashion/denoiser", images_seen=600_000)
    assert train.left() == doubled.left() == 0.0
    assert ships.left() == pytest.approx(0.3 / 0.31)  # 8 bits are still to be scored


def test_the_training_s_own_progress_counts(denoiser):
    train, *_ = denoiser.jobs(5.0)
    denoiser.folder.mkdir()
    row = {"step": 1, "images": 300_000}
    (denoiser.folder / "log.jsonl").write_text(json.dumps(row) + "\n")
    assert train.left() == pytest.approx((2.5 + 1.01) / 6.01)


@pytest.mark.parametrize(("moved", "suffers"), [(0.0004, False), (0.0008, True), (-0.0008, True)])
def test_8_bits_are_too_few_if_they_move_the_number_by_more_than_its_error(
    denoiser, assets, moved, suffers
):
    """Which is here .001 / sqrt(3)."""
    *_, narrow = denoiser.jobs(5.0)
    ended(600_000, END)
    scored(600_000, END, 0.009, 0.010, 0.011)
    file = {"asset": "fashion/denoiser.safetensors.xz", "dtype": "int8"}
    assets("fashion/denoiser", images_seen=600_000, sha256=PACKED, file=file)
    assert denoiser.suffers() is None and narrow.left() == 1.0
    scored(600_000, PACKED, *(kid + moved for kid in (0.009, 0.010, 0.011)))
    assert denoiser.suffers() is suffers and narrow.left() == float(suffers)
    words = json.loads(narrow.commands()[0][-1].removeprefix("file=")) if suffers else {}
    assert words.get("dtype") is None
    assets("fashion/denoiser", images_seen=300_000)  # of another training
    assert denoiser.suffers() is None
    assets("fashion/denoiser", images_seen=600_000, sha256=END, file={"asset": file["asset"]})
    assert narrow.left() == 0.0


# --- The table


def parsed(words):
    """A command line, read by the program's own parser."""
    program, first, *rest = words
    if program == "ppap":
        return ppap.parser().parse_args([first, *rest])
    parser = {"run": studies.parser, "cards": cards._parser}[first]
    return parser().parse_args(rest)


def test_every_command_line_of_the_table_is_one(tmp_path, results, assets):
    """Of every state: nothing done, and rates chosen and weights doubted."""
    jobs = plan.jobs(tmp_path)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) and all(job.hours > 0 for job in jobs)
    lines = {}

    def note():
        for job in jobs:
            try:
                lines.setdefault(job.name, []).extend(job.commands() if job.left() else [])
            except StudyError as error:
                assert "rate of" in str(error)

    note()
    for method in plan.METHODS:
        for word, by in plan.FACTORS.items():
            trial = TrainingJob(
                f"{method}-{word}", method, 60_000, Place(tmp_path), factor=lambda by=by: by
            )
            filed(trial)
    ended(600_000, END)
    scored(600_000, END, 0.009, 0.010, 0.011)
    note()
    assert set(lines) == set(names) and all(lines.values())
    for line in sum(lines.values(), []):
        assert parsed(line)
    installs = [line[3] for line in sum(lines.values(), []) if line[1] == "cards"]
    assert set(installs) == {"fashion/denoiser"} | {
        methods.weights_of(method, "resnet18") for method in plan.METHODS
    }


def test_the_table_is_listed_and_says_what_this_machine_lacks(tmp_path, results, monkeypatch):
    monkeypatch.delenv("PPAP_DATA", raising=False)
    monkeypatch.setenv("PPAP_CACHE", str(tmp_path / "cache"))
    given = command.parser().parse_args(["--list", "--folder", str(tmp_path), "--device", "cpu"])
    monkeypatch.setattr(home, "take_over", lambda root: [])
    lines = {line.split()[0]: line for line in command.act(given).splitlines()}
    assert "left out: Tiny-ImageNet is not here" in lines["tin10-single-plain"]
    assert "100% left" in lines["denoiser"] and "hours of" in lines["all"]


# --- Worktrees


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def install(assets, value, **changes):
    """Weights under fashion/judge, and their card."""
    card = zoo.card("fashion/judge")
    file = assets / "weights" / card.file["asset"]
    weights.save({"a": torch.full((3,), value)}, file)
    write(replace(card, sha256=weights.sha256(file), **changes), assets)
    return file


def row(checkout, name, text="{}"):
    path = checkout / home.ROWS / "guidance" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a row and weights, and a worktree of its commit."""
    main, other = tmp_path / "main", tmp_path / "worktree"
    install(main / home.ASSETS, 1.0)
    row(main, "old")
    git(main, "init", "-q")
    git(main, "add", "-A")
    git(main, "commit", "-qm", "a")
    git(main, "worktree", "add", "-q", str(other))
    return main, other


def test_new_rows_and_weights_are_brought_home(checkout):
    main, worktree = checkout
    assert home.bring_home(worktree, main) == []
    file = install(worktree / home.ASSETS, 2.0)
    row(worktree, "new")
    before = (main / file.relative_to(worktree)).read_bytes()
    place = "book/next/{}"
    brought = home.bring_home(worktree, main)
    assert brought == [
        "book/results/guidance/new.json",
        place.format(f"weights/{zoo.card('fashion/judge').file['asset']}"),
        place.format("cards/fashion/judge.json"),
    ]
    assert (main / brought[1]).read_bytes() == file.read_bytes() != before
    assert (main / file.relative_to(worktree)).read_bytes() == before
    assert home.bring_home(worktree, main) == []


def test_a_row_that_the_checkout_dropped_does_not_come_back(checkout):
    main, worktree = checkout
    (main / home.ROWS / "guidance" / "old.json").unlink()
    assert home.bring_home(worktree, main) == []


def test_other_rows_of_the_same_name_are_an_error_and_nothing_is_copied(checkout):
    main, worktree = checkout
    row(worktree, "new")
    row(worktree, "same", "1")
    row(main, "same", "2")
    with pytest.raises(StudyError, match="has other rows in book/results/guidance/same.json"):
        home.bring_home(worktree, main)
    assert not (main / home.ROWS / "guidance" / "new.json").exists()


def test_weights_that_are_being_installed_stay(checkout):
    main, worktree = checkout
    file = install(worktree / home.ASSETS, 2.0, note="new")
    weights.save({"a": torch.full((3,), 3.0)}, file)  # and the card is to follow
    assert home.bring_home(worktree, main) == []


@pytest.mark.parametrize("other", ["nowhere", "worktree"])
def test_rows_are_brought_to_another_checkout(checkout, tmp_path, other):
    with pytest.raises(StudyError, match="is no checkout|is where the queue works"):
        home.bring_home(checkout[1], tmp_path / other)


def test_what_waits_is_taken_over_but_not_over_what_is_newer(checkout, tmp_path):
    main, worktree = checkout
    install(worktree / home.ASSETS, 2.0)
    home.bring_home(worktree, main)
    git(main, "add", "-A")
    git(main, "commit", "-qm", "b")
    fresh = tmp_path / "fresh"
    git(main, "worktree", "add", "-q", str(fresh))
    taken = home.take_over(fresh)
    assert [Path(path).name for path in taken] == ["judge.safetensors.xz", "judge.json"]
    assert zoo.card("fashion/judge", fresh / home.ASSETS) == zoo.card(
        "fashion/judge", worktree / home.ASSETS
    )
    assert home.take_over(fresh) == []
    newest = install(fresh / home.ASSETS, 3.0)
    digest = weights.sha256(newest)
    assert home.take_over(fresh) == [] and weights.sha256(newest) == digest
    with pytest.raises(StudyError, match="let the queue work in a worktree"):
        home.take_over(main)
