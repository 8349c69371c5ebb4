from __future__ import annotations

import pytest

from service.cli import exits
from service.client_errors import BadRequest, Conflict, ConnectionFailed, NotFound, ServerError
from trainer.resolve import SpecError, SpecProblem


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecError([SpecProblem(field="optim.lr", message="too small")]), 2),
        (BadRequest("no"), 2),
        (ConnectionFailed("http://x", OSError("refused")), 3),
        (NotFound("no such job"), 4),
        (Conflict("it has ended"), 1),
        (ServerError("broken"), 1),
        (exits.CommandError("usage", code=2), 2),
        (FileNotFoundError(2, "No such file or directory", "x.yaml"), 1),
        (ZeroDivisionError("division by zero"), 1),
    ],
)
def test_each_kind_of_error_has_its_code(error: Exception, code: int) -> None:
    assert exits.describe(error)[1] == code


def test_no_traceback_unless_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("ATTUNE_DEBUG", raising=False)
    exits.report(ZeroDivisionError("division by zero"))
    quiet = capsys.readouterr().err
    monkeypatch.setenv("ATTUNE_DEBUG", "1")
    try:
        raise ZeroDivisionError("division by zero")
    except ZeroDivisionError as error:
        exits.report(error)
    loud = capsys.readouterr().err

    assert "Traceback" not in quiet
    assert "division by zero" in quiet
    assert "Traceback" in loud


def test_brackets_in_a_message_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    exits.report(exits.CommandError("expected [red] or [a, b]"))

    assert "expected [red] or [a, b]" in capsys.readouterr().err
