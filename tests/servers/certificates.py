"""A certificate for localhost and 127.0.0.1, and the authority to trust for it, as files."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the authority a client trusts, and the chain and key a server shows."""

    authority: Path
    chain: Path
    key: Path


def issue(directory: Path) -> Certificate:
    """Write the three files into ``directory``; the key is readable by its owner alone."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    files = Certificate(directory / "authority.pem", directory / "chain.pem", directory / "key.pem")
    files.key.touch(mode=0o600)
    authority.cert_pem.write_to_path(files.authority)
    leaf.private_key_pem.write_to_path(files.key)
    for number, part in enumerate(leaf.cert_chain_pems):
        part.write_to_path(files.chain, append=number > 0)
    return files
