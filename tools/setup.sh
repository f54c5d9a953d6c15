#!/usr/bin/env bash
# Installs the Debian packages listed in tools/packages.txt, and fetches the data set of the MLP example.
#
# Asks dpkg first: when everything is there, nothing is downloaded and no privileges are needed. Safe to repeat.
#   SPORKLE_SKIP_SETUP=1   does nothing (the packages are provided some other way)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$@" >&2; exit 1; }

if [ -n "${SPORKLE_SKIP_SETUP:-}" ]; then
  say "skipped, as SPORKLE_SKIP_SETUP is set"
  exit 0
fi

mapfile -t packages < <(sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' tools/packages.txt)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  fail "this system has no dpkg and apt-get; setup knows Debian 12 and its relatives only." \
    "Install the equivalents of: ${packages[*]}" \
    "then run the same command with SPORKLE_SKIP_SETUP=1."
fi

missing_packages() {
  comm -23 <(printf '%s\n' "${packages[@]}" | sort -u) \
    <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null |
      sed -n 's/^installed //p' | sort -u)
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
options=(-q -y --no-install-recommends -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2)
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

all_known() {  # whether apt's lists have a version of every package in $@
  [ "$(apt-cache madison "$@" 2>/dev/null | awk '{print $1}' | sort -u | wc -l)" -eq $# ]
}
update() {
  say "refreshing apt's package lists"
  apt-get "${options[@]}" update >>"$log" 2>&1 || true  # installing decides whether it was enough
}
install() { apt-get "${options[@]}" install "$@" >>"$log" 2>&1; }

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  if [ ${#missing[@]} -eq 0 ]; then
    say "all ${#packages[@]} packages are installed"
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    fail "${#missing[@]} packages are missing, and installing them needs root. Run:" \
      "  sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends ${missing[*]}'" \
      "and then the same command again."
  fi
  local updated=
  all_known "${missing[@]}" || { update; updated=1; }
  say "installing ${#missing[@]} packages: ${missing[*]}"
  if ! install "${missing[@]}" && { [ -n "$updated" ] || { update; ! install "${missing[@]}"; }; }; then
    grep -E '^(E|W|Err):? ?' "$log" | sort -u | tail -n 8 >&2 || true
    grep -qE 'Could not resolve|Failed to fetch|Unable to connect|Connection (failed|timed out)|Cannot initiate' "$log" &&
      fail "apt-get could not reach its package servers (the lines above). Setup needs the network once:" \
        "check the connection, or the proxy and mirror in /etc/apt, and run the same command again."
    grep -q 'Unable to locate package' "$log" &&
      fail "this system's apt sources lack a package (the lines above); Debian 12 (bookworm) with updates has them all." \
        "On another release, install the equivalents and set SPORKLE_SKIP_SETUP=1."
    tail -n 15 "$log" >&2
    fail "apt-get could not install the packages; its last lines are above."
  fi
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -eq 0 ] || fail "apt-get ended well, but these are still missing: ${missing[*]}"
  say "done"
}

# The 1,797 handwritten digits (8 x 8 pixels, 0..16, then the label) that scikit-learn's package carries. Only that one
# file is taken out of it; the package is not installed. The example says so when the file is missing.
fetch_digits() {
  local target=build/data/digits.csv member=usr/lib/python3/dist-packages/sklearn/datasets/data/digits.csv.gz
  [ -s "$target" ] && return
  mkdir -p build/data
  if [ -s "/$member" ]; then
    gzip -dc "/$member" >"$target.part" && mv "$target.part" "$target"
    return
  fi
  local folder
  folder=$(mktemp -d)
  chmod 755 "$folder"
  all_known python3-sklearn || [ "$(id -u)" -ne 0 ] || update
  if (cd "$folder" && apt-get "${options[@]}" download python3-sklearn) >>"$log" 2>&1 &&
    dpkg-deb --fsys-tarfile "$folder"/*.deb | tar -xO "./$member" | gzip -dc >"$target.part"; then
    mv "$target.part" "$target"
    say "fetched $target"
  else
    rm -f "$target.part"
    say "skipped $target: python3-sklearn could not be downloaded; only the MLP example and its test go without"
  fi
  rm -rf "$folder"
}

install_packages
fetch_digits
