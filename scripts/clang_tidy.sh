#!/usr/bin/env bash
# clang-tidy over the given sources, as many at a time as there are cores; a source that passed is
# not checked again until it, a header of ours or the configuration changes.
#
#   scripts/clang_tidy.sh FILE...
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p build/clang-tidy
shared=$({
  cat .clang-tidy
  git ls-files -co --exclude-standard '*.h' '*.proto' ':!kernels/cuda' ':!tests/cuda' | sort | xargs cat
} | sha256sum | cut -d' ' -f1)

check_one() {
  local source=$1 stamp log
  stamp=build/clang-tidy/$({ echo "$shared $source"; cat "$source"; } | sha256sum | cut -d' ' -f1)
  [[ -e $stamp ]] && return 0
  if ! log=$(clang-tidy-14 -p build --quiet "$source" 2>/dev/null); then
    printf '%s\n' "$log"
    return 1
  fi
  touch "$stamp"
}
export shared
export -f check_one
# shellcheck disable=SC2016
printf '%s\0' "$@" | xargs -0 -n 1 -P "$(nproc)" bash -c 'check_one "$1"' _
