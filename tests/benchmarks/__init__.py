"""Benchmarks: smtpkit and its peers side by side, interleaved in one run, against the same server."""
