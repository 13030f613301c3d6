// What a thread needs to keep something shared for itself: a reference count of its own, and keys that are never used again.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace registry::detail {

/// The same object under a control block of its own: threads that copy and drop theirs touch no counter of each other's.
template <class T>
std::shared_ptr<T> own_count(std::shared_ptr<T> shared) {
  auto own = std::make_shared<const std::shared_ptr<T>>(std::move(shared));
  T* const object = own->get();
  return std::shared_ptr<T>(std::move(own), object);
}

/// A key for what threads remember of an object: unlike its address it is never used again. Never 0.
inline std::uint64_t new_key() noexcept {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

}  // namespace registry::detail
