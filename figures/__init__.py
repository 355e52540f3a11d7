"""One module for each figure: a pure function from result files to a Plotly figure. No model is ever loaded here.

>>> from figures import FIGURES
>>> FIGURES["trigger-agnostic"].experiments
('trigger-agnostic-probe',)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
