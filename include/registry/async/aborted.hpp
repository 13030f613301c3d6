// What a cancelled operation throws.
#pragma once

#include <asio/error.hpp>
#include <exception>
#include <system_error>

#include "registry/model/immortal.hpp"

namespace registry::detail {

/// A std::system_error with `operation_aborted`, made once: it asks Asio's error category for its text, and the
/// category is gone when a thread still cancels what runs while the process exits.
inline const std::exception_ptr& aborted() {
  static const Immortal<std::exception_ptr> made(
      std::make_exception_ptr(std::system_error(asio::error::operation_aborted)));
  return *made;
}

[[noreturn]] inline void throw_aborted() { std::rethrow_exception(aborted()); }

}  // namespace registry::detail
