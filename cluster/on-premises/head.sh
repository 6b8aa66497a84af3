#!/usr/bin/env bash
# The head of a cluster on machines of your own. Stays in the foreground; Ctrl-C or SIGTERM ends this node.
#
#   head.sh [OPTION...]      options of `ray start`, which go before those here
#
# The dashboard and its job server listen on loopback: from elsewhere they are reached through ssh.
set -euo pipefail
# shellcheck source=cluster/on-premises/secure.sh
source "$(dirname "${BASH_SOURCE[0]}")/secure.sh"
make_token
check_token
use_tls
use_interface
exec ray start --head --block --disable-usage-stats --port=6379 --dashboard-host=127.0.0.1 --dashboard-port=8265 \
  "${ports[@]}" "$@"
