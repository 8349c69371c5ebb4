"""The table of a drill, and the same as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.drill.killer import Killer
from benchmarks.drill.verdicts import Evidence, Verdict, retries_by_rule


def describe(evidence: Evidence, verdicts: list[Verdict], *, killer: Killer, config: str, seconds: float) -> Any:
    """All figures of one drill as JSON values."""
    ended = [attempt for attempts in evidence.attempts.values() for attempt in attempts]
    real = [job for planned, job in evidence.pairs() if planned.is_real]
    return {
        "config": config,
        "seconds": round(seconds, 1),
        "jobs": len(evidence.jobs),
        "real_jobs": Counter(job.status.value for job in real),
        "jobs_by_state": Counter(job.status.value for job in evidence.jobs),
        "jobs_by_error": Counter(job.error_code for job in evidence.jobs if job.error_code),
        "attempts": len(ended),
        "attempts_by_reason": Counter(attempt.end_reason.value for attempt in ended if attempt.end_reason),
        "retries_by_rule": retries_by_rule(evidence),
        "kills": killer.kills,
        "answers": evidence.people.answers,
        "verdicts": [{"promise": v.promise, "holds": v.holds, "note": v.note, "against": v.against} for v in verdicts],
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    seconds = found["seconds"]
    rows = [
        ("wall time", f"{seconds:.0f} s"),
        ("jobs by final state", _counts(found["jobs_by_state"])),
        ("of these real DeepSpeed runs", _counts(found["real_jobs"])),
        ("failed jobs by error", _counts(found["jobs_by_error"])),
        ("kill -9", f"{sum(found['kills'].values())}: {_counts(found['kills'])}"),
        ("attempts by end reason", f"{found['attempts']}: {_counts(found['attempts_by_reason'])}"),
        ("attempts followed by another one, by rule", _counts(found["retries_by_rule"])),
        ("answers that clients got", _counts(found["answers"])),
    ]
    lines = [f"| {found['config']} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    for verdict in found["verdicts"]:
        word = "**yes**" if verdict["holds"] else f"**NO**: {len(verdict['against'])} against"
        note = f" ({verdict['note']})" if verdict["note"] else ""
        lines.append(f"| {verdict['promise']} | {word}{note} |")
    return "\n".join(lines)


def complaints(found: Mapping[str, Any], *, most: int = 10) -> Iterable[str]:
    """What speaks against the promises that do not hold, a line each."""
    for verdict in found["verdicts"]:
        for line in verdict["against"][:most]:
            yield f"{verdict['promise']}: {line}"
        if len(verdict["against"]) > most:
            yield f"{verdict['promise']}: and {len(verdict['against']) - most} more"


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered) or "none"
