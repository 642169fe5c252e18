"""The guidance study: does naive guidance fail, do experts win, and how close does PPAP come?

One row per method, guide, sampler, scale and block of seeds. All methods see the same noise and
the same labels, so that they are compared image by image: a row keeps every image's verdicts, and
what it contributes to the distances.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ppap_book import ledger, study
from ppap_book.studies import methods, quality
from ppap_book.studies.methods import PUBLISHED_SCALE, Guided
from ppap_book.study import Labelled
from ppap_lib import zoo
from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import respace
from ppap_lib.errors import InputError
from ppap_lib.guidance import NoiseAware
from ppap_lib.samplers import Step, ddim, ddpm, trajectory
from ppap_lib.samplers.draw import draw as draw_samples
from ppap_lib.zoo.tiers import tier as preset

STUDY = "guidance"
SWEEP = (1.0, 2.5, 7.5, 20.0)
SWEEP_SEED = 900_000
"""First seed of the block on which each method's scale is chosen; the study never sees it."""


_WITHOUT_LABELS = ("none", "naive", "x0_fixed", "x0_through", "ppap5")
"""What there is of a guide off the shelf: no experts that need labels."""


class Part(NamedTuple):
    """A part of the full study: methods by a guide and sampler, blocks of `n` images of a tier."""

    guide: str
    sampler: str
    n: int
    blocks: int = 3
    tier: str = "fashion"
    methods: tuple[str, ...] = tuple(methods.METHODS)


FULL = (
    Part("resnet18", "ddim25", 2000),
    Part("vit", "ddim25", 2000),
    Part("resnet18", "ddpm250", 60),
    Part("vit", "ddpm250", 60),
    Part("resnet18", "ddim25", 2000, tier="tin10"),
    Part("vit", "ddim25", 2000, tier="tin10"),
    Part("lite0", "ddim25", 2000, tier="tin10", methods=_WITHOUT_LABELS),
)
"""What the small tiers' study asks for at the published scale; 250 steps as far as a CPU can."""

ON_A_GPU = tuple(
    Part(guide, "ddpm250", 2000, tier=tier)
    for tier in ("fashion", "tin10")
    for guide in ("resnet18", "vit")
)
"""And what it asks for besides where there is a GPU: a CPU would take days."""

AT_BEST = 400
"""Images in a block of each method at its best scale."""


class Sampler(NamedTuple):
    """A sampler of the study: its respacing, its step, and its form of guidance."""

    spacing: str
    step: Callable[[], Step]
    form: Literal["score", "mean"]


def sampler(name: str) -> Sampler:
    """DDIM or DDPM with a number of steps, each respaced as is usual: "ddim25" or "ddpm250"."""
    family, steps = name[:4], name[4:]
    if family not in ("ddim", "ddpm") or not steps.isdecimal():
        raise InputError(
            f"no sampler {name!r}: write ddim or ddpm and a number of steps, such as ddim25 or "
            f"ddpm250"
        )
    return Sampler(name, ddim, "score") if family == "ddim" else Sampler(steps, ddpm, "mean")


@dataclass(frozen=True, kw_only=True)
class Guidance(Guided):
    """One run: which method guides what, how strongly, from which seeds.

    `released_routing` sends a timestep on an interval's edge to the expert below it.
    """

    sampler: str = "ddim25"
    released_routing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        respace(preset(self.tier).schedule().T, sampler(self.sampler).spacing)
        if self.released_routing and not methods.has_experts(self.method):
            raise InputError(f"{self.method} has no experts whose routing could differ")

    @property
    def form(self) -> Literal["score", "mean"]:
        """Of guidance, by the run's sampler."""
        return sampler(self.sampler).form

    @property
    def label(self) -> str:
        """The run in one line."""
        how = "" if self.method == "none" else f" by {self.guide} at scale {self.scale:g}"
        return f"{methods.title(self.method)}{how}, {self.sampler}, seeds from {self.first_seed}"


@dataclass(frozen=True)
class BelowTheEdge:
    """Experts as the released code routes them: t on an interval's lower edge goes one below.

    There the table of experts is looked up by `t <= edge` (see the book's page on the released
    code); integer timesteps only.
    """

    experts: NoiseAware

    def at(self, level: Level) -> Callable[[Tensor], Any]:
        return self.experts.at(replace(level, t=(level.t - 1).clamp(min=0)))


def plan(
    names: Iterable[str],
    guide: str = "resnet18",
    sampler: str = "ddim25",
    scales: Iterable[float] = (PUBLISHED_SCALE,),
    n: int = 100,
    blocks: int = 3,
    first_seed: int = 0,
    tier: str = "fashion",
    extractor: str = "lite2",
) -> list[Guidance]:
    """The runs of a study, block by block, so that an interrupted one compares equals."""
    names, scales = tuple(names), tuple(scales)
    runs, found = [], set()
    for block in range(blocks):
        for method in names:
            for scale in scales:
                made = Guidance(
                    method=method,
                    guide=guide,
                    scale=scale,
                    sampler=sampler,
                    n=n,
                    first_seed=first_seed + block * n,
                    tier=tier,
                    extractor=extractor,
                )
                key = ledger.digest(made.recorded())
                if key not in found:  # "none" is one run for all scales
                    found.add(key)
                    runs.append(made)
    return runs


