"""Notes of trials and studies: their tables are right, their commands work, and missing values are left out."""

import math
import re
import shlex
from dataclasses import asdict
from typing import Any

import optuna
import pytest
import typer
from optuna.trial import FrozenTrial, TrialState, create_trial
from quell_tuning.cli.app import app
from quell_tuning.dashboard.study_note import study_note
from quell_tuning.dashboard.trial_note import trial_note
from quell_tuning.markdown import escape
from quell_tuning.optuna_private import storage_of, study_id_of, trial_id_of
from quell_tuning.results.snapshot import StudySnapshot
from quell_tuning.study import parameters, search_space
from quell_tuning.study.presets import PRESETS
from quell_tuning.study.sections import RTF_MARGIN

from quell.config import DenoiserConfig, TrainingConfig

SNRS = ("-5", "0", "2.5", "10")
NOISY = {snr: {"si_sdr": float(snr), "stoi": 0.7 + 0.01 * float(snr)} for snr in SNRS}
LIMITS = {"parameters": 1000, "macs_per_s": 2e6, "real_time_factor": 0.05, "latency_ms": 40.0}


def means(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows.values()) / len(rows) for name in ("si_sdr", "stoi")}


def attributes(gain: float, **more: Any) -> dict[str, Any]:
    by_snr = {snr: {"si_sdr": row["si_sdr"] + gain, "stoi": row["stoi"] + gain / 100} for snr, row in NOISY.items()}
    return {
        "metrics": means(by_snr),
        "by_snr": by_snr,
        "worse": {"si_sdr": 0.25, "stoi": 0.125},
        "cost": {"parameters": 500, "macs_per_s": 1e6, "latency_ms": 20.0},
        "denoiser": asdict(DenoiserConfig()),
        "training": asdict(TrainingConfig()),
        "seconds": 90.0,
        **more,
    }


def complete(gain: float, constraints: dict[str, float] | None = None, **more: Any) -> FrozenTrial:
    stored = attributes(gain, **more)
    return create_trial(value=stored["metrics"]["si_sdr"], user_attrs=stored, constraints=constraints)


@pytest.fixture
def study(tiny_spec) -> optuna.Study:
    study = optuna.create_study(study_name="tiny", direction="maximize")
    spec = tiny_spec(limits=LIMITS)
    for key, value in {
        "spec": spec.resolved(),
        "spec_hash": spec.hash(),
        "corpus": "0123456789abcdef",
        "noisy": means(NOISY),
        "noisy_by_snr": NOISY,
        "minutes": {"train": {"clean": 93.14, "noise": 22.0}, "test": {"clean": 1.0, "noise": 2.0}},
    }.items():
        study.set_user_attr(key, value)
    return study


def note_of(study: optuna.Study, trial: FrozenTrial) -> str:
    """Adds the trial to the study and returns its note."""
    study.add_trial(trial)
    snapshot = StudySnapshot(study)
    return trial_note(snapshot, snapshot.row(snapshot.trials[-1]))


