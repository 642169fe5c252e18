"""Metrics: conventions, parity with torch-fidelity, and honesty about sample size."""

import math
from types import SimpleNamespace

import pytest
import torch

from ppap_book.errors import StudyError
from ppap_book.measures import distances
from ppap_book.measures import features as extractors
from ppap_book.measures.distances import Reference
from ppap_book.measures.features import EfficientNet, Features
from ppap_lib.data import fashion
from ppap_lib.errors import DataError, InputError, WeightsError
from ppap_lib.files import weights
from ppap_lib.zoo import datasets

torch_fidelity = pytest.importorskip("torch_fidelity")


def features(n, dims=80, shift=0.0, scale=1.0, seed=0, classes=5):
    generator = torch.Generator().manual_seed(seed)
    vectors = shift + scale * torch.randn(n, dims, generator=generator)
    return Features(vectors, "lite2", torch.randn(n, classes, generator=generator))


def test_kid_is_the_u_statistic_of_the_cubic_kernel():
    a, b = features(40), features(40, shift=0.2, seed=1)

    def kernel(x, y):
        return (x.vectors.double() @ y.vectors.double().T / x.vectors.shape[1] + 1) ** 3

    def off_diagonal_mean(k):
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    expected = (
        off_diagonal_mean(kernel(a, a)) + off_diagonal_mean(kernel(b, b)) - 2 * kernel(a, b).mean()
    )
    assert distances.kid(a, b) == pytest.approx(float(expected), rel=1e-9)


def test_the_witness_adds_up_to_kid_and_is_each_images_pull_on_it():
    a, b = features(40), features(40, shift=0.2, seed=1)
    witness = distances.kid_witness(a, b)
    both = witness.mean() + distances.kid_witness(b, a).mean()
    assert distances.kid(a, b) == pytest.approx(float(both), rel=1e-9)

    # Put one image in another's place: KID moves by the difference of their pulls, to first order.
    few, real = features(400), features(400, shift=0.2, seed=1)
    pulls = distances.kid_witness(few, real)
    low, high = int(pulls.argmin()), int(pulls.argmax())
    swapped = few.vectors.clone()
    swapped[high] = swapped[low] + 1e-6
    change = distances.kid(Features(swapped, "lite2"), real) - distances.kid(few, real)
    assert change == pytest.approx(2 * float(pulls[low] - pulls[high]) / 400, rel=0.1)


def test_kid_is_unbiased_where_fd_measures_n():
    """Two sets of one law: KID scatters around zero at any n, FD64 falls with n."""
    reference = Reference(features(1000, seed=9))
    mean = {}
    for n in (80, 400):
        pairs = [(features(n, seed=2 * i + 20), features(n, seed=2 * i + 21)) for i in range(6)]
        kids = torch.tensor([distances.kid(a, b) for a, b in pairs])
        assert abs(float(kids.mean())) < 4 * float(kids.std()) / len(kids) ** 0.5
        mean[n] = sum(distances.fd64(a, b, reference) for a, b in pairs) / len(pairs)
    assert mean[80] > 3 * mean[400] > 0


def test_fd_of_two_gaussians_is_its_closed_form():
    """FD = |m1 - m2|^2 + D (s1 - s2)^2 for isotropic Gaussians."""
    a, b = features(4000, dims=8), features(4000, dims=8, shift=0.5, scale=2.0, seed=1)
    exact = 8 * 0.5**2 + 8 * (2.0 - 1.0) ** 2
    assert distances.fd(a, b) == pytest.approx(exact, rel=0.05)
    assert distances.fd(a, b) == pytest.approx(distances.fd(b, a), rel=1e-6)


def test_a_collapsed_set_has_high_precision_and_low_recall():
    real = features(300, dims=8)
    collapsed = Features(real.vectors[:1] + 1e-3 * features(300, dims=8, seed=1).vectors, "lite2")
    precision, recall = distances.precision_recall(collapsed, real)
    assert precision > 0.99 and recall < 0.05
    assert distances.precision_recall(real, collapsed) == (recall, precision)


def test_precision_and_recall_are_shares_of_images_inside_the_others_manifold():
    generated, real = features(200, dims=8, shift=0.5, scale=0.8), features(200, dims=8, seed=1)
    precision, recall = distances.precision_recall(generated, real)
    assert 0.05 < recall < precision < 0.99  # nothing here is trivially equal
    inside = [
        float(distances.inside_manifold(*pair).float().mean())
        for pair in ((generated, real), (real, generated))
    ]
    assert inside == pytest.approx([precision, recall], abs=1e-6)


