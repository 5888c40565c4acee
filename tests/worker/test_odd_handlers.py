"""Whatever a handler raises, returns or logs: it fails its own task, with a code, and the worker goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import pytest

from alfred_db import AsyncDatabase, AsyncLease, AsyncWorker, ClaimedTask, Database, TaskFailed
from alfred_db.execution.error_texts import MAX_MESSAGE, described
from alfred_db.worker._lease import AnyLease

from .at_work import QUICK, Half, enqueue, nothing, task

# Exceptions


def refuse(*_: object, **__: object) -> NoReturn:
    raise ZeroDivisionError("not even that")


def leave(*_: object) -> NoReturn:
    raise SystemExit(3)


def odd(base: type[BaseException] = Exception, **methods: Any) -> Any:
    made: BaseException = type("Odd", (base,), methods)("odd")
    return made


def recursive() -> BaseException:
    def deeper(self: object) -> str:
        return str(self)

    return odd(__str__=deeper)


def misnamed() -> BaseException:
    class Meta(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise ZeroDivisionError

    class Misnamed(Exception, metaclass=Meta):
        pass

    return Misnamed("no name")


class Text(str):
    __slots__ = ()
    __getitem__ = __format__ = encode = replace = __len__ = refuse


RAISED: dict[str, Callable[[], BaseException]] = {
    "str raises": lambda: odd(__str__=refuse),
    "str wants a key": lambda: odd(__str__=lambda self: self.args[0]["detail"]),
    "repr raises": lambda: odd(__repr__=refuse),
    "argument whose repr raises": lambda: ValueError(type("Value", (), {"__repr__": refuse})(), 2),
    "str exits": lambda: odd(__str__=leave),
    "str is no text": lambda: odd(__str__=lambda _: 7),
    "str is None": lambda: odd(__str__=lambda _: None),
    "str is a subclass": lambda: odd(__str__=lambda _: Text("odd")),
    "str recurses": recursive,
    "no name": misnamed,
    "a long name": lambda: type("A" * 20_000, (Exception,), {})("x"),
    "NUL": lambda: ValueError("a\0b"),
    "surrogate": lambda: ValueError("a\ud800b"),
    "undecoded bytes": lambda: ValueError(b"\xff\xfe\0".decode(errors="surrogateescape")),
    "huge": lambda: ValueError("x" * 10_000_000),
    "nothing": ValueError,
    "false": lambda: odd(__bool__=lambda _: False),
    "no truth": lambda: odd(__bool__=refuse, __eq__=refuse, __hash__=lambda _: 1),
    "length": lambda: odd(__len__=lambda _: 0),
    "class raises": lambda: odd(__class__=property(refuse)),
    "SystemExit": lambda: SystemExit("\0"),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": lambda: asyncio.CancelledError("by itself"),
    "BaseException": lambda: odd(BaseException),
    "group": lambda: ExceptionGroup("several", [odd(__str__=refuse), TaskFailed("one")]),
    "group of exits": lambda: BaseExceptionGroup("several", [SystemExit(1), GeneratorExit()]),
    "odd group": lambda: type("Odd", (ExceptionGroup,), {"exceptions": property(refuse)})("x", [OSError()]),
    "notes": lambda: odd(__notes__=property(refuse)),
    "syntax": lambda: odd(SyntaxError, lineno=property(refuse), text=7),
    "failed, of no text": lambda: TaskFailed(type("Value", (), {"__str__": refuse})()),
    "failed with NUL": lambda: TaskFailed("a\0b\ud800", code="c\0\ud800"),
    "failed with a huge text": lambda: TaskFailed("x" * 10_000_000, code="y" * 1_000_000),
    "failed with no code": lambda: TaskFailed("x", code=None),  # type: ignore[arg-type]
    "failed with an empty code": lambda: TaskFailed("x", code=""),
    "failed with no truth": lambda: TaskFailed("x", retry=type("Value", (), {"__bool__": refuse})()),
    "failed with no delay": lambda: TaskFailed("x", delay="soon"),  # type: ignore[arg-type]
    "failed with a delay of NaN": lambda: TaskFailed("x", delay=float("nan")),
    "failed with a delay before now": lambda: TaskFailed("x", delay=-5),
    "failed with a delay for ever": lambda: TaskFailed("x", delay=float("inf"), retry=False),
}


@pytest.mark.parametrize("how", RAISED)
def test_what_is_raised_is_described_in_text_that_can_be_stored(how: str) -> None:
    text = described(RAISED[how]())
    assert type(text) is str
    assert 0 < len(text) <= MAX_MESSAGE
    assert "\0" not in text
    assert text.encode().decode() == text


def test_a_group_is_described_with_what_is_in_it() -> None:
    text = described(ExceptionGroup("several", [odd(__str__=refuse), OSError("no such page")]))
    assert text == (
        "ExceptionGroup: several (2 sub-exceptions);"
        " Odd: its text cannot be read, str() raised ZeroDivisionError; OSError: no such page"
    )


def test_whatever_handlers_raise_fails_their_own_tasks(half: Half, db: Database) -> None:
    def answer(task: ClaimedTask, lease: AnyLease) -> None:
        raise RAISED[task.task_id]()

    # A future takes no StopIteration, and so the coroutine that awaits a thread which raised it waits for ever.
    raised = [how for how in RAISED if not (half.asynchronous and how == "StopIteration")]
    bad = [enqueue(db, "BAD", task_id=how, max_retries=0, priority=5) for how in raised]
    good = enqueue(db)
    half.drain(db, {"BAD": answer, "X": nothing}, concurrency=5)
    ended = {one.task_id: task(db, one) for one in bad}
    assert {how: one.status for how, one in ended.items()} == dict.fromkeys(raised, "failed")
    assert all(one.error_code and one.error_message is not None for one in ended.values())
    assert {one.claim_seq for one in ended.values()} == {1}
    assert ended["str raises"].error_code == "handler"
    assert ended["failed with NUL"].error_message == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert task(db, good).status == "completed"


async def test_whatever_coroutines_raise_fails_their_own_tasks(db: Database) -> None:
    """In the event loop itself; the halves above run functions in threads."""

    async def answer(task: ClaimedTask, lease: AsyncLease) -> None:
        raise RAISED[task.task_id]()

    bad = [enqueue(db, task_id=how, max_retries=0) for how in RAISED]
    async with AsyncDatabase(db.url) as other:
        await AsyncWorker(other, {"X": answer}, **QUICK).run(drain=True, signals=False)
    assert {one.task_id: task(db, one).status for one in bad} == dict.fromkeys(RAISED, "failed")


# Results


class OddMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise SystemExit(key)

    def __iter__(self) -> Iterator[str]:
        return iter(("result_type", "content"))

    def __len__(self) -> int:
        return 2


class OddList(list[Any]):
    __iter__ = leave


def deep() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(100_000):
        found = {"x": found}
    return found


def circle() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["x"] = found
    return found


def result(content: object = None, result_type: object = "x", **more: object) -> list[dict[str, object]]:
    return [{"result_type": result_type, "content": {} if content is None else content, **more}]


RETURNED: dict[str, Callable[[], Any]] = {
    "number": lambda: 7,
    "false": lambda: False,
    "text": lambda: "done",
    "bytes": lambda: b"done",
    "class": lambda: odd,
    "generator": lambda: (one for one in result()),
    "coroutine function": lambda: nothing,
    "class raises": lambda: type("Odd", (), {"__class__": property(refuse)})(),
    "no truth": lambda: type("Odd", (), {"__bool__": refuse, "__len__": refuse})(),
    "list that exits": lambda: OddList([1]),
    "mapping that exits": OddMapping,
    "mapping in a list": lambda: [OddMapping()],
    "nested list": lambda: [result()],
    "unknown key": lambda: result(extra=1),
    "a key that is no text": lambda: [{"result_type": "x", "content": {}, 5: 1}],
    "type of no text": lambda: result(result_type=5),
    "type of bytes": lambda: result(result_type=b"x"),
    "empty type": lambda: result(result_type=""),
    "type with NUL": lambda: result(result_type="a\0b"),
    "type with a surrogate": lambda: result(result_type="a\ud800b"),
    "content of text": lambda: result("text"),
    "content of a list": lambda: result([1, 2]),
    "content of an object": lambda: result({"x": object()}),
    "content of bytes": lambda: result({"x": b"x"}),
    "content with NUL": lambda: result({"x": "a\0b"}),
    "content with a key with NUL": lambda: result({"a\0b": 1}),
    "content with a surrogate": lambda: result({"x": ["a\ud800b"]}),
    "content with NaN": lambda: result({"x": float("nan")}),
    "deep content": lambda: result(deep()),
    "circular content": lambda: result(circle()),
    "keys that are no JSON": lambda: result({(1, 2): 3}),
    "metadata of no JSON": lambda: result(metadata={"x": {1}}),
    "metadata of None": lambda: result(metadata=None),
}


def test_whatever_handlers_return_fails_their_own_tasks_and_is_not_done_again(
    half: Half, db: Database
) -> None:
    """With retries left: the work was done, and its result would be refused once more."""
    attempts: list[str] = []

    def answer(task: ClaimedTask, lease: AnyLease) -> Any:
        attempts.append(task.task_id)
        return RETURNED[task.task_id]()

    bad = [enqueue(db, "BAD", task_id=how, max_retries=3) for how in RETURNED]
    good = [enqueue(db, "X", content={"n": number}) for number in range(5)]
    half.drain(db, {"BAD": answer, "X": lambda one, _: result(one.content)}, concurrency=5)  # type: ignore[dict-item, return-value]
    ended = {one.task_id: task(db, one) for one in bad}
    assert {how: (one.status, one.error_code) for how, one in ended.items()} == dict.fromkeys(
        RETURNED, ("failed", "result")
    )
    assert sorted(attempts) == sorted(RETURNED)
    assert {task(db, one).status for one in good} == {"completed"}


# The log


class Broken(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise SystemExit(record.name)


class BrokenHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the disk is full")


@pytest.mark.parametrize("part", ["filter", "handler"])
def test_a_log_that_raises_does_not_end_the_worker(half: Half, db: Database, part: str) -> None:
    def fail(task: ClaimedTask, lease: AnyLease) -> None:
        raise odd(__str__=refuse)

    logger = logging.getLogger("alfred_db.worker")
    bad, good = enqueue(db, "BAD", max_retries=1, priority=5), enqueue(db)
    broken, handler = Broken(), BrokenHandler()
    logger.addFilter(broken) if part == "filter" else logger.addHandler(handler)
    try:
        half.drain(db, {"BAD": fail, "X": nothing}, concurrency=1)
    finally:
        logger.removeFilter(broken)
        logger.removeHandler(handler)
    assert (task(db, bad).status, task(db, bad).retry_count) == ("failed", 1)
    assert task(db, good).status == "completed"


def test_the_log_has_the_traceback_of_what_cannot_be_read(
    half: Half, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(task: ClaimedTask, lease: AnyLease) -> None:
        raise odd(__str__=refuse)

    enqueue(db, max_retries=0)
    half.drain(db, {"X": fail})
    (record,) = [one for one in caplog.records if one.exc_info is not None]
    assert record.exc_info is not None
    assert record.exc_info[0] is not None
    assert record.exc_info[0].__name__ == "Odd"
