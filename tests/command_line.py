"""What tests of the command line share."""

import pytest

from atrous import cli

RECIPE = "synthetic/deeplab_v3plus_tiny"


def run(*arguments: str) -> int:
    return cli.run([str(argument) for argument in arguments])


def failure(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line that a failing call prints."""
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("atrous: ")
    assert error.count("\n") == 1, error
    return error
