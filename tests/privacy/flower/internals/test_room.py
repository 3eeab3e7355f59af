"""The room as a whole: the version that was looked at, and a test for each touch."""

from importlib.metadata import version
from pathlib import Path

from privacy.flower import internals


def test_the_version_is_the_one_that_was_looked_at() -> None:
    assert version("flwr").startswith("1.42."), "run the tests of this room, mend what fails, then change this line"


def test_each_touch_has_a_test() -> None:
    touches = {path.stem for path in Path(internals.__path__[0]).glob("*.py")} - {"__init__"}
    assert touches - {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")} == set()
