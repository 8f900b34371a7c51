# A docker-registry of our own: 127.0.0.1, its own data, found again by its pid file.
# Sourced, never run.

# Where the real images are kept.
REAL_IMAGES_HOME=${XDG_CACHE_HOME:-$HOME/.cache}/layerpull-real-images

# registry_config DIR PORT
registry_config() {
  cat <<END
version: 0.1
log: {level: warn, accesslog: {disabled: false}}
storage:
  cache: {blobdescriptor: inmemory}
  filesystem: {rootdirectory: $1/data, maxthreads: 256}
  delete: {enabled: true}
http: {addr: "127.0.0.1:$2"}
END
}

# The pid of the registry over DIR, when that process still is one.
registry_pid() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$1/config.yml" && echo "$pid"
}

# registry_port DIR FROM: where it runs or ran, unless somebody else is there now; else the first free port.
registry_port() {
  local port
  port=$(cat "$1/port" 2>/dev/null) || port=$2
  registry_pid "$1" >/dev/null || port=$(free_port "$port")
  echo "$port"
}

# registry_start DIR PORT: does nothing when it runs already on that port.
registry_start() {
  local dir=$1 port=$2
  mkdir -p "$dir/data"
  if registry_pid "$dir" >/dev/null; then
    [ "$(cat "$dir/port")" = "$port" ] && return 0
    registry_stop "$dir"
  fi
  port_is_open "$port" && die "port $port is taken by another process; choose another with --port"
  registry_config "$dir" "$port" >"$dir/config.yml"
  OTEL_TRACES_EXPORTER=none setsid nohup docker-registry serve "$dir/config.yml" >"$dir/access.log" 2>"$dir/error.log" </dev/null &
  echo $! >"$dir/pid"
  echo "$port" >"$dir/port"
  wait_for_port "$port" "$(cat "$dir/pid")" || die "docker-registry did not start: $(tail -n 3 "$dir/error.log")"
}

registry_stop() {
  local pid
  if pid=$(registry_pid "$1"); then kill "$pid"; fi
  rm -f "$1/pid"
}
