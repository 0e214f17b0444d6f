"""The program itself: versions, help, usage errors, completion, study files by name."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import optuna
import program
import pytest
from quell_tuning.study.bundled_studies import bundled

import quell
from quell import __main__ as module


def complete(*words: str, cwd: Path) -> list[str]:
    """The completions of the last word in bash."""
    variables = {"COMP_WORDS": " ".join(("quell", *words)), "COMP_CWORD": str(len(words))}
    done = program.quell(cwd=cwd, _QUELL_COMPLETE="complete_bash", **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


def test_version_names_quell_python_torch_optuna_and_devices(tmp_path: Path) -> None:
    done = program.quell("--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, python, torch, optuna_line, *devices = done.stdout.splitlines()
    assert (first, optuna_line) == (f"quell {quell.__version__}", f"optuna {version('optuna')}")
    assert python.startswith(f"Python {sys.version_info.major}.{sys.version_info.minor}.")
    assert torch == f"torch {version('torch')}"
    assert all(re.fullmatch(r"device (cpu, \d+ cores?|cuda:\d+, .+)", device) for device in devices) and devices


@pytest.mark.parametrize("command", [[], ["denoise"], ["corpus"], ["corpus", "check"]], ids=" ".join)
def test_h_is_help(command: list[str], tmp_path: Path) -> None:
    short, long = (program.quell(*command, option, cwd=tmp_path) for option in ("-h", "--help"))
    assert (short.returncode, short.stdout) == (0, long.stdout)
    assert short.stdout.startswith(" ".join(("Usage: quell", *command)))


@pytest.mark.parametrize("group", ["corpus", "storage"])
def test_a_group_of_commands_alone_prints_its_help_on_lines(group: str, tmp_path: Path) -> None:
    alone, asked = program.quell(group, cwd=tmp_path), program.quell(group, "--help", cwd=tmp_path)
    assert (alone.returncode, alone.stdout, alone.stderr) == (2, "", asked.stdout)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("frobnicate", "quell"),
        ("--frobnicate", "quell"),
        ("denoise --frobnicate", "quell denoise"),
        ("denoise best.pt -o out", "quell denoise"),
        ("corpus frobnicate", "quell corpus"),
        ("corpus check demo --plot", "quell corpus check"),
        ("export -o best.wav", "quell export"),
    ],
)
def test_a_usage_error_names_the_help_of_its_command(arguments: str, command: str, tmp_path: Path) -> None:
    done = program.quell(*arguments.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("quell: ") and done.stderr.endswith(f"; see `{command} --help`\n")
    assert len(done.stderr.splitlines()) == 1


def test_python_m_quell_is_the_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quell", "studies"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, program.quell("studies", cwd=tmp_path).stdout)


def test_python_m_quell_without_the_installed_program_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", absent)
    with pytest.raises(SystemExit, match="quell-denoiser is not installed, expected it for its program"):
        module.main()


def test_commands_studies_and_trials_are_completed(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    study = optuna.create_study(study_name="mine", storage=f"sqlite:///{tmp_path}/runs/quell.db")
    for value in range(12):
        study.add_trial(optuna.trial.create_trial(value=float(value)))
    assert complete("st", cwd=tmp_path) == ["studies", "status", "storage"]
    assert complete("tune", "esc", cwd=tmp_path) == ["esc10-16k", "esc10-8k", "esc50-8k"]
    assert complete("corpus", "check", "demo", cwd=tmp_path) == ["demo"]
    assert complete("status", "", cwd=tmp_path) == ["mine"]
    assert complete("status", "--runs", "elsewhere", "", cwd=tmp_path) == []
    assert complete("status", "--storage", "sqlite:///other.db", "", cwd=tmp_path) == []
    assert complete("export", "mine", "--trial", "1", cwd=tmp_path) == ["1", "10", "11"]
    assert complete("reproduce", "mine", "2", cwd=tmp_path) == ["2"]


def test_studies_lists_all_and_copies_one(tmp_path: Path) -> None:
    listed = program.quell("studies", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(bundled())
    assert "  Search, export and denoise in minutes" in listed[0]
    assert program.quell("studies", "demo", cwd=tmp_path).stdout == bundled()["demo"].read_text()
    done = program.quell("studies", "demo", "-o", "mine.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "mine.toml\n")
    assert (tmp_path / "mine.toml").read_bytes() == bundled()["demo"].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("studies demos", "'demos', expected one of demo, esc10-16k, "),
        ("studies -o new.toml", "new.toml, expected a name before it; see `quell studies --help`"),
        ("studies demo -o mine.toml", "mine.toml: exists already, expected a new file; name another"),
        ("studies demo -o nowhere/new.toml", "nowhere/new.toml: No such file or directory, expected a file that can"),
    ],
)
def test_a_study_file_is_never_copied_over_a_file_or_into_an_absent_folder(
    arguments: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    done = program.quell(*arguments.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mine.toml": "mine"}


@pytest.mark.parametrize("command", ["tune", "worker", "corpus check"])
def test_a_study_file_of_the_package_is_found_by_name_and_printed(command: str, tmp_path: Path) -> None:
    done = program.quell(*command.split(), "esc10-16k", "--corpus", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    first, last = done.stderr.splitlines()
    assert first == f"study esc10-16k: {bundled()['esc10-16k']}"
    assert "nowhere" in last or "runs/quell.db: no such database" in last


def test_an_unknown_study_points_to_those_of_the_package(tmp_path: Path) -> None:
    done = program.quell("tune", "nobodys", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "quell: nobodys: no such file, expected a study file (TOML); check the path, or see `quell studies`\n",
    )
