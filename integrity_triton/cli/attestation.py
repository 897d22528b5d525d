"""The commands ``attest`` and ``verify-attestation`` bind the root of a model to the machine that has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import IntegrityError
from .inputs import model_size, read_secret
from .options import json_option, report_options
from .outcome import MISMATCH, OK, describe
from .terminal import Output

if TYPE_CHECKING:
    from ..models.attest import AttestationReport, ModelRoot, Resident
    from ..models.attest.statement import GuardState
    from ..models.manifest import Manifest


@click.command()
@click.argument("source", metavar="MODEL")
@click.option("--manifest", "manifest_path", required=True, metavar="FILE", help="What MODEL has to be.")
@click.option("--key", required=True, metavar="FILE", help="PEM file of the private key that signs.")
@click.option("--password-file", metavar="FILE", help="Read the password of the private key from this file.")
@click.option("--nonce", required=True, metavar="HEX", help="The 16 to 64 bytes that the verifier has sent.")
@click.option(
    "-o", "--output", "path", required=True, metavar="FILE", help="Write the attestation to this file."
)
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="Load to this device.")
@click.option("--guard", "guarded", is_flag=True, help="State what a guard finds in one pass.")
@click.option(
    "--token",
    "tokens",
    multiple=True,
    metavar="LABEL=FILE",
    help="Bind a token with evidence of another device, such as a GPU. Repeatable.",
)
@click.option("--no-evidence", is_flag=True, help="Rest on the key alone, without evidence of the hardware.")
@click.option(
    "--privilege-level", type=click.IntRange(0, 3), help="The level to ask evidence for, such as a VMPL."
)
@report_options
def attest(
    source: str,
    manifest_path: str,
    key: str,
    password_file: str | None,
    nonce: str,
    path: str,
    device: str,
    guarded: bool,
    tokens: tuple[str, ...],
    no_evidence: bool,
    privilege_level: int | None,
    as_json: bool,
    backend: str | None,
) -> int:
    """Load MODEL, compare it with its manifest in memory, and state and sign which model it is.

    The kernel is asked for evidence that binds the statement to a confidential virtual machine. Where it has
    none, the command fails unless --no-evidence is given.
    """
    from ..models import Manifest
    from ..models import attest as attestation
    from ..output_files import check_output_file

    output = Output(as_json=as_json)
    check_output_file(path, inputs=(manifest_path, key))
    password = None if password_file is None else read_secret(password_file).decode("utf-8").rstrip("\r\n")
    signer = attestation.load_private_key(key, password)
    challenge = _nonce(nonce)
    bound = {label: attestation.read_token(file) for label, file in _pairs(tokens, "--token").items()}
    manifest = Manifest.load(manifest_path)
    fields: dict[str, Any] = {"source": source, "manifest": manifest_path, "attestation": path}
    try:
        resident, state = _resident(output, source, manifest, device, guarded, backend)
        made = attestation.attest(
            manifest,
            key=signer,
            nonce=challenge,
            evidence=None
            if no_evidence
            else lambda data: attestation.get_evidence(data, privilege_level=privilege_level),
            resident=resident,
            guard=state,
            tokens=bound,
            name=Path(source).name,
        )
    except IntegrityError as error:
        output.line(f"{source}: FAILED")
        for line in describe(error).splitlines():
            output.complain(line.strip())
        output.document(ok=False, **fields, error=describe(error))
        return MISMATCH
    made.save(path)
    providers = [evidence.provider for evidence in made.evidence]
    output.line(f"{source}: {manifest.algorithm} root {manifest.root.hex()}")
    output.line(f"{source}: attested with {_listed(providers)} -> {path}")
    output.document(ok=True, **fields, root=manifest.root.hex(), key=made.envelope.key_id, evidence=providers)
    return OK


def _resident(
    output: Output,
    source: str,
    manifest: Manifest,
    device: str,
    guarded: bool,
    backend: str | None,
) -> tuple[Resident, GuardState | None]:
    """Load the weights, and compare them with the manifest where they are."""
    from ..models import Guard, load_verified
    from ..models import attest as attestation

    with output.progress(source, model_size(source)) as progress:
        weights = load_verified(
            Path(source), against=manifest, device=device, backend=backend, progress=progress
        )
    size = sum(tensor.nbytes for tensor in weights.values())
    state = None
    if guarded:
        with Guard(weights, against=manifest, backend=backend, name=Path(source).name) as guard:
            guard.check()
            state = attestation.guard_state(guard)
    return attestation.Resident(device, len(weights), size), state


@click.command("verify-attestation")
@click.argument("path", metavar="ATTESTATION")
@click.option("--key", required=True, metavar="FILE", help="PEM file of the public key.")
@click.option("--nonce", required=True, metavar="HEX", help="The nonce that was sent to the machine.")
@click.option("--manifest", "manifest_path", metavar="FILE", help="The manifest that the machine must have.")
@click.option("--root", metavar="ALGORITHM:HEX", help="The root of that manifest, in its place.")
@click.option(
    "--signature",
    metavar="FILE",
    help="The OpenSSF signature of the model, in its place.",
)
@click.option("--public-key", metavar="FILE", help="PEM file of the key that made --signature.")
@click.option("--policy", "policy_path", metavar="FILE", help="What has to be proved, as a JSON file.")
@click.option("--at", metavar="TIME", help="Verify as of 2026-11-29T15:00:00Z.  [default: now]")
@click.option(
    "--vendor-root", "roots", multiple=True, metavar="FILE", help="Root certificate of a vendor. Repeatable."
)
@click.option(
    "--certificates", multiple=True, metavar="FILE", help="Certificates that the evidence lacks. Repeatable."
)
@click.option("--crl", "crls", multiple=True, metavar="FILE", help="What a root has revoked. Repeatable.")
@click.option("--collateral", metavar="FILE", help="What the vendor publishes for a quote, as a JSON file.")
@click.option("--token", "tokens", multiple=True, metavar="LABEL=FILE", help="A token. Repeatable.")
@click.option(
    "--claims",
    multiple=True,
    metavar="LABEL=FILE",
    help="The claims that the token's own verifier has found. Repeatable.",
)
@click.option("--weights", metavar="MODEL", help="Compare weights that are here with the manifest.")
@json_option
def verify_attestation(
    path: str,
    key: str,
    nonce: str,
    manifest_path: str | None,
    root: str | None,
    signature: str | None,
    public_key: str | None,
    policy_path: str | None,
    at: str | None,
    roots: tuple[str, ...],
    certificates: tuple[str, ...],
    crls: tuple[str, ...],
    collateral: str | None,
    tokens: tuple[str, ...],
    claims: tuple[str, ...],
    weights: str | None,
    as_json: bool,
) -> int:
    """Verify ATTESTATION without a network, and print what was proved by what.

    The status is 0 only if all that the policy requires is proved, and nothing failed.
    """
    from ..models import attest as attestation
    from ..models.attest.statement import parse_time
    from ..models.attest.tdx import MAX_COLLATERAL
    from ..models.regular_files import read_regular

    output = Output(as_json=as_json)
    expected = _expected(manifest_path, root, signature, public_key)
    policy = None if policy_path is None else attestation.Policy.load(policy_path)
    files = _pairs(tokens, "--token")
    verdicts = _pairs(claims, "--claims")
    if files.keys() != verdicts.keys():
        raise click.UsageError("each --token needs --claims of the same label", click.get_current_context())
    report = attestation.verify(
        attestation.Attestation.load(path),
        key=attestation.load_public_key(key),
        nonce=_nonce(nonce),
        model=expected,
        policy=policy,
        at=None if at is None else parse_time(at),
        roots=[c for file in roots for c in attestation.load_certificates(file)],
        certificates=[c for file in certificates for c in attestation.load_certificates(file)],
        crls=[attestation.load_crl(file) for file in crls],
        collateral=None
        if collateral is None
        else read_regular(collateral, MAX_COLLATERAL, "the collateral of a quote"),
        tokens={
            label: (attestation.read_token(file), attestation.read_claims(verdicts[label]))
            for label, file in files.items()
        },
        weights=None if weights is None else Path(weights),
    )
    _print(output, report)
    output.line(f"{path}: {'OK' if report.ok else 'FAILED'}")
    for problem in report.problems:
        output.complain(problem)
    output.document(attestation=path, **report.to_dict())
    return OK if report.ok else MISMATCH


def _print(output: Output, report: AttestationReport) -> None:
    rows: list[tuple[str, ...]] = [("check", "policy", "outcome", "what", "by")]
    for check in report.checks:
        demand = "required" if check.name in report.required else ""
        rows.append((check.name, demand, check.outcome, check.claim, check.by))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)]
        output.line("  ".join(cells).rstrip())


def _expected(
    manifest: str | None, root: str | None, signature: str | None, public_key: str | None
) -> Manifest | ModelRoot:
    from ..models import Manifest
    from ..models import attest as attestation

    context = click.get_current_context()
    if sum(value is not None for value in (manifest, root, signature)) != 1:
        raise click.UsageError("give exactly one of --manifest, --root and --signature", context)
    if (signature is None) != (public_key is None):
        raise click.UsageError("--signature and --public-key belong together", context)
    if manifest is not None:
        return Manifest.load(manifest)
    if signature is not None and public_key is not None:
        return attestation.oms_root(signature, public_key)
    assert root is not None
    algorithm, colon, digest = root.partition(":")
    if not colon:
        raise click.UsageError(f"--root needs ALGORITHM:HEX, not {root!r}", context)
    return attestation.ModelRoot("manifest", algorithm, _hex(digest, "--root"))


def _nonce(text: str) -> bytes:
    from ..models.attest.statement import check_nonce

    nonce = _hex(text, "--nonce")
    check_nonce(nonce)
    return nonce


def _hex(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise click.UsageError(
            f"{option} takes hexadecimal digits, not {text[:80]!r}", click.get_current_context()
        ) from None


def _pairs(arguments: tuple[str, ...], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for argument in arguments:
        label, equals, file = argument.partition("=")
        if not equals or not label:
            raise click.UsageError(
                f"{option} needs LABEL=FILE, not {argument!r}", click.get_current_context()
            )
        if label in pairs:
            raise click.UsageError(f"{option} gives {label!r} twice", click.get_current_context())
        pairs[label] = file
    return pairs


def _listed(providers: list[str]) -> str:
    return f"evidence of {', '.join(providers)}" if providers else "no evidence of the hardware"
