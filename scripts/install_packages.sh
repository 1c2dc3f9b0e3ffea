#!/usr/bin/env bash
# Installs the Debian packages that the build needs and that are missing. Debian 12, Ubuntu 24.04.
set -euo pipefail

packages=(
  build-essential ccache cmake file ninja-build pkg-config git
  libabsl-dev libcli11-dev libeigen3-dev libgmock-dev libgrpc++-dev libgtest-dev libhwy-dev libprotobuf-dev
  libspdlog-dev libssl-dev nlohmann-json3-dev prometheus-cpp-dev
  protobuf-compiler protobuf-compiler-grpc
  python3 python3-dev python3-venv
)
case "${1:-}" in
  --lint) packages=(clang-format-14 clang-tidy-14 shellcheck) ;;
  --fuzz) packages+=(clang-14 libclang-rt-14-dev) ;;
  # What the tests of deploy/ run beside the server; they skip where it is missing.
  --watch) packages=(prometheus) ;;
  --deploy) packages=(buildah debootstrap systemd) ;;
esac

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ "$state" == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "theria: these Debian packages are needed, and there is no apt-get here to install them:" >&2
  echo "  ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [[ $EUID -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "theria: packages are missing and installing them needs root. Run as root:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "theria: installing ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -q -y --no-install-recommends "${missing[@]}"
