"""What experiments share. Claims take from this face what needs torch or scikit-learn: it is loaded when it is first used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
