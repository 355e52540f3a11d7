"""One module for each claim of the literature: a frozen config in, a saved and hashed result out.

>>> from experiments import EXPERIMENTS
>>> EXPERIMENTS["trigger-agnostic-probe"].claims
(1,)

To add one: a module with `VERSION`, `Config`, `QUICK` and `run(config, keep)` (see `experiments.runner`), and its line below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
