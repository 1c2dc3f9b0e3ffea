#!/usr/bin/env bash
# Installs the client into a separate prefix, builds the consumer project against that prefix alone, and
# runs it against a server.
set -euo pipefail

cmake="" build="" generator="" compiler="" sanitizer="" project="" server="" work=""
while [[ $# -gt 0 ]]; do
  case "$1" in
    --cmake | --build | --generator | --compiler | --sanitizer | --project | --server | --work)
      declare "${1#--}=$2"
      shift 2
      ;;
    *)
      echo "consumer_test.sh: unknown option $1" >&2
      exit 2
      ;;
  esac
done

# The path of a unix socket has at most 107 bytes, so the folder's path must be short.
socket_dir=$(mktemp -d)
server_pid=""
finish() {
  if [[ -n "$server_pid" ]]; then
    kill "$server_pid" 2> /dev/null || true
    wait "$server_pid" 2> /dev/null || true
  fi
  rm -rf "$socket_dir"
}
trap finish EXIT

rm -rf "$work"
prefix=$work/prefix
"$cmake" --install "$build" --component client --prefix "$prefix" > /dev/null

if grep -rnE '#include.*(grpc|protobuf|\.pb\.h|client/cpp/)' "$prefix/include"; then
  echo "consumer_test.sh: a public header shows the library's inside" >&2
  exit 1
fi

flags=""
if [[ -n "$sanitizer" ]]; then
  flags="-fsanitize=$sanitizer"
fi
"$cmake" -S "$project" -B "$work/build" -G "$generator" -DCMAKE_PREFIX_PATH="$prefix" \
  -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_CXX_FLAGS="$flags" > "$work/configure.log"
"$cmake" --build "$work/build"

"$server" --listen "unix:$socket_dir/socket" --metrics-listen 127.0.0.1:0 --log-level warn &
server_pid=$!
"$work/build/consumer" "unix:$socket_dir/socket"
"$work/build/maml" "unix:$socket_dir/socket" | tee "$work/maml.log"
# The losses that theria.maml computes with explicit attention for the same tasks.
grep -q '1.68937 before adaptation, 1.39811 after' "$work/maml.log"
grep -q '1.49553 before adaptation, 0.578302 after' "$work/maml.log"
