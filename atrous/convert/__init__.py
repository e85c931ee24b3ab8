"""`atrous convert`: models of other programs as models of Atrous. Readers of their files, a row for each program."""

from atrous import verb_module
from atrous.convert.run import convert

__all__ = ["convert"]

verb_module.make_callable(__name__)  # `atrous.convert(...)`
