"""The table of machines, and this machine, measured."""

import pytest

from utilities.errors import PlanningError
from utilities.planning import machines
from utilities.planning.machines import HARDWARE, Machine, measured_rate


def test_the_table_of_hardware_is_sane():
    for name, machine in HARDWARE.items():
        assert machine.half >= machine.fp32 > 0 < machine.bandwidth, name
        assert machine.is_gpu == (machine.price_per_hour > 0) == (name != "laptop")
        assert 0 < machine.share < 1
        if name.endswith("GB"):
            assert name.split()[-2] == str(machine.memory_gb)


def test_a_t4_takes_bfloat16_at_the_rate_of_float32():
    old, new = Machine.of("T4"), Machine.of("L4")
    assert old.rate("bf16") == old.rate("fp32") < old.rate("fp16") / 3
    assert new.rate("bf16") == new.rate("fp16") > 3 * new.rate("fp32")
    assert old.usable == 0.9 * 16e9


def test_a_rate_is_measured():
    assert 1e8 < measured_rate() < 1e16
    with pytest.raises(PlanningError, match="no precision 'fp64'"):
        measured_rate("fp64")


def test_this_machine_is_measured(monkeypatch):
    monkeypatch.setattr(machines, "measured_rate", lambda precision="fp32": 2e11)
    monkeypatch.setattr(machines, "_best_seconds", lambda work, limit: 0.01)
    machine = Machine.of("this machine")
    assert machine.rate("fp32") == pytest.approx(2e11 * machine.share)
    assert machine.bandwidth == pytest.approx(2 * 4 * 2**24 / 0.01 / 1e9)
    assert machine.memory_gb > 0.5


def test_an_unknown_machine_is_refused():
    with pytest.raises(PlanningError, match="did you mean 'laptop'"):
        Machine.of("laptp")
