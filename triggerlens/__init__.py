"""TriggerLens: find, localise and remove hidden triggers in language models.

This room holds what every other one shares and no model is needed for.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
