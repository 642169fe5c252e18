"""Quality of images, as features -> statistics -> number.

torch-fidelity computes the distances; here are the extractors, the project's conventions, and
the checks that keep sample sizes honest. Offline the extractor is EfficientNet-Lite2 ("lite2")
at its fixed input size, and numbers are called FD-lite2, KID-lite2, IS-lite2, never FID; with
Inception weights at hand ("inception-v3-compat") the same functions give FID, KID and IS.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ppap_lib import data, fetch, weights, zoo
from ppap_lib import images as pixels
from ppap_lib.errors import PpapError

COMPONENTS = 64  # principal components of the small-sample Frechet distance
FULL_DIMENSION_FROM = 2000  # below this many samples FD in full dimension measures n
NEIGHBOURS = 3  # of precision and recall
KEPT = 1000  # real images whose features are kept once they are known


ExtractorName = Literal["lite2", "inception"]


class MetricError(PpapError, ValueError):
    """Samples or features that a metric cannot honestly compare."""


@dataclass(frozen=True, eq=False)
class Features:
    """What an extractor makes of N images: `vectors` [N, D] and `logits` [N, K], float32.

    Stored reference features go without logits, which only generated images need.
    """

    vectors: Tensor
    extractor: str
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index) -> "Features":
        logits = None if self.logits is None else self.logits[index]
        return Features(self.vectors[index], self.extractor, logits)


class Lite2(nn.Module):
    """EfficientNet-Lite2's pooled features and logits, from uint8 images of any size."""

    def __init__(self, device: torch.device | str = "cpu"):
        super().__init__()
        self.model = zoo.load("efficientnet_lite2", device)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        network = self.model.network
        maps = network.forward_features(self.model.prepare(pixels.from_bytes(images)))
        vectors = network.forward_head(maps, pre_logits=True)
        return vectors, network.get_classifier()(vectors)


_INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
_INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def inception_weights() -> Path:
    """The file of Inception's weights: in `$PPAP_DATA`, or downloaded once; verified.

    Raises `fetch.FetchError`, which says what to put where, or `weights.WeightsError`.
    """
    name, folder = _INCEPTION.rsplit("/", 1)[1], fetch.data_folder()
    path = fetch.cache_folder() / name
    if folder is not None and (folder / name).is_file():
        path = folder / name
    else:
        fetch.download(_INCEPTION, path, _INCEPTION_SHA256)
    weights.read(path, _INCEPTION_SHA256)  # torch-fidelity unpickles what it is given
    return path


class Inception(nn.Module):
    """torch-fidelity's Inception by `inception_weights`: 2048 features and logits."""

    def __init__(self, device: torch.device | str = "cpu"):
        from torch_fidelity.utils import create_feature_extractor

        super().__init__()
        outputs = ["2048", "logits_unbiased"]
        path = str(inception_weights())
        network = create_feature_extractor(
            "inception-v3-compat", outputs, cuda=False, feature_extractor_weights_path=path
        )
        self.network = network.to(device)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(pixels.with_channels(images, 3))


EXTRACTORS: dict[str, Callable[..., nn.Module]] = {"lite2": Lite2, "inception": Inception}


def extract(
    images: Tensor,
    extractor: str = "lite2",
    batch: int | None = None,
    device: torch.device | str = "cpu",
) -> Features:
    """Features of images [N, C, H, W] (uint8, or [-1, 1], which is first rounded to bytes).

    Generated and real images pass through bytes alike, so that quantisation is no difference.
    `batch` images are read at a time (default: by the device).
    """
    if extractor not in EXTRACTORS:
        raise MetricError(f"no extractor {extractor!r}: there are {', '.join(EXTRACTORS)}")
    if images.dtype != torch.uint8:
        images = pixels.to_bytes(pixels.check(images, tolerance=torch.inf))
    network = EXTRACTORS[extractor](device)
    batch = batch or (16 if torch.device(device).type == "cpu" else 250)
    parts = []
    with torch.no_grad():
        for chunk in images.split(batch):
            parts.append([part.float().cpu() for part in network(chunk.to(device))])
    vectors, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return Features(vectors, extractor, logits)


def balanced(labels: Tensor, count: int) -> Tensor:
    """Positions of `count` images, image i of class i modulo classes: the seeds' own balance."""
    classes = int(labels.max()) + 1
    columns = [(labels == k).nonzero().flatten() for k in range(classes)]
    rows = min(map(len, columns))
    if count > rows * classes:
        raise MetricError(f"{count} balanced images need {-(-count // classes)} of every class")
    return torch.stack([column[:rows] for column in columns], 1).flatten()[:count]


def reference_file(tier: str, extractor: str) -> Path:
    """Where the features of a tier's first `KEPT` real images are kept on this machine."""
    return fetch.cache_folder() / "features" / f"{tier}-{extractor}-{KEPT}.safetensors"


