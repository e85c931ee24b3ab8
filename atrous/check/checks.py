"""What `atrous check` looks for: a check is one function of `looks` and one row of CHECKS."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from atrous.check import looks
from atrous.check.evidence import Evidence, Seen, Severity


class Check(NamedTuple):
    name: str
    title: str
    severity: Severity
    look: Callable[[Evidence], Seen]
    mend: str
    is_mended: bool = False  # by `--fix`


_CHOOSE = "keep each in one split only"

CHECKS = (
    # files
    Check(
        "unreadable-files",
        "Files that can't be read",
        "error",
        partial(looks.problems, "unreadable-files"),
        "copy or download them again, or remove the image and its label; --fix leaves both out",
        True,
    ),
    Check(
        "too-large-files",
        "Images of more pixels than the limit",
        "error",
        partial(looks.problems, "too-large-files"),
        "cut them into tiles, or, if they are what they should be, set ATROUS_MAX_PIXELS; --fix leaves them out",
        True,
    ),
    Check(
        "missing-split",
        "A split that can't be listed",
        "error",
        looks.missing_split,
        "make it, or name another one: data.train=..., data.val=...",
    ),
    Check(
        "no-names",
        "Classes without names",
        "error",
        looks.unnamed,
        "write their names into a file, as it says, in place of class_0, ...; --fix writes the file with these",
        True,
    ),
    Check(
        "images-without-label",
        "Images without a label",
        "error",
        partial(looks.complaints, "images-without-label"),
        "label them, or remove them; --fix leaves them out",
        True,
    ),
    Check(
        "labels-without-image",
        "Labels without an image",
        "error",
        partial(looks.complaints, "labels-without-image"),
        "add the images, or remove the labels; --fix leaves them out",
        True,
    ),
    Check(
        "listed-files-missing",
        "Files that a list names and that aren't there",
        "error",
        partial(looks.complaints, "listed-files-missing"),
        "add the files, or remove the lines; --fix leaves them out",
        True,
    ),
    Check(
        "repeated-ids",
        "Ids that a file of annotations uses twice",
        "error",
        partial(looks.complaints, "repeated-ids"),
        "give each its own id; until then nobody knows what belongs to it",
        False,
    ),
    Check(
        "unlisted-ids",
        "Annotations of images or categories that the file doesn't list",
        "error",
        partial(looks.complaints, "unlisted-ids"),
        "list the images and categories, or remove the annotations",
        False,
    ),
    Check(
        "repeated-names",
        "Names that a list has twice",
        "error",
        partial(looks.complaints, "repeated-names"),
        "remove the second line; --fix does it",
        True,
    ),
    Check(
        "ambiguous-names",
        "Files whose names differ only in their suffix",
        "error",
        partial(looks.complaints, "ambiguous-names"),
        "rename or remove one of them",
    ),
    Check(
        "hidden-files",
        "Hidden files, and those of systems",
        "note",
        looks.hidden,
        "nothing: they are left out; --fix doesn't copy them",
        True,
    ),
    Check(
        "other-files",
        "Files that are no images",
        "note",
        looks.strays,
        "nothing, unless they are images of a format that isn't read: save those as PNG; --fix doesn't copy them",
        True,
    ),
    # image and label
    Check(
        "size-mismatch",
        "Labels of another size than their image",
        "error",
        looks.size_mismatch,
        "export the label at the size of the image, without smoothing (nearest neighbour); --fix leaves both out",
        True,
    ),
    Check(
        "exif-rotation",
        "Photos that EXIF turns, but not their labels",
        "warning",
        looks.rotation,
        "turn the pixels of both, and remove the EXIF tag; --fix writes both upright, as they are read",
        True,
    ),
    # values
    Check(
        "values-outside",
        "Label values that are no class",
        "error",
        partial(looks.verdicts, "values-outside"),
        "correct the labels, name the class (data.names), or ignore the value (data.ignore); --fix leaves them out",
        True,
    ),
    Check(
        "binary-masks",
        "Masks of 0 and 255",
        "error",
        partial(looks.verdicts, "binary-masks"),
        "write 1 for 255, or say what 255 is: data.names={0: background, 255: object}; --fix writes 0 and 1",
        True,
    ),
    Check(
        "spread-values",
        "Classes numbered by other values than 0, 1, 2, ...",
        "error",
        partial(looks.verdicts, "spread-values"),
        "say which value is which class: data.names={0: sky, 128: road}; --fix renumbers them in their order",
        True,
    ),
    Check(
        "off-by-one",
        "Labels that are all one too large, or too small",
        "error",
        partial(looks.verdicts, "off-by-one"),
        "number the classes from 0, or set data.names={1: ...} to the values that there are; --fix shifts them",
        True,
    ),
    Check(
        "rgb-labels",
        "Labels in colour where numbers are expected",
        "error",
        partial(looks.verdicts, "rgb-labels"),
        "save the number of the class in one channel; --fix does it",
        True,
    ),
    Check(
        "palette-order",
        "Palette labels whose colours are in another order than the classes",
        "error",
        partial(looks.verdicts, "palette-order"),
        "save them with the palette of the classes: the index of a pixel is its class; --fix does it",
        True,
    ),
    Check(
        "grey-palette",
        "Palette labels that were converted to grey",
        "error",
        partial(looks.verdicts, "grey-palette"),
        "read the indices of the palette, don't convert to grey; --fix finds the class of each grey",
        True,
    ),
    Check(
        "smoothed-labels",
        "Labels that were resized smoothly, anti-aliased, or compressed",
        "error",
        partial(looks.verdicts, "smoothed-labels"),
        "export them again as PNG, unresized or by nearest neighbour; --fix gives each such pixel the label beside it",
        True,
    ),
    Check(
        "void-as-class",
        "A class whose name says that it doesn't count",
        "warning",
        looks.void_class,
        "set data.ignore to its value, so that it counts neither in the loss nor in a score",
    ),
    # what the labels hold
    Check(
        "ignored-labels",
        "Labels of which every pixel is ignored",
        "warning",
        looks.ignored_labels,
        "label them, or leave the images out: nothing is learnt from them; --fix leaves them out",
        True,
    ),
    Check(
        "empty-labels",
        "Labels of nothing but background",
        "warning",
        looks.empty_labels,
        "see whether an object was forgotten; images without one are useful if they really have none",
    ),
    Check(
        "one-class",
        "A split of one class",
        "error",
        looks.one_class,
        "see whether these are the right masks, and whether the other class is among the ignored values",
    ),
    Check(
        "absent-classes",
        "Classes that a split doesn't have",
        "warning",
        looks.absent,
        "move images with them between the splits, or remove the classes from the names",
    ),
    Check(
        "imbalance",
        "Classes of very few pixels",
        "note",
        looks.imbalance,
        "loss.class_weights=counts uses these weights; more images with these classes help most",
    ),
    Check(
        "specks",
        "Regions of a few pixels within another class",
        "note",
        looks.specks,
        "see whether they are slips of a brush; most metrics hardly notice them",
    ),
    # the same image twice
    Check(
        "duplicate-images",
        "Images that are in a split twice",
        "warning",
        partial(looks.copies, "same", False),
        "remove one of them; --fix keeps the first",
        True,
    ),
    Check(
        "shared-images",
        "Images that are in two splits, which makes scores too good",
        "error",
        partial(looks.copies, "same", True),
        f"{_CHOOSE}; --fix leaves them out of the training",
        True,
    ),
    Check(
        "near-duplicates",
        "Images that are in a split twice, compressed or resized",
        "warning",
        partial(looks.copies, "near", False),
        "remove one of them; --fix keeps the first",
        True,
    ),
    Check(
        "near-shared-images",
        "Images that are in two splits, compressed or resized",
        "error",
        partial(looks.copies, "near", True),
        f"{_CHOOSE}; --fix leaves them out of the training",
        True,
    ),
    Check(
        "neighbouring-frames",
        "Neighbouring frames that are nearly identical",
        "note",
        looks.frames,
        "one of them says as much as both; keep all frames of a film in one split",
    ),
    # images
    Check(
        "grey-images",
        "Grey images among coloured ones",
        "warning",
        partial(looks.kind_of_image, "grey"),
        "nothing, if they should be there: they are read as RGB; --fix writes RGB",
        True,
    ),
    Check(
        "deep-images",
        "Images of 16 bits",
        "warning",
        partial(looks.kind_of_image, "16-bit"),
        "save them with 8 bits, all in the same way; --fix writes them as they are read",
        True,
    ),
    Check(
        "alpha-images",
        "Images with transparency",
        "warning",
        partial(looks.kind_of_image, "alpha"),
        "remove the alpha channel, which isn't read; --fix does it",
        True,
    ),
    Check(
        "blank-images",
        "Images of a single colour",
        "warning",
        looks.blank,
        "see whether they were exported rightly; --fix leaves them as they are",
    ),
    Check(
        "smaller-than-crop",
        "Most images fill less than half of the crop",
        "warning",
        looks.smaller_than_crop,
        "set a smaller augment.crop: the rest of each crop is padding",
    ),
    Check(
        "larger-than-crop",
        "A crop shows a small part of most images",
        "note",
        looks.larger_than_crop,
        "set a larger augment.crop, or shrink the images (augment.max_scale), if classes are told apart by context",
    ),
    # instances
    Check(
        "missing-instances",
        "Images without an instance map, though others have one",
        "warning",
        looks.without_instances,
        "add the maps; a panoptic training refuses such images",
    ),
    Check(
        "unnumbered-things",
        "Instance maps in which no thing has a number",
        "error",
        looks.unnumbered,
        "number the things of each image 1, 2, 3, ..., or remove the instance maps",
    ),
    Check(
        "crossing-instances",
        "Instances that lie in several classes",
        "error",
        looks.crossing_instances,
        "give each object an id of its own, and one class; --fix leaves such images out",
        True,
    ),
    Check(
        "too-many-instances",
        "Numbers of things above what the panoptic divisor allows",
        "error",
        looks.too_many_instances,
        "number the things of an image 1, 2, 3, ...; --fix leaves such images out",
        True,
    ),
)
