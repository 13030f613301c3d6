// The library's error codes: one enum, one category, one message for each, and what a caller may conclude
// from a code. Failures are thrown as std::system_error that carries one of these.
#pragma once

#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>

#include "registry/model/immortal.hpp"

namespace registry {

/// What went wrong. Codes compare with `==` against std::error_code: `if (error.code() == errc::conflict)`.
enum class errc {
  invalid_argument = 1,     ///< an argument or a configuration field; the text names it and its value
  already_registered,       ///< this Registry already holds the instance id
  not_registered,           ///< this Registry does not hold the instance id
  closed,                   ///< the object was closed, or its store was destroyed
  conflict,                 ///< another owner holds the key
  unleased_key,             ///< the key exists without a lease; such a key is never taken
  key_deleted,              ///< the key was deleted by someone else
  displaced,                ///< another owner took our key over; final until registered again
  lease_lost,               ///< the lease expired or was revoked
  lease_exists,             ///< a lease with the wanted id exists already
  compacted,                ///< the wanted revision is no longer kept; list again
  future_revision,          ///< the store has not reached the wanted revision
  store_changed,            ///< the store was restored, wiped or replaced; list again
  unavailable,              ///< no endpoint can be reached, or the connection broke; nothing was applied
  timed_out,                ///< no answer in time; nothing was applied
  no_leader,                ///< the store has no leader at the moment; nothing was applied
  outcome_unknown,          ///< a write was sent and not answered: it may or may not have been applied
  too_many_requests,        ///< the store refuses work until it has caught up
  authentication_failed,    ///< wrong user name or password, or none where the store asks for one
  permission_denied,        ///< the user may not do this
  invalid_token,            ///< the session token is no longer valid; the Connector renews it by itself
  authentication_disabled,  ///< the store has authentication switched off
  too_large,                ///< more than one request may carry
  out_of_space,             ///< the store has no space left; an operator must act
  corrupt_store,            ///< the store reports that its data is damaged
  bad_value,                ///< a stored value is not a service instance
  bad_snapshot,             ///< a snapshot file cannot be used; it is left as it is
  protocol_error,           ///< the store answered what it must not
  tls_failed,               ///< certificates cannot be read or do not fit
};

/// The last enumerator: all codes are 1 to this one, without a gap.
inline constexpr errc last_errc = errc::tls_failed;

namespace detail {

constexpr std::string_view errc_message(errc code) noexcept {
  switch (code) {
    case errc::invalid_argument: return "invalid argument";
    case errc::already_registered: return "this instance id is already registered here";
    case errc::not_registered: return "this instance id is not registered here";
    case errc::closed: return "closed";
    case errc::conflict: return "another owner holds the key";
    case errc::unleased_key: return "the key exists without a lease and is never taken over";
    case errc::key_deleted: return "the key was deleted by someone else";
    case errc::displaced: return "another owner has taken the key over";
    case errc::lease_lost: return "the lease expired or was revoked";
    case errc::lease_exists: return "a lease with this id exists already";
    case errc::compacted: return "the revision has been compacted";
    case errc::future_revision: return "the store has not reached this revision";
    case errc::store_changed: return "the store was restored, wiped or replaced";
    case errc::unavailable: return "the store cannot be reached";
    case errc::timed_out: return "no answer in time";
    case errc::no_leader: return "the store has no leader";
    case errc::outcome_unknown: return "the write may or may not have been applied";
    case errc::too_many_requests: return "the store is overloaded";
    case errc::authentication_failed: return "wrong user name or password, or none";
    case errc::permission_denied: return "permission denied";
    case errc::invalid_token: return "the session token is no longer valid";
    case errc::authentication_disabled: return "authentication is not enabled in the store";
    case errc::too_large: return "the request is too large";
    case errc::out_of_space: return "the store has no space left";
    case errc::corrupt_store: return "the store is corrupt";
    case errc::bad_value: return "the stored value is not a service instance";
    case errc::bad_snapshot: return "the snapshot file cannot be used";
    case errc::protocol_error: return "the store broke the protocol";
    case errc::tls_failed: return "the TLS setup failed";
  }
  return "unknown registry error";
}

class ErrorCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "registry"; }
  std::string message(int value) const override {
    return std::string(errc_message(static_cast<errc>(value)));
  }
};

}  // namespace detail

/// The category of errc, named "registry".
inline const std::error_category& registry_category() noexcept {
  static const detail::Immortal<detail::ErrorCategory> category;
  return *category;
}

/// The code of an enumerator; std::error_code is made from an errc by it.
inline std::error_code make_error_code(errc code) noexcept {
  return std::error_code(static_cast<int>(code), registry_category());
}

}  // namespace registry

template <>
struct std::is_error_code_enum<registry::errc> : std::true_type {};

namespace registry {

/// Whether the same call may succeed later without anybody changing anything. False for codes of other
/// categories. A write that is tried again after an indeterminate code must be guarded (all of the library's
/// are).
inline bool is_retryable(std::error_code code) noexcept {
  if (code.category() != registry_category()) return false;
  switch (static_cast<errc>(code.value())) {
    case errc::unavailable:
    case errc::timed_out:
    case errc::no_leader:
    case errc::outcome_unknown:
    case errc::too_many_requests:
    case errc::invalid_token:
    case errc::lease_lost:
    case errc::compacted:
    case errc::future_revision:
    case errc::store_changed: return true;
    default: return false;
  }
}

/// Whether a failed write may have been applied all the same. True for outcome_unknown, and for a write that
/// its caller cancelled (operation_aborted): it may be on its way. Every other code of this
/// library says that nothing was applied.
inline bool is_indeterminate(std::error_code code) noexcept {
  // Asio's own category does not compare with the standard conditions.
  const bool aborted = code == std::errc::operation_canceled ||
                       (code.value() == static_cast<int>(std::errc::operation_canceled) &&
                        std::string_view(code.category().name()) == "asio.system");
  return aborted || code == errc::outcome_unknown;
}

namespace detail {

/// Throws std::system_error. `what` is data, not a format; bound and escape what comes from outside before.
[[noreturn]] inline void fail(errc code, const std::string& what) {
  throw std::system_error(make_error_code(code), what);
}

[[noreturn]] inline void fail(errc code) { throw std::system_error(make_error_code(code)); }

/// An error code with the words it came with, kept to be thrown later.
struct Problem : std::error_code {
  std::string words;

  Problem() {}
  Problem(std::error_code code) : std::error_code(code) {}        // NOLINT: stands for a code
  Problem(errc code) : std::error_code(make_error_code(code)) {}  // NOLINT
  explicit Problem(const std::system_error& error) : std::error_code(error.code()), words(error.what()) {
    // what() ends with the code's message, which will be added again.
    const std::string tail = ": " + message();
    if (words.size() >= tail.size() && words.compare(words.size() - tail.size(), tail.size(), tail) == 0) {
      words.resize(words.size() - tail.size());
    } else if (words == message()) {
      words.clear();
    }
  }

  void clear() noexcept {
    std::error_code::clear();
    words.clear();
  }

  [[noreturn]] void raise(const std::string& where = {}) const {
    const std::string joint = where.empty() || words.empty() ? "" : ": ";
    if (where.empty() && words.empty()) throw std::system_error(*this);
    throw std::system_error(*this, where + joint + words);
  }
};

}  // namespace detail
}  // namespace registry
