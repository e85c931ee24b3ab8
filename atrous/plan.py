"""x"""

from rich.console import Console

from atrous.config import Config
from atrous.distributed import World


def fitted(config: Config, world: World, console: Console) -> Config:
    raise NotImplementedError
