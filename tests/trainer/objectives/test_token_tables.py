"""Tables of tokens: what a tokenizer says of each text, kept in a file that other attempts and ranks find again."""

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch

from trainer.objectives import token_tables
from trainer.objectives.token_tables import TokenTables

TEXTS = [f"a photo of {number} cats" for number in range(50)] + ["Ünïcode, & <b>", ""]


class Counting:
    """CLIP's tokenizer, which counts the texts that it is given."""

    def __init__(self, context_length=12):
        self.tokenize = open_clip.SimpleTokenizer(context_length=context_length)
        self.num_texts = 0

    def __call__(self, texts):
        self.num_texts += len(texts)
        return self.tokenize(texts)


@pytest.fixture
def texts():
    return pa.chunked_array([TEXTS[:7], TEXTS[7:]], pa.string())


@pytest.fixture(params=[3, 10_000])
def chunk(monkeypatch, request):
    monkeypatch.setattr(token_tables, "_CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
def test_a_table_holds_each_texts_tokens_in_memory_or_in_a_file(tmp_path, texts):
    expected = open_clip.SimpleTokenizer(context_length=12)(TEXTS)
    for tables in (TokenTables(), TokenTables(tmp_path)):
        table = tables.table(texts, tokenize=Counting())
        assert table.dtype == np.int32
        assert torch.equal(torch.from_numpy(np.array(table)).long(), expected)
    assert [file.suffix for file in tmp_path.iterdir()] == [".int32"]
    assert isinstance(table, np.memmap)


def test_a_table_is_made_once_and_made_anew_for_other_texts_or_tokens(tmp_path, texts):
    def num_tokenised(chosen, **options):
        counting = Counting(**options)
        TokenTables(tmp_path).table(chosen, tokenize=counting)
        return counting.num_texts

    assert num_tokenised(texts) == 16 + 52
    assert num_tokenised(texts) == 16
    assert num_tokenised(texts.slice(0, 51)) == 16 + 51
    assert num_tokenised(pa.chunked_array([[*TEXTS[:-1], "b"]], pa.string())) == 16 + 52
    assert num_tokenised(texts, context_length=9) == 16 + 52


def test_no_texts_make_an_empty_table(tmp_path):
    assert len(TokenTables().table(pa.chunked_array([[]], pa.string()), tokenize=Counting())) == 0


def test_a_table_that_could_not_be_finished_is_not_taken_for_one(tmp_path, texts, monkeypatch):
    monkeypatch.setattr(token_tables, "_CHUNK", 20)

    def failing(given):
        if given[0] == TEXTS[20]:
            raise RuntimeError("no more")
        return open_clip.SimpleTokenizer(context_length=12)(given)

    with pytest.raises(RuntimeError, match="no more"):
        TokenTables(tmp_path).table(texts, tokenize=failing)
    table = TokenTables(tmp_path).table(texts, tokenize=Counting())
    assert torch.equal(torch.from_numpy(np.array(table)).long(), Counting().tokenize(TEXTS))
