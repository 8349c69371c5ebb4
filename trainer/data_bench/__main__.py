"""The child process behind `attune data bench`: a request as JSON in its argument, or with `-` on standard input; the
answer on standard output.

Exit codes: 0, or 2 for a request or data that cannot be used.
"""

from __future__ import annotations

import contextlib
import json
import sys

from dali_pipelines.loader import BadSampleError
from dali_pipelines.sources import DataError
from trainer.data_bench.bench import bench
from trainer.data_bench.request import Bench
from trainer.data_tools.request import given
from trainer.errors import TrainingError
from trainer.resolve import SpecError


def main(arguments: list[str]) -> int:
    """Run one request."""
    request = Bench.model_validate_json(given(arguments))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries have to say is no part of the answer
            answer = bench(request)
    except DataError as error:
        print(f"error: {error.field}: {error}", file=sys.stderr)
        return 2
    except (TrainingError, SpecError, BadSampleError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(answer.to_dict(), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
