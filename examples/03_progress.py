"""How far a large mail is: a callback for each event of a kind."""

import io

import smtpkit
from smtpkit.testing import Server


def show(progress: smtpkit.TransferProgress) -> None:
    """Print one line."""
    if progress.size:
        share = progress.done / progress.size
        print(f"{share:4.0%} of {progress.size:,} octets, {progress.rate / 1e6:,.1f} MB/s")


HEADER = b"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: a long one\r\n\r\n"

with Server() as server, smtpkit.SyncClient(server.url, rate=2_000_000) as client:
    client.on(smtpkit.TransferProgress, show)
    outcome = client.send(io.BytesIO(HEADER + b"A line of text.\r\n" * 40_000))  # any binary file will do
    print("accepted for", *outcome.accepted)
