"""One module for each figure: a pure function from result files to a Plotly figure. No model is ever loaded here.

>>> from figures import FIGURES
>>> FIGURES["trigger-agnostic"].experiments
('trigger-agnostic-probe',)
"""

from experiments.claims_table import CLAIMS, Claim, claims_table, judge
from figures.export import FORMATS, export, stable_svg
from figures.registry import FIGURES, Figure, chosen_result, draw, without_result
from triggerlens.plot_style import WIDTHS, finish

__all__ = [
    "CLAIMS",
    "FIGURES",
    "FORMATS",
    "WIDTHS",
    "Claim",
    "Figure",
    "chosen_result",
    "claims_table",
    "draw",
    "export",
    "finish",
    "judge",
    "stable_svg",
    "without_result",
]
