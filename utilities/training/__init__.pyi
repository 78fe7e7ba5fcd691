from .loss import supervised_loss as supervised_loss
from .run import read_features as read_features, run_training as run_training, train as train
from .run_folder import Run as Run, compare_runs as compare_runs
from .run_page import write_dashboard as write_dashboard
from .settings import (
    EarlyStopping as EarlyStopping,
    Settings as Settings,
    TrainingConfig as TrainingConfig,
    make_training_arguments as make_training_arguments,
)
from .trainer import SupervisedTrainer as SupervisedTrainer
