# Words that every script here uses: speaking, failing, finding and installing programs.
# Sourced, never run.

# Not every way of becoming root brings the folders of the daemons along.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# The program that makes us root, or nothing when we may not be.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    return 126
  fi
}

may_be_root() { as_root true 2>/dev/null; }

has() { command -v "$1" >/dev/null 2>&1; }

# require_cargo: the one thing that these scripts do not install.
require_cargo() {
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  has cargo || die "no Rust toolchain here (cargo is not on PATH). Install one, for example with rustup, and run this again."
  has cc || ensure_programs cc:build-essential
}

# Prints the packages of those "program:package" pairs whose program is not here.
missing_packages() {
  local pair
  for pair in "$@"; do
    has "${pair%%:*}" || printf '%s\n' "${pair#*:}"
  done | sort -u
}

# ensure_programs PROGRAM:PACKAGE…  Installs what is missing, or says how to.
ensure_programs() {
  local packages
  packages=$(missing_packages "$@" | paste -sd' ')
  [ -z "$packages" ] && return 0
  has apt-get && may_be_root || die "missing; install these packages and run this again: $packages"
  say "installing: $packages"
  # shellcheck disable=SC2086 # a list of words
  install_packages $packages || die "apt-get could not install: $packages"
  packages=$(missing_packages "$@" | paste -sd' ')
  [ -z "$packages" ] || die "still missing after the installation: $packages"
}

# Debian starts a service when its package is installed. The tests start their own with their own data, so a policy
# forbids that for the time of the installation; services that ran before are left alone.
install_packages() {
  local policy=/usr/sbin/policy-rc.d placed='' status=0
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" && placed=yes
  fi
  { as_root apt-get update -q && packages_known "$@" | as_root env DEBIAN_FRONTEND=noninteractive \
    xargs apt-get install -qy --no-install-recommends; } >&2 || status=$?
  [ -z "$placed" ] || as_root rm -f "$policy"
  return $status
}

# packages_known PACKAGE[/PACKAGE]…: of alternatives the first that apt knows.
packages_known() {
  local word
  for word in "$@"; do
    if [ "${word%%/*}" != "$word" ] && ! apt-cache show "${word%%/*}" >/dev/null 2>&1; then word=${word#*/}; fi
    printf '%s\n' "${word%%/*}"
  done
}

port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port FROM: the first port from there on that nobody listens on.
free_port() {
  local port=$1
  while port_is_open "$port"; do port=$((port + 1)); done
  echo "$port"
}

# wait_for_port PORT [PID]: until it is open, at most 20 s, or until the process that should open it has ended.
wait_for_port() {
  local tries=0
  until port_is_open "$1"; do
    [ $((tries += 1)) -le 400 ] || return 1
    [ -z "${2:-}" ] || kill -0 "$2" 2>/dev/null || return 1
    sleep 0.05
  done
}

# human BYTES
human() { numfmt --to=si --suffix=B --format=%.1f "$1"; }
