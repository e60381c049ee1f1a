"""The server's side of SMTP and LMTP without any I/O: octets in, actions out.

It follows RFC 5321 with the extensions that its script offers, unless the script says otherwise. It shares nothing with
the client that it tests.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from smtpkit.testing.intake import MAIL_PARAMETERS, RCPT_PARAMETERS, Dotted, Improper, Store, read_path
from smtpkit.testing.mechanisms import Exchange
from smtpkit.testing.outlet import Action, Close, Outlet, StartTLS, Wait
from smtpkit.testing.script import Answer, Fault, Line, Occurrence, Received, Recipient, Reply, Script, Session

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEFAULT_SCRIPT = Script()
_LAST_OF_GROUP = frozenset(
    {"EHLO", "HELO", "LHLO", "AUTH", "STARTTLS", "DATA", "VRFY", "EXPN", "HELP", "NOOP", "QUIT"}
)  # RFC 2920 section 3.1, RFC 3207 section 4, RFC 4954 section 4
_WITHOUT_TLS = frozenset({"EHLO", "HELO", "LHLO", "STARTTLS", "NOOP", "RSET", "QUIT"})


class Dialogue:
    """One session. ``begin()`` once, then ``receive()`` for what arrives, ``eof()`` at the end; each gives actions.

    ``received`` and ``counts`` (how often each moment of the script has come) may be shared by a server's sessions.
    """

    def __init__(
        self,
        script: Script = _DEFAULT_SCRIPT,
        *,
        session: Session | None = None,
        received: list[Received] | None = None,
        counts: dict[str, int] | None = None,
    ) -> None:
        self.script = script
        self.session = session or Session()
        self.received: list[Received] = [] if received is None else received
        self._counts: dict[str, int] = {} if counts is None else counts
        self._out = Outlet(script, self.session)
        self._buffer = bytearray()
        self._mode = self._command
        self._heard = 0
        self._hear_faults = sorted((f for f in script.faults if f.before is not None), key=lambda f: f.before or 0)
        self._moments = sorted({m for m in (*script.early, *script.close_after) if isinstance(m, int)})
        self._refusing = False
        self._offered = frozenset[str]()
        self._exchange = Exchange(script)
        self._dotted = Dotted()
        self._missing, self._last, self._refusal = 0, False, ""  # of the chunk that arrives
        self._latest = b""  # line
        self._clear()

    def begin(self) -> list[Action]:
        """What is done when the connection is there."""
        if self.script.tls == "implicit":
            self._secure()
        self._out.emit(b"")  # a fault after 0 octets
        code = self._reply("greeting", "", "")
        self._refusing = not code.startswith("2")
        return self.receive(b"")

    def receive(self, octets: bytes) -> list[Action]:
        """What is done about octets that have arrived, split anywhere."""
        while self._hear_faults and not self._out.over:
            fault = self._hear_faults[0]
            assert fault.before is not None
            due = fault.before - self._heard
            if len(octets) < due:
                break
            self._feed(octets[:due])
            octets = octets[due:]
            del self._hear_faults[0]
            self._out.fault(fault)
        self._feed(octets)
        return self._out.drain()

    def eof(self) -> list[Action]:
        """The client has ended the stream."""
        self._out.end(Close())
        self.session.closed = True
        return self._out.drain()

    # What is said

    def _reply(self, verb: str, argument: str, default: str) -> str:
        """Say what the script has for this moment, or the default; give back the reply code, "" for none."""
        answer = self._answer(verb, argument, default)
        self._give(verb, argument, answer)
        return _code(answer)

    def _answer(self, verb: str, argument: str, default: Answer, mail: Received | None = None) -> Answer:
        script = self.script
        if verb == "greeting":
            key, reply = verb, script.greeting
        elif (key := f"{verb}:{argument}") in script.replies or (key := verb) in script.replies:
            reply = script.replies[key]
        else:
            return default
        return self._choose(key, reply, mail)

    def _choose(self, key: str, reply: Reply, mail: Received | None) -> Answer:
        if reply is None or isinstance(reply, (str, bytes, Fault)):
            return reply
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if not callable(reply):
            reply = reply[min(count, len(reply)) - 1]
        if callable(reply):
            return reply(Occurrence(key, count, self._latest, self.session, mail))
        return reply

    def _give(self, verb: str, argument: str, answer: Answer) -> None:
        script = self.script
        keys = (f"{verb}:{argument}", verb)
        if script.delay:
            wait = next((script.delay[key] for key in keys if key in script.delay), 0)
            if wait:
                self._out.act(Wait(wait))
        self._out.say(answer)
        if script.early:
            for key in keys:
                if key in script.early:
                    self._say_early(key)
                    break
        if not script.close_after.isdisjoint(keys):
            self._out.end(Close())

    def _say_early(self, moment: str | int) -> None:
        out = self._out
        out.flush()
        if wait := self.script.delay.get("early"):
            out.act(Wait(wait))
        out.say(self.script.early[moment])
        out.flush()

    def _secure(self) -> None:
        self._out.act(StartTLS())
        self.session.secured = True

    # What is heard

    def _feed(self, octets: bytes) -> None:
        if not self._out.over:
            self._heard += len(octets)
            self._buffer += octets
        while self._buffer and not self._out.over and self._mode():
            pass

    def _take(self, length: int) -> bytes:
        piece = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        return piece

    def _note(self, error: str) -> None:
        if self.script.strict:
            self.session.errors.append(error)

    def _record(self, octets: bytes) -> None:
        self.session.octets_in += octets
        if not self.session.secured:
            self.session.octets_in_clear += octets

    def _line(self) -> bytes | None:
        """The next line without its end, or None if it is not complete."""
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = self._take(end + 1)
        self._record(line)
        content = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        if not line.endswith(b"\r\n"):
            self._note(f"bare LF after {content[:80]!r}")
        if b"\r" in content:
            self._note(f"bare CR in {content[:80]!r}")
        self._latest = content
        self.session.transcript.append(Line("C", content, self.session.secured))
        return content

    def _command(self) -> bool:
        line = self._line()
        if line is None:
            return False
        word, _, argument = line.partition(b" ")
        verb = word.decode("ascii", "replace").upper()
        self._obey(verb, argument)
        # What is behind a command in the buffer was sent before its reply.
        if self._buffer and not self._out.over and self._mode != self._chunk:
            if verb in _LAST_OF_GROUP:
                self._note(f"octets sent behind {verb}, before its reply")
            elif self.session.hello and "PIPELINING" not in self._offered:
                self._note(f"octets sent behind {verb} though PIPELINING is not offered")
        return True

    def _obey(self, verb: str, argument: bytes) -> None:
        text = argument.decode("utf-8", "replace")
        hello = self.session.hello
        if self._refusing and verb != "QUIT":
            self._reply(verb, text, "503 5.5.1 no service here; say QUIT")
        elif self.script.require_tls and not self.session.secured and verb not in _WITHOUT_TLS:
            self._reply(verb, text, "530 5.7.0 Must issue a STARTTLS command first")
        elif verb in ("EHLO", "HELO", "LHLO"):
            self._hello(verb, text)
        elif verb in ("MAIL", "RCPT", "DATA", "BDAT", "AUTH", "STARTTLS") and not hello:
            self._reply(verb, text, "503 5.5.1 say hello first")
        elif verb == "MAIL":
            self._mail(argument)
        elif verb == "RCPT":
            self._rcpt(argument)
        elif verb == "DATA":
            self._data(text)
        elif verb == "BDAT" and "CHUNKING" in self._offered:
            self._bdat(argument)
        elif verb == "STARTTLS" and "STARTTLS" in self._offered:
            self._starttls(text)
        elif verb == "AUTH" and "AUTH" in self._offered:
            self._auth(argument)
        elif verb == "QUIT":
            if self._reply(verb, text, "221 2.0.0 Bye").startswith("2") and not (self._out.over or self._out.mute):
                self._out.end(Close())
        else:
            self._other(verb, text)

    def _other(self, verb: str, text: str) -> None:
        if verb == "RSET":
            if self._reply(verb, text, "250 2.0.0 forgotten").startswith("2"):
                self._clear()
            return
        default = {
            "NOOP": "250 2.0.0 OK",
            "VRFY": "252 2.5.0 cannot verify it, but will take mail for it",
            "EXPN": "550 5.1.1 no such list",
            "HELP": "214 2.0.0 see RFC 5321",
            "STARTTLS": "502 5.5.1 not offered",
            "AUTH": "502 5.5.1 not offered",
            "BDAT": "502 5.5.1 not offered",
        }.get(verb, "500 5.5.2 no such command")
        if verb in ("VRFY", "EXPN") and not text:
            default = "501 5.5.4 of whom?"
        self._reply(verb, text, default)

    def _hello(self, verb: str, name: str) -> None:
        if (verb == "LHLO") != self.script.lmtp:
            default = "500 5.5.1 this is LMTP: say LHLO" if self.script.lmtp else "500 5.5.1 this is SMTP: say EHLO"
        elif not name.strip():
            default = "501 5.5.4 who are you?"
        elif verb == "HELO":
            default = "250 smtpkit.test"
        else:
            default = "\n".join([f"250 smtpkit.test greets {name}", *self._extensions()])
        if self._reply(verb, name, default).startswith("2"):
            self.session.hello = name
            self._offered = _keywords(self._extensions() if verb != "HELO" else [])
            self._clear()

    def _extensions(self) -> list[str]:
        script = self.script
        lines = list(script.extensions)
        named = _keywords(lines)
        secured = self.session.secured
        if script.tls == "starttls" and not secured and "STARTTLS" not in named:
            lines.append("STARTTLS")
        if (script.users or script.tokens) and "AUTH" not in named and (secured or not script.require_tls):
            bearer = ("XOAUTH2", "OAUTHBEARER")
            usable = [m for m in script.mechanisms if (script.tokens if m in bearer else script.users)]
            lines.append("AUTH " + " ".join(usable))
        return lines

    def _starttls(self, text: str) -> None:
        default = "220 2.0.0 go ahead"
        if self.session.secured:
            default = "503 5.5.1 TLS is on"
        elif text:
            default = "501 5.5.4 STARTTLS takes no argument"
        if self._reply("STARTTLS", text, default) == "220" and not self._out.over:
            if self._buffer:
                self._note("octets sent behind STARTTLS, before TLS; they are dropped")
                self._record(self._take(len(self._buffer)))
            self._clear()
            self.session.hello = ""
            self.session.user = None
            self._offered = frozenset()
            self._secure()

    # Authentication (RFC 4954)

    def _auth(self, argument: bytes) -> None:
        name, *initial = argument.decode("ascii", "replace").split(" ")
        name = name.upper()
        self._exchange = Exchange(self.script)
        if self.session.user is not None:
            default = "503 5.5.1 you are known already"
        elif self._reverse_path is not None:
            default = "503 5.5.1 not within a mail transaction"
        elif len(initial) > 1 or not name:
            default = "501 5.5.4 AUTH mechanism [initial-response]"
        elif name not in self.script.mechanisms:
            default = "504 5.5.4 no such mechanism"
        else:
            default = self._exchange.begin(name, initial[0] if initial else None)
        self._after_auth(self._reply("AUTH", name, default))

    def _response(self) -> bool:
        line = self._line()
        if line is None:
            return False
        text = line.decode("utf-8", "replace")
        code = self._reply("RESPONSE", text, self._exchange.respond(text))
        if self._buffer:
            self._note("octets sent behind a response, before its reply")
        self._after_auth(code)
        return True

    def _after_auth(self, code: str) -> None:
        self._mode = self._response if code == "334" else self._command
        if code == "235":
            self.session.user = self._exchange.user

    # The mail transaction

    def _clear(self) -> None:
        self._reverse_path: str | None = None
        self._parameters: dict[str, str | None] = {}
        self._recipients: list[Recipient] = []
        self._store: Store | None = None
        self._chunked = self._failed = False
        self._arrived = 0  # octets of mail data
        self._next_moment = 0

    def _size_limit(self) -> int | None:
        for line in self.script.extensions:
            words = line.split()
            if words[0].upper() == "SIZE" and len(words) == 2 and words[1].isdigit() and int(words[1]):
                return int(words[1])
        return None

    def _mail(self, argument: bytes) -> None:
        path, parameters = "", dict[str, str | None]()
        try:
            path, parameters = read_path(argument, b"FROM:", MAIL_PARAMETERS, self._offered)
            default = self._judge_mail(path, parameters)
        except Improper as why:
            default = str(why)
        if self._reply("MAIL", path, default).startswith("2"):
            self._clear()
            self._reverse_path, self._parameters = path, parameters

    def _judge_mail(self, path: str, parameters: dict[str, str | None]) -> str:
        limit = self._size_limit()
        if self._reverse_path is not None:
            return "503 5.5.1 a transaction is open already"
        if self.script.require_auth and self.session.user is None:
            return "530 5.7.0 Authentication required"
        if path and "@" not in path:
            return "501 5.1.7 a reverse-path is a mailbox or empty"
        if not path.isascii() and "SMTPUTF8" not in parameters:
            return "553 5.6.7 a path that is not ASCII needs SMTPUTF8"
        if (parameters.get("BODY") or "").upper() == "BINARYMIME" and not {"BINARYMIME", "CHUNKING"} <= self._offered:
            return "555 5.5.4 BINARYMIME is not offered"
        if limit is not None and int(parameters.get("SIZE") or 0) > limit:
            return "552 5.3.4 more than this server takes"
        return "250 2.1.0 sender OK"

    def _rcpt(self, argument: bytes) -> None:
        path, parameters = "", dict[str, str | None]()
        try:
            path, parameters = read_path(argument, b"TO:", RCPT_PARAMETERS, self._offered)
            default = "250 2.1.5 recipient OK"
            if self._reverse_path is None:
                default = "503 5.5.1 MAIL comes first"
            elif "@" not in path and path.lower() != "postmaster":
                default = "501 5.1.3 a forward-path is a mailbox"
            elif not path.isascii() and "SMTPUTF8" not in self._parameters:
                default = "553 5.6.7 a path that is not ASCII needs SMTPUTF8"
        except Improper as why:
            default = str(why)
        if self._reply("RCPT", path, default).startswith("2"):
            self._recipients.append(Recipient(path, parameters))

    def _no_transaction(self) -> str:
        if self._failed:
            return "503 5.5.1 after a failed BDAT comes RSET"
        if self._reverse_path is None:
            return "503 5.5.1 MAIL comes first"
        if not self._recipients:
            return "503 5.5.1 no valid recipients" if self.script.lmtp else "554 5.5.1 no valid recipients"
        return ""

    def _data(self, text: str) -> None:
        default = self._no_transaction()
        if text:
            default = "501 5.5.4 DATA takes no argument"
        elif self._chunked:
            default = "503 5.5.1 DATA and BDAT do not mix"
        elif self._binary and not default:
            default = "503 5.5.1 BINARYMIME needs BDAT"
        if self._reply("DATA", text, default or "354 send it, end with a dot").startswith("3"):
            self._begin_store()
            self._dotted = Dotted()
            self._mode = self._mail_data

    @property
    def _binary(self) -> bool:
        return (self._parameters.get("BODY") or "").upper() == "BINARYMIME"

    def _begin_store(self) -> Store:
        self._store = store = Store(self._size_limit(), keep=self.script.keep == "octets")
        return store

    def _mail_piece(self, most: int) -> bytes:
        """The next octets of mail data, no further than the next moment of the script."""
        if self._next_moment < len(self._moments):
            most = min(most, self._moments[self._next_moment] - self._arrived)
        return self._take(most)

    def _passed(self, length: int) -> None:
        """So many more octets of mail data have arrived: do what the script has for this moment."""
        self._arrived += length
        while self._next_moment < len(self._moments) and self._moments[self._next_moment] <= self._arrived:
            moment = self._moments[self._next_moment]
            self._next_moment += 1
            if moment in self.script.early:
                self._say_early(moment)
            if moment in self.script.close_after:
                self._out.end(Close())

    def _mail_data(self) -> bool:
        assert self._store is not None
        piece = self._mail_piece(len(self._buffer))
        octets, rest = self._dotted.take(piece)
        self._store.add(octets)
        if rest is None:
            self._passed(len(piece))
            return True
        self._buffer[:0] = rest
        self._passed(len(piece) - len(rest))
        if not self._out.over:
            self._mode = self._command
            self._complete()
        return True

    # BDAT (RFC 3030)

    def _bdat(self, argument: bytes) -> None:
        words = argument.upper().split()
        if not 1 <= len(words) <= 2 or not words[0].isdigit() or words[1:] not in ([], [b"LAST"]):
            self._failed = self._reverse_path is not None
            self._reply("BDAT", "", "501 5.5.4 BDAT size [LAST]")
            return
        self._missing, self._last, self._refusal = int(words[0]), len(words) == 2, self._no_transaction()
        self._mode = self._chunk
        if not self._missing:
            self._end_chunk()

    def _chunk(self) -> bool:
        piece = self._mail_piece(min(self._missing, len(self._buffer)))
        self._missing -= len(piece)
        if not self._refusal:
            (self._store or self._begin_store()).add(piece)
        self._passed(len(piece))
        if not self._missing and not self._out.over:
            self._end_chunk()
        return True

    def _end_chunk(self) -> None:
        self._mode = self._command
        if self._refusal:
            self._failed = self._reverse_path is not None
            self._reply("BDAT", "", self._refusal)
            return
        self._chunked = True
        store = self._store or self._begin_store()
        if self._last:
            self._complete()
        elif not self._reply("BDAT", "", f"250 2.0.0 {store.size} octets so far").startswith("2"):
            self._failed = True

    # The end of the mail data

    def _complete(self) -> None:
        """The mail data is there: judge it, answer, and keep what was accepted."""
        if self.script.forgets:
            self._buffer.clear()
        store, script = self._store, self.script
        assert store is not None
        octets = store.octets()
        self._criticize(store)
        default = f"250 2.0.0 accepted as {len(self.received) + 1}"
        if store.exceeded:
            default, octets = "552 5.3.4 more than this server takes", b""
        mail = Received(
            self._reverse_path or "",
            self._parameters,
            tuple(self._recipients),
            octets,
            store.size,
            self._chunked,
            self.session.secured,
            self.session.user,
            self.session.hello,
            self.session.number,
            store.sha256(),
        )
        if not mail.recipients:
            default = "554 5.5.1 no valid recipients"
        paths = [recipient.path for recipient in mail.recipients] if script.lmtp and mail.recipients else [""]
        answers = [self._answer("END", path, default, mail=mail) for path in paths]
        accepted = [_code(answer).startswith("2") for answer in answers]
        if script.lmtp and mail.recipients:
            chosen = tuple(recipient for recipient, yes in zip(mail.recipients, accepted, strict=True) if yes)
            if chosen:
                self.received.append(replace(mail, recipients=chosen))
        elif accepted[0]:
            self.received.append(mail)
        if self._chunked and not any(accepted):
            self._failed = True  # until RSET, RFC 3030 section 2
        else:
            self._clear()
        for path, answer in zip(paths, answers, strict=True):
            self._give("END", path, answer)
        if self._buffer and "PIPELINING" not in self._offered:
            self._note("octets sent behind the mail data though PIPELINING is not offered")

    def _criticize(self, store: Store) -> None:
        if self._binary:
            return
        if store.bare:
            self._note("bare CR or LF in the mail data")
        body = (self._parameters.get("BODY") or "7BIT").upper()
        if store.eight_bit and body == "7BIT" and "SMTPUTF8" not in self._parameters:
            self._note("8-bit mail data without BODY=8BITMIME")


def _keywords(lines: "Iterable[str]") -> frozenset[str]:
    return frozenset(line.upper().replace("=", " ").partition(" ")[0] for line in lines)


def _code(answer: Answer) -> str:
    """The reply code that an answer begins with."""
    if isinstance(answer, bytes):
        answer = answer[:3].decode("ascii", "replace")
    return answer[:3] if isinstance(answer, str) else ""
