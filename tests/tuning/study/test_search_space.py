"""The search space: corners of every bundled study build and run; conflicts, seeds and presets in a search."""

import itertools
from pathlib import Path

import optuna
import pytest
import torch
from quell_tuning.study import search_space, study_file
from quell_tuning.study.parameters import PARAMETERS, Parameter
from quell_tuning.study.presets import PRESETS

from quell.config import NetworkConfig, TrainingConfig, check
from quell.network.denoiser import Denoiser

STUDIES = sorted((Path(__file__).parents[3] / "studies").glob("*.toml"))


def corners(spec: study_file.StudySpec) -> list[search_space.Point]:
    """Smallest and largest value of every number together, with every choice of window, overlap and loss."""
    ends = []
    for pick in (min, max):
        point: search_space.Point = dict(PRESETS["compressed-unet"])
        for name, domain in spec.search.items():
            values = search_space.values(domain)
            point[name] = values[0] if isinstance(values[0], str | bool) else pick(values)
        ends.append(point)
    return ends


@pytest.mark.parametrize(("path", "end"), list(itertools.product(STUDIES, (0, 1))))
def test_smallest_and_largest_point_of_every_study_run_from_one_sample_up(path: Path, end: int) -> None:
    spec = study_file.load(path)
    denoiser = Denoiser(search_space.denoiser_config(corners(spec)[end], spec.corpus.sample_rate)).eval()
    with torch.inference_mode():
        for length in (1, 1601):
            noisy = torch.randn(2, length)
            estimate = denoiser(noisy)
            assert estimate.shape == noisy.shape
            assert estimate.isfinite().all()


NETWORK_NUMBERS = [
    parameter
    for parameter in PARAMETERS.values()
    if parameter.kind in (int, float) and hasattr(NetworkConfig, parameter.name)
]


@pytest.mark.parametrize("parameter", NETWORK_NUMBERS, ids=lambda parameter: parameter.name)
def test_a_network_may_have_both_ends_of_every_range(parameter: Parameter) -> None:
    for value in (parameter.low, parameter.high):
        check(NetworkConfig(**{parameter.name: parameter.kind(value)}))


EVERYTHING: dict[str, search_space.Domain] = {
    "win_ms": search_space.Choices(choices=[8, 16, 31.875]),
    "overlap": search_space.Range(low=2, high=5),
    "base_channels": 4,
    "growth": search_space.Range(low=1.0, high=2.0),
    "bottleneck_units": search_space.Range(low=4, high=16),
    **{
        name: search_space.Choices(choices=list(parameter.names))
        for name, parameter in PARAMETERS.items()
        if parameter.names
    },
    "power": search_space.Range(low=0.1, high=1.0),
    "depth": search_space.Range(low=2, high=7),
    "kernel_bins": search_space.Choices(choices=[1, 3, 5]),
    "kernel_frames": search_space.Choices(choices=[1, 3, 5]),
    "convolutions_per_level": search_space.Range(low=1, high=3),
    "time_stride": search_space.Choices(choices=[1, 2]),
    "skips": search_space.Choices(choices=[True, False]),
    "dropout": search_space.Range(low=0.0, high=0.9),
}


def test_every_point_of_the_whole_space_builds_and_runs_from_one_sample_up() -> None:
    search = EVERYTHING | {"causal": search_space.Choices(choices=[True, False])}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(60):
        point = search_space.suggest(study.ask(), search)
        if point["causal"] and point["bottleneck"] == "both":  # a study may not hold both
            continue
        denoiser = Denoiser(search_space.denoiser_config(point, 8_000)).eval()
        with torch.inference_mode():
            for length in (1, 801):
                assert denoiser(0.1 * torch.randn(1, length)).isfinite().all(), point


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"causal": True, "bottleneck": "forward"}, None),
        ({"causal": True, "bottleneck": "both"}, "bottleneck: 'both' and causal = true, expected none"),
        (
            {
                "causal": search_space.Choices(choices=[False, True]),
                "bottleneck": search_space.Choices(choices=["none", "both"]),
            },
            "bottleneck: 'both' and causal = true, expected none",
        ),
        ({"loss": "bce"}, None),
        ({"loss": "bce+si_sdr", "target": "direct", "representation": "log"}, None),
        ({"loss": "bce", "output": "tanh"}, "loss: 'bce' with output 'tanh', expected output sigmoid"),
        (
            {
                "loss": search_space.Choices(choices=["l1", "bce+l1"]),
                "target": search_space.Choices(choices=["mask", "noise"]),
            },
            "loss: 'bce+l1' with target 'noise', expected target mask or direct",
        ),
    ],
)
def test_a_search_with_values_that_cannot_be_combined_is_refused(
    search: dict[str, search_space.Domain], message: str | None
) -> None:
    problem = search_space.conflict(search)
    assert problem is None if message is None else str(problem).startswith(message)


