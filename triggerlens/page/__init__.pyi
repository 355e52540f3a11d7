from .formats import (
    count_text as count_text,
    estimate_text as estimate_text,
    interval_text as interval_text,
    value_text as value_text,
)
from .parts import (
    card as card,
    coloured_tokens as coloured_tokens,
    html_table as html_table,
    plot as plot,
    report_page as report_page,
    section as section,
)
from .render import render_page as render_page
