from .export import (
    FORMATS as FORMATS,
    check_formats as check_formats,
    export_figures as export_figures,
    stable_svg as stable_svg,
)
from .registry import (
    FIGURES as FIGURES,
    Figure as Figure,
    draw as draw,
    figure_named as figure_named,
    without_result as without_result,
)
