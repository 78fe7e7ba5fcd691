from .answer_file import collect as collect
from .answers import Answer as Answer, Answerer as Answerer
from .endpoint import Endpoint as Endpoint
from .generation import Generation as Generation
from .likelihood import (
    choice_log_probabilities as choice_log_probabilities,
    log_probabilities as log_probabilities,
    mean_states as mean_states,
)
from .local_model import LocalModel as LocalModel, generate as generate, inference as inference
