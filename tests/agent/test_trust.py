"""Signatures: keys made by OpenSSL and by us, bundles that are right, tampered with, of others, or not signed."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_scalar_add, crypto_core_ed25519_scalar_reduce
from real import agent_config, run_cli

from tiny import DATA, fake_parts
from vedette.config import load_config
from vedette.contract import archive
from vedette.contract import bundle as bundle_module
from vedette.contract.bundle import open_bundle, with_signature, write_packed
from vedette.contract.errors import BundleError, KeyFileError, ModelError, UserError
from vedette.models.model import PlainModel, read_model
from vedette.service.compose import prepare
from vedette.trust.keyring import MAX_KEYS, load_private_key, load_trust
from vedette.trust.signatures import (
    SIGNATURE_BYTES,
    PublicKey,
    Trust,
    new_private_key,
    public_pem,
    read_private_key,
    read_public_key,
    verifies,
)
from vedette_converter.cli import main as convert

KEY = new_private_key()
OTHER = new_private_key()

# RFC 8032, section 7.1, tests 1 and 2: secret key, public key, message, signature
RFC_8032 = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
)


@pytest.fixture(scope="module")
def openssl() -> Callable[..., bytes]:
    """Runs it; what it printed."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl: its keys and its verdict stay untested")
    return lambda *arguments: (
        subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, timeout=60).stdout
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Not signed."""
    path = tmp_path / "person.tflite"
    path.write_bytes(fake_parts().bytes())
    return path


def trust(*keys: PublicKey, require: bool = True) -> Trust:
    return Trust(keys or (KEY.public("site.pub"),), require)


def sign(path: Path, key=KEY) -> None:  # type: ignore[no-untyped-def]
    opened = open_bundle(path)
    write_packed(path, with_signature(opened, key.sign(opened.read("manifest.json"))))


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_signs_as_the_standard_says(secret: str, public: str, message: str, signature: str) -> None:
    der = bytes.fromhex("302e020100300506032b657004220420" + secret)
    import base64

    pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(der) + b"\n-----END PRIVATE KEY-----\n"
    key = read_private_key(pem, "k")
    assert key.public().raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert verifies(key.public(), bytes.fromhex(message), bytes.fromhex(signature))


def test_openssls_keys_sign_and_verify(tmp_path: Path, openssl: Callable[..., bytes], bundle: Path) -> None:
    private, public = tmp_path / "site.key", tmp_path / "site.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    assert convert(["sign", str(bundle), "--key", str(private)]) == 0
    trusted = load_trust([public])
    assert trusted is not None
    assert read_model(str(bundle), None, trusted).name == "tiny"


def test_openssl_verifies_what_we_sign(tmp_path: Path, openssl: Callable[..., bytes], bundle: Path) -> None:
    assert convert(["keygen", str(tmp_path / "site")]) == 0
    assert convert(["sign", str(bundle), "--key", str(tmp_path / "site.key")]) == 0
    with zipfile.ZipFile(bundle) as archive:
        (tmp_path / "m").write_bytes(archive.read("manifest.json"))
        (tmp_path / "s").write_bytes(archive.read("manifest.sig"))
    said = openssl("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", tmp_path / "site.pub",
                   "-in", tmp_path / "m", "-sigfile", tmp_path / "s")  # fmt: skip
    assert b"Signature Verified Successfully" in said
    assert openssl("pkey", "-in", tmp_path / "site.key", "-pubout") == (tmp_path / "site.pub").read_bytes()


def test_signing_changes_the_signature_and_nothing_else(bundle: Path) -> None:
    before = open_bundle(bundle)
    content = {name: before.read(name) for name in before.members}
    sign(bundle)
    sign(bundle)  # once more: the same bytes
    after = open_bundle(bundle)
    assert after.sha256 == before.sha256
    assert {name: after.read(name) for name in after.members if name != "manifest.sig"} == content
    assert after.members["manifest.sig"] == SIGNATURE_BYTES
    assert bundle.read_bytes()[: after.manifest.flatbuffer_bytes] == fake_parts().flatbuffer
    assert read_model(str(bundle), None, trust()).sha256 == before.sha256


def test_a_manifest_of_another_writer_is_signed_as_it_stands(tmp_path: Path) -> None:
    # a manifest that is not written as ours are: the signature is of its bytes, and they stay
    parts = fake_parts()
    raw = json.dumps(json.loads(bundle_module.manifest_module.encode(parts.manifest))).encode()
    path = tmp_path / "a.tflite"
    path.write_bytes(archive.assemble(parts.flatbuffer, {"manifest.json": raw, **parts.members}))
    sign(path)
    assert open_bundle(path, trust().check).read("manifest.json") == raw


def test_an_unsigned_bundle_is_refused_unless_that_is_allowed(bundle: Path) -> None:
    with pytest.raises(BundleError, match="not signed") as caught:
        read_model(str(bundle), None, trust())
    assert "site.pub" in str(caught.value) and "vedette-convert sign" in str(caught.value)
    assert read_model(str(bundle), None, trust(require=False)).name == "tiny"
    assert read_model(str(bundle)).name == "tiny"


@pytest.mark.parametrize("require", [True, False])
def test_another_keys_signature_is_refused_in_any_case(bundle: Path, require: bool) -> None:
    sign(bundle, OTHER)
    with pytest.raises(BundleError, match="signature does not match"):
        read_model(str(bundle), None, trust(require=require))
    assert read_model(str(bundle), None, trust(KEY.public("a"), OTHER.public("b"))).name == "tiny"


def test_a_plain_model_cannot_be_signed(tmp_path: Path) -> None:
    plain = PlainModel()
    with pytest.raises(ModelError, match="nobody can have signed it"):
        read_model(str(DATA / "tiny-uint8.tflite"), plain, trust())
    with pytest.raises(ModelError, match="nobody knows what its output tensors mean"):
        read_model(str(DATA / "tiny-uint8.tflite"), plain, trust(require=False))


def test_the_signature_is_judged_before_the_manifest_is_believed(tmp_path: Path) -> None:
    parts = fake_parts()
    path = tmp_path / "a.tflite"
    path.write_bytes(archive.assemble(parts.flatbuffer, {"manifest.json": b"{not json", **parts.members}))
    with pytest.raises(BundleError, match="not signed"):
        open_bundle(path, trust().check)
    with pytest.raises(BundleError, match="bad manifest"):
        open_bundle(path)


def test_every_byte_that_matters_is_covered(bundle: Path) -> None:
    """Each part of a signed bundle is tampered with, its checksum put right: nothing but the measurements may change."""
    sign(bundle)
    opened = open_bundle(bundle)
    members = {name: opened.read(name) for name in opened.members}
    flatbuffer = fake_parts().flatbuffer
    for name, data in members.items():
        changed = {**members, name: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]}
        bundle.write_bytes(archive.assemble(flatbuffer, changed))
        if name == "measurements.json":
            open_bundle(bundle, trust().check)
            continue
        with pytest.raises(BundleError, match=r"digest does not match|signature does not match"):
            open_bundle(bundle, trust().check)
    bundle.write_bytes(archive.assemble(flatbuffer[:-1] + b"\0", members))
    with pytest.raises(BundleError, match="digest does not match"):
        open_bundle(bundle, trust().check)
    bundle.write_bytes(archive.assemble(flatbuffer, members))
    assert open_bundle(bundle, trust().check) is not None


def test_a_members_digest_cannot_be_put_right_without_the_key(bundle: Path) -> None:
    sign(bundle)
    signature = open_bundle(bundle).read("manifest.sig")
    forged = fake_parts(labels_txt=b"ash\nbirch\ncedar\noak\n", manifest_sig=signature)
    bundle.write_bytes(forged.bytes())
    assert open_bundle(bundle).labels[-1] == "oak"
    with pytest.raises(BundleError, match="signature does not match"):
        open_bundle(bundle, trust().check)


@given(st.binary(max_size=200))
def test_no_bytes_are_a_signature(signature: bytes) -> None:
    with pytest.raises(BundleError):
        trust(require=False).check(b"message", signature, "w")


@given(st.integers(0, SIGNATURE_BYTES * 8 - 1))
def test_no_bit_of_a_signature_may_change(bit: int) -> None:
    signature = bytearray(KEY.sign(b"message"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verifies(KEY.public(), b"message", bytes(signature))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_signature_is_of_one_message(signed: bytes, shown: bytes) -> None:
    assert verifies(KEY.public(), shown, KEY.sign(signed)) == (shown == signed)


def test_a_second_signature_cannot_be_made_of_one() -> None:
    # s + L is the same scalar: RFC 8032, section 5.1.7 demands s < L
    order = (2**252 + 27742317777372353535851937790883648493).to_bytes(32, "little")
    signature = KEY.sign(b"message")
    s = int.from_bytes(signature[32:], "little") + int.from_bytes(order, "little")
    assert crypto_core_ed25519_scalar_reduce(s.to_bytes(64, "little")) == crypto_core_ed25519_scalar_add(
        signature[32:], bytes(32)
    )
    assert not verifies(KEY.public(), b"message", signature[:32] + s.to_bytes(32, "little"))


def test_a_key_that_signs_anything_is_none() -> None:
    # the neutral element of the curve: without a check, a signature of nothing but zeroes fits every message
    neutral = PublicKey(b"\1" + bytes(31), "neutral")
    assert not verifies(neutral, b"message", b"\1" + bytes(63))


# Key files


def test_keygen_writes_what_only_its_owner_reads_and_never_over_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(["keygen", str(tmp_path / "site")]) == 0
    private = tmp_path / "site.key"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    trusted = load_trust([tmp_path])
    assert trusted is not None
    assert trusted.keys[0].raw == load_private_key(private).public().raw
    before = private.read_bytes()
    capsys.readouterr()
    assert convert(["keygen", str(tmp_path / "site")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert private.read_bytes() == before
    (tmp_path / "site.key").unlink()
    assert convert(["keygen", str(tmp_path / "site")]) == 2
    assert not private.exists(), "a lone private key would be left behind"


def test_a_private_key_does_not_show_itself() -> None:
    assert KEY._seed.hex() not in repr(KEY) and str(KEY._seed) not in repr(KEY)


def test_keys_of_other_kinds_are_refused_in_one_line(tmp_path: Path, openssl: Callable[..., bytes]) -> None:
    openssl("genpkey", "-algorithm", "ed25519", "-out", tmp_path / "site.key")
    openssl("genpkey", "-algorithm", "X25519", "-out", tmp_path / "x.key")
    openssl("pkey", "-in", tmp_path / "x.key", "-pubout", "-out", tmp_path / "x.pub")
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", tmp_path / "rsa.key")
    openssl("pkey", "-in", tmp_path / "rsa.key", "-pubout", "-out", tmp_path / "rsa.pub")
    openssl("pkey", "-in", tmp_path / "site.key", "-aes256", "-passout", "pass:x", "-out", tmp_path / "locked.key")
    for name, expected in (("x.pub", "no ed25519 key"), ("rsa.pub", "no ed25519 key"), ("site.key", "a private key")):
        with pytest.raises(KeyFileError, match=expected) as caught:
            load_trust([tmp_path / name])
        assert "\n" not in str(caught.value) and name in str(caught.value)
    for name, expected in (("x.key", "no ed25519 key"), ("rsa.key", "no ed25519 key"), ("locked.key", "encrypted")):
        with pytest.raises(KeyFileError, match=expected):
            load_private_key(tmp_path / name)


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    good = public_pem(KEY.public())
    for number, content in enumerate(
        (b"", b"no key", good * 2, good + b"x" * 5000, good.replace(b"=", b"!"), good[:-5], good.replace(b"MCow", b"MCox"),
         b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n")
    ):  # fmt: skip
        file = tmp_path / f"{number}.pub"
        file.write_bytes(content)
        with pytest.raises(KeyFileError):
            load_trust([file])
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_trust([tmp_path / "missing.pub"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyFileError, match=r"expected files that end with \.pub"):
        load_trust([tmp_path / "empty"])


def test_keys_are_bounded(tmp_path: Path) -> None:
    for number in range(MAX_KEYS + 1):
        (tmp_path / f"{number:02}.pub").write_bytes(public_pem(KEY.public()))
    with pytest.raises(KeyFileError, match="too many keys"):
        load_trust([tmp_path])


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(content: bytes) -> None:
    for reader in (read_public_key, read_private_key):
        for pem in (content, b"-----BEGIN PUBLIC KEY-----\n" + content + b"\n-----END PUBLIC KEY-----\n"):
            with pytest.raises(KeyFileError):
                reader(pem, "w")


# Through configuration and commands


def configured(tmp_path: Path, model: Path, lines: str) -> Path:
    config = agent_config(tmp_path, 1883, f'url = "{tmp_path}"', top=f"[trust]\n{lines}")
    text = config.read_text().replace(str(DATA / "tiny-uint8.tflite"), str(model))
    config.write_text(text[: text.index("[pipeline.door.plain]")])
    return config


def prepared(config: Path) -> object:
    return prepare(load_config(config), config)


def test_a_configuration_with_keys_takes_signed_bundles_alone(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "site.pub").write_bytes(public_pem(KEY.public()))
    config = configured(tmp_path, bundle, f'keys = ["{tmp_path}/site.pub"]')
    with pytest.raises(BundleError, match="not signed"):
        prepared(config)
    sign(bundle)
    prepared(config)
    sign(bundle, OTHER)
    with pytest.raises(BundleError, match="signature does not match"):
        prepared(config)
    prepared(configured(tmp_path, bundle, ""))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('keys = "site.pub"', "trust.keys"),
        ('keys = [""]', "trust.keys"),
        ("require = 1", "trust.require"),
        ("no_rollback = true", "trust.no_rollback: bad value: expected keys beside it"),
        ("key = []", "did you mean 'keys'"),
    ],
)
def test_mistakes_in_the_table_are_named(tmp_path: Path, bundle: Path, lines: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        prepared(configured(tmp_path, bundle, lines))
    assert expected in str(caught.value)


def test_verify_says_who_signed(tmp_path: Path, bundle: Path) -> None:
    public = tmp_path / "site.pub"
    public.write_bytes(public_pem(KEY.public()))
    unsigned = run_cli("verify", bundle, "--keys", public)
    assert unsigned.returncode == 2 and "not signed" in unsigned.stderr and len(unsigned.stderr.splitlines()) == 1
    sign(bundle)
    signed = run_cli("verify", bundle, "--keys", public, "--json")
    assert signed.returncode == 0, signed.stderr
    said = json.loads(signed.stdout)
    assert (said["name"], said["version"], said["key"]) == ("tiny", "1.0", str(public))
    assert said["fingerprint"] == KEY.public().fingerprint
    assert KEY.public().fingerprint in run_cli("verify", bundle, "--keys", tmp_path).stdout


def test_libsodium_is_loaded_only_where_there_are_keys() -> None:
    code = "import sys, vedette.service.compose, vedette.cli; print('nacl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"
