# A link of our own between two network namespaces, with real registries on the far side, and what its counters say.
# Sourced, never run.

NEAR=layerpull-near-$$
FAR=layerpull-far-$$
FAR_ADDRESS=10.213.77.2
SECONDS_MEASURED=14

near() { ip netns exec "$NEAR" "$@"; }
far() { ip netns exec "$FAR" "$@"; }

link_make() {
  ip netns add "$NEAR"
  ip netns add "$FAR"
  ip -n "$NEAR" link add eth0 type veth peer name eth0 netns "$FAR"
  ip -n "$NEAR" address add 10.213.77.1/24 dev eth0
  ip -n "$FAR" address add "$FAR_ADDRESS/24" dev eth0
  local side
  for side in "$NEAR" "$FAR"; do ip -n "$side" link set lo up; done
  link_train 1
}

# link_train PACKETS: how many packets are handed on in one piece. With one each, the counters are those of a wire; but
# two processors then carry no more than about 90 MB/s, of whoever. What moves in longer trains is counted with the
# headers of one packet: `sample` adds the others.
link_train() {
  local side
  TRAIN=$1
  for side in "$NEAR" "$FAR"; do ip -n "$side" link set eth0 gso_max_segs "$TRAIN" up; done
}

# far_registry NAME PORT: a docker-registry on the far side.
far_registry() {
  local dir=$work/$1
  mkdir -p "$dir/data"
  registry_config "$dir" "$2" | sed "s/127.0.0.1:/$FAR_ADDRESS:/; s/level: warn/level: error/; s/disabled: false/disabled: true/" >"$dir/config.yml"
  OTEL_TRACES_EXPORTER=none ip netns exec "$FAR" docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 &
  registry_processes+=($!)
  local tries=0
  until near curl -fs "http://$FAR_ADDRESS:$2/v2/" >/dev/null; do
    [ $((tries += 1)) -le 200 ] || die "docker-registry did not start: $(tail -n 3 "$dir/log")"
    sleep 0.05
  done
}

registry_processes=()
registries_start() {
  far_registry source 5000
  far_registry target 5001
}

cleanup() {
  [ ${#registry_processes[@]} -eq 0 ] || kill "${registry_processes[@]}" 2>/dev/null || true
  ip netns del "$NEAR" 2>/dev/null || true
  ip netns del "$FAR" 2>/dev/null || true
  rm -rf "$work"
}

# image_make NAME BLOBS BYTES: an image of so many blobs of so many bytes each, once, at the source.
image_make() {
  [ ! -e "$work/$1.made" ] || return 0
  local layout=$work/layout number digest size config layers=() digests=()
  mkdir -p "$layout/blobs/sha256"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
  for number in $(seq "$2"); do
    head -c "$3" /dev/urandom >"$work/blob"
    digest=$(blob_add "$layout" "$work/blob")
    digests+=("\"$digest\"")
    layers+=("{\"mediaType\":\"$OCI.layer.v1.tar+gzip\",\"digest\":\"$digest\",\"size\":$3}")
  done
  printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%s]}}' \
    "$(printf '%s\n' "${digests[@]}" | comma)" >"$work/blob"
  size=$(stat -c %s "$work/blob")
  config=$(blob_add "$layout" "$work/blob")
  printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"%s","size":%s},"layers":[%s]}' \
    "$OCI" "$OCI" "$config" "$size" "$(printf '%s\n' "${layers[@]}" | comma)" >"$work/blob"
  size=$(stat -c %s "$work/blob")
  digest=$(blob_add "$layout" "$work/blob")
  printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s.manifest.v1+json","digest":"%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"1"}}]}' \
    "$OCI" "$digest" "$size" >"$layout/index.json"
  far skopeo copy -q --insecure-policy --dest-tls-verify=false "oci:$layout:1" "docker://$FAR_ADDRESS:5000/$1:1"
  rm -rf "$layout"
  : >"$work/$1.made"
}

