#!/usr/bin/env bash
# One more node for the cluster of head.sh. Stays in the foreground; Ctrl-C or SIGTERM ends this node.
#
#   worker.sh HEAD:PORT [OPTION...]      options of `ray start`, which go before those here
set -euo pipefail
# shellcheck source=cluster/on-premises/secure.sh
source "$(dirname "${BASH_SOURCE[0]}")/secure.sh"
[ $# -ge 1 ] || refuse "usage: worker.sh HEAD:PORT [OPTION...]"
head=$1
shift
check_token
use_tls
use_interface
exec ray start --address="$head" --block --disable-usage-stats "${ports[@]}" "$@"
