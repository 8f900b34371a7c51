# The mirror of all real images, by the same file for every program. Sourced, never run.

# mirror_file REGISTRY: what to mirror, in the form of skopeo: every tag of every repository.
mirror_file() {
  local repository
  printf '"%s":\n  tls-verify: false\n  images:\n' "$1"
  for repository in $(curl -fsS "http://$1/v2/_catalog" | jq -r '.repositories[]'); do
    printf '    %s: %s\n' "$repository" "$(curl -fsS "http://$1/v2/$repository/tags/list" | jq -c '.tags | sort')"
  done
}

# unique_bytes DATA: of all blobs in the data of a registry that some repository has as a layer or configuration.
unique_bytes() {
  find "$1/docker/registry/v2/repositories" -path '*/_layers/sha256/*/link' -printf '%h\n' | sed 's|.*/||' | sort -u |
    while read -r hex; do stat -c %s "$1/docker/registry/v2/blobs/sha256/${hex:0:2}/$hex/data"; done | awk '{ sum += $1 } END { printf "%d", sum }'
}

mirror_layerpull() {
  command=(env "XDG_STATE_HOME=$1/state" "$LAYERPULL" sync --progress none --format json -c "$1/mirror.yml" "$target")
}

mirror_skopeo() {
  command=(skopeo sync --insecure-policy --dest-tls-verify=false --all --src yaml --dest docker "$1/mirror.yml" "$target")
}

# mirror_twice NAME: into a registry of its own, empty; then once more.
mirror_twice() {
  local folder=$work/to/$1
  rm -rf "$folder"
  mkdir -p "$folder"
  target_start "$folder" || die "no registry to mirror to"
  mirror_file "$registry" >"$folder/mirror.yml"
  TARGET_LOG=$folder/target/access.log
  "mirror_$1" "$folder"
  measure sync "$1" || die "$1 failed"
  [ "$1" != layerpull ] || MIRRORED=$(unique_bytes "$folder/target/data")
  measure again "$1" || die "$1 failed the second time"
  TARGET_LOG=
  contender_stop
  rm -rf "$folder"
}

mirror_claims() {
  local images
  [ -n "${MIRRORED:-}" ] || return 0
  images=$(mirror_file "$registry" | grep -o '"[^"]*"' | tail -n +2 | wc -l)
  printf '\nRequests are those at both registries.\n\n'
  claim "requests / skopeo" "$(ratio "$(median sync layerpull 5)" "$(median sync skopeo 5)")" 0.5
  claim "time / skopeo" "$(ratio "$(median sync layerpull 1)" "$(median sync skopeo 1)")" 1
  # Beside the blobs only manifests come from there: a few KB each.
  claim "body bytes from the registry beside the $MIRRORED of the blobs" \
    "$(awk "BEGIN { print $(median sync layerpull 4) - $MIRRORED }")" 1000000
  claim "requests again, for $images images" "$(median again layerpull 5)" "$((2 * images))"
  claim "body bytes again" "$(median again layerpull 4)" 0
}
