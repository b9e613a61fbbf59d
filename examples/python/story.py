"""Continues a text from Python, without anything to install but the shared library: story.py LIBRARY MODEL."""

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_int32, c_size_t, c_void_p

library = ctypes.CDLL(sys.argv[1])
PIECE = ctypes.CFUNCTYPE(c_int32, POINTER(ctypes.c_char), c_size_t, c_void_p)
error = c_void_p()

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
    """Calls a function of the library; a failure becomes an exception."""
    if function(*arguments, byref(error)):
        message = library.cinder_error_message(error).decode()
        library.cinder_error_free(error)
        raise RuntimeError(message)


@PIECE
def show(text, size, _):
    print(text[:size].decode(), end="", flush=True)
    return 0


model, session = c_void_p(), c_void_p()
try:
    call(library.cinder_model_open, sys.argv[2].encode(), None, byref(model))
    call(library.cinder_session_create, model, None, byref(session))
    text = "The old house".encode()
    call(library.cinder_session_append_text, session, text, len(text))
    call(library.cinder_session_generate, session, None, show, None, None)
    print()
    try:
        call(library.cinder_model_open, b"no such file", None, byref(c_void_p()))
    except RuntimeError as refusal:
        print(refusal)
finally:
    library.cinder_session_free(session)
    library.cinder_model_free(model)
