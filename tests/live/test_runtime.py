"""One loop per process: deadlines, errors, an orderly stop, a watchdog."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from syncworker.runtime import EXIT_HUNG, DeadlineExceededError, Runtime, RuntimeStoppedError

pytestmark = pytest.mark.unit


@dataclass
class Parts:
    """What a process holds: notes where it was built and what happened to it."""

    thread: str
    story: list[str] = field(default_factory=list)


@pytest.fixture
def built() -> list[Parts]:
    return []


@pytest.fixture
def runtime(built: list[Parts]) -> Iterator[Runtime[Parts]]:
    async def build() -> Parts:
        await asyncio.sleep(0)
        built.append(Parts(threading.current_thread().name))
        return built[-1]

    async def close(parts: Parts) -> None:
        await asyncio.sleep(0)
        parts.story.append("closed")

    runtime = Runtime(build, close)
    yield runtime
    runtime.stop(grace=2)


def test_a_coroutine_runs_on_the_loop_and_its_result_comes_back(runtime: Runtime[Parts]) -> None:
    """Two threads hand in work; both run on the one loop's thread."""

    async def where() -> tuple[str, asyncio.AbstractEventLoop]:
        await asyncio.sleep(0)
        return threading.current_thread().name, asyncio.get_running_loop()

    seen = [runtime.run(where(), deadline=5)]
    other = threading.Thread(target=lambda: seen.append(runtime.run(where(), deadline=5)))
    other.start()
    other.join()

    assert seen[0] == seen[1]
    assert seen[0][0] == "syncworker-loop"


def test_debug_stays_off(runtime: Runtime[Parts], monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's debug mode costs half the throughput and logs what it likes."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")

    async def debug() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert runtime.run(debug(), deadline=5) is False


def test_an_error_passes_through_as_it_is(runtime: Runtime[Parts]) -> None:
    """The caller sees the very exception, not a wrapper."""
    error = LookupError("gone")

    async def fail() -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        runtime.run(fail(), deadline=5)

    assert caught.value is error


def test_a_deadline_cancels_the_run(runtime: Runtime[Parts]) -> None:
    """Past the deadline the coroutine is cancelled and cleans up; the caller gets an error that time mends."""
    story: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            story.append("cleaned up")

    with pytest.raises(DeadlineExceededError, match=r"not done within 0\.05 s"):
        runtime.run(linger(), deadline=0.05)

    assert story == ["cleaned up"]


def test_a_timeout_of_the_coroutine_itself_is_not_our_deadline(runtime: Runtime[Parts]) -> None:
    """`TimeoutError` raised inside passes through untouched."""

    async def inner() -> None:
        raise TimeoutError("inner")

    with pytest.raises(TimeoutError, match="inner"):
        runtime.run(inner(), deadline=5)


def test_parts_are_built_once_on_the_loop_and_closed_at_stop(runtime: Runtime[Parts], built: list[Parts]) -> None:
    """Concurrent first uses share one build; nothing is built before."""
    runtime.start()
    assert built == []

    async def both() -> list[Parts]:
        return list(await asyncio.gather(runtime.parts(), runtime.parts()))

    first, second = runtime.run(both(), deadline=5)
    runtime.stop(grace=2)

    assert first is second
    assert built == [Parts("syncworker-loop", ["closed"])]


def test_a_failed_build_is_tried_again() -> None:
    """A database that was away at the first use does not leave a worker broken for ever."""
    attempts: list[int] = []

    async def build() -> str:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise ConnectionError("away")
        return "built"

    async def close(_parts: str) -> None:
        """Nothing to give back."""

    runtime = Runtime(build, close)
    with pytest.raises(ConnectionError):
        runtime.run(runtime.parts(), deadline=5)
    again = runtime.run(runtime.parts(), deadline=5)
    runtime.stop(grace=1)

    assert again == "built"


def test_stop_waits_for_a_shielded_commit(runtime: Runtime[Parts]) -> None:
    """The run is cancelled at its deadline in the middle of a commit; the commit still happens before stop returns."""
    story: list[str] = []

    async def commit() -> None:
        await asyncio.sleep(0.3)
        story.append("committed")

    async def refresh() -> None:
        await runtime.shield(commit())

    with pytest.raises(DeadlineExceededError):
        runtime.run(refresh(), deadline=0.05)
    before = list(story)
    runtime.stop(grace=5)

    assert (before, story) == ([], ["committed"])


def test_stop_lets_runs_end_then_cancels_them(runtime: Runtime[Parts]) -> None:
    """A short run ends by itself, a long one is cancelled after half of the grace and cleans up before the parts go."""
    story: list[str] = []
    started = threading.Barrier(3)

    async def short() -> None:
        await asyncio.sleep(0.2)
        story.append("short done")

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            story.append("long gave back")

    def in_thread(work: str) -> None:
        started.wait()
        try:
            runtime.run(short() if work == "short" else long(), deadline=60)
        except RuntimeStoppedError:
            story.append("long told")

    runtime.start()
    threads = [threading.Thread(target=in_thread, args=(work,)) for work in ("short", "long")]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.1)
    begun = time.monotonic()
    runtime.stop(grace=2)
    took = time.monotonic() - begun
    for thread in threads:
        thread.join()

    assert story == ["short done", "long gave back", "long told"]
    assert took < 2


