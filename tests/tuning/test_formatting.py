from dataclasses import fields

import pytest
from quell_tuning.formatting import COSTS, cost_number, number, round_numbers
from quell_tuning.study.sections import LimitsSection

from quell.export.cost import Cost


def test_every_cost_and_every_limit_is_in_the_table_of_costs() -> None:
    assert set(LimitsSection.model_fields) == set(COSTS)
    assert {field.name for field in fields(Cost)} == set(COSTS) - {"real_time_factor"}


def test_numbers_have_the_digits_that_mean_something() -> None:
    assert number("pesq", 2.345) == "2.35"
    assert number("stoi", -0.0123, "+") == "-0.012"
    assert number("macs", 1_234_567.8) == "1,234,568"
    assert number("pesq", None) == ""
    assert [cost_number("macs_per_s", value) for value in (2.5e6, 123.4e6)] == ["2.5", "123"]
    assert cost_number("latency_ms", None) == "needs the whole recording"


@pytest.mark.parametrize("low", [0.03, 1.0, 7.3, 66.0, 98.0, 141.0, 999.0])
@pytest.mark.parametrize("ratio", [1.25, 1.5, 2.3, 9.0, 150.0, 2e4])
def test_an_axis_of_any_length_has_a_few_labels_inside_it(low: float, ratio: float) -> None:
    numbers = round_numbers(low, low * ratio)
    assert all(low <= number <= low * ratio for number in numbers)
    assert numbers == sorted(set(numbers))
    assert (2 if ratio < 1.5 else 3) <= len(numbers) <= 9


def test_labels_are_as_round_as_possible() -> None:
    assert round_numbers(0.5, 2000) == [1, 10, 100, 1000]
    assert round_numbers(40, 300) == [50, 100, 200]
    assert round_numbers(60, 150) == [70, 100, 150]
