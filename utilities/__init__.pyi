from . import inference as inference, models as models, plots as plots
from .audit.audit import audit_rows as audit_rows
from .audit.leaks import leakage as leakage
from .benchmark.harness import run_benchmark as run_benchmark
from .config import bundled as bundled, course_profile as course_profile, load_config as load_config
from .dataprep.preparation import prepare as prepare
from .evaluation.run import run_evaluation as run_evaluation
from .features.mask_views import mask_view as mask_view
from .features.tokenization import tokenize_rows as tokenize_rows
from .inference.local_model import generate as generate
from .models.adapters import Lora as Lora
from .models.freezing import Freeze as Freeze
from .planning.planner import plan as plan
from .prompts.base import PromptFormat as PromptFormat
from .prompts.built_in import (
    ALPACA as ALPACA,
    CHAT as CHAT,
    PLAIN as PLAIN,
    QUESTION_ANSWER as QUESTION_ANSWER,
    TEXT as TEXT,
    USER_ASSISTANT as USER_ASSISTANT,
)
from .rows.sources import read_rows as read_rows
from .rows.splitting import split_rows as split_rows
from .runner.lab_functions import (
    Trainer as Trainer,
    tokenize_and_split_data as tokenize_and_split_data,
)
from .runner.runner import BasicModelRunner as BasicModelRunner
from .scores.metrics import is_exact_match as is_exact_match
from .scores.prediction_tables import (
    compare as compare,
    prediction_table as prediction_table,
    score as score,
)
from .training.run import run_training as run_training, train as train
from .training.settings import Settings as Settings

__version__: str
