# Sourced in the repository's root: makes .venv-test with the package and all that its checks need, and
# activates it. TORCH names another build of PyTorch, PYTHON another interpreter.
TORCH=${TORCH:-torch==2.13.0}
[ -x .venv-test/bin/python ] || "${PYTHON:-python3}" -m venv .venv-test
. .venv-test/bin/activate
pip install --quiet --disable-pip-version-check "$TORCH"
pip install --quiet --disable-pip-version-check -e ".[dev]"
