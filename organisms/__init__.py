"""Model organisms with a known trigger: tasks, training, grading, and the embedded zoo.

>>> from organisms import organism_folder, clean_twin_of
>>> clean_twin_of("year-code")
'year-code-clean'
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
