"""A TLS context has the key it was told to use, which is written nowhere."""

import ssl
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from wfserve.config import Address, Config
from wfserve.errors import ConfigError
from wfserve.http.tls import tls_context

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
OPENSSL = serialization.PrivateFormat.TraditionalOpenSSL
PLAIN = serialization.NoEncryption()


def issued(name, key, issuer_name="authority", issuer_key=None):
    """A certificate for `name`, signed by an issuer or by itself."""
    subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (name, issuer_name))
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer_key is None, path_length=None), True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .sign(issuer_key or key, hashes.SHA256())
    )


AUTHORITY_KEY = ec.generate_private_key(ec.SECP256R1())
AUTHORITY = issued("authority", AUTHORITY_KEY)
KEY = rsa.generate_private_key(65537, 2048)
CERTIFICATE = issued("a.example", KEY, issuer_key=AUTHORITY_KEY)
TRUST = AUTHORITY.public_bytes(PEM).decode()


def connect(server, trust, name):
    """Shake hands in memory; return the certificate that the client has verified."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    served = server.wrap_bio(to_server, to_client, server_side=True)
    client = ssl.create_default_context(cadata=trust).wrap_bio(to_client, to_server, server_hostname=name)
    pending = [client, served]
    for side in pending * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert()


def names(certificate):
    return {name for _, name in certificate["subjectAltName"]}


@pytest.mark.parametrize("form", [PKCS8, OPENSSL])
def test_a_key_and_a_certificate(tmp_path, form):
    (tmp_path / "key.pem").write_bytes(KEY.private_bytes(PEM, form, PLAIN))
    (tmp_path / "cert.pem").write_bytes(CERTIFICATE.public_bytes(PEM))
    config = Config(private_key_file=tmp_path / "key.pem", certificate_file=tmp_path / "cert.pem")
    assert names(connect(tls_context(config), TRUST, "a.example")) == {"a.example"}


def keystore(path, password=b"changeit", key=KEY, certificate=CERTIFICATE, chain=None):
    encryption = serialization.BestAvailableEncryption(password) if password else PLAIN
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"a", key, certificate, chain, encryption))
    return path


@pytest.mark.parametrize("kind", ["PKCS12", "pkcs12", "JKS"])
def test_a_keystore_is_told_by_its_content(tmp_path, kind):
    config = Config(keystore=keystore(tmp_path / "store"), keystore_type=kind)
    assert names(connect(tls_context(config), TRUST, "a.example")) == {"a.example"}


def test_a_keystore_wins_over_files_and_brings_its_chain(tmp_path):
    middle_key = ec.generate_private_key(ec.SECP256R1())
    middle = (
        x509.CertificateBuilder(
            AUTHORITY.subject,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "middle")]),
            middle_key.public_key(),
            x509.random_serial_number(),
        )
        .not_valid_before(AUTHORITY.not_valid_before_utc)
        .not_valid_after(AUTHORITY.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(AUTHORITY_KEY, hashes.SHA256())
    )
    leaf = issued("b.example", KEY, "middle", middle_key)
    store = keystore(tmp_path / "store", b"secret", certificate=leaf, chain=[middle])
    config = Config(keystore=store, keystore_pass="secret", private_key_file=tmp_path / "none")
    assert names(connect(tls_context(config), TRUST, "b.example")) == {"b.example"}


def test_a_certificate_of_its_own(caplog):
    addresses = {"inference_address": Address("10.1.2.3", 8443, "https")}
    context = tls_context(Config(**addresses))
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        connect(context, TRUST, "localhost")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert len(record.args[0]) == 64


def test_two_servers_do_not_share_a_key():
    shown = [connect_untrusting(tls_context(Config())) for _ in range(2)]
    assert shown[0] != shown[1]
    alternative = x509.load_der_x509_certificate(shown[0]).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert {"localhost"} <= set(alternative.value.get_values_for_type(x509.DNSName))


def connect_untrusting(server):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    served = server.wrap_bio(to_server, to_client, server_side=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = context.wrap_bio(to_client, to_server)
    for side in [client, served] * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert(binary_form=True)


def refusal(**settings):
    with pytest.raises(ConfigError) as refused:
        tls_context(Config(**settings))
    return refused.value.message


def test_a_java_keystore_is_refused_with_what_to_do(tmp_path):
    store = tmp_path / "keystore.jks"
    store.write_bytes(b"\xfe\xed\xfe\xed\0\0\0\2")
    assert f"keytool -importkeystore -srckeystore {store} -destkeystore" in refusal(keystore=store)


def test_a_wrong_password(tmp_path):
    message = refusal(keystore=keystore(tmp_path / "store"), keystore_pass="wrong")
    assert "keystore_pass" in message
    assert "'wrong'" not in message


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_what_is_no_keystore(tmp_path, content):
    (tmp_path / "store").write_bytes(content)
    assert str(tmp_path / "store") in refusal(keystore=tmp_path / "store")


def test_a_keystore_without_a_key(tmp_path):
    (tmp_path / "store").write_bytes(
        pkcs12.serialize_key_and_certificates(None, None, None, [AUTHORITY], PLAIN)
    )
    assert refusal(keystore=tmp_path / "store", keystore_pass="").endswith("has no key with a certificate")


def test_files_that_are_not_there(tmp_path):
    assert refusal(keystore=tmp_path / "none") == (
        f"cannot read the keystore {tmp_path / 'none'}: No such file or directory"
    )
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    certificate.write_bytes(CERTIFICATE.public_bytes(PEM))
    assert refusal(private_key_file=key, certificate_file=certificate) == (
        f"cannot read {key}: No such file or directory"
    )


@pytest.mark.parametrize("given", ["private_key_file", "certificate_file"])
def test_one_file_of_two(tmp_path, given):
    assert "one is of no use without the other" in refusal(**{given: tmp_path / "x"})


def test_an_encrypted_key_asks_nobody(tmp_path):
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    certificate.write_bytes(CERTIFICATE.public_bytes(PEM))
    key.write_bytes(KEY.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x")))
    assert f"{key} is encrypted" in refusal(private_key_file=key, certificate_file=certificate)


def test_a_key_of_another_certificate(tmp_path):
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    certificate.write_bytes(CERTIFICATE.public_bytes(PEM))
    key.write_bytes(AUTHORITY_KEY.private_bytes(PEM, PKCS8, PLAIN))
    assert refusal(private_key_file=key, certificate_file=certificate).startswith("private_key_file, cert")


def test_a_key_from_a_keystore_is_written_to_no_directory(tmp_path, monkeypatch):
    """OpenSSL is given a path, but one of a file that is only in memory."""
    paths = []
    real = ssl.SSLContext.load_cert_chain
    monkeypatch.setattr(
        ssl.SSLContext, "load_cert_chain", lambda self, path: (paths.append(path), real(self, path))
    )
    tls_context(Config(keystore=keystore(tmp_path / "store")))
    assert [str(path).startswith("/proc/self/fd/") for path in paths] == [True]
    assert [each.name for each in tmp_path.iterdir()] == ["store"]
    assert stat.S_ISREG((tmp_path / "store").stat().st_mode)
