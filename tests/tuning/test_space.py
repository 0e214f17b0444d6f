"""The search space: every corner of every shipped study builds, runs and trains one step of its loss."""

import itertools
from pathlib import Path

import optuna
import pytest
import torch

from quell.denoiser import Denoiser
from quell.losses import Loss
from tuning import space, study_file
from tuning.presets import PRESETS

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


def corners(spec: study_file.StudySpec) -> list[space.Point]:
    """Smallest and largest value of every number together, with every choice of window, overlap and loss."""
    ends = []
    for pick in (min, max):
        point: space.Point = dict(PRESETS["compressed-unet"])
        for name, domain in spec.search.items():
            values = domain.values() if isinstance(domain, space.Choices | space.Range) else [domain]
            point[name] = values[0] if isinstance(values[0], str) else pick(values)
        ends.append(point)
    return ends


@pytest.mark.parametrize(("path", "end"), list(itertools.product(STUDIES, (0, 1))))
def test_both_ends_of_every_study_run_from_one_sample_up(path: Path, end: int) -> None:
    spec = study_file.load(path)
    denoiser = Denoiser(space.denoiser_config(corners(spec)[end], spec.corpus.sample_rate)).eval()
    with torch.inference_mode():
        for length in (1, 1601):
            noisy = torch.randn(2, length)
            estimate = denoiser(noisy)
            assert estimate.shape == noisy.shape
            assert estimate.isfinite().all()


def test_every_preset_is_legal_and_complete() -> None:
    for point in PRESETS.values():
        assert set(point) == set(space.PARAMETERS)
        assert {space.objection(name, value) for name, value in point.items()} == {None}
        Loss(str(point["loss"]), 0.3, 0.01)


def test_every_searched_parameter_is_suggested_whatever_the_others_are() -> None:
    spec = study_file.load(STUDIES[-1])
    searched = {name for name, domain in spec.search.items() if isinstance(domain, space.Choices | space.Range)}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        trial = study.ask()
        space.suggest(trial, spec.search)
        assert set(trial.params) == searched


def test_hop_is_the_window_over_the_overlap_rounded_down() -> None:
    point = dict(PRESETS["compressed-unet"]) | {"win_ms": 20, "overlap": 3}
    config = space.denoiser_config(point, 16_000)
    assert (config.win_length, config.hop_length) == (320, 106)


def test_the_same_point_has_the_same_seed_and_another_point_another() -> None:
    def seed(point: space.Point, study_seed: int = 0) -> int:
        return space.training_config(
            point,
            segment_s=1.0,
            rungs_audio_hours=(1.0,),
            snr_db=(0.0, 10.0),
            study_seed=study_seed,
            model=space.denoiser_config(point, 16_000),
        ).seed

    point = dict(PRESETS["compressed-unet"])
    assert seed(point) == seed(dict(point))
    assert seed(point) != seed(point | {"depth": 4})
    assert seed(point) != seed(point, study_seed=1)


@pytest.mark.parametrize(
    ("search", "inside"),
    [
        ({"depth": space.Range(low=3, high=6)}, {"depth": 5}),
        ({"depth": space.Range(low=3, high=4)}, None),
        ({"depth": space.Range(low=3, high=7, step=2)}, {"depth": 5}),
        ({"depth": space.Range(low=2, high=6, step=2)}, None),
        ({"win_ms": space.Choices(choices=[16, 32])}, {"win_ms": 32}),
        ({"win_ms": space.Choices(choices=[16])}, None),
        ({"overlap": 4}, {}),
        ({"overlap": 2}, None),
    ],
)
def test_a_preset_is_a_first_trial_only_when_it_lies_in_the_search(
    search: dict[str, space.Domain], inside: space.Point | None
) -> None:
    assert space.inside(PRESETS["compressed-unet"], search) == inside
