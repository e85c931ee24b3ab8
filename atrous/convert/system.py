"""What a program whose models we convert is: a row of SYSTEMS, and the values that its functions take and return."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from atrous.convert.arrays import Array, Arrays, Shape, Shapes
from atrous.convert.flow.agreement import Passes
from atrous.convert.flow.values import Flow
from atrous.convert.label_spaces import published_label_space
from atrous.convert.layouts import PYTORCH, Layout, Rules
from atrous.convert.readers.keras import Layer
from atrous.data.label_space import LabelSpace
from atrous.errors import ConversionError
from atrous.inference import InferenceConfig
from atrous.models import ModelConfig
from atrous.settings import Settings
from atrous.types import Convention, Size

ConfigFields: TypeAlias = dict[str, Any]  # of a model's Config
OptionTree: TypeAlias = Mapping[
    str, Any
]  # options before they are checked: texts from a command line, values from Python
OptionsT = TypeVar("OptionsT", bound=Settings)

NUM_LISTED = 5  # names in a message


RGBBytes: TypeAlias = tuple[int, int, int]
Normalization: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]  # (shift, scale), of all channels or of each


class Pooling(NamedTuple):
    """Of the image-level features."""

    window: Size | None = None  # in pixels of the image; None: the whole image
    stride: tuple[int, int] = (1, 1)


class Hints(NamedTuple):
    """What the operations of a graph show and weights alone don't; options take precedence."""

    output_stride: int | None = None
    atrous_rates: tuple[int, ...] | None = None
    multi_grid: tuple[int, ...] | None = None
    pooling: Pooling | None = None
    convention: Convention = "aligned_corners"  # by which logits are resized
    decoder_convention: Convention = "aligned_corners"
    block_rates: tuple[int, ...] | None = None  # of a backbone's blocks, one each


class ForeignWeights(NamedTuple):
    """Weights under the names and in the layout of the program that saved them."""

    label: str  # the file or archive, for messages
    arrays: Arrays
    hints: Hints = Hints()
    input_size: Size | None = None  # of a graph that takes images of one size
    normalization: Normalization | None = None  # if a graph has its own
    flow: Flow | None = None  # what a graph computes with the weights
    left_out: tuple[str, ...] = ()  # what of a graph becomes no part of the model
    is_rounded: bool = False  # to 8 bits, or less, while it runs
    options: Mapping[str, Any] = {}  # what a file beside the weights says; the user's own take precedence
    class_names: tuple[str, ...] = ()  # as such a file has them
    averages: Mapping[str, Array] = {}  # a moving average of the weights, under their names
    layers: Mapping[str, Layer] = {}  # as a file of Keras describes them, by their names
    class_colors: tuple[RGBBytes, ...] = ()


class Evidence(NamedTuple, Generic[OptionsT]):
    """Everything by which the model of the weights can be recognised."""

    shapes: Shapes
    options: OptionsT
    label: str
    hints: Hints = Hints()
    input_size: Size | None = None

    def has(self, *names: str) -> bool:
        return any(name in self.shapes for name in names)

    def has_prefix(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.shapes)

    def shape(self, name: str) -> Shape:
        """The shape of a weight that all networks of the program have. Raises ConversionError if it is missing."""
        shape = self.shapes.get(name)
        if not shape:
            present = listed(list(self.shapes))
            raise ConversionError(
                f"{self.label}: {name} is missing, which every network of this system has; there are {present}"
            )
        return shape

    def count_modules(self, prefix: str) -> int:
        """How many numbered modules have names that begin with `prefix`."""
        return len({name[len(prefix) :].partition(".")[0] for name in self.shapes if name.startswith(prefix)})


class Deduction(NamedTuple):
    """The fields of the model's config, and the options that the weights alone decide."""

    fields: ConfigFields
    decided: Mapping[str, object]  # by option; None: the weights don't decide it


def as_they_are(tree: OptionTree, label: str) -> dict[str, Any]:
    return dict(tree)


def no_assumptions(evidence: Evidence[Any], config: ModelConfig) -> dict[str, bool]:
    return {}


def whole_images(evidence: Evidence[Any], config: ModelConfig) -> InferenceConfig:
    return InferenceConfig()


def task_defaults(evidence: Evidence[Any], config: ModelConfig) -> ConfigFields:
    return {}


def as_named(arrays: Arrays) -> Arrays:
    return arrays


def own_colors(options: Any) -> Normalization | None:  # noqa: ANN401 - of any system
    return None


def one_pass(options: Any) -> Passes:  # noqa: ANN401 - of any system
    return Passes()


def off_grid(evidence: Evidence[Any], config: ModelConfig) -> InferenceConfig:
    """The inference of programs that show images to the network as they are, without padding to its grid."""
    return InferenceConfig(pad_to_grid=False)


class System(NamedTuple, Generic[OptionsT]):
    """A program to convert from; the steps that all of them share are in `conversion`."""

    recognised: Callable[[Shapes], bool]
    options: type[OptionsT]  # what weights can't tell, by the program's own names
    config: Callable[[Evidence[OptionsT]], Deduction]
    rules: Callable[[ModelConfig], Rules]
    assumptions: Callable[[Evidence[OptionsT], ModelConfig], dict[str, bool]] = (
        no_assumptions  # and whether each is needed
    )
    inference: Callable[[Evidence[OptionsT], ModelConfig], InferenceConfig] = whole_images
    label_space: Callable[[int, OptionsT], tuple[LabelSpace, list[str]]] = published_label_space  # and its assumptions
    layout: Layout = PYTORCH
    unpacked: Callable[[OptionTree, str], dict[str, Any]] = as_they_are  # aliases and the program's files resolved
    runtime_options: tuple[str, ...] = ()  # that may differ from what a graph shows: weights fit all their values
    graph_options: tuple[tuple[str, Any], ...] = ()  # (option, value) that only a graph shows, tried where one differs
    passes: Callable[[OptionsT], Passes] = one_pass  # of the network over an image
    decode: Callable[[Evidence[OptionsT], ModelConfig], ConfigFields] = task_defaults  # the section `decode`
    renamed: Callable[[Arrays], Arrays] = as_named  # weights under older names of the program, under today's
    normalization: Callable[[OptionsT], Normalization | None] = own_colors  # of images; None: the backbone's own


def listed(names: list[str]) -> str:
    more = f" and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    return (", ".join(names[:NUM_LISTED]) + more) or "none"
