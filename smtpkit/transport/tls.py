"""TLS over any stream, itself a stream: octets pass through memory, so it serves every world, and TLS within TLS."""

# ruff: noqa: D102 - the methods are those of Stream, which says what they do

import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from smtpkit.errors import ChannelLost, TLSError, UsageError
from smtpkit.options import ClientCertificate
from smtpkit.transport.certificate import end_point, pins_of
from smtpkit.transport.connect import ascii_host
from smtpkit.transport.exporter import exporter
from smtpkit.transport.stream import RawSocket, Stream

T = TypeVar("T")

PIECE = 64 * 1024  # larger ones fall out of the processor's cache between cipher and kernel
RECORD = 16 * 1024  # the most that one holds (RFC 8446 section 5.1); OpenSSL fills them
FAREWELL = 1.0  # seconds for our close_notify to leave

# OpenSSL's names for: nothing both sides speak.
_NO_COMMON_VERSION = {
    "NO_PROTOCOLS_AVAILABLE",
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "UNSUPPORTED_PROTOCOL",
    "VERSION_TOO_LOW",
}
_NOT_TLS = {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"}
_WRONG_HOST = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH

# What to do about a certificate that does not verify, by X509_V_ERR_…
_NO_AUTHORITY = "trust its authority by an ssl_context of your own, or this certificate alone by pins"
_ADVICE = {
    2: _NO_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT
    9: "check the clock of this machine",  # CERT_NOT_YET_VALID
    10: "the server needs a new one; check the clock of this machine, too",  # CERT_HAS_EXPIRED
    18: "if it is the right one, trust it by pins or by an ssl_context",  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: _NO_AUTHORITY,  # SELF_SIGNED_CERT_IN_CHAIN
    20: _NO_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: f"the server may leave out a certificate of its chain; else {_NO_AUTHORITY}",  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
}
_BROKE_OFF = (
    "broke the connection off during the TLS handshake; it may speak no TLS 1.2 or newer, "
    "want a client's certificate, or be out of order"
)
_WRONG_HOST_ADVICE = "connect to a name that it is for, or say by tls_name which name the server has"


@cache
def default_context(verify: bool, own: ClientCertificate | None) -> ssl.SSLContext:  # noqa: FBT001 - a cache key
    """The system's trusted authorities and TLS 1.2 at least (RFC 8997); made once, since it costs 23 ms.

    With ``verify=False`` the channel is encrypted and nobody knows with whom (opportunistic TLS, RFC 7435). ``own`` is
    shown to who asks for it. Raises UsageError for one that cannot be loaded.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.hostname_checks_common_name = False  # a name is a subjectAltName (RFC 9525 section 2)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if own is not None:
        _load(context, own)
    return context


def _load(context: ssl.SSLContext, own: ClientCertificate) -> None:
    files = own.certificate if own.key is None else f"{own.certificate} with {own.key}"
    password = own.password.reveal() if own.password else ""  # never asked for at the terminal
    try:
        context.load_cert_chain(own.certificate, own.key, password=lambda: password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"client_certificate: {files}: the key is not that of the certificate") from error
        raise UsageError(
            f"client_certificate: {files} cannot be used: there must be a certificate and its key, in PEM; "
            "if the key is encrypted, check the password"
        ) from error
    except OSError as error:
        raise UsageError(f"client_certificate: {files} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"client_certificate: {files} cannot be used: {error}") from error


async def secure(
    stream: Stream,
    context: ssl.SSLContext,
    server_name: str | None,
    *,
    pins: tuple[str, ...] = (),
    ticket: ssl.SSLSession | None = None,
) -> "SecureStream":
    """Do the handshake, under the stream's deadline, and return the stream to use from now on.

    ``server_name`` is the name or IP address that the caller gave: it is sent (SNI), and the certificate must be for
    it. None where there is none (a unix socket): then the context must not check it. With ``pins`` the certificate, or
    its key, must be one of them (``pins_of``); the context should then check nothing. ``ticket`` is one of an earlier
    stream with the same context and name; a server that does not take it does a full handshake. What is still at hand
    of the plain stream would be taken for TLS: see to it before. Raises TLSError, TimeoutError; the stream is then of
    no use.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = server_name or stream.peer
    name = None if server_name is None else ascii_host(server_name)
    if name is None and context.check_hostname:
        raise TLSError(f"TLS with {peer} cannot begin: the context checks host names, and there is none to check.")
    try:
        tls = context.wrap_bio(incoming, outgoing, server_hostname=name, session=ticket)
    except ValueError as error:
        raise TLSError(f"TLS with {peer} cannot begin: {error}.") from error
    secured = SecureStream(stream, tls, incoming, outgoing)
    try:
        await secured.handshake()
    except ssl.SSLError as error:
        with suppress(ChannelLost, TimeoutError):
            await secured.flush()  # the alert: the server's log can tell what was wrong
        raise TLSError(_explanation(error, peer)) from error
    except ChannelLost as error:
        raise TLSError(f"{peer} {_BROKE_OFF}: {error}") from error
    if pins:
        if set(secured.pins).isdisjoint(pins):
            raise TLSError(
                f"{peer} is not pinned: it shows {' with '.join(secured.pins)}; "
                "if it has a new certificate, make sure that this is it, and put one of the two in pins."
            )
        secured.verified = True
    return secured


class SecureStream:
    """A Stream within TLS.

    An end of the connection without close_notify is a plain end. ``untaken`` counts whole records: of one that was cut
    nobody can read anything.
    """

    def __init__(self, stream: Stream, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self.untaken = 0
        self.peer = stream.peer
        self.local_host = stream.local_host
        self._stream = stream
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._ended = False
        self.verified = tls.context.verify_mode is ssl.CERT_REQUIRED  # the peer is known to be who it should be
        self._cut = False  # within a record: nothing that follows could be read

    @property
    def deadline(self) -> float | None:
        return self._stream.deadline

    @deadline.setter
    def deadline(self, deadline: float | None) -> None:
        self._stream.deadline = deadline

    @property
    def raw_socket(self) -> RawSocket | None:
        return self._stream.raw_socket

    @property
    def version(self) -> str:
        """Such as "TLSv1.3"."""
        return self._tls.version() or ""

    @property
    def cipher(self) -> str:
        """OpenSSL's name of the cipher suite."""
        cipher = self._tls.cipher()
        return cipher[0] if cipher else ""

    @property
    def resumed(self) -> bool:
        """Whether the handshake was cut short by a ticket: then the certificate is that of the earlier one."""
        return self._tls.session_reused or False

    @property
    def ticket(self) -> ssl.SSLSession | None:
        """What resumes this TLS, once, in a later stream; in TLS 1.3 it comes with the first octets."""
        session = self._tls.session
        return session if session is not None and session.has_ticket else None

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's certificate as ssl.SSLSocket.getpeercert tells it; None if it was not verified."""
        return self._tls.getpeercert() or None

    def certificate_der(self) -> bytes | None:
        """The peer's certificate as it was sent, verified or not."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def pins(self) -> tuple[str, ...]:
        """The peer's certificate and its key as the option ``pins`` takes them, verified or not."""
        certificate = self.certificate_der()
        return () if certificate is None else pins_of(certificate)

    def channel_binding(self, kind: str) -> bytes | None:
        """What ties a login to this TLS: "tls-exporter" (RFC 9266), or "tls-server-end-point" (RFC 5929).

        None where there is none: not every Python lets the exporter be had, nor TLS 1.2, and some certificates have no
        end point. There is no "tls-unique", which TLS 1.3 does not have (RFC 9266 section 3).
        """
        if kind == "tls-exporter":
            return exporter(self._tls)
        certificate = self.certificate_der() if kind == "tls-server-end-point" else None
        return None if certificate is None else end_point(certificate)

    async def handshake(self) -> None:
        """Raises ssl.SSLError, ChannelLost, TimeoutError."""
        await self._pump(self._tls.do_handshake)
        await self.flush()

    async def flush(self) -> None:
        """Send what TLS has to say for itself."""
        if self._outgoing.pending:
            await self._put(self._outgoing.read())

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        view = memoryview(octets)
        self.untaken = len(view)
        if self._cut:
            raise ChannelLost(f"TLS with {self.peer} is broken: an earlier write was cut short.")
        while self.untaken:
            start = len(view) - self.untaken
            await self._send_piece(view[start : start + PIECE])

    async def receive(self) -> bytes:
        while True:
            octets = self._decrypted()
            if octets is not None:
                return octets
            await self.flush()  # the answer to a key update
            self._feed(await self._stream.receive())

    def at_hand(self) -> bytes | None:
        try:
            octets = self._decrypted()
            if octets is None and (arrived := self._stream.at_hand()) is not None:
                self._feed(arrived)
                octets = self._decrypted()
        except ChannelLost:
            return b""
        return octets

    async def run(self, function: Callable[[], T]) -> T:
        return await self._stream.run(function)

    async def sleep_until(self, when: float) -> None:
        await self._stream.sleep_until(when)

    def now(self) -> float:
        return self._stream.now()

    def abort(self) -> None:
        self._stream.abort()

    async def aclose(self) -> None:
        """Say close_notify, and do not wait for the peer's."""
        limit = self.now() + FAREWELL
        if self.deadline is None or self.deadline > limit:
            self.deadline = limit
        try:
            if not self._cut:
                with suppress(ssl.SSLError):
                    self._tls.unwrap()
                with suppress(ChannelLost, TimeoutError):
                    await self.flush()
        except BaseException:
            self._stream.abort()
            raise
        await self._stream.aclose()

    async def _send_piece(self, piece: memoryview) -> None:
        await self.flush()
        try:
            await self._pump(lambda: self._tls.write(piece))
        except ssl.SSLError as error:
            raise self._loss(error) from error
        records = self._outgoing.read()
        self.untaken -= len(piece)  # it may leave at once, and Ctrl-C come before the count of it
        try:
            await self._put(records)
        except BaseException:
            if self._stream.untaken:
                # The last record is cut, and all before it are full ones.
                taken = _whole_records(records, len(records) - self._stream.untaken)
                self.untaken += len(piece) - RECORD * taken
            raise

    async def _put(self, records: bytes) -> None:
        try:
            await self._stream.send(records)
        except BaseException:
            self._cut = True
            raise

    async def _pump(self, operation: Callable[[], Any]) -> None:
        """Do one operation of TLS, and carry octets between it and the stream as long as it asks for them."""
        while True:
            try:
                operation()
            except ssl.SSLWantReadError:
                await self.flush()
                self._feed(await self._stream.receive())
            else:
                return

    def _feed(self, octets: bytes) -> None:
        if octets:
            self._incoming.write(octets)
        else:
            self._incoming.write_eof()

    def _decrypted(self) -> bytes | None:
        """What can be read of what has arrived; b"" at the end; None if it makes no whole record."""
        pieces: list[bytes] = []
        while not self._ended:
            try:
                piece = self._tls.read(RECORD)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                self._ended = True
            except ssl.SSLError as error:
                if pieces:
                    break  # it comes again
                raise self._loss(error) from error
            else:
                if piece:
                    pieces.append(piece)
                else:
                    self._ended = True
        if pieces:
            return b"".join(pieces)
        return b"" if self._ended else None

    def _loss(self, error: ssl.SSLError) -> ChannelLost:
        return ChannelLost(f"TLS with {self.peer} failed: {_reason(error)}.")


def _whole_records(records: bytes, taken: int) -> int:
    """How many of these records the first ``taken`` octets hold whole (RFC 8446 section 5.1)."""
    count = end = 0
    while end + 5 <= taken:
        end += 5 + int.from_bytes(records[end + 3 : end + 5])
        count += end <= taken
    return count


def _explanation(error: ssl.SSLError, peer: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message.rstrip(".")
        if error.verify_code in _WRONG_HOST:
            return f"The certificate that was shown is not for {peer}: {reason}; {_WRONG_HOST_ADVICE}."
        advice = _ADVICE.get(error.verify_code, "ask whoever runs the server")
        return f"The certificate of {peer} cannot be trusted: {reason}; {advice}."
    if isinstance(error, ssl.SSLEOFError):
        return f"{peer} {_BROKE_OFF}."
    if error.reason in _NO_COMMON_VERSION:
        return (
            f"{peer} and this side have no version of TLS in common: {_reason(error)}; "
            "the server must learn TLS 1.2 or newer."
        )
    if error.reason in _NOT_TLS:
        return f"{peer} does not speak TLS here; check the port, and whether TLS begins at once or after STARTTLS."
    return f"The TLS handshake with {peer} failed: {_reason(error)}."


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason as words: "TLSV1_ALERT_UNKNOWN_CA" as "tlsv1 alert unknown ca"."""
    return (error.reason or str(error)).replace("_", " ").lower()
