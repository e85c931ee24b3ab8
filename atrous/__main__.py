"""`atrous`, `python -m atrous`, and `torchrun ... -m atrous`."""

import sys


def main() -> None:
    try:
        from atrous import cli
    except KeyboardInterrupt:  # before `cli.run` can handle it
        print("atrous: interrupted", file=sys.stderr)
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
