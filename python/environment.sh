#!/usr/bin/env bash
# Makes a virtual environment with exactly these packages, unless FOLDER is one: `python/environment.sh FOLDER PACKAGE...`.
set -euo pipefail
folder=${1:?usage: python/environment.sh FOLDER PACKAGE...}
shift
# The versions are a part of the environment's state: other ones are installed.
[ "$(cat "$folder/packages" 2>/dev/null)" != "$*" ] || exit 0
"${PYTHON:-python3}" -m venv --clear "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check "$@"
echo "$*" > "$folder/packages"
