# Sourced by the run.sh of each client.

# What npm calls it when the registry cannot be reached, or something between refuses to let us through.
unreachable_by_npm='ENOTFOUND|EAI_[A-Z]+|ECONN[A-Z]+|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|EPROTO|ERR_[A-Z_]+|[A-Z_]*(CERT|SIGNATURE)[A-Z_]*'
unreachable_by_npm+='|E40[37]|E429|E5[0-9][0-9]'
# The same of Go.
unreachable_by_go='no such host|connection re(fused|set)|i/o timeout|(network|host)( is)? unreachable|no route to host'
unreachable_by_go+='|TLS handshake timeout|x509: |server misbehaving|GOPROXY=off|: (403|407|429|5[0-9][0-9]) '

skip() {
  echo "SKIPPED: $1"
  exit 77
}

fail() {
  echo "FAILED: $1"
  exit 1
}

# run BINARY CLIENT: the test, in an environment in which the client finds nothing but what the test gives it.
run() {
  unset GRPC_XDS_BOOTSTRAP GRPC_XDS_BOOTSTRAP_CONFIG
  unset grpc_proxy http_proxy https_proxy all_proxy GRPC_PROXY HTTP_PROXY HTTPS_PROXY ALL_PROXY
  REGISTRY_INTEROP_CLIENT="$2" exec "$1"
}
