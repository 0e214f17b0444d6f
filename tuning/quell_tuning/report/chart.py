"""A chart in the report's style: one pair of matplotlib axes, written as SVG."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from quell_tuning.formatting import round_numbers
from quell_tuning.report.formatting import MINUS
from quell_tuning.report.media import data_uri

# After Okabe and Ito, distinct for colour-blind readers too; markers and dashes repeat the distinction.
BEST, PRESET, OTHER, RUNNING, FAINT, DIM = "#0072b2", "#d55e00", "#56b4e9", "#009e73", "#b8bfc6", "#6b7680"
INK = "#1b2430"
SIZE_IN = (5.4, 3.7)
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "quell",  # the same ids in the SVG every time
    "svg.fonttype": "path",  # independent of the reader's fonts
    "text.parse_math": False,  # names from the database may hold a $
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#7a858f",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e7ebee",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
# Positions of a name beside its point: offset to the right and up in points, and the text's alignment.
PLACES = (
    (6, 4, "left"),
    (6, -10, "left"),
    (-6, 4, "right"),
    (-6, -10, "right"),
    (6, 14, "left"),
    (-6, 14, "right"),
)
HALO = withStroke(linewidth=2.5, foreground="white")


class Chart:
    """Axes with labels. Create and write it inside `matplotlib.rc_context(STYLE)`."""

    def __init__(self, x: str, y: str) -> None:
        self.figure = Figure(figsize=SIZE_IN, layout="constrained")
        self.axes = self.figure.add_subplot(xlabel=x, ylabel=y)

    def legend(self) -> None:
        """Adds a legend above the axes."""
        self.figure.legend(loc="outside upper left", ncols=4, columnspacing=1.4, handletextpad=0.5, borderpad=0.1)

    def ticks(self, values: Sequence[float]) -> None:
        """Labels x with plain numbers at these values only."""
        self.axes.xaxis.set_major_locator(FixedLocator(values))
        self.axes.xaxis.set_minor_locator(NullLocator())
        self.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", MINUS)))

    def logarithmic(self, values: Sequence[float]) -> None:
        """Makes x logarithmic, from a bit below to a bit above these values."""
        low, high = min(values) / 1.3, max(values) * 1.3
        self.axes.set_xscale("log")
        self.axes.set_xlim(low, high)
        self.ticks(round_numbers(low, high))

    def name(self, named: Sequence[tuple[float, float, str]], colour: str) -> None:
        """Writes names beside points, without overlaps and inside the axes."""
        self.figure.draw_without_rendering()  # fixes the layout, which the boxes depend on
        inside = self.axes.get_window_extent()
        boxes: list[Bbox] = []
        for x, y, name in named:
            for right, up, side in PLACES:
                style: dict[str, Any] = {"ha": side, "fontsize": 8, "color": colour, "path_effects": [HALO]}
                text = self.axes.annotate(name, (x, y), (right, up), textcoords="offset points", **style)
                box = text.get_window_extent()
                free = not any(box.overlaps(other) for other in boxes)
                if (free and inside.x0 <= box.x0 and box.x1 <= inside.x1) or (right, up, side) == PLACES[-1]:
                    boxes.append(box)
                    break
                text.remove()

    def picture(self) -> str:
        """The chart as a data URI."""
        svg = io.BytesIO()
        self.figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        return data_uri("image/svg+xml", svg.getvalue())
