"""The paper's tier: published networks under the same commands, here with random weights.

Nobody trained it here and the public files are not at hand, so what is tested is everything but
the weights: the files' formats, sizes that agree with the paper, and that every command passes
through at 256x256.
"""

import json
import shutil
from dataclasses import replace

import printed
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from ppap_book import cards, ledger, run
from ppap_lib import cli, zoo
from ppap_lib.data.imagenet_classes import imagenet
from ppap_lib.data.shards import generated
from ppap_lib.errors import DataError, InputError
from ppap_lib.files import weights
from ppap_lib.files.download import ASSETS
from ppap_lib.networks.adm import Architecture, UNet
from ppap_lib.networks.vision import Vision
from ppap_lib.training.fit import SUMMARY
from ppap_lib.zoo import datasets, loading
from ppap_lib.zoo.cards import write
from ppap_lib.zoo.tiers import tier

IMAGENET = tier("imagenet256")
GUIDES = {"resnet50": "resnet50", "deit_s": "deit_small_patch16_224"}


def test_the_tier_is_the_paper_s():
    assert IMAGENET.shape == (3, 256, 256) and IMAGENET.classes == imagenet().names
    assert [IMAGENET.named(part) for part in ("denoiser", "judge", "resnet50")] == [
        "adm_256x256_uncond",
        "efficientnet_lite0",
        "imagenet256/resnet50",
    ]
    card = zoo.card(IMAGENET.named("denoiser"))
    assert (card.channels, card.size, card.schedule) == (3, 256, "linear")
    betas = zoo.schedule(card.name).betas
    assert torch.equal(IMAGENET.schedule().betas, betas)
    for part in ("denoiser", "judge"):
        with pytest.raises(InputError, match=f"trains no networks, its {part} is a published one"):
            IMAGENET.denoiser() if part == "denoiser" else IMAGENET.classifier(part)


# --- Guides -----------------------------------------------------------------------------------


def published(guide: str, folder) -> tuple[nn.Module, dict]:
    """A random network of the guide's, and what is in the file that its authors offer."""
    torch.manual_seed(0)
    network = timm.create_model(GUIDES[guide]).eval()
    state = network.state_dict()
    if guide == "deit_s":
        return network, {"model": state}
    # torchvision's first files came before batch-norm counted its batches.
    return network, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("guide", GUIDES)
def test_guides_are_read_as_their_authors_offer_them(guide, tmp_path, monkeypatch):
    network, content = published(guide, tmp_path)
    card = zoo.card(f"imagenet256/{guide}")
    file = tmp_path / "data" / card.file["url"].rsplit("/", 1)[1]
    file.parent.mkdir()
    torch.save(content, file)
    monkeypatch.setenv("PPAP_DATA", str(file.parent))
    write(replace(card, sha256=weights.sha256(file)), tmp_path)
    vision = zoo.load(card.name, download=False, assets=tmp_path)
    assert vision.classes == IMAGENET.classes
    # Normalised as torchvision and timm do: by ImageNet's mean and deviation of [0, 1].
    x = torch.rand(1, 3, card.size, card.size)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = network((x - mean) / std)
        torch.testing.assert_close(vision(2 * x - 1), expected, rtol=1e-3, atol=1e-3)


# --- Images -----------------------------------------------------------------------------------


def test_images_are_read_from_imagenet_s_own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("PPAP_DATA", str(tmp_path))
    few = replace(IMAGENET, wnids=IMAGENET.wnids[:20], classes=IMAGENET.classes[:20])
    monkeypatch.setattr(datasets, "tier", lambda name: few)
    with pytest.raises(DataError, match=r"put its val images, in a folder for every wnid, into"):
        datasets.require("imagenet256")
    for label, wnid in enumerate(few.wnids):
        folder = tmp_path / "imagenet" / "val" / wnid
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (label, 0, 0)).save(folder / "one.png")
    (tmp_path / "imagenet" / "val" / ".ipynb_checkpoints").mkdir()
    found = datasets.require("imagenet256")
    assert found.shape == (3, 256, 256) and found.classes == few.classes
    assert torch.equal(found.labels, torch.arange(20))
    assert torch.equal(found.pixels[:, 0, 128, 128], torch.arange(20).byte())
    (tmp_path / "imagenet" / "val" / "n00000000").mkdir()
    with pytest.raises(DataError, match="1 are missing or unknown, such as n00000000"):
        datasets.require("imagenet256")


