"""What is printed: plain text that any terminal, pipe or log file can show, whatever is in the names of files."""

import re
import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook
from rich.segment import Segment

# Control characters, marks that reorder the text around them, line separators, and halves of broken UTF-8.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
)
UNBOUNDED = 10_000  # columns of a pipe or a file, so that no path is cut in two


def printable(text: str, encoding: str = "utf-8") -> str:
    """The text with escapes such as `\\x1b` for what a terminal would obey, reorder, or fail to encode."""
    visible = UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)
    return visible.encode(encoding, "backslashreplace").decode(encoding)


def answer(message: str, code: int) -> int:
    """Print one line to stderr; returns the exit code, so that a verb can end with it."""
    print(f"atrous: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def console(*, quiet: bool = False) -> Console:
    """Where a verb prints. Lines are never folded: a terminal does that itself, and a path can be copied whole."""
    output = Console(markup=False, highlight=False, emoji=False, soft_wrap=True, quiet=quiet)
    if not output.is_terminal:
        output.width = UNBOUNDED
    output.push_render_hook(_Printable(output))
    return output


class _Printable(RenderHook):
    """Whatever is printed passes through `printable`; rich's own control codes and colours are kept."""

    def __init__(self, output: Console) -> None:
        self.output = output

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_PrintableText(renderable, self.output.encoding) for renderable in renderables]


class _PrintableText:
    def __init__(self, content: RenderableType, encoding: str) -> None:
        self.content, self.encoding = content, encoding

    def __rich_console__(self, output: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for text, style, control in output.render(self.content, options):
            yield Segment(text if control else printable(text, self.encoding), style, control)
