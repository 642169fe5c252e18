"""Maps of attention: where a network looks, and how much of it lies on the object.

Maps are [B, H, W], not negative, at the images' size; their scale carries no meaning. A map that
is zero everywhere is empty: it points nowhere, and every measure of it is nan. Masks are
bool [B, H, W].
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppap_book.errors import StudyError
from ppap_book.measures.spectrum import frequencies
from ppap_lib.diffusion.noise import Noise


def cam(model: nn.Module, images: Tensor, target: Tensor, layer: str) -> Tensor:
    """Grad-CAM of the classes `target` [B] at a layer of `model`: maps [B, H, W] (Selvaraju 2017).

    The layer's activations A_k, weighted by the spatial mean of d logit / d A_k, summed, and cut
    at zero: where the image speaks for the class. `layer` is the path of a submodule such as
    "network.layer3", with an output [B, C, h, w], or [B, tokens, C] in a transformer (the
    tokens before the square grid, such as the class token, are left out). Clears the gradients of
    the model's parameters.

    The maps are the raw ones of the package grad-cam, enlarged bilinearly. What the package
    returns is stretched to [0, 1] for display, which makes a map without a peak look as if it had
    one.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if any(module.training for module in model.modules()):
        raise StudyError("the model is in train mode: call model.eval() first")
    if images.ndim != 4 or target.shape != images.shape[:1]:
        raise StudyError(
            f"expected images [B, C, H, W] and one class each, not {list(images.shape)} and "
            f"{list(target.shape)}"
        )
    try:
        module = model.get_submodule(layer)
    except AttributeError as error:
        raise StudyError(f"no layer {layer!r}: {error}") from None
    with torch.enable_grad(), GradCAM(model, [module], reshape_transform=_grid) as extractor:
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


def _grid(tokens: Tensor) -> Tensor:
    """[B, tokens, C] as [B, C, side, side]; [B, C, h, w] as it is."""
    if tokens.ndim == 4:
        return tokens
    if tokens.ndim != 3:
        raise StudyError(f"a layer returns maps or tokens, not {list(tokens.shape)}")
    side = int(tokens.shape[1] ** 0.5)
    return tokens[:, -(side**2) :].unflatten(1, (side, side)).permute(0, 3, 1, 2)


def _enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps[:, None], tuple(size), mode="bilinear")[:, 0]


def _shares(maps: Tensor) -> Tensor:
    """Each pixel's share of its map's energy: float64 [B, H, W], summing to 1; nan if empty."""
    if maps.ndim != 3 or not bool((maps >= 0).all()):
        raise StudyError(f"maps are [B, H, W], not negative; this is {list(maps.shape)}")
    maps = maps.double()
    maps = maps / maps.amax((1, 2), keepdim=True)  # tiny maps would underflow in their sum
    return maps / maps.sum((1, 2), keepdim=True)


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


def map_entropy(maps: Tensor) -> Tensor:
    """Entropy of each map's energy, in nats: [B], 0 for one pixel, log(H W) for a uniform map."""
    return torch.special.entr(_shares(maps)).sum((1, 2))


def mean_frequency(gradients: Tensor) -> Tensor:
    """Radial frequency of gradients [B, C, H, W], weighted by power: [B], in cycles per image.

    0 for a constant, the wave's own frequency for a wave; white noise at 32x32 has about 12.
    Nan where the gradient is zero everywhere.
    """
    if gradients.ndim != 4 or not gradients.is_floating_point():
        raise StudyError(f"expected floating [B, C, H, W], not {list(gradients.shape)}")
    gradients = gradients.double()
    gradients = gradients / gradients.abs().amax((1, 2, 3), keepdim=True)
    power = torch.fft.fft2(gradients).abs().square().sum(1)
    radius = frequencies(*gradients.shape[-2:]).to(power.device)
    return (power * radius).sum((1, 2)) / power.sum((1, 2))


def centre(count: int, height: int, width: int, spread: float = 0.25) -> Tensor:
    """The map that looks at the middle of every image: float64 [count, height, width].

    A Gaussian with a standard deviation of `spread` sides: what a network scores that ignores
    the image and knows where photographers put the object.
    """
    rows, columns = (torch.linspace(-0.5, 0.5, n, dtype=torch.float64) for n in (height, width))
    square = rows[:, None] ** 2 + columns[None, :] ** 2
    return (-square / (2 * spread**2)).exp().expand(count, -1, -1)


def random(seeds: Sequence[int], cells: int, size: Sequence[int]) -> Tensor:
    """Maps that look anywhere: independent half-normal cells, enlarged as `cam`'s: [B, H, W].

    Map i is decided by `seeds[i]`.
    """
    return _enlarged(Noise(seeds, (cells, cells))().abs(), size)


def silhouettes(images: Tensor, threshold: float = -0.9) -> Tensor:
    """Objects on black, as masks: pixels brighter than `threshold`, and holes filled. [B, H, W].

    `images` [B, C, H, W] in [-1, 1]. Dark cloth inside an outline belongs to the object.
    """
    from scipy.ndimage import binary_fill_holes

    bright = (images.amax(1) > threshold).cpu().numpy()
    filled = [torch.from_numpy(binary_fill_holes(mask)) for mask in bright]
    return torch.stack(filled).to(images.device)


def box_masks(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Bounding boxes as masks: every pixel that a box touches. [B, H, W], `size` being (H, W).

    `boxes` [B, 4] are left, top, right, bottom edges in pixels, as an `ImageSet` has them.
    """
    height, width = size
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise StudyError(f"boxes are [B, 4], not {list(boxes.shape)}")
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
