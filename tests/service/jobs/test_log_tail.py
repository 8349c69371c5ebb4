from __future__ import annotations

from pathlib import Path

import pytest

from service.jobs.log_tail import LastWords, last_line, last_words

LAUNCHER = """\
[2026-11-21 09:18:43,366] [INFO] [launch.py:253:sigkill_handler] Killing subprocess 18232
[2026-11-21 09:18:43,366] [INFO] [launch.py:253:sigkill_handler] Killing subprocess 18233
[2026-11-21 09:18:43,368] [ERROR] [launch.py:259:sigkill_handler] ['python', 'run.py'] exits with return code = {code}
"""
PEER = (
    "rank 1: another rank is gone: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by "
    "peer [127.0.0.1]:52930. This is typically caused by a remote worker crashing.\n"
)
PEER_TRACEBACK = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "loop.py", line 60, in train
[rank1]: RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [::1]:1
"""
CHAINED = """\
Traceback (most recent call last):
  File "loader.py", line 3, in read
KeyError: 'caption'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "loader.py", line 5, in read
trainer.loader.BrokenShardError: shard 00012.tar holds no caption for image 7
which every shard must
"""


def words(tmp_path: Path, text: str) -> LastWords:
    path = tmp_path / "worker.log"
    path.write_text(text)
    return last_words(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"epoch 1\n{CHAINED}{PEER}{LAUNCHER.format(code=1)}", "shard 00012.tar holds no caption for image 7"),
        (f"{CHAINED}{PEER_TRACEBACK}{LAUNCHER.format(code=1)}", "shard 00012.tar holds no caption"),
        (f"step 1\nFatal Python error: Segmentation fault\n{LAUNCHER.format(code=-11)}", "Segmentation fault"),
        (f"step 1\n{LAUNCHER.format(code=-9)}", "signal 9 (SIGKILL"),
        (
            f"step 1\n{LAUNCHER.format(code=-9)}the kernel of node3 killed a process for lack of memory\n",
            "the kernel of node3 killed a process for lack of memory",
        ),
        (f"step 1\nc++: not found\n{PEER}", "c++: not found"),
        (f"loading the model\n{PEER}{LAUNCHER.format(code=1)}", "loading the model"),
        ("", ""),
    ],
)
def test_the_line_that_says_why_is_found_among_the_noise(tmp_path: Path, text: str, sentence: str) -> None:
    found = words(tmp_path, text).sentence
    assert sentence in found
    assert bool(found) == bool(sentence)


def test_the_exit_code_is_that_of_the_worker_that_failed_first(tmp_path: Path) -> None:
    assert words(tmp_path, LAUNCHER.format(code=0) + LAUNCHER.format(code=-9)).exit_code == -9
    assert words(tmp_path, "nothing of the kind").exit_code is None


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert last_words(tmp_path / "none.log") == LastWords("", "", None)
    assert last_line(tmp_path / "none.log") == ""
