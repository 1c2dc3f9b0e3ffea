#!/usr/bin/env bash
# Installs the kernels' library into a prefix of its own, and builds and runs a project against nothing
# but that prefix.
set -euo pipefail

cmake="" build="" generator="" compiler="" sanitizer="" project="" work=""
while [[ $# -gt 0 ]]; do
  case "$1" in
    --cmake | --build | --generator | --compiler | --sanitizer | --project | --work)
      declare "${1#--}=$2"
      shift 2
      ;;
    *)
      echo "kernels_consumer_test.sh: unknown option $1" >&2
      exit 2
      ;;
  esac
done

rm -rf "$work"
prefix=$work/prefix
"$cmake" --install "$build" --component kernels --prefix "$prefix" > /dev/null
if grep -rnE '#include.*(absl|grpc|protobuf|cuda)' "$prefix/include"; then
  echo "kernels_consumer_test.sh: a public header needs another library" >&2
  exit 1
fi

flags=""
if [[ -n "$sanitizer" ]]; then
  flags="-fsanitize=$sanitizer"
fi
"$cmake" -S "$project" -B "$work/build" -G "$generator" -DCMAKE_PREFIX_PATH="$prefix" \
  -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_CXX_FLAGS="$flags" > "$work/configure.log"
"$cmake" --build "$work/build"
"$work/build/kernels_consumer"
