"""The library's errors: one line each, and what they are about."""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """Any error of the library. Its text is one line."""

    #: The kind by name.
    kind: ClassVar[str] = "error"
    #: The line without the file's name.
    detail: str = ""
    #: The file that the error is about, if there is one.
    path: str | None = None
    #: The tensor, key or argument that it is about, if there is one.
    subject: str | None = None


class IoError(Error, OSError):
    """The operating system refused to read, write or map."""

    kind = "io"


class FormatError(Error, ValueError):
    """A file's bytes break its format."""

    kind = "format"


class UnsupportedError(Error):
    """A well-formed file or request that is not implemented."""

    kind = "unsupported"


class ArgumentError(Error, ValueError):
    """An argument is out of range."""

    kind = "argument"


class ResourceError(Error, MemoryError):
    """Memory could not be allocated, or threads not be started."""

    kind = "resource"


class NumericError(Error, ArithmeticError):
    """A number left the range of floats, as damaged weights make it do."""

    kind = "numeric"


class InternalError(Error, RuntimeError):
    """A defect in the library."""

    kind = "internal"


class Interrupted(Error):
    """`Session.interrupt` was called from another thread. Ctrl-C is a KeyboardInterrupt instead."""

    kind = "interrupted"
