"""Colors, axis style and PNG encoding of all figures. Needs the extra `report` (matplotlib).

Figures use `matplotlib.figure.Figure` without pyplot, so matplotlib's global state stays untouched.
"""

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

COLORS = ("#1b6ca8", "#d1603d", "#4f9d69", "#8a5a9e", "#b8912f", "#5b6770")


def figure_to_png(figure: Figure) -> bytes:
    """Return a figure as PNG, 120 dpi; `$` in its texts, such as class names, starts no formula."""
    stream = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # pyrefly: ignore
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # it is drawn as a box
        figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()


def image_to_png(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return an image as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def style_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Set axis labels, a light grid behind the data, and no top or right spine."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def use_log_x(axes: Axes) -> None:
    """Make x logarithmic, with plain numbers at 1, 2 and 5 times each power of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
