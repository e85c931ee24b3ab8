"""The file formats of others, read without their programs. Nothing is run or unpickled; sizes are checked first."""
