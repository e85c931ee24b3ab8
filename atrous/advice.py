"""What a wrong option of the command line probably meant."""

import difflib
from collections.abc import Mapping, Sequence

from atrous.other_words import meaning

SECTIONS: Mapping[str, tuple[str, ...]] = {  # the settings that a verb takes
    "train": ("model", "data", "augment", "loss", "optim", "train", "evaluate", "decode"),
    "plan": ("model", "data", "augment", "loss", "optim", "train", "evaluate", "decode"),
    "evaluate": ("data", "evaluate", "decode"),
    "predict": ("evaluate", "decode"),
}


def for_option(option: str, arguments: Sequence[str], verb: str, options: Sequence[str]) -> str:
    """What to write instead of an unknown option; the empty string if nothing is similar."""
    word, value = option.lstrip("-").replace("-", "_").lower(), _value(option, arguments)
    close = difflib.get_close_matches(option, options, n=1, cutoff=0.75)
    if close:
        return f"did you mean {close[0]}?"
    if verb not in SECTIONS:
        return ""
    if text := meaning(word, value):
        return f"here it is {text}"
    settings = _settings(word, SECTIONS[verb])
    form = f": {settings.replace('VALUE', value or 'VALUE')}" if settings else ", as section.field=value"
    return f"settings are written without dashes{form}"


def _settings(word: str, sections: Sequence[str]) -> str:
    """`train.steps=VALUE` for `steps`, `train_steps` or `train.steps`."""
    from atrous import config

    known = config.known_keys({"model": {"name": "deeplab_v3plus"}, "data": {"format": "folder"}})
    names = [name for name in known if name.partition(".")[0] in sections]
    own = [name for name in names if word in (name, name.replace(".", "_"))]
    ends = [name for name in names if "." in name and name.rpartition(".")[2] == word]
    return " or ".join(f"{name}=VALUE" for name in (own or ends)[:3])


def _value(option: str, arguments: Sequence[str]) -> str:
    """What follows the option on the command line, if it is a value."""
    for place, text in enumerate(arguments):
        if text.startswith(f"{option}="):
            return text.partition("=")[2]
        if text == option:
            following = arguments[place + 1 : place + 2]
            return "".join(following) if not "".join(following).startswith("-") else ""
    return ""
