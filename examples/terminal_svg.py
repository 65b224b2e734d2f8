"""A terminal's screen as an SVG picture: text as text, half blocks and backgrounds as rectangles.

Rich can export SVG too, but leaves half blocks to the viewer's font, which tears pictures to
stripes. Here a cell is two squares, one above the other, so that they are exact everywhere.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from rich.ansi import AnsiDecoder
from rich.cells import cell_len
from rich.color import Color, blend_rgb
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME as THEME

CELL = 8  # pixels of a cell's width, and of half its height
FONT = 13.3  # pixels; letters of a monospaced font are 0.6 of it wide
MARGIN = 16
UPPER_HALF = "\u2580"
FAMILY = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" \
height="{height}">
<title>{title}</title>
<rect width="{width}" height="{height}" rx="8" fill="{back}"/>
<g transform="translate({margin} {margin})">
"""
LETTERS = '<g font-family="{family}" font-size="{size}">\n'

Cell = tuple[str, Style]


def to_svg(screen: str, columns: int, title: str) -> str:
    """Lines with SGR sequences (colours, bold, dim), as `tmux capture-pane -e` gives them."""
    rows = [list(_cells(line, columns)) for line in _styled(screen)]
    sizes = {"width": columns * CELL + 2 * MARGIN, "height": len(rows) * 2 * CELL + 2 * MARGIN}
    head = HEAD.format(**sizes, title=escape(title), back=_hex(None, ground=True), margin=MARGIN)
    letters = LETTERS.format(family=FAMILY, size=FONT)
    texts = "".join(text for y, row in enumerate(rows) for text in _texts(row, y))
    return f"{head}{_squares(rows)}{letters}{texts}</g>\n</g>\n</svg>\n"


def _styled(screen: str) -> Iterator[list[Cell]]:
    """Each line as texts with their styles, without the newline."""
    console = Console(width=10_000, color_system="truecolor", file=None)
    for line in AnsiDecoder().decode(screen):
        yield [(part.text, part.style or Style()) for part in line.render(console)]


def _cells(parts: Sequence[Cell], columns: int) -> Iterator[Cell]:
    """One character a cell; a wide one is followed by an empty cell, marks join their letter."""
    cells: list[Cell] = []
    for text, style in parts:
        for character in text:
            width = cell_len(character)
            if width == 0 and cells:
                cells[-1] = (cells[-1][0] + character, cells[-1][1])
            else:
                cells += [(character, style)] + [("", style)] * (width - 1)
    return iter(cells[:columns])


def _colors(style: Style) -> tuple[str, str]:
    """The colours of letters and ground, in hexadecimal."""
    front, back = style.color, style.bgcolor
    letters = _hex(front, dim=bool(style.dim)), _hex(back, ground=True)
    return letters[::-1] if style.reverse else letters


def _hex(color: Color | None, *, ground: bool = False, dim: bool = False) -> str:
    """A colour as the theme has it; dim ones are halfway to the ground."""
    color = color or Color.default()
    triplet = color.get_truecolor(THEME, foreground=not ground)
    if dim:
        triplet = blend_rgb(triplet, THEME.background_color, 0.4)
    return triplet.hex


def _squares(rows: Sequence[Sequence[Cell]]) -> str:
    """All grounds and half blocks, one path a colour; neighbours of a colour are one rectangle."""
    paths: dict[str, list[str]] = defaultdict(list)
    for y, row in enumerate(rows):
        for half in range(2):
            colors = [_square(text, style, half) for text, style in row]
            x = 0
            for color, run in groupby(colors):
                width = len(list(run))
                if color != _hex(None, ground=True):
                    at = f"M{x * CELL} {(2 * y + half) * CELL}"
                    paths[color].append(f"{at}h{width * CELL}v{CELL}h-{width * CELL}z")
                x += width
    drawn = "".join(f'<path fill="{color}" d="{"".join(d)}"/>\n' for color, d in paths.items())
    return f'<g shape-rendering="crispEdges">\n{drawn}</g>\n'


def _square(text: str, style: Style, half: int) -> str:
    """The colour of a cell's upper (0) or lower (1) half, letters aside."""
    letters, ground = _colors(style)
    return letters if text == UPPER_HALF and half == 0 else ground


def _texts(row: Sequence[Cell], y: int) -> Iterator[str]:
    """The words of one row, each where its first cell is, stretched to its cells."""
    x = 0
    for (style, blank), run in groupby(row, key=lambda cell: (cell[1], _is_blank(cell[0]))):
        cells = [text for text, _ in run]
        if not blank:
            bold = ' font-weight="bold"' if style.bold else ""
            yield (
                f'<text x="{x * CELL}" y="{(2 * y + 1.5) * CELL:g}" fill="{_colors(style)[0]}"'
                f'{bold} textLength="{len(cells) * CELL}">{escape("".join(cells))}</text>\n'
            )
        x += len(cells)


def _is_blank(text: str) -> bool:
    """Whether a cell holds no letter; the second half of a wide one ("") belongs to it."""
    return text in (" ", UPPER_HALF)
