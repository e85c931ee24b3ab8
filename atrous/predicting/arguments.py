"""What the words of a call mean: the model, the images, the settings."""

import glob
import shlex
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from atrous import config as configs
from atrous.config_errors import explain
from atrous.data.pairing import IMAGE_SUFFIXES
from atrous.errors import ConfigError
from atrous.inference import InferenceConfig
from atrous.model_file import CONVERTIBLE
from atrous.run_folder import RunFolder
from atrous.segmenter import Segmenter
from atrous.settings import Settings


def require_order(model: Path, sources: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse arguments without an image, or with an image where the model should be, with the right command."""
    models = [source for source in sources if _looks_like_model(Path(source))]
    is_folder = model.is_dir() and not _looks_like_model(model)
    if model.name.lower().endswith(IMAGE_SUFFIXES) or (models and (is_folder or glob.has_magic(str(model)))):
        images = shlex.join([str(model), *(source for source in sources if source not in models)])
        raise ConfigError(f"the model comes first: atrous predict {shlex.join(models[:1]) or 'MODEL'} {images}")
    if not sources:
        settings = f", got only the setting {overrides[0]}" if overrides else ""
        raise ConfigError(f"expected an image, folder or pattern after the model{settings}")


def _looks_like_model(path: Path) -> bool:
    return path.name.endswith((".safetensors", *CONVERTIBLE)) or RunFolder(path).best.is_file()


def with_settings(model: Segmenter, overrides: Sequence[str], source: str) -> Segmenter:
    """The model by its file's protocol and decoding, with `evaluate.field=value` and `decode.field=value` on top."""
    sections: dict[str, Settings] = {"evaluate": model.inference, "decode": model.header.decode}
    below = {name: configs.to_tree(section) for name, section in sections.items()}
    tree = configs.merge(below, configs.parse_overrides(overrides))
    others = sorted(tree.keys() - sections.keys())
    if others:
        reason = "only settings of evaluate and decode apply to a prediction, such as evaluate.flip=true"
        reason = "settings of a benchmark's format need --format NAME" if others[0] == "format" else reason
        raise ConfigError(f"{others[0]}: {reason}")
    for name, section in sections.items():
        try:
            sections[name] = type(section).model_validate(tree[name])
        except ValidationError as error:
            raise ConfigError(explain(error, configs.known_keys(tree), source, overrides, section=name)) from None
    inference = InferenceConfig.model_validate(sections["evaluate"])
    return model.with_inference(inference).with_header(decode=sections["decode"])