def test_inception_score_counts_confident_classes():
    logits = torch.eye(4).repeat(5, 1) * 100
    score = distances.inception_score(Features(torch.zeros(20, 2), "lite2", logits))
    assert score == pytest.approx(4.0, rel=1e-6)


def test_a_generated_image_s_share_of_the_recall_is_what_leaving_it_out_changes():
    generated, real = features(30, dims=8, scale=0.6, seed=1), features(30, dims=8, seed=2)
    recall = distances.precision_recall(generated, real)[1]
    shares = distances.recall_shares(generated, real)
    for i in range(30):
        rest = generated[[k for k in range(30) if k != i]]
        reach = torch.cdist(rest.vectors, rest.vectors).kthvalue(distances.NEIGHBOURS + 1).values
        without = (torch.cdist(real.vectors, rest.vectors) <= reach).any(1).double().mean()
        assert shares[i] == pytest.approx(30 * recall - 29 * without)
    assert shares.std() > 0


def test_the_jackknife_knows_how_much_a_recall_varies():
    """Over many generated sets of one distribution, against the same real images."""
    real = features(60, dims=8)
    recalls, errors = [], []
    for seed in range(60):
        generated = features(60, dims=8, scale=0.7, seed=100 + seed)
        recalls.append(distances.precision_recall(generated, real)[1])
        errors.append(distances.recall_shares(generated, real).var() / 60)
    ratio = (sum(errors) / len(errors)) ** 0.5 / torch.tensor(recalls).std()
    assert 0.8 < ratio < 2  # the jackknife is conservative (Efron and Stein 1981)


def test_components_are_orthonormal_and_ordered_by_real_variance():
    spread = torch.linspace(3, 0.1, 80)
    real = Features(features(500).vectors * spread, "lite2")
    reference = Reference(real)
    gram = reference.components.T @ reference.components
    torch.testing.assert_close(gram, torch.eye(64, dtype=torch.float64), atol=1e-9, rtol=0)
    variance = reference.project(real.vectors).var(0)
    assert bool((variance.diff() < 0).all())


def test_real_against_real_uses_disjoint_images_and_others_in_every_repeat(monkeypatch):
    numbers = torch.arange(200.0)  # which image is which
    real = Features(torch.cat([numbers[:, None], features(200, 70).vectors], 1), "lite2")
    halves, plain = [], distances.kid
    monkeypatch.setattr(distances, "kid", lambda a, b: halves.append((a, b)) or plain(a, b))
    rows = distances.real_against_real(real, 100, Reference(real), repeats=2)
    for (a, b), row in zip(halves, rows, strict=True):
        chosen = torch.cat([a.vectors[:, 0], b.vectors[:, 0]])
        assert torch.equal(chosen.sort().values, numbers)
        assert row["n"] == 100 and row["kid"] == plain(a, b)
    first, second = (set(a.vectors[:, 0].tolist()) for a, _ in halves)
    assert first != second and rows[0]["kid"] != rows[1]["kid"]
    row = rows[0]
    with pytest.raises(StudyError, match="two disjoint sets of 101 need 202 real images"):
        distances.real_against_real(real, 101, Reference(real))
    assert "fd64" in row and "fd64" not in distances.real_against_real(real, 64, Reference(real))[0]


def test_balanced_positions_follow_the_seeds():
    labels = torch.tensor([0, 0, 1, 2, 1, 2, 2, 0, 1])
    chosen = distances.balanced(labels, 7)
    assert labels[chosen].tolist() == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(StudyError, match="12 balanced images need 4 of every class"):
        distances.balanced(labels, 12)


def test_unequal_counts_small_sets_and_other_extractors_are_refused():
    a, b = features(70), features(71)
    for metric in (distances.kid, distances.precision_recall):
        with pytest.raises(StudyError, match="70 against 71 images"):
            metric(a, b)
    with pytest.raises(StudyError, match="measures n more than the images"):
        distances.fd(a, a)
    other = Features(a.vectors, "inception", a.logits)
    with pytest.raises(StudyError, match="inception cannot be compared with lite2"):
        distances.kid(other, a)
    with pytest.raises(StudyError, match="stored without logits"):
        distances.inception_score(Features(a.vectors, "lite2"))
    with pytest.raises(StudyError, match="no extractor 'vgg'"):
        extractors.extract(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "vgg")
    with pytest.raises(StudyError, match="cannot span 64 principal components"):
        Reference(features(64)).project(a.vectors)


