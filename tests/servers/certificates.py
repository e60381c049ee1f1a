"""Certificates for localhost and 127.0.0.1 and for a client, and the authority to trust for them, as files."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the authority both sides trust, the chain and key a server shows, and both of a client's in one."""

    authority: Path
    chain: Path
    key: Path
    client: Path


def issue(directory: Path) -> Certificate:
    """Write the files into ``directory``; the keys are readable by their owner alone. The client is ``tester``."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    files = Certificate(*(directory / f"{name}.pem" for name in ("authority", "chain", "key", "client")))
    files.key.touch(mode=0o600)
    files.client.touch(mode=0o600)
    authority.issue_cert("tester@example.test", common_name="tester").private_key_and_cert_chain_pem.write_to_path(
        files.client
    )
    authority.cert_pem.write_to_path(files.authority)
    leaf.private_key_pem.write_to_path(files.key)
    for number, part in enumerate(leaf.cert_chain_pems):
        part.write_to_path(files.chain, append=number > 0)
    return files
