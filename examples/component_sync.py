"""The documented SMTP class in the caller's thread: properties, a setting, handlers, one mail."""

import smtpkit
from smtpkit.testing import Server


def main() -> None:
    """Send one mail to a server of our own, and show how it went."""
    with Server() as server:
        smtp = smtpkit.SMTP()
        smtp.mail_server, smtp.mail_port = server.host, server.port
        smtp.from_ = '"Ann" <ann@example.com>'
        smtp.send_to = "bob@example.org, Cy <cy@example.org>"
        smtp.b_cc = "dee@example.org"
        smtp.subject = "Grüße"
        smtp.config("Charset=UTF-8")
        smtp.message_text = "Hello\r\n"
        smtp.on_pi_trail = lambda e: print("S:" if e.direction else "C:", e.message)
        smtp.on_transfer = lambda e: print(f"{e.bytes_transferred} octets, {e.percent_done} %")
        smtp.send()
        (mail,) = server.received
        print("accepted for", ", ".join(mail.paths))


if __name__ == "__main__":
    main()
