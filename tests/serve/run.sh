#!/usr/bin/env bash
# The server against real clients: the `openai` package, schemathesis on its OpenAPI document, and the page in Chromium.
# CINDERBLOCK names the program, which is built if it does not; a first argument is a folder for screenshots.
set -euo pipefail
cd "$(dirname "$0")/../.."
program=${CINDERBLOCK:-target/release/cinderblock}
[ -n "${CINDERBLOCK:-}" ] || cargo build --release --quiet
export CINDERBLOCK=$program
if ! command -v chromium >/dev/null; then
    root=$([ "$(id -u)" = 0 ] || echo sudo)
    $root apt-get update -qq && $root apt-get install -qq --no-install-recommends chromium >/dev/null
fi
python=target/python-serve
python/environment.sh "$python" openai==3.57.0 schemathesis==4.32.5 playwright==1.65.2

passed=0 failed=0
part() {
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "failed: $*"; fi
}
schemas() {
    coproc server { exec "$program" serve --port 0 --max-tokens 64; }
    local pid=$server_PID url
    read -r url <&"${server[0]}"
    local result=0
    "$python/bin/schemathesis" run "$url/openapi.json" --url "$url" --max-examples "${EXAMPLES:-10}" --seed 1 \
        --phases coverage,fuzzing --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method \
        --exclude-path /ready --no-color >target/schemathesis.log 2>&1 || result=$?
    kill -TERM "$pid" && wait "$pid" || result=$?
    [ "$result" = 0 ] || tail -60 target/schemathesis.log
    return "$result"
}
part "$python/bin/python" tests/serve/client.py
part schemas
part "$python/bin/python" tests/serve/page.py ${1:+"$1"}
echo "test result: serve. $passed passed; $failed failed; 0 ignored"
[ "$failed" = 0 ]
