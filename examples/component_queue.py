"""The queue of the documented SMTP class: mails wait in a directory until a server takes them."""

import tempfile
from pathlib import Path

import smtpkit
from smtpkit.testing import Script, Server


def main() -> None:
    """Queue three mails, one to somebody unknown, and send them."""
    script = Script(replies={"RCPT:nobody@example.org": "550 5.1.1 no such user"})
    with Server(script) as server, tempfile.TemporaryDirectory() as queue_dir:
        smtp = smtpkit.SMTP()
        smtp.mail_server, smtp.mail_port = server.host, server.port
        smtp.from_, smtp.subject, smtp.message_text = "ann@example.com", "Later", "See you at noon.\r\n"
        for name in ("bob", "nobody", "cy"):
            smtp.send_to = f"{name}@example.org"
            print("queued as", Path(smtp.queue(queue_dir)).suffix)
        smtp.on_error = lambda e: print("error", e.error_code, e.description)
        try:
            smtp.process_queue(queue_dir)
        except smtpkit.ComponentError as error:
            print(error.message.partition(":")[0])
        print(f"{len(server.received)} mails sent, left behind: {[path.suffix for path in Path(queue_dir).iterdir()]}")


if __name__ == "__main__":
    main()
