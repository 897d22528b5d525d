# Sourced in the repository's root: makes .venv-test with the package and all that its checks need, and
# activates it. TORCH names another build of PyTorch, PYTHON another interpreter.
TORCH=${TORCH:-torch==2.13.0}
[ -x .venv-test/bin/python ] || "${PYTHON:-python3}" -m venv .venv-test
. .venv-test/bin/activate
# Python keeps what it compiles, also where the caller's environment says otherwise. Each process of the suite would
# compile all tests again, and pip would have to compile thousands of modules of which few are imported.
unset PYTHONDONTWRITEBYTECODE
install="pip install --quiet --disable-pip-version-check --no-compile"

# What is neither the package nor a dependency of it has folders of its own, so it is installed at the same time.
other_projects() {
    # Other projects' packages, one at a time: where one has no wheel, the tests that need it report "absent".
    lists=tests/integrations/requirements.txt
    [ "${CI:-}" != true ] || lists="$lists tests/integrations/requirements-large.txt"
    for package in $(sed -e 's/#.*//' $lists); do
        [ -d ".venv-test/other-projects/$package" ] || $install --no-deps \
            --target ".venv-test/other-projects/$package" "$package" 2>/dev/null ||
            { rm -rf ".venv-test/other-projects/$package"; echo "$package cannot be installed for this Python"; }
    done
    needs=.venv-test/other-projects/vllm-needs==0.33.0
    if [ "${CI:-}" = true ] && [ ! -d "$needs" ]; then
        $install --no-deps --target "$needs" -r tests/integrations/requirements-vllm.txt || rm -rf "$needs"
    fi
    # Triton's Intel backend has the same module name as the installed Triton. Where it has no wheel, the tests that
    # compile with it report "absent".
    [ -d .venv-test/xpu-compiler ] ||
        $install --no-deps --target .venv-test/xpu-compiler triton-xpu==3.3.0b1 || rm -rf .venv-test/xpu-compiler
}
# Programs that only CI installs. Where they cannot be installed, the tests that need them report "absent".
programs() {
    root=$([ "$(id -u)" = 0 ] || echo "sudo -n")
    listed=
    # Programs with which hash trees of the Linux kernel are compared, a PKCS #11 token for tests of signing, and
    # Intel's compiler for its GPUs.
    for needed in "fsverity fsverity cryptsetup-bin" "softhsm2-util softhsm2" \
        "ocloc intel-opencl-icd libigc1 libigdfcl1 libigc-tools"; do
        set -- $needed
        command -v "$1" >/dev/null && continue
        shift
        [ -n "$listed" ] || timeout 120 $root apt-get update -qq >/dev/null 2>&1 || true
        listed=yes
        timeout 180 $root apt-get install -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
            echo "$* cannot be installed"
    done
}

# All that decides what is installed. If it is as it was, nothing is installed again.
wanted=$(printf '%s\n' "$TORCH ${CI:-}" |
    cat - .ci/environment.sh pyproject.toml integrity_triton/_version.py tests/integrations/requirements*.txt | cksum)
if [ "$(cat .venv-test/installed 2>/dev/null)" != "$wanted" ]; then
    other_projects &
    beside=$!
    programs=
    if [ "${CI:-}" = true ]; then
        programs &
        programs=$!
    fi
    $install "$TORCH" -e ".[dev]"
    wait $beside $programs
    printf '%s\n' "$wanted" > .venv-test/installed
fi
