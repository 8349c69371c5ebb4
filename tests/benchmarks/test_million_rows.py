import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "million_rows.py"


@pytest.mark.slow
def test_a_million_rows_open_in_two_seconds_and_500_megabytes(tmp_path):
    output = tmp_path / "rounds.json"
    subprocess.run([sys.executable, SCRIPT, "--rounds", "1", "--json", output], check=True)
    (found,) = json.loads(output.read_text())
    assert found["open_s"] < 2
    assert found["first_batch_s"] < 2
    assert found["peak_mb"] < 500
