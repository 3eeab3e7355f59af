"""What `server run` shows: words of a site are text, never markup."""

import io

import pytest
from rich.console import Console

from server.runs.show import Progress


@pytest.mark.parametrize("terminal", [True, False])
def test_a_refusal_in_brackets_is_shown_as_it_is(terminal: bool) -> None:
    shown = io.StringIO()
    text = "policy: [/x] [bold]least[/bold]"
    with Progress(Console(file=shown, force_terminal=terminal, width=200)) as progress:
        progress.event(
            {"kind": "site_dropped", "round": 1, "rounds": 2, "site": "a", "reason": "refused", "detail": text}
        )
    assert text in shown.getvalue()
