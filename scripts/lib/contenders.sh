# The programs that the bench compares. Sourced, never run.
#
# contender_NAME REGISTRY IMAGE FOLDER sets `command` (an array) to what is measured: a pull of the image into the
# empty folder. What has to run before is started here and not measured; contender_stop ends it.

MANIFEST_TYPES=(-H 'Accept: application/vnd.oci.image.manifest.v1+json' -H 'Accept: application/vnd.docker.distribution.manifest.v2+json')
daemon=

manifest_of() { curl -fsS "${MANIFEST_TYPES[@]}" "http://$1/v2/${2%:*}/manifests/${2#*:}"; }

# blobs_of REGISTRY IMAGE: the digests of configuration and layers.
blobs_of() { manifest_of "$1" "$2" | jq -r '.config.digest, .layers[].digest' | awk '!seen[$0]++'; }

# biggest_of REGISTRY IMAGE: digest and size of its biggest layer.
biggest_of() { manifest_of "$1" "$2" | jq -r '.layers | max_by(.size) | "\(.digest) \(.size)"'; }

contender_layerpull() {
  command=("$LAYERPULL" pull --progress none --no-local --format json --store "$3/store" "$1/$2")
}

contender_skopeo() {
  command=(skopeo copy -q --insecure-policy --src-tls-verify=false "docker://$1/$2" "oci:$3/layout:$2")
}

# The blobs unverified: what the machine can do at all.
contender_curl() {
  local digest
  for digest in $(blobs_of "$1" "$2"); do
    printf 'url = "http://%s/v2/%s/blobs/%s"\noutput = "%s/%s"\n' "$1" "${2%:*}" "$digest" "$3" "${digest#*:}"
  done >"$3.curl"
  command=(curl -fsS -Z --parallel-max 6 -K "$3.curl")
}

# What verifying alone costs: the files that curl fetched in this round.
contender_openssl() { command=(openssl dgst -sha256 "${3%/*}"/curl/*); }

# The biggest layer alone, by the best known downloader of single files.
contender_aria2c() {
  local digest
  read -r digest _ < <(biggest_of "$1" "$2")
  command=(aria2c -q -x16 -s16 -k1M --file-allocation=none -d "$3" -o layer "http://$1/v2/${2%:*}/blobs/$digest")
}

contender_podman() {
  command=(podman --root "$3/root" --runroot "$3/run" --storage-driver overlay pull -q --tls-verify=false "$1/$2")
}

contender_docker() {
  daemon_start "$3/docker.sock" dockerd --data-root "$3/data" --exec-root "$3/exec" -p "$3/docker.pid" -H "unix://$3/docker.sock" \
    --bridge none --iptables=false --ip6tables=false || return 1
  command=(docker -H "unix://$3/docker.sock" pull -q "$1/$2")
}

contender_ctr() {
  printf 'version = 2\nroot = "%s/root"\nstate = "%s/state"\n[grpc]\n  address = "%s/ctr.sock"\n' "$3" "$3" "$3" >"$3/config.toml"
  daemon_start "$3/ctr.sock" containerd -c "$3/config.toml" || return 1
  command=(ctr -a "$3/ctr.sock" images pull --plain-http "$1/$2")
}

# daemon_start SOCKET COMMAND…: at most 15 s.
daemon_start() {
  local socket=$1 tries=0
  shift
  "$@" >"${socket%.sock}.log" 2>&1 &
  daemon=$!
  until [ -S "$socket" ]; do
    [ $((tries += 1)) -le 150 ] && kill -0 "$daemon" 2>/dev/null || return 1
    sleep 0.1
  done
}

contender_stop() {
  [ -n "$daemon" ] || return 0
  kill "$daemon" 2>/dev/null || true
  wait "$daemon" 2>/dev/null || true
  daemon=
}
