# The scenarios of archives: the images of the store into a file, and back. Sourced by scripts/bench, never run.

ARCHIVED=(mysql:8 nginx:1 httpd:1)

# stored FOLDER: a store with the images, made once a run.
stored() {
  [ -e "$1/index.json" ] || "$LAYERPULL" pull --quiet --store "$1" "${ARCHIVED[@]/#/$registry/}" >/dev/null
}

scenario_export() (
  local -a names=("${ours[@]}" tar skopeo skopeo_docker)
  stored "$work/stored"
  # The whole floor: the same bytes read and written, neither hashed nor synced.
  contender_tar() { command=(tar cf "$3/x.tar" -C "$work/stored" blobs); }
  contender_layerpull() {
    command=("$LAYERPULL" export --progress none --format json --store "$work/stored" -o "$3/x.tar" "${ARCHIVED[@]/#/$registry/}")
  }
  # One image is all that they take: the biggest.
  contender_skopeo() { command=(skopeo copy -q "oci:$work/stored:$registry/${ARCHIVED[0]}" "oci-archive:$3/x.tar"); }
  contender_skopeo_docker() { command=(skopeo copy -q "oci:$work/stored:$registry/${ARCHIVED[0]}" "docker-archive:$3/x.tar:x/y:1"); }
  contender_docker() {
    daemon_start "$3/docker.sock" dockerd --data-root "$3/data" --exec-root "$3/exec" -p "$3/docker.pid" -H "unix://$3/docker.sock" \
      --bridge none --iptables=false --ip6tables=false || return 1
    "$LAYERPULL" export --quiet --store "$work/stored" -o - "${ARCHIVED[@]/#/$registry/}" 2>/dev/null |
      docker -H "unix://$3/docker.sock" load --quiet >/dev/null || return 1
    command=(docker -H "unix://$3/docker.sock" save -o "$3/x.tar" "${ARCHIVED[@]/#/$registry/}")
  }
  rounds_of export "$registry" "${ARCHIVED[0]}" "${names[@]}"
  if [ "$(id -u)" = 0 ]; then round export "$registry" "${ARCHIVED[0]}" docker && names+=(docker); fi
  table export "Three images of the store into one archive (skopeo: the biggest of them alone)" "${names[@]}"
  echo
  claim "time / tar cf" "$(ratio "$(median export layerpull 1)" "$(median export tar 1)")" 1.2
  claim "resident memory, bytes" "$(median export layerpull 3)" 67108864
)

scenario_import() (
  local -a names=("${ours[@]}" tar skopeo)
  local archive=$work/stored.tar
  stored "$work/stored"
  "$LAYERPULL" export --quiet --store "$work/stored" -o "$archive" "${ARCHIVED[@]/#/$registry/}" >/dev/null
  contender_layerpull() { command=("$LAYERPULL" import --progress none --format json --store "$3/store" "$archive"); }
  # The floor: unpacked, and every file hashed.
  # shellcheck disable=SC2016 # the inner shell expands them
  contender_tar() { command=(sh -c 'tar xf "$1" -C "$2" && openssl dgst -sha256 "$2"/blobs/sha256/*' sh "$archive" "$3"); }
  contender_skopeo() { command=(skopeo copy -q "oci-archive:$archive:$registry/${ARCHIVED[0]}" "oci:$3/layout:x"); }
  rounds_of import "$registry" "${ARCHIVED[0]}" "${names[@]}"
  table import "The same archive into an empty store (skopeo: the biggest image alone)" "${names[@]}"
  echo
  claim "time / (tar xf + openssl dgst)" "$(ratio "$(median import layerpull 1)" "$(median import tar 1)")" 1.3
  claim "resident memory, bytes" "$(median import layerpull 3)" 67108864
  share_of_sync import
)
