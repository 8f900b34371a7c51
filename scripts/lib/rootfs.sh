# Builds file trees from the system's own packages, and takes what a step changed as a layer.
# Sourced, never run. Needs root. Uses layout.sh and $LAYOUT.

# The package sources of this system that are Debian's own, as lines "URI SUITE", as apt itself reads them.
debian_sources() {
  apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 == "main" { print $3, $4 }' | sort -u
}

# base_source: the first of them that is a whole release, not its updates.
base_source() {
  local codename
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
  debian_sources | awk -v code="$codename" '$2 !~ /-/ { if ($2 == code) { print; found = 1; exit } rest = rest $0 "\n" }
    END { if (!found) printf "%s", rest }' | head -n 1
}

# bootstrap ROOT [ARCHITECTURE]: a minimal Debian; of a foreign architecture unpacked only, not configured.
bootstrap() {
  local uri suite
  local -a foreign=()
  read -r uri suite < <(base_source) || die "no Debian package source is configured here; run apt-get update first"
  [ $# -lt 2 ] || foreign=(--foreign --arch="$2")
  debootstrap "${foreign[@]}" --variant=minbase --include=ca-certificates "$suite" "$1" "$uri" >"$1.log" 2>&1 ||
    die "debootstrap failed: $(tail -n 3 "$1.log")"
  rm -f "$1.log"
}

# What no layer should hold: caches, logs, devices, and what was put in for the build alone.
UNWANTED='^(var/cache/apt/.+|var/lib/apt/lists/.+|var/cache/debconf/.+-old|var/cache/ldconfig/aux-cache|var/lib/dpkg/.+-old|var/log/.+|dev/.+|proc/.+|sys/.+|run/.+|tmp/.+|etc/resolv.conf|etc/hosts|usr/sbin/policy-rc.d|etc/apt/sources.list)$'

# tree_list ROOT [FIND-CONDITION…]: the paths below it that a layer may hold, sorted, a line each.
tree_list() {
  local root=$1
  shift
  (cd "$root" && find . -mindepth 1 "$@" -printf '%P\n') | grep -vE "$UNWANTED" | LC_ALL=C sort
}

# step_begin ROOT: from here on changes belong to the next layer. The change time of an inode cannot be set back.
step_begin() {
  tree_list "$1" >"$1.before"
  touch "$1.mark"
  sleep 0.05
}

# step_end ROOT NAME INSTRUCTION: what changed since step_begin becomes the layer NAME, what vanished its whiteouts.
step_end() {
  local root=$1 tar=$LAYOUT.tar gone
  rm -rf "$root.white" "$tar"
  mkdir "$root.white"
  tree_list "$root" >"$root.after"
  LC_ALL=C comm -23 "$root.before" "$root.after" | while read -r gone; do
    [ -d "$root/$(dirname "$gone")" ] || continue
    mkdir -p "$root.white/$(dirname "$gone")"
    : >"$root.white/$(dirname "$gone")/.wh.$(basename "$gone")"
  done
  (cd "$root.white" && find . -type f -printf '%P\n') | LC_ALL=C sort | tree_tar "$root.white" "$tar" --create
  tree_list "$root" -cnewer "$root.mark" | tree_tar "$root" "$tar" --append
  layer_add "$LAYOUT" "$2" "$tar" "$3"
  rm -rf "$root.white" "$root.before" "$root.after" "$root.mark"
}

# tree_tar ROOT TAR MODE: the paths of stdin.
tree_tar() {
  tar -C "$1" "$3" --file "$2" --no-recursion --verbatim-files-from --files-from=- --owner=0 --group=0 \
    "${TAR_OPTIONS_REPRODUCIBLE[@]}" 2>&1 | grep -v 'socket ignored' >&2 || true
}

# layer_unpack ROOT LAYER…: a tree to build upon.
layer_unpack() {
  local root=$1 name
  shift
  mkdir -p "$root"
  for name in "$@"; do
    tar -C "$root" --numeric-owner -xzpf "$LAYOUT/blobs/sha256/$(sed -n '1s/sha256://p' "$LAYOUT.layers/$name")"
  done
}

# chroot_prepare ROOT SUITE-PATTERN: devices, names, and those of this system's sources whose suite agrees.
chroot_prepare() {
  local root=$1
  mkdir -p "$root"/{dev,proc,sys,run,tmp,var/log,var/cache/apt/archives/partial,var/lib/apt/lists/partial}
  [ -e "$root/dev/null" ] || mknod -m 666 "$root/dev/null" c 1 3
  [ -e "$root/dev/urandom" ] || mknod -m 666 "$root/dev/urandom" c 1 9
  [ -e "$root/dev/fd" ] || ln -s /proc/self/fd "$root/dev/fd"
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  chroot_sources "$root" "$2"
}

chroot_sources() {
  debian_sources | awk -v pattern="$2" '$2 ~ pattern { print "deb", $1, $2, "main" }' >"$1/etc/apt/sources.list"
  chroot "$1" apt-get update -q >"$1.log" 2>&1 || die "apt-get update failed: $(tail -n 3 "$1.log")"
}

# chroot_install ROOT PACKAGE…
chroot_install() {
  local root=$1
  shift
  DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$root" apt-get install -qy --no-install-recommends "$@" >"$root.log" 2>&1 ||
    die "apt-get could not install $*: $(tail -n 3 "$root.log")"
}

root_remove() { rm -rf "$1" "$1".*; }
