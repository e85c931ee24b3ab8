"""One image after another, in this process."""

from collections.abc import Generator

from atrous.data.finding import NamedImage
from atrous.engines.contract import Engine, Outcome, Work


def run(work: Work) -> Generator[tuple[NamedImage, Outcome]]:
    for image in work.images:
        yield image, work.predict(image)


LOCAL = Engine(run, is_here=True)
