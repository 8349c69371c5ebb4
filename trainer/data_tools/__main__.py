"""The child process behind `attune data`: a request as JSON in its argument, or with `-` on standard input; the
answer as JSON on standard output.

Exit codes: 0, 1 if the data are not as they should be, 2 for a request or data that cannot be used.
"""

from __future__ import annotations

import contextlib
import json
import sys

from pydantic import TypeAdapter

from dali_pipelines.sources import DataError
from trainer.data_tools import inspection, moving, validation
from trainer.data_tools.answer import Answer
from trainer.data_tools.request import Request, given
from trainer.errors import TrainingError

_COMMANDS = {
    "inspect": inspection.inspect,
    "validate": validation.validate,
    "stage": moving.stage,
    "convert": moving.convert,
    "split": moving.split,
}


def main(arguments: list[str]) -> int:
    """Run one request."""
    request = TypeAdapter(Request).validate_json(given(arguments))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries have to say is no part of the answer
            answer: Answer = _COMMANDS[request.command](request)  # type: ignore[operator]
    except DataError as error:
        print(f"error: {error.field}: {error}", file=sys.stderr)
        return 2
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(answer.to_dict(), ensure_ascii=False))
    return 1 if answer.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
