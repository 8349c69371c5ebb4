from __future__ import annotations

import pytest

from service.store.records import AlreadyExists, ModelRecord
from service.store.store import Store


def test_models_are_registered_once_listed_newest_first_and_forgotten(store: Store) -> None:
    first, second = (ModelRecord(id=f"ft:{i}", path="/p", task="classifier", created_at=1.0) for i in range(2))
    for model in (first, second):
        store.models.add(model)
    with pytest.raises(AlreadyExists, match="ft:0"):
        store.models.add(first)
    assert store.models.list() == [second, first]
    assert store.models.delete(first.id) is True
    assert store.models.delete(first.id) is False
    assert store.models.get(first.id) is None
