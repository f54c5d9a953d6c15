#!/usr/bin/env python3
"""Renders what a terminal shows, as text with ANSI colours, to an SVG picture for the docs.

    tmux new-session -d -s picture -x 110 -y 40 'build/release/sporkle demo; sleep 600'
    tmux capture-pane -e -p -t picture | tools/terminal_svg.py --title 'sporkle demo' > docs/images/demo.svg

Every run of one style is a text element with its exact length, so that the columns meet whatever font the reader has.
"""

import argparse
import html
import re
import sys
import unicodedata

CELL_WIDTH, CELL_HEIGHT, FONT_SIZE, MARGIN, TITLE_HEIGHT = 8.4, 18, 14, 16, 34
BACKGROUND, FOREGROUND = "#11151c", "#d5dae3"
BASE = ["#3b4252", "#ef6b73", "#8fce7e", "#eecb7a", "#6ea8fe", "#c792ea", "#5fd3d3", "#d5dae3"]
BRIGHT = ["#7a8494", "#ff8b92", "#b5e8a6", "#ffe19c", "#9cc4ff", "#dfb6ff", "#8aeaea", "#ffffff"]
SEQUENCE = re.compile(r"\x1b\[([0-9;:]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()].|[\x00-\x08\x0b-\x1f]")


def palette(index: int) -> str:
    """Colour `index` of xterm's 256."""
    if index < 8:
        return BASE[index]
    if index < 16:
        return BRIGHT[index - 8]
    if index >= 232:
        return "#" + f"{8 + 10 * (index - 232):02x}" * 3
    levels = (0, 95, 135, 175, 215, 255)
    red, green, blue = (index - 16) // 36, (index - 16) // 6 % 6, (index - 16) % 6
    return f"#{levels[red]:02x}{levels[green]:02x}{levels[blue]:02x}"


class Style:
    def __init__(self):
        self.reset()

    def reset(self):
        self.colour, self.background = None, None
        self.bold = self.dim = self.italic = self.reverse = False

    def apply(self, parameters: str):
        codes = [int(code or 0) for code in re.split("[;:]", parameters)]
        while codes:
            code = codes.pop(0)
            if code == 0:
                self.reset()
            elif code == 1:
                self.bold = True
            elif code == 2:
                self.dim = True
            elif code == 3:
                self.italic = True
            elif code == 7:
                self.reverse = True
            elif code == 22:
                self.bold = self.dim = False
            elif code == 23:
                self.italic = False
            elif code == 27:
                self.reverse = False
            elif 30 <= code <= 37:
                self.colour = BASE[code - 30]
            elif 90 <= code <= 97:
                self.colour = BRIGHT[code - 90]
            elif code == 39:
                self.colour = None
            elif 40 <= code <= 47:
                self.background = BASE[code - 40]
            elif 100 <= code <= 107:
                self.background = BRIGHT[code - 100]
            elif code == 49:
                self.background = None
            elif code in (38, 48):
                chosen = self.extended(codes)
                if code == 38:
                    self.colour = chosen
                else:
                    self.background = chosen

    @staticmethod
    def extended(codes: list[int]) -> str | None:
        kind = codes.pop(0) if codes else 0
        if kind == 5 and codes:
            return palette(codes.pop(0) & 255)
        if kind == 2 and len(codes) >= 3:
            return "#" + "".join(f"{codes.pop(0) & 255:02x}" for _ in range(3))
        return None

    def attributes(self) -> tuple[str, str | None]:
        """The text element's attributes, and the colour behind it."""
        colour, background = self.colour, self.background
        if self.reverse:
            colour, background = background or BACKGROUND, colour or FOREGROUND
        text = f' fill="{colour}"' if colour else ""
        text += ' font-weight="bold"' if self.bold else ""
        text += ' opacity="0.6"' if self.dim else ""
        text += ' font-style="italic"' if self.italic else ""
        return text, background


def columns(text: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def runs(line: str, style: Style):
    """(column, text, attributes, background) of each piece of a line that has one style."""
    column = position = 0
    for match in [*SEQUENCE.finditer(line), None]:
        text = line[position : match.start() if match else len(line)]
        if text:
            yield column, text, *style.attributes()
            column += columns(text)
        if match:
            position = match.end()
            if match.group(2) == "m":
                style.apply(match.group(1))


def render(text: str, title: str) -> str:
    lines = [line.expandtabs() for line in text.rstrip("\n ").split("\n")]
    style = Style()
    body, widest = [], columns(title) + 12
    for row, line in enumerate(lines):
        top = TITLE_HEIGHT + MARGIN / 2 + row * CELL_HEIGHT
        for column, piece, attributes, background in runs(line, style):
            x, length = MARGIN + column * CELL_WIDTH, columns(piece) * CELL_WIDTH
            if background:
                body.append(
                    f'<rect x="{x:.1f}" y="{top:.1f}" width="{length:.1f}" height="{CELL_HEIGHT}" fill="{background}"/>'
                )
            elif not piece.strip():
                continue
            lead = len(piece) - len(piece.lstrip(" ")) if not background else 0
            kept = piece[lead:].rstrip(" ") if not background else piece
            x += lead * CELL_WIDTH
            widest = max(widest, column + lead + columns(kept))
            body.append(
                f'<text x="{x:.1f}" y="{top + 13.5:.1f}" textLength="{columns(kept) * CELL_WIDTH:.1f}"'
                f' lengthAdjust="spacingAndGlyphs"{attributes}>{html.escape(kept)}</text>'
            )
    width = 2 * MARGIN + widest * CELL_WIDTH
    height = TITLE_HEIGHT + MARGIN * 1.5 + len(lines) * CELL_HEIGHT
    lights = "".join(
        f'<circle cx="{18 + 18 * i}" cy="17" r="5.5" fill="{colour}"/>'
        for i, colour in enumerate((BASE[1], BASE[3], BASE[2]))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace"'
        f' font-size="{FONT_SIZE}" fill="{FOREGROUND}" xml:space="preserve">\n'
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>{lights}\n'
        f'<text x="{width / 2:.0f}" y="21.5" text-anchor="middle" opacity="0.6">{html.escape(title)}</text>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="renders terminal text with ANSI colours (standard input) to SVG")
    parser.add_argument("--title", default="")
    arguments = parser.parse_args()
    sys.stdout.write(render(sys.stdin.read(), arguments.title))
    return 0


if __name__ == "__main__":
    sys.exit(main())
