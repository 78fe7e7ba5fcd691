from .arc_files import read_arc as read_arc
from .choices import score_choices as score_choices
from .compare import compare_items as compare_items, published as published
from .harness import run_benchmark as run_benchmark
from .result import Benchmark as Benchmark
from .run import run_config as run_config
from .settings import BenchmarkConfig as BenchmarkConfig
