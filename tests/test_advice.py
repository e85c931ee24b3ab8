"""What a wrong option probably meant."""

import re

import pytest

from atrous import advice, config, other_words

OPTIONS = ["--out", "--workers", "--device", "--resume"]
CALLS = {  # option, arguments, verb: what is said
    ("--steps", ("--steps", "100"), "train"): "settings are written without dashes: train.steps=100",
    ("--steps", ("--steps=100",), "train"): "settings are written without dashes: train.steps=100",
    ("--train.steps", ("--train.steps", "100"), "train"): "settings are written without dashes: train.steps=100",
    ("--train-steps", ("--train-steps", "100"), "train"): "settings are written without dashes: train.steps=100",
    ("--batch-size", ("--batch-size", "4"), "train"): "here it is train.batch=4",
    ("--batch_size", ("--batch_size",), "train"): "here it is train.batch=VALUE",
    ("--lr", ("--lr", "--resume"), "train"): "settings are written without dashes: optim.lr=VALUE",
    ("--wurkers", ("--wurkers", "2"), "train"): "did you mean --workers?",
    ("--flip", ("--flip",), "predict"): "settings are written without dashes: evaluate.flip=VALUE",
    ("--steps", ("--steps", "3"), "predict"): "settings are written without dashes, as section.field=value",
    ("--steps", ("--steps", "3"), "recipes"): "",
}


@pytest.mark.parametrize(("call", "answer"), CALLS.items())
def test_an_unknown_option_is_answered_with_what_was_meant(call: tuple[str, tuple[str, ...], str], answer: str) -> None:
    option, arguments, verb = call
    assert advice.for_option(option, arguments, verb, OPTIONS) == answer


def test_other_words_name_settings_that_exist() -> None:
    models = ({"name": "deeplab_v3plus", "backbone": "pnasnet"}, {"name": "panoptic_deeplab"})
    known = {key for model in models for key in config.known_keys({"model": model, "data": {"format": "folder"}})}
    named = re.findall(r"\b([a-z_]+(?:\.[a-z_]+)+)\b", " ".join(other_words.OTHER_WORDS.values()))
    assert set(named) - known <= {"classes.yaml", "loss.weights.auxiliary"}  # a file, and a key of a mapping


def test_a_word_that_is_a_setting_is_no_other_word() -> None:
    known = config.known_keys({"model": {"name": "deeplab_v3plus"}, "data": {"format": "folder"}})
    fields = {name.rpartition(".")[2] for name in known if name.startswith(("train.", "optim.", "augment."))}
    assert not fields & other_words.OTHER_WORDS.keys()


def test_settings_without_their_section_are_answered_too() -> None:
    with pytest.raises(ValueError, match=r"here it is train\.batch=4$"):
        config.parse_overrides(["batch_size=4"])
    with pytest.raises(ValueError, match=r"train\.max_iter: unknown key; here it is train\.steps"):
        config.load("synthetic/deeplab_v3plus_tiny", ["train.max_iter=4"])
