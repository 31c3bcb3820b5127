"""Signed messages by dkimpy: `sign DIRECTORY COUNT` writes them, `verify FILE...` fails where a signature does not hold."""
import base64
import pathlib
import sys

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

HEADERS = [b"from", b"to", b"subject", b"mime-version", b"content-type", b"references", b"x-list"]
CANONICAL = [(a, b) for a in (b"simple", b"relaxed") for b in (b"simple", b"relaxed")]


def message(number):
    """Of every kind that a relay might want to touch."""
    lines = [
        f"From: Ann <ann@signed.test>\r\nTo: <b{number}@capture.test>",
        f"Subject:  two  blanks {number} ",
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8",
    ]
    if number % 5 == 1:
        lines.append("Content-Transfer-Encoding: 8bit")
    if number % 5 == 2:
        lines.append("References: " + " ".join(f"<{n}@signed.test>" for n in range(90)))
    if number % 5 == 3:
        lines.append("X-List: a,\r\n\tb,\r\n  c")
    if number % 2:
        lines.append(f"Date: Mon, 30 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{number}@signed.test>")
    body = f"number {number}\r\n\r\n.dot\r\ntrailing  blanks \t \r\n"
    if number % 5 == 1:
        body += "Grüße\r\n"
    if number % 5 == 4:
        body += "no space " * 10 + "\r\n\r\n\r\n"
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def sign(directory, count):
    """And the key's record beside them."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    pathlib.Path(directory, "record").write_bytes(record)
    for number in range(count):
        text = message(number)
        there = text.split(b"\r\n\r\n")[0].lower()
        covered = [name for name in HEADERS if b"\n" + name + b":" in b"\n" + there]
        field = dkim.sign(
            text, b"s", b"signed.test", pem,
            canonicalize=CANONICAL[number % len(CANONICAL)], include_headers=covered,
        )
        pathlib.Path(directory, f"{number}.eml").write_bytes(field + text)


def verify(record, files):
    """Names those that do not hold."""
    bad = [file for file in files if not dkim.verify(pathlib.Path(file).read_bytes(), dnsfunc=lambda name, timeout=5: record)]
    print(f"{len(files) - len(bad)} verified")
    sys.exit(f"not verified: {bad}" if bad else 0)


if sys.argv[1] == "sign":
    sign(sys.argv[2], int(sys.argv[3]))
else:
    verify(pathlib.Path(sys.argv[2]).read_bytes(), sys.argv[3:])
