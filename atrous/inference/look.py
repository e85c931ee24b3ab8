"""Shows images to a network by the protocol, and returns what it saw."""

import torch
from torch import Tensor

from atrous.inference import InferenceConfig
from atrous.inference.frames import as_bytes, frame_of
from atrous.inference.maps import finite, offsets_rescaled, resized, things_in
from atrous.inference.seen import Seen, labels_at_image
from atrous.inference.sliding import one_slide, sliding_views
from atrous.inference.whole import averaged
from atrous.layers.resize import image_size
from atrous.postprocess.crf import CRF, CRFS, refine
from atrous.types import Labelling, Network, Outputs


@torch.inference_mode()
def look(network: Network, images: Tensor, config: InferenceConfig, *, probabilities: bool = False) -> Seen:
    """Show images [B, 3, H, W] to a network by the protocol. With `probabilities`, these are always computed.

    Raises ConfigError if the protocol asks for several passes but the network has no class map to average, and
    ModelFileError if its output is not finite.
    """
    size, facts = image_size(images), network.facts
    if config.is_one_slide and not probabilities:
        return one_slide(network, images, config)
    if isinstance(network, Labelling) and config.is_single and config.mode == "whole" and not probabilities:
        return Seen(Outputs(), size, size, size, facts.convention, is_mean=False, labels=network.labels(images))
    if probabilities or not config.is_single:
        return Seen(predict_mean(network, images, config), size, size, size, facts.convention, is_mean=True)
    frame = frame_of(network, images, config)
    content, outputs = (frame.height, frame.width), finite(network(frame.images))
    return Seen(outputs, image_size(frame.images), content, size, facts.convention, is_mean=False)


def predict_labels(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """The likeliest class of each pixel, [B, 3, H, W] -> [B, H, W]."""
    return labels_at_image(look(network, images, config))


def predict_probabilities(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """Class probabilities [B, C, H, W], the mean over scales and flips."""
    return predict_mean(network, images, config).semantic


@torch.inference_mode()
def predict_mean(network: Network, images: Tensor, config: InferenceConfig) -> Outputs:
    """Class probabilities [B, C, H, W], and a panoptic network's centres and offsets: means over scales and flips."""
    if config.mode == "sliding":
        maps = sliding_views(network, images, config)
    else:
        frame = frame_of(network, images, config)
        maps = averaged(network, frame.images, config)[..., : frame.height, : frame.width]
    num_classes = network.facts.num_classes
    maps = offsets_rescaled(resized(maps, image_size(images)), num_classes, image_size(maps), image_size(images))
    semantic = maps[:, :num_classes]
    semantic = semantic if config.crf is None else _refined(semantic, images, CRFS[config.crf])
    return things_in(maps[:, num_classes:])._replace(semantic=semantic)


def _refined(probabilities: Tensor, images: Tensor, crf: CRF) -> Tensor:
    refined = [refine(one.cpu(), image, crf) for one, image in zip(probabilities, as_bytes(images), strict=True)]
    return torch.stack(refined).to(probabilities.device)
