# Writes images into an OCI image layout with tar, gzip and sha256sum alone.
# Sourced, never run. https://github.com/opencontainers/image-spec/blob/main/image-layout.md
#
# A layer is recorded in DIR.layers/NAME as four lines: digest, size, diff ID, instruction.
# A descriptor of DIR/index.json is one file in DIR.names.

OCI=application/vnd.oci.image

layout_create() {
  mkdir -p "$1/blobs/sha256" "$1.layers" "$1.names"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$1/oci-layout"
}

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

# blob_add DIR FILE: moves the file to its place, prints its digest.
blob_add() {
  local hex
  hex=$(sha256_of "$2")
  chmod 644 "$2"
  mv "$2" "$1/blobs/sha256/$hex"
  echo "sha256:$hex"
}

blob_size() { stat -c %s "$1/blobs/sha256/${2#sha256:}"; }

# The same bytes for the same tree: sorted names, numeric owners, no time later than $SOURCE_DATE_EPOCH.
TAR_OPTIONS_REPRODUCIBLE=(--format=pax --pax-option=delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f
  --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-1700000000}" --clamp-mtime)

compress() {
  if has pigz; then pigz -n -"${LEVEL:-6}"; else gzip -n -"${LEVEL:-6}"; fi
}

# layer_add DIR NAME TAR INSTRUCTION: compresses the tar (and removes it), records the layer.
layer_add() {
  local diff digest
  diff=$(sha256_of "$3")
  compress <"$3" >"$3.gz"
  rm "$3"
  digest=$(blob_add "$1" "$3.gz")
  printf '%s\n' "$digest" "$(blob_size "$1" "$digest")" "sha256:$diff" "$4" >"$1.layers/$2"
}

# comma: joins the lines of stdin.
comma() { paste -sd,; }

# layer_lines DIR FORMAT NAME…: the format of each layer with its digest, size, diff ID, instruction, in this order.
layer_lines() {
  local dir=$1 format=$2 name
  local -a line
  shift 2
  for name in "$@"; do
    mapfile -t line <"$dir.layers/$name"
    # shellcheck disable=SC2059 # the format is ours
    printf "$format\n" "${line[@]}"
  done
}

# image_config DIR ARCHITECTURE COMMAND LAYER…
image_config() {
  local dir=$1 architecture=$2 command=$3 created
  shift 3
  created=$(date -u -d "@${SOURCE_DATE_EPOCH:-1700000000}" +%Y-%m-%dT%H:%M:%SZ)
  printf '{"architecture":"%s","os":"linux","created":"%s","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["%s"]},' \
    "$architecture" "$created" "$command"
  printf '"rootfs":{"type":"layers","diff_ids":[%s]},' "$(layer_lines "$dir" '%.0s%.0s"%s"%.0s' "$@" | comma)"
  printf '"history":[%s]}' "$(layer_lines "$dir" "{\"created\":\"$created\",\"created_by\":\"%.0s%.0s%.0s%s\"}" "$@" | comma)"
}

# image_manifest DIR ARCHITECTURE COMMAND LAYER…: writes config and manifest, prints the descriptor without its end.
image_manifest() {
  local dir=$1 config manifest
  image_config "$@" >"$dir.part"
  config=$(blob_add "$dir" "$dir.part")
  {
    printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":%s},' \
      $OCI.manifest.v1+json $OCI.config.v1+json "$config" "$(blob_size "$dir" "$config")"
    printf '"layers":[%s]}' \
      "$(layer_lines "$dir" "{\"mediaType\":\"$OCI.layer.v1.tar+gzip\",\"digest\":\"%s\",\"size\":%s}%.0s%.0s" "${@:4}" | comma)"
  } >"$dir.part"
  manifest=$(blob_add "$dir" "$dir.part")
  printf '{"mediaType":"%s","digest":"%s","size":%s,"platform":{"architecture":"%s","os":"linux"}' \
    $OCI.manifest.v1+json "$manifest" "$(blob_size "$dir" "$manifest")" "$2"
}

# name_descriptor DIR NAME DESCRIPTOR-WITHOUT-END
name_descriptor() {
  printf '%s,"annotations":{"org.opencontainers.image.ref.name":"%s","io.containerd.image.name":"%s"}}\n' \
    "$3" "$2" "$2" >"$1.names/${2//\//_}"
  printf '{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}' $OCI.index.v1+json "$(cat "$1.names"/* | comma)" >"$1.part"
  mv "$1.part" "$1/index.json"
}

# image_add DIR NAME ARCHITECTURE COMMAND LAYER…
image_add() {
  local dir=$1 name=$2
  shift 2
  name_descriptor "$dir" "$name" "$(image_manifest "$dir" "$@")"
}

# index_add DIR NAME DESCRIPTOR-WITHOUT-END…: an index over several manifests.
index_add() {
  local dir=$1 name=$2 index
  shift 2
  printf '{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}' $OCI.index.v1+json "$(printf '%s}\n' "$@" | comma)" >"$dir.part"
  index=$(blob_add "$dir" "$dir.part")
  name_descriptor "$dir" "$name" \
    "$(printf '{"mediaType":"%s","digest":"%s","size":%s' $OCI.index.v1+json "$index" "$(blob_size "$dir" "$index")")"
}
