"""Readers of foreign file formats, without their programs. Nothing is run or unpickled; sizes are checked first."""
