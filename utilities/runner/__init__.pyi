from .conversation import Conversation as Conversation
from .lab_functions import Trainer as Trainer, tokenize_and_split_data as tokenize_and_split_data
from .loaded_model import LoadedModel as LoadedModel
from .runner import BasicModelRunner as BasicModelRunner, chat as chat
