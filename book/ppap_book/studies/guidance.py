"""The guidance study: does naive guidance fail, do experts win, and how close does PPAP come?

One row per method, guide, sampler, scale and block of seeds. All methods see the same noise and
the same labels, so that they are compared image by image: a row keeps every image's verdicts, and
what it contributes to the distances. What the study asks for is in `guidance_plan`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ppap_book import ledger
from ppap_book.measures import protocol, second_judge
from ppap_book.studies import methods
from ppap_book.studies.methods import PUBLISHED_SCALE, Guided
from ppap_book.study import Labelled, Study
from ppap_lib import zoo
from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import respace
from ppap_lib.errors import InputError
from ppap_lib.guidance import NoiseAware
from ppap_lib.samplers import Step, ddim, ddpm, trajectory
from ppap_lib.samplers.draw import draw as draw_samples
from ppap_lib.zoo import tiers

SWEEP = (1.0, 2.5, 7.5, 20.0)
"""Scales among which each method's best is chosen."""

SWEEP_SEED = 900_000
"""First seed of the block on which they are swept; the study itself never sees it."""


class Sampler(NamedTuple):
    """A sampler of the study: its respacing, its step, and its form of guidance."""

    spacing: str
    step: Callable[[], Step]
    form: Literal["score", "mean"]


def sampler(name: str) -> Sampler:
    """Return DDIM or DDPM with a number of steps, respaced as usual: "ddim25" or "ddpm250"."""
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
        respace(tiers.tier(self.tier).schedule().T, sampler(self.sampler).spacing)
        if self.released_routing and not methods.has_experts(self.method):
            raise InputError(f"{self.method} has no experts whose routing could differ")

    @property
    def form(self) -> Literal["score", "mean"]:
        """The form of guidance, by the run's sampler."""
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
        """Return the expert that the released code asks at a level."""
        return self.experts.at(replace(level, t=(level.t - 1).clamp(min=0)))


