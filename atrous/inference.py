"""From images of any size to labels and probabilities at that size: whole or in windows, at several scales, flipped."""

import math
from collections.abc import Callable, Iterator
from itertools import chain, islice, product
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from atrous.errors import ConfigError, ModelFileError
from atrous.layers.resize import image_size, resize, scale_dimension
from atrous.ops import upsample_argmax, upsample_part, with_edge
from atrous.postprocess.crf import CRF, CRFS, CRFName, refine
from atrous.settings import Scales, Settings, Side
from atrous.types import Convention, Image, Labelling, Network, Outputs, Size

POINTS = 2**16  # that are looked up in a map at a time
WINDOW_PIXELS = 2**21  # of all windows in one pass, about 8 of 513 x 513: more take memory and save hardly any time


class InferenceConfig(Settings):
    """The protocol of a prediction. It is stored with every figure that was measured by it."""

    mode: Literal["whole", "sliding", "canvas"] = "whole"
    """Whole images, overlapping windows (large images, less memory), or a canvas of fixed size."""
    window: tuple[Side, Side] = (513, 513)
    """Height and width of a window or of the canvas in pixels; best the crop of the training."""
    overlap: float = Field(1 / 3, ge=0, le=0.95)
    """Sliding: share of a window that the next one repeats; more is smoother and slower."""
    blend: Literal["equal", "smooth"] = "equal"
    """Sliding: windows count equally where they overlap, as published, or fade out towards their edges."""
    base_size: Side | None = None  # semseg
    """Sliding: the longer side of the image at scale 1, in pixels; none: the image's own."""
    scales: Scales = (1.0,)
    """Sizes at which an image is seen; probabilities are averaged; each costs a pass."""
    flip: bool = False
    """Average with the horizontally flipped image: a little better, twice as slow."""
    pad_to_grid: bool = True
    """With aligned corners: images are padded to k * output stride + 1; false: shown at their own size."""
    output_stride: Literal[8, 16, 32] | None = None
    """Pixels per cell of the network's map: 8 is finer and slower than 16; none: as trained."""
    crf: CRFName | None = None  # rows of postprocess.crf.CRFS
    """Refine the result with a fully connected CRF, whose weights are those of a published model."""

    @property
    def is_single(self) -> bool:
        """One pass of the network is enough: there are no probabilities to average."""
        return self.mode != "sliding" and self.scales == (1.0,) and not self.flip and self.crf is None

    @property
    def is_one_slide(self) -> bool:
        """Windows over the images at their own size, and nothing after them."""
        return self.mode == "sliding" and self.scales == (1.0,) and self.base_size is None and self.crf is None

    @property
    def _resized(self) -> str:
        return f"longer side {self.base_size}, " if self.base_size else ""

    @property
    def _blended(self) -> str:
        return ", blended" if self.blend == "smooth" else ""

    def describe(self) -> dict[str, str]:
        height, width = self.window
        modes = {
            "whole": "whole image",
            "sliding": f"{self._resized}windows of {height} x {width}, {self.overlap:.0%} overlap{self._blended}",
            "canvas": f"on a canvas of {height} x {width}, shrunk to fit",
        }
        crf = {"CRF": self.crf} if self.crf else {}
        return {
            "image": modes[self.mode],
            "scales": ", ".join(f"{scale:g}" for scale in self.scales),
            "flipped too": "yes" if self.flip else "no",
            **crf,
        }


def as_batch(image: Image, device: torch.device) -> Tensor:  # [1, 3, H, W]
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(device)


class Seen(NamedTuple):
    """What a network saw in images, and where the images lie in its maps. Whoever decodes them upsamples."""

    outputs: Outputs  # of one pass, at the network's own grid; of several, probabilities at the images' size
    frame: Size  # of the images as the network saw them, padded
    content: Size  # of the images within the frame, without padding
    size: Size  # of the images
    convention: Convention
    is_mean: bool  # `outputs.semantic` holds probabilities [B, C, H, W], the mean of several passes; not logits
    labels: Tensor | None = None  # [B, H, W], in place of `outputs`, if the likeliest classes are known already


