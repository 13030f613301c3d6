// The seed of a random test: from REGISTRY_TEST_SEED, to repeat a run that failed, else a new one.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace rig {

/// Prints it, with the name of the test, for whoever wants to see the same again.
inline std::uint64_t test_seed(const char* test) {
  const char* const given = std::getenv("REGISTRY_TEST_SEED");
  const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::fprintf(stderr, "%s: REGISTRY_TEST_SEED=%llu\n", test, static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace rig
