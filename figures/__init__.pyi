from .export import FORMATS as FORMATS, export_figures as export_figures, stable_svg as stable_svg
from .registry import (
    FIGURES as FIGURES,
    Figure as Figure,
    chosen_result as chosen_result,
    draw as draw,
    figure_named as figure_named,
    without_result as without_result,
)
from .select import models as models
