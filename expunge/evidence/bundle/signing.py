"""The released model's signature in the form of OpenSSF Model Signing, made and checked by its own library.

A folder of model files as it is released, card included, under an elliptic-curve key of the installation's own
(P-256: the format knows no Ed25519). Such a signature is different each time it is made, so the first is kept, by the
digest of what it is over, and the same bundle comes out the next time.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from expunge.digests import canonical_json, sha256_bytes, sha256_file, write_atomically
from expunge.errors import BadInput
from expunge.settings import Workspace

KEY = "model-signing.pem"
NEEDED = "pip install 'expunge[signing]'"


def signature(workspace: Workspace, folder: Mapping[str, bytes | Path]) -> bytes:
    """The signature over a folder's files, by name: stored as it was first made.

    Raises:
        BadInput: the library is not installed, or the key cannot be used.
    """
    listing = {name: sha256_bytes(data) if isinstance(data, bytes) else sha256_file(data)
               for name, data in folder.items()}
    kept = workspace.root / "signatures" / f"{sha256_bytes(canonical_json(listing))}.sig"
    if not kept.is_file():
        write_atomically(kept, _sign(workspace, folder))
    return kept.read_bytes()


def public_key(workspace: Workspace) -> bytes:
    """The public part of the key, in PEM: what the format's own command wants to be given."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    file = _key(workspace)
    try:
        private = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        private = None
    if not isinstance(private, EllipticCurvePrivateKey):
        raise BadInput(f"key: {file} is not a readable elliptic-curve private key", "restore it from a backup")
    return private.public_key().public_bytes(serialization.Encoding.PEM,
                                             serialization.PublicFormat.SubjectPublicKeyInfo)


def _key(workspace: Workspace) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    file = workspace.keys / KEY
    if not file.exists():
        write_atomically(file, ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            mode=0o600, replace=False)
    return file


def _sign(workspace: Workspace, folder: Mapping[str, bytes | Path]) -> bytes:
    try:
        from model_signing import signing
    except ImportError:
        raise BadInput("model signature: model-signing is not installed", NEEDED) from None
    public_key(workspace)  # which refuses a damaged key in our words
    workspace.root.joinpath("signatures").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace.root / "signatures", prefix=".") as scratch:
        model, made = Path(scratch) / "model", Path(scratch) / "model.sig"
        for name, data in folder.items():
            target = model / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, bytes):
                target.write_bytes(data)
            else:
                _link_or_copy(data, target)
        signing.Config().use_elliptic_key_signer(private_key=_key(workspace)).sign(model, made)
        return made.read_bytes()


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, target)
