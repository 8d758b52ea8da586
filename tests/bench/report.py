"""Tables in Markdown, and a bar chart in SVG."""
from html import escape

COLOURS = ["#2166ac", "#d6604d", "#4dac26", "#b8860b", "#7b3294", "#018571", "#878787", "#c51b7d"]


def number(value, digits=3):
    """With so many digits that count; no exponent."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    places = max(0, digits - len(str(int(abs(value)))) + (abs(value) < 1))
    return f"{value:,.{places}f}"


def percent(part):
    """Of a part, without the sign."""
    return "-" if part is None else f"{100 * part:.1f}"


def table(head, rows):
    """Aligned, so that it reads well as text too: the first column to the left, others to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells):
        padded = [cell.ljust(width) if i == 0 else cell.rjust(width)
                  for i, (cell, width) in enumerate(zip(cells, widths))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)]) + "\n"


def summary(results, names, base, what="us_op"):
    """Cells down, servers across: the median, and in brackets its ratio to the base."""
    rows = []
    for cell in results.samples:
        row = [cell]
        for name in names:
            value = number(results.median(cell, name, what))
            ratio = results.ratio(cell, name, base, what)
            row.append(value if name == base or ratio is None else f"{value} ({ratio:.2f})")
        rows.append(row)
    return table(["", *names], rows)


def details(results, names, base):
    """Everything, a line for each cell and server."""
    rows = []
    for cell, servers in results.samples.items():
        for name in (name for name in names if name in servers):
            def median(what):
                return number(results.median(cell, name, what))
            rows.append([f"{cell}: {name}", median("us_op"), percent(results.noise(cell, name)),
                         number(results.ratio(cell, name, base)),
                         f"{results.median(cell, name, 'ops_s'):,.0f}",
                         number(results.ratio(cell, name, base, "ops_s")), median("busy"),
                         median("own_busy"), median("p50"), median("p99"), median("p999"),
                         median("max"),
                         percent(results.median(cell, name, "hit_part")),
                         percent(results.median(cell, name, "strangers"))])
    return table(["", "us/op", "+- %", "x base", "op/s", "x base", "busy %", "load %", "p50 us",
                  "p99 us", "p99.9 us", "max us", "hit %", "others %"], rows)


# --- the chart --------------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT, BAR, GAP, TOP, LETTER = 860, 230, 60, 15, 16, 84, 7


class Drawing:
    """Elements of an SVG, from the top down."""

    def __init__(self):
        self.parts = []

    def text(self, x, y, text, anchor="start", style=""):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>'
                          f'{escape(text)}</text>')

    def bar(self, x, y, width, height, colour, title):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(1, width):.1f}" height="{height}" '
                          f'fill="{colour}"><title>{escape(title)}</title></rect>')

    def line(self, x, y, height):
        self.parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{x}" y2="{y + height:.1f}" '
                          f'stroke="#999"/>')

    def finished(self, height):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
                f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" font-size="12" '
                f'fill="#222">\n<rect width="100%" height="100%" fill="#fff"/>\n'
                + "\n".join(self.parts) + "\n</svg>\n")


def legend(drawing, names):
    x = LEFT
    for name, colour in zip(names, COLOURS * len(names)):
        drawing.bar(x, 56, 11, 11, colour, name)
        drawing.text(x + 16, 66, name)
        x += 34 + LETTER * len(name)


def group(drawing, y, label, values):
    """A cell: a bar for each (name, value, colour), the longest as long as there is room."""
    longest = max(value for _, value, _ in values)
    room = WIDTH - LEFT - RIGHT
    drawing.text(LEFT - 10, y + len(values) * BAR / 2 + 4, label, "end", ' font-weight="bold"')
    for i, (name, value, colour) in enumerate(values):
        width = room * value / longest if longest else 0
        drawing.bar(LEFT, y + i * BAR, width, BAR - 3, colour, f"{label}, {name}: {number(value)}")
        drawing.text(LEFT + width + 5, y + i * BAR + 10, number(value), style=' font-size="10.5"')
    drawing.line(LEFT, y - 2, len(values) * BAR + 1)
    return y + len(values) * BAR + GAP


def chart(title, results, names, what="us_op"):
    """Bars grouped by cell; every group has a scale of its own, for cells differ a thousandfold."""
    drawing = Drawing()
    drawing.text(LEFT, 24, title, style=' font-size="16" font-weight="bold"')
    drawing.text(LEFT, 42, "CPU of the server for a request, microseconds; shorter is better; "
                 "each group has its own scale", style=' fill="#666"')
    legend(drawing, names)
    colours = dict(zip(names, COLOURS * len(names)))
    y = TOP
    for cell, servers in results.samples.items():
        values = [(name, results.median(cell, name, what), colours[name])
                  for name in names if name in servers]
        if values:
            y = group(drawing, y, cell, values)
    return drawing.finished(y)
