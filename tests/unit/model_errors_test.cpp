// Error codes: each has a message of its own, and the two questions a caller asks about a code.
#include <doctest/doctest.h>

#include <cerrno>
#include <cstdlib>
#include <ostream>
#include <set>
#include <string>
#include <system_error>

#include "registry/model/errors.hpp"

using registry::errc;

TEST_CASE("errc: every code has a unique message, and codes end where last_errc says") {
  std::set<std::string> seen;
  const std::string unknown = registry::registry_category().message(0);
  for (int value = 1; value <= static_cast<int>(registry::last_errc); ++value) {
    const std::error_code code = static_cast<errc>(value);
    CAPTURE(value);
    CHECK_FALSE(code.message().empty());
    CHECK(code.message() != unknown);
    CHECK(seen.insert(code.message()).second);
  }
  CHECK(registry::registry_category().message(static_cast<int>(registry::last_errc) + 1) == unknown);
  CHECK(std::string(registry::registry_category().name()) == "registry");
}

TEST_CASE("errc: a thrown failure carries its code and its text") {
  try {
    registry::detail::fail(errc::conflict, "key /a/b/c");
    FAIL("did not throw");
  } catch (const std::system_error& error) {
    CHECK(error.code() == errc::conflict);
    CHECK(error.code() != errc::displaced);
    CHECK(std::string(error.what()).find("key /a/b/c") != std::string::npos);
  }
}

TEST_CASE("errc: what may be tried again, and what may have happened all the same") {
  for (const errc code :
       {errc::unavailable, errc::timed_out, errc::no_leader, errc::outcome_unknown, errc::too_many_requests,
        errc::store_changed, errc::compacted, errc::future_revision}) {
    CHECK_MESSAGE(registry::is_retryable(code), make_error_code(code).message());
  }
  for (const errc code : {errc::invalid_argument, errc::already_registered, errc::closed, errc::conflict,
                          errc::displaced, errc::unleased_key, errc::authentication_failed,
                          errc::permission_denied, errc::too_large, errc::out_of_space, errc::bad_snapshot}) {
    CHECK_MESSAGE(!registry::is_retryable(code), make_error_code(code).message());
  }
  for (int value = 1; value <= static_cast<int>(registry::last_errc); ++value) {
    const auto code = static_cast<errc>(value);
    CHECK(registry::is_indeterminate(code) == (code == errc::outcome_unknown));
  }
  // A cancelled write may be on its way; Asio's operation_aborted is this code.
  const std::error_code cancelled(ECANCELED, std::system_category());
  CHECK(registry::is_indeterminate(cancelled));
  CHECK_FALSE(registry::is_retryable(cancelled));
  CHECK_FALSE(registry::is_retryable({}));
  CHECK_FALSE(registry::is_indeterminate({}));
}

TEST_CASE("errors: a problem is thrown later with the words it came with, once") {
  const auto words = [](const std::system_error& error, const std::string& where) {
    try {
      registry::detail::Problem(error).raise(where);
    } catch (const std::system_error& again) {
      CHECK(again.code() == error.code());
      return std::string(again.what());
    }
  };
  const std::system_error plain(registry::make_error_code(errc::conflict));
  const std::system_error told(registry::make_error_code(errc::conflict), "etcd 127.0.0.1:2379: Txn");
  CHECK(words(plain, "") == "another owner holds the key");
  CHECK(words(told, "") == "etcd 127.0.0.1:2379: Txn: another owner holds the key");
  CHECK(words(told, "id = \"a\"") == "id = \"a\": etcd 127.0.0.1:2379: Txn: another owner holds the key");
  CHECK(words(plain, "id = \"a\"") == "id = \"a\": another owner holds the key");
}

// Threads of a static context run on until it is destroyed, and what they throw meanwhile needs its category. The
// destructor runs after the test, while the process exits: a crash there fails it.
TEST_CASE("errors: a category and its texts can be used until the process has ended") {
  static const struct UsedLast {
    ~UsedLast() {
      if (make_error_code(errc::closed).message().empty()) std::abort();
    }
  } used_last;  // made before the category is first used, so destroyed after what that makes
  CHECK_FALSE(make_error_code(errc::closed).message().empty());
}