def test_nothing_begins_after_stop(runtime: Runtime[Parts]) -> None:
    """A task that arrives during shutdown is refused, and its coroutine closed without a warning."""
    runtime.start()
    runtime.stop(grace=1)

    async def never() -> None:
        raise AssertionError("ran")

    with pytest.raises(RuntimeStoppedError):
        runtime.run(never(), deadline=5)


def test_a_run_that_lasts_is_left_to_the_loop(runtime: Runtime[Parts]) -> None:
    """The thread goes on; the run keeps its deadline, and its bad end is told."""
    begun, ended = threading.Event(), threading.Event()

    async def last() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with capture_logs() as said:
        waited = runtime.run_or_leave(last(), deadline=0.3, patience=0.05, left_max=1)
        seen = (waited, begun.is_set(), runtime.busy)
        cleaned_up = ended.wait(10)
        runtime.stop(grace=2)

    assert (seen, cleaned_up) == ((False, True, 0), True)
    assert [(one["event"], one["error"]) for one in said] == [("run left to the loop failed", "deadline_exceeded")]


def test_no_more_runs_are_left_than_fit(runtime: Runtime[Parts]) -> None:
    """The second thread waits to the end; once the first run has ended, there is room again."""
    release = asyncio.Event()

    async def last() -> None:
        await release.wait()

    async def short() -> None:
        await asyncio.sleep(0.1)

    async def let_go() -> None:
        release.set()

    first = runtime.run_or_leave(last(), deadline=30, patience=0.01, left_max=1)
    second = runtime.run_or_leave(short(), deadline=30, patience=0.01, left_max=1)
    runtime.run(let_go(), deadline=5)

    assert (first, second) == (False, True)


def test_stop_ends_a_run_that_was_left(runtime: Runtime[Parts]) -> None:
    """As if somebody still waited for it: cancelled after the patience, its cleanup done."""
    cleaned = threading.Event()

    async def last() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    runtime.run_or_leave(last(), deadline=60, patience=0.05, left_max=1)
    runtime.stop(grace=2, patience=0.05)

    assert cleaned.is_set()


def test_the_watchdog_ends_a_process_whose_loop_hangs() -> None:
    """A run that holds the loop itself past its hard limit costs the process its life."""
    died = threading.Event()
    statuses: list[int] = []
    release = threading.Event()

    def die(status: int) -> None:
        statuses.append(status)
        died.set()
        release.set()

    async def nothing() -> None:
        """No parts."""

    async def close(_parts: None) -> None:
        """No parts."""

    async def hang() -> None:
        release.wait(10)

    runtime = Runtime(nothing, close, hard_limit=0.1, watch_every=0.05, die=die)
    runtime.run(hang(), deadline=0.1)
    runtime.stop(grace=1)

    assert died.is_set()
    assert statuses == [EXIT_HUNG]