# sample FILE: time, bytes received, bytes sent, every 0.1 s until it is killed. Packets have headers of 66 bytes and
# loads of up to 1448.
sample() {
  exec ip netns exec "$NEAR" bash -c '
    cd /sys/class/net/eth0/statistics
    wire() { local load=$(($1 - 66 * $2)); [ '"$TRAIN"' = 1 ] && echo "$1" || echo $((load + (load / 1448 + 1) * 66)); }
    while :; do
      read -r down <rx_bytes; read -r downs <rx_packets; read -r up <tx_bytes; read -r ups <tx_packets
      echo "$EPOCHREALTIME $(wire "$down" "$downs") $(wire "$up" "$ups")"
      sleep 0.1
    done' >"$1"
}

# pull_limited NUMBER IMAGE OPTION…
pull_limited() {
  local home=$work/to/$1 image=$2
  shift 2
  mkdir -p "$home"
  exec ip netns exec "$NEAR" env -i PATH="$PATH" HOME="$home" "$LAYERPULL" pull --insecure --progress none --store "$home/store" "$@" \
    "$FAR_ADDRESS:5000/$image:1" >"$home/out" 2>&1
}

# while_sampled NAME COMMAND…: samples while the command runs, which starts processes and adds them to `running`.
while_sampled() {
  local name=$1 sampler
  shift
  running=()
  sample "$RESULTS/$name" &
  sampler=$!
  sleep 0.5
  "$@"
  sleep "$SECONDS_MEASURED"
  # What ended early has measured less than it should have.
  kill -INT "${running[@]}" 2>/dev/null || die "$name ended too early: $(tail -n 3 "$work"/to/*/out)"
  wait "${running[@]}" 2>/dev/null || true
  kill "$sampler"
  wait "$sampler" 2>/dev/null || true
}

# deviations FILE COLUMN BYTES-A-SECOND: least and largest deviation of any 10 s in %, from when blobs move, and the
# largest burst above the limit, of whatever length, in seconds' worth.
deviations() {
  awk -v column="$2" -v limit="$3" '
    { time[NR] = $1; bytes[NR] = $column }
    END {
      for (first = 1; first < NR && bytes[first + 1] - bytes[1] < limit / 5; first++);
      for (last = NR; last > 1 && bytes[last] == bytes[last - 1]; last--);
      least = 1e9; most = -1e9
      for (i = first; i <= last; i++) {
        for (j = i; j <= last && time[j] - time[i] < 10; j++);
        if (j > last) break
        off = ((bytes[j] - bytes[i]) / (time[j] - time[i]) / limit - 1) * 100
        if (off < least) least = off
        if (off > most) most = off
      }
      for (i = 1; i <= last; i++) {
        above = (bytes[i] - bytes[1]) / limit - (time[i] - time[1])
        if (i == 1 || above < lowest) lowest = above
        if (above - lowest > burst) burst = above - lowest
      }
      printf "%.1f %.1f %.2f\n", least, most, burst
    }' "$RESULTS/$1"
}

# judged NAME TITLE COLUMN LIMIT ALLOWED
judged() {
  local least most burst
  read -r least most burst < <(deviations "$1" "$3" "$4")
  printf '| %s | %s %% | %s %% | %s s |\n' "$2" "$least" "$most" "$burst"
  awk "BEGIN { exit !($least >= -$5 && $most <= $5 && $burst <= 2) }" || echo "$2: $least to $most %, $burst s" >>"$RESULTS/FAILED"
}

# one_rate NAME BYTES-A-SECOND IMAGE PROCESSES ALLOWED
one_rate() {
  local number
  start() {
    for number in $(seq "$4"); do
      pull_limited "$number" "$3" --bwlimit "$2" --limit-file "$work/limit" &
      running+=($!)
    done
  }
  while_sampled "$1" start "$@"
  rm -rf "${work:?}/to"
  judged "$1" "$(human "$2")/s down, $3, $4 process(es)" 2 "$2" "$5"
}

# one_push NAME BYTES-A-SECOND ALLOWED
one_push() {
  local home=$work/to/1
  (pull_limited 1 one-small)
  start() {
    ip netns exec "$NEAR" env -i PATH="$PATH" HOME="$home/other" "$LAYERPULL" push --insecure --progress none --store "$home/store" \
      --bwlimit "up:$2" "$FAR_ADDRESS:5000/one-small:1" "$FAR_ADDRESS:5001/$1:1" >"$home/out" 2>&1 &
    running+=($!)
  }
  while_sampled "$1" start "$@"
  rm -rf "${work:?}/to"
  judged "$1" "$(human "$2")/s up, one blob" 3 "$2" "$3"
}

