"""What all errors have."""

from typing import Any, ClassVar

BY_NAME: dict[str, type["DuxError"]] = {}
BY_CODE: dict[int, type["DuxError"]] = {}


class DuxError(Exception):
    """Base of all errors that cross a socket.

    `message` says what and why, `hint` what to do now; `details` holds figures for programs (JSON values).
    """

    code: ClassVar[int] = 0
    hint_default: ClassVar[str] = ""
    retry: ClassVar[bool] = False
    component: ClassVar[str] = "common"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__name__ in BY_NAME or cls.code in BY_CODE:
            raise TypeError(f"{cls.__name__}: error name or code {cls.code} is taken")
        if cls.code:
            BY_NAME[cls.__name__] = cls
            BY_CODE[cls.code] = cls

    def __init__(self, message: str, *, hint: str | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.hint_default if hint is None else hint
        self.details = details or {}

    @property
    def name(self) -> str:
        """The stable name that programs compare with."""
        return type(self).__name__

    def to_rpc(self) -> dict[str, Any]:
        """The JSON-RPC error object."""
        data = {
            "name": self.name,
            "hint": self.hint,
            "retry": self.retry,
            "component": self.component,
            "details": self.details,
        }
        return {"code": self.code, "message": self.message, "data": data}
