"""Generation, and log-probabilities of texts.

The names are those of `__init__.pyi`; each loads its module when it is first used.
"""

import sys
from types import ModuleType
from typing import Any

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _CallableModule(ModuleType):
    """This package, made callable.

    The labs' cells begin with `from utilities import *` and then call `inference(text, model,
    tokenizer)`. The package has the same name as that function, so calling it calls the function.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        """Answer a prompt greedily; see `local_model.inference`."""
        from utilities.inference.local_model import inference

        return inference(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
