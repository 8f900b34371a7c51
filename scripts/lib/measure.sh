# Runs commands, counts what they took, prints medians. Sourced, never run.
#
# A measurement is one line "wall-s cpu-s rss-bytes wire-bytes requests syncing-ms" appended to $RESULTS/SCENARIO.CONTENDER.

# access_since LINES [LINES]: body bytes that the registry sent and requests that it logged after that many lines; with a
# target those that both logged, and the bytes that came from both. Of a HEAD it logs the length that it told, which is
# not sent.
access_since() {
  {
    tail -n "+$(($1 + 1))" "$ACCESS_LOG"
    [ -z "${TARGET_LOG:-}" ] || tail -n "+$(($2 + 1))" "$TARGET_LOG"
  } | awk -F'"' '/HTTP\/1/ { split($3, answer, " "); requests++; if ($2 !~ /^HEAD/) bytes += answer[2] } END { print bytes + 0, requests + 0 }'
}

# access_lines: of the registry, and of the target where there is one.
access_lines() { echo "$(wc -l <"$ACCESS_LOG")" "$([ -z "${TARGET_LOG:-}" ] || wc -l <"$TARGET_LOG")"; }

# measure SCENARIO CONTENDER: runs `command`. A failure is fatal: a number of a pull that failed is no number.
measure() {
  local file=$RESULTS/$1.$2 lines wall user system rss syncing
  sync
  lines=$(access_lines)
  TIMEFORMAT='%3R %3U %3S'
  if ! { time /usr/bin/time -f %M -o "$RESULTS/rss" "${command[@]}" >"$RESULTS/out" 2>"$RESULTS/err" 3>&-; } 2>"$RESULTS/times"; then
    say "$2 failed in $1: $(tail -n 3 "$RESULTS/err")"
    return 1
  fi
  read -r wall user system < <(tail -n 1 "$RESULTS/times")
  rss=$(($(tail -n 1 "$RESULTS/rss") * 1024))
  syncing=
  if [ "$2" = layerpull ]; then
    # What only writes an archive has no run to tell of.
    syncing=$(jq -rs 'last | if has("files") then "-" else .run.syncing_ms // empty end' "$RESULTS/out")
    [ -n "$syncing" ] || die "layerpull did not say how long it synced: $(head -n 3 "$RESULTS/out")"
  fi
  sleep 0.2 # the registry logs a request after its last byte
  # shellcheck disable=SC2086 # one number a log
  printf '%s %s %s %s %s\n' "$wall" "$(awk "BEGIN { print $user + $system }")" "$rss" "$(access_since $lines)" "${syncing:--}" >>"$file"
}

# median SCENARIO CONTENDER COLUMN
median() {
  [ -e "$RESULTS/$1.$2" ] || return 0
  awk -v column="$3" '$column != "-" { print $column }' "$RESULTS/$1.$2" | sort -n |
    awk '{ value[NR] = $1 } END { if (NR) print NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2 }'
}

# ratio A B
ratio() { [ -n "$1" ] && [ -n "$2" ] && awk "BEGIN { if ($2 > 0) printf \"%.2f\", $1 / $2 }"; }

# table SCENARIO TITLE CONTENDER…: medians as Markdown; those of a daemon's client are no figures of the pull.
table() {
  local scenario=$1 contender ours
  printf '\n### %s\n\n| | time, s | layerpull / this | CPU, s | memory, MB | from registry, MB | requests |\n|---|---|---|---|---|---|---|\n' "$2"
  shift 2
  ours=$(median "$scenario" layerpull 1)
  for contender in "$@"; do
    [ -e "$RESULTS/$scenario.$contender" ] || continue
    row "$scenario" "$contender" "$ours"
  done
}

row() {
  local wall cpu rss wire requests
  wall=$(median "$1" "$2" 1) cpu=$(median "$1" "$2" 2) rss=$(median "$1" "$2" 3) wire=$(median "$1" "$2" 4) requests=$(median "$1" "$2" 5)
  case $2 in docker | ctr) cpu=- rss=- ;; *) rss=$(awk "BEGIN { printf \"%.0f\", $rss / 1e6 }") ;; esac
  printf '| %s | %.3f | %s | %s | %s | %s | %s |\n' "$2" "$wall" "$(ratio "$3" "$wall" || echo -)" "$cpu" "$rss" \
    "$(awk "BEGIN { printf \"%.1f\", $wire / 1e6 }")" "$requests"
}

# claim TEXT VALUE LIMIT: one line a promise; silent when there is no value.
claim() {
  [ -n "$2" ] || return 0
  if awk "BEGIN { exit !($2 <= $3) }"; then
    printf -- '- holds: %s: %s (at most %s)\n' "$1" "$2" "$3"
  else
    printf -- '- FAILS: %s: %s (at most %s)\n' "$1" "$2" "$3"
    # A file: what prints is on the left of a pipe, whose variables nobody else sees.
    echo "$1" >>"$RESULTS/FAILED"
  fi
}
