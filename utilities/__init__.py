"""Finetuning Lab's shared package: from rows to a fine-tuned, measured language model.

Importing it is fast and has no effects: the names in `__init__.pyi` load when they are first used.
`from utilities import *` gives the names that the cells of the original labs use.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)

__all__ = [
    "BasicModelRunner",
    "Trainer",
    "inference",
    "is_exact_match",
    "tokenize_and_split_data",
]
