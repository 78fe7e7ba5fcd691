from .adapters import Lora as Lora, attach as attach
from .choice import (
    DEFAULT_MODEL as DEFAULT_MODEL,
    ModelChoice as ModelChoice,
    choose as choose,
    local_models as local_models,
)
from .freezing import (
    GROUPS as GROUPS,
    Freeze as Freeze,
    freeze as freeze,
    trained_weights as trained_weights,
    weight_groups as weight_groups,
)
from .loading import (
    download as download,
    export as export,
    load as load,
    load_tokenizer as load_tokenizer,
)
