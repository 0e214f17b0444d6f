"""`python -m quell`: the program `quell`.

The command line belongs to the search, which this package never imports: the program is looked up by the name that the
script `quell` is installed under.
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution


def main() -> None:
    """Runs the installed program."""
    try:
        programs = distribution("quell-denoiser").entry_points.select(group="console_scripts", name="quell")
    except PackageNotFoundError:
        sys.exit(
            "quell: quell-denoiser is not installed, expected it for its program; run `pip install .` in its folder"
        )
    (program,) = programs
    sys.argv[0] = f"{sys.executable} -m quell"  # as messages show the program
    program.load()()


if __name__ == "__main__":
    main()
