"""``vedette verify BUNDLE --keys PATH``"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "check a bundle's signature against trusted keys"
DESCRIPTION = (
    "Checks everything of a bundle that an agent with these keys would check before it runs it: sizes, form, signature, "
    "manifest, digests. Says who signed it."
)
EXAMPLES = """examples:
  vedette verify person.tflite --keys /etc/vedette/keys/site.pub
  vedette verify coco-ssdlite-mobilenet-v2 --keys /etc/vedette/keys

Exit codes: 0 signed by one of the keys, 2 not signed, signed by another, or changed since (one line says what).
--json prints one object: path, name, version, sha256, key, fingerprint.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("model", metavar="BUNDLE", help="a name or a file")
    parser.add_argument(
        "--keys", type=Path, action="append", required=True, metavar="PATH",
        help="a public key (PEM), or a folder of *.pub; may be given more than once",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    from vedette.contract.bundle import open_bundle
    from vedette.models.model import find_model
    from vedette.trust.keyring import load_trust
    from vedette.trust.signatures import PublicKey

    trust = load_trust(arguments.keys)
    assert trust is not None
    signers: list[PublicKey] = []

    def verify(manifest: bytes, signature: bytes | None, where: str) -> None:
        signer = trust.check(manifest, signature, where)
        assert signer is not None  # for one is required
        signers.append(signer)

    bundle = open_bundle(find_model(arguments.model), verify)
    signer = signers[0]
    if arguments.json:
        document = {
            "path": str(bundle.path),
            "name": bundle.manifest.name,
            "version": bundle.manifest.version,
            "sha256": bundle.sha256,
            "key": signer.name,
            "fingerprint": signer.fingerprint,
        }
        print(json.dumps(document))
        return 0
    print(
        f"{bundle.path}: {bundle.manifest.name} {bundle.manifest.version}, signed by {signer.name} ({signer.fingerprint})"
    )
    return 0
