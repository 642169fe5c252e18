"""A second judge: a linear probe on features of a network that learned from other images.

The tier's own judge is a small network that learned from the tier's images alone, as the guides
did, and may share their mistakes. This one reads features that ImageNet taught, of
EfficientNet-Lite0 for `fashion` and of Lite2 for `tin10`, by logistic regression on the tier's
training images. Lite2 computes KID as well, so guides of that family are not judged by it.

`python -m ppap_book probe TIER` fits it and writes the file that ships.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ppap_book.errors import StudyError
from ppap_book.measures.features import EfficientNet
from ppap_lib.cli import CommandLine, run_command
from ppap_lib.data.pixels import to_bytes
from ppap_lib.files import weights
from ppap_lib.zoo import datasets

BACKBONES: Mapping[str, str] = MappingProxyType(
    {"fashion": "efficientnet_lite0", "tin10": "efficientnet_lite2"}
)
"""By tier, whose features are read."""

IMAGES = 10_000
"""Training images that a probe learns from, at most, as many of each class."""

PENALTIES = (1e-3, 1e-2, 1e-1)
"""Inverse strengths of the penalty on standardised weights, of which a fifth held out decides."""

FOLDER = Path(__file__).resolve().parents[1] / "probes"


class Probe(nn.Module):
    """Logits [N, K] of images [N, C, H, W] in [-1, 1], linear in a network's features.

    Images pass through bytes first, as those do that distances are taken of.
    """

    def __init__(self, backbone: str, head: nn.Linear, device: torch.device | str = "cpu"):
        super().__init__()
        self.features = EfficientNet(backbone, device)
        self.head = head.to(device)

    def forward(self, images: Tensor) -> Tensor:
        vectors, _ = self.features(to_bytes(images))
        return self.head(vectors)


def judges(tier_name: str, guide_name: str = "none") -> bool:
    """Return whether a tier has a second judge, and one of another family than its guide."""
    return path(tier_name).is_file() and not guide_name.startswith("lite")


def load(tier_name: str, device: torch.device | str = "cpu") -> Probe:
    """Return the tier's second judge as it ships; `StudyError` if the tier has none."""
    if not path(tier_name).is_file():
        raise StudyError(
            f"{tier_name} has no second judge: fit one by python -m ppap_book probe {tier_name}"
        )
    state = weights.read(path(tier_name))
    head = nn.Linear(state["weight"].shape[1], state["weight"].shape[0])
    return Probe(BACKBONES[tier_name], weights.load(head, state, tier_name), device).eval()


def path(tier_name: str) -> Path:
    """Return where a tier's probe ships."""
    return FOLDER / f"{tier_name}.safetensors"


def accuracy(tier_name: str) -> float:
    """Return the shipped probe's share of test images that it puts into their class."""
    return float(weights.metadata(path(tier_name))["accuracy"])


def digest(tier_name: str) -> str:
    """Return the sha256 of the tier's probe."""
    return weights.sha256(path(tier_name))


def fit(tier_name: str, device: torch.device | str = "cpu", into: Path | None = None) -> Path:
    """Fit a tier's probe on its training images, and write it with its accuracy on test images.

    Raises `DataError` without the tier's images, and `StudyError` for a tier without a backbone.
    """
    if tier_name not in BACKBONES:
        raise StudyError(f"no features are named for {tier_name}: there are {', '.join(BACKBONES)}")
    read = EfficientNet(BACKBONES[tier_name], device)
    (x, y), (unseen, own) = (
        _features(read, tier_name, split, device) for split in ("train", "test")
    )
    head = _logistic_regression(x, y)
    found = float((unseen @ head.weight.T + head.bias).argmax(1).eq(own).double().mean())
    metadata = {"accuracy": f"{found:.4f}", "images": str(len(x)), "test images": str(len(own))}
    target = into or path(tier_name)
    target.parent.mkdir(parents=True, exist_ok=True)
    weights.save(head.state_dict(), target, torch.float32, metadata)
    return target


@torch.no_grad()
def _features(
    read: nn.Module, tier_name: str, split: str, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Features [N, D] of at most `IMAGES` images of a split, and their classes [N]."""
    images = datasets.require(tier_name, split)
    images = images.evenly(min(IMAGES, len(images)))
    parts = [read(part.to(device))[0].float().cpu() for part in images.pixels.split(16)]
    return torch.cat(parts), images.labels


def _logistic_regression(x: Tensor, y: Tensor) -> nn.Linear:
    """Multinomial logistic regression, by the penalty that does best on a fifth held out."""
    from sklearn.linear_model import LogisticRegression

    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    z, held_out = ((x - mean) / std).numpy(), torch.arange(len(x)) % 5 == 0
    seen = ~held_out.numpy()

    def fitted(penalty: float, rows: Sequence) -> LogisticRegression:
        return LogisticRegression(C=penalty, max_iter=200).fit(z[rows], y.numpy()[rows])

    best = max(PENALTIES, key=lambda c: fitted(c, seen).score(z[~seen], y.numpy()[~seen]))
    model = fitted(best, slice(None))
    head = nn.Linear(x.shape[1], len(model.classes_))
    with torch.no_grad():  # on features as they are
        head.weight.copy_(torch.as_tensor(model.coef_).float() / std)
        head.bias.copy_(torch.as_tensor(model.intercept_).float() - head.weight @ mean)
    return head


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `python -m ppap_book probe`; return the exit status."""
    parser = CommandLine(prog="python -m ppap_book probe", description="Fit a tier's second judge.")
    parser.add_argument("tier", choices=BACKBONES, help="Whose training images teach it.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1.")

    def act(given: argparse.Namespace) -> str:
        fit(given.tier, given.device)
        return f"{path(given.tier)}: {accuracy(given.tier):.4f} of test images right"

    return run_command(parser, act, arguments)
