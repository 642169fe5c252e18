"""Maps of attention: where a network looks, and how much of it lies on the object.

Maps are [B, H, W], not negative, at the images' size; their scale carries no meaning. A map that
is zero everywhere is empty: it points nowhere, and every measure of it is nan. Masks are
bool [B, H, W].
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppap_book.errors import StudyError
from ppap_book.measures.spectrum import frequencies
from ppap_lib.arguments import checked
from ppap_lib.diffusion.noise import Noise


def cam(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    layer: str,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """Grad-CAM of the classes `target` [B] at a layer of `model`: maps [B, H, W] (Selvaraju 2017).

    The layer's activations A_k, weighted by the spatial mean of d logit / d A_k, summed, and cut
    at zero: where the image speaks for the class. `layer` is the path of a submodule such as
    "network.layer3", with an output [B, C, h, w], [B, h, w, C] as a Swin transformer's, or
    [B, tokens, C] (the tokens before the grid, such as the class token, are left out). `grid` is
    (h, w); without it, that of the model's convolutions, or of square patches. Clears the
    gradients of the model's parameters. Raises `StudyError` for what does not fit, and where the
    output does not tell its grid.

    The maps are the raw ones of the package grad-cam, enlarged bilinearly. What the package
    returns is stretched to [0, 1] for display, which makes a map without a peak look as if it had
    one.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if any(module.training for module in model.modules()):
        raise StudyError("the model is in train mode: call model.eval() first")
    if images.ndim != 4 or not len(images) or target.shape != images.shape[:1]:
        raise StudyError(
            f"expected images [B, C, H, W] and one class each, not {list(images.shape)} and "
            f"{list(target.shape)}"
        )
    try:
        module = model.get_submodule(layer)
    except AttributeError as error:
        raise StudyError(f"no layer {layer!r}: {error}") from None
    with torch.enable_grad():
        arranged = _arrangement(model, layer, images[:1], target, grid)
        with GradCAM(model, [module], reshape_transform=arranged) as extractor:
            # With frozen parameters only the input can carry the graph to the layer.
            images = images.detach().requires_grad_()
            extractor(images, [ClassifierOutputTarget(int(k)) for k in target])
            hooks = extractor.activations_and_grads
            activations, gradients = (
                parts[0].numpy() for parts in (hooks.activations, hooks.gradients)
            )
            maps = extractor.get_cam_image(images, module, None, activations, gradients)
    model.zero_grad()
    return _enlarged(torch.from_numpy(maps).relu(), images.shape[-2:]).to(images.device)


