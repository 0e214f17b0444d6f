"""The program `quell`: a whole search, and the messages for wrong input."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from program import quell
from quell_tuning.evaluation import tables
from rich.console import Console

ENDED = ("complete", "pruned", "infeasible", "fail")


@pytest.fixture(scope="module")
def exported(tuned: Path) -> tuple[Path, str]:
    """A folder with the best trial in best.pt and a noisy recording, and the output of the export."""
    done = quell("export", "-o", "best.pt", "--licence", "CC0", cwd=tuned)
    assert done.returncode == 0, done.stderr
    (tuned / "noisy").mkdir()
    noisy = np.random.default_rng(0).uniform(-0.1, 0.1, (44_100, 2))
    soundfile.write(tuned / "noisy" / "a.wav", noisy, 44_100, subtype="PCM_24")
    return tuned, done.stdout


def test_a_study_runs_exactly_the_trials_asked_for_and_continues_to_more(tuned: Path, tiny_recordings: Path) -> None:
    before = json.loads(quell("status", "--json", cwd=tuned).stdout)
    assert sum(before["states"].get(state, 0) for state in ENDED) == 3
    done = quell("tune", "tiny.toml", "--corpus", tiny_recordings, "--trials", "4", "--workers", "1", cwd=tuned)
    assert done.returncode == 0, done.stderr
    after = json.loads(quell("status", "tiny", "--json", cwd=tuned).stdout)
    assert sum(after["states"].get(state, 0) for state in ENDED) == 4
    assert after["noisy"] == before["noisy"]


def test_tune_without_workers_creates_a_study_for_workers_to_run(
    tmp_path: Path, tiny_study: str, tiny_recordings: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(tiny_study)
    made = quell("tune", "tiny.toml", "--corpus", tiny_recordings, "--workers", "0", "--trials", "1", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "study tiny: 1 of 1 trials left, for `quell worker`" in made.stderr
    assert json.loads(quell("status", "--json", cwd=tmp_path).stdout)["states"] == {"waiting": 1}
    done = quell("worker", "tiny.toml", "--corpus", tiny_recordings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trial 0 ended" in done.stderr
    assert quell("worker", "tiny.toml", "--corpus", tiny_recordings, cwd=tmp_path).returncode == 0  # nothing left


def test_a_search_without_a_feasible_trial_says_what_helps_and_exits_with_1(
    tmp_path: Path, tiny_study: str, tiny_recordings: Path
) -> None:
    text = tiny_study.replace("depth = { low = 2, high = 3 }", "depth = 2").replace("0.004", "0.3")  # spoils the input
    (tmp_path / "tiny.toml").write_text(text)
    (tmp_path / "limited.toml").write_text(f"{text}[limits]\nparameters = 100\n".replace('"tiny"', '"limited"'))
    done = quell("tune", "tiny.toml", "--corpus", tiny_recordings, "--workers", "1", "--trials", "1", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("quell: study 'tiny': all trials have ended and none is complete and feasible, expected one")
    assert "(trial 0 is the least bad: " in line and line.endswith(": `quell export tiny --trial 0`")
    exported = quell("export", "tiny", "--trial", "0", "-o", "bad.pt", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    done = quell("tune", "limited.toml", "--corpus", tiny_recordings, "--workers", "1", "--trials", "1", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].endswith("; `quell status` says how they ended")


def test_the_best_trial_is_exported(exported: tuple[Path, str]) -> None:
    folder, output = exported
    status = json.loads(quell("status", "--json", cwd=folder).stdout)
    leader, noisy = status["leaderboard"][0], status["noisy"]["si_sdr"]
    card = (folder / "best.md").read_text()
    assert "Licence: CC0" in card and "quell denoise best.pt" in card and "| 20 | " in card
    # On the validation mixtures the file scores as the trial: rounding differs by less than two decimals show.
    denoised = leader["metrics"]["si_sdr"]
    assert f"{noisy:.2f} -> {denoised:.2f}, {denoised - noisy:+.2f} [" in card
    assert f"trial {leader['trial']} of tiny" in output
    (own,) = re.findall(r"^validation: .*si_sdr (\S+) \(noisy", output, re.MULTILINE)
    assert float(own) == pytest.approx(denoised, abs=0.005)
    assert f"{leader['cost']['parameters']:,} parameters" in output
    assert "real-time factor 0.0" in output


def test_an_exported_file_denoises_and_is_evaluated(exported: tuple[Path, str]) -> None:
    folder, _ = exported
    done = quell("denoise", "best.pt", "noisy", "-o", "clean", cwd=folder)
    assert done.returncode == 0, done.stderr
    info = soundfile.info(folder / "clean" / "a.wav")
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (44_100, 2, 44_100, "PCM_24")
    result = quell("evaluate", "best.pt", "--study", "tiny.toml", "--mixtures", "12", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    table = json.loads(result.stdout)
    assert [row["snr_db"] for row in table["by_snr"]] == [-5, 0, 5, 10, 15, 20]
    assert table["noisy"]["si_sdr"] == pytest.approx(7.5, abs=0.5)  # the mean of the SNRs; the noise is not orthogonal
    printed = io.StringIO()
    tables.show(table, Console(file=printed, width=200))
    assert all(f" {snr_db} │" in printed.getvalue() for snr_db in (-5, 0, 5, 10, 15, 20, "all", "made worse"))


def test_a_refit_is_trained_on_train_and_validation_and_its_card_says_so(exported: tuple[Path, str]) -> None:
    folder, _ = exported
    refitted = quell("export", "--refit", "-o", "refit.pt", cwd=folder)
    assert refitted.returncode == 0, refitted.stderr
    assert "validation, measured before refitting: " in refitted.stdout
    card = (folder / "refit.md").read_text()
    assert "trained on the recordings of train and validation" in card
    assert "it has no validation scores of its own" in card and "| 20 | " not in card
    assert not list((folder / "runs").rglob("refit-*"))
    assert (folder / "best.pt").read_bytes() != (folder / "refit.pt").read_bytes()


def test_tables_never_cut_names_when_piped(tuned: Path) -> None:
    table = quell("status", cwd=tuned).stdout
    assert "parameters" in table
    assert "…" not in table


def test_a_study_of_another_specification_is_refused_by_key(tuned: Path, tiny_recordings: Path) -> None:
    (tuned / "changed.toml").write_text(
        (tuned / "tiny.toml").read_text().replace("base_channels = 8", "base_channels = 4")
    )
    done = quell("tune", "changed.toml", "--corpus", tiny_recordings, cwd=tuned)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "quell: study 'tiny': search.base_channels is 4, expected 8 as when it began; "
        "give the study file another name, or put the value back"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("tune tiny.toml --corpus bad", 1, "bad/speech/a/x.wav: "),
        ("tune tiny.toml --corpus empty", 1, "empty/speech: no sound files, expected clean recordings"),
        ("tune tiny.toml --corpus nowhere", 1, "nowhere/speech: no such folder, expected the clean recordings"),
        ("tune rooms.toml --corpus bad", 1, "bad/none: no room responses, expected a folder of impulse responses"),
        ("tune unknown.toml --corpus bad", 1, "unknown.toml: study.trails: unknown key"),
        ("tune zero.toml --corpus bad", 1, "zero.toml: corpus.sample_rate: 0, expected"),
        ("tune tiny.toml --devices tpu", 2, "--devices: 'tpu', expected cpu, cuda or cuda:<number>"),
        ("worker tiny.toml --device tpu", 2, "--device: 'tpu', expected cpu, cuda or cuda:<number> or auto"),
        ("tune tiny.toml --devices cuda:99", 2, "--devices: 'cuda:99', expected one of this machine's"),
        ("tune tiny.toml --wrokers 2", 2, "No such option: --wrokers"),
        ("tune tiny.toml --workers -1", 2, "--workers"),
        ("frobnicate", 2, "No such command 'frobnicate'"),
        ("status --runs elsewhere", 1, "elsewhere/quell.db: no such database"),
        ("status nobody", 1, "study 'nobody': not in the storage, expected one of tiny"),
        ("status --storage mysql://me:secret@host/db", 1, "mysql://me:***@host/db, expected sqlite:///FILE"),
        ("export -o best.wav", 2, "best.wav: ends in '.wav', expected .pt or .onnx or .pt2"),
        ("export -o best.pt --format onnx", 2, "best.pt: ends in '.pt', expected .onnx"),
        ("export -o best.pt --format wav", 2, "'wav', expected one of torchscript, onnx, pt2"),
        ("export -o notes.pt", 1, "notes.md: not a model card, expected none or one of ours"),
        ("export -o best2.pt --trial 77", 1, "trial 77: not in study 'tiny', which has"),
        ("denoise nowhere.pt tiny.toml -o out", 1, "nowhere.pt: no such file, expected an exported denoiser"),
        ("denoise wrong.pt tiny.toml -o out", 1, "wrong.pt: not an exported denoiser"),
        ("denoise best.pt -o out", 2, "INPUT: nothing after best.pt, expected recordings"),
        ("denoise best.pt nowhere.wav -o out", 1, "nowhere.wav: no such file or folder"),
        ("denoise best.pt tiny.toml -o .", 1, "tiny.toml: is the input itself"),
        ("evaluate tiny.toml --study tiny.toml", 1, "tiny.toml: not a model, expected TorchScript, ONNX, or a file"),
        ("evaluate best.pt", 2, "--study, --noisy: neither given, expected one of them"),
        ("evaluate best.pt --noisy nowhere --clean noisy", 1, "nowhere: no such folder, expected recordings"),
        ("evaluate best.pt --noisy noisy --clean bad", 1, "noisy/a.wav: no clean partner"),
        ("evaluate best.pt --noisy noisy --baseline x", 2, "--baseline: 'x', expected some of noisy, spectral-gate"),
        ("evaluate best.pt --noisy noisy --csv tiny.toml", 1, "tiny.toml: exists already, expected a new file"),
    ],
)
def test_wrong_input_is_an_error_of_one_line_and_writes_no_file(
    exported: tuple[Path, str], arguments: str, code: int, message: str
) -> None:
    tuned, _ = exported
    for folder in ("bad/speech/a", "bad/noise", "empty/speech", "empty/noise"):
        (tuned / folder).mkdir(parents=True, exist_ok=True)
    (tuned / "bad/speech/a/x.wav").write_text("not a sound")
    for number in range(4):
        soundfile.write(tuned / f"bad/noise/{number}.wav", np.full(800, 0.1), 8000)
        (tuned / f"bad/speech/{number}").mkdir(exist_ok=True)
        soundfile.write(tuned / f"bad/speech/{number}/x.wav", np.full(800, 0.1), 8000)
    text = (tuned / "tiny.toml").read_text()
    (tuned / "unknown.toml").write_text(text.replace("trials", "trails"))
    (tuned / "zero.toml").write_text(text.replace("sample_rate = 8000", "sample_rate = 0"))
    (tuned / "rooms.toml").write_text(text.replace("sample_rate = 8000", 'sample_rate = 8000\nrooms = "none"'))
    (tuned / "notes.md").write_text("mine")
    (tuned / "wrong.pt").write_text("no model")
    before = {path: path.read_bytes() for path in tuned.rglob("*") if path.is_file() and "runs" not in path.parts}
    done = quell(*arguments.split(), cwd=tuned)
    assert done.returncode == code
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("quell: ")
    assert message in lines[0]
    assert "secret" not in done.stderr
    after = {path: path.read_bytes() for path in tuned.rglob("*") if path.is_file() and "runs" not in path.parts}
    assert after == before


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import sys; from quell_tuning.cli import __main__ as cli; sys.argv = ['quell', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'optuna', 'numpy', 'pydantic'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
    ids=["nothing", "a count", "a policy"],
)
def test_waiting_threads_of_torch_spin_briefly(environment: dict[str, str], count: str) -> None:
    code = (
        "import sys; from quell_tuning.cli import __main__ as cli; sys.argv = ['quell', '--help']\n"
        "try: cli.main()\nexcept SystemExit: import torch"
    )
    others = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = others | {"OMP_DISPLAY_ENV": "VERBOSE", **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    if "GOMP" not in done.stderr:
        pytest.skip("torch without GNU's OpenMP")
    assert f"GOMP_SPINCOUNT = '{count}'" in done.stderr


def test_a_study_is_read_and_a_worker_waits_without_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from quell_tuning.study import study_file, substudies\n"
        "from quell_tuning.results import status; from quell_tuning.workers import joining, worker\n"
        "study_file.load(Path('studies/demo.toml')); sys.exit('torch' if 'torch' in sys.modules else 0)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=root)
    assert done.returncode == 0, done.stderr
