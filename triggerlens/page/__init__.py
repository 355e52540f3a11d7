"""The look that every report shares: one self-contained page that opens offline.

A room keeps its templates (Jinja) beside its `report.py`, extends `page.html.jinja` and calls the macros of `macros.html.jinja`. Prompts
are untrusted text, so everything is escaped; only what a macro returns is taken as it is. The same input gives the same bytes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