# --- Commands ---------------------------------------------------------------------------------


@pytest.fixture
def networks(monkeypatch):
    """Random networks for the published ones: a small U-Net, small classifiers, a ResNet-50."""
    torch.manual_seed(0)
    widths = (1, 1, 1, 1, 1)  # the middle block attends at 16x16
    unet = UNet(Architecture(3, 32, 6, 1, attention_resolutions=(), channel_mult=widths))
    small = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    judge = Vision(nn.Sequential(small, nn.Linear(4, 1000)), 224, 3, IMAGENET.classes)
    guide = Vision(timm.create_model("resnet50"), 256, 3, IMAGENET.classes)
    there = {
        "adm_256x256_uncond": unet,
        "efficientnet_lite0": judge,
        "imagenet256/resnet50": guide,
    }

    def load_network(name, *_, **__):
        return there[name].eval().requires_grad_(False)

    monkeypatch.setattr(loading, "load_network", load_network)
    return there


SMALLER = {
    "generate": "--images 2 --spacing ddim2 --device cpu --quiet",
    "distill": "--experts 2 --first 2 --batch 2 --steps 1 --device cpu --quiet",
    "run": "--methods none naive --sampler ddim2 --n 2 --blocks 1 --device cpu",
}


def carry_out(command, assets):
    _, (program, *given) = printed.arguments(command)
    if program == "cards":
        return cards.main([*given, "--assets", str(assets)])
    given = [*given, *SMALLER[program].split()]
    return run.main(given) if program == "run" else cli.main([program, *given])


@pytest.mark.usefixtures("networks", "quick_training")
def test_the_page_s_commands_pass_at_256(tmp_path, monkeypatch):
    """In the page's order, made small; two commands that differ in the sampler become one run."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assets = tmp_path / "assets"
    shutil.copytree(ASSETS / "cards", assets / "cards")
    commands = [line for _, line in printed.lines(printed.COMMAND) if "imagenet256" in line]
    assert len(commands) == 5
    for command in commands:
        assert carry_out(command, assets) == 0

    images = generated(tmp_path / "runs" / "set")
    assert images.shape == (3, 256, 256) and "adm_256x256_uncond" in images.source
    summary = json.loads((tmp_path / "runs" / "ppap5" / SUMMARY).read_text())
    # DESIGN: rank 16, alpha 8; with all norms trained 1,463,472 an expert, 28.6 % for five.
    assert summary["parameters"] == 2 * 1_463_472 and summary["rank"] == 16
    assert 5 / 2 * summary["share_of_trunk"] == pytest.approx(0.286, abs=5e-4)
    assert summary["settings"]["lr"] == 1e-4 and summary["settings"]["weight_decay"] == 0.05
    card = zoo.card("imagenet256/ppap5-resnet50", assets)
    assert card.parameters == summary["parameters"] and card.sha256 and not card.note

    none, naive = sorted(ledger.rows("guidance"), key=lambda row: row["params"]["scale"])
    for row in (none, naive):
        assert row["params"]["denoiser_sha256"] == zoo.card("adm_256x256_uncond").sha256
        assert row["params"]["judge_sha256"] == zoo.card("efficientnet_lite0").sha256
        assert len(row["results"]["judge_correct"]) == 2 and row["results"]["evaluations"] == 2
    assert naive["params"]["guide_sha256"] == zoo.card("imagenet256/resnet50").sha256
    # A step's guidance costs the forward and the backward pass of a ResNet-50.
    extra = naive["results"]["gmac_per_image"] - none["results"]["gmac_per_image"]
    assert extra / 2 == pytest.approx(10.7, abs=0.1)
