"""Finetuning Lab's shared package: from rows to a fine-tuned, measured language model.

Importing it is fast and has no effects: modules load when they are first used.
"""

__version__ = "0.1.0"