@pytest.mark.parametrize(
    ("metric", "fewest"),
    [
        (distances.kid, 2),
        (distances.kid_witness, 2),
        (distances.precision_recall, 4),
        (distances.inside_manifold, 4),
        (distances.recall_shares, 5),
        (lambda a, b: distances.inception_score(a), 1),
        (lambda a, b: distances.fd64(a, b, Reference(features(70))), 65),
        (lambda a, b: distances.real_against_real(features(9), len(a), Reference(features(70))), 2),
    ],
)
def test_a_metric_says_how_many_images_it_needs(metric, fewest):
    for n in range(fewest):
        with pytest.raises(StudyError, match=f"needs at least {fewest} images, not {n}"):
            metric(features(n), features(n, seed=1))
    numbers = metric(features(fewest), features(fewest, seed=1))
    if not isinstance(numbers, list):
        assert torch.as_tensor(numbers).isfinite().all()


@pytest.mark.parametrize(
    "metric",
    [
        distances.kid,
        distances.kid_witness,
        distances.precision_recall,
        distances.inside_manifold,
        distances.recall_shares,
        lambda a, b: distances.inception_score(b),
        lambda a, b: distances.fd64(a, b, Reference(features(70))),
    ],
)
def test_features_that_are_no_numbers_are_refused(metric):
    broken = features(70)
    broken.vectors[3, 4] = broken.logits[3, 2] = math.nan
    with pytest.raises(StudyError, match="1 of 70 images.*not finite"):
        metric(features(70), broken)


def test_features_of_other_sizes_are_refused():
    with pytest.raises(StudyError, match="80 features against 79"):
        distances.kid(features(5), features(5, dims=79))


@pytest.mark.parametrize(
    ("labels", "count"), [([], 1), ([0, 1], 0), ([0, 1], -1), ([0, 2], 1), ([0, -1], 1)]
)
def test_sets_that_cannot_be_balanced_are_refused(labels, count):
    with pytest.raises(StudyError, match="balanced images need"):
        distances.balanced(torch.tensor(labels, dtype=torch.int64), count)


def test_features_are_asked_of_images():
    for images in (torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8)):
        with pytest.raises((StudyError, InputError), match="images"):
            extractors.extract(images)


