"""What the proxies are given: keys, a certificate, a service's address. Made once and kept."""

import hashlib
import random
import subprocess
import zlib
from pathlib import Path

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
UNKNOWN = 20_000


def token(numbers):
    """A token in Keyward's own form, checksum included: the others take it for any text."""
    text = "kw_live_" + "".join(numbers.choices(DIGITS, k=43))
    checksum, left = "", zlib.crc32(text.encode())
    for _ in range(6):
        left, digit = divmod(left, 62)
        checksum = DIGITS[digit] + checksum
    return text + checksum


class Inputs:
    """Files below one folder."""

    def __init__(self, folder: Path, keys: int):
        self.folder = folder
        self.count = keys
        self.keys = folder / f"keys-{keys}.txt"
        self.unknown = folder / "unknown.txt"
        self.chain = folder / "chain.pem"
        self.private = folder / "private.pem"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.keys.exists():
            numbers = random.Random(7)
            self.write(self.keys, (token(numbers) for _ in range(keys)))
        if not self.unknown.exists():
            numbers = random.Random(8)
            self.write(self.unknown, (token(numbers) for _ in range(UNKNOWN)))
        if not self.chain.exists():
            # ECDSA on P-256, as most sites use.
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
                + ["-days", "3650", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
                + ["-keyout", str(self.private), "-out", str(self.chain)],
                check=True,
                capture_output=True,
            )
        both = folder / "haproxy.pem"
        both.write_text(self.chain.read_text() + self.private.read_text())

    @staticmethod
    def write(path, lines):
        part = path.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in lines))
        part.rename(path)

    def tokens(self):
        return self.keys.read_text().split()

    def hashes(self):
        return (hashlib.sha512(text.encode()).hexdigest() for text in self.tokens())
