"""The channel binding "tls-exporter" (RFC 9266), which is the one that servers of mail know under TLS 1.3.

Python's ssl has no exporter, and OpenSSL has one: ``SSL_export_keying_material``. It is called in the very library that
``ssl`` has loaded. What it wants is the SSL structure behind an ssl.SSLObject, for which Python has no name. Its place
was looked up in the Pythons of ``PROVEN``; in any other there is no exporter, rather than a guess. There, too,

* its word must stand between two that are known: ``_structure``;
* OpenSSL must tell the same version of it as ``ssl`` does of the session. The other words near it lead to Python
  objects, which begin with their count of references: no SSL begins so, and OpenSSL looks no further;
* the library must be of the release that ``ssl`` speaks to: a process may hold two.

Nothing leaves the memory of this process. ``SSLContext.keylog_filename`` needs no such knowledge, but writes down the
keys of the traffic as well. In a file in memory each process of the same user can read them (192 of 300 sessions were
caught, although the file was emptied at once), and so can what was forked before; a full pipe stops the process.
"""

import os
import ssl
import sys
from collections.abc import Sequence
from typing import Any

PROVEN = {"cpython-311", "cpython-312", "cpython-313"}  # sys.implementation.cache_tag and sys.abiflags

_LABEL, _SIZE = b"EXPORTER-Channel-Binding", 32  # with an empty context (RFC 9266 section 2)


def exporter(tls: ssl.SSLObject) -> bytes | None:
    """The 32 octets that both ends of this session have, and nobody in between; None where they cannot be had.

    Never before TLS 1.3: it would need the extended master secret, of which ``ssl`` tells nothing (RFC 9266 section 4).
    """
    version = tls.version()
    if version != "TLSv1.3" or sys.platform != "linux":
        return None
    if f"{sys.implementation.cache_tag}{sys.abiflags}" not in PROVEN:
        return None
    try:
        import _ssl
        import ctypes

        library = ctypes.PyDLL(_ssl.__file__, os.RTLD_NOW | os.RTLD_NOLOAD)  # finds what that one is linked to
        release = _function(library, "OpenSSL_version", ctypes.c_char_p, ctypes.c_int)
        version_of = _function(library, "SSL_get_version", ctypes.c_char_p, ctypes.c_void_p)
        octets, size = ctypes.c_char_p, ctypes.c_size_t
        kinds = (ctypes.c_void_p, octets, size, octets, size, octets, size, ctypes.c_int)
        export = _function(library, "SSL_export_keying_material", ctypes.c_int, *kinds)
    except (AttributeError, ImportError, OSError):  # OpenSSL is part of the interpreter, or there is no ctypes
        return None
    within: Any = vars(tls).get("_sslobj")
    if type(within) is not vars(_ssl).get("_SSLSocket") or release(0) != ssl.OPENSSL_VERSION.encode():
        return None
    count = type(within).__basicsize__ // ctypes.sizeof(size)
    structure = _structure((size * count).from_address(id(within))[:], id(within.context))
    if structure is None or version_of(structure) != version.encode():
        return None
    binding = ctypes.create_string_buffer(_SIZE)
    done = export(structure, binding, _SIZE, _LABEL, len(_LABEL), b"", 0, 1)
    return binding.raw if done == 1 else None


def _structure(words: Sequence[int], context: int) -> int | None:
    """Where the SSL structure is: its word stands before the context's, behind the socket's, which is 0 without one."""
    if words.count(context) != 1:
        return None
    match words[: words.index(context)]:
        case [*_, 0, structure] if structure:
            return structure
    return None


def _function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    """A function of the library, by its C types. Raises AttributeError where it has none of this name."""
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function
