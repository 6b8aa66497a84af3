# shellcheck shell=bash
# Sourced by head.sh and worker.sh: Ray starts with a token that only its owner can read, and with TLS, or not at all.
umask 077

refuse() {
  echo "$1" >&2
  exit 1
}

# The token is in a file and not in the environment, where each process of the user could read it.
export RAY_AUTH_MODE=token
[ -z "${RAY_AUTH_TOKEN:-}" ] || refuse "RAY_AUTH_TOKEN: found it set, expected the token in a file (RAY_AUTH_TOKEN_PATH)"
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}

make_token() {
  [ ! -e "$RAY_AUTH_TOKEN_PATH" ] || return 0
  mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
  openssl rand -hex 32 >"$RAY_AUTH_TOKEN_PATH"
  echo "$RAY_AUTH_TOKEN_PATH: a new token; copy it to every node and to who submits jobs, mode 600"
}

check_token() {
  [ -s "$RAY_AUTH_TOKEN_PATH" ] || refuse "$RAY_AUTH_TOKEN_PATH: found no token, expected the head's; copy it here, mode 600"
  local mode
  mode=$(stat -L -c %a "$RAY_AUTH_TOKEN_PATH")
  # Ray itself writes it with the user's umask: any ray.init() leaves one that the whole machine can read.
  [ $((8#$mode & 8#77)) -eq 0 ] ||
    refuse "$RAY_AUTH_TOKEN_PATH: found mode $mode, expected 600; if others use this machine make a new token, then chmod 600"
}

use_tls() {
  export RAY_USE_TLS=${RAY_USE_TLS:-1}
  [ "$RAY_USE_TLS" = 1 ] || {
    echo "RAY_USE_TLS=$RAY_USE_TLS: token, code and data cross the network as they are" >&2
    return 0
  }
  local folder=${XMTL_TLS:-$HOME/.ray/tls} file
  export RAY_TLS_SERVER_CERT=${RAY_TLS_SERVER_CERT:-$folder/tls.crt}
  export RAY_TLS_SERVER_KEY=${RAY_TLS_SERVER_KEY:-$folder/tls.key}
  export RAY_TLS_CA_CERT=${RAY_TLS_CA_CERT:-$folder/ca.crt}
  for file in "$RAY_TLS_SERVER_CERT" "$RAY_TLS_SERVER_KEY" "$RAY_TLS_CA_CERT"; do
    [ -r "$file" ] || refuse "$file: not found; make it with tls.sh, or set RAY_USE_TLS=0 in a network that is yours alone"
  done
}

# Workers that train on CPUs meet at the address that their machine's name leads to. Debian's /etc/hosts leads to
# loopback, where workers of another machine are not; so they are told the interface that the machine's traffic leaves by.
use_interface() {
  [ -z "${GLOO_SOCKET_IFNAME:-}" ] || return 0
  case $(getent ahosts "$(uname -n)" | awk 'NR == 1 { print $1 }') in
    127.* | ::1 | "") ;;
    *) return 0 ;;
  esac
  local interface
  interface=$(ip route show default 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
  if [ -z "$interface" ]; then
    echo "$(uname -n): leads to loopback, and no interface is the default route's; set GLOO_SOCKET_IFNAME" >&2
    return 0
  fi
  export GLOO_SOCKET_IFNAME=$interface
  echo "$(uname -n): leads to loopback, so workers meet on $interface; another one: GLOO_SOCKET_IFNAME"
}

# A busy machine needs more than Ray's own 60 s for its dashboard, without which the head does not start.
export RAY_DASHBOARD_STARTUP_TIMEOUT_S=${RAY_DASHBOARD_STARTUP_TIMEOUT_S:-300}

# Named, so that a firewall can name them, too; Ray's own choice is another one at each start.
# shellcheck disable=SC2034  # used by who sources this
ports=(
  --node-manager-port=6380 --object-manager-port=6381 --runtime-env-agent-port=6382
  --dashboard-agent-grpc-port=6383 --dashboard-agent-listen-port=52365 --metrics-export-port=8080
  --min-worker-port=10002 --max-worker-port=10999
)
