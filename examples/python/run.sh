#!/usr/bin/env bash
# Generates the Python code from the proto and runs the example: run.sh [HOST:PORT]
# Everything is installed into a virtual environment beside the build.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${MERIDIAN_PYTHON_VENV:-$root/target/python-example}
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import grpc, grpc_tools, grpc_status' 2>/dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
fi
generated=$venv/generated
mkdir -p "$generated"
"$venv/bin/python" -m grpc_tools.protoc -I "$root/proto" \
  --python_out="$generated" --grpc_python_out="$generated" "$root/proto/meridian/v1/kv.proto"
PYTHONPATH=$generated exec "$venv/bin/python" "$here/transfer.py" "$@"
