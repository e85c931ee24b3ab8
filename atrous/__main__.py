"""`python -m atrous`, and `torchrun ... -m atrous`."""

from atrous.cli import main

if __name__ == "__main__":
    main()