@torch.inference_mode()
def look(network: Network, images: Tensor, config: InferenceConfig, *, probabilities: bool = False) -> Seen:
    """Show images [B, 3, H, W] to a network by the protocol. With `probabilities`, these are always computed.

    Raises ConfigError if the protocol asks for several passes but the network has no class map to average, and
    ModelFileError if its output is not finite.
    """
    size, facts = image_size(images), network.facts
    if config.is_one_slide and not probabilities:
        return _one_slide(network, images, config)
    if isinstance(network, Labelling) and config.is_single and config.mode == "whole" and not probabilities:
        return Seen(Outputs(), size, size, size, facts.convention, is_mean=False, labels=network.labels(images))
    if probabilities or not config.is_single:
        return Seen(predict_mean(network, images, config), size, size, size, facts.convention, is_mean=True)
    frame = frame_of(network, images, config)
    content, outputs = (frame.height, frame.width), _finite(network(frame.images))
    return Seen(outputs, image_size(frame.images), content, size, facts.convention, is_mean=False)


def _finite(outputs: Outputs) -> Outputs:
    """Raises ModelFileError where the likeliest class is NaN or infinite, which an arg-max would take for some class.

    So it does where a height or an offset is.
    """
    maps = [scores for scores in (outputs.semantic, outputs.classes) if scores is not None and scores.numel()]
    things = [values for values in (outputs.center, outputs.offset) if values is not None]
    if not all(values.isfinite().all() for values in (*(scores.amax(1) for scores in maps), *things)):
        raise ModelFileError(
            "the network's output is NaN or infinite: its weights are damaged, or too large for this precision"
        )
    return outputs


@torch.inference_mode()
def labels_at_image(seen: Seen) -> Tensor:
    """The likeliest class of each pixel, [B, H, W]; a single pass never holds [B, C, H, W]."""
    if seen.labels is not None:
        return seen.labels
    if seen.is_mean:
        return _likeliest(seen.outputs.semantic)
    labels = _upsampled(seen)[:, : seen.content[0], : seen.content[1]]
    if image_size(labels) == seen.size:
        return labels
    return F.interpolate(labels[:, None].float(), seen.size, mode="nearest-exact")[:, 0].to(labels.dtype)


def _upsampled(seen: Seen) -> Tensor:
    """The likeliest class of each pixel of the frame, [B, H', W'], from logits."""
    maps, (height, width) = seen.outputs.semantic, seen.frame
    if seen.convention == "legacy":
        return upsample_argmax(with_edge(maps), _larger(seen.frame))[:, :height, :width]
    return upsample_argmax(maps, seen.frame, align_corners=seen.convention == "aligned_corners")


