// The faults themselves.
#include "soak/faults.hpp"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <utility>

#include "rig/process.hpp"
#include "soak/writers.hpp"

namespace soak {

using std::chrono::milliseconds;

namespace {

/// As the rig finds it.
std::string find_etcdctl() {
  if (const char* named = std::getenv("REGISTRY_ETCDCTL")) return rig::find_program(named);
  if (const char* etcd = std::getenv("REGISTRY_ETCD")) {
    const std::string path = rig::find_program(etcd);
    const std::string beside = rig::find_program(path.substr(0, path.rfind('/') + 1) + "etcdctl");
    if (!beside.empty()) return beside;
  }
  return rig::find_program("etcdctl");
}

rig::Way way_of(int way) { return way == 0 ? rig::Way::up : way == 1 ? rig::Way::down : rig::Way::both; }

}  // namespace

Faults::Faults(Stage& stage, rig::Cluster& cluster, std::vector<Client*> clients, rig::Oracle& oracle)
    : stage_(stage),
      cluster_(cluster),
      clients_(std::move(clients)),
      oracle_(oracle),
      etcd_(cluster.endpoints()),
      etcdctl_(find_etcdctl()) {
  etcd_.login("root", "root");
}

bool Faults::all_alive() { return cluster_.alive().size() == cluster_.size(); }

bool Faults::led_by_another(const rig::Etcd& member) {
  for (std::size_t i = 0; i < cluster_.size(); ++i) {
    rig::Etcd& each = cluster_[i];
    if (&each == &member || !each.running() || each.paused()) continue;
    try {
      if (each.is_leader()) return true;
    } catch (const std::exception&) {
      // It is just starting.
    }
  }
  return false;
}

void Faults::later(milliseconds at, std::string text, std::function<void()> action) {
  End end;
  end.action = std::move(action);
  end.text = std::move(text);
  ends_.emplace(at, std::move(end));
}

void Faults::step(milliseconds now, const Schedule& schedule) {
  while (!ends_.empty() && ends_.begin()->first <= now) {
    const End end = std::move(ends_.begin()->second);
    ends_.erase(ends_.begin());
    stage_.journal.line("end of " + end.text);
    end.action();
  }
  while (next_ < schedule.faults.size() && schedule.faults[next_].at <= now) {
    const Fault& fault = schedule.faults[next_++];
    try {
      begin(fault, now);
    } catch (const std::exception& error) {
      stage_.journal.line("fault " + fault.text() + " could not be: " + error.what());
      ++counts_["(not possible)"];
    }
  }
}

void Faults::begin(const Fault& fault, milliseconds now) {
  const auto say = [&](const std::string& more = {}) {
    stage_.journal.line("fault " + fault.text() + more);
    ++counts_[name_of(fault.kind)];
  };
  const auto skip = [&](const std::string& why) {
    stage_.journal.line("fault " + fault.text() + " skipped: " + why);
    ++counts_["(not possible)"];
  };
  rig::Gate& gate = *clients_.at(fault.client)->gates.at(fault.member);
  rig::Etcd& member = cluster_[fault.member];
  const auto pass_later = [&] { later(now + fault.lasts, fault.text(), [&gate] { gate.pass(); }); };
  switch (fault.kind) {
    case FaultKind::cut: say(), gate.cut(); break;
    case FaultKind::cut_after: say(), gate.cut_after(fault.bytes, way_of(fault.way)), pass_later(); break;
    case FaultKind::swallow: say(), gate.swallow(way_of(fault.way)), pass_later(); break;
    case FaultKind::hold: say(), gate.hold(way_of(fault.way)), pass_later(); break;
    case FaultKind::delay:
      say(), gate.delay(milliseconds(5 + fault.draw % 300), way_of(fault.way)), pass_later();
      break;
    case FaultKind::refuse: say(), gate.refuse(), pass_later(); break;
    case FaultKind::isolate: {
      auto& gates = clients_.at(fault.client)->gates;
      say();
      for (auto& each : gates) fault.way == 0 ? each->refuse() : each->swallow();
      later(now + fault.lasts, fault.text(), [this, &gates, fault] {
        // What happened meanwhile can then only be listed.
        if (fault.draw % 3 != 0) compact(oracle_.seen());
        for (auto& each : gates) each->pass();
      });
      break;
    }
    case FaultKind::pause: {
      if (!member.running() || member.paused()) return skip("it is away");
      const bool led = member.is_leader();
      say(), member.pause();
      later(now + fault.lasts, fault.text(), [this, &member, led] {
        Interference deposed;
        deposed.at = Clock::now();
        deposed.deposed = true;
        member.resume();
        if (led && led_by_another(member)) interference_.push_back(deposed);
      });
      break;
    }
    case FaultKind::kill:
    case FaultKind::terminate:
      if (!member.running() || member.paused()) return skip("it is away");
      say();
      if (fault.kind == FaultKind::kill)
        member.kill();
      else
        member.terminate(false);
      later(now + fault.lasts, fault.text(), [&member] {
        member.kill();
        member.start();
      });
      break;
    case FaultKind::move_leader:
      if (!all_alive()) return skip("a member is away");
      say(), cluster_.move_leader(fault.member);
      break;
    case FaultKind::compact: {
      // Never ahead of the oracle. Its watch goes on behind what it has seen.
      const std::int64_t to =
          oracle_.seen() - static_cast<std::int64_t>(fault.draw % 3 == 0 ? 0 : fault.draw % 200);
      if (!compact(to)) return skip("refused");
      say();
      break;
    }
    case FaultKind::expire_tokens: {
      if (!all_alive()) return skip("a member is away");
      rig::RunOptions options;
      options.input = "pw\n";
      options.env = {"ETCDCTL_API=3"};
      const auto done = rig::run({etcdctl_, "--endpoints=" + member.url(), "--user=root:root",
                                  "--command-timeout=2s", "user", "passwd", "svc", "--interactive=false"},
                                 options);
      if (!done.ok()) return skip(done.err + done.out);
      say();  // the same password, but all tokens of the user are void
      break;
    }
    case FaultKind::revoke_lease:
    case FaultKind::delete_key: {
      const auto found = some_registered_key(fault.draw);
      if (found.key.empty()) return skip("no key is registered");
      Interference what;
      what.at = Clock::now();
      bool done = false;
      if (fault.kind == FaultKind::revoke_lease) {
        what.lease = found.lease;
        interference_.push_back(what);  // also when nobody knows whether it was done
        done = etcd_.revoke(found.lease);
      } else {
        what.key = found.key;
        interference_.push_back(what);
        done = etcd_.del(found.key).has_value();
      }
      say((done ? " " : " (not confirmed) ") + found.key + " lease " + std::to_string(found.lease));
      break;
    }
  }
}

bool Faults::compact(std::int64_t to) {
  const bool done = to > 1 && etcd_.compact(to);
  stage_.journal.line("compaction to " + std::to_string(to) +
                      (done ? "" : ": " + etcd_.status().error_message()));
  return done;
}

rig::RawEvent Faults::some_registered_key(std::uint64_t draw) {
  if (cluster_.alive().size() * 2 <= cluster_.size()) return {};
  const auto& service = clients_.at(draw % clients_.size())->service();
  const auto keys = etcd_.list(key_of(service, ""));
  if (keys.empty()) return {};
  return keys[draw / 7 % keys.size()];
}

void Faults::lift() {
  for (auto& [at, end] : ends_) {
    stage_.journal.line("end of " + end.text);
    end.action();
  }
  ends_.clear();
  for (auto* client : clients_)
    for (auto& gate : client->gates) gate->pass();
  for (std::size_t i = 0; i < cluster_.size(); ++i) {
    if (cluster_[i].paused()) cluster_[i].resume();
    if (!cluster_[i].running()) cluster_[i].start();
  }
  cluster_.wait_ready();
}

}  // namespace soak
