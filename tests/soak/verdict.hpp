// The table at the end: what should be, what was seen, and whether that is the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "rig/raw_etcd.hpp"
#include "soak/client.hpp"
#include "soak/faults.hpp"

namespace soak {

class Verdict {
 public:
  void add(std::string what, std::string expected, std::string seen, bool ok);
  /// `wrong` holds what is not as it should be.
  void none(const std::string& what, const std::vector<std::string>& wrong, const std::string& of = {});
  bool clean() const;
  void print() const;

 private:
  struct Row {
    std::string what, expected, seen;
    bool ok;
  };
  std::vector<Row> rows_;
};

/// What is in the store in the end.
struct Final {
  std::int64_t revision = 0;
  std::vector<rig::RawEvent> keys;
  std::vector<std::int64_t> leases;
};

/// At rest: everything that clients show against the final range. Empty when all of it agrees.
std::vector<std::string> disagreements(const std::vector<Client*>& clients, const Final& store);

/// Everything that clients saw on the way against the oracle.
/// Up to revision `end`, where the history ends: what comes later has no oracle.
void judge_logs(Verdict& verdict, const std::vector<Client*>& clients, const History& history,
                std::int64_t end, const KeyNames& names, Journal& journal);
void judge_registrations(Verdict& verdict, const std::vector<Client*>& clients, const History& history,
                         const std::vector<Interference>& interference, const KeyNames& names,
                         Journal& journal);
/// The oracle itself: its events lead to what is there.
/// `there`: the keys at the revision where the history ends.
std::string judge_oracle(const History& history, const std::vector<rig::RawEvent>& there, KeyNames& names);

}  // namespace soak
