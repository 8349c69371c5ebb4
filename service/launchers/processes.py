"""Groups of processes that outlive the one that started them, and are found again after it was killed.

Each group is a session of its own, and all its processes carry a tag in their environment. The leader's pid and
start time are written to a file right after it started; should its starter die before that, the tag still finds
the group. A pid alone is never believed: the system uses numbers again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from service.launchers.base import PASSING, LaunchError, ProcessIdentity, RunState
from service.launchers.memory_kills import memory_kills
from trainer.job_dir import Record, write_json_atomically

TAG_VARIABLE = "ATTUNE_ATTEMPT"
CLOCK_TOLERANCE_S = 2.0  # start times are counted from the boot time, which follows corrections of the clock


class LaunchRecord(Record):
    """`launch.json`: the leader of a process group."""

    pid: int
    created_at: float
    """Unix seconds."""
    start: str | None = None
    """When it was, by no clock that can be set; see `start_of`."""
    memory_kills: int | None = None
    """What `memory_kills` said when it was started."""
    host: str | None = None
    """The machine that it runs on."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs on another machine, where nobody here sees it."""
        return self.host not in (None, socket.gethostname())


class ProcessGroups:
    """Starts, watches and signals tagged process groups on this machine."""

    def __init__(self, *, niceness: int = 0) -> None:
        """`niceness`: how much they give way to their starter, 0 to 19."""
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._niceness = niceness

    def start(
        self, argv: Sequence[str], *, tag: str, environment: Mapping[str, str], log: Path, record: Path
    ) -> ProcessIdentity:
        """Start `argv` as leader of a new session, its output appended to `log`, its identity written to `record`.

        Raises:
            LaunchError: the program cannot be started, or the log not be written.
            OSError: the same for a reason that may be over soon; nothing of it runs.
        """
        for ended in tuple(self._children):  # nobody looks again at some that have done their work
            self._reap(ended)
        killed_before = memory_kills()
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**environment, TAG_VARIABLE: tag},
                    start_new_session=True,
                )
        except OSError as error:
            if error.errno in PASSING:
                raise
            raise LaunchError(f"cannot start {argv[0]!r} with its output in {log}: {error.strerror}") from error
        self._children[tag] = child
        if self._niceness:
            _give_way(child.pid, self._niceness)
        try:
            # Until it is reaped, a child keeps its number and start time, even if it has ended already.
            identity = ProcessIdentity(child.pid, psutil.Process(child.pid).create_time(), start_of(child.pid))
            write_json_atomically(record, _to_record(identity, memory_kills=killed_before))
        except BaseException:
            # Nobody would know of it: its devices would go to another run while it lives.
            os.killpg(child.pid, signal.SIGKILL)
            self.signal(tag, signal.SIGKILL)
            child.wait()
            del self._children[tag]
            raise
        return identity

    def lives_elsewhere(self, record: Path, *, hosts: Collection[str]) -> bool:
        """Whether a group was started by one of `hosts` other than this machine, which looks after it."""
        try:
            launch = LaunchRecord.model_validate_json(record.read_bytes())
        except FileNotFoundError:
            return False
        return launch.is_elsewhere and launch.host in hosts

    def look(
        self, tag: str, *, record: Path, workers: Sequence[int] = (), workers_seen_at: float | None = None
    ) -> RunState:
        """What is left of a group. The whole machine is searched only when neither leader nor workers live."""
        self._reap(tag)
        leader = _read_record(record)
        if leader is not None and find(leader) is not None:
            return RunState(leader, leader_alive=True, alive=True)
        if find_workers(workers, workers_seen_at):
            return RunState(leader, leader_alive=False, alive=True)
        found = tagged(tag)
        if leader is None and found:  # its starter died before it could write the record
            leader = min((identity for _, identity in found), key=lambda identity: identity.created_at)
            write_json_atomically(record, _to_record(leader))
            return RunState(leader, leader_alive=True, alive=True)
        return RunState(leader, leader_alive=False, alive=bool(found))

    def signal(
        self, tag: str, number: signal.Signals, *, workers: Sequence[int] = (), workers_seen_at: float | None = None
    ) -> None:
        """Send a signal to every living member of a group."""
        known = [process for process, _ in tagged(tag)] + find_workers(workers, workers_seen_at)
        for process in {process.pid: process for process in known}.values():
            send(process, number)

    def _reap(self, tag: str) -> None:
        child = self._children.get(tag)
        if child is not None and child.poll() is not None:
            del self._children[tag]


