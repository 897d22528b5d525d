"""Attest a model and verify the attestation, with a software stand-in for the processor.

    python run.py FOLDER

makes a small model, a manifest, a key, a policy and an attestation in FOLDER, and verifies it with the
command line. Each line of the output says that it comes from a stand-in, which proves nothing.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from safetensors.torch import save_file
from stand_in import MEASUREMENT, NAME, StandIn

import integrity_triton as it

PEM = serialization.Encoding.PEM


def say(text: str) -> None:
    for line in text.splitlines():
        print(f"[{NAME}] {line}".rstrip(), flush=True)


def make_keys(folder: Path) -> ed25519.Ed25519PrivateKey:
    """The key of the machine. A real one is made in the guest, and never leaves it."""
    key = ed25519.Ed25519PrivateKey.generate()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "key.pub").write_bytes(key.public_key().public_bytes(PEM, spki))
    return key


def serve(folder: Path, key: ed25519.Ed25519PrivateKey, nonce: bytes, processor: StandIn) -> None:
    """What a server does: load verified, guard, and attest what is in memory when somebody asks."""
    manifest = it.models.Manifest.load(folder / "manifest.json")
    weights = it.models.load_verified(folder / "model.safetensors", against=manifest)
    size = sum(tensor.nbytes for tensor in weights.values())
    with it.models.Guard(weights, against=manifest) as guard:
        guard.check()
        made = it.models.attest.attest(
            manifest,
            key=key,
            nonce=nonce,
            evidence=processor.get_evidence,  # it.models.attest.get_evidence, on a real processor
            resident=it.models.attest.Resident("cpu", len(weights), size),
            guard=guard,
            name="model.safetensors",
        )
    made.save(folder / "attestation.json")


def verify(folder: Path, nonce: bytes, *options: str) -> int:
    """What a client does, with the command line."""
    command = [sys.executable, "-m", "integrity_triton", "verify-attestation", "attestation.json"]
    command += ["--key", "key.pub", "--nonce", nonce.hex(), "--manifest", "manifest.json"]
    command += ["--policy", "policy.json", "--vendor-root", "root.pem", *options]
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    say(done.stdout)
    say(f"exit status {done.returncode}")
    return done.returncode


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.arange(1024.0), "bias": torch.ones(4)}, folder / "model.safetensors")
    it.models.Manifest.build(folder / "model.safetensors").save(folder / "manifest.json")
    processor = StandIn()
    (folder / "root.pem").write_bytes(processor.root.public_bytes(PEM))
    policy = {
        "format": "integrity_triton attestation policy",
        "version": 1,
        "require": ["signature", "nonce", "time", "model", "resident", "guard", "evidence"],
        "sev_snp": {"values": {"measurement": [MEASUREMENT.hex()]}, "minimum_tcb": {"snp": 8}},
    }
    (folder / "policy.json").write_text(json.dumps(policy, indent=2))
    key = make_keys(folder)
    nonce = secrets.token_bytes(32)
    serve(folder, key, nonce, processor)
    say("the attestation of a machine, verified:")
    good = verify(folder, nonce)
    say("the same attestation, replayed to another request:")
    replayed = verify(folder, secrets.token_bytes(32))
    say("the same attestation, at a time at which the statement is old:")
    old = verify(folder, nonce, "--at", "2039-01-01T00:00:00Z")
    return 0 if (good, replayed, old) == (0, 1, 1) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
