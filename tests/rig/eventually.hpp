// Polling for a condition, with a deadline:
// `CHECK(rig::eventually([&] { return view_is_ready(); }, "the view is ready"));`
#pragma once

#include <chrono>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <thread>

namespace rig {

/// True as soon as the condition holds, false (and a line on stderr) when it does not within the deadline. A
/// condition that throws a std::exception does not hold yet: servers that are still away are asked again.
template <class Condition>
bool eventually(Condition&& condition, std::chrono::milliseconds deadline = std::chrono::seconds(10),
                std::string_view what = {}) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  std::string error;
  for (;;) {
    const bool last = std::chrono::steady_clock::now() >= end;
    try {
      if (condition()) return true;
      error.clear();
    } catch (const std::exception& e) {
      error = e.what();
    }
    if (last) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::cerr << "not within " << deadline.count() << " ms: " << (what.empty() ? "a condition" : what)
            << (error.empty() ? "" : "; last error: ") << error << std::endl;
  return false;
}

template <class Condition>
bool eventually(Condition&& condition, std::string_view what,
                std::chrono::milliseconds deadline = std::chrono::seconds(10)) {
  return eventually(condition, deadline, what);
}

}  // namespace rig
