"""`atrous convert`: models of other programs as models of Atrous. Readers of their files, a row for each program."""

from atrous.convert.run import convert

__all__ = ["convert"]
