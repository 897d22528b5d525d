"""Verify a signature with stock model_signing alone, by its library.

Its command line (1.1.1) hashes with SHA-256 whatever the signature says, and so verifies signatures
of that form only; the library takes the form from the signature.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import model_signing

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", type=Path)
parser.add_argument("signature", type=Path)
parser.add_argument("public_key", type=Path)
arguments = parser.parse_args()

config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=arguments.public_key)
config.verify(arguments.model, arguments.signature)
print(f"{arguments.model}: accepted by model_signing {version('model-signing')}")
