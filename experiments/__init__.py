"""Claims of the literature, each measured by one class in one file: a frozen config in, a saved and hashed result out.

>>> from experiments import EXPERIMENTS
>>> EXPERIMENTS["trigger-agnostic-probe"].claims
(1,)

To add one: a file in `experiments/claims/` with a class as `experiments.experiment` shows it, and its name in
`experiments.registry.MODULES`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