scenario_rate() {
  local rate image processes size=small allowed=10
  image_make one-small 1 400000000
  image_make ten-small 10 40000000
  printf '\n### Limits\n\n| limit | least of any 10 s | most of any 10 s | largest burst above the limit, in its seconds |\n|---|---|---|---|\n'
  for rate in ${RATES:-50000 1000000 20000000 200000000}; do
    [ "$rate" = 50000 ] || allowed=3
    if [ "$rate" = 200000000 ]; then
      size=large
      link_train 44
    fi
    for image in ${IMAGES:-one ten}; do
      case $image-$size in one-large) image_make one-large 1 3200000000 ;; ten-large) image_make ten-large 10 320000000 ;; esac
      for processes in 1 3; do
        one_rate "$rate-$image-$processes" "$rate" "$image-$size" "$processes" "$allowed"
      done
    done
  done
  link_train 1
  [ -n "${NO_PUSH:-}" ] || { one_push up-1 1000000 3; one_push up-20 20000000 3; }
}

# curl_rate SECONDS: bytes a second that curl gets of the big blob.
curl_rate() {
  local digest
  digest=$(near curl -fs -H "Accept: $OCI.manifest.v1+json" "http://$FAR_ADDRESS:5000/v2/one-small/manifests/1" | jq -r '.layers[0].digest')
  near curl -s -o /dev/null --max-time "$1" -w '%{speed_download}\n' "http://$FAR_ADDRESS:5000/v2/one-small/blobs/$digest" || true
}

# background_rate FILE FROM TO: bytes a second that came between those seconds after the first sample.
background_rate() {
  awk -v from="$2" -v to="$3" '
    NR == 1 { began = $1 }
    $1 - began >= from && !first { first = $1; bytes = $2 }
    $1 - began <= to { last = $1; got = $2 }
    END { print (got - bytes) / (last - first) }' "$RESULTS/$1"
}

scenario_background() {
  local alone curl_second curl_first ours start
  image_make one-small 1 400000000
  ip netns exec "$FAR" tc qdisc add dev eth0 root tbf rate 50mbit burst 32kb latency "${LATENCY:-100ms}"
  alone=$(curl_rate 10)
  start() { pull_limited 1 one-small --background & running+=($!); }
  SECONDS_MEASURED=20 while_sampled background start
  ours=$(background_rate background 5 20)
  rm -rf "${work:?}/to"
  both() { start; sleep 5; curl_second=$(curl_rate 20); }
  SECONDS_MEASURED=1 while_sampled background-first both
  rm -rf "${work:?}/to"
  both() {
    local curl
    curl_rate 25 >"$RESULTS/curl" &
    curl=$!
    sleep 5
    start
    wait "$curl"
  }
  SECONDS_MEASURED=1 while_sampled background-second both
  curl_first=$(cat "$RESULTS/curl")
  rm -rf "${work:?}/to"
  ip netns exec "$FAR" tc qdisc del dev eth0 root
  printf '\n### In the background of curl, 50 Mbit/s\n\n| | rate | of what curl gets alone |\n|---|---|---|\n'
  local line
  for line in "curl alone:$alone" "layerpull --background alone:$ours" "curl, begun after layerpull:$curl_second" \
    "curl, begun before layerpull:$curl_first"; do
    printf '| %s | %s/s | %s |\n' "${line%:*}" "$(human "$(printf %.0f "${line##*:}")")" "$(ratio "${line##*:}" "$alone")"
  done
  echo
  claim "missing of layerpull alone" "$(awk "BEGIN { print 1 - $ours / $alone }")" 0.2
  claim "missing of curl, begun after layerpull" "$(awk "BEGIN { print 1 - $curl_second / $alone }")" 0.2
  claim "missing of curl, begun before layerpull" "$(awk "BEGIN { print 1 - $curl_first / $alone }")" 0.2
}