def draw(
    params: Guidance,
    device: torch.device | str = "cpu",
    during: tuple[float, float] | None = None,
) -> Tensor:
    """The run's images: float32 [n, C, H, W] in [-1, 1], on the CPU.

    With `during`, guidance acts at timesteps in [start, stop) only.
    """
    return drawn(_steering(params, device, during), params, params.sampler)


def drawn(steering: Callable[[Sequence[int]], Diffusion], params: Labelled, by: str) -> Tensor:
    """Images as `draw` draws them, by any `methods.steering` and the sampler of this name."""
    drawn_by = sampler(by)
    grid = preset(params.tier).schedule().grid(drawn_by.spacing)
    return draw_samples(steering, params.seeds, drawn_by.step(), grid=grid)


def measure(
    params: Guidance, device: torch.device | str = "cpu", images: Tensor | None = None
) -> dict[str, Any]:
    """Draw and measure; the row's results. `images` are those of `draw`, if they are there already.

    A few images have no distances to real ones: see `quality.measured`.
    """
    if params.n >= quality.DISTANCES_FROM:  # before anything is drawn: there may not be so many
        quality.reference(params.n, params.tier, params.extractor, device)
    images = draw(params, device) if images is None else images
    results: dict[str, Any] = judged(params, images, device)
    if params.method != "none":
        card = zoo.card(methods.weights_of(params.method, params.guide, params.tier))
        results["trained_parameters"] = card.parameters if card.kind == "experts" else 0
        results["guide_images_seen"] = card.images_seen
    results |= quality.measured(images, params.tier, params.extractor, device)
    return results | cost(params, device)


def judged(
    params: Guided, images: Tensor, device: torch.device | str = "cpu"
) -> dict[str, list[int]]:
    """`verdicts` of the tier's judge and, where there is one, of the guide on the run's images."""
    if params.method == "none":
        return judged_by(None, params, images, device)
    reader = methods.clean_reader(params.method, params.guide, params.tier, device)
    return judged_by(reader, params, images, device)


def judged_by(
    guide: Callable[[Tensor], Tensor] | None,
    params: Labelled,
    images: Tensor,
    device: torch.device | str = "cpu",
) -> dict[str, list[int]]:
    """The same of any guide, as it reads clean images."""
    judge = zoo.load(preset(params.tier).named("judge"), device)
    found = {"judge_correct": verdicts(judge, images, params.target, device)}
    if guide is not None:
        found["guide_correct"] = verdicts(guide, images, params.target, device)
    return found


def one_of_each(
    names: Iterable[str], guide: str = "resnet18", tier: str = "fashion"
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """One image of every class by each method, and the judge's verdicts on them; by its title."""
    drawn, right = {}, {}
    for method in names:
        params = Guidance(method=method, guide=guide, tier=tier, n=len(preset(tier).classes))
        images = draw(params)
        drawn[methods.title(method)] = images
        right[methods.title(method)] = judged(params, images)["judge_correct"]
    return drawn, right


@torch.no_grad()
def verdicts(
    model: Callable[[Tensor], Tensor], images: Tensor, target: Tensor, device="cpu"
) -> list[int]:
    """1 for every image [N, C, H, W] that the model puts into its class `target` [N], else 0."""
    answers = torch.cat([model(part.to(device)).argmax(1).cpu() for part in images.split(100)])
    return (answers == target).int().tolist()


def cost(params: Guidance, device: torch.device | str = "cpu") -> dict[str, float]:
    """GMAC per image, counted while one is drawn, and evaluations of denoiser and gradient."""
    chosen, drawn_by = preset(params.tier), sampler(params.sampler)
    seed, grid = [params.first_seed], chosen.schedule().grid(drawn_by.spacing)
    denoise = _steering(params, device)(seed).denoise
    noise = Noise(seed, chosen.shape, device=device)
    with FlopCounterMode(display=False) as flops:
        *_, last = trajectory(denoise, noise(), grid, drawn_by.step(), noise)
    return {
        "gmac_per_image": flops.get_total_flops() / 2e9,
        "evaluations": last.evaluations,
        "gradients": last.gradients,
    }


def in_words(params: Guidance, results: Mapping[str, Any]) -> str:
    """A row in one line."""
    right = sum(results["judge_correct"]) / params.n
    kid = f", KID {results['kid']:.4f}" if "kid" in results else ""
    return f"{params.label}: judge {right:.2f}{kid}"


record = partial(study.record, STUDY, measure=measure, words=in_words)
"""Run what the ledger does not hold yet, one row after the other."""


def _steering(
    params: Guidance, device: torch.device | str, during: tuple[float, float] | None = None
):
    model: nn.Module | BelowTheEdge | None = None
    if params.released_routing:
        model = BelowTheEdge(methods.reader(params.method, params.guide, params.tier, device))
    return methods.steering(
        params.method,
        params.guide,
        params.scale,
        params.form,
        params.tier,
        device,
        during,
        model,
    )