def test_a_parameter_without_effect_changes_neither_denoiser_nor_training() -> None:
    point = dict(PRESETS["logspec-unet"])
    unused = {"power": 0.7, "bottleneck_units": 8, "si_sdr_weight": 5.0, "l1_weight": 3.0}
    for name, value in unused.items():
        model = search_space.denoiser_config(point | {name: value}, 8_000)
        assert model == search_space.denoiser_config(point, 8_000)
        assert search_space.training_config(
            point | {name: value}, TrainingConfig(), 0, model
        ) == search_space.training_config(point, TrainingConfig(), 0, model)


def test_every_searched_parameter_is_always_suggested() -> None:
    spec = study_file.load(STUDIES[-1])
    searched = {
        name for name, domain in spec.search.items() if isinstance(domain, search_space.Choices | search_space.Range)
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        trial = study.ask()
        search_space.suggest(trial, spec.search)
        assert set(trial.params) == searched


def test_hop_is_the_window_over_the_overlap_rounded_down() -> None:
    point = dict(PRESETS["compressed-unet"]) | {"win_ms": 20, "overlap": 3}
    config = search_space.denoiser_config(point, 16_000)
    assert (config.win_length, config.hop_length) == (320, 106)


def test_equal_points_have_equal_seeds_and_other_points_other_seeds() -> None:
    def seed(point: search_space.Point, study_seed: int = 0) -> int:
        model = search_space.denoiser_config(point, 16_000)
        return search_space.training_config(point, TrainingConfig(segment_s=1.0), study_seed, model).seed

    point = dict(PRESETS["compressed-unet"])
    assert seed(point) == seed(dict(point))
    assert seed(point) != seed(point | {"depth": 4})
    assert seed(point) != seed(point | {"si_sdr_weight": 0.02})
    assert seed(point) != seed(point, study_seed=1)


@pytest.mark.parametrize(
    ("search", "inside"),
    [
        ({"depth": search_space.Range(low=3, high=6)}, {"depth": 5}),
        ({"depth": search_space.Range(low=3, high=4)}, None),
        ({"depth": search_space.Range(low=3, high=7, step=2)}, {"depth": 5}),
        ({"depth": search_space.Range(low=2, high=6, step=2)}, None),
        ({"win_ms": search_space.Choices(choices=[16, 32])}, {"win_ms": 32}),
        ({"win_ms": search_space.Choices(choices=[16])}, None),
        ({"overlap": 4}, {}),
        ({"overlap": 2}, None),
        ({"skips": search_space.Choices(choices=[True, False])}, {"skips": True}),
        ({"causal": True}, None),
        ({"output": "sigmoid"}, {}),
    ],
)
def test_a_preset_starts_a_search_only_when_it_lies_in_it(
    search: dict[str, search_space.Domain], inside: search_space.Point | None
) -> None:
    assert search_space.inside(PRESETS["compressed-unet"], search) == inside


def test_a_preset_that_differs_in_a_parameter_not_searched_lies_outside() -> None:
    search: dict[str, search_space.Domain] = {"loss": search_space.Choices(choices=["l1", "compressed+si_sdr"])}
    assert search_space.inside(PRESETS["mask-unet"], search) is None  # its representation is linear
    search |= {"representation": search_space.Choices(choices=["power", "linear"]), "activation": "leaky_relu"}
    assert search_space.inside(PRESETS["mask-unet"], search) == {"loss": "l1", "representation": "linear"}
