"""`atrous.train` is the file of a verb, and `atrous.train(...)` does what the verb does."""

import importlib
import sys
from types import ModuleType
from typing import Any


class VerbModule(ModuleType):
    """A module that can be called, by Python's own way to customise one (language reference, 3.3.2.1)."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:  # noqa: ANN401 - as the verb has them
        """The function of the same name in `atrous.verbs`."""
        verb = getattr(importlib.import_module("atrous.verbs"), self.__name__.rpartition(".")[2])
        return verb(*arguments, **settings)


def make_callable(name: str) -> None:
    sys.modules[name].__class__ = VerbModule
