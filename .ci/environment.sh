# Sourced in the repository's root: makes .venv-test with the package and all that its checks need, and
# activates it. TORCH names another build of PyTorch, PYTHON another interpreter.
TORCH=${TORCH:-torch==2.13.0}
[ -x .venv-test/bin/python ] || "${PYTHON:-python3}" -m venv .venv-test
. .venv-test/bin/activate
pip install --quiet --disable-pip-version-check "$TORCH"
pip install --quiet --disable-pip-version-check -e ".[dev]"
# Other projects' packages, one at a time: where one has no wheel, the tests that need it report "absent".
lists=tests/integrations/requirements.txt
[ "${CI:-}" != true ] || lists="$lists tests/integrations/requirements-large.txt"
for package in $(sed -e 's/#.*//' $lists); do
    [ -d ".venv-test/other-projects/$package" ] || pip install --quiet --disable-pip-version-check --no-deps \
        --target ".venv-test/other-projects/$package" "$package" 2>/dev/null ||
        { rm -rf ".venv-test/other-projects/$package"; echo "$package cannot be installed for this Python"; }
done
needs=.venv-test/other-projects/vllm-needs==0.33.0
if [ "${CI:-}" = true ] && [ ! -d "$needs" ]; then
    pip install --quiet --disable-pip-version-check --no-deps --target "$needs" \
        -r tests/integrations/requirements-vllm.txt || rm -rf "$needs"
fi
# The programs with which hash trees of the Linux kernel are compared. Where they cannot be installed, the tests that
# need them report "absent".
if [ "${CI:-}" = true ] && ! command -v fsverity >/dev/null; then
    root=$([ "$(id -u)" = 0 ] || echo "sudo -n")
    { timeout 120 $root apt-get update -qq && timeout 180 $root apt-get install -qq --no-install-recommends \
        fsverity cryptsetup-bin; } >/dev/null 2>&1 || echo "fsverity and veritysetup cannot be installed"
fi
# A PKCS #11 token for tests of signing. Where it cannot be installed, they report "absent".
if [ "${CI:-}" = true ] && ! command -v softhsm2-util >/dev/null; then
    root=$([ "$(id -u)" = 0 ] || echo "sudo -n")
    { timeout 120 $root apt-get update -qq && timeout 180 $root apt-get install -qq --no-install-recommends \
        softhsm2; } >/dev/null 2>&1 || echo "softhsm2 cannot be installed"
fi
# Intel's compiler for its GPUs. Where it cannot be installed, the tests that need it report "absent".
if [ "${CI:-}" = true ] && ! command -v ocloc >/dev/null; then
    root=$([ "$(id -u)" = 0 ] || echo "sudo -n")
    { timeout 120 $root apt-get update -qq && timeout 180 $root apt-get install -qq --no-install-recommends \
        intel-opencl-icd libigc1 libigdfcl1 libigc-tools; } >/dev/null 2>&1 || echo "ocloc cannot be installed"
fi
