"""A script without asyncio: HTML and an attachment, over TLS and with a login."""

import tempfile
from pathlib import Path

import smtpkit
from smtpkit.testing import Script, Server

with tempfile.TemporaryDirectory() as folder, Server(Script(tls="starttls", users={"ann": "secret"})) as server:
    report = Path(folder, "report.csv")
    report.write_text("month,mails\nMay,1200\n", encoding="utf-8")

    message = smtpkit.Message(
        sender="Ann <ann@example.com>",
        to=["bob@example.org", "carol@example.org"],
        bcc="archive@example.com",  # gets the mail, and is named nowhere in it
        subject="Report for May · Größe",
        text="The report is attached.",
        html="<p>The report is <b>attached</b>.</p>",
        attachments=[report],
    )

    # The test server's certificate is nobody's, so its context is needed; a real server's needs none.
    with smtpkit.SyncClient(server.url, user="ann", password="secret", ssl_context=server.client_context()) as client:
        outcome = client.send(message)

    received = server.received[0]
    print("accepted for", ", ".join(outcome.accepted))
    print("parts:", ", ".join(part.get_content_type() for part in received.message().walk()))
