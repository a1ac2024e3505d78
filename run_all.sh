#!/usr/bin/env bash
# The only door: ./run_all.sh makes the environment, runs the notebooks and builds the report; --help shows the rest.
set -euo pipefail

fail() {
    printf 'specsync: %s\n' "$1" >&2
    exit 2
}

# A relative path means the folder where a person stands: without one, nothing may be read or written.
pwd -P >/dev/null 2>&1 || fail "the folder where you stand is gone; cd to one that is there and run again"
self="$(readlink -f -- "${BASH_SOURCE[0]}")"
root="${self%/*}"
root="${root:-/}" # no $(dirname), which would lose a line break at its end
case "$root" in
    *:* | *$'\n'*) fail "the checkout's path has a colon or a line break in it, which Python's search path cannot hold; move it" ;;
esac
venv="$root/.venv"
mode="${1:-main}"
# Nothing in the folder where a person stands, and nothing that other projects put on the path, shadows a module; nothing
# that was set for another program makes this one's Python behave otherwise.
for variable in "${!PYTHON@}"; do
    case "$variable" in
        PYTHONUNBUFFERED | PYTHONDONTWRITEBYTECODE) ;;
        *) unset "$variable" ;;
    esac
done
export PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1

# A Python that is starting answers Ctrl-C with a traceback: the signal is held back from it until it listens, where env
# can do so, and ends this script in between.
held=(env --block-signal=INT)
"${held[@]}" true 2>/dev/null || held=()
trap 'exit 130' INT

usable() { # a Python 3.11 to 3.13 that can make a virtual environment
    "$1" -I -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    if [[ -n "${SPECSYNC_PYTHON:-}" ]]; then
        usable "$SPECSYNC_PYTHON" || fail "SPECSYNC_PYTHON=$SPECSYNC_PYTHON is not a Python 3.11 to 3.13 with venv and ensurepip"
        printf '%s' "$SPECSYNC_PYTHON"
        return
    fi
    local candidate
    for candidate in "$venv/bin/python" python3 python3.13 python3.12 python3.11 python; do
        if usable "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 to 3.13 with venv and ensurepip was found ($(python3 --version 2>&1 || true)); install one or name it in SPECSYNC_PYTHON"
}

bare() { # a module of the library on a Python that has the standard library alone, which comes first on its path
    ${held[@]+"${held[@]}"} "$python" -P -c 'import runpy, sys
root, module = sys.argv[1:3]
sys.argv[1:3] = []
sys.path.append(root)
runpy.run_module(module, run_name="__main__", alter_sys=True)' "$root" "$@"
}

case "$mode" in
    main | -*) ;;
    test | lab | live | doctor | sweep | collect) shift ;;
    *) fail "unknown mode '$mode'; use ./run_all.sh, ./run_all.sh test, lab, live, doctor, sweep or collect, or --help" ;;
esac

python="$(find_python)"
if [[ "$mode" == main || "$mode" == -* ]]; then
    # Standard library only: bad arguments are refused before anything is installed. --help ends here too.
    bare specsync_lib.door.parameters "$@"
    for argument in "$@"; do
        if [[ "$argument" == --help || "$argument" == -h ]]; then exit 0; fi
    done
elif [[ "$mode" == doctor || "$mode" == sweep || "$mode" == collect ]]; then
    bare specsync_lib.jobs.arguments "$mode" "$@"
    for argument in "$@"; do
        if [[ "$argument" == --help || "$argument" == -h ]]; then exit 0; fi
    done
fi
bare specsync_lib.door.install

case "$mode" in
    test)
        cd -- "$root"
        "$venv/bin/python" -P -m specsync_lib.assets
        # A worker a core, a file at a time (what a file's tests share is made once); conftest.py says in which order.
        exec "$venv/bin/python" -P -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
        ;;
    lab) exec "$venv/bin/python" -P -m specsync_lib.door.lab "$@" ;;
    live | doctor | sweep | collect) exec ${held[@]+"${held[@]}"} "$venv/bin/python" -P -m specsync_lib.jobs "$mode" "$@" ;;
    *) exec ${held[@]+"${held[@]}"} "$venv/bin/python" -P -m specsync_lib.door.runner "$@" ;;
esac
