"""Attempts at rounds are counted on the disk, over starts, before anything is sent."""

from pathlib import Path

import pytest

from server.record.attempts import Attempts
from server.record.history import Drop
from shared_model.core.errors import InputError

RUN = "ab" * 16


def test_a_new_start_goes_on_counting_and_another_run_begins_anew(tmp_path: Path) -> None:
    first = Attempts(tmp_path, RUN)
    assert [first.begin(1), first.begin(1), first.begin(2)] == [1, 2, 1]
    drop = Drop(site="a", reason="timeout", attempt=1)
    first.note_failure(2, (drop,))
    again = Attempts(tmp_path, RUN)
    assert (again.count(1), again.count(2), again.count(3)) == (2, 1, 0)
    assert again.drops(2) == (drop,)
    assert again.begin(2) == 2
    assert again.drops(2) == (drop,)
    other = Attempts(tmp_path, "cd" * 16)
    assert (other.count(1), other.drops(2), other.begin(1)) == (0, (), 1)


def test_the_file_stays_small(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, RUN)
    for number in range(1, 60):
        attempts.begin(number)
    assert (tmp_path / "attempts.json").stat().st_size < 300
    assert Attempts(tmp_path, RUN).count(58) == 1


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"run_id": 1, "rounds": {"x": 1}}', '{"rounds": {"1": {"a": 1}}}']
)
def test_a_damaged_count_is_no_count_of_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "attempts.json").write_text(content)
    with pytest.raises(InputError, match=r"attempts.json: cannot be read .* put it back"):
        Attempts(tmp_path, RUN)
