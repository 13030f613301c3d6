// What every backend refuses in a commit before anything is sent.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "registry/model/errors.hpp"
#include "registry/model/kv.hpp"
#include "registry/model/text.hpp"

namespace registry::detail {

/// Throws `too_large` above the limits, `invalid_argument` for an empty or repeated key.
inline void check_commit(const std::vector<Write>& writes, const Limits& limits) {
  if (writes.size() > limits.writes) {
    fail(errc::too_large, std::to_string(writes.size()) + " writes in one commit");
  }
  std::size_t bytes = 0;
  std::unordered_set<std::string_view> keys;
  for (const Write& write : writes) {
    if (write.key.empty()) fail(errc::invalid_argument, "key = \"\": must not be empty");
    if (!keys.insert(write.key).second) {
      fail(errc::invalid_argument, "key = " + quote(write.key) + ": more than once in one commit");
    }
    bytes += write.key.size() + (write.value ? write.value->size() : 0);
  }
  if (bytes > limits.bytes) fail(errc::too_large, std::to_string(bytes) + " bytes in one commit");
}

}  // namespace registry::detail
