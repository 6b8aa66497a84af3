#!/usr/bin/env bash
# Certificates for Ray's TLS: an authority once, then a certificate for each node that names its addresses.
#
#   tls.sh authority AUTHORITY                  ca.crt and ca.key; the key signs nodes and stays with who runs this
#   tls.sh node AUTHORITY FOLDER ADDRESS...     tls.crt, tls.key and ca.crt for one node; ADDRESS: an IP or a name
#
# Ray compares the address that it connects to with those in the certificate, so each address of a node must be named.
set -euo pipefail
umask 077

usage() {
  sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

# EC keys: small, and known to the TLS library that Ray is built with.
key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc)

authority() {
  [ $# -eq 1 ] || usage
  mkdir -p "$1"
  if [ -e "$1/ca.key" ]; then
    echo "$1/ca.key: found one, expected none; nodes that it signed would no longer be trusted" >&2
    exit 1
  fi
  openssl req -x509 -new "${key[@]}" -days 3650 -subj "/CN=Ray cluster authority" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
    -keyout "$1/ca.key" -out "$1/ca.crt" 2>/dev/null
}

node() {
  [ $# -ge 3 ] || usage
  local from=$1 into=$2 names="IP:127.0.0.1,DNS:localhost" address
  shift 2
  for address in "$@"; do
    if [[ $address =~ ^[0-9.]+$ || $address == *:* ]]; then
      names+=",IP:$address"
    else
      names+=",DNS:$address"
    fi
  done
  mkdir -p "$into"
  openssl req -x509 -new "${key[@]}" -days 365 -subj "/CN=Ray node" -CA "$from/ca.crt" -CAkey "$from/ca.key" \
    -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth,clientAuth \
    -addext "subjectAltName=$names" -keyout "$into/tls.key" -out "$into/tls.crt" 2>/dev/null
  [ "$from" -ef "$into" ] || cp "$from/ca.crt" "$into/ca.crt"
}

case ${1:-} in
  authority | node) "$@" ;;
  *) usage ;;
esac