def _likeliest(probabilities: Tensor) -> Tensor:
    """The arg-max of [B, C, H, W] in the smallest type, as `upsample_argmax` has it; a few rows at a time."""
    batch, num_classes, height, width = probabilities.shape
    kind = torch.uint8 if num_classes <= 256 else torch.int32
    labels = torch.empty(batch, height, width, dtype=kind, device=probabilities.device)
    step = max(1, WINDOW_PIXELS // (batch * width))
    for top in range(0, height, step):
        labels[:, top : top + step] = probabilities[:, :, top : top + step].argmax(1)
    return labels


def predict_labels(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """The likeliest class of each pixel, [B, 3, H, W] -> [B, H, W]."""
    return labels_at_image(look(network, images, config))


@torch.inference_mode()
def maps_at_content(seen: Seen) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The classes [B, H, W], heights [B, 1, H, W] and offsets [B, 2, H, W] of the content, in its own pixels."""
    height, width = seen.content
    classes = _likeliest(seen.outputs.semantic) if seen.is_mean else _upsampled(seen)[:, :height, :width]
    center, offset = (
        None if x is None else resize(x.float(), seen.frame, seen.convention)[..., :height, :width]
        for x in (seen.outputs.center, seen.outputs.offset)
    )
    return classes, center, offset


@torch.inference_mode()
def probabilities_at(seen: Seen, index: int, places: Tensor, classes: Tensor) -> Tensor:
    """The probability of a class at each place [P, 2] (y, x) of one image's content, [P]; [C, H, W] is never held."""
    maps = seen.outputs.semantic[index]
    if seen.is_mean:
        return maps[classes, places[:, 0], places[:, 1]]
    is_aligned = seen.convention != "half_pixel"
    maps, frame = (with_edge(maps[None])[0], _larger(seen.frame)) if seen.convention == "legacy" else (maps, seen.frame)
    sides = torch.tensor(frame, device=places.device)
    relative = places / (sides - 1).clamp_min(1) if is_aligned else (places + 0.5) / sides
    parts = [places.new_zeros(0, dtype=torch.float32)]
    for points, own in zip(torch.split(relative.float(), POINTS), torch.split(classes, POINTS), strict=True):
        grid = (2 * points - 1).flip(-1)[None, None]  # x, y from -1 to 1
        logits = F.grid_sample(maps[None].float(), grid, padding_mode="border", align_corners=is_aligned)[0, :, 0]
        parts.append(logits.softmax(0).gather(0, own[None])[0])
    return torch.cat(parts)


def _larger(size: Size) -> Size:
    return size[0] + 1, size[1] + 1


def at_image(labels: Tensor, seen: Seen) -> Tensor:
    """A label map of the content [B, H, W] at the images' size: each pixel takes the nearest label."""
    if image_size(labels) == seen.size:
        return labels
    return F.interpolate(labels[:, None].double(), seen.size, mode="nearest-exact")[:, 0].to(labels.dtype)


def predict_probabilities(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """Class probabilities [B, C, H, W], the mean over scales and flips."""
    return predict_mean(network, images, config).semantic


@torch.inference_mode()
def predict_mean(network: Network, images: Tensor, config: InferenceConfig) -> Outputs:
    """Class probabilities [B, C, H, W], and a panoptic network's centres and offsets: means over scales and flips."""
    if config.mode == "sliding":
        maps = _sliding_views(network, images, config)
    else:
        frame = frame_of(network, images, config)
        maps = _averaged(network, frame.images, config)[..., : frame.height, : frame.width]
    num_classes = network.facts.num_classes
    maps = _offsets_rescaled(_resize(maps, image_size(images)), num_classes, image_size(maps), image_size(images))
    semantic = maps[:, :num_classes]
    semantic = semantic if config.crf is None else _refined(semantic, images, CRFS[config.crf])
    return _things(maps[:, num_classes:])._replace(semantic=semantic)


def _things(maps: Tensor) -> Outputs:
    """The heights and offsets in maps [B, 3, H, W] without classes; [B, 0, H, W]: neither."""
    return Outputs(center=maps[:, :1], offset=maps[:, 1:]) if maps.shape[1] else Outputs()


class Frame(NamedTuple):
    """Images as they are shown to the network: padded at the bottom and right."""

    images: Tensor  # [B, 3, H', W']
    height: int  # of the image, without padding
    width: int


def frame_of(network: Network, images: Tensor, config: InferenceConfig) -> Frame:
    """What one pass over whole images shows to the network."""
    if config.mode == "canvas":
        return on_canvas(images, network, config.window)
    return Frame(pad_to_grid(images, network) if config.pad_to_grid else images, *image_size(images))


def on_canvas(images: Tensor, network: Network, canvas: tuple[int, int]) -> Frame:
    """Images at the top left of a canvas of the network's mean colour, shrunk if they are larger, never enlarged.

    This is how the originals feed networks of a fixed input size.
    """
    size = image_size(images)
    factor = min(1.0, *(room / side for room, side in zip(canvas, size, strict=True)))
    height, width = (max(1, round(side * factor)) for side in size)
    if (height, width) != size:
        images = _shrunk(images, height, width)
    return Frame(_pad(images, network, canvas[0] - height, canvas[1] - width), height, width)


def _shrunk(images: Tensor, height: int, width: int) -> Tensor:
    """Resized by Pillow itself: PyTorch's antialiasing differs in the last bit, which a comparison of logits shows."""
    resized = [
        PILImage.fromarray(image).resize((width, height), PILImage.Resampling.BILINEAR) for image in _as_bytes(images)
    ]
    return torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2).to(images.device)


def _as_bytes(images: Tensor) -> NDArray[np.uint8]:  # [B, 3, H, W] -> [B, H, W, 3]
    pixels: NDArray[np.uint8] = images.float().round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def pad_to_grid(images: Tensor, network: Network) -> Tensor:
    """Pad at the bottom and right, with the network's mean colour, to sides of k * output stride + 1.

    With these sides the first and last cells of the output grid lie on the first and last pixels, as upsampling with
    aligned corners assumes: the originals asked their users for `crop_size = k * output_stride + 1`. Upsampling by half
    pixels stretches the grid over any size, so networks that use it (torchvision) see images as they are.
    """
    if network.facts.convention != "aligned_corners":
        return images
    stride = network.facts.output_stride
    bottom, right = (math.ceil((side - 1) / stride) * stride + 1 - side for side in image_size(images))
    return _pad(images, network, bottom, right)


def _at_its_size(images: Tensor, network: Network) -> Tensor:
    """Smaller images padded at the bottom and right, with the network's mean colour, if it takes one size only."""
    if network.facts.size is None:
        return images
    bottom, right = (max(0, only - side) for only, side in zip(network.facts.size, image_size(images), strict=True))
    return _pad(images, network, bottom, right)


def _pad(images: Tensor, network: Network, bottom: int, right: int, top: int = 0, left: int = 0) -> Tensor:
    if right == bottom == top == left == 0:
        return images
    mean = torch.tensor(network.facts.mean, device=images.device).view(1, 3, 1, 1)
    height, width = image_size(images)
    padded = F.pad(images, (left, right, top, bottom)).float()  # bytes take a quarter of the memory
    padded[..., top : top + height, left : left + width] -= mean
    return padded.add_(mean)


def _averaged(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """Mean maps [B, K, H, W] over scales and flips, each from one pass over whole images."""
    views = product(config.scales, (False, True) if config.flip else (False,))
    return _mean(_view(network, images, scale, is_flipped=is_flipped) for scale, is_flipped in views)


def _mean(parts: Iterator[Tensor]) -> Tensor:
    """The mean of tensors of one shape; no more than two of them are held."""
    total, count = next(parts), 1
    for part in parts:
        total += part
        count += 1
    return total.div_(count)


def _view(network: Network, images: Tensor, scale: float, *, is_flipped: bool) -> Tensor:
    """Maps [B, K, H, W] of one pass, with the resizing steps in TensorFlow DeepLab's order.

    Logits of a scale below 1 are resized to the grid of scale 1 first, and then to the image's size.
    """
    size, convention, num_classes = image_size(images), network.facts.convention, network.facts.num_classes
    finest = max(1.0, scale) / network.facts.logits_stride
    grid = [scale_dimension(side, finest) for side in size]
    view = images if scale == 1 else resize(images.float(), _view_size(size, scale, network))
    maps = _maps(network, view.flip(-1) if is_flipped else view, scale)
    maps = resize(_flipped_back(maps, num_classes) if is_flipped else maps, grid, convention)
    return _with_probabilities(
        _offsets_rescaled(resize(maps, size, convention), num_classes, image_size(view), size), num_classes
    )


def _view_size(size: Size, scale: float, network: Network) -> Size:
    """The size of images at a scale; for a network that takes only sizes on its grid, the nearest of these."""
    height, width = (scale_dimension(side, scale) for side in size)
    if not network.facts.on_grid:
        return height, width
    stride = network.facts.output_stride
    rows, columns = (max(1, round((side - 1) / stride)) * stride + 1 for side in (height, width))
    return rows, columns


# Maps are one tensor [B, K, h, w]: C logits or probabilities and, from a panoptic network, a height and two offsets.


def _maps(network: Network, images: Tensor, scale: float = 1.0) -> Tensor:
    outputs = _finite(network(images, scale))
    if outputs.semantic.ndim != 4:
        raise ConfigError(
            f"evaluate: a {network.facts.task} network has no class map, so mode=sliding, scales, flip, crf and "
            "probabilities per pixel do not apply to it"
        )
    if outputs.center is None or outputs.offset is None:
        return outputs.semantic.float()
    return torch.cat([outputs.semantic, outputs.center, outputs.offset], 1).float()


def _with_probabilities(maps: Tensor, num_classes: int) -> Tensor:
    """Its logits as probabilities."""
    if maps.shape[1] == num_classes:
        return maps.softmax(1)
    return torch.cat([maps[:, :num_classes].softmax(1), maps[:, num_classes:]], 1)


def _flipped_back(maps: Tensor, num_classes: int) -> Tensor:
    """The maps of a flipped image, of the image itself: offsets to the right become offsets to the left."""
    maps = maps.flip(-1)
    if maps.shape[1] > num_classes:
        maps[:, -1] *= -1
    return maps


def _offsets_rescaled(maps: Tensor, num_classes: int, old: Size, new: Size) -> Tensor:
    """Offsets in pixels of an image of the size `old` in those of the size `new`."""
    if maps.shape[1] == num_classes or old == new:
        return maps
    factors = [(large - 1) / max(small - 1, 1) for large, small in zip(new, old, strict=True)]
    maps[:, -2:] *= torch.tensor(factors, device=maps.device).view(2, 1, 1)
    return maps


def _refined(probabilities: Tensor, images: Tensor, crf: CRF) -> Tensor:
    refined = [refine(one.cpu(), image, crf) for one, image in zip(probabilities, _as_bytes(images), strict=True)]
    return torch.stack(refined).to(probabilities.device)


def _sliding_views(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """Mean maps [B, K, H, W] over scales, each computed in windows."""
    slide = _sliding if config.base_size is None else _sliding_around
    size, num_classes = image_size(images), network.facts.num_classes
    views = (_scaled(images, scaled_size(size, scale, config.base_size)) for scale in config.scales)
    return _mean(
        _offsets_rescaled(_resize(slide(network, view, config), size), num_classes, image_size(view), size)
        for view in views
    )


def _scaled(images: Tensor, size: Size) -> Tensor:
    """Images of this size stay as they are, bytes if they were."""
    return images if image_size(images) == size else _resize(images.float(), size)


def scaled_size(size: tuple[int, int], scale: float, base_size: int | None) -> tuple[int, int]:
    """Height and width at `scale`. `base_size` is the length of the longer side at scale 1, as in semseg."""
    factor = scale if base_size is None else max(1, round(scale * base_size)) / max(size)
    height, width = (max(1, round(factor * side)) for side in size)
    return height, width


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    return resize(images, size, "half_pixel")


def _sliding_around(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """`_sliding` over images that are first padded on all sides to at least a window's size.

    An odd pixel goes to the bottom or right. Thus the network sees only images of its training crop's size, as PSANet
    requires.
    """
    height, width = image_size(images)
    rows, columns = (max(0, window - side) for window, side in zip(config.window, (height, width), strict=True))
    top, left = rows // 2, columns // 2
    padded = _pad(images, network, rows - top, columns - left, top, left)
    return _sliding(network, padded, config)[..., top : top + height, left : left + width]


class View(NamedTuple):
    """The part of the images that the network sees; it may reach beyond their bottom and right."""

    rows: slice
    columns: slice
    is_flipped: bool


class Source(NamedTuple):
    """Images of one size whose rows are asked for from the top: in memory, or in a file that is larger than it."""

    number: int
    size: Size
    read: Callable[[slice], Tensor]  # [number, 3, rows, W]; no row above those that were asked for last


class Window(NamedTuple):
    """What the network saw in a view."""

    view: View
    maps: Tensor  # [B, K, h, w] logits, heights, offsets at the network's own grid
    frame: Size  # of the view, padded


class Patch(NamedTuple):
    """A part of the images with its maps, the means over all windows that lie over it."""

    rows: slice
    columns: slice
    maps: Tensor  # [B, K, rows, columns]


def in_memory(images: Tensor) -> Source:
    return Source(len(images), image_size(images), lambda rows: images[..., rows, :])


def _sliding(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """Maps [B, K, H, W], averaged where windows overlap, and over each window and its flipped copy."""
    return _joined(_patches(network, in_memory(images), config), image_size(images))


def _joined(patches: Iterator[Patch], size: Size) -> Tensor:
    total: Tensor | None = None
    for rows, columns, maps in patches:
        total = maps.new_empty(*maps.shape[:2], *size) if total is None else total
        total[:, :, rows, columns] = maps
    assert total is not None, "there is at least one window"
    return total


def _one_slide(network: Network, images: Tensor, config: InferenceConfig) -> Seen:
    """The likeliest class of each pixel, [B, H, W]; only a patch of probabilities is held at a time.

    Of a panoptic network, the means of all maps.
    """
    size, num_classes, convention = image_size(images), network.facts.num_classes, network.facts.convention
    patches = _patches(network, in_memory(images), config)
    first = next(patches)
    patches = chain([first], patches)
    if first.maps.shape[1] > num_classes:
        maps = _joined(patches, size)
        means = _things(maps[:, num_classes:])._replace(semantic=maps[:, :num_classes])
        return Seen(means, size, size, size, convention, is_mean=True)
    labels = torch.cat([labels for _, labels in _label_rows(patches, size[1])], 1)
    return Seen(Outputs(), size, size, size, convention, is_mean=False, labels=labels)


@torch.inference_mode()
def label_rows(network: Network, source: Source, config: InferenceConfig) -> Iterator[tuple[slice, Tensor]]:
    """Rows with the likeliest classes of their pixels, [B, rows, W], from the top, as soon as windows cover them.

    Their pixels may still be read while they are out. Memory is needed for the pixels of two rows of windows, and for
    what the network returned for one, at its own grid.
    """
    yield from _label_rows(_patches(network, source, config), source.size[1])


def _label_rows(patches: Iterator[Patch], width: int) -> Iterator[tuple[slice, Tensor]]:
    parts: list[Tensor] = []
    for rows, columns, maps in patches:
        parts.append(_likeliest(maps))
        if columns.stop == width:
            yield rows, torch.cat(parts, 2)
            parts.clear()


def _patches(network: Network, source: Source, config: InferenceConfig) -> Iterator[Patch]:
    """The images in patches, from the top and from the left, each as soon as all windows over it are seen.

    What the network returned is kept at its own, coarse grid; of probabilities there never is more than a patch.
    """
    windows: list[Window] = []
    top = 0
    for views in _passes(source, network, config):
        first = views[0].rows.start
        if first > top:
            yield from _blended(windows, slice(top, first), source.size, network, config)
            windows = [window for window in windows if window.view.rows.stop > first]
            top = first
        windows += _in_one_pass(network, views, source, config)
    yield from _blended(windows, slice(top, source.size[0]), source.size, network, config)


def _passes(source: Source, network: Network, config: InferenceConfig) -> Iterator[list[View]]:
    """All windows, and their flipped copies if the protocol has them, in passes of at most WINDOW_PIXELS."""
    grid = _grid(network, config)
    rows, columns = (
        [slice(start, start + min(window, side)) for start in window_starts(side, window, config.overlap, grid)]
        for side, window in zip(source.size, config.window, strict=True)
    )
    views = (View(*parts) for parts in product(rows, columns, (False, True) if config.flip else (False,)))
    pixels = source.number * math.prod(min(pair) for pair in zip(source.size, config.window, strict=True))
    at_once = max(1, WINDOW_PIXELS // pixels)
    while batch := list(islice(views, at_once)):
        yield batch


def _in_one_pass(network: Network, views: list[View], source: Source, config: InferenceConfig) -> list[Window]:
    """What the network sees in windows, all of one size."""
    top, bottom = views[0].rows.start, max(view.rows.stop for view in views)
    images = source.read(slice(top, min(bottom, source.size[0])))
    windows = torch.cat([_shown(images, view, top, network) for view in views])
    padded = _at_its_size(pad_to_grid(windows, network) if config.pad_to_grid else windows, network)
    maps, frame = _maps(network, padded), image_size(padded)
    if network.facts.convention == "legacy":
        maps, frame = with_edge(maps), _larger(frame)
    return [Window(view, own, frame) for view, own in zip(views, torch.split(maps, source.number), strict=True)]


def _shown(images: Tensor, view: View, top: int, network: Network) -> Tensor:
    """The view of images whose rows begin at `top`."""
    window = images[..., view.rows.start - top : view.rows.stop - top, view.columns]
    height, width = image_size(window)
    bottom, right = view.rows.stop - view.rows.start - height, view.columns.stop - view.columns.start - width
    window = _pad(window, network, bottom, right)
    return window.flip(-1) if view.is_flipped else window


def _blended(
    windows: list[Window], rows: slice, size: Size, network: Network, config: InferenceConfig
) -> Iterator[Patch]:
    """Rows of the images, in patches as wide as a window."""
    weigh, grid = _WEIGHTS[config.blend], _grid(network, config)
    overlaps = [window - window_step(window, config.overlap, grid) for window in config.window]
    for left in range(0, size[1], config.window[1]):
        columns = slice(left, min(left + config.window[1], size[1]))
        num_maps = windows[0].maps.shape[:2]
        total = windows[0].maps.new_zeros(*num_maps, rows.stop - rows.start, columns.stop - columns.start)
        count = total.new_zeros(total.shape[-2:])
        for window in windows:
            own = View(_common(rows, window.view.rows), _common(columns, window.view.columns), window.view.is_flipped)
            if own.rows.start < own.rows.stop and own.columns.start < own.columns.stop:
                place = ..., _moved(own.rows, -rows.start), _moved(own.columns, -columns.start)
                weights = weigh(window.view, own, size, overlaps).to(total.device)
                total[place].addcmul_(_maps_in(window, own, network), weights)
                count[place] += weights
        yield Patch(rows, columns, total.div_(count))


def _common(one: slice, other: slice) -> slice:
    return slice(max(one.start, other.start), min(one.stop, other.stop))


def _moved(part: slice, distance: int) -> slice:
    return slice(part.start + distance, part.stop + distance)


def _maps_in(window: Window, part: View, network: Network) -> Tensor:
    """The maps of a window, with probabilities, where `part` lies in the images: [B, K, rows, columns]."""
    num_classes, is_aligned = network.facts.num_classes, network.facts.convention != "half_pixel"
    rows, columns = _moved(part.rows, -window.view.rows.start), _moved(part.columns, -window.view.columns.start)
    if part.is_flipped:
        end = window.view.columns.stop - window.view.columns.start
        columns = slice(end - columns.stop, end - columns.start)
    maps = upsample_part(window.maps, window.frame, rows, columns, align_corners=is_aligned)
    maps = _flipped_back(maps, num_classes) if part.is_flipped else maps
    return _with_probabilities(maps, num_classes)


# How much a window counts, [rows, columns], at each pixel of a part of it.


def _same_weights(view: View, part: View, size: Size, overlaps: list[int]) -> Tensor:
    return torch.ones(())


def _smooth_weights(view: View, part: View, size: Size, overlaps: list[int]) -> Tensor:
    """1 in the middle; 0 in the outer quarter of an overlap, where the network sees least of what is around."""
    rows = _ramp(view.rows, part.rows, size[0], overlaps[0])
    return rows[:, None] * _ramp(view.columns, part.columns, size[1], overlaps[1])


_WEIGHTS = {"equal": _same_weights, "smooth": _smooth_weights}


def _ramp(window: slice, part: slice, side: int, overlap: int) -> Tensor:
    """Weights along one side, a raised cosine: they add up to 1 with the next window's. The image's edges are none."""
    place = torch.arange(part.start - window.start, part.stop - window.start) + 0.5
    length = window.stop - window.start
    width = min(overlap, length // 2)
    from_start = place if window.start > 0 else torch.full_like(place, math.inf)
    from_end = length - place if window.stop < side else torch.full_like(place, math.inf)
    distance = torch.minimum(from_start, from_end)
    weights: Tensor = ((distance / max(width, 1) * 2 - 0.5).clamp(0, 1) * (math.pi / 2)).sin().square()
    return weights


def _grid(network: Network, config: InferenceConfig) -> int:
    """Pixels between the places where windows may start: those of cells, in a blend without seams."""
    return network.facts.output_stride if config.blend == "smooth" else 1


def window_step(window: int, overlap: float, grid: int = 1) -> int:
    step = max(1, math.ceil(window * (1 - overlap) - 1e-6))  # 465 * (1 - 1 / 3) is 310.00000000000006
    return step // grid * grid or step


def window_starts(length: int, window: int, overlap: float, grid: int = 1) -> list[int]:
    """Where windows start along a side. The last one ends with it; a window longer than the side starts at 0.

    With a `grid`, all start at multiples of it, as cells of the network do that sees the whole side; the last one may
    then reach beyond the side.
    """
    step, last = window_step(window, overlap, grid), -(-max(0, length - window) // grid) * grid
    count = max(0, math.ceil((length - window) / step)) + 1
    return [min(index * step, last) for index in range(count)]
