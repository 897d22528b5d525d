#!/bin/sh
# Sets up .venv-test and runs the test suite in it; arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
. .ci/environment.sh
# Triton's Intel backend has the same module name as the installed Triton, so it gets a folder of its own.
# Where it has no wheel, the tests that compile with it report "absent".
[ -d .venv-test/xpu-compiler ] || pip install --quiet --disable-pip-version-check --no-deps \
    --target .venv-test/xpu-compiler triton-xpu==3.3.0b1 || rm -rf .venv-test/xpu-compiler
# The compile tests are few and long, so an idle worker takes over what another has queued.
# A test that hangs fails with its stack, rather than stopping the run without a result.
exec python -m pytest -n auto --dist worksteal --timeout=600 --durations=40 "$@"
