"""List pages that name their first and last item."""

from __future__ import annotations

from typing import Generic, Self, TypeVar

from service.schemas.base import Answer, Page


class Named(Answer):
    """Base of things that have an id."""

    id: str
    """Its id."""


NamedItem = TypeVar("NamedItem", bound=Named)


class IdPage(Page[NamedItem], Generic[NamedItem]):
    """Part of a list of things with ids."""

    first_id: str | None = None
    """Id of the first item."""
    last_id: str | None = None
    """Id of the last item; what `after` takes for the next page."""

    @classmethod
    def of(cls, items: list[NamedItem], *, has_more: bool) -> Self:
        """A page with its first and last id filled in."""
        first, last = (items[0].id, items[-1].id) if items else (None, None)
        return cls(data=items, has_more=has_more, first_id=first, last_id=last)