def grid(
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
    """Return every method at every scale, block by block, so that an interrupted study is fair.

    Parameters
    ----------
    names : Iterable[str]
        Methods of `methods.METHODS`; "none" is one run for all scales.
    n, blocks, first_seed : int
        Images in a block, blocks, and the first block's first seed.
    guide, sampler, scales, tier, extractor
        As in `Guidance`.
    """
    names, scales = tuple(names), tuple(scales)
    runs: dict[str, Guidance] = {}
    for block in range(blocks):
        for method in names:
            for scale in scales:
                run = Guidance(
                    method=method,
                    guide=guide,
                    scale=scale,
                    sampler=sampler,
                    n=n,
                    first_seed=first_seed + block * n,
                    tier=tier,
                    extractor=extractor,
                )
                runs.setdefault(ledger.digest(run.recorded()), run)
    return list(runs.values())


def draw(
    params: Guidance,
    device: torch.device | str = "cpu",
    during: tuple[float, float] | None = None,
    batch: int | None = None,
) -> Tensor:
    """Return the run's images: float32 [n, C, H, W] in [-1, 1], on the CPU.

    With `during`, guidance acts at timesteps in [start, stop) only. `batch` images are drawn at a
    time, the study's number by default: see `ppap_lib.samplers.draw`.
    """
    return draw_steered(_steering(params, device, during), params, params.sampler, batch)


def draw_steered(
    steering: Callable[[Sequence[int]], Diffusion],
    params: Labelled,
    sampler_name: str,
    batch: int | None = None,
) -> Tensor:
    """Return images as `draw` does, by any `methods.steering` and the sampler of this name."""
    drawn_by = sampler(sampler_name)
    levels = tiers.tier(params.tier).schedule().grid(drawn_by.spacing)
    return draw_samples(steering, params.seeds, drawn_by.step(), grid=levels, batch=batch)


def measure(
    params: Guidance, device: torch.device | str = "cpu", images: Tensor | None = None
) -> dict[str, Any]:
    """Draw and measure; return the row's results.

    `images` are those of `draw`, if they are there already. A few images have no distances to
    real ones: see `protocol.measured`.
    """
    if params.n >= protocol.DISTANCES_FROM:  # before anything is drawn: there may not be so many
        protocol.reference(params.n, params.tier, params.extractor, device)
    images = draw(params, device) if images is None else images
    results: dict[str, Any] = judged(params, images, device)
    if params.method != "none":
        card = zoo.card(methods.weights_of(params.method, params.guide, params.tier))
        results["trained_parameters"] = card.parameters if card.kind == "experts" else 0
        results["guide_images_seen"] = card.images_seen
    results |= protocol.measured(images, params.tier, params.extractor, device)
    return results | cost(params, device)


def judged(
    params: Guided, images: Tensor, device: torch.device | str = "cpu"
) -> dict[str, list[int]]:
    """Return `verdicts` on the images: of the tier's judges and, where there is one, of the guide.

    And by which weights the second judge says so, which a row's parameters do not name.
    """
    if params.method == "none":
        return judged_by(None, params, images, device)
    reader = methods.clean_reader(params.method, params.guide, params.tier, device)
    return judged_by(reader, params, images, device)


def judged_by(
    reader: Callable[[Tensor], Tensor] | None,
    params: Labelled,
    images: Tensor,
    device: torch.device | str = "cpu",
) -> dict[str, list[int]]:
    """Return `judged` of any guide, as it reads clean images."""
    judge = zoo.load(tiers.tier(params.tier).named("judge"), device)
    results = {"judge_correct": verdicts(judge, images, params.target, device)}
    if second_judge.judges(params.tier, params.guide):
        second = second_judge.load(params.tier, device)
        results["second_judge_correct"] = verdicts(second, images, params.target, device)
        results["second_judge_sha256"] = second_judge.digest(params.tier)
    if reader is not None:
        results["guide_correct"] = verdicts(reader, images, params.target, device)
    return results


def one_of_each(
    names: Iterable[str], guide_name: str = "resnet18", tier_name: str = "fashion"
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Return one image of every class by each method, and the judge's verdicts; by its title."""
    drawn, right = {}, {}
    count = len(tiers.tier(tier_name).classes)
    for method in names:
        params = Guidance(method=method, guide=guide_name, tier=tier_name, n=count)
        images = draw(params)
        drawn[methods.title(method)] = images
        right[methods.title(method)] = judged(params, images)["judge_correct"]
    return drawn, right


@torch.no_grad()
def verdicts(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    target: Tensor,
    device: torch.device | str = "cpu",
) -> list[int]:
    """Return 1 for every image [N, C, H, W] that the model puts into its class [N], else 0."""
    answers = torch.cat([model(part.to(device)).argmax(1).cpu() for part in images.split(100)])
    return (answers == target).int().tolist()


def cost(params: Guidance, device: torch.device | str = "cpu") -> dict[str, float]:
    """Return GMAC, evaluations of the denoiser and gradients per image, counted on one."""
    tier, drawn_by = tiers.tier(params.tier), sampler(params.sampler)
    seed, levels = [params.first_seed], tier.schedule().grid(drawn_by.spacing)
    denoise = _steering(params, device)(seed).denoise
    noise = Noise(seed, tier.shape, device=device)
    with FlopCounterMode(display=False) as flops:
        *_, last = trajectory(denoise, noise(), levels, drawn_by.step(), noise)
    return {
        "gmac_per_image": flops.get_total_flops() / 2e9,
        "evaluations": last.evaluations,
        "gradients": last.gradients,
    }


def in_words(params: Guidance, results: Mapping[str, Any]) -> str:
    """Return a row in one line."""
    right = sum(results["judge_correct"]) / params.n
    kid = f", KID {results['kid']:.4f}" if "kid" in results else ""
    return f"{params.label}: judge {right:.2f}{kid}"


def _steering(
    params: Guidance, device: torch.device | str, during: tuple[float, float] | None = None
) -> Callable[[Sequence[int]], Diffusion]:
    model = None
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


STUDY = Study(
    "guidance",
    "Does naive guidance fail, do experts win, and how close does PPAP come?",
    Guidance,
    grid,
    measure,
    in_words,
)