def real_features(
    tier: str, extractor: str = "lite2", device: torch.device | str = "cpu", count: int = KEPT
) -> Features:
    """Features of a tier's reference images, balanced: at least `count`, the same first.

    Of up to `KEPT` in float16: extracted once on a machine, in half a minute, and kept, until
    another extractor of this name would make them; after the images of a tier were replaced,
    delete `reference_file`. More are extracted once per process. Raises `MetricError` if there
    are fewer than `count`.
    """
    path = reference_file(tier, extractor)
    if count > KEPT:
        found = extract_real(tier, extractor, device, count)
    else:
        vectors = _kept(path, extractor)
        if vectors is None:
            vectors = extract_real(tier, extractor, device, KEPT).vectors.half()
            with suppress(OSError):  # a folder that cannot be written to: the next one extracts
                weights.save({"vectors": vectors}, path, metadata=_made_by(extractor))
        found = Features(vectors.float(), extractor)
    if len(found) < count:
        raise MetricError(f"{tier} has {len(found)} balanced reference images, not {count}")
    return found


_EXTRACTION = "1"  # another number once images reach extractors in another way


def _made_by(extractor: str) -> dict[str, str]:
    """What stored features must say of themselves to be read."""
    digests = {"lite2": zoo.card("efficientnet_lite2").sha256, "inception": _INCEPTION_SHA256}
    return {"extractor_sha256": digests[extractor] or "", "extraction": _EXTRACTION}


def _kept(path: Path, extractor: str) -> Tensor | None:
    """The vectors stored at `path`, if they are there, whole, and by this extractor."""
    try:
        current = weights.metadata(path) == _made_by(extractor)
        return weights.read(path)["vectors"] if current else None
    except (weights.WeightsError, OSError, KeyError):
        return None


@lru_cache(maxsize=2)
def extract_real(
    tier: str, extractor: str = "lite2", device: torch.device | str = "cpu", count: int = KEPT
) -> Features:
    """`real_features`, computed from the images: `count`, up to `KEPT` as many as there are."""
    found = data.reference_images(tier)
    if count <= KEPT:
        count = min(count, int(found.labels.bincount().min()) * int(found.labels.max() + 1))
    chosen = balanced(found.labels, count)
    return extract(found.pixels[chosen], extractor, device=device)


@dataclass(frozen=True, eq=False)
class Reference:
    """Real features, and the principal components in which small samples are compared."""

    features: Features

    @cached_property
    def mean(self) -> Tensor:
        return self.features.vectors.double().mean(0)

    @cached_property
    def components(self) -> Tensor:
        """[D, COMPONENTS], orthonormal, of the largest real variance."""
        centred = self.features.vectors.double() - self.mean
        if len(centred) <= COMPONENTS:
            raise MetricError(
                f"{len(centred)} real images cannot span {COMPONENTS} principal components"
            )
        return torch.linalg.svd(centred, full_matrices=False).Vh[:COMPONENTS].T

    def project(self, vectors: Tensor) -> Tensor:
        """[N, D] to [N, COMPONENTS]."""
        return (vectors.double() - self.mean) @ self.components


def _same(a: Features, b: Features, equal_n: bool = True) -> None:
    if a.extractor != b.extractor:
        raise MetricError(f"features of {a.extractor} cannot be compared with {b.extractor}'s")
    if equal_n and len(a) != len(b):
        raise MetricError(
            f"{len(a)} against {len(b)} images: these numbers depend on n, so give equal counts"
        )


def kid(generated: Features, real: Features) -> float:
    """Kernel distance: the u-statistic over all samples, without subsets; equal n.

    Unbiased for images drawn independently, so slightly negative values mean 'indistinguishable'.
    Sets balanced by class, as the protocol's are, score lower by O(1 / n): within one they share
    their class more rarely than across two.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    _same(generated, real)
    numbers = kid_features_to_metric(
        generated.vectors.double(),
        real.vectors.double(),
        kid_subsets=1,
        kid_subset_size=len(real),
        verbose=False,
    )
    return numbers[KEY_METRIC_KID_MEAN]


def kid_witness(generated: Features, real: Features) -> Tensor:
    """How much rather each generated image lies among the generated than the real ones: [N].

    The kernel distance's witness function at image i, mean_j k(g_i, g_j) - mean_j k(g_i, r_j)
    with j != i in the first (Gretton et al. 2012). KID is its mean plus the real images' own, and
    to first order changes by 2 (w_i - mean w) / N if image i counts twice: what a bootstrap over
    images needs. Float64; equal n.
    """
    _same(generated, real)
    g, r = generated.vectors.double(), real.vectors.double()

    def kernel(other: Tensor) -> Tensor:  # torch-fidelity's default: cubic
        return (g @ other.T / g.shape[1] + 1) ** 3

    own, cross = kernel(g), kernel(r)
    return (own.sum(1) - own.diagonal()) / (len(g) - 1) - cross.mean(1)


def _frechet(a: Tensor, b: Tensor) -> float:
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    statistics = [fid_features_to_statistics(v.double()) for v in (a, b)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def fd64(generated: Features, real: Features, reference: Reference) -> float:
    """Frechet distance within the reference's first 64 principal components; equal n."""
    _same(generated, real)
    _same(generated, reference.features, equal_n=False)
    if len(real) <= COMPONENTS:
        raise MetricError(f"FD in {COMPONENTS} components needs more images than that")
    return _frechet(reference.project(generated.vectors), reference.project(real.vectors))


