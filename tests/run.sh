#!/bin/sh
# Sets up .venv-test and runs the test suite in it; arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
[ -x .venv-test/bin/python ] || "${PYTHON:-python3}" -m venv .venv-test
. .venv-test/bin/activate
pip install --quiet --disable-pip-version-check "${TORCH:-torch==2.13.0}"
pip install --quiet --disable-pip-version-check -e ".[dev]"
# Triton's Intel backend bears the installed Triton's name, so it gets a folder of its own. Where it has
# no wheel, the tests that compile with it read "absent".
[ -d .venv-test/xpu-compiler ] || pip install --quiet --disable-pip-version-check --no-deps \
    --target .venv-test/xpu-compiler triton-xpu==3.3.0b1 || rm -rf .venv-test/xpu-compiler
# The compile tests are few and long: idle workers take over what others have queued.
# What hangs fails with its stack, rather than the run with nothing.
exec python -m pytest -n auto --dist worksteal --timeout=600 --durations=40 "$@"
