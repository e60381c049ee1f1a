"""The settings that are no properties: what ``config("Name=Value")`` reaches, besides the properties it repeats."""

import codecs
import re
from typing import TYPE_CHECKING, Any

from smtpkit.component.errors import CODE_PAGE, ComponentError
from smtpkit.component.fields import (
    FLAG,
    SECRET,
    SECRET_LINES,
    Kind,
    Row,
    Setting,
    Table,
    check_unconnected,
    number,
    read_number,
    whole,
)
from smtpkit.options import PARAMETERS

if TYPE_CHECKING:
    from smtpkit.component.work import Work

CODE_PAGES = {
    20127: "us-ascii",
    20866: "koi8-r",
    21866: "koi8-u",
    65001: "utf-8",
    **{1250 + number: f"windows-{1250 + number}" for number in range(9)},
    **{28590 + number: f"iso-8859-{number}" for number in (*range(1, 10), 13, 15)},
}
_CHARSET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}\Z")


def _is_charset(value: Any) -> str:
    if value == "":
        return ""
    if not isinstance(value, str) or not _CHARSET.match(value):
        raise ValueError
    try:
        if codecs.lookup(value).encode("Aa=?")[0] != b"Aa=?":
            raise ValueError
    except (LookupError, TypeError):
        raise ValueError from None
    return value


def _is_code_page(value: Any) -> int:
    if number(value) not in CODE_PAGES:
        raise ValueError
    return number(value)


def _is_hello(value: Any) -> str:
    if value != "" and not PARAMETERS["hello"].kind.right(value):
        raise ValueError
    return str(value)


def _read_ipv6(text: str) -> bool:
    return FLAG.read({"2": "1"}.get(text, text))


_CHARSETS = Kind("empty, or a charset that holds ASCII, such as UTF-8", _is_charset, _is_charset)
_CODE_PAGES = Kind(f"one of {', '.join(map(str, sorted(CODE_PAGES)))}", _is_code_page, read_number)
_HELLO = Kind(f"empty, or {PARAMETERS['hello'].kind.wanted}", _is_hello, _is_hello)
_IPV6 = Kind("True or False (2 is True)", FLAG.right, _read_ipv6)
_PORT = whole(0, 65535)


class Settings(Table):
    """The values of the settings; ``work`` knows what is connected."""

    def __init__(self, work: "Work") -> None:
        super().__init__()
        self._work = work

    def _check_change(self, row: Row[Any]) -> None:
        check_unconnected(row, connected=self._work.connected)

    allow_empty_to = Setting("AllowEmptyTo", FLAG, False, "SendTo may be empty; Cc or BCc suffice.")
    authorization_identity = Setting(
        "AuthorizationIdentity", SECRET, "", "Whom to act as; with XOAUTH2 the token, which may begin with 'Bearer '."
    )
    charset = Setting("Charset", _CHARSETS, "", "The charset of encoded words in the header; empty: UTF-8.")
    hello = Setting(
        "Hello",
        _HELLO,
        "",
        "The name for EHLO and HELO. Empty: the host's name if it has a dot, else the address of this end.",
    )
    keep_queue = Setting("KeepQueue", FLAG, False, "process_queue keeps what was sent, as .sent.")
    max_header_length = Setting(
        "MaxHeaderLength", whole(0), 80, "Longer header lines are folded, the line end counted; 0: at 1000 octets."
    )
    send_rset = Setting("SendRSET", FLAG, True, "RSET leads the second mail of a session and those after it.")
    stop_on_to_errors = Setting("StopOnToErrors", FLAG, True, "A refused To stops the mail; else it is an Error event.")
    stop_on_cc_errors = Setting("StopOnCcErrors", FLAG, True, "A refused Cc stops the mail; else it is an Error event.")
    stop_on_bcc_errors = Setting("StopOnBccErrors", FLAG, False, "A refused BCc stops it; else it is an Error event.")
    connection_timeout = Setting("ConnectionTimeout", whole(0), 0, "Seconds to connect in; 0: as Timeout says.")
    keep_alive_time = Setting(
        "KeepAliveTime",
        whole(0, 32_767_000),
        0,
        "Milliseconds of silence before TCP asks; 0: the system's. Turns TCPKeepAlive on.",
    )
    keep_alive_interval = Setting(
        "KeepAliveInterval",
        whole(0, 32_767_000),
        0,
        "Milliseconds between its questions; 0: the system's. Turns TCPKeepAlive on.",
    )
    linger = Setting(
        "Linger", FLAG, True, "Close in order; False: by a reset, which may lose what is still to be sent."
    )
    linger_time = Setting(
        "LingerTime", whole(0), 0, "Seconds that an orderly close may wait, then a reset; 0: the system's way."
    )
    local_port = Setting(
        "LocalPort",
        _PORT,
        0,
        "The port that connections come from; 0: any. Once connected the one in use is read.",
        fixed=106,
        reads=lambda self, kept: self._work.local_end[1] or kept,
    )
    max_line_length = Setting(
        "MaxLineLength", whole(256), 2048, "The longest line of a reply, in octets; a longer one ends it.", fixed=112
    )
    max_transfer_rate = Setting(
        "MaxTransferRate", whole(0), 0, "Octets of a mail per second at most, from the next connection on; 0: no limit."
    )
    record_length = Setting("RecordLength", whole(0), 0, "Kept and without effect: SMTP has lines, not records.")
    tcp_keep_alive = Setting("TCPKeepAlive", FLAG, False, "TCP asks whether the peer is still there.")
    use_ipv6 = Setting("UseIPv6", _IPV6, False, "Only IPv6; False: what the system prefers.")
    tcp_no_delay = Setting("TcpNoDelay", FLAG, False, "Small packets are sent at once (TCP_NODELAY).")
    absolute_timeout = Setting("AbsoluteTimeout", FLAG, False, "Timeout limits a whole method, not each wait.")
    firewall_data = Setting("FirewallData", SECRET_LINES, "", "Header lines for the CONNECT of an HTTP tunnel.")
    in_buffer_size = Setting(
        "InBufferSize",
        whole(0),
        0,
        "Octets of the socket's receive buffer; 0: the system's. Once connected the real size is read.",
        reads=lambda self, kept: self._work.buffer_size("SO_RCVBUF") or kept,
    )
    out_buffer_size = Setting(
        "OutBufferSize",
        whole(0),
        0,
        "Octets of the socket's send buffer; 0: the system's. Once connected the real size is read.",
        reads=lambda self, kept: self._work.buffer_size("SO_SNDBUF") or kept,
    )
    code_page = Setting("CodePage", _CODE_PAGES, 65001, "The code page in which MessageText and Message are written.")

    def encode(self, text: str) -> bytes:
        """Text as octets of the code page. Raises ComponentError for what it has not."""
        charset = CODE_PAGES[self.code_page]
        try:
            return text.encode(charset)
        except UnicodeEncodeError as error:
            character = text[error.start]
            raise ComponentError(CODE_PAGE, f"{character!r} is not in code page {self.code_page} ({charset})") from None