def rows(note: str) -> list[list[str]]:
    """Cells of all tables in a note."""
    lines = [line for line in note.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_snr_has_a_row_for_every_metric_and_its_gain_is_the_difference(study: optuna.Study) -> None:
    cells = rows(note_of(study, complete(3.0)))
    for name, digits in (("si_sdr", 0.01), ("stoi", 0.001)):
        for snr in SNRS:
            noisy = NOISY[snr][name]
            wanted = [row for row in cells if row[0] == f"{float(snr):g}" and float(row[1]) == pytest.approx(noisy)]
            assert len(wanted) == 1, (name, snr)
            _, before, after, gain = wanted[0]
            assert float(after) - float(before) == pytest.approx(float(gain), abs=1.5 * digits)
    assert [row[0] for row in cells if row[0] in ("-5", "0", "2.5", "10")] == [*SNRS, *SNRS]
    assert ["STOI (0 to 1)", "0.719", "0.749", "+0.030", "12%"] in cells


def test_a_trial_has_gains_over_the_best_preset_unless_it_is_that_preset(study: optuna.Study) -> None:
    for gain, name in ((1.0, "plain-cnn"), (2.0, "mask-unet")):
        study.add_trial(complete(gain, preset=name))
    study.add_trial(complete(9.0, {"stoi": 0.1}, preset="logspec-unet"))  # infeasible
    note = note_of(study, complete(3.5))
    assert "**SI-SDR (dB): 5.38**, +3.50 over the noisy input, +1.50 over the best preset, mask-unet." in note
    assert ["-5", "-5.00", "-1.50", "+3.50", "-3.00", "+1.50"] in rows(note)
    snapshot = StudySnapshot(study)
    assert "best preset" not in trial_note(snapshot, snapshot.row(study.trials[1]))
    assert "-1.00 over the best preset, mask-unet" in trial_note(snapshot, snapshot.row(study.trials[0]))


def test_costs_are_beside_their_limits(study: optuna.Study) -> None:
    rtf = {"real_time_factor": 0.03 / RTF_MARGIN / 0.05 - 1}
    cells = rows(note_of(study, complete(1.0, rtf)))
    assert ["parameters", "500", "1,000", "50%"] in cells
    assert ["multiply-accumulates (M MAC/s)", "1", "2", "50%"] in cells
    assert ["latency (ms)", "20", "40", "50%"] in cells
    assert ["real-time factor", "0.03", "0.05", "60%"] in cells
    assert "real-time factor" not in note_of(study, complete(1.0, {"real_time_factor": 0.0}))  # was not measured
    hears_all = {"parameters": 1, "macs_per_s": 1e6, "latency_ms": None}
    assert ["latency (ms)", "needs the whole recording", "40", ""] in rows(
        note_of(study, complete(1.0, cost=hears_all))
    )


@pytest.mark.parametrize(
    ("constraints", "state", "why"),
    [
        ({"macs_per_s": 0.5, "parameters": -0.5}, TrialState.PRUNED, "multiply-accumulates 1.5 times the limit"),
        ({"latency_ms": math.inf}, TrialState.PRUNED, "latency infinite"),
        ({"real_time_factor": 0.2}, TrialState.PRUNED, "real-time factor 1.8 times the limit"),
        ({"si_sdr": 0.254}, TrialState.COMPLETE, "SI-SDR 0.25 dB below the noisy input's"),
    ],
)
def test_the_note_of_an_infeasible_trial_names_the_broken_constraint(
    study: optuna.Study, constraints: dict[str, float], state: TrialState, why: str
) -> None:
    if state == TrialState.COMPLETE:
        note = note_of(study, complete(1.0, constraints))
    else:
        note = note_of(study, create_trial(state=state, user_attrs={"pruned": "so"}, constraints=constraints))
    assert f"**Infeasible**: {why}." in note
    assert "quell export" not in note


def test_the_note_of_a_failed_or_pruned_trial_has_the_reason(study: optuna.Study) -> None:
    failed = create_trial(state=TrialState.FAIL, user_attrs={"failure": "step 3: loss nan"})
    assert "**Failed**: step 3: loss nan." in note_of(study, failed)
    behind = {"pruned": "si_sdr 2.01 after 1 h of audio", "training": asdict(TrainingConfig())}
    note = note_of(study, create_trial(state=TrialState.PRUNED, user_attrs=behind, intermediate_values={3600: 2.01}))
    assert "**Pruned**: si\\_sdr 2.01 after 1 h of audio." in note
    assert ["training audio", "1 of 4 h"] in rows(note)


def test_values_that_an_older_study_lacks_are_left_out() -> None:
    study = optuna.create_study(study_name="old", direction="maximize")
    study.set_user_attr("spec", {"study": {"score": "pesq"}})
    note = note_of(study, create_trial(value=2.5))
    assert note == (
        "## Trial 0 of old\n\n**PESQ (MOS-LQO): 2.50**.\n\n### Export and reproduce\n\n"
        "```\nquell export old --trial 0 -o best.pt\nquell reproduce old 0\n```\n\n"
        "The weights of the best trials only are kept; every trial can be trained again.\n"
    )
    partial = parameters.configuration({"depth": 3, "sample_rate": 8000}, {"learning_rate": 0.01})
    assert partial == {"learning rate": "0.01"}
    assert "None" not in study_note(StudySnapshot(study))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_described_completely(name: str, tiny_spec) -> None:
    spec = tiny_spec()
    model = search_space.denoiser_config(PRESETS[name], 8000)
    training = search_space.training_config(PRESETS[name], spec.training_config(), 0, model)
    words = parameters.configuration(asdict(model), asdict(training))
    assert list(words) == list(parameters.ROWS)
    assert not re.search(r"[{}]|None", " ".join(words.values()))
    assert f"({model.win_length} samples at 8000 Hz)" in words["window"]


def test_the_commands_of_notes_are_valid(study: optuna.Study) -> None:
    notes = [note_of(study, complete(1.0)), study_note(StudySnapshot(study))]
    lines = [line for note in notes for line in note.splitlines() if line.startswith("quell ")]
    assert len(lines) == 7
    group = typer.main.get_command(app)
    for line in lines:
        _, name, *arguments = shlex.split(line.replace("TRIAL", "3"))
        command = group.commands.get(name)  # type: ignore[attr-defined]
        assert command or name == "report", line
        if command:
            params = command.make_context(name, arguments).params
            assert "tiny" in params.values() or name == "denoise"


def test_links_to_pictures_and_audio_are_those_of_the_dashboard(study: optuna.Study) -> None:
    clip = {"label": "a/b.wav + c.wav", "snr_db": 5.0, "noisy": "11-aa", "clean": "22-bb", "scores": {}}
    study.set_user_attr("showcase", [clip])
    clips = [{"denoised": "33-cc", "picture": "44-dd", "scores": {}}]
    note = note_of(study, complete(1.0, gallery=clips))
    own = f"/artifacts/{study_id_of(study)}/{trial_id_of(study.trials[0])}"
    assert f"]({own}/44-dd)" in note and f"[denoised]({own}/33-cc)" in note
    assert f"[noisy](/artifacts/{study_id_of(study)}/11-aa)" in note
    same = note_of(study, complete(1.0, same_as=0))
    assert f"]({own}/44-dd)" in same
    assert "results it has" in same


def test_special_characters_of_file_names_are_escaped(study: optuna.Study) -> None:
    hostile = "a|b_c*d&amp;<img src=x>/[x](http://y).wav\n# + `e`"
    worst = {"label": hostile, "snr_db": 5.0, "noisy": {"stoi": 0.5}, "denoised": {"stoi": 0.4}}
    note = note_of(study, complete(1.0, worst=worst, worker="a|b:1:2"))
    assert "\\[x\\](http://y).wav \\# + \\`e\\` at 5 dB SNR" in note
    assert ["worker", "a\\|b, process 1"] in rows(note)
    assert re.sub(r"\\(.)", r"\1", escape(hostile)) == hostile.replace("\n", " ")
    assert ["STOI (0 to 1)", "0.500", "0.400", "-0.100"] in rows(note)


def test_the_note_of_a_study_has_best_trial_presets_budget_corpus_and_search(study: optuna.Study) -> None:
    assert "No trial is complete and feasible yet." in study_note(StudySnapshot(study))
    beside = optuna.create_study(study_name="tiny-presets", direction="maximize", storage=storage_of(study))
    beside.set_user_attr("spec", study.user_attrs["spec"])
    beside.add_trial(complete(2.0, preset="plain-cnn"))
    study.add_trial(complete(9.0, {"stoi": 0.2}, preset="mask-unet"))
    study.add_trial(complete(3.0))
    note = study_note(StudySnapshot(study, beside))
    assert "Best so far: trial 1, **SI-SDR (dB): 4.88**, +3.00 over the noisy input, +1.00 over" in note
    cells = rows(note)
    assert ["depth", "2 to 3 levels"] in cells
    assert "win\\_ms 16" in note.partition("Fixed: ")[2]
    assert ["train", "93.1", "22.0"] in cells
    assert ["parameters", "1,000"] in cells
    assert ["a full trial", "0.08 h of audio, scored after 0.03, 0.08 h"] in cells
    (good,) = (row for row in cells if row[0] == "plain-cnn")
    assert good[1:4] == ["tiny-presets, 0", "3.88", "0.739"]
    assert "mask-unet is infeasible, STOI 0.200 below the noisy input's." in note


def test_the_note_of_a_study_with_several_scores_lists_the_front(tiny_spec) -> None:
    study = optuna.create_study(study_name="front", directions=["maximize", "minimize"])
    study.set_user_attr("spec", tiny_spec(study={"score": ["si_sdr", "macs"]}).resolved())
    for values in ((5.0, 3e6), (4.0, 1e6), (3.0, 2e6)):
        study.add_trial(create_trial(values=values, user_attrs=attributes(1.0)))
    snapshot = StudySnapshot(study)
    note = study_note(snapshot)
    assert "2 trials that none beats in every score:" in note
    assert [row for row in rows(note) if row[0] in ("0", "1", "2")] == [
        ["0", "5.00", "3,000,000"],
        ["1", "4.00", "1,000,000"],
    ]
    assert ["score", "SI-SDR (dB) and multiply-accumulates (MAC/s), mean over 6 mixtures"] in rows(note)
    assert "quell export front --trial TRIAL -o best.pt" in note
    assert "**SI-SDR (dB): 3.00**" in trial_note(snapshot, snapshot.row(study.trials[2]))


@pytest.mark.parametrize(("count", "names"), [(0, None), (2, "a0.wav, a1.wav"), (7, "a4.wav and 2 more")])
def test_the_note_of_a_study_names_the_excluded_recordings(study: optuna.Study, count: int, names: str | None) -> None:
    study.set_user_attr("skipped", [f"clean/a{number}.wav" for number in range(count)])
    note = study_note(StudySnapshot(study))
    assert ("left out for errors" in note) == (names is not None)
    assert names is None or names.replace("a0.wav, a1", "a0.wav, clean/a1") in note.replace("\\", "")
