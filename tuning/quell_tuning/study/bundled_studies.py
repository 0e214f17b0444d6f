"""Study files that come with the package, by name."""

from importlib.resources import files
from pathlib import Path

HERE = Path("studies")  # a clone has them there, and may have changed them


def bundled() -> dict[str, Path]:
    """The study files of the package by name."""
    return {path.stem: path for path in sorted(Path(str(files("quell_tuning.studies"))).glob("*.toml"))}


def find(study: Path) -> Path:
    """The study file that a path or a name stands for: the file itself, else studies/NAME.toml in the current folder,
    else the package's. What is none of them comes back as it is.
    """
    if study.is_file() or study.suffix == ".toml" or len(study.parts) != 1:
        return study
    local = HERE / f"{study}.toml"
    return local if local.is_file() else bundled().get(str(study), study)


def purpose(file: Path) -> str:
    """The first line of a study file's head comment."""
    return file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
