"""``vedette-convert sign`` and ``vedette-convert keygen``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from vedette.arguments import Help
from vedette.contract.errors import UserError

KEYGEN_EXAMPLES = """\
examples:
  vedette-convert keygen site                 # site.key signs, site.pub goes onto the devices
  openssl genpkey -algorithm ed25519 -out site.key && openssl pkey -in site.key -pubout -out site.pub     # the same

Keep the private key off devices and out of repositories; who has it can sign what devices run.
"""
SIGN_EXAMPLES = """\
examples:
  vedette-convert sign person.tflite --key site.key
  vedette-convert sign person.tflite --key site.key --out signed/person.tflite
  vedette verify person.tflite --keys site.pub

Exit codes: 0 signed; 2 a bad bundle or key
"""


def add(commands: Any) -> None:
    """Declares both commands."""
    keygen = commands.add_parser(
        "keygen",
        help="make a pair of keys for signing bundles",
        description="Makes an ed25519 key: NAME.key, which signs and only its owner can read, and NAME.pub.",
        epilog=KEYGEN_EXAMPLES,
        formatter_class=Help,
    )
    keygen.add_argument("name", type=Path, metavar="NAME", help="the files' path, without .key and .pub")
    keygen.set_defaults(run=run_keygen)
    sign = commands.add_parser(
        "sign",
        help="sign a bundle",
        description="Puts a signature over the manifest into the bundle, in the place of any other. Nothing else changes: "
        "the bundle keeps its sha256.",
        epilog=SIGN_EXAMPLES,
        formatter_class=Help,
    )
    sign.add_argument("bundle", type=Path, metavar="BUNDLE")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key (PEM, ed25519)")
    sign.add_argument("--out", type=Path, metavar="FILE", help="where to; in the place of BUNDLE if not given")
    sign.set_defaults(run=run_sign)


def run_keygen(options: argparse.Namespace) -> int:
    """Writes both files; neither may be there already."""
    from vedette.trust.signatures import new_private_key, public_pem

    private, public = (options.name.with_name(options.name.name + suffix) for suffix in (".key", ".pub"))
    key = new_private_key()
    for path in (private, public):
        if path.exists():
            raise UserError("is there already", where=path, fix="take another name")
    _create(private, key.pem(), 0o600)
    _create(public, public_pem(key.public()), 0o644)
    print(f"{private}: keep it to yourself\n{public}: {key.public().fingerprint}, for [trust] keys on the devices")
    return 0


def run_sign(options: argparse.Namespace) -> int:
    """Signs in place, whole or not at all, or to another file."""
    from vedette.contract.bundle import open_bundle, with_signature, write_packed
    from vedette.trust.keyring import load_private_key

    key = load_private_key(options.key)
    bundle = open_bundle(options.bundle)
    out = options.out or options.bundle
    signed = with_signature(bundle, key.sign(bundle.read("manifest.json")))
    try:
        write_packed(out, signed)
    except OSError as error:
        raise UserError("bundle cannot be written", where=out, found=error.strerror or str(error)) from None
    print(f"{out}: {bundle.manifest.name} {bundle.manifest.version} signed by {key.public().fingerprint}")
    return 0


def _create(path: Path, data: bytes, mode: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    except OSError as error:
        raise UserError("key cannot be written", where=path, found=error.strerror or str(error)) from None
