"""Receipt: the future of a submitted record. One is made for each, so it is made of next to nothing.

A ``Future`` builds a condition, its lock and two lists, though most are settled before anybody looks at them: a
third of what a submitted record costs. A receipt makes each of them when it is first asked for.
"""

import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Final, TypeVar

__all__ = ["Receipt"]

T = TypeVar("T")
# The words of concurrent.futures, whose functions compare them.
PENDING: Final = "PENDING"
FINISHED: Final = "FINISHED"


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
    """A ``concurrent.futures.Future`` that cannot be taken back.

    Whoever looks at a future, here or in ``concurrent.futures``, takes its condition first. Under that name lies what
    came first, and ``dict.setdefault``, which no thread or signal can divide, decides what that is: the condition of
    somebody who looked, and then ``settle`` is ``set_result`` under that condition; or the sign that the result was
    there before anybody looked, and then the state is FINISHED for all who look from now on.
    """

    _result: T | None = None
    _exception: BaseException | None = None

    def __init__(self) -> None:
        pass  # what Future.__init__ makes is made by __getattr__

    def __getattr__(self, name: str) -> object:
        if name == "_condition":
            return self.__dict__.setdefault(name, threading.Condition())
        if name == "_state":  # until somebody sets it under a condition
            return FINISHED if self.__dict__.get("_condition") is SETTLED_UNSEEN else PENDING
        if name in ("_waiters", "_done_callbacks"):
            return self.__dict__.setdefault(name, [])
        raise AttributeError(name)

    def settle(self, result: T) -> None:
        """Set the result. Called once."""
        self._result = result
        if self.__dict__.setdefault("_condition", SETTLED_UNSEEN) is not SETTLED_UNSEEN:
            self.set_result(result)

    def cancel(self) -> bool:
        return False
