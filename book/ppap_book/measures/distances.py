"""Quality of images, as features -> statistics -> number.

torch-fidelity computes the distances; here are the project's conventions, the features of real
images, and the checks that keep sample sizes honest. By the extractor "lite2" numbers are called
FD-lite2, KID-lite2, IS-lite2, never FID; by "inception" the same functions give FID, KID and IS.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ppap_book.errors import StudyError
from ppap_book.measures.features import Features, digest, extract
from ppap_lib.arguments import checked
from ppap_lib.errors import WeightsError
from ppap_lib.files import weights
from ppap_lib.files.download import cache_folder
from ppap_lib.zoo import datasets

COMPONENTS = 64  # principal components of the small-sample Frechet distance
FULL_DIMENSION_FROM = 2000  # below this many samples FD in full dimension measures n
NEIGHBOURS = 3  # of precision and recall
KEPT = 1000  # real images whose features are kept once they are known


@checked
def balanced(labels: Tensor, count: int) -> Tensor:
    """Positions of `count` images, image i of class i modulo classes: the seeds' own balance."""
    if labels.ndim != 1 or labels.is_floating_point():
        raise StudyError(f"labels are whole numbers [N], not {labels.dtype} {list(labels.shape)}")
    classes = int(labels.max()) + 1 if len(labels) else 0
    columns = [(labels == k).nonzero().flatten() for k in range(classes)]
    rows = min(map(len, columns), default=0)
    if not 1 <= count <= rows * classes or labels.min() < 0:
        most = max(1, -(-count // max(1, classes)))
        raise StudyError(f"{count} balanced images need {most} of every class, from 0")
    return torch.stack([column[:rows] for column in columns], 1).flatten()[:count]


def reference_file(tier: str, extractor: str) -> Path:
    """Where the features of a tier's first `KEPT` real images are kept on this machine."""
    return cache_folder() / "features" / f"{tier}-{extractor}-{KEPT}.safetensors"


def real_features(
    tier: str, extractor: str = "lite2", device: torch.device | str = "cpu", count: int = KEPT
) -> Features:
    """Features of a tier's reference images, balanced: at least `count`, the same first.

    Of up to `KEPT` in float16: extracted once on a machine, in half a minute, and kept, until
    another extractor of this name would make them; after the images of a tier were replaced,
    delete `reference_file`. More are extracted once per process. Raises `StudyError` if there
    are fewer than `count`.
    """
    path = reference_file(tier, extractor)
    if count > KEPT:
        features = extract_real(tier, extractor, device, count)
    else:
        vectors = _stored(path, extractor)
        if vectors is None:
            vectors = extract_real(tier, extractor, device, KEPT).vectors.half()
            with suppress(OSError):  # a folder that cannot be written to: the next one extracts
                weights.save({"vectors": vectors}, path, metadata=_origin(extractor))
        features = Features(vectors.float(), extractor)
    if len(features) < count:
        raise StudyError(f"{tier} has {len(features)} balanced reference images, not {count}")
    return features


_EXTRACTION = "1"  # another number once images reach extractors in another way


def _origin(extractor: str) -> dict[str, str]:
    """Metadata that stored features must have to be read."""
    return {"extractor_sha256": digest(extractor), "extraction": _EXTRACTION}


def _stored(path: Path, extractor: str) -> Tensor | None:
    """The vectors stored at `path`, if they are there, whole, and by this extractor."""
    try:
        current = weights.metadata(path) == _origin(extractor)
        return weights.read(path)["vectors"] if current else None
    except (WeightsError, OSError, KeyError):
        return None


@lru_cache(maxsize=2)
def extract_real(
    tier: str, extractor: str = "lite2", device: torch.device | str = "cpu", count: int = KEPT
) -> Features:
    """`real_features`, computed from the images: `count`, up to `KEPT` as many as there are."""
    images = datasets.reference_images(tier)
    if count <= KEPT:
        count = min(count, int(images.labels.bincount().min()) * int(images.labels.max() + 1))
    positions = balanced(images.labels, count)
    return extract(images.pixels[positions], extractor, device=device)


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
            raise StudyError(
                f"{len(centred)} real images cannot span {COMPONENTS} principal components"
            )
        return torch.linalg.svd(centred, full_matrices=False).Vh[:COMPONENTS].T

    def project(self, vectors: Tensor) -> Tensor:
        """[N, D] to [N, COMPONENTS]."""
        return (vectors.double() - self.mean) @ self.components


def _same(a: Features, b: Features, fewest: int = 1, equal_n: bool = True) -> None:
    """Refuse features that cannot be compared, and sets of fewer images than the number needs."""
    if a.extractor != b.extractor:
        raise StudyError(f"features of {a.extractor} cannot be compared with {b.extractor}'s")
    if a.vectors.shape[1:] != b.vectors.shape[1:]:
        sizes = f"{a.vectors.shape[-1]} features against {b.vectors.shape[-1]}"
        raise StudyError(f"{sizes}: they are of other extractors, or not [N, D]")
    if equal_n and len(a) != len(b):
        raise StudyError(
            f"{len(a)} against {len(b)} images: these numbers depend on n, so give equal counts"
        )
    for vectors in (a.vectors, b.vectors):
        _enough(vectors, fewest)


def _enough(numbers: Tensor, fewest: int) -> None:
    """Refuse too few images, and such whose `numbers` [N, D] are not finite."""
    if len(numbers) < fewest:
        raise StudyError(f"this needs at least {fewest} images, not {len(numbers)}")
    if broken := int((~numbers.isfinite()).flatten(1).any(1).sum()):
        raise StudyError(f"{broken} of {len(numbers)} images have features that are not finite")


def kid(generated: Features, real: Features) -> float:
    """Kernel distance: the u-statistic over all samples, without subsets; equal n.

    Unbiased for images drawn independently, so slightly negative values mean 'indistinguishable'.
    Sets balanced by class, as the protocol's are, score lower by O(1 / n): within one they share
    their class more rarely than across two.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    _same(generated, real, fewest=2)
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
    _same(generated, real, fewest=2)
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
    _same(generated, real, fewest=COMPONENTS + 1)
    _same(generated, reference.features, equal_n=False)
    return _frechet(reference.project(generated.vectors), reference.project(real.vectors))


def fd(generated: Features, real: Features) -> float:
    """Frechet distance in full dimension, from 2,000 samples up; equal n.

    With Inception's features this is FID.
    """
    _same(generated, real)
    if len(real) < FULL_DIMENSION_FROM:
        raise StudyError(
            f"FD in full dimension at n = {len(real)} measures n more than the images: use fd64, "
            f"or at least {FULL_DIMENSION_FROM} images"
        )
    return _frechet(generated.vectors, real.vectors)


def inception_score(generated: Features) -> float:
    """exp(E KL(p(y|x) || p(y))) with one split."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    if generated.logits is None:
        raise StudyError("these features were stored without logits: extract them from images")
    _enough(generated.logits, 1)
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

    _same(generated, real, fewest=NEIGHBOURS + 1)
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
    _same(images, of, fewest=NEIGHBOURS + 1)
    # Exactly as torch-fidelity computes it, so that the means are its numbers.
    reach = torch.cdist(of.vectors, of.vectors).kthvalue(NEIGHBOURS + 1).values  # 1st: itself
    return (torch.cdist(images.vectors, of.vectors) <= reach).any(1)


def recall_shares(generated: Features, real: Features) -> Tensor:
    """Contribution of every generated image to the recall: float64 [N], their mean about that.

    The jackknife's pseudo-values (Tukey 1958), N recall - (N - 1) recall without the image. Their
    spread is how much the recall depends on which images happened to be generated.
    """
    _same(generated, real, fewest=NEIGHBOURS + 2)
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
    if n < 2:
        raise StudyError(f"real against real needs at least 2 images, not {n}")
    if 2 * n > len(real):
        raise StudyError(f"two disjoint sets of {n} need {2 * n} real images, not {len(real)}")
    rows = []
    for repeat in range(repeats):
        generator = torch.Generator().manual_seed(seed + repeat)
        order = torch.randperm(len(real), generator=generator)
        a, b = real[order[:n]], real[order[n : 2 * n]]
        small = {} if n <= COMPONENTS else {"fd64": fd64(a, b, reference)}
        rows.append({"n": n, "kid": kid(a, b)} | small)
    return rows
