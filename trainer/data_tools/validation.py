"""`attune data validate`: every image looked at, copies found, and a report."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dali_pipelines.validation import Look
from trainer.data_sources import num_cores, open_cache
from trainer.data_tools import report_files
from trainer.data_tools.answer import Answer
from trainer.data_tools.contact_sheet import contact_sheet
from trainer.data_tools.listing import DataSet
from trainer.data_tools.progress import bar
from trainer.data_tools.request import Validate
from trainer.data_tools.survey import SetSurvey, Survey, survey
from trainer.data_tools.tables import tables
from trainer.errors import UnusableSpecError
from trainer.named_sources import named_sources
from trainer.spec import AnySource, ModelSpec

_ON_TERMINAL = ("data-sets", "bad-images", "odd-images", "leakage", "label-conflicts", "small-classes", "sizes")
_ON_TERMINAL += ("formats", "captions")


def validate(request: Validate) -> Answer:
    """Look at the data and say what was found.

    It has failed if an image cannot be used, or if two data sets have exact copies of one.

    Raises:
        DataError: a source cannot be listed.
        UnusableSpecError: the request does not fit.
    """
    how = _look(request)
    data = [DataSet.list(name, source, how, seed=request.seed_of_data) for name, source in _sources(request).items()]
    started = time.monotonic()
    with bar("looking at images", total=sum(map(len, data))) as progress:
        looking = replace(how, progress=progress.advance)
        found = survey(data, looking, near=request.near, strict=request.strict, tokenizer=_tokenizer(request, data))
    seconds = time.monotonic() - started
    every = tables(found, few=request.few)
    findings = _findings(found, request)
    document = {
        "ok": not (found.num_bad or found.num_leaked),
        "findings": findings,
        "data_sets": {one.data.name: _described(one) for one in found.sets},
        "seconds": round(seconds, 3),
        "images_per_second": round(sum(map(len, data)) / max(seconds, 1e-9), 1),
        "tables": {name: table.to_json() for name, table in every.items()},
    }
    lines = [*findings, *_written(request, found, every, findings, document, how)]
    shown = {name: table for name, table in every.items() if name in _ON_TERMINAL}
    return Answer(document, shown, lines, failed=not document["ok"])


def _look(request: Validate) -> Look:
    folder = request.journal or (f"{request.output}/journal" if request.output else None)
    given = request.spec.data if request.spec else None
    return Look(
        open_cache(request.cache),
        num_threads=request.num_threads or (given and given.decoder.num_threads) or num_cores(),
        exif=request.exif or (given.exif if given else "ignore"),
        max_pixels=request.max_pixels,
        journal=None if folder is None else Path(folder),
    )


def _sources(request: Validate) -> dict[str, AnySource]:
    """Those to compare with come first, so that copies are counted as images of the others."""
    own, against = request.data_sets(), named_sources(request.against, option="--against")
    if twice := sorted(set(own) & set(against)):
        raise UnusableSpecError(f"--against names {', '.join(twice)} again; name data sets with NAME=PATH")
    return {**against, **own}


def _tokenizer(request: Validate, data: list[DataSet]) -> Any:
    if not any(one.has_captions for one in data):
        return None
    from trainer.data_tools.tokenizer import tokenizer_of  # takes torch

    model = ModelSpec(name=request.model) if request.model else request.spec and request.spec.model
    return tokenizer_of(model)


def _findings(found: Survey, request: Validate) -> list[str]:
    """The sentences that a reader should not miss."""
    names = [one.data.name for one in found.sets]
    total = sum(len(one.data) for one in found.sets)
    sentences = [f"{found.num_bad:,} of {total:,} images cannot be used."]
    damaged = sum(note.text.startswith("damaged") for one in found.sets for note in one.odd)
    if damaged:
        sentences.append(f"Images that decode though their data are damaged: {damaged:,}; --strict counts them as bad.")
    for overlap in found.overlaps:
        of, within = names[overlap.of], names[overlap.within]
        kinds = [
            f"{len(rows):,} {what}"
            for kind, what in (("bytes", "the same file"), ("pixels", "the same pixels"), ("near", "nearly the same"))
            if (rows := overlap.rows.get(kind))  # type: ignore[call-overload]
        ]
        sentences.append(f"{overlap.count:,} images of {of} are also in {within} ({', '.join(kinds)}).")
    copies = found.num_copies
    sentences.append(f"Exact copies of other images: {copies['bytes'] + copies['pixels']:,}.")
    if copies["near"]:
        sentences.append(
            f"Images that are nearly the same as others: {copies['near']:,}; look at them, as pictures on a"
            " plain ground can be so without being copies."
        )
    if found.conflicts:
        sentences.append(f"Groups of such images that have different classes: {len(found.conflicts):,}.")
    for one in found.sets:
        if one.captions is not None and one.captions.num_too_long:
            facts = one.captions
            sentences.append(
                f"{facts.num_too_long:,} of {facts.num_captions:,} captions of {one.data.name} are longer than the"
                f" {facts.context_length} tokens of the text tower, such as {facts.longest!r}."
            )
    small = [name for one in found.sets for name, n in one.data.counts(one.usable).items() if n < request.few]
    if small:
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        sentences.append(f"Fewer than {request.few} images: {', '.join(small[:5])}{more}.")
    return sentences


def _described(one: SetSurvey) -> dict[str, Any]:
    return {
        "num_samples": len(one.data),
        "num_usable": int(one.usable.sum()),
        "bad": [{"key": note.key, "reason": note.text} for note in one.bad],
        "odd": [{"key": note.key, "remark": note.text} for note in one.odd],
        "class_counts": one.data.counts(one.usable),
        "domain_counts": one.data.domain_counts(one.usable),
        "captions": None if one.captions is None else asdict(one.captions),
    }


def _written(
    request: Validate, found: Survey, every: Any, findings: list[str], document: dict[str, Any], how: Look
) -> list[str]:
    lines = []
    if request.quarantine is not None:
        bad = [note.key for one in found.sets for note in one.bad]
        Path(request.quarantine).write_text("".join(f"{key}\n" for key in bad), encoding="utf-8")
        lines.append(f"The {len(bad):,} images that cannot be used are listed in {request.quarantine}.")
    if request.output is not None:
        sheet = contact_sheet(found, cache=how.cache)
        folder = Path(request.output)
        report_files.write(folder, findings=findings, tables=every, document=document, sheet=sheet)
        lines.append(f"Report: {folder / 'report.md'}, contact sheet: {folder / 'contact-sheet.png'}")
    return lines
