"""Stands where `trainer.promote` stands: what is exported into DIR is files only.

`DIR JOB`. It waits for the file `go` in the job folder, and fails if there is a file `broken`.
"""

import json
import sys
import time
from pathlib import Path

from trainer.job_dir import PromotionResult, write_json_atomically

into, job = Path(sys.argv[1]), Path(sys.argv[2])
while not (job / "go").exists():
    time.sleep(0.02)
broken = (job / "broken").exists()
if not broken:
    (into / "export").mkdir(parents=True)
    (into / "export" / "open_clip_config.json").write_text("{}")
    (into / "export" / "attune.json").write_text(json.dumps({"class_names": ["cat", "dog"], "templates": ["a {}"]}))
result = PromotionResult(
    ok=not broken, message="the weights are torn" if broken else "exported", metrics={"validation/top1": 0.5}
)
write_json_atomically(into / "result.json", result)
