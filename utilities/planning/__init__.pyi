from .machines import HARDWARE as HARDWARE, Machine as Machine, measured_rate as measured_rate
from .model_sizes import (
    SHAPES as SHAPES,
    ModelShape as ModelShape,
    memory_footprint as memory_footprint,
    step_flops as step_flops,
)
from .planner import Memory as Memory, memory as memory, plan as plan
