"""A server's private key reaches OpenSSL from its own file or from memory, never by way of another file."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from wfserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from wfserve.config import Config

log = logging.getLogger(__name__)
_JKS = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")  # how Java's own kinds of keystore begin
_VALID_DAYS = 365
_SKEW = timedelta(hours=1)  # between the clocks of server and clients


def load_certificate(context: ssl.SSLContext, config: Config) -> None:
    """Give `context` the key and the certificate of `config`: of a keystore, of two files, or self-signed.

    Raises `ConfigError` if one is named that cannot be used.
    """
    if config.keystore is not None:
        _load_pem(context, _open_keystore(config.keystore, config.keystore_pass))
    elif config.private_key_file is not None and config.certificate_file is not None:
        _load_files(context, config.certificate_file, config.private_key_file)
    elif config.private_key_file is not None or config.certificate_file is not None:
        raise ConfigError("private_key_file and certificate_file: one is of no use without the other")
    else:
        hosts = {config.address(api).host for api in config.apis if config.address(api).scheme == "https"}
        _load_pem(context, _self_signed({"localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts}))


def _load_files(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_password() -> bytes:
        raise ConfigError(f"private_key_file: {key} is encrypted; decrypt it, or use a PKCS12 keystore")

    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        raise ConfigError(f"private_key_file, certificate_file: {error.reason or error}") from None
    except OSError as error:
        unreadable = next((path for path in (key, certificate) if not os.access(path, os.R_OK)), certificate)
        raise ConfigError(f"cannot read {unreadable}: {error.strerror}") from None


def _open_keystore(path: Path, password: str) -> bytes:
    """Return the first key of a PKCS12 keystore and its certificates, as PEM."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the keystore {path}: {error.strerror}") from None
    if content.startswith(_JKS):
        raise ConfigError(
            f"keystore: {path} is a JKS keystore; convert it: keytool -importkeystore -srckeystore {path} "
            f"-destkeystore {path.with_suffix('.p12')} -deststoretype PKCS12"
        )
    try:
        key, certificate, chain = pkcs12.load_key_and_certificates(content, password.encode())
    except ValueError as error:
        raise ConfigError(f"keystore: {path}: wrong keystore_pass, or no PKCS12 keystore: {error}") from None
    if key is None or certificate is None:
        raise ConfigError(f"keystore: {path} has no key with a certificate")
    return _pem(key, [certificate, *chain])


def _pem(key: PrivateKeyTypes, certificates: Iterable[x509.Certificate]) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return private + b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def _load_pem(context: ssl.SSLContext, pem: bytes) -> None:
    """Load a key and certificates; OpenSSL wants a path, and gets that of a file in memory."""
    with open(os.memfd_create("wfserve-key", os.MFD_CLOEXEC), "wb") as file:
        file.write(pem)
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        except ssl.SSLError as error:
            raise ConfigError(f"keystore: {error.reason or error}") from None


def _self_signed(hosts: set[str]) -> bytes:
    """Return a new key and a certificate for `hosts` that nobody vouches for, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in sorted(hosts)]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    log.warning(
        "no keystore and no certificate_file: a self-signed certificate is made for now, SHA-256 %s",
        certificate.fingerprint(hashes.SHA256()).hex(),
    )
    return _pem(key, [certificate])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
