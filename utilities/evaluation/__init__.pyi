from .forgetting_ratio import forgetting as forgetting
from .judging import (
    PairRubric as PairRubric,
    Rubric as Rubric,
    agreement as agreement,
    judge as judge,
    judge_pairs as judge_pairs,
    position_bias as position_bias,
)
from .ratings import (
    rating_sheet as rating_sheet,
    rating_widget as rating_widget,
    read_ratings as read_ratings,
)
from .result import Evaluation as Evaluation
from .run import run_evaluation as run_evaluation
from .settings import EvaluationConfig as EvaluationConfig
