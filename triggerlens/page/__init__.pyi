from .formats import (
    count_text as count_text,
    estimate_text as estimate_text,
    few_text as few_text,
    interval_text as interval_text,
    value_text as value_text,
)
from .render import coloured_tokens as coloured_tokens, render_page as render_page