class TestInception:
    """Of its weights, which are elsewhere: where they are looked for, and that they are checked."""

    @pytest.fixture
    def name(self, monkeypatch, tmp_path):
        """Of the file; a machine without network, cache and data."""
        monkeypatch.setenv("PPAP_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("PPAP_DATA", str(tmp_path))
        monkeypatch.setattr(extractors, "_INCEPTION", (tmp_path / "away" / "i.pth").as_uri())
        return "i.pth"

    def test_without_them_it_says_what_to_put_where(self, name):
        with pytest.raises(DataError, match="cannot download i.pth .* put the file at"):
            extractors.extract(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "inception")

    def test_another_file_is_refused_before_it_is_unpickled(self, name, tmp_path):
        torch.save({"w": torch.zeros(1)}, tmp_path / name)
        with pytest.raises(WeightsError, match="i.pth has sha256 .*, expected 6726825d"):
            extractors.extract(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "inception")

    def test_a_state_dict_of_the_right_digest_becomes_the_network(
        self, name, monkeypatch, tmp_path
    ):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        given = []

        def load(state):  # what its constructor does with the file
            given.append(state)

        monkeypatch.setattr(
            FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: load(state)
        )
        torch.save({"w": torch.ones(1)}, tmp_path / name)
        monkeypatch.setattr(extractors, "_INCEPTION_SHA256", weights.sha256(tmp_path / name))
        found = extractors.extract(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "inception")
        assert given[0]["w"] == 1
        assert found.vectors.shape == (2, 2048) and found.logits.shape == (2, 1008)


class TestLite2:
    """The real extractor, on a few real images."""

    def images(self, count=6):
        return datasets.load("fashion", "test").pixels[:count]

    def test_batch_size_does_not_matter(self):
        pytest.importorskip("timm")
        images = self.images()
        whole, split = extractors.extract(images), extractors.extract(images, batch=2)
        torch.testing.assert_close(whole.vectors, split.vectors, rtol=1e-4, atol=1e-5)
        assert whole.vectors.shape == (6, 1280) and whole.logits.shape == (6, 1000)

    def test_torch_fidelity_computes_the_same_numbers_with_this_extractor(self):
        from torch_fidelity.feature_extractor_base import FeatureExtractorBase

        class Extractor(FeatureExtractorBase):
            def __init__(self, name, features_list, **options):
                super().__init__(name, features_list)
                self.lite2 = EfficientNet()

            @staticmethod
            def get_provided_features_list():
                return ("vectors",)

            @staticmethod
            def get_default_feature_layer_for_metric(metric):
                return "vectors"

            @staticmethod
            def can_be_compiled():
                return False

            def forward(self, pixels):
                return self.lite2(pixels)[:1]

        torch_fidelity.register_feature_extractor("lite2", Extractor)
        images = datasets.load("fashion", "test").pixels[:24]
        ours = [extractors.extract(part) for part in images.chunk(2)]

        class Rows(torch.utils.data.Dataset):
            def __init__(self, pixels):
                self.pixels = pixels

            def __len__(self):
                return len(self.pixels)

            def __getitem__(self, index):
                return self.pixels[index]

        theirs = torch_fidelity.calculate_metrics(
            input1=Rows(images[:12]),
            input2=Rows(images[12:]),
            feature_extractor="lite2",
            kid=True,
            kid_subsets=1,
            kid_subset_size=12,
            cuda=False,
            save_cpu_ram=True,
            verbose=False,
        )
        expected = theirs["kernel_inception_distance_mean"]
        assert distances.kid(*ours) == pytest.approx(expected, rel=1e-3)

    @pytest.fixture
    def kept(self, monkeypatch, own_features):
        """Two thousand numbered images, their numbers as features; where the first are kept."""

        def extracted(pixels, extractor, device):
            return Features(pixels.flatten(1).float(), extractor)

        labels = torch.arange(10).repeat_interleave(200)
        images = SimpleNamespace(pixels=torch.arange(2000)[:, None, None, None], labels=labels)
        monkeypatch.setattr(distances, "extract", extracted)
        monkeypatch.setattr(distances.datasets, "reference_images", lambda tier: images)
        return distances.reference_file("fashion", "lite2")

    def test_more_real_images_than_are_kept_are_extracted_and_begin_with_the_same(
        self, monkeypatch, kept
    ):
        few, many = (distances.extract_real("fashion", count=n) for n in (1000, 2000))
        assert torch.equal(
            distances.real_features("fashion", count=1500).vectors, many.vectors[:1500]
        )
        assert torch.equal(few.vectors, many.vectors[:1000]) and not kept.exists()
        with pytest.raises(StudyError, match="2002 balanced images need 201 of every class"):
            distances.real_features("fashion", count=2002)
        monkeypatch.setattr(distances, "KEPT", 3000)  # more than there are
        assert len(distances.real_features("tin10", count=100)) == 2000
        with pytest.raises(StudyError, match="tin10 has 2000 balanced reference images, not 2002"):
            distances.real_features("tin10", count=2002)

    def test_the_first_ones_are_extracted_once_on_a_machine(self, monkeypatch, kept):
        first = distances.real_features("fashion", count=500)
        assert kept.is_file() and len(first) == 1000
        monkeypatch.setattr(distances, "extract", lambda *_, **__: pytest.fail("extracted again"))
        assert torch.equal(distances.real_features("fashion").vectors, first.vectors)

    def test_a_folder_that_cannot_be_written_to_keeps_nothing(self, monkeypatch, kept, tmp_path):
        (tmp_path / "file").touch()
        monkeypatch.setenv("PPAP_CACHE", str(tmp_path / "file"))
        assert len(distances.real_features("fashion")) == 1000

    def test_a_disk_that_is_full_keeps_nothing(self, kept):
        resource = pytest.importorskip("resource")
        kept.parent.mkdir(parents=True)
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, usual[1]))
        try:
            assert len(distances.real_features("fashion")) == 1000
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert not list(kept.parent.iterdir())

    @pytest.mark.parametrize("change", ["extractor", "extraction", "nothing said", "damaged"])
    def test_what_another_extractor_made_is_extracted_again(self, kept, change):
        first = distances.real_features("fashion")
        said = weights.metadata(kept)
        if change == "damaged":
            kept.write_bytes(kept.read_bytes()[:-1])
        else:
            others = {
                "extractor": {**said, "extractor_sha256": "0" * 64},
                "extraction": {**said, "extraction": "0"},
                "nothing said": {},
            }
            weights.save({"vectors": torch.zeros(1000, 1)}, kept, metadata=others[change])
        assert torch.equal(distances.real_features("fashion").vectors, first.vectors)
        assert weights.metadata(kept) == said

    def test_kept_features_are_what_the_extractor_says(self):
        kept = distances.real_features("fashion")
        found = fashion.shipped()
        again = extractors.extract(found.pixels[distances.balanced(found.labels, 4)])
        assert len(kept) == 1000 and distances.reference_file("fashion", "lite2").is_file()
        # Kept in float16; in another batch float32 differs by less.
        torch.testing.assert_close(again.vectors, kept.vectors[:4], rtol=2e-3, atol=1e-3)
