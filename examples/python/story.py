"""Continues a text from Python, with nothing to install but the shared library: story.py LIBRARY MODEL."""

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_int32, c_size_t, c_void_p

library = ctypes.CDLL(sys.argv[1])
PIECE = ctypes.CFUNCTYPE(c_int32, POINTER(ctypes.c_char), c_size_t, c_void_p)

for name, arguments in {
    "cinder_model_open": [c_char_p, c_void_p, POINTER(c_void_p)],
    "cinder_session_create": [c_void_p, c_void_p, POINTER(c_void_p)],
    "cinder_session_append_text": [c_void_p, c_char_p, c_size_t],
    "cinder_session_generate": [c_void_p, c_void_p, PIECE, c_void_p, c_void_p],
}.items():
    function = getattr(library, name)
    function.restype = c_int32
    function.argtypes = [*arguments, POINTER(c_void_p)]

library.cinder_error_message.restype = c_char_p
for name in ("cinder_error_message", "cinder_error_free", "cinder_session_free", "cinder_model_free"):
    getattr(library, name).argtypes = [c_void_p]


def call(function, *arguments):
    """Calls a function of the library. A failure becomes an exception."""
    error = c_void_p()
    if function(*arguments, byref(error)):
        message = library.cinder_error_message(error).decode()
        library.cinder_error_free(error)
        raise RuntimeError(message)


def generate(session, each):
    """Passes generated text to `each` in pieces, until it returns False.

    ctypes would print an exception of a callback and drop it. It is kept here until the library has returned.
    """
    raised = []

    @PIECE
    def piece(text, size, _):
        try:
            return each(text[:size].decode()) is False
        except BaseException as exception:
            raised.append(exception)
            return 1

    call(library.cinder_session_generate, session, None, piece, None, None)
    if raised:
        raise raised[0]


def show(text):
    print(text, end="", flush=True)


def refuse(text):
    raise ValueError("enough")


model, session = c_void_p(), c_void_p()
try:
    call(library.cinder_model_open, sys.argv[2].encode(), None, byref(model))
    call(library.cinder_session_create, model, None, byref(session))
    text = "The old house stood at the end of the lane, and nobody had lived in it for years.".encode()
    call(library.cinder_session_append_text, session, text, len(text))
    generate(session, show)
    print()
    try:
        generate(session, refuse)
    except ValueError as exception:
        print(exception)
    try:
        call(library.cinder_model_open, b"no such file", None, byref(c_void_p()))
    except RuntimeError as refusal:
        print(refusal)
finally:
    library.cinder_session_free(session)
    library.cinder_model_free(model)