def fd(generated: Features, real: Features) -> float:
    """Frechet distance in full dimension, from 2,000 samples up; equal n.

    With Inception's features this is FID.
    """
    _same(generated, real)
    if len(real) < FULL_DIMENSION_FROM:
        raise MetricError(
            f"FD in full dimension at n = {len(real)} measures n more than the images: use fd64, "
            f"or at least {FULL_DIMENSION_FROM} images"
        )
    return _frechet(generated.vectors, real.vectors)


def inception_score(generated: Features) -> float:
    """exp(E KL(p(y|x) || p(y))) with one split."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    if generated.logits is None:
        raise MetricError("these features were stored without logits: extract them from images")
    return isc_features_to_metric(generated.logits, splits=1)[KEY_METRIC_ISC_MEAN]


def precision_recall(generated: Features, real: Features) -> tuple[float, float]:
    """Share of generated images inside the real manifold, and the reverse (k = 3); equal n.

    A collapsed set has high precision and low recall (Kynkaanniemi et al. 2019).
    """
    from torch_fidelity.metric_prc import (
        KEY_METRIC_PRECISION,
        KEY_METRIC_RECALL,
        prc_features_to_metric,
    )

    _same(generated, real)
    numbers = prc_features_to_metric(
        generated.vectors,
        real.vectors,
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=10_000,
        save_cpu_ram=False,
        verbose=False,
    )
    return numbers[KEY_METRIC_PRECISION], numbers[KEY_METRIC_RECALL]


def inside_manifold(images: Features, of: Features) -> Tensor:
    """Whether each image lies in the manifold of the others: bool [N].

    That is, nearer to one of them than its own third neighbour is. Its mean over generated images
    in the real manifold is their precision, over real ones in the generated manifold the recall.
    """
    _same(images, of)
    # Exactly as torch-fidelity computes it, so that the means are its numbers.
    reach = torch.cdist(of.vectors, of.vectors).kthvalue(NEIGHBOURS + 1).values  # 1st: itself
    return (torch.cdist(images.vectors, of.vectors) <= reach).any(1)


def recall_shares(generated: Features, real: Features) -> Tensor:
    """What every generated image contributes to the recall: float64 [N], their mean about that.

    The jackknife's pseudo-values (Tukey 1958), N recall - (N - 1) recall without the image. Their
    spread is how much the recall depends on which images happened to be generated.
    """
    _same(generated, real)
    n = len(generated)
    among = torch.cdist(generated.vectors, generated.vectors)
    reach, further = (among.kthvalue(k).values for k in (NEIGHBOURS + 1, NEIGHBOURS + 2))
    away = torch.cdist(real.vectors, generated.vectors)
    covers = away <= reach
    # Without image i those whose neighbour it was reach further; that matters to a real image that
    # none covers, or i alone.
    neighbour = (among <= reach[:, None]).fill_diagonal_(False)  # [j, i]: i is a neighbour of j
    nearly = (away <= further) & ~covers
    count = covers.sum(1)
    gained = (nearly[count == 0].float() @ neighbour.float() > 0).sum(0)
    sole = covers[count == 1].int().argmax(1)
    kept = (nearly[count == 1] & neighbour.T[sole]).any(1)
    lost = torch.bincount(sole[~kept], minlength=n)
    covered = (count > 0).sum()
    return (n * covered - (n - 1) * (covered - lost + gained)).double() / len(real)


def real_against_real(
    real: Features, n: int, reference: Reference, repeats: int = 1, seed: int = 0
) -> list[dict[str, float]]:
    """KID and FD64 of disjoint real halves of n images: what 'no difference' scores at n.

    FD64 only where n exceeds its components.
    """
    if 2 * n > len(real):
        raise MetricError(f"two disjoint sets of {n} need {2 * n} real images, not {len(real)}")
    rows = []
    for repeat in range(repeats):
        generator = torch.Generator().manual_seed(seed + repeat)
        order = torch.randperm(len(real), generator=generator)
        a, b = real[order[:n]], real[order[n : 2 * n]]
        small = {} if n <= COMPONENTS else {"fd64": fd64(a, b, reference)}
        rows.append({"n": n, "kid": kid(a, b)} | small)
    return rows


def register_with_torch_fidelity(name: str = "efficientnet-lite2") -> str:
    """Make lite2 a feature extractor of `torch_fidelity.calculate_metrics`; returns its name."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    from torch_fidelity.registry import register_feature_extractor as register

    if name in FEATURE_EXTRACTORS_REGISTRY:
        return name

    class Extractor(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)
            self.lite2 = Lite2()

        @staticmethod
        def get_provided_features_list():
            return "vectors", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits" if metric == "isc" else "vectors"

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, images):
            found = dict(zip(("vectors", "logits"), self.lite2(images), strict=True))
            return tuple(found[name] for name in self.features_list)

    register(name, Extractor)
    return name
