// What an etcd error means: for the caller, for the endpoint it came from, and for the token that was used.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "registry/model/errors.hpp"

namespace registry {

/// The judgement of a failed call.
struct EtcdVerdict {
  errc code = errc::unavailable;  ///< for the caller
  bool may_be_applied = false;    ///< a write that failed like this may have taken, or yet take, effect
  bool endpoint_bad = false;      ///< speaks against the endpoint: try another
  bool retry = false;             ///< the same call may succeed soon, here or elsewhere

  EtcdVerdict() {}
};

/// The status codes of gRPC by number; this layer does not include gRPC.
enum class RpcCode {
  Cancelled = 1,
  Unknown = 2,
  InvalidArgument = 3,
  DeadlineExceeded = 4,
  NotFound = 5,
  AlreadyExists = 6,
  PermissionDenied = 7,
  ResourceExhausted = 8,
  FailedPrecondition = 9,
  Aborted = 10,
  OutOfRange = 11,
  Unimplemented = 12,
  Internal = 13,
  Unavailable = 14,
  DataLoss = 15,
  Unauthenticated = 16,
};

namespace detail {

enum class EtcdHint { Plain, Token, Elsewhere, Wait, InDoubt };

struct EtcdText {
  std::string_view part;
  errc code;
  EtcdHint hint;
};

/// By text before code: the codes differ between releases (etcd 3.4 says UNKNOWN where 3.5 says
/// DEADLINE_EXCEEDED), and a watch wraps the text of a status into its cancel reason. Order matters where one
/// text holds another.
inline constexpr std::array etcd_texts{
    EtcdText{"user name is empty", errc::invalid_token, EtcdHint::Token},
    EtcdText{"invalid auth token", errc::invalid_token, EtcdHint::Token},
    EtcdText{"revision of auth store is old", errc::invalid_token, EtcdHint::Token},
    EtcdText{"authentication failed", errc::authentication_failed, EtcdHint::Plain},
    EtcdText{"authentication is not enabled", errc::authentication_disabled, EtcdHint::Plain},
    EtcdText{"permission denied", errc::permission_denied, EtcdHint::Plain},
    EtcdText{"no leader", errc::no_leader, EtcdHint::Elsewhere},
    EtcdText{"too many requests", errc::too_many_requests, EtcdHint::Wait},
    EtcdText{"request is too large", errc::too_large, EtcdHint::Plain},
    EtcdText{"too many operations", errc::too_large, EtcdHint::Plain},
    EtcdText{"received message larger than max", errc::too_large, EtcdHint::Plain},
    EtcdText{"duplicate key given", errc::invalid_argument, EtcdHint::Plain},
    EtcdText{"key is not provided", errc::invalid_argument, EtcdHint::Plain},
    EtcdText{"watcher range is empty", errc::invalid_argument, EtcdHint::Plain},
    EtcdText{"too large lease TTL", errc::invalid_argument, EtcdHint::Plain},
    EtcdText{"database space exceeded", errc::out_of_space, EtcdHint::Plain},
    EtcdText{"requested lease not found", errc::lease_lost, EtcdHint::Plain},
    EtcdText{"lease already exists", errc::lease_exists, EtcdHint::Plain},
    EtcdText{"required revision has been compacted", errc::compacted, EtcdHint::Plain},
    EtcdText{"required revision is a future revision", errc::future_revision, EtcdHint::Plain},
    EtcdText{"corrupt cluster", errc::corrupt_store, EtcdHint::Plain},
    EtcdText{"not supported for learner", errc::unavailable, EtcdHint::Elsewhere},
    EtcdText{"not capable", errc::unavailable, EtcdHint::Elsewhere},
    EtcdText{"Ssl handshake failed", errc::tls_failed, EtcdHint::Elsewhere},
    EtcdText{"is not in peer certificate", errc::tls_failed, EtcdHint::Elsewhere},
    EtcdText{"failed to connect to all addresses", errc::unavailable, EtcdHint::Elsewhere},
    EtcdText{"DNS resolution failed", errc::unavailable, EtcdHint::Elsewhere},
    EtcdText{"leader changed", errc::unavailable, EtcdHint::InDoubt},
    EtcdText{"request timed out", errc::unavailable, EtcdHint::InDoubt},
    EtcdText{"not a primary lessor", errc::unavailable, EtcdHint::InDoubt},
    EtcdText{"server stopped", errc::unavailable, EtcdHint::InDoubt},
    EtcdText{"unhealthy cluster", errc::unavailable, EtcdHint::InDoubt},
};

inline EtcdVerdict etcd_verdict(errc code, EtcdHint hint) {
  EtcdVerdict verdict;
  verdict.code = code;
  verdict.may_be_applied = hint == EtcdHint::InDoubt;
  verdict.endpoint_bad = hint == EtcdHint::InDoubt || hint == EtcdHint::Elsewhere;
  verdict.retry = hint != EtcdHint::Plain;
  return verdict;
}

}  // namespace detail

/// Judges a status that is not OK, or the cancel reason of a watch (code Unknown). `code` is gRPC's number.
/// Source: what etcd 3.4 to 3.6 answer; a text that is not known is judged by its code, and a code that
/// proves nothing counts as in doubt. `logs_in`: we have a user name; without one no new token will come, and asking
/// again is of no use.
inline EtcdVerdict judge_etcd(RpcCode code, std::string_view text, bool logs_in = true) {
  using detail::EtcdHint;
  for (const auto& known : detail::etcd_texts) {
    if (text.find(known.part) == std::string_view::npos) continue;
    if (known.hint == EtcdHint::Token && !logs_in)
      return detail::etcd_verdict(errc::authentication_failed, EtcdHint::Plain);
    return detail::etcd_verdict(known.code, known.hint);
  }
  switch (code) {
    case RpcCode::DeadlineExceeded: return detail::etcd_verdict(errc::timed_out, EtcdHint::InDoubt);
    case RpcCode::InvalidArgument:
    case RpcCode::OutOfRange: return detail::etcd_verdict(errc::invalid_argument, EtcdHint::Plain);
    case RpcCode::PermissionDenied: return detail::etcd_verdict(errc::permission_denied, EtcdHint::Plain);
    case RpcCode::Unauthenticated: return detail::etcd_verdict(errc::invalid_token, EtcdHint::Token);
    case RpcCode::ResourceExhausted: return detail::etcd_verdict(errc::too_large, EtcdHint::Plain);
    case RpcCode::Unimplemented:
    case RpcCode::NotFound:
    case RpcCode::AlreadyExists:
    case RpcCode::FailedPrecondition: return detail::etcd_verdict(errc::protocol_error, EtcdHint::Plain);
    case RpcCode::DataLoss: return detail::etcd_verdict(errc::corrupt_store, EtcdHint::Plain);
    case RpcCode::Cancelled:
    case RpcCode::Unknown:
    case RpcCode::Aborted:
    case RpcCode::Internal:
    case RpcCode::Unavailable: break;
  }
  return detail::etcd_verdict(errc::unavailable, EtcdHint::InDoubt);
}

/// Why a watch was ended, or not begun, by its server. A compaction is told by its revision, whatever the text.
inline EtcdVerdict judge_watch_end(std::int64_t compact_revision, std::string_view reason, bool logs_in) {
  if (compact_revision != 0) return detail::etcd_verdict(errc::compacted, detail::EtcdHint::Plain);
  return judge_etcd(RpcCode::Unknown, reason, logs_in);
}

}  // namespace registry
