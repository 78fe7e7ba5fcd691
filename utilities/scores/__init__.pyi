from .baselines import (
    most_frequent_answer as most_frequent_answer,
    nearest_question_answers as nearest_question_answers,
)
from .error_analysis import (
    calibration as calibration,
    classify as classify,
    clusters as clusters,
    error_counts as error_counts,
    flips as flips,
    refusals as refusals,
    slices as slices,
)
from .error_classes import ADVICE as ADVICE, error_class as error_class, turns_down as turns_down
from .metrics import (
    RANGES as RANGES,
    SHARES as SHARES,
    contains as contains,
    is_exact_match as is_exact_match,
    normalize as normalize,
    repetition as repetition,
    score_rows as score_rows,
    summarize as summarize,
    token_f1 as token_f1,
    words as words,
)
from .prediction_tables import (
    compare as compare,
    prediction_table as prediction_table,
    score as score,
)
from .statistics import (
    Estimate as Estimate,
    bootstrap as bootstrap,
    clopper_pearson_interval as clopper_pearson_interval,
    mcnemar as mcnemar,
    paired_bootstrap as paired_bootstrap,
    share_of as share_of,
    smallest_difference as smallest_difference,
    wilson_interval as wilson_interval,
)