def _arrangement(
    model: nn.Module, layer: str, image: Tensor, target: Tensor, grid: Sequence[int] | None
) -> Callable[[Tensor], Tensor]:
    """The function that brings the layer's output to [B, C, h, w], learnt from one image."""
    maps: list[Sequence[int]] = []
    outputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _input, output: maps.append(output.shape[-2:]))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    own = model.get_submodule(layer)
    hooks.append(own.register_forward_hook(lambda _module, _input, output: outputs.append(output)))
    try:
        logits = model(image.detach().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise StudyError(f"the model returns no logits [B, K] but {_shaped(logits)}")
    if wrong := [k for k in target.tolist() if not 0 <= k < logits.shape[1]]:
        raise StudyError(f"there are {logits.shape[1]} classes, from 0: not {wrong[0]}")
    if len(outputs) != 1:
        raise StudyError(f"the layer {layer!r} runs {len(outputs)} times, not once, on an image")
    (output,) = outputs
    if not isinstance(output, Tensor) or output.ndim not in (3, 4) or len(output) != 1:
        raise StudyError(f"a layer returns maps or tokens of each image, not {_shaped(output)}")
    if torch.autograd.grad(logits.sum(), output, allow_unused=True)[0] is None:
        raise StudyError(f"the logits do not depend on the layer {layer!r}")
    return _layout(output.shape, image.shape[-2:], maps, grid)


def _shaped(output: object) -> str:
    return str(list(output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"


def _layout(
    shape: Sequence[int],
    size: Sequence[int],
    maps: Sequence[Sequence[int]],
    grid: Sequence[int] | None,
) -> Callable[[Tensor], Tensor]:
    """How an output of this shape is brought to [B, C, h, w]; `StudyError` if it cannot be told.

    Its grid is `grid`, or one of the convolutions' `maps` or what is left of it after halving
    (Swin transformers merge two by two), or else the image's `size` in square patches.
    """
    halved = {(-(-h >> k), -(-w >> k)) for h, w in maps for k in range(max(h, w).bit_length())}
    patches = {(size[0] // side, size[1] // side) for side in range(1, min(size) + 1)}
    for grids in [halved, patches] if grid is None else [{tuple(grid)}]:
        if len(shape) == 3:
            # Most tokens lie on the grid, and the finest one holds the most of them.
            h, w = max((g for g in grids if g[0] * g[1] <= shape[1]), key=math.prod, default=(0, 0))
            if 2 * h * w > shape[1]:
                return lambda tokens, h=h, w=w: tokens[:, -h * w :].mT.unflatten(2, (h, w))
        elif (first := tuple(shape[2:]) in grids) != (tuple(shape[1:3]) in grids):
            return (lambda output: output) if first else (lambda output: output.permute(0, 3, 1, 2))
    raise StudyError(
        f"the grid of an output {list(shape)} of images {list(size)} cannot be told: give "
        f"grid=(h, w), or another layer"
    )


def _enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps[:, None], tuple(size), mode="bilinear")[:, 0]


def _shares(maps: Tensor) -> Tensor:
    """Each pixel's share of its map's energy: float64 [B, H, W], summing to 1; nan if empty."""
    if maps.ndim != 3 or not maps[:1].numel() or not bool((maps >= 0).all()):
        raise StudyError(f"maps are [B, H, W], not negative; this is {list(maps.shape)}")
    maps = maps.double()
    maps = maps / maps.amax((1, 2), keepdim=True)  # tiny maps would underflow in their sum
    return maps / maps.sum((1, 2), keepdim=True)


@checked
def energy_ratio(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of each map's energy inside its mask, divided by the mask's share of area: [B].

    1 for a uniform map, 1/area for one inside the object only, 0 for one outside.
    """
    shares = _shares(maps)
    if masks.dtype != torch.bool or masks.shape != maps.shape:
        raise StudyError(
            f"masks are bool {list(maps.shape)} as the maps, not {masks.dtype} {list(masks.shape)}"
        )
    area = masks.double().mean((1, 2))
    if not bool((area > 0).all()):
        raise StudyError(f"{int((area == 0).sum())} of {len(masks)} masks are empty")
    return (shares * masks).sum((1, 2)) / area


@checked
def map_entropy(maps: Tensor) -> Tensor:
    """Entropy of each map's energy, in nats: [B], 0 for one pixel, log(H W) for a uniform map."""
    return torch.special.entr(_shares(maps)).sum((1, 2))


@checked
def mean_frequency(gradients: Tensor) -> Tensor:
    """Radial frequency of gradients [B, C, H, W], weighted by power: [B], in cycles per image.

    0 for a constant, the wave's own frequency for a wave; white noise at 32x32 has about 12.
    Nan where the gradient is zero everywhere.
    """
    if gradients.ndim != 4 or not gradients.numel() or not gradients.is_floating_point():
        raise StudyError(f"expected floating [B, C, H, W], not {list(gradients.shape)}")
    gradients = gradients.double()
    gradients = gradients / gradients.abs().amax((1, 2, 3), keepdim=True)
    power = torch.fft.fft2(gradients).abs().square().sum(1)
    radius = frequencies(*gradients.shape[-2:]).to(power.device)
    return (power * radius).sum((1, 2)) / power.sum((1, 2))


@checked
def centre(count: int, height: int, width: int, spread: float = 0.25) -> Tensor:
    """The map that looks at the middle of every image: float64 [count, height, width].

    A Gaussian with a standard deviation of `spread` sides: what a network scores that ignores
    the image and knows where photographers put the object.
    """
    if min(count, height, width) < 1 or spread <= 0:
        raise StudyError(f"maps have pixels and a spread, not {count, height, width} and {spread}")
    rows, columns = (torch.linspace(-0.5, 0.5, n, dtype=torch.float64) for n in (height, width))
    square = rows[:, None] ** 2 + columns[None, :] ** 2
    return (-square / (2 * spread**2)).exp().expand(count, -1, -1)


def random(seeds: Sequence[int], cells: int, size: Sequence[int]) -> Tensor:
    """Maps that look anywhere: independent half-normal cells, enlarged as `cam`'s: [B, H, W].

    Map i is decided by `seeds[i]`.
    """
    return _enlarged(Noise(seeds, (cells, cells))().abs(), size)


@checked
def silhouettes(images: Tensor, threshold: float = -0.9) -> Tensor:
    """Objects on black, as masks: pixels brighter than `threshold`, and holes filled. [B, H, W].

    `images` [B, C, H, W] in [-1, 1]. Dark cloth inside an outline belongs to the object.
    """
    from scipy.ndimage import binary_fill_holes

    if images.ndim != 4 or not images.numel():
        raise StudyError(f"expected images [B, C, H, W], one at least, not {list(images.shape)}")
    bright = (images.amax(1) > threshold).cpu().numpy()
    filled = [torch.from_numpy(binary_fill_holes(mask)) for mask in bright]
    return torch.stack(filled).to(images.device)


@checked
def box_masks(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Bounding boxes as masks: every pixel that a box touches. [B, H, W], `size` being (H, W).

    `boxes` [B, 4] are left, top, right, bottom edges in pixels, as an `ImageSet` has them.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(size) != 2:
        raise StudyError(f"boxes are [B, 4] in (H, W), not {list(boxes.shape)} in {tuple(size)}")
    height, width = size
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    columns, rows = (torch.arange(n, device=boxes.device) for n in (width, height))
    across = (columns + 1 > left) & (columns < right)
    down = (rows + 1 > top) & (rows < bottom)
    masks = down[:, :, None] & across[:, None, :]
    if bool((lost := ~masks.flatten(1).any(1)).any()):
        raise StudyError(
            f"boxes {lost.nonzero().flatten().tolist()[:8]} touch no pixel of {height}x{width} "
            f"images: their edges are left, top, right, bottom, in pixels"
        )
    return masks
