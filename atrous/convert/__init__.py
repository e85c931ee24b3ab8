"""`atrous convert`: models of other programs, made ours. Readers of their files, and one set of name rules a system."""

from atrous.convert.run import convert

__all__ = ["convert"]
