"""Cut a trigger out: methods of removal on one scoreboard, beside placebos and an oracle."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
