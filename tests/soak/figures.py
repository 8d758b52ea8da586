"""Lines through points, and pictures of them."""


def slope(values):
    """Of the line with the least squares through values at 0, 1, 2 ..; and its standard error."""
    n = len(values)
    mean_x, mean_y = (n - 1) / 2, sum(values) / n
    spread = sum((x - mean_x) ** 2 for x in range(n))
    rise = sum((x - mean_x) * (y - mean_y) for x, y in enumerate(values)) / spread
    residual = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in enumerate(values))
    return rise, (residual / (n - 2) / spread) ** 0.5


def svg(points, marks, title, unit, width=900, height=300):
    """A picture of y over x (seconds), and `marks`, points that matter."""
    left, right, top, bottom = 70, 20, 30, 40
    most_x, most_y = max(x for x, _ in points) or 1, max(y for _, y in points) or 1

    def at(x, y):
        return (f"{left + x / most_x * (width - left - right):.1f},"
                f"{height - bottom - y / most_y * (height - top - bottom):.1f}")
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="white"/>',
             f'<text x="{left}" y="18">{title}</text>',
             f'<polyline fill="none" stroke="steelblue" points="{" ".join(at(*p) for p in points)}"/>']
    for mark in marks:
        x, y = at(*mark).split(",")
        lines.append(f'<circle cx="{x}" cy="{y}" r="3" fill="firebrick"/>')
    for i in range(5):
        y = at(0, most_y * i / 4).split(",")[1]
        lines.append(f'<text x="5" y="{y}">{most_y * i / 4:.0f} {unit}</text>')
        lines.append(f'<text x="{at(most_x * i / 4, 0).split(",")[0]}" y="{height - 15}">'
                     f'{most_x * i / 4 / 60:.1f} min</text>')
    return "\n".join([*lines, "</svg>", ""])
