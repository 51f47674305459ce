"""Receipt: the future of a submitted record. One is made for each, so it is made of next to nothing.

A ``Future`` builds a condition, its lock and two lists, though most are settled before anybody looks at them: a
third of what a submitted record costs. A receipt makes each of them when it is first asked for. And an interrupt can
leave the condition of a ``Future`` held for ever, with the thread that is to settle it behind it, so nobody here waits
for one: what is settled is told by an assignment, and who waits for it is a callback.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Final, Protocol, TypeVar, cast

from streamstore.sections import Bell, allocated

__all__ = ["Receipt"]

T = TypeVar("T")
# The words of concurrent.futures, whose functions compare them.
PENDING: Final = "PENDING"
FINISHED: Final = "FINISHED"
CONDITION_AWAITED_S: Final = 1.0
"""Who has held a condition for so long has lost it in an interrupt."""


class _FutureWaiter(Protocol):
    """What ``concurrent.futures.wait`` and ``as_completed`` leave with a future."""

    def add_result(self, future: object) -> None: ...
    def add_exception(self, future: object) -> None: ...


class _NoCondition(threading.Condition):
    """The condition of every receipt that was settled before anybody asked for its own: there is nothing to wait for.

    Nothing changes behind it any more, so it need not exclude anybody.
    """

    def __init__(self) -> None:
        pass

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        del blocking, timeout
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> bool:
        return True

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        pass


SETTLED_UNSEEN: Final = _NoCondition()


class Receipt(Future[T]):
    """A ``concurrent.futures.Future`` that cannot be taken back. ``settle`` or ``settle_failure`` settles it, once.

    The functions of ``concurrent.futures`` take its condition first. Under that name lies what came first, and
    ``dict.setdefault``, which no thread or signal can divide, decides what that is: the condition of somebody who
    looked, under which it is then settled; or the sign that it was settled before anybody looked, and then the state is
    FINISHED for all who look from now on.
    """

    _result: T | None = None
    _exception: BaseException | None = None

    def __init__(self) -> None:
        pass  # what Future.__init__ makes is made by __getattr__

    def __getattr__(self, name: str) -> object:
        if name == "_condition":
            return self.__dict__.setdefault(name, allocated(threading.Condition))
        if name == "_state":  # until somebody sets it under a condition
            return FINISHED if self.__dict__.get("_condition") is SETTLED_UNSEEN else PENDING
        if name == "_waiters":
            return self.__dict__.setdefault(name, [])
        if name == "_done_callbacks":
            return self.__dict__.setdefault(name, deque())
        raise AttributeError(name)

    def settle(self, result: T | None) -> None:
        """Set the result, if nobody has. Behind ``MemoryError`` it may be called again."""
        own = self.__dict__
        if "_state" not in own:  # then somebody else has set it
            self._result = result
            if own.setdefault("_condition", SETTLED_UNSEEN) is not SETTLED_UNSEEN:
                self._tell_waiters()
        if "_done_callbacks" in own:
            self._call_back()

    def settle_failure(self, error: BaseException) -> None:
        """Set the error. Behind ``MemoryError`` it may be called again."""
        self._exception = error
        self.settle(None)

    def cancel(self) -> bool:
        return False

    def done(self) -> bool:
        return self._state == FINISHED

    def running(self) -> bool:
        return False

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        cast(deque[Callable[[Future[T]], object]], self._done_callbacks).append(fn)
        if self._state == FINISHED:
            self._call_back()

    def result(self, timeout: float | None = None) -> T:
        self._wait(timeout)
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                del self  # the error's traceback holds this frame: no cycle
        return cast(T, self._result)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._wait(timeout)
        return self._exception

    def _wait(self, timeout: float | None) -> None:
        if self._state == FINISHED:
            return
        bell = Bell()

        def ring(_: Future[T]) -> None:
            bell.ring()

        self.add_done_callback(ring)
        if not bell.wait_for(timeout):
            try:
                cast(deque[object], self._done_callbacks).remove(ring)
            except ValueError:
                return  # it was taken just now, to be called
            raise TimeoutError

    def _tell_waiters(self) -> None:
        condition = self._condition
        is_ours = condition.acquire(timeout=CONDITION_AWAITED_S)
        try:
            for waiter in cast(list[_FutureWaiter], self._waiters):
                if self._exception is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._state = FINISHED
        finally:
            if is_ours:
                condition.release()

    def _call_back(self) -> None:
        """Call each callback once, whoever does it. What they raise is nobody's business here."""
        callbacks = cast(deque[Callable[[Future[T]], object]], self._done_callbacks)
        while True:
            try:
                callback = callbacks.popleft()
            except IndexError:
                return
            try:
                callback(self)
            except BaseException:
                pass
