"""The specifications of the search, its presets and its confirmation."""

import optuna
import pytest
from quell_tuning.study import search_space, study_file, substudies
from quell_tuning.study.presets import PRESETS

# A search that two presets lie in.
INSIDE = {
    "win_ms": 32,
    "overlap": 4,
    "depth": {"low": 3, "high": 5},
    "base_channels": {"choices": [12, 16]},
    "time_stride": {"choices": [1, 2]},
    "bottleneck": {"choices": ["none", "both"]},
}


@pytest.mark.parametrize("name", substudies.PARTS)
def test_presets_and_confirmation_are_unpruned_and_without_limits(tiny_spec, name: str) -> None:
    spec = tiny_spec(study={"confirm": 2, "pruner": "asha"}, limits={"parameters": 1000, "latency_ms": 20.0})
    part = substudies.part(spec, name)
    if name == "search":
        assert part == spec
        return
    assert part.study.name == f"tiny-{name}"
    assert part.study.pruner == "none"
    assert part.limits.model_dump(exclude_none=True) == {}
    assert part.study.confirm == 0 or name == "confirm"
    assert (part.corpus, part.training) == (spec.corpus, spec.training)


@pytest.mark.parametrize("name", substudies.PARTS)
def test_every_part_can_be_restored_from_its_resolved_json(tiny_spec, name: str) -> None:
    part = substudies.part(tiny_spec(study={"confirm": 2}), name)
    restored = study_file.restore(part.resolved(), part.study.name)
    assert restored.hash() == part.hash()


def test_the_presets_part_trains_each_preset_outside_the_search_once(tiny_spec) -> None:
    spec = tiny_spec(search=INSIDE)
    assert set(substudies.outside(spec)) == set(PRESETS) - {"compressed-unet", "recurrent-unet"}
    assert substudies.part(spec, "presets").study.trials == len(PRESETS) - 2
    started = [start["attributes"]["preset"] for start in substudies.starts(spec, "presets")]
    assert sorted(started) == sorted(substudies.outside(spec))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_searched_parameters_of_a_preset_give_the_whole_preset(preset: str) -> None:
    point = search_space.inside(PRESETS[preset], substudies.preset_space())
    assert point is not None
    suggested = search_space.suggest(optuna.trial.FixedTrial(point), substudies.preset_space())
    assert suggested == PRESETS[preset]
    assert {name: type(value) for name, value in suggested.items()} == {
        name: type(value) for name, value in PRESETS[preset].items()
    }


def test_a_search_without_presets_inside_has_no_starting_points(tiny_spec) -> None:
    assert substudies.starts(tiny_spec(), "search") == []
    assert substudies.part(tiny_spec(), "presets").study.trials == len(PRESETS)
