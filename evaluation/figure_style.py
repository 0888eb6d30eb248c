"""One look for all figures: colours that the colour-blind and a grey printer tell apart, vector PDF and PNG of each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from nnunetv2.utilities.files import atomic_write

# Okabe and Ito's palette ("Color universal design", 2008), ordered so that neighbours differ in lightness too
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00"
CLASS_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, YELLOW)
CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CLASS_LINES = ("-", "--", "-.", ":")
GREY, LIGHT = "#555555", "#DDDDDD"
WIDTH = 6.3  # inches: the text width of the report
CHARACTERS_AN_INCH = 13  # of a banner
LONGEST_IN_LEGEND = 24  # characters
LEGEND_LINE = 0.17  # inches

STYLE = {
    "font.family": "STIXGeneral", "mathtext.fontset": "stix", "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9,
    "legend.fontsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.7, "lines.linewidth": 1.3, "legend.frameon": False, "figure.constrained_layout.use": True,
    "savefig.dpi": 300, "pdf.fonttype": 42,  # 42: text stays text in the PDF
    "text.parse_math": False,  # a dollar sign in a case's name is no formula
}
METADATA = {"pdf": {"CreationDate": None, "Producer": None}, "png": {"Software": None}}  # equal input, equal file


def look(k: int) -> tuple[str, str, str]:
    """Colour, marker and line of class or label `k`: 49 different points, 28 different lines, then again from the start."""
    return CLASS_COLOURS[k % 7], CLASS_MARKERS[(k % 7 + k // 7) % 7], CLASS_LINES[(k % 7 + k // 7) % 4]


def in_legend(text: str) -> str:
    """A name that a legend shows and has room for: matplotlib leaves out what begins with an underscore, and a long name loses its middle."""
    if len(text) > LONGEST_IN_LEGEND:
        text = f"{text[:LONGEST_IN_LEGEND // 2]}\u2026{text[1 - LONGEST_IN_LEGEND // 2:]}"
    return f" {text}" if text.startswith("_") else text


@contextmanager
def figure(path: Path, banner: str, rows: int = 1, columns: int = 1, height: float = 2.4, width: float = WIDTH, **grid) -> Iterator:
    """Yield (figure, axes array (rows, columns)), then save it as `path`.pdf and `path`.png, stamped with the banner, where there is one."""
    with plt.rc_context(STYLE):
        drawing, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **grid)
        try:
            yield drawing, axes
            if banner:
                stamp(drawing, banner)
            for suffix in ("pdf", "png"):
                with atomic_write(path.with_name(f"{path.name}.{suffix}")) as temporary:  # a name may hold dots
                    drawing.savefig(temporary, metadata=METADATA[suffix])
        finally:
            plt.close(drawing)


def stamp(drawing: plt.Figure, banner: str = "SYNTHETIC DATA") -> None:
    """The words nobody may miss, as a line above everything; of a long one the beginning, which a narrow figure can hold."""
    longest = int(drawing.get_figwidth() * CHARACTERS_AN_INCH)
    drawing.suptitle(banner if len(banner) <= longest else f"{banner[:longest - 1]}\u2026", fontsize=8, color=RED, fontweight="bold", x=0.995, ha="right")
