#!/bin/sh
# Sets up .venv-test and runs the test suite in it; arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
. .ci/environment.sh
# The compile tests are few and long, so an idle worker takes over what another has queued.
# A test that hangs fails with its stack, rather than stopping the run without a result.
exec python -m pytest -n auto --dist worksteal --timeout=600 --durations=40 "$@"
