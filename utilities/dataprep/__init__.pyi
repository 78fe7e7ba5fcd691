from .preparation import prepare as prepare
from .prepared import Prepared as Prepared, summary as summary
from .settings import DataprepConfig as DataprepConfig, Split as Split, Writer as Writer
