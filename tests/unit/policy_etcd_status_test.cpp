// What etcd's errors mean: by text first, because the codes differ between its releases.
#include <doctest/doctest.h>

#include <ostream>
#include <string>

#include "registry/policy/etcd_status.hpp"

using namespace registry;

TEST_CASE("etcd status: refused before anything was applied") {
  struct Row {
    RpcCode code;
    const char* text;
    errc expected;
    bool retry;
    bool endpoint_bad;
  };
  const Row rows[] = {
      {RpcCode::Unavailable, "etcdserver: no leader", errc::no_leader, true, true},
      {RpcCode::Unknown, "etcdserver: too many requests", errc::too_many_requests, true, false},
      {RpcCode::InvalidArgument, "etcdserver: request is too large", errc::too_large, false, false},
      {RpcCode::ResourceExhausted, "grpc: received message larger than max (3 vs. 2)", errc::too_large, false,
       false},
      {RpcCode::InvalidArgument, "etcdserver: too many operations in txn request", errc::too_large, false,
       false},
      {RpcCode::InvalidArgument, "etcdserver: duplicate key given in txn request", errc::invalid_argument,
       false, false},
      {RpcCode::ResourceExhausted, "etcdserver: mvcc: database space exceeded", errc::out_of_space, false,
       false},
      {RpcCode::InvalidArgument, "etcdserver: user name is empty", errc::invalid_token, true, false},
      {RpcCode::Unauthenticated, "etcdserver: invalid auth token", errc::invalid_token, true, false},
      {RpcCode::InvalidArgument, "etcdserver: revision of auth store is old", errc::invalid_token, true,
       false},
      {RpcCode::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password",
       errc::authentication_failed, false, false},
      {RpcCode::FailedPrecondition, "etcdserver: authentication is not enabled",
       errc::authentication_disabled, false, false},
      {RpcCode::PermissionDenied, "etcdserver: permission denied", errc::permission_denied, false, false},
      {RpcCode::NotFound, "etcdserver: requested lease not found", errc::lease_lost, false, false},
      {RpcCode::FailedPrecondition, "etcdserver: lease already exists", errc::lease_exists, false, false},
      {RpcCode::OutOfRange, "etcdserver: too large lease TTL", errc::invalid_argument, false, false},
      {RpcCode::OutOfRange, "etcdserver: mvcc: required revision has been compacted", errc::compacted, false,
       false},
      {RpcCode::OutOfRange, "etcdserver: mvcc: required revision is a future revision", errc::future_revision,
       false, false},
      {RpcCode::DataLoss, "etcdserver: corrupt cluster", errc::corrupt_store, false, false},
      {RpcCode::Unavailable, "failed to connect to all addresses; last error: refused", errc::unavailable,
       true, true},
      {RpcCode::FailedPrecondition, "etcdserver: rpc not supported for learner", errc::unavailable, true,
       true},
  };
  for (const auto& row : rows) {
    CAPTURE(row.text);
    const auto verdict = judge_etcd(row.code, row.text);
    CHECK(make_error_code(verdict.code) == make_error_code(row.expected));
    CHECK(verdict.retry == row.retry);
    CHECK(verdict.endpoint_bad == row.endpoint_bad);
    CHECK_FALSE(verdict.may_be_applied);
  }
}

TEST_CASE("etcd status: a write may have been applied") {
  const std::pair<RpcCode, const char*> rows[] = {
      {RpcCode::Unavailable, "etcdserver: leader changed"},
      {RpcCode::Unavailable, "etcdserver: request timed out, possibly due to connection lost"},
      {RpcCode::Unavailable, "etcdserver: server stopped"},
      {RpcCode::Unavailable, "Socket closed"},
      {RpcCode::Unavailable, "keepalive watchdog timeout"},
      {RpcCode::DeadlineExceeded, "Deadline Exceeded"},
      {RpcCode::Unknown, "context deadline exceeded"},  // 3.4 where 3.5 says DEADLINE_EXCEEDED
      {RpcCode::Cancelled, "stream reset"},
      {RpcCode::Internal, "something new"},
      {RpcCode::Unknown, "something else"},
  };
  for (const auto& [code, text] : rows) {
    CAPTURE(text);
    const auto verdict = judge_etcd(code, text);
    CHECK(verdict.may_be_applied);
    CHECK(verdict.retry);
    CHECK(verdict.endpoint_bad);
  }
}

TEST_CASE("etcd status: a watch's cancel reason wraps the text of a status") {
  const auto reason = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
  CHECK(judge_etcd(RpcCode::Unknown, reason).code == errc::invalid_token);
}

TEST_CASE("etcd status: a watch that ends with a compact revision was compacted, whatever its text") {
  CHECK(judge_watch_end(7, "", true).code == errc::compacted);
  CHECK(judge_watch_end(7, "etcdserver: permission denied", true).code == errc::compacted);
  CHECK(judge_watch_end(0, "etcdserver: mvcc: required revision has been compacted", true).code ==
        errc::compacted);
  CHECK(judge_watch_end(0, "rpc error: code = PermissionDenied desc = etcdserver: permission denied", true)
            .code == errc::permission_denied);
  CHECK(judge_watch_end(0, "", true).code == errc::unavailable);
}

TEST_CASE("etcd status: a certificate that does not do is no lack of a server") {
  for (const char* text :
       {"failed to connect to all addresses; last error: UNKNOWN: Ssl handshake failed: SSL_ERROR_SSL",
        "failed to connect to all addresses; last error: Peer name a is not in peer certificate"}) {
    const EtcdVerdict verdict = judge_etcd(RpcCode::Unavailable, text);
    CHECK(verdict.code == errc::tls_failed);
    CHECK(verdict.endpoint_bad);
    CHECK(verdict.retry);  // another member may have a better one
    CHECK_FALSE(verdict.may_be_applied);
  }
}

TEST_CASE("etcd status: without a user name no token will come, so asking again is of no use") {
  for (const char* text : {"etcdserver: user name is empty", "etcdserver: invalid auth token",
                           "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"}) {
    CHECK(judge_etcd(RpcCode::InvalidArgument, text).code == errc::invalid_token);
    CHECK(judge_etcd(RpcCode::InvalidArgument, text).retry);
    const EtcdVerdict without = judge_etcd(RpcCode::InvalidArgument, text, false);
    CHECK(without.code == errc::authentication_failed);
    CHECK_FALSE(without.retry);
    CHECK(judge_watch_end(0, text, false).code == errc::authentication_failed);
  }
}
