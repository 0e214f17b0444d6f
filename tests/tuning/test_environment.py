"""One table of environment variables, which the documentation repeats."""

import ast
import re
from pathlib import Path

import pytest
from quell_tuning import environment
from quell_tuning.errors import UsageError

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "environment.md").read_text().partition("## Quell\n")[2].partition("\n## ")[0]


def test_the_documentation_lists_each_variable_with_its_default_and_its_meaning() -> None:
    rows = [line.strip("| ").split("|") for line in TABLE.replace("`", "").splitlines() if line.startswith("| Q")]
    documented = {row[0].strip(): (row[1].strip(), row[3].strip()) for row in rows}
    assert list(documented) == [variable.name for variable in environment.VARIABLES]
    for variable in environment.VARIABLES:
        default, meaning = documented[variable.name]
        assert default == variable.default
        assert meaning.startswith(variable.meaning)


def test_no_other_module_names_a_variable_to_read_it() -> None:
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "tuning").rglob("*.py")]:
        if path != Path(environment.__file__):
            for node in ast.walk(ast.parse(path.read_text())):
                named = isinstance(node, ast.Constant) and re.fullmatch(r"QUELL_[A-Z_]+", str(node.value))
                assert not named, f"{path}:{node.lineno}: expected a name of quell_tuning.environment"


def test_a_variable_is_a_number_of_seconds_by_default_or_as_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.GRACE_S.name, raising=False)
    assert environment.GRACE_S.get() is None
    assert environment.GRACE_S.seconds() == 30
    monkeypatch.setenv(environment.GRACE_S.name, "1.5")
    assert environment.GRACE_S.seconds() == 1.5


@pytest.mark.parametrize("text", ["", "soon", "30 s", "nan", "0", "-1"])
def test_a_variable_that_is_no_number_of_seconds_is_one_line(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for variable in (environment.GRACE_S, environment.HANG_S, environment.PATIENCE_S):
        monkeypatch.setenv(variable.name, text)
        expected = f"{variable.name}: {text!r}, expected a number of seconds above 0; change it, or unset it"
        with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
            variable.seconds()


def test_the_number_of_a_process_is_one_line_where_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.POOL.name, "12")
    assert environment.POOL.process() == 12
    monkeypatch.setenv(environment.POOL.name, "mine")
    with pytest.raises(UsageError, match=r"^QUELL_POOL: 'mine', expected the number of a process; unset it$"):
        environment.POOL.process()
