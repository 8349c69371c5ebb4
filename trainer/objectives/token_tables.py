"""Texts as tokens, made once: a table of int32 that every rank maps into memory, beside the job's manifests.

A job of many attempts and ranks tokenises its captions and prompts once; a training step then only looks rows up.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from trainer.distributed import from_rank_0

Tokenize = Callable[[Sequence[str]], Tensor]

_CHUNK = 8192


class TokenTables:
    """Where tables are kept: files of a folder, or the memory of each rank."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is shared by all ranks; None keeps tables in memory."""
        self._folder = folder

    def table(self, texts: pa.ChunkedArray, *, tokenize: Tokenize) -> np.ndarray:
        """The tokens of each text: (N, L) int32, read-only. With a folder, all ranks must call it."""
        if self._folder is None:
            chunks = [np.zeros((0, 0), np.int32), *_tokens(texts, tokenize)]
            return np.concatenate(chunks[1:] or chunks)
        file, length = from_rank_0(lambda: self._file(texts, tokenize))
        return np.memmap(file, np.int32, mode="r", shape=(len(texts), length))

    def _file(self, texts: pa.ChunkedArray, tokenize: Tokenize) -> tuple[Path, int]:
        """The table's file, written if it is not there yet, and the tokens of a text."""
        assert self._folder is not None
        sample = tokenize(texts.slice(0, 16).to_pylist())
        digest = hashlib.blake2b(sample.numpy().astype(np.int32).tobytes(), digest_size=16)
        for chunk in _chunks(texts):
            digest.update("\0".join([*chunk, ""]).encode())
        file = self._folder / f"tokens-{digest.hexdigest()}.int32"
        if not file.exists():
            partial = file.with_suffix(f".{os.getpid()}.partial")
            with partial.open("wb") as target:
                for tokens in _tokens(texts, tokenize):
                    target.write(tokens.tobytes())
            partial.replace(file)
        return file, sample.shape[1]


def _tokens(texts: pa.ChunkedArray, tokenize: Tokenize) -> Iterator[np.ndarray]:
    """(n, L) int32 for one chunk of texts after the other."""
    return (tokenize(chunk).numpy().astype(np.int32) for chunk in _chunks(texts))


def _chunks(texts: pa.ChunkedArray) -> Iterator[list[str]]:
    return (texts.slice(start, _CHUNK).to_pylist() for start in range(0, len(texts), _CHUNK))
