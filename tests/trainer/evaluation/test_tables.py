"""One table as JSON, CSV and Markdown."""

import csv
import io
import json
import math

import pytest

from trainer.evaluation.tables import Column, Table, text_table

TABLE = Table(
    (Column("model"), Column("images", "integer"), Column("top1", "fraction"), Column("loss", "number", 3)),
    (("a|b", 7, 2 / 3, 1.25), ("c", 0, None, math.inf)),
)


def test_json_keeps_numbers_and_has_null_for_what_it_cannot_say():
    first, second = json.loads(json.dumps(TABLE.to_json(), allow_nan=False))
    assert first == {"model": "a|b", "images": 7, "top1": 2 / 3, "loss": 1.25}
    assert second == {"model": "c", "images": 0, "top1": None, "loss": None}


def test_csv_keeps_every_digit():
    rows = list(csv.DictReader(io.StringIO(TABLE.to_csv())))
    assert float(rows[0]["top1"]) == 2 / 3
    assert rows[1] == {"model": "c", "images": "0", "top1": "", "loss": "inf"}


def test_markdown_shows_percent_escapes_bars_and_has_a_dash_for_what_is_missing():
    assert TABLE.to_markdown().splitlines() == [
        "| model | images | top1 % | loss |",
        "| --- | ---: | ---: | ---: |",
        "| a\\|b | 7 | 66.67 | 1.250 |",
        "| c | 0 | - | inf |",
    ]


def test_text_stays_text():
    assert text_table(("setting", "value"), [("lr", "1e-5")]).to_markdown().splitlines()[1:] == [
        "| --- | --- |",
        "| lr | 1e-5 |",
    ]


def test_rows_must_fit_their_columns():
    with pytest.raises(ValueError, match="has 1 cells for 2 columns"):
        Table((Column("a"), Column("b")), (("x",),))
    with pytest.raises(ValueError, match="'x' is no integer for column 'b'"):
        Table((Column("a"), Column("b", "integer")), (("x", "x"),))
    with pytest.raises(ValueError, match="1 is no text for column 'a'"):
        Table((Column("a"),), ((1,),))