def _give_way(pid: int, niceness: int) -> None:
    """Lower a process's priority, in its session and beside other ones, before it has any children."""
    with suppress(OSError):  # it may have ended already
        os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + niceness))
    with suppress(OSError):  # where the kernel weighs sessions against each other: sched(7), autogroup
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness), encoding="ascii")


def find(identity: ProcessIdentity) -> psutil.Process | None:
    """The living process of this identity, or None."""
    living = _living(identity.pid)
    if living is None:
        return None
    if identity.start is not None:
        return living[0] if living[1].start == identity.start else None
    return living[0] if abs(living[1].created_at - identity.created_at) <= CLOCK_TOLERANCE_S else None


def start_of(pid: int) -> str | None:
    """When a process of this machine started, as the boot's id and clock ticks since the boot; None where the system
    does not tell. Unlike its start time, it stays the same when the clock is set."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return f"{boot}:{int(fields[19])}"  # field 22 of proc_pid_stat(5); the name before `)` may hold anything


def find_workers(pids: Sequence[int], seen_at: float | None) -> list[psutil.Process]:
    """Living processes among `pids` that had started by `seen_at`; a later one only has an old number."""
    if seen_at is None:
        return []
    living = [found for pid in pids if (found := _living(pid)) is not None]
    return [process for process, identity in living if identity.created_at <= seen_at + CLOCK_TOLERANCE_S]


def tagged(tag: str) -> list[tuple[psutil.Process, ProcessIdentity]]:
    """All living processes of this user that carry `tag`."""
    return [(process, identity) for process, identity, found in tags() if found == tag]


def tags() -> Iterator[tuple[psutil.Process, ProcessIdentity, str]]:
    """All living processes of this user that carry any tag, but for this very process."""
    for pid in psutil.pids():
        if pid == os.getpid() or (tag := _tag_of(pid)) is None:
            continue
        living = _living(pid)
        if living is not None and _tag_of(pid) == tag:  # the number may just have gone to another process
            yield *living, tag


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended and only waits for its parent to notice does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Signal a process unless it has ended."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _tag_of(pid: int) -> str | None:
    """The tag of a process; None without one, of another user's, and of one that has ended."""
    try:
        if not psutil.LINUX:
            return psutil.Process(pid).environ().get(TAG_VARIABLE)
        # Of all processes of a machine, many times a second: psutil would read and parse four files of each.
        content = b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except (psutil.Error, OSError):
        return None
    _, found, rest = content.partition(b"\0" + TAG_VARIABLE.encode() + b"=")
    return os.fsdecode(rest.partition(b"\0")[0]) if found else None


def _living(pid: int) -> tuple[psutil.Process, ProcessIdentity] | None:
    try:
        process = psutil.Process(pid)
        created_at = process.create_time()
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process, ProcessIdentity(pid, created_at, start_of(pid))
    except psutil.NoSuchProcess:
        return None


def _read_record(path: Path) -> ProcessIdentity | None:
    if not path.exists():
        return None
    record = LaunchRecord.model_validate_json(path.read_bytes())
    return ProcessIdentity(record.pid, record.created_at, record.start)


def _to_record(identity: ProcessIdentity, *, memory_kills: int | None = None) -> LaunchRecord:
    return LaunchRecord(
        pid=identity.pid,
        created_at=identity.created_at,
        start=identity.start,
        memory_kills=memory_kills,
        host=socket.gethostname(),
    )
